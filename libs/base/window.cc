#include "libs/base/window.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/strings.h"

namespace tollhouse {
namespace {

constexpr int kDaysMax = 3660;

constexpr std::array<std::pair<Window::Kind, std::string_view>, 6> kNames = {{
    {Window::Kind::kDay, "day"},
    {Window::Kind::kWeek, "week"},
    {Window::Kind::kMonth, "month"},
    {Window::Kind::kQuarter, "quarter"},
    {Window::Kind::kYear, "year"},
    {Window::Kind::kTotal, "total"},
}};

// The first instant of a civil day. A midnight that a DST change skips: the instant of the change.
// A midnight that happens twice: the first.
absl::Time StartOf(absl::CivilDay day, const absl::TimeZone& zone) {
  const absl::TimeZone::TimeInfo info = zone.At(absl::CivilSecond(day));
  return info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre;
}

// The civil day whose [StartOf(day), StartOf(day + 1)) contains `at`. Differs from the clock on the
// wall only where a change shortly after midnight goes back into the day before.
absl::CivilDay DayAt(absl::Time at, const absl::TimeZone& zone) {
  absl::CivilDay day = absl::ToCivilDay(at, zone);
  while (at >= StartOf(day + 1, zone)) ++day;
  while (at < StartOf(day, zone)) --day;
  return day;
}

absl::CivilDay MondayOf(absl::CivilDay day) {
  while (absl::GetWeekday(day) != absl::Weekday::monday) --day;
  return day;
}

}  // namespace

absl::StatusOr<Window> ParseWindow(std::string_view text, absl::CivilDay anchor) {
  for (const auto& [kind, name] : kNames) {
    if (text == name) return Window{.kind = kind};
  }
  int days = 0;
  bool digits = text.size() > 1 && text.size() <= 5 && text.back() == 'd' && text.front() != '0';
  for (size_t i = 0; digits && i + 1 < text.size(); ++i) {
    digits = text[i] >= '0' && text[i] <= '9';
    days = days * 10 + (text[i] - '0');
  }
  if (digits && days <= kDaysMax) {
    return Window{.kind = Window::Kind::kDays, .days = days, .anchor = anchor};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("not a window: '", Absl(text),
                   "' (use day, week, month, quarter, year, total, or 1d to 3660d)"));
}

std::string FormatWindow(const Window& window) {
  for (const auto& [kind, name] : kNames) {
    if (window.kind == kind) return std::string(name);
  }
  return absl::StrCat(window.days, "d");
}

absl::StatusOr<absl::TimeZone> ParseTimeZone(std::string_view name) {
  absl::TimeZone zone;
  // "localtime" and absolute file names would make a budget depend on the machine.
  if (name.empty() || name == "localtime" || name.front() == '/' || name.front() == ':' ||
      name.find("..") != std::string_view::npos || !absl::LoadTimeZone(Absl(name), &zone)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "not a time zone: '", Absl(name), "' (use an IANA name such as Europe/Berlin or UTC)"));
  }
  return zone;
}

Period PeriodAt(const Window& window, const absl::TimeZone& zone, absl::Time at) {
  if (window.kind == Window::Kind::kTotal) {
    return {"total", absl::InfinitePast(), absl::InfiniteFuture()};
  }
  const absl::CivilDay day = DayAt(at, zone);
  absl::CivilDay first;
  absl::CivilDay next;
  std::string name;
  switch (window.kind) {
    case Window::Kind::kDay:
      first = day;
      next = day + 1;
      name = absl::StrFormat("%04d-%02d-%02d", day.year(), day.month(), day.day());
      break;
    case Window::Kind::kWeek: {
      first = MondayOf(day);
      next = first + 7;
      const absl::CivilDay thursday = first + 3;  // ISO 8601: decides the week's year
      name = absl::StrFormat("%04d-W%02d", thursday.year(), (absl::GetYearDay(thursday) + 6) / 7);
      break;
    }
    case Window::Kind::kMonth:
      first = absl::CivilDay(day.year(), day.month(), 1);
      next = absl::CivilDay(day.year(), day.month() + 1, 1);
      name = absl::StrFormat("%04d-%02d", day.year(), day.month());
      break;
    case Window::Kind::kQuarter: {
      const int quarter = (day.month() - 1) / 3;
      first = absl::CivilDay(day.year(), quarter * 3 + 1, 1);
      next = absl::CivilDay(day.year(), quarter * 3 + 4, 1);
      name = absl::StrFormat("%04d-Q%d", day.year(), quarter + 1);
      break;
    }
    case Window::Kind::kYear:
      first = absl::CivilDay(day.year(), 1, 1);
      next = absl::CivilDay(day.year() + 1, 1, 1);
      name = absl::StrFormat("%04d", day.year());
      break;
    case Window::Kind::kDays:
    case Window::Kind::kTotal: {
      const int64_t since = day - window.anchor;
      const int64_t into = (since % window.days + window.days) % window.days;
      first = day - into;
      next = first + window.days;
      name = absl::StrFormat("%04d-%02d-%02d+%dd", first.year(), first.month(), first.day(),
                             window.days);
      break;
    }
  }
  return {absl::StrCat(name, "@", Absl(Std(zone.name()))), StartOf(first, zone),
          StartOf(next, zone)};
}

}  // namespace tollhouse
