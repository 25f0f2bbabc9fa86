// Gemini, as v1 and v1beta: POST /v1beta/models/MODEL:generateContent, streamGenerateContent (SSE
// with alt=sse, else one JSON array), countTokens, embedContent, batchEmbedContents; GET
// /v1beta/models (https://ai.google.dev/api).
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/json_text.h"
#include "tools/simprovider/tokens.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

// Behind the version, /v1beta or /v1.
constexpr std::string_view kModels = "/models";

absl::Status Bad(std::string_view message) { return absl::InvalidArgumentError(Absl(message)); }

struct Parts {
  std::string_view model;
  std::string_view method;
};

std::string_view WithoutVersion(std::string_view path) {
  for (const std::string_view version : {"/v1beta/", "/v1/"}) {
    if (path.starts_with(version)) return path.substr(version.size() - 1);
  }
  return {};
}

Parts PartsOf(std::string_view path) {
  path = WithoutVersion(path);
  if (!path.starts_with(kModels) || path.size() <= kModels.size() + 1) return {};
  path.remove_prefix(kModels.size() + 1);
  const size_t colon = path.rfind(':');
  if (colon == std::string_view::npos) return {};
  return {path.substr(0, colon), path.substr(colon + 1)};
}

std::string UsageJson(const Usage& usage, bool ended) {
  const int64_t candidates = usage.output - usage.reasoning;
  std::string out = absl::StrCat(
      "{\"promptTokenCount\":", usage.input,
      usage.cached > 0 ? absl::StrCat(",\"cachedContentTokenCount\":", usage.cached) : "",
      candidates > 0 ? absl::StrCat(",\"candidatesTokenCount\":", candidates) : "",
      usage.reasoning > 0 ? absl::StrCat(",\"thoughtsTokenCount\":", usage.reasoning) : "",
      ",\"totalTokenCount\":", usage.input + usage.output);
  if (ended) {
    absl::StrAppend(&out,
                    ",\"promptTokensDetails\":[{\"modality\":\"TEXT\",\"tokenCount\":", usage.input,
                    "}]");
  }
  return out + "}";
}

// One chunk: every answer of this API has this form.
std::string Chunk(const Answer& answer, const std::string& part, bool ended, const Usage& usage) {
  std::string out = "{\"candidates\":[";
  for (int64_t i = 0; i < answer.n; ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", "{\"content\":{\"parts\":[", part,
                    "],\"role\":\"model\"},");
    if (ended) {
      absl::StrAppend(&out, "\"finishReason\":\"",
                      answer.finish == Finish::kLength ? "MAX_TOKENS" : "STOP", "\",");
    }
    absl::StrAppend(&out, "\"index\":", i, "}");
  }
  absl::StrAppend(&out, "],");
  if (answer.show_usage) absl::StrAppend(&out, "\"usageMetadata\":", UsageJson(usage, ended), ",");
  absl::StrAppend(&out, "\"modelVersion\":", JsonString(answer.model), ",\"responseId\":\"sim",
                  answer.seq, "\"}");
  return out;
}

std::string PartJson(const Answer& answer, int64_t from, int64_t to) {
  if (answer.tool.has_value()) {
    return absl::StrCat("{\"functionCall\":{\"name\":", JsonString(answer.tool->name),
                        ",\"args\":", answer.tool->arguments, "}}");
  }
  return absl::StrCat("{\"text\":", JsonString(answer.Piece(from, to)), "}");
}

class Gemini final : public Dialect {
 public:
  std::string_view name() const override { return "gemini"; }

  Endpoint Match(const HttpRequest& request) const override {
    if (request.method == "GET" && WithoutVersion(request.path) == kModels &&
        !request.x_goog_api_key.empty()) {
      return Endpoint::kModels;
    }
    if (request.method != "POST") return Endpoint::kNone;
    const std::string_view method = PartsOf(request.path).method;
    if (method == "countTokens") return Endpoint::kCountTokens;
    return method == "generateContent" || method == "streamGenerateContent" ||
                   method == "embedContent" || method == "batchEmbedContents"
               ? Endpoint::kChat
               : Endpoint::kNone;
  }

