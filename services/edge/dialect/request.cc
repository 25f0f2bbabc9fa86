#include "services/edge/dialect/request.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/json.h"

namespace tollhouse::edge {
namespace {

using json::Inside;
using json::Token;
using json::Type;
using json::Value;

// A thread keeps a parser for bodies up to this size; larger ones are rare and their buffers big.
constexpr size_t kKeptCapacity = size_t{1} << 20;
// Content within content (a tool result's parts, a document's parts); deeper is not looked into.
constexpr int kPartNestingMax = 4;
// How much of an inline image is unescaped to find its size.
constexpr size_t kImageHeaderBytes = size_t{256} << 10;

// Top-level fields that decide what a request costs. Each may be there once, spelled exactly so.
enum class Field {
  kModel,
  kStream,
  kStreamOptions,
  kMaxTokens,
  kMaxCompletionTokens,
  kN,
  kMetadata,
  kMessages,
  kSystem,
  kTools,
  kServiceTier,
  kThinking,
  kCacheControl,
  kSpeed,
  kInferenceGeo,
  kMcpServers,
  kContainer,
  kFallbacks,
  kContextManagement,
  kModalities,
  kPrediction,
  kWebSearchOptions,
  kSearchParameters,
  kPlugins,
  kModels,
  kCompoundCustom,
  kBackground,
  kCount,
};

constexpr int kOpenAi = 1;
constexpr int kAnthropic = 2;

struct FieldName {
  std::string_view name;
  Field field;
  int dialects;
};

constexpr FieldName kFields[] = {
    {"model", Field::kModel, kOpenAi | kAnthropic},
    {"stream", Field::kStream, kOpenAi | kAnthropic},
    {"messages", Field::kMessages, kOpenAi | kAnthropic},
    {"tools", Field::kTools, kOpenAi | kAnthropic},
    {"metadata", Field::kMetadata, kOpenAi | kAnthropic},
    {"max_tokens", Field::kMaxTokens, kOpenAi | kAnthropic},
    {"service_tier", Field::kServiceTier, kOpenAi | kAnthropic},
    {"cache_control", Field::kCacheControl, kOpenAi | kAnthropic},
    {"container", Field::kContainer, kAnthropic},
    {"context_management", Field::kContextManagement, kAnthropic},
    {"fallbacks", Field::kFallbacks, kAnthropic},
    {"inference_geo", Field::kInferenceGeo, kAnthropic},
    {"mcp_servers", Field::kMcpServers, kOpenAi | kAnthropic},
    {"speed", Field::kSpeed, kAnthropic},
    {"system", Field::kSystem, kAnthropic},
    {"thinking", Field::kThinking, kAnthropic},
    {"background", Field::kBackground, kOpenAi},
    {"compound_custom", Field::kCompoundCustom, kOpenAi},
    {"max_completion_tokens", Field::kMaxCompletionTokens, kOpenAi},
    {"modalities", Field::kModalities, kOpenAi},
    {"models", Field::kModels, kOpenAi},
    {"n", Field::kN, kOpenAi},
    {"plugins", Field::kPlugins, kOpenAi},
    {"prediction", Field::kPrediction, kOpenAi},
    {"search_parameters", Field::kSearchParameters, kOpenAi},
    {"stream_options", Field::kStreamOptions, kOpenAi},
    {"web_search_options", Field::kWebSearchOptions, kOpenAi},
};

absl::Status Bad(std::string_view reason, std::string_view message, std::string_view param = {}) {
  ErrorMetadata metadata;
  if (!param.empty()) metadata["param"] = std::string(param);
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message, metadata);
}

bool IsNull(Value& value) { return Token(value) == "null"; }

class Scanner {
 public:
  Scanner(Endpoint endpoint, std::string_view body, const ScanLimits& limits)
      : body_(body), limits_(limits) {
    facts_.endpoint = endpoint;
  }

