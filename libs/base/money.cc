#include "libs/base/money.h"

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse {

NanoUsd& NanoUsd::operator+=(NanoUsd other) {
  if (__builtin_add_overflow(nanos_, other.nanos_, &nanos_)) std::abort();
  return *this;
}

NanoUsd& NanoUsd::operator-=(NanoUsd other) {
  if (__builtin_sub_overflow(nanos_, other.nanos_, &nanos_)) std::abort();
  return *this;
}

absl::StatusOr<NanoUsd> ParseUsd(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("not an amount in USD: '", Absl(text), "' (", Absl(why), ")"));
  };
  std::string_view rest = text;
  const bool negative = !rest.empty() && rest.front() == '-';
  if (negative) rest.remove_prefix(1);
  if (rest.empty()) return bad("empty");
  __int128 nanos = 0;
  int decimals = -1;  // -1: before the point
  bool digits = false;
  for (const char c : rest) {
    if (c == '.') {
      if (decimals >= 0) return bad("two decimal points");
      decimals = 0;
      continue;
    }
    if (c < '0' || c > '9') return bad("use digits and one point, like 12.50");
    if (decimals == 9) return bad("more than 9 decimals");
    digits = true;
    nanos = nanos * 10 + (c - '0');
    if (decimals >= 0) ++decimals;
    if (nanos > std::numeric_limits<int64_t>::max()) return bad("too large");
  }
  if (!digits) return bad("no digits");
  for (int d = decimals < 0 ? 0 : decimals; d < 9; ++d) nanos *= 10;
  if (nanos > std::numeric_limits<int64_t>::max()) return bad("too large");
  return NanoUsd(negative ? -static_cast<int64_t>(nanos) : static_cast<int64_t>(nanos));
}

std::string FormatUsd(NanoUsd amount) {
  const bool negative = amount.nanos() < 0;
  const uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(amount.nanos())
                                      : static_cast<uint64_t>(amount.nanos());
  std::string decimals = absl::StrCat(magnitude % 1'000'000'000);
  decimals.insert(0, 9 - decimals.size(), '0');
  while (decimals.size() > 2 && decimals.back() == '0') decimals.pop_back();
  return absl::StrCat(negative ? "-" : "", magnitude / 1'000'000'000, ".", decimals);
}

std::ostream& operator<<(std::ostream& os, NanoUsd amount) {
  return os << '$' << FormatUsd(amount);
}

}  // namespace tollhouse
