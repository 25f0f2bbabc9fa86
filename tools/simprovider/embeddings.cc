// OpenAI Embeddings: POST /v1/embeddings
// (https://platform.openai.com/docs/api-reference/embeddings).
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/json_text.h"
#include "tools/simprovider/tokens.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

absl::Status Bad(std::string_view message) { return absl::InvalidArgumentError(Absl(message)); }

class Embeddings final : public Dialect {
 public:
  std::string_view name() const override { return "openai"; }
  Endpoint Match(const HttpRequest& request) const override {
    return request.method == "POST" && request.path == "/v1/embeddings" ? Endpoint::kChat
                                                                        : Endpoint::kNone;
  }
  std::string_view PresentedKey(const HttpRequest& request) const override {
    return BearerKey(request.authorization);
  }
  std::string_view request_id_header() const override { return "x-request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint,
                                        simdjson::dom::parser* parser) const override {
    TH_ASSIGN_OR_RETURN(const simdjson::dom::object root, ParseObject(request, parser));
    ChatRequest chat;
    PromptSize size;
    for (const auto field : root) {
      const std::string_view key = field.key;
      std::string_view text;
      if (key == "model") {
        if (field.value.get(text) != simdjson::SUCCESS) return Bad("Invalid type for 'model'.");
        chat.model = text;
      } else if (key == "input") {
        AddPrompt(field.value, &size);
        simdjson::dom::array list;
        chat.vectors = 1;
        if (field.value.get(list) == simdjson::SUCCESS) {
          chat.vectors = std::max<int64_t>(1, static_cast<int64_t>(list.size()));
          for (const element item : list) ReadDirectives(item, &chat.directives);
        } else {
          ReadDirectives(field.value, &chat.directives);
        }
      } else if (key == "encoding_format" && field.value.get(text) == simdjson::SUCCESS) {
        chat.json_text = text;
      }
    }
    if (chat.model.empty()) return Bad("you must provide a model parameter");
    if (chat.vectors == 0) return Bad("Missing required parameter: 'input'.");
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view code,
                    int64_t) const override {
    return OpenAiError(status, message, code);
  }
  std::string Models(const std::vector<std::string>&) const override { return "{}"; }
  std::string CountTokens(int64_t) const override { return "{}"; }

  std::string Json(const Answer& answer) const override {
    std::string out = "{\"object\":\"list\",\"data\":[";
    for (int64_t i = 0; i < answer.vectors; ++i) {
      // As base64: eight float32 zeros.
      const std::string vector = answer.json_text == "base64"
                                     ? JsonString(absl::Base64Escape(std::string(32, '\0')))
                                     : Vector(i);
      absl::StrAppend(&out, i > 0 ? "," : "", "{\"object\":\"embedding\",\"index\":", i,
                      ",\"embedding\":", vector, "}");
    }
    absl::StrAppend(&out, "],\"model\":", JsonString(answer.model));
    if (answer.show_usage) {
      absl::StrAppend(&out, ",\"usage\":{\"prompt_tokens\":", answer.usage.input,
                      ",\"total_tokens\":", answer.usage.input, "}");
    }
    return out + "}";
  }

  // Vectors are never streamed.
  std::string StreamHead(const Answer&) const override { return ""; }
  std::string StreamChunk(const Answer&, int64_t) const override { return ""; }
  std::string StreamTail(const Answer&) const override { return ""; }
  std::string StreamError(int64_t) const override { return ""; }
};

}  // namespace

std::unique_ptr<Dialect> MakeEmbeddings() { return std::make_unique<Embeddings>(); }

}  // namespace tollhouse::simprovider
