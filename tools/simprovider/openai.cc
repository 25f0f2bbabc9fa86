// OpenAI Chat Completions: POST /v1/chat/completions, GET /v1/models
// (https://platform.openai.com/docs/api-reference/chat).
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

std::string Id(const Answer& answer) {
  return absl::StrCat("chatcmpl-sim", absl::Dec(answer.seq, absl::kZeroPad12));
}

std::string_view FinishReason(Finish finish) {
  switch (finish) {
    case Finish::kLength:
      return "length";
    case Finish::kTool:
      return "tool_calls";
    case Finish::kStop:
      break;
  }
  return "stop";
}

std::string ToolCallId(const Answer& answer, int64_t choice) {
  return absl::StrCat("call_sim", absl::Dec(answer.seq, absl::kZeroPad12), "x", choice);
}

std::string UsageJson(const Usage& usage) {
  return absl::StrCat(
      "{\"prompt_tokens\":", usage.input, ",\"completion_tokens\":", usage.output,
      ",\"total_tokens\":", usage.input + usage.output,
      ",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached,
      ",\"cache_write_tokens\":", usage.cache_write_5m + usage.cache_write_1h,
      ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":", usage.reasoning,
      ",\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
      "\"rejected_prediction_tokens\":0}}");
}

// Opens an event with one element of `choices`, up to and including the key "delta".
void OpenEvent(const Answer& answer, std::string* out) {
  absl::StrAppend(out, "data: {\"id\":\"", Id(answer),
                  "\",\"object\":\"chat.completion.chunk\",\"created\":", answer.created,
                  ",\"model\":", JsonString(answer.model),
                  ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_sim\",\"choices\":[");
}

void AppendEvent(const Answer& answer, int64_t choice, std::string_view delta,
                 std::string_view finish, std::string* out) {
  OpenEvent(answer, out);
  absl::StrAppend(out, "{\"index\":", choice, ",\"delta\":", Absl(delta),
                  ",\"logprobs\":null,\"finish_reason\":", Absl(finish), "}]",
                  answer.show_usage ? ",\"usage\":null" : "", "}\n\n");
}

class OpenAi : public Dialect {
 public:
  std::string_view name() const override { return "openai"; }

  Endpoint Match(const HttpRequest& request) const override {
    if (request.method == "POST" && request.path == "/v1/chat/completions") return Endpoint::kChat;
    if (request.method == "GET" && request.path == "/v1/models" &&
        request.anthropic_version.empty() && request.x_goog_api_key.empty()) {
      return Endpoint::kModels;
    }
    return Endpoint::kNone;
  }

  std::string_view PresentedKey(const HttpRequest& request) const override {
    return BearerKey(request.authorization);
  }

  std::string_view request_id_header() const override { return "x-request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint endpoint,
                                        simdjson::dom::parser* parser) const override {
    simdjson::dom::object root;
    element parsed;
    if (parser->parse(request.body).get(parsed) != simdjson::SUCCESS ||
        parsed.get(root) != simdjson::SUCCESS) {
      return Bad("We could not parse the JSON body of your request.");
    }
    ChatRequest chat;
    chat.include_usage = false;
    PromptSize size;
    std::optional<element> messages;
    std::optional<element> tools;
    std::optional<int64_t> max_tokens;
    // A key given twice counts with its last value, as most JSON readers have it.
    for (const auto field : root) {
      const std::string_view key = field.key;
      const element value = field.value;
      if (key == "model") {
        std::string_view text;
        if (value.get(text) != simdjson::SUCCESS) return Bad("Invalid type for 'model'.");
        chat.model = text;
      } else if (key == "messages") {
        messages = value;
      } else if (key == "tools") {
        tools = value;
      } else if (key == "functions" || key == "response_format") {
        AddPrompt(value, &size);
      } else if (key == "stream") {
        if (!value.is_null() && value.get(chat.stream) != simdjson::SUCCESS) {
          return Bad("Invalid type for 'stream': expected a boolean.");
        }
      } else if (key == "stream_options") {
        if (value.is_null()) continue;
        if (!value.is_object()) return Bad("Invalid type for 'stream_options'.");
        bool include = false;
        if (value["include_usage"].get(include) == simdjson::SUCCESS) chat.include_usage = include;
      } else if (key == "max_tokens" || key == "max_completion_tokens") {
        if (value.is_null()) continue;
        int64_t number = 0;
        if (value.get(number) != simdjson::SUCCESS || number < 1) {
          return Bad(absl::StrCat("Invalid value for '", Absl(key),
                                  "': expected an integer of at least 1."));
        }
        (key == "max_tokens" ? max_tokens : chat.max_tokens) = number;
      } else if (key == "n") {
        if (value.is_null()) continue;
        if (value.get(chat.n) != simdjson::SUCCESS || chat.n < 1 || chat.n > 128) {
          return Bad("Invalid value for 'n': expected an integer from 1 to 128.");
        }
      }
    }
    if (chat.model.empty()) return Bad("you must provide a model parameter");
    if (!chat.max_tokens.has_value()) chat.max_tokens = max_tokens;
    if (!messages.has_value()) return Bad("Missing required parameter: 'messages'.");
    simdjson::dom::array list;
    if (messages->get(list) != simdjson::SUCCESS || list.size() == 0) {
      return Bad("Invalid 'messages': expected a non-empty array of objects.");
    }
    bool user_is_last = false;
    for (const element message : list) {
      std::string_view role;
      if (!message.is_object() || message["role"].get(role) != simdjson::SUCCESS) {
        return Bad("Invalid 'messages': every message is an object with a role.");
      }
      ++size.messages;
      AddPrompt(message, &size);
      user_is_last = role == "user";
      element content;
      if (user_is_last && message["content"].get(content) == simdjson::SUCCESS) {
        ReadDirectives(content, &chat.directives);
      }
    }
    if (tools.has_value() && !tools->is_null()) {
      if (!tools->is_array()) return Bad("Invalid type for 'tools': expected an array.");
      AddPrompt(*tools, &size);
      if (user_is_last && chat.directives.find("tool=") != std::string::npos) {
        for (const element tool : simdjson::dom::array(*tools)) {
          std::string_view tool_name;
          if (tool["function"]["name"].get(tool_name) != simdjson::SUCCESS) continue;
          element schema;
          const bool has_schema = tool["function"]["parameters"].get(schema) == simdjson::SUCCESS;
          chat.tools.push_back(
              {std::string(tool_name), has_schema ? SampleArguments(schema) : "{}"});
        }
      }
    }
    if (!chat.stream) chat.include_usage = true;
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view code,
                    int64_t) const override {
    return OpenAiError(status, message, code);
  }

