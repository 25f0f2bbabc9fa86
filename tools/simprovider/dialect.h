// What differs between providers' APIs: how a request is read and how an answer is written. One
// file per dialect; scenario, meter and transport are shared (a new dialect is one more file and
// one line in Service).
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/simprovider/meter.h"
#include "tools/simprovider/scenario.h"

namespace tollhouse::simprovider {

// One HTTP request, headers reduced to those that matter.
struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string query;
  std::string authorization;
  std::string x_api_key;
  std::string x_goog_api_key;
  std::string anthropic_version;
  std::string hold_id;
  std::string body;
};

enum class Endpoint { kNone, kChat, kModels, kCountTokens, kStored, kFree };

struct Tool {
  std::string name;
  std::string arguments;  // JSON text that fits the tool's schema
};

// A chat request in the terms that all dialects share.
struct ChatRequest {
  std::string model;
  std::optional<int64_t> max_tokens;
  bool stream = false;
  bool include_usage = true;  // a stream reports its usage
  bool thinking = false;      // reasoning is shown as content
  int64_t n = 1;
  int64_t input_tokens = 0;
  std::string directives;  // of the last user message that has text
  // Filled only when a directive asks for a tool and the last message is the user's: otherwise a
  // tool's result would be answered with the same call for ever.
  std::vector<Tool> tools;
  int64_t vectors = 0;        // embeddings: how many are asked for; no text is generated
  bool json_stream = false;   // a stream is one JSON array (Gemini without alt=sse)
  std::string json_text;      // structured output: what the text is to be, by the given schema
};

enum class Finish { kStop, kLength, kTool };

// A planned answer.
struct Answer {
  int64_t seq = 0;
  int64_t created = 0;  // seconds since 1970
  std::string model;
  int64_t n = 1;
  int64_t visible = 0;    // tokens of text or tool arguments per choice
  int64_t reasoning = 0;  // per choice
  int64_t chunks = 0;
  bool show_usage = true;
  bool thinking = false;
  Finish finish = Finish::kStop;
  std::optional<Tool> tool;
  int64_t vectors = 0;
  bool json_stream = false;
  std::string json_text;
  int64_t filler_bytes = 0;  // appended to the text (the gigantic answer)
  Usage usage;               // when everything is generated

  // Usage when the head and `done` chunks are out. Reasoning, or else the first token, comes before
  // the head.
  Usage UsageAfter(int64_t done) const;
  // Text (or tool arguments) of chunks [from, to), valid UTF-8.
  std::string Piece(int64_t from, int64_t to) const;
};

// Plans the answer to `request`. Cached, cache-write and reasoning tokens are clamped to what they
// are a part of.
Answer PlanAnswer(const ChatRequest& request, const Script& script, int64_t body_bytes, int64_t seq,
                  int64_t created);

// Stateless, shared by all requests.
class Dialect {
 public:
  virtual ~Dialect() = default;
  virtual std::string_view name() const = 0;
  // kNone if this dialect does not serve (method, path).
  virtual Endpoint Match(const HttpRequest& request) const = 0;
  // The key as this provider's SDKs send it; "" if absent.
  virtual std::string_view PresentedKey(const HttpRequest& request) const = 0;
  // InvalidArgument carries the message of the provider's 400. `parser` is scratch.
  virtual absl::StatusOr<ChatRequest> ParseChat(const HttpRequest& request, Endpoint endpoint,
                                                simdjson::dom::parser* parser) const = 0;
  virtual std::string_view request_id_header() const = 0;

  // The body of an error of `status`; `code` only where the status does not say enough
  // ("model_not_found").
  virtual std::string Error(int status, std::string_view message, std::string_view code,
                            int64_t seq) const = 0;
  virtual std::string Models(const std::vector<std::string>& models) const = 0;
  virtual std::string CountTokens(int64_t input_tokens) const = 0;
  virtual std::string Json(const Answer& answer) const = 0;
  // The parts of an event stream: head, then every chunk in turn, then tail.
  virtual std::string StreamHead(const Answer& answer) const = 0;
  virtual std::string StreamChunk(const Answer& answer, int64_t chunk) const = 0;
  virtual std::string StreamTail(const Answer& answer) const = 0;
  virtual std::string StreamError(int64_t seq) const = 0;
  virtual std::string_view stream_type(const Answer&) const {
    return "text/event-stream; charset=utf-8";
  }
  // The body for kStored and kFree; "" for 404.
  virtual std::string Stored(const HttpRequest&) const { return ""; }
};

std::unique_ptr<Dialect> MakeOpenAi();
std::unique_ptr<Dialect> MakeAnthropic();
std::unique_ptr<Dialect> MakeResponses();
std::unique_ptr<Dialect> MakeCompletions();
std::unique_ptr<Dialect> MakeEmbeddings();
std::unique_ptr<Dialect> MakeGemini();

// What OpenAI's endpoints share.
std::string OpenAiError(int status, std::string_view message, std::string_view code);
// The body as an object; the message of OpenAI's 400 otherwise.
absl::StatusOr<simdjson::dom::object> ParseObject(const HttpRequest& request,
                                                  simdjson::dom::parser* parser);
// [0.0,0.001,...] of 8 numbers that depend on `index`.
std::string Vector(int64_t index);

// Helpers that dialects share.

// The text of a Bearer authorization; "" otherwise.
std::string_view BearerKey(std::string_view authorization);
// Sample arguments for a JSON schema: required properties (all, if none is required), first enum
// value, "sample", 1, true, [] or {} by type.
std::string SampleArguments(const simdjson::dom::element& schema);
// If `content` (a string or a list of parts with "text") has text, replaces `directives` by the
// directives in it. True if it had text.
bool ReadDirectives(const simdjson::dom::element& content, std::string* directives);

}  // namespace tollhouse::simprovider
