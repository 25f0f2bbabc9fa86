// What people type, as values: money, durations, moments, tags, lists. Each parser answers
// InvalidArgument with a message that shows a correct form.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/map.h"
#include "google/protobuf/repeated_field.h"
#include "libs/base/money.h"

namespace tollhouse::tollctl {

// An error in how the command was written: exit code 2.
absl::Status UsageError(std::string_view message);
bool IsUsageError(const absl::Status& status);

// Takes the text of an option or argument, once per occurrence.
using Setter = std::function<absl::Status(std::string_view text)>;

// "90d", "24h", "1h30m", "2w", "45s", "0"; not negative.
absl::StatusOr<absl::Duration> ParseSpan(std::string_view text);
// A moment: RFC 3339 with zone, or a date, which is local midnight at its start in `zone`.
absl::StatusOr<absl::Time> ParseMoment(std::string_view text, absl::TimeZone zone);
// As ParseMoment in UTC, or a span before now ("30d").
absl::StatusOr<absl::Time> ParsePast(std::string_view text, absl::Time now);
// As ParseMoment in UTC, or a span from now ("90d"). InvalidArgument if it is not in the future.
absl::StatusOr<absl::Time> ParseFuture(std::string_view text, absl::Time now);
// True for "2026-12-01".
bool IsDate(std::string_view text);
// A whole number >= 0.
absl::StatusOr<int64_t> ParseCount(std::string_view text);
// "k=v"; the key is not empty.
absl::StatusOr<std::pair<std::string, std::string>> ParseTag(std::string_view text);
// "a,b": without blanks around the items; empty items are refused.
absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text);
// "80,110": whole percents, each 1..1000, ascending in the answer.
absl::StatusOr<std::vector<int32_t>> ParsePercents(std::string_view text);
// Money that is not negative.
absl::StatusOr<int64_t> ParseAmount(std::string_view text);

// Setters that store into the given place, which must outlive them.
Setter Into(std::string* target);
Setter Into(std::optional<std::string>* target);
Setter Into(google::protobuf::Map<std::string, std::string>* tags);       // --tag k=v
Setter Into(google::protobuf::RepeatedPtrField<std::string>* items);      // a,b and repeated
Setter Into(google::protobuf::RepeatedField<int32_t>* percents);          // 80,110
Setter IntoAmount(std::function<void(int64_t nanousd)> set);
Setter IntoCount(std::function<void(int64_t count)> set);
Setter IntoPercent(std::function<void(int32_t percent)> set);  // 1..1000
Setter IntoChoice(std::initializer_list<std::string_view> choices, std::string* target);
Setter IntoSpan(absl::Duration* target);

// The candidate that `text` was probably meant to be; "" if none is near.
std::string Closest(std::string_view text, const std::vector<std::string>& candidates);

}  // namespace tollhouse::tollctl