  std::string Models(const std::vector<std::string>& models) const override {
    std::string out = "{\"object\":\"list\",\"data\":[";
    for (const std::string& model : models) {
      absl::StrAppend(&out, out.back() == '[' ? "" : ",", "{\"id\":", JsonString(model),
                      ",\"object\":\"model\",\"created\":1780000000,\"owned_by\":\"sim\"}");
    }
    out.append("]}");
    return out;
  }

  std::string CountTokens(int64_t input_tokens) const override {
    return absl::StrCat("{\"input_tokens\":", input_tokens, "}");
  }

  std::string Json(const Answer& answer) const override {
    std::string out = absl::StrCat("{\"id\":\"", Id(answer),
                                   "\",\"object\":\"chat.completion\",\"created\":", answer.created,
                                   ",\"model\":", JsonString(answer.model), ",\"choices\":[");
    const std::string content = JsonString(answer.Piece(0, answer.chunks));
    for (int64_t choice = 0; choice < answer.n; ++choice) {
      absl::StrAppend(&out, choice > 0 ? "," : "", "{\"index\":", choice,
                      ",\"message\":{\"role\":\"assistant\",\"content\":");
      if (answer.tool.has_value()) {
        absl::StrAppend(
            &out, "null,\"refusal\":null,\"tool_calls\":[{\"id\":\"", ToolCallId(answer, choice),
            "\",\"type\":\"function\",\"function\":{\"name\":", JsonString(answer.tool->name),
            ",\"arguments\":", content, "}}]");
      } else {
        absl::StrAppend(&out, content, ",\"refusal\":null,\"annotations\":[]");
      }
      absl::StrAppend(&out, "},\"logprobs\":null,\"finish_reason\":\"",
                      Absl(FinishReason(answer.finish)), "\"}");
    }
    out.append("]");
    if (answer.show_usage) absl::StrAppend(&out, ",\"usage\":", UsageJson(answer.usage));
    out.append(",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_sim\"}");
    return out;
  }

  std::string StreamHead(const Answer& answer) const override {
    std::string out;
    for (int64_t choice = 0; choice < answer.n; ++choice) {
      if (answer.tool.has_value()) {
        AppendEvent(
            answer, choice,
            absl::StrCat("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                         "\"index\":0,\"id\":\"",
                         ToolCallId(answer, choice),
                         "\",\"type\":\"function\",\"function\":{\"name\":",
                         JsonString(answer.tool->name), ",\"arguments\":\"\"}}],\"refusal\":null}"),
            "null", &out);
      } else {
        AppendEvent(answer, choice, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}",
                    "null", &out);
      }
    }
    return out;
  }

  std::string StreamChunk(const Answer& answer, int64_t chunk) const override {
    const std::string piece = JsonString(answer.Piece(chunk, chunk + 1));
    const std::string delta =
        answer.tool.has_value()
            ? absl::StrCat("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":", piece,
                           "}}]}")
            : absl::StrCat("{\"content\":", piece, "}");
    std::string out;
    for (int64_t choice = 0; choice < answer.n; ++choice) {
      AppendEvent(answer, choice, delta, "null", &out);
    }
    return out;
  }

  std::string StreamTail(const Answer& answer) const override {
    std::string out;
    const std::string finish = absl::StrCat("\"", Absl(FinishReason(answer.finish)), "\"");
    for (int64_t choice = 0; choice < answer.n; ++choice) {
      AppendEvent(answer, choice, "{}", finish, &out);
    }
    if (answer.show_usage) {
      OpenEvent(answer, &out);
      absl::StrAppend(&out, "],\"usage\":", UsageJson(answer.usage), "}\n\n");
    }
    out.append("data: [DONE]\n\n");
    return out;
  }

  std::string StreamError(int64_t seq) const override {
    return absl::StrCat(
        "data: ",
        Error(500, "The server had an error while processing your request. Sorry about that!", "",
              seq),
        "\n\n");
  }
};

}  // namespace

std::string OpenAiError(int status, std::string_view message, std::string_view code) {
  std::string_view type = "invalid_request_error";
  if (status == 429) {
    type = "requests";
    if (code.empty()) code = "rate_limit_exceeded";
  } else if (status == 401) {
    code = "invalid_api_key";
  } else if (status >= 500) {
    type = "server_error";
  }
  return absl::StrCat("{\"error\":{\"message\":", JsonString(message), ",\"type\":\"", Absl(type),
                      "\",\"param\":null,\"code\":", code.empty() ? "null" : JsonString(code),
                      "}}");
}

std::unique_ptr<Dialect> MakeOpenAi() { return std::make_unique<OpenAi>(); }

}  // namespace tollhouse::simprovider
