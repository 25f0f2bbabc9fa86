// What a key and model have been seen to use: the ratios of tight estimates, learned.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/edge/dialect/bound.h"

namespace tollhouse::edge {

// Keeps, per key and model, the largest ratios seen lately: each new request lets an older maximum
// fade by a thirty-second of its distance. Thread-safe; at most `entries_max` pairs, then new ones
// are estimated by the defaults.
class TightRatioBook {
 public:
  explicit TightRatioBook(size_t entries_max = 100'000) : entries_max_(entries_max) {}

  // A request of that many bytes of text (no media in it) was billed so much. Bodies below 4 KiB
  // say little about tokens per byte and are counted for their output alone.
  void Observe(std::string_view key_id, std::string_view model, int64_t text_bytes,
               int64_t input_tokens, int64_t output_tokens_per_choice);

  // The defaults until eight requests were seen; then a quarter above what was.
  TightRatios RatiosOf(std::string_view key_id, std::string_view model) const;

 private:
  struct Seen {
    int64_t requests = 0;
    int64_t large_requests = 0;
    int64_t tokens_per_kib_x32 = 0;  // times 32, to fade exactly
    int64_t output_x32 = 0;
  };

  const size_t entries_max_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Seen> seen_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
