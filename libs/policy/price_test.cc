#include "libs/policy/price.h"

#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/policy/price_book.h"

namespace tollhouse::policy {
namespace {

using router::v1::ModelPrice;

ModelPrice Price(const std::string& line) {
  auto book = ParsePriceBook("price " + line);
  EXPECT_TRUE(book.ok()) << book.status();
  return book->prices.at(0);
}

common::v1::UsageLine Line(int64_t input, int64_t output) {
  common::v1::UsageLine line;
  line.set_model("m");
  line.mutable_usage()->set_input_tokens_uncached(input);
  line.mutable_usage()->set_output_tokens(output);
  return line;
}

// Amount in nano-USD of one line; checks that the detail alone gives the same amount.
int64_t Nanos(const ModelPrice& price, const common::v1::UsageLine& line) {
  UsageLines usage;
  *usage.Add() = line;
  auto cost = CostOf(price, usage);
  EXPECT_TRUE(cost.ok()) << cost.status();
  auto again = RecomputeFromDetail(cost->detail_json, usage);
  EXPECT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, cost->amount);
  return cost->amount.nanos();
}

// Costs that providers and gateways reported for recorded calls, to the last digit (in nano-USD,
// rounded up).
struct ReportedCost {
  const char* what;
  const char* price;
  int64_t uncached, cache_read, cache_write_5m, output, reasoning, searches;
  int64_t nanos;
};

class ReportedCostTest : public ::testing::TestWithParam<ReportedCost> {};

TEST_P(ReportedCostTest, IsReproduced) {
  const ReportedCost& check = GetParam();
  common::v1::UsageLine line = Line(check.uncached, check.output);
  line.mutable_usage()->set_cache_read_tokens(check.cache_read);
  line.mutable_usage()->set_cache_write_5m_tokens(check.cache_write_5m);
  line.mutable_usage()->set_reasoning_tokens(check.reasoning);
  line.mutable_usage()->set_web_search_calls(check.searches);
  EXPECT_EQ(Nanos(Price(check.price), line), check.nanos) << check.what;
}

INSTANTIATE_TEST_SUITE_P(
    All, ReportedCostTest,
    ::testing::Values(
        ReportedCost{"gpt-5.6-sol, cache written",
                     "openai gpt-5.6-sol input=5 output=30 cache_read=0.5 cache_write_5m=6.25",
                     8, 0, 4012, 5, 0, 0, 25'265'000},
        ReportedCost{"gpt-5.6-sol, cache read",
                     "openai gpt-5.6-sol input=5 output=30 cache_read=0.5 cache_write_5m=6.25",
                     8, 4012, 0, 5, 0, 0, 2'196'000},
        ReportedCost{"grok-3-mini", "xai grok-3-mini input=0.3 output=0.5 cache_read=0.075", 10, 2,
                     0, 229, 228, 0, 117'650},
        ReportedCost{"grok-3-mini with a tool",
                     "xai grok-3-mini input=0.3 output=0.5 cache_read=0.075", 47, 244, 0, 215, 189,
                     0, 139'900},
        ReportedCost{"gpt-5", "openai gpt-5-2025-08-07 input=1.25 output=10 cache_read=0.125", 13,
                     0, 0, 11, 0, 0, 126'250},
        ReportedCost{"gemini-2.5-flash",
                     "vertex gemini-2.5-flash input=0.3 output=2.5 reasoning=2.5", 7, 0, 0, 61, 53,
                     0, 154'600},
        ReportedCost{"claude-sonnet-4-5", "anthropic claude-sonnet-4-5-20250929 input=3 output=15",
                     14, 0, 0, 10, 0, 0, 192'000},
        ReportedCost{"gpt-4.1-mini with a search",
                     "openai gpt-4.1-mini input=0.4 output=1.6 search_medium=0.01", 8174, 0, 0, 30,
                     0, 1, 13'317'600},
        ReportedCost{"claude-4.6-sonnet, cache written",
                     "anthropic claude-4.6-sonnet input=3 output=15 cache_read=0.3 "
                     "cache_write_5m=3.75",
                     3, 0, 3211, 100, 0, 0, 13'550'250},
        ReportedCost{"claude-4.6-sonnet, cache read and written",
                     "anthropic claude-4.6-sonnet input=3 output=15 cache_read=0.3 "
                     "cache_write_5m=3.75",
                     1, 2569, 79, 100, 0, 0, 2'569'950}));

TEST(CostTest, IsRoundedUpOncePerRequest) {
  const ModelPrice price = Price("v m input=0.0375 output=0.0375");
  UsageLines usage;
  *usage.Add() = Line(1, 1);  // 37.5 nanos each: 75 in all, not 38 + 38
  EXPECT_EQ(CostOf(price, usage)->amount.nanos(), 75);
  *usage.Add() = Line(1, 0);
  EXPECT_EQ(CostOf(price, usage)->amount.nanos(), 113);  // 112.5
}

TEST(CostTest, NoLinesCostNothing) {
  auto cost = CostOf(Price("v m input=1 output=1"), UsageLines());
  EXPECT_EQ(cost->amount.nanos(), 0);
  EXPECT_EQ(cost->detail_json, "{\"v\":1,\"lines\":[]}");
}

TEST(CostTest, DetailIsCanonical) {
  UsageLines usage;
  *usage.Add() = Line(10, 20);
  EXPECT_EQ(CostOf(Price("openai gpt-4o-mini input=0.15 output=0.6 cache_read=0.075"), usage)
                ->detail_json,
            "{\"v\":1,\"lines\":[{\"model\":\"gpt-4o-mini\",\"tier\":\"standard\",\"above\":0,"
            "\"factor_ppm\":1000000,\"rates\":{\"input\":\"150000000\",\"output\":\"600000000\"}}]}");
}

TEST(CostTest, StepHoldsForTheWholeRequestAboveItsThreshold) {
  const ModelPrice price = Price("anthropic claude-sonnet-4-5 input=3 output=15 cache_read=0.3 "
                                 "input>200k=6 output>200k=22.5 cache_read>200k=0.6");
  EXPECT_EQ(Nanos(price, Line(200'000, 10)), 200'000 * 3000 + 10 * 15'000);
  EXPECT_EQ(Nanos(price, Line(200'001, 10)), int64_t{200'001} * 6000 + 10 * 22'500);
  common::v1::UsageLine cached = Line(1, 10);
  cached.mutable_usage()->set_cache_read_tokens(200'000);  // all input counts
  EXPECT_EQ(Nanos(price, cached), 1 * 6000 + 200'000 * 600 + 10 * 22'500);
}

TEST(CostTest, XaiStepsBeginAtTheirThreshold) {
  const char* rates = " input=3 output=15 input>128k=6 output>128k=30";
  EXPECT_EQ(Nanos(Price(std::string("xai grok-4") + rates), Line(128'000, 1)),
            128'000 * 6000 + 30'000);
  EXPECT_EQ(Nanos(Price(std::string("openai grok-4") + rates), Line(128'000, 1)),
            128'000 * 3000 + 15'000);
}

TEST(CostTest, EachLineHasItsOwnStep) {
  const ModelPrice price = Price("v m input=1 output=1 input>200k=2 output>200k=2");
  UsageLines usage;
  *usage.Add() = Line(150'000, 0);
  *usage.Add() = Line(150'000, 0);
  EXPECT_EQ(CostOf(price, usage)->amount.nanos(), 300'000 * 1000);
}

TEST(CostTest, ServiceTierOfTheAnswerCounts) {
  const ModelPrice price = Price(
      "openai gpt-5.4 input=2 output=10 cache_read=0.2 flex.input=1 flex.output=5 "
      "priority.input=4 priority.output=20 batch.input=1 batch.output=5");
  common::v1::UsageLine line = Line(1000, 100);
  for (const char* tier : {"", "default", "standard", "scale", "on_demand"}) {
    line.set_service_tier(tier);
    EXPECT_EQ(Nanos(price, line), 3'000'000) << tier;
  }
  for (const char* tier : {"flex", "ON_DEMAND_FLEX", "batch"}) {
    line.set_service_tier(tier);
    EXPECT_EQ(Nanos(price, line), 1'500'000) << tier;
  }
  for (const char* tier : {"priority", "fast", "ON_DEMAND_PRIORITY"}) {
    line.set_service_tier(tier);
    EXPECT_EQ(Nanos(price, line), 6'000'000) << tier;
  }
}

TEST(CostTest, UnstatedDiscountIsNotGivenUnstatedSurchargeIs) {
  const ModelPrice price =
      Price("openai m input=2 output=10 cache_read=0.2 flex.input=1 flex.output=5 "
            "priority.input=4 priority.output=20 input>272k=4 output>272k=15");
  common::v1::UsageLine line = Line(0, 0);
  line.mutable_usage()->set_cache_read_tokens(1000);
  line.set_service_tier("flex");
  EXPECT_EQ(Nanos(price, line), 1000 * 200);
  line.set_service_tier("priority");
  EXPECT_EQ(Nanos(price, line), 1000 * 400);
  line.set_service_tier("");
  line.mutable_usage()->set_cache_read_tokens(300'000);
  EXPECT_EQ(Nanos(price, line), 300'000 * 400);
  line = Line(300'000, 1);
  line.set_service_tier("flex");  // flex halves, the step doubles
  EXPECT_EQ(Nanos(price, line), 300'000 * 2000 + 7500);
}

TEST(CostTest, CacheWritesWithoutARateFallBackSafely) {
  common::v1::UsageLine line = Line(0, 0);
  line.mutable_usage()->set_cache_write_5m_tokens(1000);
  EXPECT_EQ(Nanos(Price("anthropic claude-x input=4 output=20"), line), 1000 * 5000);
  EXPECT_EQ(Nanos(Price("bedrock anthropic.claude-x input=4 output=20"), line), 1000 * 5000);
  EXPECT_EQ(Nanos(Price("openai m input=4 output=20"), line), 1000 * 4000);
  line = Line(0, 0);
  line.mutable_usage()->set_cache_write_1h_tokens(1000);
  EXPECT_EQ(Nanos(Price("anthropic claude-x input=4 output=20"), line), 1000 * 8000);
  EXPECT_EQ(Nanos(Price("openai m input=4 output=20 cache_write_5m=5"), line), 1000 * 5000);
  EXPECT_EQ(Nanos(Price("openai m input=4 output=20"), line), 1000 * 4000);
  // The step that the catalogue does not state for 1-hour writes.
  line.mutable_usage()->set_cache_write_1h_tokens(300'000);
  EXPECT_EQ(Nanos(Price("anthropic claude-sonnet-4 input=3 output=15 cache_write_1h=6 input>200k=6 "
                        "output>200k=22.5"),
                  line),
            int64_t{300'000} * 12'000);
}

TEST(CostTest, ReasoningIsPartOfOutputUnlessItHasARate) {
  common::v1::UsageLine line = Line(0, 100);
  line.mutable_usage()->set_reasoning_tokens(40);
  EXPECT_EQ(Nanos(Price("v m input=1 output=10"), line), 100 * 10'000);
  EXPECT_EQ(Nanos(Price("v m input=1 output=10 reasoning=3"), line), 60 * 10'000 + 40 * 3000);
  line.mutable_usage()->set_reasoning_tokens(140);  // seen on the wire: more reasoning than output
  EXPECT_EQ(Nanos(Price("v m input=1 output=10 reasoning=3"), line), 100 * 3000);
}

TEST(CostTest, AudioAndImagesHaveTheirOwnRates) {
  const ModelPrice price = Price("gemini m input=0.3 output=2.5 cache_read=0.03 input_audio=1 "
                                 "output_audio=12 input_image=0.5");
  common::v1::UsageLine line = Line(0, 0);
  line.mutable_usage()->set_audio_input_tokens(1000);
  line.mutable_usage()->set_audio_output_tokens(100);
  line.mutable_usage()->set_image_input_tokens(10);
  line.mutable_usage()->set_tool_use_input_tokens(10);
  EXPECT_EQ(Nanos(price, line), 1000 * 1000 + 100 * 12'000 + 10 * 500 + 10 * 300);
  line = Line(0, 0);
  line.mutable_usage()->set_audio_cache_read_tokens(1000);
  EXPECT_EQ(Nanos(price, line), 1000 * 100);  // cached as audio is to text
}

TEST(CostTest, SearchFees) {
  common::v1::UsageLine line = Line(0, 0);
  line.mutable_usage()->set_web_search_calls(3);
  const ModelPrice price =
      Price("v m input=1 output=1 search_low=0.03 search_medium=0.035 search_high=0.05 x.speed:f=2");
  EXPECT_EQ(Nanos(price, line), 105'000'000);
  line.add_modifiers("search:low");
  line.add_modifiers("speed:f");  // factors are for tokens
  EXPECT_EQ(Nanos(price, line), 90'000'000);
  line.set_modifiers(0, "search:high");
  EXPECT_EQ(Nanos(price, line), 150'000'000);
  EXPECT_EQ(Nanos(Price("v m input=1 output=1"), line), 105'000'000);  // unstated is not free
}

TEST(CostTest, FactorsMultiply) {
  const ModelPrice price = Price("anthropic claude-opus-4-6 input=5 output=25 x.geo:us=1.1 "
                                 "x.speed:fast=6 regional_uplift_eu=1.1");
  common::v1::UsageLine line = Line(1000, 100);
  line.add_modifiers("geo:us");
  EXPECT_EQ(Nanos(price, line), 8'250'000);
  line.add_modifiers("speed:fast");
  EXPECT_EQ(Nanos(price, line), 49'500'000);
  line.add_modifiers("region:eu");
  EXPECT_EQ(Nanos(price, line), 54'450'000);
  line.clear_modifiers();
  line.add_modifiers("speed:unheard-of");
  EXPECT_EQ(Nanos(price, line), 7'500'000);
}

TEST(CostTest, UnpricedModelIsNeverFree) {
  UsageLines usage;
  *usage.Add() = Line(1, 1);
  EXPECT_EQ(ReasonOf(CostOf(Price("openai container mode=chat"), usage).status()),
            "MODEL_UNPRICED");
  EXPECT_EQ(ReasonOf(CostOf([](std::string_view) { return nullptr; }, usage).status()),
            "MODEL_UNPRICED");
  EXPECT_EQ(ReasonOf(BoundCost(Price("openai container mode=chat"), {}).status()),
            "MODEL_UNPRICED");
}

TEST(CostTest, ImpossibleCountsAreRefused) {
  const ModelPrice price = Price("v m input=1 output=1");
  UsageLines usage;
  *usage.Add() = Line(-1, 0);
  EXPECT_EQ(ReasonOf(CostOf(price, usage).status()), "BAD_USAGE");
  *usage.Mutable(0) = Line(10'000'000'001, 0);
  EXPECT_EQ(ReasonOf(CostOf(price, usage).status()), "BAD_USAGE");
  *usage.Mutable(0) = Line(10'000'000'000, 10'000'000'000);
  EXPECT_TRUE(CostOf(price, usage).ok());
  EXPECT_EQ(ReasonOf(CostOf(Price("v m input=1000000 output=1000000"), usage).status()),
            "AMOUNT_OUT_OF_RANGE");
}

TEST(DetailTest, ForeignOrDamagedDetailIsRefused) {
  UsageLines usage;
  *usage.Add() = Line(10, 20);
  const std::string detail = CostOf(Price("v m input=1 output=2"), usage)->detail_json;
  EXPECT_EQ(RecomputeFromDetail(detail, usage)->nanos(), 50'000);
  for (const std::string& bad : {
           std::string(), std::string("{}"), std::string("[]"), detail.substr(1),
           std::string("{\"v\":2,\"lines\":[]}"), std::string("{\"v\":1,\"lines\":[]}"),
           std::string("{\"v\":1,\"lines\":[{\"rates\":{\"input\":\"1\"}}]}"),
           std::string("{\"v\":1,\"lines\":[{\"rates\":{\"input\":1,\"output\":\"1\"}}]}"),
           std::string("{\"v\":1,\"lines\":[{\"rates\":{\"gold\":\"1\"}}]}"),
           std::string("{\"v\":1,\"lines\":[{\"rates\":{\"input\":\"-1\",\"output\":\"1\"}}]}"),
       }) {
    EXPECT_EQ(ReasonOf(RecomputeFromDetail(bad, usage).status()), "BAD_PRICE_DETAIL") << bad;
  }
}

TEST(BoundTest, TakesTheDearestClassTierAndStepThatCanOccur) {
  const ModelPrice price = Price(
      "anthropic claude-sonnet-4-5 input=3 output=15 cache_read=0.3 cache_write_5m=3.75 "
      "cache_write_1h=6 input>200k=6 output>200k=22.5 cache_read>200k=0.6 cache_write_5m>200k=7.5 "
      "search_low=0.01 search_medium=0.01 search_high=0.01");
  TokenBound bound;
  bound.input_tokens = 1000;
  bound.output_tokens = 100;
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 1000 * 3000 + 100 * 15'000);
  bound.cache_write_5m = true;
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 1000 * 3750 + 100 * 15'000);
  bound.cache_write_1h = true;
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 1000 * 6000 + 100 * 15'000);
  bound.web_search_calls = 2;
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 1000 * 6000 + 100 * 15'000 + 20'000'000);
  bound = {.input_tokens = 200'001, .output_tokens = 100};
  EXPECT_EQ(BoundCost(price, bound)->nanos(), int64_t{200'001} * 6000 + 100 * 22'500);
}

TEST(BoundTest, TierThatTheProviderMayChooseCounts) {
  const ModelPrice price = Price("openai m input=2 output=10 flex.input=1 flex.output=5 "
                                 "priority.input=4 priority.output=20");
  TokenBound bound{.input_tokens = 1000, .output_tokens = 100};
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 6'000'000);
  bound.service_tier = "auto";
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 6'000'000);
  bound.service_tier = "default";
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 3'000'000);
  bound.service_tier = "flex";  // may still be served as standard
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 3'000'000);
  bound.service_tier = "priority";
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 6'000'000);
}

TEST(BoundTest, WritesThatAModelMakesByItselfCount) {
  const TokenBound bound{.input_tokens = 1000};
  EXPECT_EQ(BoundCost(Price("openai gpt-5.6 input=5 output=30 cache_write_5m=6.25"), bound)->nanos(),
            6'250'000);
}

TEST(BoundTest, DearestGeographyAndTheSpeedAskedFor) {
  const ModelPrice price =
      Price("anthropic claude-opus-5 input=5 output=25 x.geo:us=1.1 x.speed:fast=2");
  TokenBound bound{.input_tokens = 1000};
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 5'500'000);
  bound.modifiers = {"speed:fast"};
  EXPECT_EQ(BoundCost(price, bound)->nanos(), 11'000'000);
}

}  // namespace
}  // namespace tollhouse::policy
