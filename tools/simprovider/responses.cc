// OpenAI Responses: POST /v1/responses, POST /v1/responses/input_tokens, GET /v1/responses/ID, and
// conversations as far as they can be named
// (https://platform.openai.com/docs/api-reference/responses).
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/json_text.h"
#include "tools/simprovider/tokens.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

constexpr std::string_view kResponses = "/v1/responses";
constexpr std::string_view kIdPrefix = "resp_sim";

absl::Status Bad(std::string_view message) { return absl::InvalidArgumentError(Absl(message)); }

std::string IdOf(int64_t seq) {
  return absl::StrCat(Absl(kIdPrefix), absl::Dec(seq, absl::kZeroPad12));
}

std::string ItemId(const Answer& answer) {
  return absl::StrCat("msg_sim", absl::Dec(answer.seq, absl::kZeroPad12));
}

std::string UsageJson(const Usage& usage) {
  return absl::StrCat("{\"input_tokens\":", usage.input,
                      ",\"input_tokens_details\":{\"cached_tokens\":", usage.cached,
                      ",\"cache_write_tokens\":", usage.cache_write_5m + usage.cache_write_1h,
                      "},\"output_tokens\":", usage.output,
                      ",\"output_tokens_details\":{\"reasoning_tokens\":", usage.reasoning,
                      "},\"total_tokens\":", usage.input + usage.output, "}");
}

// The answer's own item: a message or a call of a tool, with what was written of it so far.
std::string ItemJson(const Answer& answer, std::string_view status, std::string_view written) {
  const std::string text = JsonString(written);
  if (answer.tool.has_value()) {
    return absl::StrCat("{\"id\":\"", ItemId(answer), "\",\"type\":\"function_call\",\"status\":\"",
                        Absl(status), "\",\"call_id\":\"call_sim", answer.seq,
                        "\",\"name\":", JsonString(answer.tool->name), ",\"arguments\":", text,
                        "}");
  }
  return absl::StrCat("{\"id\":\"", ItemId(answer), "\",\"type\":\"message\",\"status\":\"",
                      Absl(status), "\",\"role\":\"assistant\",\"content\":[",
                      written.empty() && status != "completed"
                          ? ""
                          : absl::StrCat("{\"type\":\"output_text\",\"text\":", text,
                                         ",\"annotations\":[],\"logprobs\":[]}"),
                      "]}");
}

std::string SearchItems(const Answer& answer) {
  std::string out;
  for (int64_t i = 0; i < answer.usage.searches; ++i) {
    absl::StrAppend(&out, "{\"id\":\"ws_sim", answer.seq, "x", i,
                    "\",\"type\":\"web_search_call\",\"status\":\"completed\",\"action\":"
                    "{\"type\":\"search\",\"query\":\"toll\"}},");
  }
  return out;
}