  std::string_view PresentedKey(const HttpRequest& request) const override {
    return request.x_goog_api_key.empty() ? BearerKey(request.authorization)
                                          : std::string_view(request.x_goog_api_key);
  }
  std::string_view request_id_header() const override { return "x-goog-request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint,
                                        simdjson::dom::parser* parser) const override {
    TH_ASSIGN_OR_RETURN(simdjson::dom::object root, ParseObject(request, parser));
    const Parts parts = PartsOf(request.path);
    ChatRequest chat;
    chat.model = parts.model;
    chat.stream = parts.method == "streamGenerateContent";
    chat.json_stream = chat.stream && !absl::StrContains(request.query, "alt=sse");
    simdjson::dom::object counted;
    if (root["generateContentRequest"].get(counted) == simdjson::SUCCESS) root = counted;
    PromptSize size;
    if (parts.method == "embedContent" || parts.method == "batchEmbedContents") {
      return ParseEmbedding(root, std::move(chat), static_cast<int64_t>(request.body.size()));
    }
    bool user_is_last = false;
    for (const auto field : root) {
      const std::string_view key = field.key;
      if (key == "contents") {
        simdjson::dom::array contents;
        if (field.value.get(contents) != simdjson::SUCCESS) return Bad("contents: not a list");
        for (const element content : contents) {
          ++size.messages;
          std::string_view role = "user";
          if (content["role"].get(role) != simdjson::SUCCESS) role = "user";
          element texts;
          if (content["parts"].get(texts) != simdjson::SUCCESS) continue;
          AddPrompt(texts, &size);
          const bool has_text = ReadDirectives(texts, &chat.directives);
          user_is_last = role == "user" && has_text;
        }
      } else if (key == "systemInstruction") {
        AddPrompt(field.value, &size);
      } else if (key == "tools") {
        AddPrompt(field.value, &size);
      } else if (key == "generationConfig") {
        ReadConfig(field.value, &chat, &size);
      }
    }
    if (user_is_last && chat.directives.find("tool=") != std::string::npos) {
      ReadTools(root, &chat);
    }
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view,
                    int64_t) const override {
    const std::string_view name = status == 400 || status == 401 ? "INVALID_ARGUMENT"
                                  : status == 403                ? "PERMISSION_DENIED"
                                  : status == 404                ? "NOT_FOUND"
                                  : status == 429                ? "RESOURCE_EXHAUSTED"
                                  : status == 503                ? "UNAVAILABLE"
                                                                 : "INTERNAL";
    return absl::StrCat("{\"error\":{\"code\":", status, ",\"message\":", JsonString(message),
                        ",\"status\":\"", Absl(name), "\"}}");
  }

  std::string Models(const std::vector<std::string>& models) const override {
    std::string out = "{\"models\":[";
    for (const std::string& model : models) {
      absl::StrAppend(&out, out.back() == '[' ? "" : ",",
                      "{\"name\":", JsonString("models/" + model), "}");
    }
    return out + "]}";
  }

  std::string CountTokens(int64_t input_tokens) const override {
    return absl::StrCat("{\"totalTokens\":", input_tokens, "}");
  }

  std::string Json(const Answer& answer) const override {
    if (answer.vectors > 0) return EmbeddingJson(answer);
    return Chunk(answer, PartJson(answer, 0, answer.chunks), true, answer.usage);
  }

