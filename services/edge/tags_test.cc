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

}  // namespace
}  // namespace tollhouse::edge
