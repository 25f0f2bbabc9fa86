#include "tools/tollctl/parse.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {
namespace {

constexpr char kUsage[] = "USAGE";

absl::Status Bad(std::string_view text, std::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", Absl(text), "' is not ", Absl(expected)));
}

std::string Trimmed(absl::string_view text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace

absl::Status UsageError(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, kUsage, message);
}

bool IsUsageError(const absl::Status& status) { return ReasonOf(status) == kUsage; }

absl::StatusOr<absl::Duration> ParseSpan(std::string_view text) {
  constexpr std::string_view kExpected = "a duration like 90d, 24h, 30m or 45s";
  if (text == "0") return absl::ZeroDuration();
  absl::Duration total;
  std::string_view rest = text;
  if (rest.empty()) return Bad(text, kExpected);
  while (!rest.empty()) {
    const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
    int64_t number = 0;
    if (digits == 0 || digits == rest.size() || digits > 9 ||
        !absl::SimpleAtoi(Absl(rest.substr(0, digits)), &number)) {
      return Bad(text, kExpected);
    }
    switch (rest[digits]) {
      case 'w': total += absl::Hours(24 * 7) * number; break;
      case 'd': total += absl::Hours(24) * number; break;
      case 'h': total += absl::Hours(number); break;
      case 'm': total += absl::Minutes(number); break;
      case 's': total += absl::Seconds(number); break;
      default: return Bad(text, kExpected);
    }
    rest.remove_prefix(digits + 1);
  }
  return total;
}

bool IsDate(std::string_view text) {
  absl::CivilDay day;
  return text.size() == 10 && absl::ParseCivilTime(Absl(text), &day);
}

absl::StatusOr<absl::Time> ParseMoment(std::string_view text, absl::TimeZone zone) {
  absl::CivilDay day;
  if (IsDate(text) && absl::ParseCivilTime(Absl(text), &day)) return absl::FromCivil(day, zone);
  absl::Time time;
  std::string error;
  if (absl::ParseTime(absl::RFC3339_full, Absl(text), &time, &error) &&
      time != absl::InfiniteFuture() && time != absl::InfinitePast()) {
    return time;
  }
  return Bad(text, "a date like 2026-12-01 or a time like 2026-12-01T18:00:00Z");
}

absl::StatusOr<absl::Time> ParsePast(std::string_view text, absl::Time now) {
  if (const auto span = ParseSpan(text); span.ok()) return now - *span;
  auto time = ParseMoment(text, absl::UTCTimeZone());
  if (!time.ok()) {
    return Bad(text, "a span before now like 30d, a date like 2026-11-01 or an RFC 3339 time");
  }
  return time;
}

absl::StatusOr<absl::Time> ParseFuture(std::string_view text, absl::Time now) {
  absl::Time time;
  if (const auto span = ParseSpan(text); span.ok()) {
    time = now + *span;
  } else if (const auto moment = ParseMoment(text, absl::UTCTimeZone()); moment.ok()) {
    time = *moment;
  } else {
    return Bad(text, "a span from now like 90d, a date like 2026-12-01 or an RFC 3339 time");
  }
  if (time <= now) return Bad(text, "in the future");
  return time;
}

absl::StatusOr<int64_t> ParseCount(std::string_view text) {
  int64_t count = 0;
  if (text.empty() || !std::all_of(text.begin(), text.end(),
                                   [](char c) { return c >= '0' && c <= '9'; }) ||
      !absl::SimpleAtoi(Absl(text), &count)) {
    return Bad(text, "a whole number, 0 or more");
  }
  return count;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseTag(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) return Bad(text, "of the form key=value");
  return std::make_pair(std::string(text.substr(0, equals)), std::string(text.substr(equals + 1)));
}

absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text) {
  std::vector<std::string> items;
  for (const absl::string_view part : absl::StrSplit(Absl(text), ',')) {
    items.push_back(Trimmed(part));
    if (items.back().empty()) return Bad(text, "a list like a,b");
  }
  return items;
}

absl::StatusOr<std::vector<int32_t>> ParsePercents(std::string_view text) {
  std::vector<int32_t> percents;
  for (const absl::string_view part : absl::StrSplit(Absl(text), ',')) {
    int32_t percent = 0;
    if (!absl::SimpleAtoi(Trimmed(part), &percent) || percent < 1 || percent > 1000) {
      return Bad(text, "a list of percents like 80,110, each from 1 to 1000");
    }
    percents.push_back(percent);
  }
  std::sort(percents.begin(), percents.end());
  percents.erase(std::unique(percents.begin(), percents.end()), percents.end());
  return percents;
}

absl::StatusOr<int64_t> ParseAmount(std::string_view text) {
  TH_ASSIGN_OR_RETURN(const NanoUsd amount, ParseUsd(text));
  if (amount < NanoUsd()) return Bad(text, "an amount of 0 or more");
  return amount.nanos();
}

Setter Into(std::string* target) {
  return [target](std::string_view text) {
    *target = std::string(text);
    return absl::OkStatus();
  };
}

Setter Into(std::optional<std::string>* target) {
  return [target](std::string_view text) {
    *target = std::string(text);
    return absl::OkStatus();
  };
}

Setter Into(google::protobuf::Map<std::string, std::string>* tags) {
  return [tags](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(auto tag, ParseTag(text));
    if (!tags->insert({tag.first, tag.second}).second) {
      return absl::InvalidArgumentError(absl::StrCat("'", tag.first, "' is given twice"));
    }
    return absl::OkStatus();
  };
}

Setter Into(google::protobuf::RepeatedPtrField<std::string>* items) {
  return [items](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(auto list, ParseList(text));
    for (std::string& item : list) *items->Add() = std::move(item);
    return absl::OkStatus();
  };
}

Setter Into(google::protobuf::RepeatedField<int32_t>* percents) {
  return [percents](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const auto list, ParsePercents(text));
    percents->Assign(list.begin(), list.end());
    return absl::OkStatus();
  };
}

Setter IntoAmount(std::function<void(int64_t nanousd)> set) {
  return [set = std::move(set)](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const int64_t amount, ParseAmount(text));
    set(amount);
    return absl::OkStatus();
  };
}

Setter IntoCount(std::function<void(int64_t count)> set) {
  return [set = std::move(set)](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const int64_t count, ParseCount(text));
    set(count);
    return absl::OkStatus();
  };
}

Setter IntoPercent(std::function<void(int32_t percent)> set) {
  return [set = std::move(set)](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const auto percents, ParsePercents(text));
    if (percents.size() != 1) return Bad(text, "one whole percent from 1 to 1000");
    set(percents[0]);
    return absl::OkStatus();
  };
}

Setter IntoChoice(std::initializer_list<std::string_view> choices, std::string* target) {
  return [choices = std::vector<std::string>(choices.begin(), choices.end()),
          target](std::string_view text) -> absl::Status {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return Bad(text, absl::StrCat("one of ", absl::StrJoin(choices, ", ")));
    }
    *target = std::string(text);
    return absl::OkStatus();
  };
}

Setter IntoSpan(absl::Duration* target) {
  return [target](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(*target, ParseSpan(text));
    return absl::OkStatus();
  };
}

std::string Closest(std::string_view text, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, text.size() / 4) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < text.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i + 1;
      for (size_t k = 0; k < candidate.size(); ++k) {
        const size_t changed = diagonal + (text[i] == candidate[k] ? 0 : 1);
        diagonal = row[k + 1];
        row[k + 1] = std::min({changed, row[k] + 1, row[k + 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace tollhouse::tollctl