  std::string_view stream_type(const Answer& answer) const override {
    return answer.json_stream ? "application/json; charset=UTF-8" : "text/event-stream";
  }
  std::string StreamHead(const Answer& answer) const override {
    return answer.json_stream ? "[" : "";
  }
  std::string StreamChunk(const Answer& answer, int64_t chunk) const override {
    // A call of a function comes whole, with the end.
    const std::string part =
        answer.tool.has_value() ? "{\"text\":\"\"}" : PartJson(answer, chunk, chunk + 1);
    const std::string json = Chunk(answer, part, false, answer.UsageAfter(chunk + 1));
    if (answer.json_stream) return absl::StrCat(json, "\r\n,\r\n");
    return absl::StrCat("data: ", json, "\r\n\r\n");
  }
  std::string StreamTail(const Answer& answer) const override {
    const std::string part =
        answer.tool.has_value() ? PartJson(answer, 0, 0) : std::string("{\"text\":\"\"}");
    const std::string json = Chunk(answer, part, true, answer.usage);
    return answer.json_stream ? json + "]" : absl::StrCat("data: ", json, "\r\n\r\n");
  }
  std::string StreamError(int64_t seq) const override {
    return absl::StrCat("data: ", Error(500, "An internal error has occurred.", "", seq),
                        "\r\n\r\n");
  }

 private:
  static void ReadConfig(const element& config, ChatRequest* chat, PromptSize* size) {
    int64_t number = 0;
    if (config["maxOutputTokens"].get(number) == simdjson::SUCCESS) chat->max_tokens = number;
    if (config["candidateCount"].get(number) == simdjson::SUCCESS) chat->n = number;
    element schema;
    if (config["responseSchema"].get(schema) == simdjson::SUCCESS ||
        config["responseJsonSchema"].get(schema) == simdjson::SUCCESS) {
      AddPrompt(schema, size);
      chat->json_text = SampleArguments(schema);
    }
  }

  static void ReadTools(const simdjson::dom::object& root, ChatRequest* chat) {
    simdjson::dom::array tools;
    if (root["tools"].get(tools) != simdjson::SUCCESS) return;
    for (const element tool : tools) {
      simdjson::dom::array functions;
      if (tool["functionDeclarations"].get(functions) != simdjson::SUCCESS) continue;
      for (const element function : functions) {
        std::string_view tool_name;
        if (function["name"].get(tool_name) != simdjson::SUCCESS) continue;
        element schema;
        const bool has_schema = function["parameters"].get(schema) == simdjson::SUCCESS ||
                                function["parametersJsonSchema"].get(schema) == simdjson::SUCCESS ||
                                function["parameters_json_schema"].get(schema) == simdjson::SUCCESS;
        chat->tools.push_back(
            {std::string(tool_name), has_schema ? SampleArguments(schema) : "{}"});
      }
    }
  }

  static absl::StatusOr<ChatRequest> ParseEmbedding(const simdjson::dom::object& root,
                                                    ChatRequest chat, int64_t body_bytes) {
    PromptSize size;
    const auto add = [&](const auto& request) {
      element texts;
      if (request["content"]["parts"].get(texts) != simdjson::SUCCESS) return;
      ++chat.vectors;
      AddPrompt(texts, &size);
      ReadDirectives(texts, &chat.directives);
    };
    simdjson::dom::array requests;
    if (root["requests"].get(requests) == simdjson::SUCCESS) {
      for (const element request : requests) add(request);
      chat.n = 2;  // told apart from a single one by its answer's form
    } else {
      add(root);
    }
    if (chat.vectors == 0) return Bad("content: missing");
    chat.input_tokens = InputTokens(size, body_bytes);
    return chat;
  }

  static std::string EmbeddingJson(const Answer& answer) {
    std::string vectors;
    for (int64_t i = 0; i < answer.vectors; ++i) {
      absl::StrAppend(&vectors, i > 0 ? "," : "", "{\"values\":", Vector(i), "}");
    }
    std::string out = answer.n > 1 ? absl::StrCat("{\"embeddings\":[", vectors, "]")
                                   : absl::StrCat("{\"embedding\":", vectors);
    if (answer.show_usage) {
      absl::StrAppend(&out, ",\"usageMetadata\":{\"promptTokenCount\":", answer.usage.input, "}");
    }
    return out + "}";
  }
};

}  // namespace

std::unique_ptr<Dialect> MakeGemini() { return std::make_unique<Gemini>(); }

}  // namespace tollhouse::simprovider
