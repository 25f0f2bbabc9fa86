#include "tools/simprovider/tokens.h"

#include <string>

#include "gtest/gtest.h"

namespace tollhouse::simprovider {
namespace {

PromptSize SizeOf(const std::string& json) {
  simdjson::dom::parser parser;
  PromptSize size;
  AddPrompt(parser.parse(json), &size);
  return size;
}

TEST(TokensTest, EveryStringValueCountsAndKeysAndNumbersDoNot) {
  const PromptSize size = SizeOf(R"([{"role":"user","content":"hello"},{"a":[1,true,null,"xy"]}])");
  EXPECT_EQ(size.text_bytes, 4 + 5 + 2);
  EXPECT_EQ(size.media, 0);
}

TEST(TokensTest, BytesAreThoseOfDecodedUtf8) {
  EXPECT_EQ(SizeOf(R"(["\u00e4", "ä", "\n"])").text_bytes, 2 + 2 + 1);
}

TEST(TokensTest, MediaPartsCountOnceWhateverTheirSize) {
  const PromptSize size = SizeOf(
      R"([{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAA"}},
          {"type":"text","text":"see"}])");
  EXPECT_EQ(size.media, 1);
  EXPECT_EQ(size.text_bytes, 4 + 3);
}

TEST(TokensTest, RoundsUpAndAddsTheConstants) {
  EXPECT_EQ(InputTokens({.text_bytes = 9, .messages = 2, .media = 1}, 10'000), 3 + 8 + 85 + 3);
  EXPECT_EQ(InputTokens({.text_bytes = 8}, 10'000), 2 + 3);
}

TEST(TokensTest, NeverAboveBodyBytesPlus1024) {
  EXPECT_EQ(InputTokens({.messages = 1, .media = 1000}, 50), 1074);
}

}  // namespace
}  // namespace tollhouse::simprovider
