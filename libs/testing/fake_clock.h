// A clock that moves only when told.
#pragma once

#include "absl/synchronization/mutex.h"
#include "libs/base/clock.h"

namespace tollhouse::testing {

// Thread-safe. Starts at 2026-11-21 12:00:00 UTC unless told otherwise.
class FakeClock final : public Clock {
 public:
  FakeClock();
  explicit FakeClock(absl::Time wall) : wall_(wall) {}

  absl::Time Wall() const override;
  absl::Duration Monotonic() const override;

  // Moves both clocks forward.
  void Advance(absl::Duration by);
  // Sets civil time only, also backwards (a clock jump).
  void SetWall(absl::Time wall);

 private:
  mutable absl::Mutex mutex_;
  absl::Time wall_ ABSL_GUARDED_BY(mutex_);
  absl::Duration monotonic_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1000);
};

}  // namespace tollhouse::testing
