#include "tools/simprovider/scenario.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tollhouse::simprovider {
namespace {

TEST(DirectivesTest, AreCollectedFromEveryBlockOfTheText) {
  std::string found;
  CollectDirectives("a [[sim output=2]] b [[sim chunks=3 fault=cut]] c [[other x=1]] [[sim open",
                    &found);
  EXPECT_EQ(found, "output=2 chunks=3 fault=cut");
}

TEST(DirectivesTest, SetWhatTheySay) {
  Script script;
  ASSERT_TRUE(ApplyDirectives("output=200 chunks=20 chunk_delay_ms=5 latency_ms=50 jitter_ms=1 "
                              "fault=cut cut_after=3 cached=100 cache_write=50 cache_write_1h=7 "
                              "reasoning=20 tool=get_weather retry_after=2 on_disconnect=continue "
                              "bill=no input_exact=9 status=200 size_mb=2 hang_ms=8",
                              &script)
                  .ok());
  EXPECT_EQ(script.output, 200);
  EXPECT_EQ(script.chunks, 20);
  EXPECT_EQ(script.chunk_delay_ms, 5);
  EXPECT_EQ(script.latency_ms, 50);
  EXPECT_EQ(script.jitter_ms, 1);
  EXPECT_EQ(script.fault, Fault::kCut);
  EXPECT_EQ(script.cut_after, 3);
  EXPECT_EQ(script.cached, 100);
  EXPECT_EQ(script.cache_write_5m, 50);
  EXPECT_EQ(script.cache_write_1h, 7);
  EXPECT_EQ(script.reasoning, 20);
  EXPECT_EQ(script.tool, "get_weather");
  EXPECT_EQ(script.retry_after, 2);
  EXPECT_TRUE(script.continue_on_disconnect);
  EXPECT_EQ(script.bill, false);
  EXPECT_EQ(script.input, 9);
  EXPECT_TRUE(script.input_exact);
  EXPECT_EQ(script.status, 200);
  EXPECT_EQ(script.size_mb, 2);
  EXPECT_EQ(script.hang_ms, 8);
}

TEST(DirectivesTest, LaterOnesWin) {
  Script script;
  ASSERT_TRUE(ApplyDirectives("output_exact=5 output=7", &script).ok());
  EXPECT_EQ(script.output, 7);
  EXPECT_FALSE(script.output_exact);
}

TEST(DirectivesTest, MistakesAreNamed) {
  for (const char* bad : {"outputs=1", "output=-1", "output=x", "output=", "output", "fault=nope",
                          "fault=399", "fault=600", "bill=maybe", "on_disconnect=1", "status=99",
                          "size_mb=5000", "output=100000001"}) {
    Script script;
    const absl::Status status = ApplyDirectives(bad, &script);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(FaultTest, AnyErrorStatusAndEveryNameIsKnown) {
  Script script;
  ASSERT_TRUE(SetFault("529", &script).ok());
  EXPECT_EQ(script.fault, Fault::kStatus);
  EXPECT_EQ(script.fault_status, 529);
  for (const char* name : {"cut", "cut_before_head", "no_usage", "hang", "malformed", "html",
                           "gigantic", "gzip", "error_midstream"}) {
    ASSERT_TRUE(SetFault(name, &script).ok()) << name;
    EXPECT_EQ(script.fault_name, name);
  }
}

std::vector<std::string> Fates(FaultInjector& faults, int requests) {
  std::vector<std::string> fates;
  for (int i = 0; i < requests; ++i) {
    Script script;
    faults.Draw("gpt-4o", &script);
    fates.push_back(script.fault_name);
  }
  return fates;
}

TEST(FaultInjectorTest, ASeedDecidesEveryFate) {
  FaultInjector a;
  FaultInjector b;
  const char* settings = R"({"rate":0.3,"faults":["cut","500"],"seed":7})";
  ASSERT_TRUE(a.Set(settings).ok());
  ASSERT_TRUE(b.Set(settings).ok());
  const std::vector<std::string> fates = Fates(a, 1000);
  EXPECT_EQ(fates, Fates(b, 1000));
  const auto hit = 1000 - std::count(fates.begin(), fates.end(), "");
  EXPECT_GT(hit, 200);
  EXPECT_LT(hit, 400);
}

TEST(FaultInjectorTest, ADirectiveKeepsItsFault) {
  FaultInjector faults;
  ASSERT_TRUE(faults.Set(R"({"rate":1,"faults":["500"]})").ok());
  Script script;
  ASSERT_TRUE(SetFault("cut", &script).ok());
  faults.Draw("gpt-4o", &script);
  EXPECT_EQ(script.fault, Fault::kCut);
}

TEST(FaultInjectorTest, CountModelAndWithNarrowIt) {
  FaultInjector faults;
  ASSERT_TRUE(faults
                  .Set(R"({"rate":1,"faults":["cut"],"count":2,"model":"gpt-4o",
                           "with":"cut_after=1"})")
                  .ok());
  Script other;
  faults.Draw("gpt-4o-mini", &other);
  EXPECT_EQ(other.fault, Fault::kNone);
  Script first;
  faults.Draw("gpt-4o", &first);
  EXPECT_EQ(first.cut_after, 1);
  EXPECT_EQ(Fates(faults, 3), (std::vector<std::string>{"cut", "", ""}));
}

TEST(FaultInjectorTest, AMistakeLeavesTheOldSettings) {
  FaultInjector faults;
  ASSERT_TRUE(faults.Set(R"({"rate":1,"faults":["500"]})").ok());
  for (const char* bad : {"", "[]", R"({"rate":2,"faults":["cut"]})", R"({"rate":0.5})",
                          R"({"rate":1,"faults":["nope"]})", R"({"rate":1,"fault":["cut"]})",
                          R"({"rate":1,"faults":["cut"],"with":"x=1"})"}) {
    EXPECT_FALSE(faults.Set(bad).ok()) << bad;
  }
  EXPECT_EQ(Fates(faults, 1), std::vector<std::string>{"500"});
  faults.Clear();
  EXPECT_EQ(Fates(faults, 1), std::vector<std::string>{""});
}

}  // namespace
}  // namespace tollhouse::simprovider
