// Token buckets in integers: requests per minute and tokens per minute.
#pragma once

#include <cstdint>

namespace tollhouse::enforcer {

// The largest limit per minute, and the largest cost of one request in units of a limit. Twice this
// times 60,000 stays below 2^53: the Redis script computes the same in doubles.
inline constexpr int64_t kMaxRate = 50'000'000'000;

// A bucket that holds at most `per_minute` units and gains that many evenly over a minute: a full
// burst at once, then the rate. `level` counts 1/60000 of a unit, so that a millisecond adds
// exactly `per_minute` of them; below 0 it is a debt that later arrivals wait for. A new bucket is full.
struct RateBucket {
  int64_t level = 0;
  int64_t updated_ms = -1;  // -1: never used

  friend bool operator==(const RateBucket&, const RateBucket&) = default;
};

// The level at `now_ms` under the limit in force now (1..kMaxRate). Changes nothing.
int64_t LevelAt(const RateBucket& bucket, int64_t per_minute, int64_t now_ms);

// Milliseconds until `cost` units (0..kMaxRate) are there: 0 if they are, -1 if never, since the
// bucket is smaller than the cost.
int64_t WaitFor(const RateBucket& bucket, int64_t per_minute, int64_t cost, int64_t now_ms);

// Takes `cost` units (negative: gives back), whether they are there or not.
void Take(RateBucket& bucket, int64_t per_minute, int64_t cost, int64_t now_ms);

}  // namespace tollhouse::enforcer
