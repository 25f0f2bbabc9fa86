#include "services/budget-enforcer/core/rate_limit.h"

#include <algorithm>

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kUnit = 60'000;  // milliseconds of a minute

}  // namespace

int64_t LevelAt(const RateBucket& bucket, int64_t per_minute, int64_t now_ms) {
  const int64_t full = per_minute * kUnit;
  if (bucket.updated_ms < 0) return full;
  const int64_t elapsed = std::max<int64_t>(0, now_ms - bucket.updated_ms);
  // A debt of one full bucket is paid off after a minute, deeper ones take longer.
  const int64_t level = std::min(bucket.level, full);
  const int64_t missing = full - level;
  if (elapsed >= (missing + per_minute - 1) / per_minute) return full;
  return level + elapsed * per_minute;
}

int64_t WaitFor(const RateBucket& bucket, int64_t per_minute, int64_t cost, int64_t now_ms) {
  if (cost > per_minute) return -1;
  const int64_t missing = cost * kUnit - LevelAt(bucket, per_minute, now_ms);
  return missing <= 0 ? 0 : (missing + per_minute - 1) / per_minute;
}

void Take(RateBucket& bucket, int64_t per_minute, int64_t cost, int64_t now_ms) {
  const int64_t full = per_minute * kUnit;
  const int64_t floor = -kMaxRate * kUnit;  // a debt of the largest bucket
  bucket.level = std::clamp(LevelAt(bucket, per_minute, now_ms) - cost * kUnit, floor, full);
  bucket.updated_ms = std::max(bucket.updated_ms, now_ms);
}

}  // namespace tollhouse::enforcer
