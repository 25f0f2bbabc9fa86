// The price book's text format: one line per model and date, exact decimal USD.
//
//   # comment
//   price VENDOR MODEL KEY=VALUE ...
//   alias VENDOR ALIAS MODEL          (a name that the vendor understands, priced as MODEL)
//
// Keys of a price line, in any order, each at most once; absent means not stated (not zero):
//   mode=chat|responses|embedding|completion|moderation|...
//   from=2026-07-30                    in force from that UTC midnight (or RFC 3339); absent: always
//   max_input=N max_output=N           tokens
//   [TIER.]CLASS[>STEP]=USD            per million tokens, at most 9 decimals. TIER: batch, flex,
//       priority. CLASS: input, output, cache_read, cache_write_5m, cache_write_1h, reasoning,
//       input_audio, output_audio, input_image, output_image, cache_read_audio. STEP: input tokens above which the rate holds for the
//       whole request, "200k" or "272000".
//   search_low=USD search_medium=USD search_high=USD     per query
//   file_search=USD code_session=USD   per call of a file search, per code interpreter's container
//   off_peak=16:30-00:30               daily UTC hours in which x.hours:off_peak multiplies
//   regional_uplift_eu=F regional_uplift_us=F            factors
//   x.NAME=F                           factor under a modifier ("x.speed:fast=6", "x.geo:us=1.1")
//   other=JSON                         prices that are not per token, as the source has them
//   deprecated=2026-12-31  source=TEXT  list=VENDOR     list: the vendor's name in the source
// VENDOR is "ORG:VENDOR" for an org's own prices; MODEL is then also "*", with x.contract=F alone: a
// factor on all token rates of the vendor that the org has no price of its own for.
// A value with spaces or quotes is a JSON string. The same (vendor, model, from) may not stand twice.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tollhouse/router/v1/router.pb.h"

namespace tollhouse::policy {

struct PriceBook {
  std::vector<router::v1::ModelPrice> prices;  // in the order of the text, each valid
  std::vector<router::v1::ModelAlias> aliases;
};

// InvalidArgument (BAD_PRICE) naming the line. Pure.
absl::StatusOr<PriceBook> ParsePriceBook(std::string_view text);

// The "price ..." line of a price: canonical, without newline. ParsePriceBook gives the price back.
std::string FormatPrice(const router::v1::ModelPrice& price);
std::string FormatAlias(const router::v1::ModelAlias& alias);

}  // namespace tollhouse::policy
