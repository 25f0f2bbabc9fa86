// What a journal entry says about its price, and the amount that follows from it and the usage alone
// (DESIGN I9). Knows no price book: an amount can be recomputed when the book has long changed.
//
// The canonical JSON, keys in this order, no spaces, integers as strings where they are money:
//   {"v":1,"lines":[{"model":"gpt-4o-mini","tier":"standard","above":0,"factor_ppm":1000000,
//     "rates":{"input":"150000000","output":"600000000"},"search":"10000000"}]}
// One element per usage line, in order. `rates` (nano-USD per million tokens) has the classes whose
// tokens are not zero; `search`, `file_search` and `code_session` (nano-USD per call) are there if
// their calls are not zero; `factor_ppm` multiplies all token rates; `tier` and `above` (input tokens of the price step) explain the rates.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/money.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::policy {

using UsageLines = google::protobuf::RepeatedPtrField<common::v1::UsageLine>;

// The classes that tokens are billed in; each token of a usage is in exactly one.
enum class Billed {
  kInput,  // uncached input and tool-use input
  kOutput,
  kCacheRead,
  kCacheWrite5m,
  kCacheWrite1h,
  kReasoning,  // only where reasoning has a rate of its own, else inside kOutput
  kInputAudio,
  kOutputAudio,
  kInputImage,
  kAudioCacheRead,
  kOutputImage,
};
inline constexpr size_t kBilledClasses = 11;

// What is billed by the call.
enum class Fee { kSearch, kFileSearch, kCodeSession };
inline constexpr size_t kFees = 3;

// "input", "output", "cache_read", ... as in the JSON.
std::string_view BilledName(Billed billed);

// Tokens per class of one usage. `reasoning_apart`: reasoning (at most all output) is taken out of
// kOutput. InvalidArgument (BAD_USAGE) if a count is negative or above 10^10.
absl::StatusOr<std::array<int64_t, kBilledClasses>> BilledTokens(const common::v1::Usage& usage,
                                                                 bool reasoning_apart);

// Calls per fee of one usage. InvalidArgument (BAD_USAGE) if a count is negative or above 10^6.
absl::StatusOr<std::array<int64_t, kFees>> BilledCalls(const common::v1::Usage& usage);

// All input tokens of a valid usage: what price steps ("above 200k") look at.
int64_t TotalInputTokens(const common::v1::Usage& usage);

struct LinePrice {
  std::string model;
  std::string tier;
  int64_t above_input_tokens = 0;
  int64_t factor_ppm = 1'000'000;
  std::array<std::optional<int64_t>, kBilledClasses> rates;  // nano-USD per million tokens
  std::array<std::optional<int64_t>, kFees> fees;            // nano-USD per call
};

// The canonical JSON of one line price per usage line, and back. ParseDetail: InvalidArgument
// (BAD_PRICE_DETAIL).
std::string FormatDetail(const std::vector<LinePrice>& lines);
absl::StatusOr<std::vector<LinePrice>> ParseDetail(std::string_view detail_json);

// ceil(sum over lines of (factor * sum(tokens * rate) / 10^12 + sum(calls * fee))), rounded up once
// for the whole request, exact before that. InvalidArgument (BAD_USAGE, BAD_PRICE_DETAIL) if counts
// or rates are out of bounds, the numbers of lines differ, or tokens meet no rate; OutOfRange if the
// amount is above int64.
absl::StatusOr<NanoUsd> AmountOf(const std::vector<LinePrice>& prices, const UsageLines& usage);

// AmountOf(ParseDetail(detail_json), usage): what the ledger's verification compares with the
// journalled amount.
absl::StatusOr<NanoUsd> RecomputeFromDetail(std::string_view detail_json, const UsageLines& usage);

}  // namespace tollhouse::policy
