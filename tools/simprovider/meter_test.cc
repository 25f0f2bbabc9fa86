#include "tools/simprovider/meter.h"

#include <simdjson.h>

#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::simprovider {
namespace {

constexpr TokenPrices kMini = {.input = 150'000'000,
                               .output = 600'000'000,
                               .cache_read = 75'000'000,
                               .cache_write_5m = 150'000'000,
                               .cache_write_1h = 150'000'000};

TEST(CostTest, AddsEveryClassAtItsOwnPrice) {
  const TokenPrices prices = {.input = 3'000'000'000,
                              .output = 15'000'000'000,
                              .cache_read = 300'000'000,
                              .cache_write_5m = 3'750'000'000,
                              .cache_write_1h = 6'000'000'000};
  // 330 x 3000 + 100 x 300 + 50 x 3750 + 20 x 6000 + 30 x 15000 nano-USD
  EXPECT_EQ(Cost(prices, {.input = 500,
                          .cached = 100,
                          .cache_write_5m = 50,
                          .cache_write_1h = 20,
                          .output = 30,
                          .reasoning = 10}),
            NanoUsd(990'000 + 30'000 + 187'500 + 120'000 + 450'000));
}

TEST(CostTest, IsRoundedUpOncePerRequest) {
  const TokenPrices prices = {.input = 500'000, .output = 250'000};
  EXPECT_EQ(Cost(prices, {.input = 1}), NanoUsd(1));
  EXPECT_EQ(Cost(prices, {.input = 1, .output = 2}), NanoUsd(1));
  EXPECT_EQ(Cost(prices, {.input = 1, .output = 3}), NanoUsd(2));
  EXPECT_EQ(Cost(prices, {}), NanoUsd(0));
}

TEST(PriceTableTest, DefaultsAreTheListPrices) {
  const PriceTable table = PriceTable::Default();
  ASSERT_NE(table.Find("gpt-4o-mini", 1), nullptr);
  EXPECT_EQ(*table.Find("gpt-4o-mini", 1), kMini);
  EXPECT_EQ(table.Find("gpt-5-mini", 1)->cache_read, 25'000'000);
  EXPECT_EQ(table.Find("claude-haiku-4-5", 1)->cache_write_1h, 2'000'000'000);
  EXPECT_EQ(table.Find("gpt-unknown", 1), nullptr);
}

TEST(PriceTableTest, DatedNamesFallBack) {
  const PriceTable table = PriceTable::Default();
  EXPECT_EQ(table.Find("gpt-4o-mini-2024-07-18", 1), table.Find("gpt-4o-mini", 1));
  EXPECT_EQ(table.Find("claude-sonnet-4-5-20250929", 1), table.Find("claude-sonnet-4-5", 1));
  EXPECT_EQ(table.Find("gpt-4o-mini-2024-07", 1), nullptr);
}

TEST(PriceTableTest, ATierHoldsAboveItsThresholdForTheWholeRequest) {
  const PriceTable table = PriceTable::Default();
  EXPECT_EQ(table.Find("claude-sonnet-4-5", 200'000)->input, 3'000'000'000);
  EXPECT_EQ(table.Find("claude-sonnet-4-5", 200'001)->input, 6'000'000'000);
}

TEST(PriceTableTest, MistakesAreRefused) {
  PriceTable table;
  for (const char* bad : {"", "m", "m=1", "=1,2", "m=1,2,3,4,5,6", "m=1,x", "m=-1,2", "m@0=1,2",
                          "m@x=1,2", "m=1,0.0000000001"}) {
    EXPECT_FALSE(table.Add(bad).ok()) << bad;
  }
  EXPECT_TRUE(table.Add("m=1,2").ok());
  EXPECT_EQ(table.Find("m", 5)->cache_read, 1'000'000'000);
}

class MeterTest : public ::testing::Test {
 protected:
  std::shared_ptr<Record> Begin() { return meter_.Begin({.model = "gpt-4o-mini"}); }

  testing::FakeClock clock_;
  Meter meter_{PriceTable::Default(), 3, &clock_};
};

TEST_F(MeterTest, TheTotalFollowsEveryStepOfAStream) {
  const auto record = Begin();
  EXPECT_EQ(meter_.total(), NanoUsd(0));
  meter_.Bill(record, {.input = 10});
  EXPECT_EQ(meter_.total(), NanoUsd(1500));
  meter_.Bill(record, {.input = 10, .output = 1});
  EXPECT_EQ(meter_.total(), NanoUsd(2100));
  const auto other = Begin();
  meter_.Bill(other, {.input = 1});
  meter_.Bill(record, {.input = 10, .output = 2});
  EXPECT_EQ(meter_.total(), NanoUsd(2850));
  meter_.End(record, 200, true, "ok");
  EXPECT_EQ(meter_.total(), NanoUsd(2850));
}

TEST_F(MeterTest, BillsNothingAfterTheEnd) {
  const auto record = Begin();
  meter_.Bill(record, {.input = 10});
  meter_.End(record, 200, false, "cut");
  meter_.Bill(record, {.input = 10, .output = 100});
  EXPECT_EQ(meter_.total(), NanoUsd(1500));
}

TEST_F(MeterTest, CountsWhatIsInFlight) {
  const auto a = Begin();
  const auto b = Begin();
  meter_.End(a, 200, true, "ok");
  meter_.End(a, 500, false, "error");
  const auto c = Begin();
  EXPECT_EQ(meter_.in_flight(), 2);
  EXPECT_NE(meter_.TotalsJson().find("\"max_concurrent\":2,"), std::string::npos);
  EXPECT_EQ(a->end, "ok");
}

TEST_F(MeterTest, TotalsOutliveDroppedRecords) {
  for (int i = 0; i < 5; ++i) {
    const auto record = Begin();
    meter_.Bill(record, {.input = 10});
    meter_.End(record, 200, true, "ok");
  }
  EXPECT_EQ(meter_.total(), NanoUsd(7500));
  EXPECT_NE(meter_.TotalsJson().find("\"requests\":5,\"billed_requests\":5"), std::string::npos);
  EXPECT_NE(meter_.TotalsJson().find("\"records_dropped\":2"), std::string::npos);
  int64_t after = 0;
  const std::string lines = meter_.RecordLines(&after, 100);
  EXPECT_TRUE(lines.starts_with("{\"seq\":3,")) << lines;
  EXPECT_EQ(after, 5);
  EXPECT_EQ(meter_.RecordLines(&after, 100), "");
}

TEST_F(MeterTest, PagesThroughRecords) {
  for (int i = 0; i < 3; ++i) Begin();
  int64_t after = 1;
  EXPECT_TRUE(meter_.RecordLines(&after, 1).starts_with("{\"seq\":2,"));
  EXPECT_TRUE(meter_.RecordLines(&after, 1).starts_with("{\"seq\":3,"));
  EXPECT_EQ(meter_.RecordLines(&after, 1), "");
}

TEST_F(MeterTest, ResetForgetsWhatIsInFlight) {
  const auto record = Begin();
  meter_.Bill(record, {.input = 10});
  meter_.Reset();
  EXPECT_EQ(meter_.total(), NanoUsd(0));
  meter_.Bill(record, {.input = 10, .output = 5});
  meter_.End(record, 200, true, "ok");
  EXPECT_EQ(meter_.total(), NanoUsd(0));
  EXPECT_EQ(meter_.in_flight(), 0);
  EXPECT_EQ(Begin()->seq, 2);
}

TEST_F(MeterTest, AModelWithoutAPriceIsCountedAndCostsNothing) {
  const auto record = meter_.Begin({.model = "mystery"});
  meter_.Bill(record, {.input = 10});
  EXPECT_EQ(meter_.total(), NanoUsd(0));
  EXPECT_NE(meter_.TotalsJson().find("\"unpriced_requests\":1"), std::string::npos);
}

TEST_F(MeterTest, TheFileHasEachRecordWhenItEnds) {
  const testing::TempDir dir;
  ASSERT_TRUE(meter_.OpenFile(dir.File("meter.jsonl")).ok());
  const auto record = meter_.Begin({.path = "/v1/\"x", .model = "gpt-4o-mini", .hold_id = "h-1"});
  meter_.Bill(record, {.input = 10, .cached = 4});
  meter_.Snapshot(*record);
  meter_.Bill(record, {.input = 10, .cached = 4, .output = 3});
  meter_.End(record, 200, true, "ok");
  const auto left = Begin();
  meter_.Bill(left, {.input = 1});
  meter_.EndAll();

  std::ifstream file(dir.File("meter.jsonl"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 3u);
  simdjson::dom::parser parser;
  simdjson::dom::element open = parser.parse(lines[0]);
  EXPECT_TRUE(bool(open["open"]));
  EXPECT_EQ(int64_t(open["usage"]["output_tokens"]), 0);
  simdjson::dom::element done = parser.parse(lines[1]);
  EXPECT_FALSE(bool(done["open"]));
  EXPECT_TRUE(bool(done["billed"]));
  EXPECT_TRUE(bool(done["completed"]));
  EXPECT_EQ(std::string_view(done["path"]), "/v1/\"x");
  EXPECT_EQ(std::string_view(done["hold_id"]), "h-1");
  EXPECT_EQ(std::string_view(done["time"]), "2026-11-21T12:00:00.000000Z");
  EXPECT_EQ(int64_t(done["usage"]["cached_input_tokens"]), 4);
  EXPECT_EQ(int64_t(done["usage"]["output_tokens"]), 3);
  EXPECT_EQ(std::string_view(done["cost_nanousd"]), "3000");  // 6 x 150 + 4 x 75 + 3 x 600
  EXPECT_EQ(std::string_view(done["price_nanousd_per_million"]["output"]), "600000000");
  EXPECT_EQ(std::string_view(parser.parse(lines[2])["end"]), "shutdown");
}

}  // namespace
}  // namespace tollhouse::simprovider
