#include "services/edge/dialect/request_scanner.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

// How much of an inline image is unescaped to find its size.
constexpr size_t kImageHeaderBytes = size_t{256} << 10;

}  // namespace

using json::Inside;
using json::Token;
using json::Type;
using json::Value;

absl::Status BadRequest(std::string_view reason, std::string_view message, std::string_view param) {
  ErrorMetadata metadata;
  if (!param.empty()) metadata["param"] = std::string(param);
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message, metadata);
}

absl::StatusOr<RequestFacts> RequestScanner::Run(json::Parser& parser, size_t capacity) {
  const size_t wanted = std::max(body_.size(), size_t{16} << 10);
  if (parser.capacity() < wanted || parser.max_depth() < ParserDepth()) {
    size_t rounded = size_t{16} << 10;
    while (rounded < wanted) rounded *= 2;
    if (parser.allocate(rounded, ParserDepth()) != simdjson::SUCCESS) {
      return MakeError(absl::StatusCode::kResourceExhausted, "BODY_TOO_LARGE",
                       "there is no memory to read the request body");
    }
  }
  json::Document document;
  auto error = parser.iterate(body_.data(), body_.size(), capacity).get(document);
  if (error != simdjson::SUCCESS) return NotJson(error);
  Type type;
  if (error = document.type().get(type); error != simdjson::SUCCESS) return NotJson(error);
  if (type != Type::object)
    return BadRequest("NOT_AN_OBJECT", "the request body must be a JSON object");
  Value root;
  if (error = document.get_value().get(root); error != simdjson::SUCCESS) return NotJson(error);
  const std::string_view open = Token(root);
  facts_.body_open = {static_cast<size_t>(open.data() - body_.data()), 1};
  facts_.body_empty = true;
  TH_RETURN_IF_ERROR(EachField(root, 0, [&](std::string_view key, Value value) {
    facts_.body_empty = false;
    return TopLevel(key, value);
  }));
  if (document.current_location().error() != simdjson::OUT_OF_BOUNDS) {
    return BadRequest("NOT_JSON", "the request body has something behind its JSON object");
  }
  TH_RETURN_IF_ERROR(CheckWhole());
  facts_.text_bytes = static_cast<int64_t>(body_.size()) - media_bytes_;
  return std::move(facts_);
}

absl::Status RequestScanner::NotJson(simdjson::error_code error) const {
  if (error == simdjson::UTF8_ERROR) {
    return BadRequest("NOT_JSON", "the request body is not valid UTF-8");
  }
  if (error == simdjson::DEPTH_ERROR) return TooDeep();
  return BadRequest("NOT_JSON", "the request body is not valid JSON");
}

absl::Status RequestScanner::TooDeep() const {
  return BadRequest("TOO_DEEP", absl::StrCat("the request body is nested deeper than ",
                                             limits_.depth_max, " levels"));
}

absl::StatusOr<Type> RequestScanner::TypeOf(Value& value) {
  Type type;
  if (auto error = value.type().get(type); error != simdjson::SUCCESS) return NotJson(error);
  if (type == Type::object || type == Type::array) return type;
  const std::string_view token = Token(value);
  if (type == Type::string) {
    // simdjson would take a string before a colon for a key whose value was not asked for.
    const std::string_view whole = value.raw_json_token();
    if (*(whole.data() + whole.size()) == ':') return NotJson(simdjson::TAPE_ERROR);
  }
  const bool valid = type == Type::string    ? json::HasValidEscapes(Inside(token))
                     : type == Type::number  ? json::IsNumber(token)
                     : type == Type::boolean ? token == "true" || token == "false"
                                             : token == "null";
  if (!valid) return NotJson(simdjson::TAPE_ERROR);
  return type;
}

