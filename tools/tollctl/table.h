// Tables for people: aligned, money right-aligned with $ and separators, bars, relative times.
// Programs read JSON; nothing here is stable.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// One column of a table: what it shows of a row (an object).
struct Column {
  enum class Kind { kText, kMoney, kCount };
  std::string title;
  Kind kind = Kind::kText;
  std::string path;                                // field shown; the header's name of CSV
  std::function<std::string(const Value&)> cell;   // kText only: what is shown instead
  bool hide_if_empty = false;  // left out when every row is empty or 0
  bool right = false;          // right-aligned, as money and counts always are

  static Column Text(std::string title, std::string path) {
    return {std::move(title), Kind::kText, std::move(path), nullptr, false};
  }
  static Column Money(std::string title, std::string path) {
    return {std::move(title), Kind::kMoney, std::move(path), nullptr, false};
  }
  static Column Count(std::string title, std::string path) {
    return {std::move(title), Kind::kCount, std::move(path), nullptr, false};
  }
  static Column Cell(std::string title, std::function<std::string(const Value&)> cell) {
    return {std::move(title), Kind::kText, "", std::move(cell), false};
  }
  // The time in an RFC 3339 field, as seen from `now`.
  static Column Time(std::string title, std::string path, absl::Time now);
  Column IfAny() && {
    hide_if_empty = true;
    return std::move(*this);
  }
};

// Header, rows, and a total line below a rule unless `total` is null. Two spaces between columns,
// no trailing blanks, ends with a newline.
std::string RenderTable(const std::vector<Column>& columns, const std::vector<Value>& rows,
                        const Value& total = Value());

// "Name:  value" lines, one per column, for a single object: money to the nano-dollar, titles in
// capitals as words.
std::string RenderDetails(const std::vector<Column>& columns, const Value& row);

// "$1,234.50": two decimals for whole cents, otherwise `decimals` (2..9), rounded half away from
// zero; what would round to nothing reads "<$0.0001".
std::string MoneyText(int64_t nanousd, int decimals = 4);
// "1,234,567"
std::string CountText(int64_t count);
// "in 12 d", "3 h ago", "now", rounded; below ten of a unit with the next one: "in 1 d 4 h".
std::string RelativeTime(absl::Time at, absl::Time now);
// "██████░░░░  62 %" of `whole`; "" if whole is 0. Over 100 % the bar is full and the number goes on.
std::string PercentBar(int64_t part, int64_t whole);

// A timestamp field in RFC 3339; InfinitePast if it is absent or malformed.
absl::Time TimeOf(const Value& text);

}  // namespace tollhouse::tollctl
