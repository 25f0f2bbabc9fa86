// Each dialect read and written: the answers are parsed back as a client would.
#include "tools/simprovider/dialect.h"

#include <simdjson.h>

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tollhouse::simprovider {
namespace {

using simdjson::dom::element;

HttpRequest Post(std::string path, std::string body) {
  return {.method = "POST",
          .path = std::move(path),
          .anthropic_version = "2023-06-01",
          .body = std::move(body)};
}

struct Event {
  std::string name;
  std::string data;
};

std::vector<Event> Events(const std::string& stream) {
  std::vector<Event> events;
  Event event;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find('\n', at);
    EXPECT_NE(end, std::string::npos) << "an event stream ends with a newline";
    const std::string line = stream.substr(at, end - at);
    at = end + 1;
    if (line.empty()) {
      events.push_back(std::exchange(event, {}));
    } else if (line.starts_with("event: ")) {
      event.name = line.substr(7);
    } else if (line.starts_with("data: ")) {
      event.data = line.substr(6);
    } else {
      ADD_FAILURE() << "unexpected line " << line;
    }
  }
  EXPECT_EQ(event.data, "") << "the last event is complete";
  return events;
}

std::string WholeStream(const Dialect& dialect, const Answer& answer) {
  std::string out = dialect.StreamHead(answer);
  for (int64_t chunk = 0; chunk < answer.chunks; ++chunk) {
    out += dialect.StreamChunk(answer, chunk);
  }
  return out + dialect.StreamTail(answer);
}

ChatRequest Chat(int64_t input = 100) {
  return {.model = "gpt-4o-mini", .max_tokens = 1000, .input_tokens = input};
}

Answer Plan(const ChatRequest& request, std::string_view directives) {
  Script script;
  EXPECT_TRUE(ApplyDirectives(directives, &script).ok());
  return PlanAnswer(request, script, 10'000, 7, 1'790'000'000);
}

class DialectTest : public ::testing::Test {
 protected:
  absl::StatusOr<ChatRequest> ParseOpenAi(const std::string& body) {
    return openai_->ParseChat(Post("/v1/chat/completions", body), Endpoint::kChat, &parser_);
  }
  absl::StatusOr<ChatRequest> ParseAnthropic(const std::string& body,
                                             Endpoint endpoint = Endpoint::kChat) {
    return anthropic_->ParseChat(Post("/v1/messages", body), endpoint, &parser_);
  }

  const std::unique_ptr<Dialect> openai_ = MakeOpenAi();
  const std::unique_ptr<Dialect> anthropic_ = MakeAnthropic();
  simdjson::dom::parser parser_;
};

// --- planning ---

TEST(PlanTest, OutputIsCappedByTheDeclaredMaximum) {
  ChatRequest request = Chat();
  request.max_tokens = 10;
  EXPECT_EQ(Plan(request, "output=200").usage.output, 10);
  EXPECT_EQ(Plan(request, "output=200").finish, Finish::kLength);
  EXPECT_EQ(Plan(request, "output=10").finish, Finish::kStop);
  EXPECT_EQ(Plan(request, "output_exact=200").usage.output, 200);
  request.max_tokens.reset();
  EXPECT_EQ(Plan(request, "output=100000").usage.output, 4096);
}

TEST(PlanTest, PartsAreClampedToTheWhole) {
  const Answer answer = Plan(Chat(100), "cached=80 cache_write=50 output=5 reasoning=9");
  EXPECT_EQ(answer.usage.cached, 80);
  EXPECT_EQ(answer.usage.cache_write_5m, 20);
  EXPECT_EQ(answer.usage.uncached(), 0);
  EXPECT_EQ(answer.usage.reasoning, 5);
  EXPECT_EQ(answer.visible, 0);
}

TEST(PlanTest, InputIsCappedByBodyBytesUnlessExact) {
  EXPECT_EQ(Plan(Chat(), "input=500").usage.input, 500);
  EXPECT_EQ(Plan(Chat(), "input=999999").usage.input, 11'024);
  EXPECT_EQ(Plan(Chat(), "input_exact=999999").usage.input, 999'999);
}

TEST(PlanTest, UsageGrowsChunkByChunkToTheWhole) {
  ChatRequest request = Chat();
  request.n = 2;
  const Answer answer = Plan(request, "output=21 reasoning=1 chunks=3");
  EXPECT_EQ(answer.UsageAfter(0).output, 2);
  EXPECT_EQ(answer.UsageAfter(1).output, 14);
  EXPECT_EQ(answer.UsageAfter(2).output, 28);
  EXPECT_EQ(answer.UsageAfter(3), answer.usage);
  EXPECT_EQ(answer.usage.output, 42);
  EXPECT_EQ(answer.usage.reasoning, 2);
}

TEST(PlanTest, PiecesMakeTheWholeText) {
  const Answer answer = Plan(Chat(), "output=100 chunks=7");
  std::string text;
  for (int64_t chunk = 0; chunk < 7; ++chunk) text += answer.Piece(chunk, chunk + 1);
  EXPECT_EQ(text, answer.Piece(0, 7));
  EXPECT_TRUE(text.starts_with("every call passes"));
}

TEST(PlanTest, SampleArgumentsFitTheSchema) {
  simdjson::dom::parser parser;
  EXPECT_EQ(SampleArguments(parser.parse(
                std::string(R"({"type":"object","required":["city","n","unit","deep"],"properties":{
                    "city":{"type":"string"},"n":{"type":"integer"},"opt":{"type":"string"},
                    "unit":{"enum":["c","f"]},"deep":{"properties":{"x":{"type":"boolean"}}}}})"))),
            R"({"city":"sample","n":1,"unit":"c","deep":{"x":true}})");
}

// --- OpenAI ---

TEST_F(DialectTest, OpenAiReadsARequest) {
  const auto chat = ParseOpenAi(
      R"({"model":"gpt-4o","max_tokens":5,"max_completion_tokens":50,"stream":true,"n":3,
          "stream_options":{"include_usage":true},
          "messages":[{"role":"user","content":"x [[sim output=1]]"},
                      {"role":"assistant","content":"[[sim output=2]]"},
                      {"role":"user","content":[{"type":"text","text":"[[sim output=3]]"}]}]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->model, "gpt-4o");
  EXPECT_EQ(chat->max_tokens, 50);
  EXPECT_TRUE(chat->stream);
  EXPECT_TRUE(chat->include_usage);
  EXPECT_EQ(chat->n, 3);
  EXPECT_EQ(chat->directives, "output=3");
  // 4+18, 9+16, 4+4+16 bytes of strings, three messages.
  EXPECT_EQ(chat->input_tokens, (22 + 25 + 24 + 3) / 4 + 12 + 3);
}

TEST_F(DialectTest, OpenAiStreamsUsageOnlyWhenAsked) {
  const std::string body =
      R"({"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]})";
  EXPECT_FALSE(ParseOpenAi(body)->include_usage);
}

