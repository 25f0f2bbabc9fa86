// Prices as people read them, and the rows of `model list` and `price list`.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/policy/price_book.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tools/tollctl/table.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// Columns of a ModelPrice at `prefix` ("" or "price.") of a row: dollars per million tokens.
std::vector<Column> PriceColumns(const std::string& prefix, absl::Time now);

// The settings of a price as the price book's format writes them (libs/policy/price_book.h):
// {"input", "2.50"}, {"batch.input", "1.25"}, {"max_output", "4096"}, without vendor and model.
std::vector<std::pair<std::string, std::string>> PriceSettings(const router::v1::ModelPrice& price);

// The inverse. InvalidArgument says which setting is wrong.
absl::StatusOr<router::v1::ModelPrice> PriceFromSettings(
    std::string_view vendor, std::string_view model,
    const std::vector<std::pair<std::string, std::string>>& settings);

// A price file: the price book's format, or JSON as `price list --output json` prints it.
absl::StatusOr<policy::PriceBook> ParsePriceFile(const std::string& text);

}  // namespace tollhouse::tollctl
