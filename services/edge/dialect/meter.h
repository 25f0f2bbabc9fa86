// Metering of a provider's answer while it passes: JSON and SSE, any split, any content encoding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "services/edge/dialect/endpoint.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

struct MeterOptions {
  std::string content_encoding;  // upstream's header: "", identity, gzip, deflate, br, zstd
  // include_usage was injected: the usage chunk and "usage":null members are kept from the caller.
  bool drop_usage_chunk = false;
  std::string requested_model;  // as sent upstream; names the usage where the answer names no model
  int64_t choices = 1;          // `n` of the request: a stream is complete when as many finished
  // The request's cache_control asks for an hour (or it is not known): cache writes that the answer
  // does not split by lifetime count as the dearer ones.
  bool cache_write_1h = true;
  // The most input that one inference can take (the context window); 0: not known. A larger sum
  // beside server tools came from several inferences and is split into as many lines.
  int64_t inference_input_max = 0;
  size_t json_bytes_max = size_t{64} << 20;   // a JSON answer larger than this is passed unmetered
  size_t event_bytes_max = size_t{16} << 20;  // likewise one SSE event
};

// What can be known before the end; for estimates and for cutting.
struct MeterProgress {
  int64_t upstream_bytes = 0;
  int64_t visible_output_bytes = 0;  // decoded text, reasoning text and tool arguments
  int64_t deltas = 0;                // events that carried some of it
  bool usage_present = false;
  // The usage so far says as much; grows with Anthropic's and cumulative OpenAI-style usage.
  int64_t reported_output_tokens = 0;
};

struct MeterResult {
  // What is billed, one line per model inference: a long-context price tier applies to each line by
  // itself. Empty if !usage_present, and for free endpoints.
  google::protobuf::RepeatedPtrField<common::v1::UsageLine> usage;
  // FINAL: the provider's last word. PARTIAL: counts up to a break, a floor. UNSPECIFIED: none,
  // the edge estimates.
  common::v1::UsageSource source = common::v1::USAGE_SOURCE_UNSPECIFIED;
  bool usage_present = false;
  bool complete = false;        // the answer came to its regular end, without an error in it
  bool provider_error = false;  // the body is or contains the dialect's error object
  bool ambiguous = false;       // the provider does not document how this is billed (fallbacks)
  bool unmetered = false;       // (in part) too large, undecodable or of no known format: passed on
  std::string error_type;
  std::string error_code;
  std::string response_model;  // "" if the answer names none
  int64_t visible_output_bytes = 0;
  int64_t deltas = 0;
  int64_t counted_tokens = -1;  // a token counter's answer
  std::string object_id;  // of a stored response: what later requests name it by
};

// Meters one answer. Whole SSE events leave as they come, byte for byte but for what
// drop_usage_chunk removes; the beginning of an event waits for its end (no caller can act on half
// an event, and a cut is clean that way), unless it exceeds 1 MiB. Other bodies pass at once.
// In the steady state no memory is allocated per event. Not thread-safe.
class ResponseMeter {
 public:
  virtual ~ResponseMeter() = default;

  // Takes bytes of the body as they came and appends to `downstream` what the caller gets.
  virtual void Feed(std::string_view upstream, std::string* downstream) = 0;
  // The end of the body, regular or not: appends what was held back. Once, after the last Feed.
  virtual MeterResult Finish(std::string* downstream) = 0;

  virtual const MeterProgress& progress() const = 0;
  // True if `downstream` carries the decoded body, because usage must be dropped from a compressed
  // one: the edge removes Content-Encoding and Content-Length. (Asking upstream for identity avoids
  // it.)
  virtual bool decodes_downstream() const = 0;
  // True once a body that leaves decoded cannot be decoded any further: nothing more will leave.
  virtual bool undecodable() const = 0;
  // True if the caller has seen whole events only, so that an error event can follow cleanly.
  virtual bool at_event_boundary() const = 0;
  // What ends a stream early: `event`, the dialect's error event, or, within a JSON array, its data
  // as the last element. To be asked where at_event_boundary(); Finish's own bytes are then dropped.
  virtual std::string ErrorEnd(std::string_view event) const = 0;
};

// `sse`: upstream's content type is text/event-stream. A JSON body sent as SSE, or the reverse, is
// recognised by its first byte. Gemini's streams without alt=sse are one JSON array; its elements are
// metered and passed on as they come, whole ones only.
std::unique_ptr<ResponseMeter> NewResponseMeter(Endpoint endpoint, bool sse,
                                                const MeterOptions& options = {});

// Output tokens that a broken answer without final usage is taken to have produced: the largest of
// what was reported, one per delta, and one per four visible bytes. At least 1.
int64_t EstimateOutputTokens(const MeterProgress& progress);

}  // namespace tollhouse::edge
