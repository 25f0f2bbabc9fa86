// The bodies of OpenAI's chat/completions and Anthropic's messages.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/request_scanner.h"

namespace tollhouse::edge {
namespace {

using json::Inside;
using json::Token;
using json::Type;
using json::Value;

// Content within content (a tool result's parts, a document's parts); deeper is not looked into.
constexpr int kPartNestingMax = 4;

enum Field : int {
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
};

class ChatScanner final : public RequestScanner {
 public:
  using RequestScanner::RequestScanner;

 private:
  static constexpr FieldName kOpenAiFields[] = {
      {"model", kModel},
      {"stream", kStream},
      {"messages", kMessages},
      {"tools", kTools},
      {"metadata", kMetadata},
      {"max_tokens", kMaxTokens},
      {"service_tier", kServiceTier},
      {"cache_control", kCacheControl},
      {"mcp_servers", kMcpServers},
      {"background", kBackground},
      {"compound_custom", kCompoundCustom},
      {"max_completion_tokens", kMaxCompletionTokens},
      {"modalities", kModalities},
      {"models", kModels},
      {"n", kN},
      {"plugins", kPlugins},
      {"prediction", kPrediction},
      {"search_parameters", kSearchParameters},
      {"stream_options", kStreamOptions},
      {"web_search_options", kWebSearchOptions},
  };
  static constexpr FieldName kAnthropicFields[] = {
      {"model", kModel},
      {"stream", kStream},
      {"messages", kMessages},
      {"tools", kTools},
      {"metadata", kMetadata},
      {"max_tokens", kMaxTokens},
      {"service_tier", kServiceTier},
      {"cache_control", kCacheControl},
      {"container", kContainer},
      {"context_management", kContextManagement},
      {"fallbacks", kFallbacks},
      {"inference_geo", kInferenceGeo},
      {"mcp_servers", kMcpServers},
      {"speed", kSpeed},
      {"system", kSystem},
      {"thinking", kThinking},
  };

  bool openai() const { return facts_.endpoint == Endpoint::kChatCompletions; }

  std::span<const FieldName> Fields() const override {
    if (openai()) return kOpenAiFields;
    return kAnthropicFields;
  }

  absl::Status Known(int field, std::string_view name, Value& value) override {
    switch (field) {
      case kModel:
        return Model(value);
      case kStream: {
        TH_ASSIGN_OR_RETURN(facts_.stream, Bool(value, name));
        return absl::OkStatus();
      }
      case kStreamOptions:
        return StreamOptions(value);
      case kMaxTokens:
        return MaxTokens(value, name, &facts_.max_tokens_value);
      case kMaxCompletionTokens:
        return MaxTokens(value, name, &facts_.max_completion_tokens_value);
      case kN: {
        TH_ASSIGN_OR_RETURN(const auto choices, Whole(value, name, limits_.choices_max));
        facts_.choices = choices.value_or(1);
        return absl::OkStatus();
      }
      case kMetadata:
        return Metadata(value, name, !openai());
      case kMessages:
        return Messages(value);
      case kSystem:
        return Content(value, 1, 0);
      case kTools:
        return Tools(value);
      case kServiceTier:
        return openai()
                   ? ServiceTier(value, {"auto", "default", "flex", "scale", "priority", "fast"})
                   : ServiceTier(value, {"auto", "standard_only"});
      case kThinking:
        return Thinking(value);
      case kCacheControl:
        return CacheControl(value, 1);
      case kSpeed:
        return Multiplier(value, name, {"standard", "fast"}, &facts_.speed);
      case kInferenceGeo:
        return Multiplier(value, name, {"global", "us", "not_available", "default"},
                          &facts_.inference_geo);
      case kContextManagement:
        return ContextManagement(value);
      case kModalities:
        return Modalities(value);
      case kPrediction:
        return Prediction(value);
      default:  // what the others cost, no field of the body bounds
        return UnboundedUnlessEmpty(value, name);
    }
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
    if (type != Type::object)
      return BadRequest("WRONG_TYPE", "`thinking` must be an object", "thinking");
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

  // --- tools -------------------------------------------------------------------------------------
  absl::Status Tools(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::array) return BadRequest("WRONG_TYPE", "`tools` must be an array", "tools");
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
        return BadRequest("DUPLICATE_FIELD", "a tool gives `type` or `max_uses` twice", "tools");
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
    if (type != Type::array)
      return BadRequest("WRONG_TYPE", "`messages` must be an array", "messages");
    return EachElement(value, 1, [&](Value message) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type message_type, TypeOf(message));
      if (message_type != Type::object) {
        return BadRequest("WRONG_TYPE", "`messages` must be an array of objects", "messages");
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
      if (key == "file_id") return Reference(child, "file_id");
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
      ImageUrl(carrier.url, plain, item);
      return;
    }
    if (type == "input_audio") {
      if (carrier.data.empty()) {
        WindowBounded("input_audio without data");
        return;
      }
      InlineAudio(carrier.data, plain);
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

  // --- the whole ---------------------------------------------------------------------------------
  absl::Status CheckWhole() override {
    if (!seen(kModel)) return BadRequest("MISSING_FIELD", "`model` is missing", "model");
    if (!seen(kMessages)) return BadRequest("MISSING_FIELD", "`messages` is missing", "messages");
    if (facts_.endpoint == Endpoint::kMessages && !facts_.max_output_tokens.has_value()) {
      return BadRequest("MISSING_FIELD", "`max_tokens` is missing", "max_tokens");
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<RequestScanner> NewChatScanner(Endpoint endpoint, std::string_view body,
                                               const ScanLimits& limits) {
  return std::make_unique<ChatScanner>(endpoint, body, limits);
}

}  // namespace tollhouse::edge
