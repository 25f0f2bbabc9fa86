// Anthropic Messages: POST /v1/messages, POST /v1/messages/count_tokens, GET /v1/models with an
// anthropic-version header (https://docs.anthropic.com/en/api/messages).
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/json_text.h"
#include "tools/simprovider/tokens.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

absl::Status Bad(std::string_view message) { return absl::InvalidArgumentError(Absl(message)); }

std::string_view StopReason(Finish finish) {
  switch (finish) {
    case Finish::kLength:
      return "max_tokens";
    case Finish::kTool:
      return "tool_use";
    case Finish::kStop:
      break;
  }
  return "end_turn";
}

std::string_view ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 402:
      return "billing_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 504:
      return "timeout_error";
    case 529:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "api_error";
  }
}

// The counts of a usage object; input_tokens excludes what was read from or written to the cache.
std::string Counts(const Usage& usage) {
  std::string out = absl::StrCat(
      "\"input_tokens\":", usage.uncached(),
      ",\"cache_creation_input_tokens\":", usage.cache_write_5m + usage.cache_write_1h,
      ",\"cache_read_input_tokens\":", usage.cached, ",\"output_tokens\":", usage.output);
  if (usage.reasoning > 0) {
    absl::StrAppend(&out, ",\"output_tokens_details\":{\"thinking_tokens\":", usage.reasoning, "}");
  }
  return out;
}

std::string FullUsage(const Usage& usage) {
  return absl::StrCat("{", Counts(usage),
                      ",\"cache_creation\":{\"ephemeral_5m_input_tokens\":", usage.cache_write_5m,
                      ",\"ephemeral_1h_input_tokens\":", usage.cache_write_1h,
                      "},\"service_tier\":\"standard\"}");
}

std::string ToolUse(const Answer& answer, std::string_view input) {
  return absl::StrCat(
      "{\"type\":\"tool_use\",\"id\":\"toolu_sim", absl::Dec(answer.seq, absl::kZeroPad12),
      "\",\"name\":", JsonString(answer.tool->name), ",\"input\":", Absl(input), "}");
}

// The message object; `content` is what stands between its brackets.
std::string Message(const Answer& answer, std::string_view content, std::string_view stop_reason,
                    const Usage& usage) {
  return absl::StrCat("{\"id\":\"msg_sim", absl::Dec(answer.seq, absl::kZeroPad12),
                      "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                      JsonString(answer.model), ",\"content\":[", Absl(content),
                      "],\"stop_reason\":", Absl(stop_reason), ",\"stop_sequence\":null",
                      answer.show_usage ? absl::StrCat(",\"usage\":", FullUsage(usage)) : "", "}");
}

void AppendEvent(std::string_view type, std::string_view rest, std::string* out) {
  absl::StrAppend(out, "event: ", Absl(type), "\ndata: {\"type\":\"", Absl(type), "\"", Absl(rest),
                  "}\n\n");
}

bool ShowsThinking(const Answer& answer) { return answer.thinking && answer.reasoning > 0; }

// The index of the block that the answer's text or tool call is.
int MainBlock(const Answer& answer) { return ShowsThinking(answer) ? 1 : 0; }

constexpr std::string_view kThought = "The gate opens for those who pay.";
constexpr std::string_view kSignature = "c2ltdWxhdGVk";

bool HasToolResult(const element& message) {
  simdjson::dom::array parts;
  if (message["content"].get(parts) != simdjson::SUCCESS) return false;
  for (const element part : parts) {
    std::string_view type;
    if (part["type"].get(type) == simdjson::SUCCESS && type == "tool_result") return true;
  }
  return false;
}

class Anthropic : public Dialect {
 public:
  std::string_view name() const override { return "anthropic"; }

  Endpoint Match(const HttpRequest& request) const override {
    if (request.method == "POST" && request.path == "/v1/messages") return Endpoint::kChat;
    if (request.method == "POST" && request.path == "/v1/messages/count_tokens") {
      return Endpoint::kCountTokens;
    }
    if (request.method == "GET" && request.path == "/v1/models" &&
        !request.anthropic_version.empty()) {
      return Endpoint::kModels;
    }
    return Endpoint::kNone;
  }

