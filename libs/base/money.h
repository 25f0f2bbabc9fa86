// Money: integer nano-USD. No float ever touches it (docs/adr/0001-money-and-rounding.md).
#pragma once

#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tollhouse {

// An amount of money in nano-USD (1e-9 USD). A strong type over int64: +/- $9.2 billion.
// Arithmetic that overflows aborts the process (a bug, since every input is bounded at the API).
class NanoUsd {
 public:
  constexpr NanoUsd() = default;
  constexpr explicit NanoUsd(int64_t nanos) : nanos_(nanos) {}

  // Whole dollars, for constants and tests.
  static constexpr NanoUsd Dollars(int64_t usd) { return NanoUsd(usd * 1'000'000'000); }

  constexpr int64_t nanos() const { return nanos_; }

  friend constexpr auto operator<=>(NanoUsd, NanoUsd) = default;
  NanoUsd& operator+=(NanoUsd other);
  NanoUsd& operator-=(NanoUsd other);
  friend NanoUsd operator+(NanoUsd a, NanoUsd b) { return a += b; }
  friend NanoUsd operator-(NanoUsd a, NanoUsd b) { return a -= b; }
  friend NanoUsd operator-(NanoUsd a) { return NanoUsd() -= a; }

 private:
  int64_t nanos_ = 0;
};

// Bounds checked at every API (DESIGN: one hold <= $1 M, one cap <= $4 B).
inline constexpr NanoUsd kMaxHold{1'000'000'000'000'000};
inline constexpr NanoUsd kMaxCap{4'000'000'000'000'000'000};

// Parses a decimal USD amount: optional leading '-', at most 9 decimals, no exponent, no '$',
// no thousands separators. InvalidArgument otherwise, saying what is wrong, or if out of range.
absl::StatusOr<NanoUsd> ParseUsd(std::string_view text);

// Exact decimal USD without trailing zeros but at least two decimals: "12.50", "0.000000001".
std::string FormatUsd(NanoUsd amount);

std::ostream& operator<<(std::ostream& os, NanoUsd amount);

}  // namespace tollhouse
