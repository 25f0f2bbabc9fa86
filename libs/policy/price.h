// What usage costs, and the most it can cost, by one price of the book.
//
// Which rate applies to a token, in this order:
//  1. The rate of its class, the line's service tier and the line's price step. The step is the
//     highest `above_input_tokens` that the line's total input exceeds (xAI: reaches), and holds for
//     the whole line. Tiers: "flex", "priority" ("fast"), "batch", also in Vertex's spelling
//     ("ON_DEMAND_FLEX"); every other word is standard.
//  2. A class without a rate in that tier or step: its rate in the nearest one, raised as input (for
//     input classes) or output is raised from there to here, and never lowered. An unstated discount
//     is not given, an unstated surcharge is.
//  3. A class without any rate: cache reads and writes, audio and image input cost input; a 5-minute
//     write 1.25 x input and a 1-hour write 2 x input on Claude models; reasoning, audio and image
//     output cost output; output without a rate costs input; cached audio costs cache_read raised as
//     audio is above text, or audio input.
//  4. Searches cost the medium fee or what the modifier "search:low|high" says; unstated: $0.035. File
//     searches unstated: $0.0025 a call; containers of a code interpreter: $0.03.
// Token rates are multiplied by the model's factors for the line's modifiers ("speed:fast", "geo:us"
// in multipliers_ppm; "region:eu|us" for regional hosts); a speed or geo that the model does not list
// counts 1. "hours:off_peak" holds in the hours that the price names, "contract" is an org's
// agreement. Factors multiply to one in parts per million, rounded up.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/money.h"
#include "libs/policy/price_detail.h"
#include "tollhouse/common/v1/common.pb.h"
#include "tollhouse/router/v1/router.pb.h"

namespace tollhouse::policy {

struct Cost {
  NanoUsd amount;
  std::string detail_json;  // price_detail.h: the amount is recomputable from it and the usage
};

// The most that a request can use. Sums over all of its choices, iterations and usage lines.
struct TokenBound {
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  // Whether tokens of these classes can occur. (Writes of models that cache by themselves, as
  // OpenAI's from gpt-5.6 on, are reckoned with in any case.)
  bool cache_write_5m = false;
  bool cache_write_1h = false;
  bool audio_input = false;
  int64_t web_search_calls = 0;
  int64_t file_search_calls = 0;
  int64_t code_sessions = 0;
  // As requested. "" and "auto": whether the answer is standard, flex or priority is the provider's
  // choice, so the dearest counts.
  std::string service_tier;
  // As requested ("speed:fast"); "geo:..." is the provider's choice, so the dearest always counts.
  std::vector<std::string> modifiers;
  int64_t contract_ppm = 1'000'000;  // an org's factor on token rates
};

// The model whose name a usage line carries; nullptr: not known.
using PriceLookup = std::function<const router::v1::ModelPrice*(std::string_view model)>;

// The exact cost, rounded up once for the request. All lines by one price, or each by its own.
// InvalidArgument (BAD_USAGE); FailedPrecondition (MODEL_UNPRICED) where a price has no input rate or
// the look-up found none. No lines: zero.
// `contract_ppm` multiplies token rates besides the lines' own factors.
absl::StatusOr<Cost> CostOf(const router::v1::ModelPrice& price, const UsageLines& usage);
absl::StatusOr<Cost> CostOf(const PriceLookup& lookup, const UsageLines& usage,
                            int64_t contract_ppm = 1'000'000);

// At least CostOf of every usage within the bound, in one or several lines of this price.
// InvalidArgument (BAD_USAGE), FailedPrecondition (MODEL_UNPRICED), OutOfRange.
absl::StatusOr<NanoUsd> BoundCost(const router::v1::ModelPrice& price, const TokenBound& bound);

// Whether the price's off-peak hours hold at a moment.
bool IsOffPeak(const router::v1::ModelPrice& price, absl::Time at);

// Whether tokens can be priced by it at all: it has an input rate of the standard tier, and its mode is
// one that is charged by the token and nothing else.
bool IsPriced(const router::v1::ModelPrice& price);

// InvalidArgument (BAD_PRICE) naming what is wrong: vendor and model present, every rate has a class
// and a tier and stands once, no negative number, rates at most $1 M per million tokens, factors from
// 0.001 to 100.
absl::Status ValidatePrice(const router::v1::ModelPrice& price);

}  // namespace tollhouse::policy