  absl::StatusOr<RequestFacts> Run(json::Parser& parser, size_t capacity) {
    const size_t wanted = std::max(body_.size(), size_t{16} << 10);
    if (parser.capacity() < wanted || parser.max_depth() < simdjson_depth()) {
      size_t rounded = size_t{16} << 10;
      while (rounded < wanted) rounded *= 2;
      if (parser.allocate(rounded, simdjson_depth()) != simdjson::SUCCESS) {
        return MakeError(absl::StatusCode::kResourceExhausted, "BODY_TOO_LARGE",
                         "there is no memory to read the request body");
      }
    }
    json::Document document;
    auto error = parser.iterate(body_.data(), body_.size(), capacity).get(document);
    if (error != simdjson::SUCCESS) return NotJson(error);
    Type type;
    if (error = document.type().get(type); error != simdjson::SUCCESS) return NotJson(error);
    if (type != Type::object) return Bad("NOT_AN_OBJECT", "the request body must be a JSON object");
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
      return Bad("NOT_JSON", "the request body has something behind its JSON object");
    }
    TH_RETURN_IF_ERROR(CheckWhole());
    facts_.text_bytes = static_cast<int64_t>(body_.size()) - media_bytes_;
    return std::move(facts_);
  }

  size_t simdjson_depth() const { return static_cast<size_t>(limits_.depth_max) + 8; }

 private:
  bool openai() const { return DialectOf(facts_.endpoint) == common::v1::DIALECT_OPENAI; }

  absl::Status NotJson(simdjson::error_code error) const {
    if (error == simdjson::UTF8_ERROR) {
      return Bad("NOT_JSON", "the request body is not valid UTF-8");
    }
    if (error == simdjson::DEPTH_ERROR) return TooDeep();
    return Bad("NOT_JSON", "the request body is not valid JSON");
  }

  absl::Status TooDeep() const {
    return Bad("TOO_DEEP", absl::StrCat("the request body is nested deeper than ",
                                        limits_.depth_max, " levels"));
  }

  Span SpanOf(std::string_view token) const {
    return {static_cast<size_t>(token.data() - body_.data()), token.size()};
  }

  // Calls visit(key, value) for each member. Not an object: NOT_JSON.
  template <typename Visit>
  absl::Status EachField(Value& value, int depth, Visit visit) {
    if (depth >= limits_.depth_max) return TooDeep();
    json::Object object;
    if (auto error = value.get_object().get(object); error != simdjson::SUCCESS) {
      return NotJson(error);
    }
    for (auto result : object) {
      simdjson::ondemand::field field;
      if (auto error = std::move(result).get(field); error != simdjson::SUCCESS)
        return NotJson(error);
      const auto key = json::KeyOf(field);
      if (!key.has_value())
        return Bad("NOT_JSON", "the request body has an invalid escape in a key");
      TH_RETURN_IF_ERROR(visit(*key, field.value()));
    }
    return absl::OkStatus();
  }

  template <typename Visit>
  absl::Status EachElement(Value& value, int depth, Visit visit) {
    if (depth >= limits_.depth_max) return TooDeep();
    json::Array array;
    if (auto error = value.get_array().get(array); error != simdjson::SUCCESS)
      return NotJson(error);
    for (auto result : array) {
      Value element;
      if (auto error = std::move(result).get(element); error != simdjson::SUCCESS) {
        return NotJson(error);
      }
      TH_RETURN_IF_ERROR(visit(element));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Type> TypeOf(Value& value) {
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

  // Visits everything below a value: it is valid JSON, and where it says cache_control we know.
  absl::Status Walk(Value value, int depth) {
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

  absl::Status CacheControl(Value value, int depth) {
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

  static void Note(std::vector<std::string>& features, std::string feature) {
    if (features.size() >= 32) return;
    if (std::find(features.begin(), features.end(), feature) == features.end()) {
      features.push_back(std::move(feature));
    }
  }
  void Unbounded(std::string feature) { Note(facts_.unbounded_features, std::move(feature)); }
  void WindowBounded(std::string feature) {
    Note(facts_.window_bounded_features, std::move(feature));
  }

  // --- scalars -----------------------------------------------------------------------------------
  absl::StatusOr<std::string> String(Value& value, std::string_view param) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::string) {
      return Bad("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be a string"), param);
    }
    std::string_view text;
    if (auto error = value.get_string().get(text); error != simdjson::SUCCESS)
      return NotJson(error);
    return std::string(text);
  }

  // A boolean; null counts as absent (false).
  absl::StatusOr<bool> Bool(Value& value, std::string_view param) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return false;
    if (type != Type::boolean) {
      return Bad("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be true or false"), param);
    }
    return Token(value) == "true";
  }

