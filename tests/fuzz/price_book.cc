#include "libs/policy/price_book.h"

#include <string>

#include "libs/policy/price.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {

void PriceBook(std::string_view input) {
  const auto book = policy::ParsePriceBook(input);
  if (!book.ok()) return;
  for (const router::v1::ModelPrice& price : book->prices) {
    const std::string text = policy::FormatPrice(price);
    const auto again = policy::ParsePriceBook(text);
    Promise(again.ok() && again->prices.size() == 1, "a price's text can be read");
    Promise(policy::FormatPrice(again->prices[0]) == text, "a price's text says all of it");
    policy::TokenBound bound;
    bound.input_tokens = 1'000'000;
    bound.output_tokens = 100'000;
    const auto most = policy::BoundCost(price, bound);
    policy::UsageLines usage;
    usage.Add()->mutable_usage()->set_input_tokens_uncached(300'000);
    usage.Mutable(0)->mutable_usage()->set_output_tokens(1'000);
    const auto cost = policy::CostOf(price, usage);
    if (most.ok() && cost.ok()) Promise(cost->amount <= *most, "a bound is a bound");
  }
}

}  // namespace tollhouse::fuzz
