// What the provider does with a request: defaults of the flags, directives in the prompt, faults
// drawn by the control API (README.md lists them for users).
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tollhouse::simprovider {

enum class Fault {
  kNone,
  kStatus,          // an error of the dialect with status Script::fault_status
  kCut,             // the connection ends in the middle of the answer
  kCutBeforeHead,   // the connection ends before the first byte of the answer
  kNoUsage,         // a good answer without usage
  kHang,            // nothing more comes (before the head; in a stream with cut_after: after it)
  kMalformed,       // JSON that does not parse
  kHtml,            // an HTML page, 502 unless `status` says otherwise
  kGigantic,        // an answer of size_mb MiB (one line of a stream)
  kGzip,            // content-encoding: gzip, asked for or not
  kErrorMidstream,  // the dialect's error event after the head; without streaming a 500
};

// Everything that can be said about one request. Counts are tokens of one choice.
struct Script {
  int64_t latency_ms = 0;
  int64_t jitter_ms = 0;
  int64_t chunk_delay_ms = 0;
  int64_t chunks = 0;  // 0: one per token
  int64_t output = 16;
  bool output_exact = false;  // do not cap by the declared maximum: a provider that overcharges
  std::optional<int64_t> input;
  bool input_exact = false;  // do not cap by body bytes + 1024
  int64_t cached = 0;
  int64_t cache_write_5m = 0;
  int64_t cache_write_1h = 0;
  int64_t searches = 0;
  int64_t reasoning = 0;  // part of output
  std::string tool;       // "any" or a name among the request's tools
  Fault fault = Fault::kNone;
  int fault_status = 0;
  std::string fault_name;
  std::optional<int64_t> cut_after;  // chunks
  std::optional<int64_t> retry_after;
  std::optional<int64_t> status;
  int64_t size_mb = 40;
  int64_t hang_ms = 600'000;
  bool continue_on_disconnect = false;
  std::optional<bool> bill;  // overrides whether this request is billed
};

// "429", "cut", "no_usage", ... sets fault, fault_status and fault_name. InvalidArgument otherwise.
absl::Status SetFault(std::string_view name, Script* script);

// Applies "key=value key=value" to `script`; a later key wins. InvalidArgument names the unknown
// key or the bad value. Numbers are 0..100,000,000.
absl::Status ApplyDirectives(std::string_view directives, Script* script);

// Appends what stands between each "[[sim " and "]]" of `text` to `directives`, blank separated.
void CollectDirectives(std::string_view text, std::string* directives);

// Faults at random, from a seed: the same requests in the same order meet the same faults.
class FaultInjector {
 public:
  // {"rate":0.1,"faults":["cut","500"],"seed":7} and optionally "with":"cut_after=3 retry_after=2"
  // (directives that apply with the fault), "count":N (stop after N faults), "model":"gpt-4o".
  // InvalidArgument says what is wrong and leaves the old faults in force.
  absl::Status Set(std::string_view json);
  void Clear();
  // Applies a fault to a script that has none, or nothing.
  void Draw(std::string_view model, Script* script);
  // The settings and how many faults were injected.
  std::string Json() const;

 private:
  double rate_ = 0;
  std::vector<std::string> faults_;
  std::string with_;
  std::string model_;
  int64_t left_ = -1;  // -1: unlimited
  uint64_t seed_ = 0;
  int64_t injected_ = 0;
  std::mt19937_64 random_;
};

}  // namespace tollhouse::simprovider