  // A whole number from 1 to max; null counts as absent.
  absl::StatusOr<std::optional<int64_t>> Whole(Value& value, std::string_view param, int64_t max) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return std::optional<int64_t>();
    const std::string_view token = Token(value);
    if (type != Type::number) {
      return Bad("WRONG_TYPE", absl::StrCat("`", Absl(param), "` must be a whole number"), param);
    }
    if (token.find_first_of(".eE") != std::string_view::npos) {
      return Bad("WRONG_TYPE",
                 absl::StrCat("`", Absl(param), "` must be a whole number, not ", Shown(token)),
                 param);
    }
    const auto number = json::IntegerOf(token);
    if (!number.has_value() || *number < 1 || *number > max) {
      return Bad(
          "OUT_OF_RANGE",
          absl::StrCat("`", Absl(param), "` must be from 1 to ", max, ", not ", Shown(token)),
          param);
    }
    return number;
  }

  static std::string Shown(std::string_view token) { return std::string(token.substr(0, 40)); }

  // --- top level ---------------------------------------------------------------------------------
  absl::Status TopLevel(std::string_view key, Value value) {
    const int dialect = openai() ? kOpenAi : kAnthropic;
    for (const FieldName& known : kFields) {
      if (known.name.size() != key.size() || (known.dialects & dialect) == 0) continue;
      if (known.name == key) {
        bool& seen = seen_[static_cast<size_t>(known.field)];
        if (seen) {
          return Bad("DUPLICATE_FIELD", absl::StrCat("`", Absl(key), "` is given twice"),
                     known.name);
        }
        seen = true;
        return Known(known.field, known.name, value);
      }
      // Some servers match keys without regard to case and would read another value than we do.
      if (absl::EqualsIgnoreCase(Absl(known.name), Absl(key))) {
        return Bad("DUPLICATE_FIELD",
                   absl::StrCat("`", Absl(key), "` must be spelled `", Absl(known.name), "`"),
                   known.name);
      }
    }
    return Walk(value, 1);
  }

  absl::Status Known(Field field, std::string_view name, Value& value) {
    switch (field) {
      case Field::kModel:
        return Model(value);
      case Field::kStream: {
        TH_ASSIGN_OR_RETURN(facts_.stream, Bool(value, name));
        return absl::OkStatus();
      }
      case Field::kStreamOptions:
        return StreamOptions(value);
      case Field::kMaxTokens:
        return MaxTokens(value, name, &facts_.max_tokens_value);
      case Field::kMaxCompletionTokens:
        return MaxTokens(value, name, &facts_.max_completion_tokens_value);
      case Field::kN: {
        TH_ASSIGN_OR_RETURN(const auto choices, Whole(value, name, limits_.choices_max));
        facts_.choices = choices.value_or(1);
        return absl::OkStatus();
      }
      case Field::kMetadata:
        return Metadata(value);
      case Field::kMessages:
        return Messages(value);
      case Field::kSystem:
        return Content(value, 1, 0);
      case Field::kTools:
        return Tools(value);
      case Field::kServiceTier:
        return ServiceTier(value);
      case Field::kThinking:
        return Thinking(value);
      case Field::kCacheControl:
        return CacheControl(value, 1);
      case Field::kSpeed:
        return Multiplier(value, name, {"standard", "fast"}, &facts_.speed);
      case Field::kInferenceGeo:
        return Multiplier(value, name, {"global", "us", "not_available", "default"},
                          &facts_.inference_geo);
      case Field::kContextManagement:
        return ContextManagement(value);
      case Field::kModalities:
        return Modalities(value);
      case Field::kPrediction:
        return Prediction(value);
      case Field::kMcpServers:
      case Field::kContainer:
      case Field::kFallbacks:
      case Field::kWebSearchOptions:
      case Field::kSearchParameters:
      case Field::kPlugins:
      case Field::kModels:
      case Field::kCompoundCustom:
      case Field::kBackground:
        return UnboundedUnlessEmpty(value, name);
      case Field::kCount:
        break;
    }
    return Walk(value, 1);
  }

  absl::Status Model(Value& value) {
    facts_.model_value = SpanOf(Token(value));
    TH_ASSIGN_OR_RETURN(facts_.model, String(value, "model"));
    if (facts_.model.empty()) return Bad("OUT_OF_RANGE", "`model` must not be empty", "model");
    if (facts_.model.size() > limits_.model_bytes_max) {
      return Bad("OUT_OF_RANGE",
                 absl::StrCat("`model` is longer than ", limits_.model_bytes_max, " bytes"),
                 "model");
    }
    for (const unsigned char c : facts_.model) {
      if (c <= ' ' || c == 0x7f) {
        return Bad("OUT_OF_RANGE", "`model` has white space or control characters", "model");
      }
    }
    return absl::OkStatus();
  }

  absl::Status MaxTokens(Value& value, std::string_view name, Span* span) {
    *span = SpanOf(Token(value));
    TH_ASSIGN_OR_RETURN(const auto declared, Whole(value, name, limits_.output_tokens_max));
    if (declared.has_value()) {
      facts_.max_output_tokens = std::max(facts_.max_output_tokens.value_or(0), *declared);
    }
    return absl::OkStatus();
  }

  absl::Status StreamOptions(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    const std::string_view token = Token(value);
    facts_.stream_options_value = SpanOf(token);
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::object) {
      return Bad("WRONG_TYPE", "`stream_options` must be an object", "stream_options");
    }
    facts_.stream_options_open = SpanOf(token.substr(0, 1));
    facts_.stream_options_empty = true;
    return EachField(value, 1, [&](std::string_view key, Value child) -> absl::Status {
      facts_.stream_options_empty = false;
      if (key != "include_usage") return Walk(child, 2);
      if (facts_.include_usage_value.present()) {
        return Bad("DUPLICATE_FIELD", "`stream_options.include_usage` is given twice",
                   "stream_options.include_usage");
      }
      facts_.include_usage_value = SpanOf(Token(child));
      TH_ASSIGN_OR_RETURN(facts_.include_usage, Bool(child, "stream_options.include_usage"));
      return absl::OkStatus();
    });
  }

  absl::Status Metadata(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::object) return Bad("WRONG_TYPE", "`metadata` must be an object", "metadata");
    const size_t start = SpanOf(Token(value)).offset;
    size_t end = start + 1;
    TH_RETURN_IF_ERROR(EachField(value, 1, [&](std::string_view key, Value child) {
      const std::string_view token = Token(child);
      end = SpanOf(token).offset + token.size();
      return MetadataEntry(key, child, token);
    }));
    // Entries are scalars, so that only white space stands between the last one and the brace.
    while (body_[end] != '}') ++end;
    facts_.metadata_value = {start, end + 1 - start};
    return absl::OkStatus();
  }

  absl::Status MetadataEntry(std::string_view key, Value& value, std::string_view token) {
    const std::string param = absl::StrCat("metadata.", Absl(key.substr(0, 64)));
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::object || type == Type::array) {
      return Bad("BAD_METADATA", "values of `metadata` must be strings", param);
    }
    if (!openai() && key == "user_id") {
      if (facts_.user_id_value.present()) {
        return Bad("DUPLICATE_FIELD", "`metadata.user_id` is given twice", param);
      }
      facts_.user_id_value = SpanOf(token);
      if (type == Type::string) {
        TH_ASSIGN_OR_RETURN(facts_.user_id, String(value, param));
      }
      return absl::OkStatus();
    }
    facts_.metadata_foreign = true;
    if (key.empty() || key.size() > limits_.metadata_key_bytes_max) {
      return Bad(
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
      return Bad("BAD_METADATA",
                 absl::StrCat("values of `metadata` have at most ",
                              limits_.metadata_value_bytes_max, " bytes"),
                 param);
    }
    if (!facts_.metadata.emplace(std::move(name), std::move(text)).second) {
      return Bad("DUPLICATE_FIELD", absl::StrCat("`", param, "` is given twice"), param);
    }
    if (facts_.metadata.size() > limits_.metadata_entries_max) {
      return Bad(
          "BAD_METADATA",
          absl::StrCat("`metadata` has more than ", limits_.metadata_entries_max, " entries"),
          "metadata");
    }
    return absl::OkStatus();
  }

  absl::Status ServiceTier(Value& value) {
    if (IsNull(value)) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(facts_.service_tier, String(value, "service_tier"));
    static constexpr std::string_view kOpenAiTiers[] = {"auto",  "default",  "flex",
                                                        "scale", "priority", "fast"};
    static constexpr std::string_view kAnthropicTiers[] = {"auto", "standard_only"};
    const bool known = openai() ? std::find(std::begin(kOpenAiTiers), std::end(kOpenAiTiers),
                                            facts_.service_tier) != std::end(kOpenAiTiers)
                                : std::find(std::begin(kAnthropicTiers), std::end(kAnthropicTiers),
                                            facts_.service_tier) != std::end(kAnthropicTiers);
    if (!known) Unbounded(absl::StrCat("service_tier=", facts_.service_tier.substr(0, 40)));
    if (facts_.service_tier == "fast") facts_.service_tier = "priority";
    return absl::OkStatus();
  }

  // A field that multiplies the price; values without a known multiplier are not bounded.
  absl::Status Multiplier(Value& value, std::string_view name,
                          std::initializer_list<std::string_view> known, std::string* out) {
    if (IsNull(value)) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(*out, String(value, name));
    if (std::find(known.begin(), known.end(), *out) == known.end()) {
      Unbounded(absl::StrCat(Absl(name), "=", out->substr(0, 40)));
    }
    return absl::OkStatus();
  }

  absl::Status Thinking(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::object) return Bad("WRONG_TYPE", "`thinking` must be an object", "thinking");
    return EachField(value, 1, [&](std::string_view key, Value child) -> absl::Status {
      if (key != "budget_tokens") return Walk(child, 2);
      TH_ASSIGN_OR_RETURN(facts_.thinking_budget,
                          Whole(child, "thinking.budget_tokens", limits_.output_tokens_max));
      return absl::OkStatus();
    });
  }

  // Clearing edits only shrink the input; anything else (compaction) runs passes of its own.
  absl::Status ContextManagement(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, 1);
    return EachField(value, 1, [&](std::string_view key, Value child) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type child_type, TypeOf(child));
      if (key != "edits" || child_type != Type::array) {
        if (child_type != Type::null) Unbounded("context_management");
        return Walk(child, 2);
      }
      return EachElement(child, 2, [&](Value edit) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const Type edit_type, TypeOf(edit));
        if (edit_type != Type::object) return Walk(edit, 3);
        bool clears = false;
        TH_RETURN_IF_ERROR(EachField(edit, 3, [&](std::string_view name, Value member) {
          if (name == "type") clears = Token(member).substr(0, 7) == "\"clear_";
          return Walk(member, 4);
        }));
        if (!clears) Unbounded("context_management");
        return absl::OkStatus();
      });
    });
  }

  absl::Status Modalities(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) return Walk(value, 1);
    return EachElement(value, 1, [&](Value element) {
      const std::string_view token = Token(element);
      if (token != "\"audio\"" && token != "\"text\"") {
        Unbounded(absl::StrCat("modalities=", Absl(Inside(token).substr(0, 40))));
      }
      return Walk(element, 2);
    });
  }

  // Predicted tokens that the answer does not contain are billed as output on top of it.
  absl::Status Prediction(Value& value) {
    const size_t start = SpanOf(Token(value)).offset;
    if (IsNull(value)) return absl::OkStatus();
    TH_RETURN_IF_ERROR(Walk(value, 1));
    facts_.predicted_bytes = static_cast<int64_t>(body_.size() - start);  // at most
    return absl::OkStatus();
  }

  absl::Status UnboundedUnlessEmpty(Value& value, std::string_view name) {
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

  // --- tools -------------------------------------------------------------------------------------
  absl::Status Tools(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::array) return Bad("WRONG_TYPE", "`tools` must be an array", "tools");
    return EachElement(value, 1, [&](Value tool) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type tool_type, TypeOf(tool));
      if (tool_type != Type::object) return Walk(tool, 2);
      std::string kind;
      std::optional<int64_t> max_uses;
      bool repeated = false;
      bool has_kind = false;
      bool has_uses = false;
      TH_RETURN_IF_ERROR(EachField(tool, 2, [&](std::string_view key, Value child) -> absl::Status {
        if (key == "type") {
          repeated |= std::exchange(has_kind, true);
          if (IsNull(child)) return absl::OkStatus();
          TH_ASSIGN_OR_RETURN(kind, String(child, "tools.type"));
          return absl::OkStatus();
        }
        if (key == "max_uses") {
          repeated |= std::exchange(has_uses, true);
          TH_ASSIGN_OR_RETURN(max_uses, Whole(child, "tools.max_uses", 1'000'000));
          return absl::OkStatus();
        }
        if (key == "cache_control") return CacheControl(child, 3);
        return Walk(child, 3);
      }));
      if (repeated)
        return Bad("DUPLICATE_FIELD", "a tool gives `type` or `max_uses` twice", "tools");
      NoteTool(kind, max_uses);
      return absl::OkStatus();
    });
  }

  void NoteTool(std::string_view kind, std::optional<int64_t> max_uses) {
    const auto starts = [&](std::string_view prefix) {
      return kind.substr(0, prefix.size()) == prefix;
    };
    if (openai()) {
      if (!kind.empty() && kind != "function" && kind != "custom") {
        Unbounded(absl::StrCat("tools.", Absl(kind.substr(0, 60))));
      }
      return;
    }
    if (kind.empty() || kind == "custom") return;
    if (starts("bash_") || starts("text_editor_") || starts("computer_") || starts("memory_")) {
      ++facts_.client_tool_prompts;
      return;
    }
    const bool search = starts("web_search_");
    if ((search || starts("web_fetch_")) && max_uses.has_value()) {
      facts_.server_tool_uses += *max_uses;
      if (search) facts_.web_search_calls += *max_uses;
      return;
    }
    Unbounded(absl::StrCat("tools.", Absl(kind.substr(0, 60)),
                           search || starts("web_fetch_") ? " without max_uses" : ""));
  }

  // --- messages and their content ----------------------------------------------------------------
  absl::Status Messages(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) return Bad("WRONG_TYPE", "`messages` must be an array", "messages");
    return EachElement(value, 1, [&](Value message) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type message_type, TypeOf(message));
      if (message_type != Type::object) {
        return Bad("WRONG_TYPE", "`messages` must be an array of objects", "messages");
      }
      return EachField(message, 2, [&](std::string_view key, Value child) -> absl::Status {
        if (key == "content") return Content(child, 3, 0);
        if (key == "cache_control") return CacheControl(child, 3);
        // An earlier spoken answer, by its id: its tokens are not in the body.
        if (openai() && key == "audio" && !IsNull(child)) WindowBounded("messages.audio");
        return Walk(child, 3);
      });
    });
  }

  absl::Status Content(Value& value, int depth, int nesting) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::object && nesting < kPartNestingMax) return Part(value, depth, nesting);
    if (type != Type::array) return Walk(value, depth);
    if (nesting >= kPartNestingMax) {
      WindowBounded("nested content");
      return Walk(value, depth);
    }
    return EachElement(value, depth, [&](Value part) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type part_type, TypeOf(part));
      if (part_type != Type::object) return Walk(part, depth + 1);
      return Part(part, depth + 1, nesting);
    });
  }

  // What a part's carrier of data (source, image_url, input_audio, file) says.
  struct Carrier {
    int members_named_alike = 0;  // a field given twice: servers may read the other one
    std::string_view type;        // inside of string tokens
    std::string_view url;
    std::string_view data;
    std::string_view media_type;
    std::string_view detail;
    bool present = false;
    bool nested_content = false;
    bool url_only = false;  // image_url given as a plain string
  };

  absl::Status Part(Value& part, int depth, int nesting) {
    std::string_view type;
    Carrier carrier;
    int types = 0;
    int carriers = 0;
    TH_RETURN_IF_ERROR(
        EachField(part, depth, [&](std::string_view key, Value child) -> absl::Status {
          if (key == "type") {
            ++types;
            type = Inside(Token(child));
            return Walk(child, depth + 1);
          }
          if (key == "cache_control") return CacheControl(child, depth + 1);
          if (key == "content") return Content(child, depth + 1, nesting + 1);
          const bool carries = openai()
                                   ? key == "image_url" || key == "input_audio" || key == "file"
                                   : key == "source";
          if (!carries) return Walk(child, depth + 1);
          ++carriers;
          return ReadCarrier(child, depth + 1, nesting, &carrier);
        }));
    const bool plain = types <= 1 && carriers <= 1 && carrier.members_named_alike == 0;
    openai() ? NoteOpenAiPart(type, carrier, plain) : NoteAnthropicPart(type, carrier, plain);
    return absl::OkStatus();
  }

  absl::Status ReadCarrier(Value& value, int depth, int nesting, Carrier* carrier) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    carrier->present = type != Type::null;
    if (type == Type::string) {
      carrier->url = Inside(Token(value));
      carrier->url_only = true;
      return absl::OkStatus();
    }
    if (type != Type::object) return Walk(value, depth);
    return EachField(value, depth, [&](std::string_view key, Value child) -> absl::Status {
      if (key == "content") {
        carrier->nested_content = true;
        return Content(child, depth + 1, nesting + 1);
      }
      std::string_view* slot = key == "type"         ? &carrier->type
                               : key == "url"        ? &carrier->url
                               : key == "data"       ? &carrier->data
                               : key == "media_type" ? &carrier->media_type
                               : key == "detail"     ? &carrier->detail
                                                     : nullptr;
      if (slot != nullptr) {
        if (slot->data() != nullptr) ++carrier->members_named_alike;
        const std::string_view token = Token(child);
        *slot = token.substr(0, 1) == "\"" ? Inside(token) : std::string_view("");
      }
      return Walk(child, depth + 1);
    });
  }

  void NoteOpenAiPart(std::string_view type, const Carrier& carrier, bool plain) {
    if (type == "image_url") {
      MediaItem item;
      item.detail = carrier.detail == "low"        ? MediaItem::Detail::kLow
                    : carrier.detail == "original" ? MediaItem::Detail::kOriginal
                    : carrier.detail.empty() || carrier.detail == "auto" || carrier.detail == "high"
                        ? MediaItem::Detail::kAuto
                        : MediaItem::Detail::kOriginal;
      const size_t comma = carrier.url.substr(0, 256).find(',');
      if (carrier.url.substr(0, 5) == "data:" && comma != std::string_view::npos) {
        const std::string_view head = carrier.url.substr(0, comma);
        // Some servers take PDFs and the like here.
        if (head.substr(0, 11) != "data:image/" || head.find(";base64") == std::string_view::npos) {
          WindowBounded("image_url that is no image");
          return;
        }
        InlineImage(carrier.url.substr(comma + 1), plain, &item);
      }
      facts_.media.push_back(item);
      return;
    }
    if (type == "input_audio") {
      if (carrier.data.empty()) {
        WindowBounded("input_audio without data");
        return;
      }
      MediaItem item;
      item.kind = MediaItem::Kind::kAudio;
      item.bytes = static_cast<int64_t>(carrier.data.size()) * 3 / 4;
      if (plain) media_bytes_ += static_cast<int64_t>(carrier.data.size());
      facts_.media.push_back(item);
      return;
    }
    if (type == "text" || type == "refusal" || type == "thinking" || type.empty()) return;
    WindowBounded(absl::StrCat("content.", Absl(type.substr(0, 60))));
  }

  void NoteAnthropicPart(std::string_view type, const Carrier& carrier, bool plain) {
    if (type == "image") {
      MediaItem item;
      if (carrier.type == "base64") InlineImage(carrier.data, plain, &item);
      facts_.media.push_back(item);
      return;
    }
    if (type == "document") {
      if (plain &&
          (carrier.type == "text" || (carrier.type == "content" && carrier.nested_content))) {
        return;
      }
      WindowBounded("document that is not plain text");
      return;
    }
    if (type == "container_upload") {
      Unbounded("content.container_upload");
      return;
    }
    static constexpr std::string_view kText[] = {
        "", "text", "tool_use", "tool_result", "thinking", "redacted_thinking", "search_result"};
    if (std::find(std::begin(kText), std::end(kText), type) == std::end(kText)) {
      WindowBounded(absl::StrCat("content.", Absl(type.substr(0, 60))));
    }
  }

  void InlineImage(std::string_view base64, bool plain, MediaItem* item) {
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

  // --- the whole ---------------------------------------------------------------------------------
  absl::Status CheckWhole() const {
    const auto seen = [&](Field field) { return seen_[static_cast<size_t>(field)]; };
    if (!seen(Field::kModel)) return Bad("MISSING_FIELD", "`model` is missing", "model");
    if (!seen(Field::kMessages)) return Bad("MISSING_FIELD", "`messages` is missing", "messages");
    if (facts_.endpoint == Endpoint::kMessages && !facts_.max_output_tokens.has_value()) {
      return Bad("MISSING_FIELD", "`max_tokens` is missing", "max_tokens");
    }
    return absl::OkStatus();
  }

  const std::string_view body_;
  const ScanLimits& limits_;
  RequestFacts facts_;
  int64_t media_bytes_ = 0;  // of the body, that are data of recognised media
  std::array<bool, static_cast<size_t>(Field::kCount)> seen_{};
};

}  // namespace

