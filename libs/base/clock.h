// Time as a dependency, so that tests own it.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tollhouse {

// Thread-safe. Wall() is civil time (budget windows, journal entries); Monotonic() only grows and
// is what deadlines are measured on. Monotonic values are comparable within one process only.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Wall() const = 0;
  virtual absl::Duration Monotonic() const = 0;

  // The machine's clocks; never destroyed.
  static const Clock* System();
};

}  // namespace tollhouse