  std::string_view PresentedKey(const HttpRequest& request) const override {
    return request.x_api_key.empty() ? BearerKey(request.authorization)
                                     : std::string_view(request.x_api_key);
  }

  std::string_view request_id_header() const override { return "request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint endpoint,
                                        simdjson::dom::parser* parser) const override {
    if (request.anthropic_version.empty()) return Bad("anthropic-version: header is required");
    simdjson::dom::object root;
    element parsed;
    if (parser->parse(request.body).get(parsed) != simdjson::SUCCESS ||
        parsed.get(root) != simdjson::SUCCESS) {
      return Bad("The request body is not valid JSON");
    }
    ChatRequest chat;
    PromptSize size;
    std::optional<element> messages;
    std::optional<element> tools;
    // A key given twice counts with its last value, as most JSON readers have it.
    for (const auto field : root) {
      const std::string_view key = field.key;
      const element value = field.value;
      if (key == "model") {
        std::string_view text;
        if (value.get(text) != simdjson::SUCCESS) return Bad("model: Input should be a string");
        chat.model = text;
      } else if (key == "messages") {
        messages = value;
      } else if (key == "tools") {
        tools = value;
      } else if (key == "system") {
        AddPrompt(value, &size);
      } else if (key == "stream") {
        if (value.get(chat.stream) != simdjson::SUCCESS) {
          return Bad("stream: Input should be a valid boolean");
        }
      } else if (key == "max_tokens") {
        int64_t number = 0;
        if (value.get(number) != simdjson::SUCCESS || number < 1) {
          return Bad("max_tokens: Input should be an integer greater than or equal to 1");
        }
        chat.max_tokens = number;
      } else if (key == "thinking") {
        std::string_view type;
        chat.thinking = value["type"].get(type) == simdjson::SUCCESS && type != "disabled";
      }
    }
    if (chat.model.empty()) return Bad("model: Field required");
    if (endpoint == Endpoint::kChat && !chat.max_tokens.has_value()) {
      return Bad("max_tokens: Field required");
    }
    if (!messages.has_value()) return Bad("messages: Field required");
    simdjson::dom::array list;
    if (messages->get(list) != simdjson::SUCCESS || list.size() == 0) {
      return Bad("messages: at least one message is required");
    }
    bool user_asks = false;
    for (const element message : list) {
      std::string_view role;
      element content;
      if (!message.is_object() || message["role"].get(role) != simdjson::SUCCESS ||
          message["content"].get(content) != simdjson::SUCCESS) {
        return Bad("messages: every message is an object with role and content");
      }
      ++size.messages;
      AddPrompt(message, &size);
      user_asks =
          role == "user" && ReadDirectives(content, &chat.directives) && !HasToolResult(message);
    }
    if (tools.has_value() && !tools->is_null()) {
      if (!tools->is_array()) return Bad("tools: Input should be a valid list");
      AddPrompt(*tools, &size);
      if (user_asks && chat.directives.find("tool=") != std::string::npos) {
        for (const element tool : simdjson::dom::array(*tools)) {
          std::string_view tool_name;
          if (tool["name"].get(tool_name) != simdjson::SUCCESS) continue;
          element schema;
          const bool has_schema = tool["input_schema"].get(schema) == simdjson::SUCCESS;
          chat.tools.push_back(
              {std::string(tool_name), has_schema ? SampleArguments(schema) : "{}"});
        }
      }
    }
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view code,
                    int64_t seq) const override {
    return absl::StrCat("{\"type\":\"error\",\"error\":{\"type\":\"", Absl(ErrorType(status)),
                        "\",\"message\":", JsonString(message), "},\"request_id\":\"req_sim",
                        absl::Dec(seq, absl::kZeroPad12), "\"}");
  }