absl::StatusOr<RequestFacts> ScanRequest(Endpoint endpoint, std::string_view body,
                                         const ScanLimits& limits, size_t capacity) {
  if (body.size() > limits.body_bytes_max) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "BODY_TOO_LARGE",
        absl::StrCat("the request body is larger than ", limits.body_bytes_max, " bytes"));
  }
  if (std::all_of(body.begin(), body.begin() + std::min<size_t>(body.size(), 4096),
                  [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }) &&
      body.size() <= 4096) {
    return Bad("EMPTY_BODY", "the request body is empty; send a JSON object");
  }
  std::unique_ptr<char[]> copy;
  if (capacity < body.size() + kJsonPadding) {
    copy = std::make_unique<char[]>(body.size() + kJsonPadding);
    std::memcpy(copy.get(), body.data(), body.size());
    body = {copy.get(), body.size()};
    capacity = body.size() + kJsonPadding;
  }
  Scanner scanner(endpoint, body, limits);
  if (body.size() > kKeptCapacity) {
    json::Parser parser;
    return scanner.Run(parser, capacity);
  }
  thread_local json::Parser parser;
  return scanner.Run(parser, capacity);
}

std::string JsonKernel() { return simdjson::get_active_implementation()->name(); }

}  // namespace tollhouse::edge
