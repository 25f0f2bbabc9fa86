#include "services/ledger/core/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "libs/base/error.h"

namespace tollhouse::ledger {
namespace {

using ::testing::ElementsAre;

TEST(CheckNameTest, TakesWhatTheContractAllows) {
  for (const char* name : {"a", "acme", "sarah@acme.com", "A-1_b.c", "...", "-"}) {
    EXPECT_TRUE(CheckName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckName(std::string(64, 'x')).ok());
}

TEST(CheckNameTest, SaysWhatIsWrongWithoutRepeatingControlCharacters) {
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a b"),
                                  std::string("a/b"), std::string("a\x1b[31m"), std::string("\xc3\xa4"),
                                  std::string(65, 'x'), std::string("a\0b", 3)}) {
    const absl::Status status = CheckName(name);
    EXPECT_EQ(ReasonOf(status), "BAD_NAME") << name;
    for (const char c : std::string(status.message())) EXPECT_GE(c, 0x20);
  }
}

TEST(SplitPathTest, IsOneToFourNames) {
  EXPECT_THAT(SplitPath("a/b/c/d").value(), ElementsAre("a", "b", "c", "d"));
  for (const char* path : {"", "/", "a/", "/a", "a//b", "a/b/c/d/e", "a/../b"}) {
    EXPECT_EQ(ReasonOf(SplitPath(path).status()), "BAD_NAME") << path;
  }
  EXPECT_EQ(ReasonOf(SplitPath(std::string(1 << 20, '/')).status()), "BAD_NAME");
}

TEST(PathTest, BelowIsByWholeNames) {
  EXPECT_TRUE(IsAtOrBelow("acme/pay", "acme"));
  EXPECT_TRUE(IsAtOrBelow("acme", "acme"));
  EXPECT_TRUE(IsAtOrBelow("acme", ""));
  EXPECT_FALSE(IsAtOrBelow("acme2", "acme"));
  EXPECT_FALSE(IsAtOrBelow("acme", "acme/pay"));
  EXPECT_EQ(ParentOf("a/b/c"), "a/b");
  EXPECT_EQ(ParentOf("a"), "");
}

TEST(TagsTest, EncodingRoundTripsAndIsUnambiguous) {
  const std::map<std::string, std::string> tags = {
      {"a", "1&b=2"}, {"b", "x%3D,y[z]"}, {"c", ""}, {"d", "\xc3\xa4 \"quoted\""}};
  EXPECT_EQ(DecodeTags(EncodeTags(tags)), tags);
  EXPECT_EQ(EncodeTags({{"use_case", "batch"}, {"model", "gpt-5"}}), "model=gpt-5&use_case=batch");
  EXPECT_NE(EncodeTags({{"a", "1&b=2"}}), EncodeTags({{"a", "1"}, {"b", "2"}}));
  EXPECT_TRUE(DecodeTags("").empty());
}

TEST(TagsTest, AreBounded) {
  EXPECT_TRUE(CheckTags({{"key", std::string(256, 'x')}}).ok());
  EXPECT_FALSE(CheckTags({{"key", std::string(257, 'x')}}).ok());
  EXPECT_FALSE(CheckTags({{"", "x"}}).ok());
  EXPECT_FALSE(CheckTags({{"k", "a\nb"}}).ok());
}

TEST(BudgetDisplayIdTest, ReadsAsDocumented) {
  EXPECT_EQ(BudgetDisplayId("acme/payments", "", "month", "", ""), "acme/payments#month");
  EXPECT_EQ(BudgetDisplayId("acme", "infra", "month", "model=x", ""), "acme#infra");
  EXPECT_EQ(BudgetDisplayId("acme", "", "day", "model=x&team=y", ""), "acme#day[model=x&team=y]");
  EXPECT_EQ(BudgetDisplayId("acme", "", "month", "", "user"), "acme#month*user");
}

}  // namespace
}  // namespace tollhouse::ledger
