// One pass over a request body: what the edge must know of it before the call, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/edge/dialect/endpoint.h"
#include "services/edge/dialect/media.h"

namespace tollhouse::edge {

// Readable bytes that the JSON parser wants behind the body.
inline constexpr size_t kJsonPadding = 64;

struct ScanLimits {
  size_t body_bytes_max = size_t{32} << 20;
  int depth_max = 128;  // the deepest real tool schemas seen nest about 30 levels
  size_t model_bytes_max = 256;
  int64_t output_tokens_max = 10'000'000;  // above it a declared maximum is a mistake
  int64_t choices_max = 128;               // OpenAI's own limit of `n`
  int64_t inputs_max = 4096;               // prompts or texts of one request; OpenAI takes 2,048
  size_t object_refs_max = 64;
  size_t metadata_entries_max = 64;
  size_t metadata_key_bytes_max = 128;
  size_t metadata_value_bytes_max = 1024;
};

// Where a value stands in the body, so that splicing touches it alone. length 0: not there.
struct Span {
  size_t offset = 0;
  size_t length = 0;

  bool present() const { return length != 0; }
};

// The id of an object that lives at the provider, and the field that names it.
struct ObjectRef {
  std::string param;
  std::string id;
};

struct RequestFacts {
  Endpoint endpoint = Endpoint::kChatCompletions;
  std::string model;  // "" for Gemini, whose paths name it, and where a dialect has a default
  bool stream = false;
  bool include_usage = false;                // the caller asked for stream_options.include_usage
  std::optional<int64_t> max_output_tokens;  // declared; the larger where a caller gave both names
  std::optional<int64_t> thinking_budget;    // Anthropic budget_tokens, Gemini thinkingBudget
  int64_t choices = 1;                       // `n`, candidateCount; for completions per prompt
  int64_t best_of = 1;                       // completions: choices generated, fewer are returned
  int64_t inputs = 1;                        // prompts of completions, texts of embeddings
  std::string service_tier;                  // as requested; "fast" reads "priority"
  std::string speed;                         // Anthropic `speed`
  std::string inference_geo;                 // Anthropic `inference_geo`
  std::map<std::string, std::string> metadata;  // tags to be; without Anthropic's user_id
  std::string user_id;                          // Anthropic metadata.user_id

  // What bounds are made of (bound.h).
  int64_t text_bytes = 0;  // body bytes that may reach the tokenizer: all but recognised media data
  std::vector<MediaItem> media;
  bool cache_write_5m = false;  // a cache_control of 5 minutes
  bool cache_write_1h = false;  // one of an hour, or of a ttl not known here
  int64_t predicted_bytes = 0;  // OpenAI `prediction`: rejected predictions are billed as output
  int64_t client_tool_prompts = 0;  // vendor-defined client tools: each brings a hidden prompt
  int64_t server_tool_uses = 0;     // sum of max_uses of bounded server tools
  int64_t web_search_calls = 0;     // the part of it that is billed per call
  int64_t file_search_calls = 0;    // likewise
  int64_t code_sessions = 0;        // likewise: containers of a code interpreter
  // Features whose input is bounded by nothing but the context window (PDFs, remote files, parts of
  // unknown type).
  std::vector<std::string> window_bounded_features;
  // Features that no bound covers: refused under enforced budgets unless a policy allows them.
  std::vector<std::string> unbounded_features;

  bool store = true;  // responses: the provider keeps the answer, to be named later
  // Objects at the provider that the request draws on: they must be the caller's own.
  std::vector<ObjectRef> object_refs;

  // What splicing touches (splice.h).
  Span body_open;           // the opening brace
  bool body_empty = false;  // no member at all
  Span model_value;
  std::vector<Span> model_refs;      // Gemini: every `model` within the body
  Span max_tokens_value;             // also where it says null; whatever the dialect calls it
  Span max_completion_tokens_value;  // likewise; OpenAI's chat only
  Span generation_config_value;      // Gemini: object or null
  Span generation_config_open;       // its opening brace, if an object
  bool generation_config_empty = false;
  Span stream_options_value;         // object or null
  Span stream_options_open;          // its opening brace, if an object
  bool stream_options_empty = false;
  Span include_usage_value;
  Span metadata_value;
  Span user_id_value;             // raw JSON value of metadata.user_id
  bool metadata_foreign = false;  // metadata has keys that Anthropic refuses
};

// Reads a body. Allocation: the facts, and buffers that a thread keeps between calls (up to 1 MiB
// of body; larger ones are freed). `capacity` is how many bytes from body.data() on may be read;
// with less than body.size() + kJsonPadding the body is copied once. Thread-safe.
//
// InvalidArgument, with metadata `param` where one field is to blame: EMPTY_BODY, NOT_JSON,
// NOT_AN_OBJECT, TOO_DEEP, DUPLICATE_FIELD, WRONG_TYPE, OUT_OF_RANGE, MISSING_FIELD, BAD_METADATA.
// PermissionDenied: FEATURE_REFUSED (background answers). ResourceExhausted: BODY_TOO_LARGE. Unknown
// fields are left alone. Only for endpoints that have a body.
absl::StatusOr<RequestFacts> ScanRequest(Endpoint endpoint, std::string_view body,
                                         const ScanLimits& limits = {}, size_t capacity = 0);

// The SIMD kernel that JSON is scanned with ("icelake", "haswell", ...), chosen at run time.
std::string JsonKernel();

}  // namespace tollhouse::edge