absl::Status RequestScanner::Walk(Value value, int depth) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::object) {
    return EachField(value, depth, [&](std::string_view key, Value child) {
      if (key == "cache_control") return CacheControl(child, depth + 1);
      return Walk(child, depth + 1);
    });
  }
  if (type == Type::array) {
    return EachElement(value, depth, [&](Value child) { return Walk(child, depth + 1); });
  }
  return absl::OkStatus();
}

absl::Status RequestScanner::CacheControl(Value value, int depth) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type != Type::object) return Walk(value, depth);
  bool five_minutes = true;
  TH_RETURN_IF_ERROR(EachField(value, depth, [&](std::string_view key, Value child) {
    if (key == "ttl" && Token(child) != "\"5m\"" && !IsNull(child)) five_minutes = false;
    return Walk(child, depth + 1);
  }));
  (five_minutes ? facts_.cache_write_5m : facts_.cache_write_1h) = true;
  return absl::OkStatus();
}

void RequestScanner::Note(std::vector<std::string>& features, std::string feature) {
  if (features.size() >= 32) return;
  if (std::find(features.begin(), features.end(), feature) == features.end()) {
    features.push_back(std::move(feature));
  }
}
absl::StatusOr<std::string> RequestScanner::String(Value& value, std::string_view param) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type != Type::string) {
    return BadRequest("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be a string"), param);
  }
  std::string_view text;
  if (auto error = value.get_string().get(text); error != simdjson::SUCCESS) return NotJson(error);
  return std::string(text);
}

absl::StatusOr<bool> RequestScanner::Bool(Value& value, std::string_view param) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::null) return false;
  if (type != Type::boolean) {
    return BadRequest("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be true or false"),
                      param);
  }
  return Token(value) == "true";
}

absl::StatusOr<std::optional<int64_t>> RequestScanner::Whole(Value& value, std::string_view param,
                                                             int64_t max, int64_t min) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::null) return std::optional<int64_t>();
  const std::string_view token = Token(value);
  if (type != Type::number) {
    return BadRequest("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be a whole number"),
                      param);
  }
  if (token.find_first_of(".eE") != std::string_view::npos) {
    return BadRequest(
        "WRONG_TYPE",
        absl::StrCat("`", Absl(param), "` must be a whole number, not ", Shown(token)), param);
  }
  const auto number = json::IntegerOf(token);
  if (!number.has_value() || *number < min || *number > max) {
    return BadRequest(
        "OUT_OF_RANGE",
        absl::StrCat("`", Absl(param), "` must be from ", min, " to ", max, ", not ", Shown(token)),
        param);
  }
  return number;
}

absl::Status RequestScanner::TopLevel(std::string_view key, Value value) {
  const std::span<const FieldName> fields = Fields();
  for (size_t i = 0; i < fields.size(); ++i) {
    const FieldName& known = fields[i];
    if (Names(key, known.name)) {
      if (named_[i]) {
        return BadRequest("DUPLICATE_FIELD", absl::StrCat("`", Absl(key), "` is given twice"),
                          known.name);
      }
      named_[i] = true;
      seen_[static_cast<size_t>(known.field)] = true;
      return Known(known.field, known.name, value);
    }
    // Some servers match keys without regard to case and would read another value than we do.
    if (known.name.size() == key.size() && absl::EqualsIgnoreCase(Absl(known.name), Absl(key))) {
      return BadRequest("DUPLICATE_FIELD",
                        absl::StrCat("`", Absl(key), "` must be spelled `", Absl(known.name), "`"),
                        known.name);
    }
  }
  return Walk(value, 1);
}

absl::Status RequestScanner::Model(Value& value) {
  facts_.model_value = SpanOf(Token(value));
  TH_ASSIGN_OR_RETURN(facts_.model, String(value, "model"));
  if (facts_.model.empty()) return BadRequest("OUT_OF_RANGE", "`model` must not be empty", "model");
  if (facts_.model.size() > limits_.model_bytes_max) {
    return BadRequest("OUT_OF_RANGE",
                      absl::StrCat("`model` is longer than ", limits_.model_bytes_max, " bytes"),
                      "model");
  }
  for (const unsigned char c : facts_.model) {
    if (c <= ' ' || c == 0x7f) {
      return BadRequest("OUT_OF_RANGE", "`model` has white space or control characters", "model");
    }
  }
  return absl::OkStatus();
}

