// The price book that this program was built with (pricebook.txt).
#pragma once

#include <string_view>

namespace tollhouse::router {

// libs/policy/price_book.h; loaded into an empty store at its first start.
extern const std::string_view kShippedPriceBook;

}  // namespace tollhouse::router
