// Values, tables and parsers: everything that is text in or text out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "libs/base/money.h"
#include "tollhouse/ledger/v1/ledger_admin.pb.h"
#include "tollhouse/router/v1/router_admin.pb.h"
#include "tools/tollctl/explain_view.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/parse.h"
#include "tools/tollctl/price_view.h"
#include "tools/tollctl/table.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr int64_t kDollar = 1'000'000'000;

absl::Time At(const char* text) {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, text, &time, &error)) << error;
  return time;
}

TEST(JsonTest, CountsAreQuotedNumbersAreNot) {
  const Value value = Value::Object({{"spent_nanousd", Value::Count(800'000'123'456'789)},
                                     {"hard_pct", Value::Number(100)},
                                     {"ok", true},
                                     {"match", Value::Object()},
                                     {"models", Value::List()}});
  EXPECT_EQ(ToJson(value),
            "{\n  \"spent_nanousd\": \"800000123456789\",\n  \"hard_pct\": 100,\n  \"ok\": true,\n"
            "  \"match\": {},\n  \"models\": []\n}\n");
}

TEST(JsonTest, TextIsEscaped) {
  EXPECT_EQ(ToJson(Value("a\"b\\c\nd\x01")), "\"a\\\"b\\\\c\\nd\\u0001\"\n");
}

TEST(JsonTest, ProtoFieldsKeepNamesAndZeroValues) {
  ledger::v1::Budget budget;
  budget.set_id("acme/payments#month");
  budget.set_hard_pct(100);
  (*budget.mutable_match())["b"] = "2";
  (*budget.mutable_match())["a"] = "1";
  const std::string total = ToJson(FromProto(budget));
  EXPECT_THAT(total, HasSubstr("\"spent_nanousd\": \"0\""));
  EXPECT_THAT(total, HasSubstr("\"hard_pct\": 100"));
  EXPECT_THAT(total, HasSubstr("\"match\": {\n    \"a\": \"1\",\n    \"b\": \"2\"\n  }"));
  EXPECT_THAT(total, Not(HasSubstr("resets_at")));  // a total window has none

  budget.mutable_resets_at()->set_seconds(1764543600);
  EXPECT_THAT(ToJson(FromProto(budget)), HasSubstr("\"resets_at\": \"2025-11-30T23:00:00Z\""));
}

TEST(YamlTest, ScalarsThatYamlWouldMisreadAreQuoted) {
  EXPECT_EQ(YamlScalar("acme/payments#month"), "acme/payments#month");
  EXPECT_EQ(YamlScalar("https://api.openai.com/v1"), "https://api.openai.com/v1");
  for (const char* text : {"800.00", "0", "2026-12-01", "true", "No", "", "a: b", "a #b", "-", "*x",
                           "null", "~", "trailing ", "a:"}) {
    EXPECT_EQ(YamlScalar(text), "\"" + std::string(text) + "\"");
  }
}

TEST(YamlTest, ListsAndObjectsNest) {
  const Value value = Value::Object(
      {{"kind", "Budget"},
       {"spec", Value::Object({{"limit", "800.00"},
                               {"soft", Value::List({Value::Number(80), Value::Number(110)})},
                               {"none", Value::List()}})},
       {"rows", Value::List({Value::Object({{"a", "x"}, {"b", Value::Count(7)}})})}});
  EXPECT_EQ(ToYaml(value),
            "kind: Budget\nspec:\n  limit: \"800.00\"\n  soft:\n  - 80\n  - 110\n  none: []\n"
            "rows:\n- a: x\n  b: 7\n");
}

TEST(CsvTest, NestedFieldsBecomeDottedColumnsAndCommasAreQuoted) {
  const std::vector<Value> rows = {
      Value::Object({{"group", Value::Object({{"team", "acme/a"}})}, {"cost_nanousd", Value::Count(5)}}),
      Value::Object({{"group", Value::Object({{"team", "a,\"b\""}})}, {"more", "x"}})};
  EXPECT_EQ(ToCsv(rows),
            "group.team,cost_nanousd,more\r\nacme/a,5,\r\n\"a,\"\"b\"\"\",,x\r\n");
}