absl::Status RequestScanner::MaxTokens(Value& value, std::string_view name, Span* span,
                                       int64_t min) {
  *span = SpanOf(Token(value));
  TH_ASSIGN_OR_RETURN(const auto declared, Whole(value, name, limits_.output_tokens_max, min));
  if (declared.has_value()) {
    facts_.max_output_tokens = std::max(facts_.max_output_tokens.value_or(0), *declared);
  }
  return absl::OkStatus();
}

absl::Status RequestScanner::StreamOptions(Value& value) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  const std::string_view token = Token(value);
  facts_.stream_options_value = SpanOf(token);
  if (type == Type::null) return absl::OkStatus();
  if (type != Type::object) {
    return BadRequest("WRONG_TYPE", "`stream_options` must be an object", "stream_options");
  }
  facts_.stream_options_open = SpanOf(token.substr(0, 1));
  facts_.stream_options_empty = true;
  return EachField(value, 1, [&](std::string_view key, Value child) -> absl::Status {
    facts_.stream_options_empty = false;
    if (key != "include_usage") return Walk(child, 2);
    if (facts_.include_usage_value.present()) {
      return BadRequest("DUPLICATE_FIELD", "`stream_options.include_usage` is given twice",
                        "stream_options.include_usage");
    }
    facts_.include_usage_value = SpanOf(Token(child));
    TH_ASSIGN_OR_RETURN(facts_.include_usage, Bool(child, "stream_options.include_usage"));
    return absl::OkStatus();
  });
}

absl::Status RequestScanner::Metadata(Value& value, std::string_view name, bool own_user_id) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::null) return absl::OkStatus();
  if (type != Type::object)
    return BadRequest("WRONG_TYPE", absl::StrCat("`", Absl(name), "` must be an object"), name);
  const size_t start = SpanOf(Token(value)).offset;
  size_t end = start + 1;
  TH_RETURN_IF_ERROR(EachField(value, 1, [&](std::string_view key, Value child) {
    const std::string_view token = Token(child);
    end = SpanOf(token).offset + token.size();
    return MetadataEntry(key, child, token, own_user_id);
  }));
  // Entries are scalars, so that only white space stands between the last one and the brace.
  while (body_[end] != '}') ++end;
  facts_.metadata_value = {start, end + 1 - start};
  return absl::OkStatus();
}

absl::Status RequestScanner::MetadataEntry(std::string_view key, Value& value,
                                           std::string_view token, bool own_user_id) {
  const std::string param = absl::StrCat("metadata.", Absl(key.substr(0, 64)));
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::object || type == Type::array) {
    return BadRequest("BAD_METADATA", "values of `metadata` must be strings", param);
  }
  if (own_user_id && key == "user_id") {
    if (facts_.user_id_value.present()) {
      return BadRequest("DUPLICATE_FIELD", "`metadata.user_id` is given twice", param);
    }
    facts_.user_id_value = SpanOf(token);
    if (type == Type::string) {
      TH_ASSIGN_OR_RETURN(facts_.user_id, String(value, param));
    }
    return absl::OkStatus();
  }
  facts_.metadata_foreign = true;
  if (key.empty() || key.size() > limits_.metadata_key_bytes_max) {
    return BadRequest(
        "BAD_METADATA",
        absl::StrCat("keys of `metadata` have 1 to ", limits_.metadata_key_bytes_max, " bytes"),
        param);
  }
  std::string name(key);
  std::string text(token);
  if (type == Type::string) {
    TH_ASSIGN_OR_RETURN(text, String(value, param));
  }
  if (text.size() > limits_.metadata_value_bytes_max) {
    return BadRequest("BAD_METADATA",
                      absl::StrCat("values of `metadata` have at most ",
                                   limits_.metadata_value_bytes_max, " bytes"),
                      param);
  }
  if (!facts_.metadata.emplace(std::move(name), std::move(text)).second) {
    return BadRequest("DUPLICATE_FIELD", absl::StrCat("`", param, "` is given twice"), param);
  }
  if (facts_.metadata.size() > limits_.metadata_entries_max) {
    return BadRequest(
        "BAD_METADATA",
        absl::StrCat("`metadata` has more than ", limits_.metadata_entries_max, " entries"),
        "metadata");
  }
  return absl::OkStatus();
}