TEST_F(DialectTest, OpenAiTakesTheLastOfDuplicateKeys) {
  const auto chat = ParseOpenAi(
      R"({"model":"a","max_tokens":1,"messages":[{"role":"user","content":"x"}],"max_tokens":9,
          "model":"b"})");
  EXPECT_EQ(chat->model, "b");
  EXPECT_EQ(chat->max_tokens, 9);
}

TEST_F(DialectTest, OpenAiOffersToolsOnlyToTheUsersTurn) {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{}}}])";
  const auto first = ParseOpenAi(
      R"({"model":"m","messages":[{"role":"user","content":"[[sim tool=any]]"}],)" + tools + "}");
  ASSERT_EQ(first->tools.size(), 1u);
  EXPECT_EQ(first->tools[0].name, "f");
  const auto second = ParseOpenAi(
      R"({"model":"m","messages":[{"role":"user","content":"[[sim tool=any]]"},
          {"role":"tool","tool_call_id":"c","content":"r"}],)" +
      tools + "}");
  EXPECT_TRUE(second->tools.empty());
  EXPECT_EQ(second->directives, "tool=any");
}

TEST_F(DialectTest, OpenAiRefusesBadBodies) {
  const std::string messages = R"("messages":[{"role":"user","content":"x"}])";
  for (const std::string& bad : std::vector<std::string>{
           "", "x", "[]", "{}", "{" + messages + "}", R"({"model":"m"})",
           R"({"model":"m","messages":[]})", R"({"model":"m","messages":"x"})",
           R"({"model":"m","messages":["x"]})", R"({"model":1,)" + messages + "}",
           R"({"model":"m","max_tokens":0,)" + messages + "}",
           R"({"model":"m","max_tokens":1.5,)" + messages + "}",
           R"({"model":"m","n":0,)" + messages + "}",
           R"({"model":"m","stream":"yes",)" + messages + "}"}) {
    EXPECT_EQ(ParseOpenAi(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(DialectTest, OpenAiJsonParsesBack) {
  ChatRequest request = Chat();
  request.n = 2;
  const Answer answer = Plan(request, "output=20 reasoning=5 cached=30 cache_write=10");
  const element body = parser_.parse(openai_->Json(answer));
  EXPECT_EQ(std::string_view(body["object"]), "chat.completion");
  EXPECT_EQ(std::string_view(body["model"]), "gpt-4o-mini");
  EXPECT_EQ(simdjson::dom::array(body["choices"]).size(), 2u);
  EXPECT_EQ(std::string_view(body["choices"].at(1)["message"]["content"]), answer.Piece(0, 15));
  EXPECT_EQ(std::string_view(body["choices"].at(1)["finish_reason"]), "stop");
  const element usage = body["usage"];
  EXPECT_EQ(int64_t(usage["prompt_tokens"]), 100);
  EXPECT_EQ(int64_t(usage["completion_tokens"]), 40);
  EXPECT_EQ(int64_t(usage["total_tokens"]), 140);
  EXPECT_EQ(int64_t(usage["prompt_tokens_details"]["cached_tokens"]), 30);
  EXPECT_EQ(int64_t(usage["prompt_tokens_details"]["cache_write_tokens"]), 10);
  EXPECT_EQ(int64_t(usage["completion_tokens_details"]["reasoning_tokens"]), 10);
}

TEST_F(DialectTest, OpenAiStreamParsesBack) {
  const Answer answer = Plan(Chat(), "output=20 chunks=4");
  const std::vector<Event> events = Events(WholeStream(*openai_, answer));
  ASSERT_EQ(events.size(), 1u + 4 + 1 + 1 + 1);
  std::string text;
  for (size_t i = 0; i < 6; ++i) {
    const element chunk = parser_.parse(events[i].data);
    EXPECT_TRUE(chunk["usage"].is_null());
    std::string_view piece;
    if (chunk["choices"].at(0)["delta"]["content"].get(piece) == simdjson::SUCCESS) text += piece;
    EXPECT_EQ(chunk["choices"].at(0)["finish_reason"].is_null(), i < 5);
  }
  EXPECT_EQ(text, answer.Piece(0, 4));
  const element last = parser_.parse(events[6].data);
  EXPECT_EQ(simdjson::dom::array(last["choices"]).size(), 0u);
  EXPECT_EQ(int64_t(last["usage"]["completion_tokens"]), 20);
  EXPECT_EQ(events[7].data, "[DONE]");
}

TEST_F(DialectTest, OpenAiStreamWithoutUsageDoesNotMentionIt) {
  ChatRequest request = Chat();
  request.include_usage = false;
  const std::string stream = WholeStream(*openai_, Plan(request, "output=3"));
  EXPECT_EQ(stream.find("usage"), std::string::npos);
  EXPECT_EQ(Events(stream).back().data, "[DONE]");
}

TEST_F(DialectTest, OpenAiToolCallParsesBackWholeAndStreamed) {
  ChatRequest request = Chat();
  request.tools = {{"other", "{}"}, {"weather", R"({"city":"Zürich 🙂","days":1})"}};
  const Answer answer = Plan(request, "tool=weather output=9");
  const element body = parser_.parse(openai_->Json(answer));
  const element message = body["choices"].at(0)["message"];
  EXPECT_TRUE(message["content"].is_null());
  EXPECT_EQ(std::string_view(message["tool_calls"].at(0)["function"]["arguments"]),
            request.tools[1].arguments);
  EXPECT_EQ(std::string_view(body["choices"].at(0)["finish_reason"]), "tool_calls");

  std::string arguments;
  for (const Event& event : Events(WholeStream(*openai_, answer))) {
    if (event.data == "[DONE]") continue;
    const element chunk = parser_.parse(event.data);
    std::string_view piece;
    if (chunk["choices"].at(0)["delta"]["tool_calls"].at(0)["function"]["arguments"].get(piece) ==
        simdjson::SUCCESS) {
      arguments += piece;
    }
  }
  EXPECT_EQ(arguments, request.tools[1].arguments);
}

TEST_F(DialectTest, OpenAiErrorsHaveTheirShape) {
  const element unauthorized = parser_.parse(openai_->Error(401, "no \"key\"", "", 1));
  EXPECT_EQ(std::string_view(unauthorized["error"]["code"]), "invalid_api_key");
  EXPECT_EQ(std::string_view(unauthorized["error"]["message"]), "no \"key\"");
  simdjson::dom::parser other;
  EXPECT_EQ(std::string_view(other.parse(openai_->Error(429, "", "", 1))["error"]["type"]),
            "requests");
  EXPECT_EQ(std::string_view(other.parse(openai_->Error(503, "", "", 1))["error"]["type"]),
            "server_error");
  EXPECT_TRUE(other.parse(openai_->Error(400, "", "", 1))["error"]["code"].is_null());
}

TEST_F(DialectTest, ModelsAreListedInBothShapes) {
  const std::vector<std::string> models = {"a", "b"};
  EXPECT_EQ(std::string_view(parser_.parse(openai_->Models(models))["data"].at(1)["id"]), "b");
  const element page = parser_.parse(anthropic_->Models(models));
  EXPECT_EQ(std::string_view(page["data"].at(0)["id"]), "a");
  EXPECT_EQ(std::string_view(page["last_id"]), "b");
}

TEST_F(DialectTest, TheVersionHeaderTellsTheDialectsOfAPathApart) {
  HttpRequest models = {.method = "GET", .path = "/v1/models"};
  EXPECT_EQ(openai_->Match(models), Endpoint::kModels);
  EXPECT_EQ(anthropic_->Match(models), Endpoint::kNone);
  models.anthropic_version = "2023-06-01";
  EXPECT_EQ(openai_->Match(models), Endpoint::kNone);
  EXPECT_EQ(anthropic_->Match(models), Endpoint::kModels);
}

TEST_F(DialectTest, KeysAreFoundWhereTheSdksPutThem) {
  EXPECT_EQ(openai_->PresentedKey({.authorization = "Bearer k1"}), "k1");
  EXPECT_EQ(openai_->PresentedKey({.authorization = "Basic k1"}), "");
  EXPECT_EQ(anthropic_->PresentedKey({.authorization = "bearer k2"}), "k2");
  EXPECT_EQ(anthropic_->PresentedKey({.x_api_key = "k3"}), "k3");
}

// --- Anthropic ---

TEST_F(DialectTest, AnthropicReadsARequest) {
  const auto chat = ParseAnthropic(
      R"({"model":"claude-haiku-4-5","max_tokens":77,"system":[{"type":"text","text":"four"}],
          "thinking":{"type":"enabled","budget_tokens":10},
          "messages":[{"role":"user","content":"[[sim output=1]]"}]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->max_tokens, 77);
  EXPECT_TRUE(chat->thinking);
  EXPECT_TRUE(chat->include_usage);
  EXPECT_EQ(chat->directives, "output=1");
  EXPECT_EQ(chat->input_tokens, (8 + 4 + 16 + 3) / 4 + 4 + 3);
}

TEST_F(DialectTest, AnthropicAnswersAToolResultWithText) {
  const auto chat = ParseAnthropic(
      R"({"model":"m","max_tokens":9,"tools":[{"name":"f","input_schema":{}}],
          "messages":[{"role":"user","content":"[[sim tool=f]]"},
                      {"role":"assistant","content":[]},
                      {"role":"user","content":[{"type":"tool_result","tool_use_id":"t",
                                                 "content":"r"}]}]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->directives, "tool=f");
  EXPECT_TRUE(chat->tools.empty());
}

TEST_F(DialectTest, AnthropicRefusesBadRequests) {
  const std::string messages = R"("messages":[{"role":"user","content":"x"}])";
  EXPECT_FALSE(ParseAnthropic(R"({"model":"m",)" + messages + "}").ok());
  EXPECT_TRUE(ParseAnthropic(R"({"model":"m",)" + messages + "}", Endpoint::kCountTokens).ok());
  EXPECT_FALSE(ParseAnthropic(R"({"max_tokens":1,)" + messages + "}").ok());
  EXPECT_FALSE(ParseAnthropic(R"({"model":"m","max_tokens":-1,)" + messages + "}").ok());
  EXPECT_FALSE(ParseAnthropic(R"({"model":"m","max_tokens":1,"messages":[]})").ok());
  HttpRequest no_version = Post("/v1/messages", R"({"model":"m","max_tokens":1,)" + messages + "}");
  no_version.anthropic_version.clear();
  EXPECT_FALSE(anthropic_->ParseChat(no_version, Endpoint::kChat, &parser_).ok());
}

TEST_F(DialectTest, AnthropicJsonParsesBackAndInputExcludesTheCache) {
  const Answer answer = Plan(Chat(), "output=20 cached=30 cache_write=10 cache_write_1h=5");
  const element body = parser_.parse(anthropic_->Json(answer));
  EXPECT_EQ(std::string_view(body["type"]), "message");
  EXPECT_EQ(std::string_view(body["content"].at(0)["text"]), answer.Piece(0, 20));
  EXPECT_EQ(std::string_view(body["stop_reason"]), "end_turn");
  const element usage = body["usage"];
  EXPECT_EQ(int64_t(usage["input_tokens"]), 55);
  EXPECT_EQ(int64_t(usage["cache_read_input_tokens"]), 30);
  EXPECT_EQ(int64_t(usage["cache_creation_input_tokens"]), 15);
  EXPECT_EQ(int64_t(usage["cache_creation"]["ephemeral_1h_input_tokens"]), 5);
  EXPECT_EQ(int64_t(usage["output_tokens"]), 20);
}

TEST_F(DialectTest, AnthropicStreamHasItsFullSequenceAndCumulativeUsage) {
  ChatRequest request = Chat();
  request.thinking = true;
  const Answer answer = Plan(request, "output=30 reasoning=10 chunks=2 cached=3");
  std::vector<std::string> names;
  std::string text;
  int64_t start_output = -1;
  int64_t end_output = -1;
  for (const Event& event : Events(WholeStream(*anthropic_, answer))) {
    names.push_back(event.name);
    const element data = parser_.parse(event.data);
    EXPECT_EQ(std::string_view(data["type"]), event.name);
    std::string_view piece;
    if (data["delta"]["text"].get(piece) == simdjson::SUCCESS) {
      text += piece;
      EXPECT_EQ(int64_t(data["index"]), 1);
    }
    if (event.name == "message_start") {
      EXPECT_EQ(int64_t(data["message"]["usage"]["input_tokens"]), 97);
      start_output = data["message"]["usage"]["output_tokens"];
    }
    if (event.name == "message_delta") {
      end_output = data["usage"]["output_tokens"];
      EXPECT_EQ(int64_t(data["usage"]["output_tokens_details"]["thinking_tokens"]), 10);
    }
  }
  EXPECT_EQ(names, (std::vector<std::string>{
                       "message_start", "content_block_start", "content_block_delta",
                       "content_block_delta", "content_block_stop", "content_block_start", "ping",
                       "content_block_delta", "content_block_delta", "content_block_stop",
                       "message_delta", "message_stop"}));
  EXPECT_EQ(text, answer.Piece(0, 2));
  EXPECT_EQ(start_output, 10);
  EXPECT_EQ(end_output, 30);
}

TEST_F(DialectTest, AnthropicToolUseParsesBackWholeAndStreamed) {
  ChatRequest request = Chat();
  request.tools = {{"weather", R"({"city":"Zürich","days":1})"}};
  const Answer answer = Plan(request, "tool=any output=4");
  const element body = parser_.parse(anthropic_->Json(answer));
  EXPECT_EQ(std::string_view(body["content"].at(0)["input"]["city"]), "Zürich");
  EXPECT_EQ(std::string_view(body["stop_reason"]), "tool_use");
  std::string arguments;
  for (const Event& event : Events(WholeStream(*anthropic_, answer))) {
    std::string_view piece;
    if (parser_.parse(event.data)["delta"]["partial_json"].get(piece) == simdjson::SUCCESS) {
      arguments += piece;
    }
  }
  EXPECT_EQ(arguments, request.tools[0].arguments);
}

TEST_F(DialectTest, AnthropicErrorsHaveTheirTypes) {
  for (const auto& [status, type] : {std::pair{400, "invalid_request_error"},
                                     {401, "authentication_error"},
                                     {402, "billing_error"},
                                     {404, "not_found_error"},
                                     {429, "rate_limit_error"},
                                     {500, "api_error"},
                                     {529, "overloaded_error"}}) {
    const element body = parser_.parse(anthropic_->Error(status, "m", "", 1));
    EXPECT_EQ(std::string_view(body["error"]["type"]), type);
    EXPECT_EQ(std::string_view(body["type"]), "error");
  }
}

TEST_F(DialectTest, NoUsageMeansNoUsageInBothDialects) {
  const Answer answer = Plan(Chat(), "fault=no_usage output=3");
  for (const Dialect* dialect : {openai_.get(), anthropic_.get()}) {
    EXPECT_EQ(dialect->Json(answer).find("usage"), std::string::npos);
    EXPECT_EQ(WholeStream(*dialect, answer).find("usage"), std::string::npos);
  }
}

}  // namespace
}  // namespace tollhouse::simprovider
