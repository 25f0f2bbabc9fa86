#include "services/edge/tags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "libs/base/error.h"

namespace tollhouse::edge {
namespace {

TEST(TagsTest, HeaderIsAListOfPairs) {
  Tags tags;
  ASSERT_TRUE(ParseTagHeader(" use_case = code-review ,ticket=PAY-12,, a=b=c", &tags).ok());
  EXPECT_EQ(tags, (Tags{{"use_case", "code-review"}, {"ticket", "PAY-12"}, {"a", "b=c"}}));
  for (const char* bad : {"novalue", "=x", "a=1,b"}) {
    Tags ignored;
    EXPECT_EQ(ReasonOf(ParseTagHeader(bad, &ignored)), "BAD_TAGS") << bad;
  }
}

TEST(TagsTest, StrongerSourcesWin) {
  const Tags pinned{{"a", "pinned"}};
  const Tags header{{"a", "header"}, {"b", "header"}};
  const Tags body{{"a", "body"}, {"b", "body"}, {"c", "body"}, {"session", "body"}};
  Tags effective;
  ASSERT_TRUE(MergeTags({&pinned, &header, "s1", &body}, {}, &effective).ok());
  EXPECT_EQ(effective,
            (Tags{{"a", "pinned"}, {"b", "header"}, {"c", "body"}, {"session", "s1"}}));
}

TEST(TagsTest, CountAndSizesAreLimited) {
  const Tags none;
  Tags many, effective;
  for (int i = 0; i < 51; ++i) many[std::to_string(i)] = "x";
  EXPECT_EQ(ReasonOf(MergeTags({&none, &many, "", &none}, {}, &effective)), "BAD_TAGS");
  for (const Tags& bad : {Tags{{std::string(65, 'k'), "v"}}, Tags{{"k", std::string(513, 'v')}},
                          Tags{{"", "v"}}, Tags{{"k", "a\nb"}}, Tags{{"k\r", "v"}}}) {
    EXPECT_EQ(ReasonOf(MergeTags({&none, &bad, "", &none}, {}, &effective)), "BAD_TAGS");
  }
}

TEST(TagRulesTest, RequiredTagsAreNamedWithTheirValues) {
  const std::vector<TagRule> rules = {{"acme", "use_case", true, {"batch", "chat"}},
                                      {"acme/payments", "ticket", true, {}}};
  EXPECT_TRUE(CheckTagRules(rules, {{"use_case", "chat"}, {"ticket", "PAY-1"}, {"other", "x"}}).ok());
  const absl::Status missing = CheckTagRules(rules, {{"ticket", "PAY-1"}});
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(missing), "TAG_REQUIRED");
  EXPECT_EQ(missing.message(),
            "acme requires the tag 'use_case', by the header x-tollhouse-tags: use_case=...; allowed are: "
            "batch, chat");
  EXPECT_EQ(ReasonOf(CheckTagRules(rules, {{"use_case", ""}, {"ticket", "PAY-1"}})), "TAG_REQUIRED");
  EXPECT_EQ(ReasonOf(CheckTagRules(rules, {{"use_case", "chat"}})), "TAG_REQUIRED");
}

TEST(TagRulesTest, EveryLevelsValuesApply) {
  const std::vector<TagRule> rules = {{"acme", "use_case", false, {"batch", "chat"}},
                                      {"acme/payments", "use_case", false, {"chat", "code"}}};
  EXPECT_TRUE(CheckTagRules(rules, {}).ok());
  EXPECT_TRUE(CheckTagRules(rules, {{"use_case", "chat"}}).ok());
  const absl::Status refused = CheckTagRules(rules, {{"use_case", "batch"}});
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(refused), "TAG_NOT_ALLOWED");
  EXPECT_EQ(refused.message(),
            "the tag 'use_case' may not be 'batch' for acme/payments; allowed are: chat, code");
  EXPECT_EQ(ReasonOf(CheckTagRules(rules, {{"use_case", "Chat"}})), "TAG_NOT_ALLOWED");
}

}  // namespace
}  // namespace tollhouse::edge