  std::string Models(const std::vector<std::string>& models) const override {
    std::string out = "{\"data\":[";
    for (const std::string& model : models) {
      absl::StrAppend(
          &out, out.back() == '[' ? "" : ",", "{\"type\":\"model\",\"id\":", JsonString(model),
          ",\"display_name\":", JsonString(model), ",\"created_at\":\"2026-01-01T00:00:00Z\"}");
    }
    absl::StrAppend(&out, "],\"has_more\":false,\"first_id\":",
                    models.empty() ? "null" : JsonString(models.front()),
                    ",\"last_id\":", models.empty() ? "null" : JsonString(models.back()), "}");
    return out;
  }

  std::string CountTokens(int64_t input_tokens) const override {
    return absl::StrCat("{\"input_tokens\":", input_tokens, "}");
  }

  std::string Json(const Answer& answer) const override {
    std::string content;
    if (ShowsThinking(answer)) {
      absl::StrAppend(&content, "{\"type\":\"thinking\",\"thinking\":\"", Absl(kThought),
                      "\",\"signature\":\"", Absl(kSignature), "\"},");
    }
    const std::string text = answer.Piece(0, answer.chunks);
    if (answer.tool.has_value()) {
      content.append(ToolUse(answer, text));
    } else {
      absl::StrAppend(&content, "{\"type\":\"text\",\"text\":", JsonString(text), "}");
    }
    return Message(answer, content, absl::StrCat("\"", Absl(StopReason(answer.finish)), "\""),
                   answer.usage);
  }

  std::string StreamHead(const Answer& answer) const override {
    std::string out;
    AppendEvent("message_start",
                absl::StrCat(",\"message\":", Message(answer, "", "null", answer.UsageAfter(0))),
                &out);
    if (ShowsThinking(answer)) {
      AppendEvent("content_block_start",
                  ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\","
                  "\"signature\":\"\"}",
                  &out);
      AppendEvent(
          "content_block_delta",
          absl::StrCat(",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"",
                       Absl(kThought), "\"}"),
          &out);
      AppendEvent(
          "content_block_delta",
          absl::StrCat(",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"",
                       Absl(kSignature), "\"}"),
          &out);
      AppendEvent("content_block_stop", ",\"index\":0", &out);
    }
    AppendEvent("content_block_start",
                absl::StrCat(",\"index\":", MainBlock(answer), ",\"content_block\":",
                             answer.tool.has_value() ? ToolUse(answer, "{}")
                                                     : "{\"type\":\"text\",\"text\":\"\"}"),
                &out);
    AppendEvent("ping", "", &out);
    return out;
  }

  std::string StreamChunk(const Answer& answer, int64_t chunk) const override {
    std::string out;
    AppendEvent("content_block_delta",
                absl::StrCat(",\"index\":", MainBlock(answer),
                             answer.tool.has_value()
                                 ? ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":"
                                 : ",\"delta\":{\"type\":\"text_delta\",\"text\":",
                             JsonString(answer.Piece(chunk, chunk + 1)), "}"),
                &out);
    return out;
  }

  std::string StreamTail(const Answer& answer) const override {
    std::string out;
    AppendEvent("content_block_stop", absl::StrCat(",\"index\":", MainBlock(answer)), &out);
    AppendEvent(
        "message_delta",
        absl::StrCat(
            ",\"delta\":{\"stop_reason\":\"", Absl(StopReason(answer.finish)),
            "\",\"stop_sequence\":null}",
            answer.show_usage ? absl::StrCat(",\"usage\":{", Counts(answer.usage), "}") : ""),
        &out);
    AppendEvent("message_stop", "", &out);
    return out;
  }

  std::string StreamError(int64_t seq) const override {
    std::string out;
    AppendEvent("error", ",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}",
                &out);
    return out;
  }
};

}  // namespace

std::unique_ptr<Dialect> MakeAnthropic() { return std::make_unique<Anthropic>(); }

}  // namespace tollhouse::simprovider
