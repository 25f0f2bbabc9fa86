#include "libs/policy/price_book.h"

#include <google/protobuf/util/message_differencer.h>

#include "gtest/gtest.h"
#include "libs/base/error.h"

namespace tollhouse::policy {
namespace {

TEST(PriceBookTest, ReadsEveryKey) {
  auto book = ParsePriceBook(
      "# a comment\r\n"
      "\n"
      "price openai gpt-x mode=chat from=2026-07-30 max_input=1000 max_output=10 input=0.15 "
      "flex.cache_read>272k=0.0375 priority.input>1500=1 reasoning=0 search_low=0.01 "
      "search_high=0.05 regional_uplift_eu=1.1 x.speed:fast=6 other={\"a\":\"b\"} "
      "deprecated=2027-01-01 list=open_ai source=\"two \\\"words\\\" \\\\ \\u00e4\"\n"
      "alias openai gpt-x-again gpt-x");
  ASSERT_TRUE(book.ok()) << book.status();
  ASSERT_EQ(book->prices.size(), 1u);
  const router::v1::ModelPrice& price = book->prices[0];
  EXPECT_EQ(price.mode(), "chat");
  EXPECT_EQ(price.effective_from().seconds(), 1785369600);
  EXPECT_EQ(price.max_input_tokens(), 1000);
  ASSERT_EQ(price.rates_size(), 4);
  EXPECT_EQ(price.rates(0).nanousd_per_mtok(), 150'000'000);
  EXPECT_EQ(price.rates(1).tier(), router::v1::SERVICE_TIER_FLEX);
  EXPECT_EQ(price.rates(1).token_class(), router::v1::TOKEN_CLASS_CACHE_READ);
  EXPECT_EQ(price.rates(1).above_input_tokens(), 272'000);
  EXPECT_EQ(price.rates(1).nanousd_per_mtok(), 37'500'000);
  EXPECT_EQ(price.rates(2).above_input_tokens(), 1500);
  EXPECT_EQ(price.rates(3).nanousd_per_mtok(), 0);  // stated zero is not "not stated"
  EXPECT_EQ(price.search_low_nanousd(), 10'000'000);
  EXPECT_EQ(price.search_medium_nanousd(), 0);
  EXPECT_EQ(price.regional_uplift_eu_ppm(), 1'100'000);
  EXPECT_EQ(price.multipliers_ppm().at("speed:fast"), 6'000'000);
  EXPECT_EQ(price.other_costs_json(), "{\"a\":\"b\"}");
  EXPECT_EQ(price.source(), "two \"words\" \\ \xc3\xa4");
  EXPECT_EQ(price.source_vendor(), "open_ai");
  ASSERT_EQ(book->aliases.size(), 1u);
  EXPECT_EQ(book->aliases[0].model(), "gpt-x");
  EXPECT_TRUE(book->aliases[0].keep_name());

  auto again = ParsePriceBook(FormatPrice(price));
  ASSERT_TRUE(again.ok()) << again.status() << FormatPrice(price);
  EXPECT_EQ(FormatPrice(again->prices[0]), FormatPrice(price));
}

TEST(PriceBookTest, ErrorsNameTheLine) {
  for (const char* line :
       {"price", "price v", "price v m input", "price v m gold=1", "price v m input=-1",
        "price v m input=1e3", "price v m input=0.0000000001", "price v m input=1 input=2",
        "price v m input=1 input>200k=1 input>200000=2", "price v m input>0=1",
        "price v m input=2000000", "price v m from=yesterday", "price v m source=\"open",
        "price v m regional_uplift_eu=1.0000001", "price v m x.fast=200", "price v m max_input=0",
        "model v m input=1", "alias v a", "alias v a b c"}) {
    const auto book = ParsePriceBook(std::string("# first\n") + line + "\n");
    EXPECT_EQ(ReasonOf(book.status()), "BAD_PRICE") << line;
    EXPECT_NE(std::string(book.status().message()).find("line 2: "), std::string::npos) << line;
  }
}

TEST(PriceBookTest, SameModelMayStandAgainFromAnotherDate) {
  EXPECT_TRUE(ParsePriceBook("price v m input=1\nprice v m from=2026-01-01 input=2").ok());
  EXPECT_FALSE(ParsePriceBook("price v m input=1\nprice v m input=2").ok());
}

}  // namespace
}  // namespace tollhouse::policy
