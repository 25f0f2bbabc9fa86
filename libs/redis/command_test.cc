#include "libs/redis/command.h"

#include <gtest/gtest.h>
#include <hiredis/hiredis.h>

#include <random>
#include <vector>

#include "libs/testing/seed.h"

namespace tollhouse::redis {
namespace {

// What hiredis makes of the same words.
std::string Expected(const std::vector<std::string_view>& args) {
  std::vector<const char*> words;
  std::vector<size_t> sizes;
  for (const std::string_view arg : args) {
    words.push_back(arg.data());
    sizes.push_back(arg.size());
  }
  char* text = nullptr;
  const int size =
      redisFormatCommandArgv(&text, static_cast<int>(args.size()), words.data(), sizes.data());
  std::string out(text, static_cast<size_t>(size));
  redisFreeCommand(text);
  return out;
}

TEST(CommandTest, IsWhatHiredisWouldSend) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> words(1 + random() % 20);
    for (std::string& word : words) {
      word.resize(random() % 4 == 0 ? random() % 5000 : random() % 12);
      for (char& c : word) c = static_cast<char>(random());
    }
    const std::vector<std::string_view> args(words.begin(), words.end());
    std::string out = "kept";
    AppendCommand(args, &out);
    ASSERT_EQ(out, "kept" + Expected(args));
  }
}

// Examples of the Redis Cluster specification, and of `CLUSTER KEYSLOT`.
TEST(CommandTest, KeysWithOneHashTagShareASlot) {
  EXPECT_EQ(KeySlot("123456789"), 0x31C3);
  EXPECT_EQ(KeySlot(""), 0);
  EXPECT_EQ(KeySlot("foo"), 12182);
  EXPECT_EQ(KeySlot("{user1000}.following"), KeySlot("{user1000}.followers"));
  EXPECT_EQ(KeySlot("foo{}{bar}"), 8363);
  EXPECT_EQ(KeySlot("foo{{bar}}zap"), KeySlot("{bar"));
  EXPECT_EQ(KeySlot("foo{bar}{zap}"), KeySlot("bar"));
}

}  // namespace
}  // namespace tollhouse::redis
