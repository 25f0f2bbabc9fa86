// The bodies of OpenAI's responses and conversations.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/request_scanner.h"

namespace tollhouse::edge {
namespace {

using json::Inside;
using json::Token;
using json::Type;
using json::Value;

// Content within content (a tool's output, its parts); deeper is not looked into.
constexpr int kPartNestingMax = 4;

enum Field : int {
  kModel,
  kStream,
  kStreamOptions,
  kInput,
  kInstructions,
  kMaxOutputTokens,
  kMaxToolCalls,
  kTools,
  kMetadata,
  kServiceTier,
  kReasoning,
  kBackground,
  kPreviousResponse,
  kConversation,
  kStore,
  kUnbounded,
};

template <size_t kSize>
bool IsAnyOf(std::string_view name, const std::string_view (&names)[kSize]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class ResponsesScanner final : public RequestScanner {
 public:
  using RequestScanner::RequestScanner;

 private:
  static constexpr FieldName kResponseFields[] = {
      {"model", kModel},
      {"stream", kStream},
      {"stream_options", kStreamOptions},
      {"input", kInput},
      {"instructions", kInstructions},
      {"max_output_tokens", kMaxOutputTokens},
      {"max_tool_calls", kMaxToolCalls},
      {"tools", kTools},
      {"metadata", kMetadata},
      {"service_tier", kServiceTier},
      {"reasoning", kReasoning},
      {"background", kBackground},
      {"store", kStore},
      {"previous_response_id", kPreviousResponse},
      {"conversation", kConversation},
      // A stored prompt brings a model, tools and text of its own; compaction runs passes of its
      // own; the others are routers' ways of choosing models and searching.
      {"prompt", kUnbounded},
      {"context_management", kUnbounded},
      {"models", kUnbounded},
      {"plugins", kUnbounded},
      {"search_parameters", kUnbounded},
  };
  static constexpr FieldName kConversationFields[] = {{"items", kInput}, {"metadata", kMetadata}};

  std::span<const FieldName> Fields() const override {
    if (facts_.endpoint == Endpoint::kConversations) return kConversationFields;
    return kResponseFields;
  }

  absl::Status Known(int field, std::string_view name, Value& value) override {
    switch (field) {
      case kModel:
        return Model(value);
      case kStream: {
        TH_ASSIGN_OR_RETURN(facts_.stream, Bool(value, name));
        return absl::OkStatus();
      }
      case kInput:
      case kInstructions:
        return Items(value);
      case kMaxOutputTokens:
        return MaxTokens(value, name, &facts_.max_tokens_value);
      case kMaxToolCalls: {
        TH_ASSIGN_OR_RETURN(max_tool_calls_, Whole(value, name, 1'000'000, 0));
        return absl::OkStatus();
      }
      case kTools:
        return Tools(value);
      case kMetadata:
        return Metadata(value, name, false);
      case kServiceTier:
        return ServiceTier(value, {"auto", "default", "flex", "scale", "priority", "fast"});
      case kReasoning:
        return Reasoning(value);
      case kBackground: {
        TH_ASSIGN_OR_RETURN(const bool background, Bool(value, name));
        if (!background) return absl::OkStatus();
        return MakeError(absl::StatusCode::kPermissionDenied, "FEATURE_REFUSED",
                         "`background` answers are not offered here: what they cost is known only "
                         "long after the request. Leave it out, and stream if the answer is long",
                         {{"param", "background"}});
      }
      case kPreviousResponse:
        if (!IsNull(value)) WindowBounded("previous_response_id");
        return Reference(value, name);
      case kConversation:
        return Conversation(value);
      case kStore: {
        if (IsNull(value)) return absl::OkStatus();
        TH_ASSIGN_OR_RETURN(facts_.store, Bool(value, name));
        return absl::OkStatus();
      }
      case kStreamOptions:
        return Walk(value, 1);
      default:
        return UnboundedUnlessEmpty(value, name);
    }
  }

  absl::Status Conversation(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    WindowBounded("conversation");
    if (type != Type::object) return Reference(value, "conversation");
    return EachField(value, 1, [&](std::string_view key, Value child) {
      return key == "id" ? Reference(child, "conversation") : Walk(child, 2);
    });
  }

  absl::Status Reasoning(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, 1);
    return EachField(value, 1, [&](std::string_view key, Value child) {
      // "pro" runs the model several times, each on prompts of its own.
      if (key == "mode" && !IsNull(child) && Token(child) != "\"standard\"") {
        Unbounded(absl::StrCat("reasoning.mode=", Absl(Inside(Token(child)).substr(0, 40))));
      }
      return Walk(child, 2);
    });
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
      int kinds = 0;
      TH_RETURN_IF_ERROR(EachField(tool, 2, [&](std::string_view key, Value child) -> absl::Status {
        if (key == "type") {
          ++kinds;
          TH_ASSIGN_OR_RETURN(kind, String(child, "tools.type"));
          return absl::OkStatus();
        }
        if (key == "vector_store_ids") return References(child, "tools.vector_store_ids");
        if (key == "container") return Container(child);
        return Walk(child, 3);
      }));
      if (kinds > 1) return BadRequest("DUPLICATE_FIELD", "a tool gives `type` twice", "tools");
      NoteTool(kind);
      return absl::OkStatus();
    });
  }

