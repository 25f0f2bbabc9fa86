// Budget windows as keys: a new period is a new key, nothing is ever reset (docs/adr/0005).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"

namespace tollhouse {

// day week month quarter year Nd total. `week` starts on Monday. `Nd` (1..3660 days) is anchored
// at local midnight of `anchor`. Periods start at local midnight of the zone; where a DST change
// skips midnight, at the first instant of that civil day.
struct Window {
  enum class Kind { kDay, kWeek, kMonth, kQuarter, kYear, kDays, kTotal };
  Kind kind = Kind::kMonth;
  int days = 0;            // kDays only
  absl::CivilDay anchor;   // kDays only

  friend bool operator==(const Window&, const Window&) = default;
};

// Parses "month", "7d", ... InvalidArgument names the accepted forms. `anchor` is used for Nd only.
absl::StatusOr<Window> ParseWindow(std::string_view text, absl::CivilDay anchor = {});
// The text that ParseWindow takes.
std::string FormatWindow(const Window& window);

// IANA name ("Europe/Berlin", "UTC"); InvalidArgument if this machine's database lacks it.
absl::StatusOr<absl::TimeZone> ParseTimeZone(std::string_view name);

// One period of a window: [start, end). The key is part of the budget row's key and reads
// "2026-11-21@Europe/Berlin" (day), "2026-W47@..", "2026-11@..", "2026-Q4@..", "2026@..",
// "2026-11-03+7d@..", "total". Keys of one window sort in time order. total: [-inf, +inf).
struct Period {
  std::string key;
  absl::Time start;
  absl::Time end;
};

// The period that contains `at`. Pure; thread-safe.
Period PeriodAt(const Window& window, const absl::TimeZone& zone, absl::Time at);

}  // namespace tollhouse
