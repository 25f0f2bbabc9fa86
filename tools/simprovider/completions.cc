// OpenAI Completions and moderations: POST /v1/completions, POST /v1/moderations
// (https://platform.openai.com/docs/api-reference/completions).
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/json_text.h"
#include "tools/simprovider/tokens.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

constexpr int64_t kDefaultMaxTokens = 16;

absl::Status Bad(std::string_view message) { return absl::InvalidArgumentError(Absl(message)); }

std::string Opening(const Answer& answer) {
  return absl::StrCat("{\"id\":\"cmpl-sim", absl::Dec(answer.seq, absl::kZeroPad12),
                      "\",\"object\":\"text_completion\",\"created\":", answer.created,
                      ",\"model\":", JsonString(answer.model), ",\"choices\":[");
}

std::string Choice(int64_t index, std::string_view text, std::string_view finish) {
  return absl::StrCat(
      "{\"index\":", index, ",\"text\":", JsonString(text),
      ",\"logprobs\":null,\"finish_reason\":", finish.empty() ? "null" : JsonString(finish), "}");
}

std::string UsageJson(const Usage& usage) {
  return absl::StrCat("{\"prompt_tokens\":", usage.input, ",\"completion_tokens\":", usage.output,
                      ",\"total_tokens\":", usage.input + usage.output, "}");
}

std::string_view FinishOf(const Answer& answer) {
  return answer.finish == Finish::kLength ? "length" : "stop";
}

class Completions final : public Dialect {
 public:
  std::string_view name() const override { return "openai"; }

  Endpoint Match(const HttpRequest& request) const override {
    if (request.method != "POST") return Endpoint::kNone;
    if (request.path == "/v1/completions") return Endpoint::kChat;
    return request.path == "/v1/moderations" ? Endpoint::kFree : Endpoint::kNone;
  }

  std::string_view PresentedKey(const HttpRequest& request) const override {
    return BearerKey(request.authorization);
  }
  std::string_view request_id_header() const override { return "x-request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint,
                                        simdjson::dom::parser* parser) const override {
    TH_ASSIGN_OR_RETURN(const simdjson::dom::object root, ParseObject(request, parser));
    ChatRequest chat;
    chat.include_usage = false;
    chat.max_tokens = kDefaultMaxTokens;
    PromptSize size;
    int64_t n = 1, best_of = 1, prompts = 1;
    for (const auto field : root) {
      const std::string_view key = field.key;
      std::string_view text;
      int64_t number = 0;
      if (key == "model") {
        if (field.value.get(text) != simdjson::SUCCESS) return Bad("Invalid type for 'model'.");
        chat.model = text;
      } else if (key == "prompt") {
        AddPrompt(field.value, &size);
        simdjson::dom::array list;
        if (field.value.get(list) == simdjson::SUCCESS) {
          prompts = std::max<int64_t>(1, static_cast<int64_t>(list.size()));
          for (const element item : list) ReadDirectives(item, &chat.directives);
        } else {
          ReadDirectives(field.value, &chat.directives);
        }
      } else if (key == "stream") {
        if (field.value.get(chat.stream) != simdjson::SUCCESS) chat.stream = false;
      } else if (key == "stream_options") {
        bool include = false;
        if (field.value["include_usage"].get(include) == simdjson::SUCCESS) {
          chat.include_usage = include;
        }
      } else if (key == "max_tokens" && field.value.get(number) == simdjson::SUCCESS) {
        chat.max_tokens = number;
      } else if (key == "n" && field.value.get(number) == simdjson::SUCCESS) {
        n = number;
      } else if (key == "best_of" && field.value.get(number) == simdjson::SUCCESS) {
        best_of = number;
      }
    }
    if (chat.model.empty()) return Bad("you must provide a model parameter");
    chat.n = prompts * std::max(n, best_of);
    if (!chat.stream) chat.include_usage = true;
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view code,
                    int64_t) const override {
    return OpenAiError(status, message, code);
  }
  std::string Models(const std::vector<std::string>&) const override { return "{}"; }
  std::string CountTokens(int64_t) const override { return "{}"; }
  std::string Stored(const HttpRequest&) const override {
    return "{\"id\":\"modr-sim\",\"model\":\"omni-moderation-latest\",\"results\":[{\"flagged\":"
           "false,\"categories\":{},\"category_scores\":{},\"category_applied_input_types\":{}}]}";
  }

  std::string Json(const Answer& answer) const override {
    std::string out = Opening(answer);
    for (int64_t i = 0; i < answer.n; ++i) {
      absl::StrAppend(&out, i > 0 ? "," : "",
                      Choice(i, answer.Piece(0, answer.chunks), FinishOf(answer)));
    }
    out += "]";
    if (answer.show_usage) absl::StrAppend(&out, ",\"usage\":", UsageJson(answer.usage));
    return out + "}";
  }

  std::string StreamHead(const Answer&) const override { return ""; }
  std::string StreamChunk(const Answer& answer, int64_t chunk) const override {
    std::string out;
    for (int64_t i = 0; i < answer.n; ++i) {
      absl::StrAppend(&out, "data: ", Opening(answer),
                      Choice(i, answer.Piece(chunk, chunk + 1), ""), "]}\n\n");
    }
    return out;
  }
  std::string StreamTail(const Answer& answer) const override {
    std::string out;
    for (int64_t i = 0; i < answer.n; ++i) {
      absl::StrAppend(&out, "data: ", Opening(answer), Choice(i, "", FinishOf(answer)), "]}\n\n");
    }
    if (answer.show_usage) {
      absl::StrAppend(&out, "data: ", Opening(answer), "],\"usage\":", UsageJson(answer.usage),
                      "}\n\n");
    }
    return out + "data: [DONE]\n\n";
  }
  std::string StreamError(int64_t) const override {
    return absl::StrCat("data: ", OpenAiError(500, "The server had an error", ""), "\n\n");
  }
};

}  // namespace

std::unique_ptr<Dialect> MakeCompletions() { return std::make_unique<Completions>(); }

}  // namespace tollhouse::simprovider