  absl::Status References(Value& value, std::string_view param) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) return Walk(value, 3);
    return EachElement(value, 3, [&](Value id) { return Reference(id, param); });
  }

  // The id of a container, or how to make one.
  absl::Status Container(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::string) return Reference(value, "tools.container");
    if (type != Type::object) return Walk(value, 3);
    return EachField(value, 3, [&](std::string_view key, Value child) {
      return key == "file_ids" ? References(child, "tools.container.file_ids") : Walk(child, 4);
    });
  }

  void NoteTool(std::string_view kind) {
    static constexpr std::string_view kPlain[] = {"function", "custom"};
    static constexpr std::string_view kClient[] = {"local_shell", "apply_patch", "computer",
                                                   "computer_use_preview", "computer_use"};
    if (IsAnyOf(kind, kPlain)) return;
    if (IsAnyOf(kind, kClient)) {
      ++facts_.client_tool_prompts;
    } else if (absl::StartsWith(Absl(kind), "web_search")) {
      web_search_ = true;
    } else if (kind == "file_search") {
      file_search_ = true;
    } else if (kind == "code_interpreter") {
      code_interpreter_ = true;
    } else {
      Unbounded(absl::StrCat("tools.", Absl(kind.substr(0, 60))));
    }
  }

  // All built-in tools share max_tool_calls; any of them may be all of the calls.
  void BoundServerTools() {
    if (!web_search_ && !file_search_ && !code_interpreter_) return;
    if (!max_tool_calls_.has_value()) {
      Unbounded(absl::StrCat("tools.",
                             web_search_    ? "web_search"
                             : file_search_ ? "file_search"
                                            : "code_interpreter",
                             " without max_tool_calls"));
      return;
    }
    facts_.server_tool_uses = *max_tool_calls_;
    if (web_search_) facts_.web_search_calls = *max_tool_calls_;
    if (file_search_) facts_.file_search_calls = *max_tool_calls_;
    if (code_interpreter_) facts_.code_sessions = *max_tool_calls_;
  }

  // --- input -------------------------------------------------------------------------------------
  absl::Status Items(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) return Walk(value, 1);
    return EachElement(value, 1, [&](Value item) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type item_type, TypeOf(item));
      if (item_type != Type::object) return Walk(item, 2);
      return Part(item, 2, 0);
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

  // An item of the input, or a part of one's content or output.
  absl::Status Part(Value& part, int depth, int nesting) {
    std::string_view type;
    std::string_view image_url, detail, audio, id;
    int types = 0, images = 0, audios = 0;
    bool has_file = false;
    TH_RETURN_IF_ERROR(
        EachField(part, depth, [&](std::string_view key, Value child) -> absl::Status {
          const std::string_view token = Token(child);
          const bool text = token.substr(0, 1) == "\"";
          if (key == "type") {
            ++types;
            type = Inside(token);
          } else if (key == "content" || key == "output") {
            return Content(child, depth + 1, nesting + 1);
          } else if (key == "file_id") {
            return Reference(child, "file_id");
          } else if (key == "image_url" && text) {
            ++images;
            image_url = Inside(token);
          } else if (key == "detail" && text) {
            detail = Inside(token);
          } else if (key == "id" && text) {
            id = Inside(token);
          } else if (key == "input_audio") {
            return Audio(child, depth + 1, &audio, &audios);
          } else if (key == "file_data" || key == "file_url") {
            has_file = true;
          }
          return Walk(child, depth + 1);
        }));
    NotePart(type, image_url, detail, audio, types <= 1 && images <= 1 && audios <= 1);
    if (type == "item_reference") TH_RETURN_IF_ERROR(AddReference(std::string(id), "input.id"));
    if (has_file && type != "input_file") WindowBounded("a file");
    return absl::OkStatus();
  }

  absl::Status Audio(Value& value, int depth, std::string_view* data, int* count) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, depth);
    return EachField(value, depth, [&](std::string_view key, Value child) {
      const std::string_view token = Token(child);
      if (key == "data" && token.substr(0, 1) == "\"") {
        ++*count;
        *data = Inside(token);
      }
      return Walk(child, depth + 1);
    });
  }

  void NotePart(std::string_view type, std::string_view image_url, std::string_view detail,
                std::string_view audio, bool plain) {
    static constexpr std::string_view kText[] = {"",
                                                 "message",
                                                 "text",
                                                 "input_text",
                                                 "output_text",
                                                 "summary_text",
                                                 "refusal",
                                                 "reasoning_text",
                                                 "reasoning",
                                                 "function_call",
                                                 "function_call_output",
                                                 "custom_tool_call",
                                                 "custom_tool_call_output",
                                                 "local_shell_call",
                                                 "local_shell_call_output",
                                                 "apply_patch_call",
                                                 "apply_patch_call_output",
                                                 "compaction"};
    if (type == "input_image") {
      MediaItem item;
      item.detail = detail == "low" ? MediaItem::Detail::kLow
                    : detail.empty() || detail == "auto" || detail == "high"
                        ? MediaItem::Detail::kAuto
                        : MediaItem::Detail::kOriginal;
      ImageUrl(image_url, plain, item);
    } else if (type == "input_audio" && !audio.empty()) {
      InlineAudio(audio, plain);
    } else if (!IsAnyOf(type, kText)) {
      WindowBounded(absl::StrCat("input.", Absl(type.substr(0, 60))));
    }
  }

  absl::Status CheckWhole() override {
    if (facts_.endpoint == Endpoint::kConversations) return absl::OkStatus();
    if (!seen(kModel)) return BadRequest("MISSING_FIELD", "`model` is missing", "model");
    BoundServerTools();
    return absl::OkStatus();
  }

  std::optional<int64_t> max_tool_calls_;
  bool web_search_ = false;
  bool file_search_ = false;
  bool code_interpreter_ = false;
};

}  // namespace

std::unique_ptr<RequestScanner> NewResponsesScanner(Endpoint endpoint, std::string_view body,
                                                    const ScanLimits& limits) {
  return std::make_unique<ResponsesScanner>(endpoint, body, limits);
}

}  // namespace tollhouse::edge