std::string ResponseJson(const Answer& answer, std::string_view status) {
  const bool ended = status != "in_progress";
  const std::string output =
      ended ? SearchItems(answer) + ItemJson(answer, "completed", answer.Piece(0, answer.chunks))
            : "";
  return absl::StrCat(
      "{\"id\":\"", IdOf(answer.seq), "\",\"object\":\"response\",\"created_at\":", answer.created,
      ",\"status\":\"", Absl(status), "\",\"background\":false,\"error\":null,",
      "\"incomplete_details\":",
      status == "incomplete" ? "{\"reason\":\"max_output_tokens\"}" : "null",
      ",\"instructions\":null,\"max_output_tokens\":null,\"max_tool_calls\":null,\"model\":",
      JsonString(answer.model), ",\"output\":[", output,
      "],\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":{\"effort\":null,"
      "\"summary\":null},\"service_tier\":\"default\",\"store\":true,\"temperature\":1.0,\"text\":"
      "{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":1.0,"
      "\"truncation\":\"disabled\",\"usage\":",
      ended && answer.show_usage ? UsageJson(answer.usage) : "null", ",\"metadata\":{}}");
}

std::string_view EndOf(const Answer& answer) {
  return answer.finish == Finish::kLength ? "incomplete" : "completed";
}

void AppendEvent(std::string_view type, std::string_view members, std::string* out) {
  absl::StrAppend(out, "event: ", Absl(type), "\ndata: {\"type\":\"", Absl(type), "\",",
                  Absl(members), "}\n\n");
}

class Responses final : public Dialect {
 public:
  std::string_view name() const override { return "openai"; }

  Endpoint Match(const HttpRequest& request) const override {
    const std::string_view path = request.path;
    if (request.method == "POST" && path == kResponses) return Endpoint::kChat;
    if (request.method == "POST" && path == "/v1/responses/input_tokens") {
      return Endpoint::kCountTokens;
    }
    if (request.method == "POST" && path == "/v1/conversations") return Endpoint::kFree;
    if ((request.method == "GET" || request.method == "DELETE") &&
        path.starts_with("/v1/responses/")) {
      return Endpoint::kStored;
    }
    return Endpoint::kNone;
  }

  std::string_view PresentedKey(const HttpRequest& request) const override {
    return BearerKey(request.authorization);
  }
  std::string_view request_id_header() const override { return "x-request-id"; }

  absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint endpoint,
                                        simdjson::dom::parser* parser) const override {
    TH_ASSIGN_OR_RETURN(const simdjson::dom::object root, ParseObject(request, parser));
    ChatRequest chat;
    PromptSize size;
    bool user_is_last = true;
    element tools, input;
    bool has_tools = false, has_input = false;
    for (const auto field : root) {
      const std::string_view key = field.key;
      std::string_view text;
      if (key == "model") {
        if (field.value.get(text) != simdjson::SUCCESS) return Bad("Invalid type for 'model'.");
        chat.model = text;
      } else if (key == "instructions") {
        AddPrompt(field.value, &size);
      } else if (key == "input") {
        input = field.value;
        has_input = true;
      } else if (key == "tools") {
        tools = field.value;
        has_tools = field.value.is_array();
      } else if (key == "stream") {
        if (!field.value.is_null() && field.value.get(chat.stream) != simdjson::SUCCESS) {
          return Bad("Invalid type for 'stream'.");
        }
      } else if (key == "max_output_tokens") {
        int64_t number = 0;
        if (field.value.is_null()) continue;
        if (field.value.get(number) != simdjson::SUCCESS || number < 1) {
          return Bad("Invalid value for 'max_output_tokens'.");
        }
        chat.max_tokens = number;
      } else if (key == "text") {
        AddPrompt(field.value, &size);
        element schema;
        if (field.value["format"]["schema"].get(schema) == simdjson::SUCCESS) {
          chat.json_text = SampleArguments(schema);
        }
      }
    }
    if (chat.model.empty()) return Bad("Missing required parameter: 'model'.");
    if (has_input) {
      AddPrompt(input, &size);
      simdjson::dom::array items;
      if (input.get(items) == simdjson::SUCCESS) {
        for (const element item : items) {
          ++size.messages;
          std::string_view role;
          user_is_last = item["role"].get(role) == simdjson::SUCCESS && role == "user";
          element content;
          if (user_is_last && item["content"].get(content) == simdjson::SUCCESS) {
            ReadDirectives(content, &chat.directives);
          }
        }
      } else {
        ++size.messages;
        ReadDirectives(input, &chat.directives);
      }
    }
    if (has_tools) {
      AddPrompt(tools, &size);
      if (user_is_last && chat.directives.find("tool=") != std::string::npos) {
        for (const element tool : simdjson::dom::array(tools)) {
          std::string_view tool_name;
          if (tool["name"].get(tool_name) != simdjson::SUCCESS) continue;
          element schema;
          const bool has_schema = tool["parameters"].get(schema) == simdjson::SUCCESS;
          chat.tools.push_back(
              {std::string(tool_name), has_schema ? SampleArguments(schema) : "{}"});
        }
      }
    }
    chat.input_tokens = InputTokens(size, static_cast<int64_t>(request.body.size()));
    return chat;
  }

  std::string Error(int status, std::string_view message, std::string_view code,
                    int64_t) const override {
    return OpenAiError(status, message, code);
  }
  std::string Models(const std::vector<std::string>&) const override { return "{}"; }
  std::string CountTokens(int64_t input_tokens) const override {
    return absl::StrCat("{\"object\":\"response.input_tokens\",\"input_tokens\":", input_tokens,
                        "}");
  }

  // Every id that this provider can have given: it remembers nothing.
  std::string Stored(const HttpRequest& request) const override {
    if (request.path == "/v1/conversations") {
      return "{\"id\":\"conv_sim" + std::to_string(request.body.size()) +
             "\",\"object\":\"conversation\",\"created_at\":1780000000,\"metadata\":{}}";
    }
    std::string_view id = std::string_view(request.path).substr(kResponses.size() + 1);
    const bool items = id.ends_with("/input_items");
    if (items) id.remove_suffix(std::string_view("/input_items").size());
    int64_t seq = 0;
    if (!id.starts_with(kIdPrefix) || !absl::SimpleAtoi(Absl(id.substr(kIdPrefix.size())), &seq)) {
      return "";
    }
    if (items) {
      return "{\"object\":\"list\",\"data\":[],\"first_id\":null,\"last_id\":null,"
             "\"has_more\":false}";
    }
    if (request.method == "DELETE") {
      return absl::StrCat("{\"id\":\"", Absl(id), "\",\"object\":\"response\",\"deleted\":true}");
    }
    Answer answer;
    answer.seq = seq;
    answer.created = 1'780'000'000;
    answer.model = "sim";
    return ResponseJson(answer, "completed");
  }

  std::string Json(const Answer& answer) const override {
    return ResponseJson(answer, EndOf(answer));
  }

  std::string StreamHead(const Answer& answer) const override {
    std::string out;
    const std::string response = ResponseJson(answer, "in_progress");
    for (const std::string_view type : {"response.created", "response.in_progress"}) {
      AppendEvent(type, absl::StrCat("\"sequence_number\":0,\"response\":", response), &out);
    }
    AppendEvent("response.output_item.added",
                absl::StrCat("\"sequence_number\":1,\"output_index\":0,\"item\":",
                             ItemJson(answer, "in_progress", "")),
                &out);
    if (!answer.tool.has_value()) {
      AppendEvent("response.content_part.added",
                  absl::StrCat("\"sequence_number\":2,\"item_id\":\"", ItemId(answer),
                               "\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":"
                               "\"output_text\",\"text\":\"\",\"annotations\":[],\"logprobs\":[]}"),
                  &out);
    }
    return out;
  }

  std::string StreamChunk(const Answer& answer, int64_t chunk) const override {
    std::string out;
    const std::string where = absl::StrCat(
        "\"sequence_number\":", 3 + chunk, ",\"item_id\":\"", ItemId(answer),
        "\",\"output_index\":0,\"delta\":", JsonString(answer.Piece(chunk, chunk + 1)));
    if (answer.tool.has_value()) {
      AppendEvent("response.function_call_arguments.delta", where, &out);
    } else {
      AppendEvent("response.output_text.delta", where + ",\"content_index\":0,\"logprobs\":[]",
                  &out);
    }
    return out;
  }

  std::string StreamTail(const Answer& answer) const override {
    std::string out;
    const std::string all = answer.Piece(0, answer.chunks);
    const std::string where =
        absl::StrCat("\"sequence_number\":", 4 + answer.chunks, ",\"item_id\":\"", ItemId(answer),
                     "\",\"output_index\":0");
    if (answer.tool.has_value()) {
      AppendEvent("response.function_call_arguments.done",
                  absl::StrCat(where, ",\"name\":", JsonString(answer.tool->name),
                               ",\"arguments\":", JsonString(all)),
                  &out);
    } else {
      AppendEvent(
          "response.output_text.done",
          absl::StrCat(where, ",\"content_index\":0,\"logprobs\":[],\"text\":", JsonString(all)),
          &out);
      AppendEvent("response.content_part.done",
                  absl::StrCat(where,
                               ",\"content_index\":0,\"part\":{\"type\":\"output_text\","
                               "\"annotations\":[],\"logprobs\":[],\"text\":",
                               JsonString(all), "}"),
                  &out);
    }
    AppendEvent("response.output_item.done",
                absl::StrCat("\"sequence_number\":", 5 + answer.chunks,
                             ",\"output_index\":0,\"item\":", ItemJson(answer, "completed", all)),
                &out);
    const std::string_view end = EndOf(answer);
    AppendEvent(absl::StrCat("response.", Absl(end)),
                absl::StrCat("\"sequence_number\":", 6 + answer.chunks,
                             ",\"response\":", ResponseJson(answer, end)),
                &out);
    return out;
  }

  std::string StreamError(int64_t) const override {
    std::string out;
    AppendEvent("error",
                "\"code\":\"server_error\",\"message\":\"The server had an error\",\"param\":null,"
                "\"sequence_number\":9",
                &out);
    return out;
  }
};

}  // namespace

std::unique_ptr<Dialect> MakeResponses() { return std::make_unique<Responses>(); }

}  // namespace tollhouse::simprovider
