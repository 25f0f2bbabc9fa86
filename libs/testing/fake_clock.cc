#include "libs/testing/fake_clock.h"

namespace tollhouse::testing {

FakeClock::FakeClock()
    : FakeClock(absl::FromCivil(absl::CivilSecond(2026, 11, 21, 12), absl::UTCTimeZone())) {}

absl::Time FakeClock::Wall() const {
  absl::MutexLock lock(&mutex_);
  return wall_;
}

absl::Duration FakeClock::Monotonic() const {
  absl::MutexLock lock(&mutex_);
  return monotonic_;
}

void FakeClock::Advance(absl::Duration by) {
  absl::MutexLock lock(&mutex_);
  wall_ += by;
  monotonic_ += by;
}

void FakeClock::SetWall(absl::Time wall) {
  absl::MutexLock lock(&mutex_);
  wall_ = wall;
}

}  // namespace tollhouse::testing