TEST(TableTest, MoneyIsRightAlignedWithTheSameDecimals) {
  const std::vector<Value> rows = {
      Value::Object({{"id", "acme"}, {"limit", Value::Count(1'234'567 * kDollar)}, {"spent", Value::Count(0)}}),
      Value::Object({{"id", "acme/payments"}, {"limit", Value::Count(800 * kDollar)},
                     {"spent", Value::Count(12'345'678'912)}})};
  EXPECT_EQ(RenderTable({Column::Text("BUDGET", "id"), Column::Money("LIMIT", "limit"),
                         Column::Money("SPENT", "spent")},
                        rows),
            "BUDGET                 LIMIT     SPENT\n"
            "acme           $1,234,567.00   $0.0000\n"
            "acme/payments        $800.00  $12.3457\n");
}

TEST(TableTest, TotalStandsBelowARuleAndEmptyColumnsAreHidden) {
  const Value row = Value::Object({{"team", "a"}, {"n", Value::Count(1234)}, {"x", ""}});
  const Value total = Value::Object({{"team", "total"}, {"n", Value::Count(1234)}});
  EXPECT_EQ(RenderTable({Column::Text("TEAM", "team"), Column::Count("N", "n"),
                         Column::Text("X", "x").IfAny()},
                        {row}, total),
            "TEAM       N\na      1,234\n------------\ntotal  1,234\n");
}

TEST(TableTest, DetailsShowEveryNanoDollar) {
  const Value row = Value::Object({{"cost", Value::Count(11'100)}, {"limit", Value::Count(1'250 * kDollar)},
                                   {"one", Value::Count(1)}});
  EXPECT_EQ(RenderDetails({Column::Money("COST", "cost"), Column::Money("Limit", "limit"),
                           Column::Money("BASE URL", "one")},
                          row),
            "Cost:      $0.0000111\nLimit:     $1,250.00\nBase URL:  $0.000000001\n");
}

TEST(TableTest, MoneyNeverRoundsToNothing) {
  EXPECT_EQ(MoneyText(800 * kDollar), "$800.00");
  EXPECT_EQ(MoneyText(-1'234'567'890'000), "-$1,234.5679");
  EXPECT_EQ(MoneyText(1), "<$0.0001");
  EXPECT_EQ(MoneyText(0), "$0.00");
  EXPECT_EQ(MoneyText(999'999'999), "$1.0000");
  EXPECT_EQ(MoneyText(INT64_MIN + 1, 2), "-$9,223,372,036.85");
}

TEST(TableTest, BarsAndRelativeTimes) {
  EXPECT_EQ(PercentBar(62, 100), "██████░░░░  62 %");
  EXPECT_EQ(PercentBar(150, 100), "██████████ 150 %");
  EXPECT_EQ(PercentBar(4'000'000'000'000'000'000, 4'000'000'000'000'000'000), "██████████ 100 %");
  EXPECT_EQ(PercentBar(1, 0), "");
  const absl::Time now = At("2026-11-21T12:00:00Z");
  EXPECT_EQ(RelativeTime(now + absl::Hours(24 * 9 + 12), now), "in 9 d 12 h");
  EXPECT_EQ(RelativeTime(now + absl::Hours(24 * 90) - absl::Milliseconds(20), now), "in 90 d");
  EXPECT_EQ(RelativeTime(now - absl::Hours(24 * 30), now), "30 d ago");
  EXPECT_EQ(RelativeTime(now - absl::Seconds(61), now), "1 min 1 s ago");
  EXPECT_EQ(RelativeTime(now, now), "now");
}

TEST(ParseTest, Spans) {
  EXPECT_EQ(*ParseSpan("90d"), absl::Hours(24 * 90));
  EXPECT_EQ(*ParseSpan("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseSpan("2w"), absl::Hours(24 * 14));
  for (const char* text : {"", "90", "d", "-1d", "1.5h", "90 d", "1y", "9999999999d"}) {
    EXPECT_FALSE(ParseSpan(text).ok()) << text;
  }
}

TEST(ParseTest, DatesAreLocalMidnightAtTheirStart) {
  absl::TimeZone berlin;
  ASSERT_TRUE(absl::LoadTimeZone("Europe/Berlin", &berlin));
  EXPECT_EQ(*ParseMoment("2026-12-01", berlin), At("2026-11-30T23:00:00Z"));
  EXPECT_EQ(*ParseMoment("2026-12-01", absl::UTCTimeZone()), At("2026-12-01T00:00:00Z"));
  EXPECT_EQ(*ParseMoment("2026-12-01T18:00:00+01:00", berlin), At("2026-12-01T17:00:00Z"));
  for (const char* text : {"2026-12", "2026-13-01", "2026-02-30", "tomorrow", "infinite-future", ""}) {
    EXPECT_FALSE(ParseMoment(text, berlin).ok()) << text;
  }
}

TEST(ParseTest, PastAndFutureAreMeasuredFromNow) {
  const absl::Time now = At("2026-11-21T12:00:00Z");
  EXPECT_EQ(*ParsePast("30d", now), now - absl::Hours(24 * 30));
  EXPECT_EQ(*ParsePast("2026-11-01", now), At("2026-11-01T00:00:00Z"));
  EXPECT_EQ(*ParseFuture("90d", now), now + absl::Hours(24 * 90));
  EXPECT_FALSE(ParseFuture("2026-11-01", now).ok());
  EXPECT_FALSE(ParseFuture("0", now).ok());
}

TEST(ParseTest, TagsListsAndPercents) {
  EXPECT_THAT(*ParseTag("k=v=w"), Pair("k", "v=w"));
  EXPECT_FALSE(ParseTag("=v").ok());
  EXPECT_FALSE(ParseTag("kv").ok());
  EXPECT_THAT(*ParseList("a, b"), ElementsAre("a", "b"));
  EXPECT_FALSE(ParseList("a,,b").ok());
  EXPECT_THAT(*ParsePercents("110,80,80"), ElementsAre(80, 110));
  for (const char* text : {"0", "1001", "80.5", "80,", "-1", "x"}) {
    EXPECT_FALSE(ParsePercents(text).ok()) << text;
  }
}

TEST(ParseTest, AmountsAreExactDecimals) {
  EXPECT_EQ(*ParseAmount("800"), 800 * kDollar);
  EXPECT_EQ(*ParseAmount("0.000000001"), 1);
  for (const char* text : {"-1", "1e3", "$5", "1,000", "0.0000000001", "NaN", "99999999999"}) {
    EXPECT_FALSE(ParseAmount(text).ok()) << text;
  }
}

TEST(ParseTest, ClosestNeedsToBeNear) {
  EXPECT_EQ(Closest("acme/paymnts", {"acme/search", "acme/payments"}), "acme/payments");
  EXPECT_EQ(Closest("budgt", {"org", "budget"}), "budget");
  EXPECT_EQ(Closest("zzz", {"org", "budget"}), "");
}

ledger::v1::JournalEntry Attempt(int number, const char* provider, int64_t cost) {
  ledger::v1::JournalEntry posted;
  posted.set_state(cost > 0 ? "settled" : "void");
  ledger::v1::Entry& entry = *posted.mutable_entry();
  entry.set_request_id("r-1");
  entry.set_attempt(number);
  entry.set_account_path("acme/payments/sarah/laptop");
  entry.set_provider(provider);
  entry.set_model("gpt-4o");
  entry.set_usage_source(common::v1::USAGE_SOURCE_FINAL);
  entry.set_cost_nanousd(cost);
  entry.set_hold_nanousd(1000);
  entry.set_status("ok");
  common::v1::Usage& usage = *entry.add_usage()->mutable_usage();
  usage.set_input_tokens_uncached(10);
  usage.set_cache_read_tokens(5);
  usage.set_cache_write_5m_tokens(3);
  usage.set_cache_write_1h_tokens(2);
  usage.set_audio_cache_read_tokens(1);
  usage.set_output_tokens(7);
  usage.set_audio_output_tokens(4);
  usage.set_reasoning_tokens(6);
  return posted;
}

TEST(ExplainTest, InputIncludesCachedAndOutputIncludesReasoning) {
  ledger::v1::ExplainRequestResponse response;
  *response.add_attempts() = Attempt(1, "openai", 42);
  const Value value = ExplainDocument(response);
  EXPECT_EQ(value.At("usage.input_tokens"), Value::Count(21));
  EXPECT_EQ(value.At("usage.cached_input_tokens"), Value::Count(6));
  EXPECT_EQ(value.At("usage.cache_write_tokens"), Value::Count(5));
  EXPECT_EQ(value.At("usage.output_tokens"), Value::Count(11));
  EXPECT_EQ(value.At("usage.reasoning_tokens"), Value::Count(6));
  EXPECT_EQ(value.At("usage_source"), Value("final"));
  EXPECT_EQ(value.At("cost_nanousd"), Value::Count(42));
  EXPECT_TRUE(value.At("attempts").is_null());
}

TEST(ExplainTest, AnEstimateIsShownThoughSomethingRemainsInSuspense) {
  ledger::v1::ExplainRequestResponse response;
  ledger::v1::JournalEntry& estimate = *response.add_attempts();
  estimate = Attempt(1, "openai", 42);
  estimate.set_state("estimated");
  estimate.mutable_entry()->set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
  ledger::v1::JournalEntry& rest = *response.add_attempts();
  rest = estimate;
  rest.set_state("suspense");
  rest.mutable_entry()->clear_usage();
  rest.mutable_entry()->clear_usage_source();
  rest.mutable_entry()->clear_cost_nanousd();
  const Value value = ExplainDocument(response);
  EXPECT_EQ(value.At("state"), Value("estimated"));
  EXPECT_EQ(value.At("usage_source"), Value("estimated"));
  EXPECT_EQ(value.At("usage.output_tokens"), Value::Count(11));
  EXPECT_EQ(value.At("cost_nanousd"), Value::Count(42));
  EXPECT_EQ(value.At("attempts").items().size(), 2u);
}

TEST(ExplainTest, TheSumIsShownTermByTermAndExactly) {
  ledger::v1::ExplainRequestResponse response;
  *response.add_attempts() = Attempt(1, "openai", 10);
  ledger::v1::Entry& entry = *response.mutable_attempts(0)->mutable_entry();
  entry.clear_usage();
  auto* usage = entry.add_usage()->mutable_usage();
  usage->set_input_tokens_uncached(1001);
  usage->set_output_tokens(3);
  usage->set_web_search_calls(2);
  entry.set_price_detail(
      R"({"v":1,"lines":[{"model":"gpt-x","tier":"flex","above":0,"factor_ppm":1100000,)"
      R"("rates":{"input":"37500000","output":"600000000"},"search":"10000000"}]})");
  entry.set_cost_nanousd(20'043'272);  // 41,291.25 + 1,980 + 20,000,000
  const Value value = ExplainDocument(response);
  const auto& rows = value.At("sum").items();
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].At("model"), Value("gpt-x flex"));
  EXPECT_EQ(rows[0].At("item"), Value("input"));
  EXPECT_EQ(rows[0].At("quantity"), Value::Count(1001));
  EXPECT_EQ(rows[0].At("unit_price"), Value("0.0375/M"));
  EXPECT_EQ(rows[0].At("factor"), Value("1.1"));
  EXPECT_EQ(rows[0].At("amount"), Value("0.00004129125"));
  EXPECT_EQ(rows[1].At("amount"), Value("0.00000198"));
  EXPECT_EQ(rows[2].At("amount"), Value("0.02"));
  EXPECT_EQ(rows[3].At("amount"), Value("0.00000000075"));
}

TEST(ExplainTest, SeveralAttemptsAreListedAndTheirCostAddsUp) {
  ledger::v1::ExplainRequestResponse response;
  *response.add_attempts() = Attempt(1, "openai", 10);
  *response.add_attempts() = Attempt(2, "azure", 32);
  const Value value = ExplainDocument(response);
  EXPECT_EQ(value.At("provider"), Value("azure"));
  EXPECT_EQ(value.At("cost_nanousd"), Value::Count(42));
  ASSERT_EQ(value.At("attempts").items().size(), 2u);
  EXPECT_EQ(value.At("attempts").items()[0].At("cost_nanousd"), Value::Count(10));
}

TEST(PriceTest, SettingsGoBothWays) {
  const auto price = PriceFromSettings("openai", "gpt-x",
                                       {{"input", "2.5"}, {"input>200k", "5"}, {"batch.output", "5"},
                                        {"output", "10"}, {"max_output", "4096"},
                                        {"other", "{\"per_second\": \"0.1\"}"}, {"source", "a \"b\""}});
  ASSERT_TRUE(price.ok()) << price.status();
  const auto settings = PriceSettings(*price);
  const auto again = PriceFromSettings("openai", "gpt-x", settings);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(PriceSettings(*again), settings);
  EXPECT_EQ(again->rates_size(), price->rates_size());
  EXPECT_EQ(again->source(), "a \"b\"");
  EXPECT_FALSE(PriceFromSettings("openai", "gpt x", {{"input", "1"}}).ok());
  EXPECT_FALSE(PriceFromSettings("openai", "gpt-x", {{"inputs", "1"}}).ok());
  EXPECT_FALSE(PriceFromSettings("openai", "gpt-x", {{"source", "a\nprice b c input=0"}}).ok());
}

TEST(PriceTest, FilesAreTextOrJson) {
  const auto text = ParsePriceFile("# mine\nprice openai gpt-x input=2.5 output=10\n");
  ASSERT_TRUE(text.ok()) << text.status();
  router::v1::ListPricesResponse list;
  *list.add_prices() = text->prices[0];
  const auto json = ParsePriceFile(ToJson(FromProto(list)));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->prices[0].SerializeAsString(), text->prices[0].SerializeAsString());
  EXPECT_THAT(std::string(ParsePriceFile("price openai").status().message()), HasSubstr("line 1"));
}

}  // namespace
}  // namespace tollhouse::tollctl