absl::Status RequestScanner::ServiceTier(Value& value,
                                         std::initializer_list<std::string_view> known) {
  if (IsNull(value)) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(facts_.service_tier, String(value, "service_tier"));
  if (std::find(known.begin(), known.end(), facts_.service_tier) == known.end()) {
    Unbounded(absl::StrCat("service_tier=", facts_.service_tier.substr(0, 40)));
  }
  if (facts_.service_tier == "fast") facts_.service_tier = "priority";
  return absl::OkStatus();
}

absl::Status RequestScanner::UnboundedUnlessEmpty(Value& value, std::string_view name) {
  TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
  if (type == Type::array) {
    return EachElement(value, 1, [&](Value element) {
      Unbounded(std::string(name));
      return Walk(element, 2);
    });
  }
  if (type != Type::null && Token(value) != "false") Unbounded(std::string(name));
  return Walk(value, 1);
}

absl::Status RequestScanner::Reference(Value& value, std::string_view param) {
  if (IsNull(value)) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(std::string id, String(value, param));
  return AddReference(std::move(id), param);
}

absl::Status RequestScanner::AddReference(std::string id, std::string_view param) {
  if (id.empty() || id.size() > limits_.model_bytes_max) {
    return BadRequest("OUT_OF_RANGE", absl::StrCat("`", Absl(param), "` is not an id"), param);
  }
  if (facts_.object_refs.size() >= limits_.object_refs_max) {
    return BadRequest(
        "OUT_OF_RANGE",
        absl::StrCat("the request names more than ", limits_.object_refs_max, " stored objects"),
        param);
  }
  facts_.object_refs.push_back({std::string(param), std::move(id)});
  return absl::OkStatus();
}

void RequestScanner::ImageUrl(std::string_view url, bool plain, MediaItem item) {
  const size_t comma = url.substr(0, 256).find(',');
  if (url.substr(0, 5) == "data:" && comma != std::string_view::npos) {
    const std::string_view head = url.substr(0, comma);
    // Some servers take PDFs and the like here.
    if (head.substr(0, 11) != "data:image/" || head.find(";base64") == std::string_view::npos) {
      WindowBounded("image_url that is no image");
      return;
    }
    InlineImage(url.substr(comma + 1), plain, &item);
  }
  facts_.media.push_back(item);
}

void RequestScanner::InlineAudio(std::string_view base64, bool plain) {
  MediaItem item;
  item.kind = MediaItem::Kind::kAudio;
  item.bytes = static_cast<int64_t>(base64.size()) * 3 / 4;
  if (plain) media_bytes_ += static_cast<int64_t>(base64.size());
  facts_.media.push_back(item);
}

void RequestScanner::InlineImage(std::string_view base64, bool plain, MediaItem* item) {
  if (plain) media_bytes_ += static_cast<int64_t>(base64.size());
  item->bytes = static_cast<int64_t>(base64.size()) * 3 / 4;
  std::string unescaped;  // some encoders write "\/"
  if (base64.find('\\') != std::string_view::npos) {
    for (const char c : base64.substr(0, kImageHeaderBytes)) {
      if (c != '\\') unescaped.push_back(c);
    }
    base64 = unescaped;
  }
  const PixelSize size = ImageSizeOfBase64(base64);
  item->width = size.width;
  item->height = size.height;
}

}  // namespace tollhouse::edge
