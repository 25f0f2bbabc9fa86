#include "services/edge/dialect/tight_ratios.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

constexpr int64_t kRequestsBefore = 8;
constexpr int64_t kSmallBody = 4096;
constexpr int64_t kOutputMin = 64;

std::string KeyOf(std::string_view key_id, std::string_view model) {
  return absl::StrCat(Absl(key_id), "\n", Absl(model));
}

// The maximum, which fades towards what is seen now.
void Raise(int64_t now, int64_t* kept_x32) {
  const int64_t now_x32 = now * 32;
  *kept_x32 = now_x32 >= *kept_x32 ? now_x32 : *kept_x32 - (*kept_x32 - now_x32) / 32;
}

// A quarter above, rounded up.
int64_t WithMargin(int64_t kept_x32) { return (kept_x32 * 5 + 127) / 128; }

}  // namespace

void TightRatioBook::Observe(std::string_view key_id, std::string_view model, int64_t text_bytes,
                             int64_t input_tokens, int64_t output_tokens_per_choice) {
  absl::MutexLock lock(&mutex_);
  const std::string key = KeyOf(key_id, model);
  auto found = seen_.find(key);
  if (found == seen_.end()) {
    if (seen_.size() >= entries_max_) return;
    found = seen_.emplace(key, Seen()).first;
  }
  Seen& seen = found->second;
  ++seen.requests;
  Raise(output_tokens_per_choice, &seen.output_x32);
  if (text_bytes < kSmallBody) return;
  ++seen.large_requests;
  Raise(input_tokens * 1024 / text_bytes + 1, &seen.tokens_per_kib_x32);
}

TightRatios TightRatioBook::RatiosOf(std::string_view key_id, std::string_view model) const {
  TightRatios ratios;
  absl::MutexLock lock(&mutex_);
  const auto found = seen_.find(KeyOf(key_id, model));
  if (found == seen_.end()) return ratios;
  const Seen& seen = found->second;
  if (seen.large_requests >= kRequestsBefore) {
    ratios.input_tokens_per_kib = std::min<int64_t>(WithMargin(seen.tokens_per_kib_x32), 1024);
  }
  if (seen.requests >= kRequestsBefore) {
    ratios.output_tokens = std::max(kOutputMin, WithMargin(seen.output_x32));
  }
  return ratios;
}

}  // namespace tollhouse::edge
