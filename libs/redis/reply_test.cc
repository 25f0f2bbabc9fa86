#include "libs/redis/reply.h"

#include <gtest/gtest.h>
#include <hiredis/hiredis.h>

#include <algorithm>
#include <random>

#include "libs/base/error.h"
#include "libs/redis/reply_reader.h"
#include "libs/testing/seed.h"

namespace tollhouse::redis {
namespace {

constexpr size_t kLimit = 1 << 20;

// The wire bytes of a random value.
void Generate(std::mt19937_64& random, int depth, std::string* out) {
  const auto text = [&](size_t longest, bool binary) {
    std::string bytes(random() % (longest + 1), 'x');
    for (char& c : bytes) c = binary ? static_cast<char>(random()) : static_cast<char>('a' + random() % 26);
    return bytes;
  };
  switch (random() % (depth > 5 ? 6 : 8)) {
    case 0:
      *out += ":" + std::to_string(static_cast<int64_t>(random())) + "\r\n";
      break;
    case 1:
      *out += "$-1\r\n";
      break;
    case 2:
      *out += "*-1\r\n";
      break;
    case 3:
      *out += "+" + text(20, false) + "\r\n";
      break;
    case 4:
      *out += "-ERR " + text(20, false) + "\r\n";
      break;
    case 5: {
      const std::string bytes = text(random() % 8 == 0 ? 40000 : 30, true);
      *out += "$" + std::to_string(bytes.size()) + "\r\n" + bytes + "\r\n";
      break;
    }
    default: {
      const size_t count = random() % 6;
      *out += "*" + std::to_string(count) + "\r\n";
      for (size_t i = 0; i < count; ++i) Generate(random, depth + 1, out);
    }
  }
}

std::string Describe(const Value& value) {
  switch (value.type()) {
    case Value::Type::kNil:
      return "nil";
    case Value::Type::kInteger:
      return std::to_string(value.integer());
    case Value::Type::kString:
      return "\"" + std::string(value.text()) + "\"";
    case Value::Type::kStatus:
      return "+" + std::string(value.text());
    case Value::Type::kError:
      return "-" + std::string(value.text());
    case Value::Type::kArray:
      break;
  }
  std::string all = "[";
  for (size_t i = 0; i < value.size(); ++i) all += Describe(value[i]) + ",";
  return all + "]";
}

std::string Describe(const redisReply& reply) {
  switch (reply.type) {
    case REDIS_REPLY_NIL:
      return "nil";
    case REDIS_REPLY_INTEGER:
      return std::to_string(reply.integer);
    case REDIS_REPLY_STRING:
      return "\"" + std::string(reply.str, reply.len) + "\"";
    case REDIS_REPLY_STATUS:
      return "+" + std::string(reply.str, reply.len);
    case REDIS_REPLY_ERROR:
      return "-" + std::string(reply.str, reply.len);
    default:
      break;
  }
  std::string all = "[";
  for (size_t i = 0; i < reply.elements; ++i) all += Describe(*reply.element[i]) + ",";
  return all + "]";
}

TEST(ReplyTest, IsWhatHiredisReadsHoweverTheBytesAreSplit) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 300; ++round) {
    std::string wire;
    const size_t count = 1 + random() % 20;
    for (size_t i = 0; i < count; ++i) Generate(random, 0, &wire);

    std::vector<std::string> expected;
    redisReader* const whole = redisReaderCreate();
    redisReaderFeed(whole, wire.data(), wire.size());
    for (void* reply = nullptr; redisReaderGetReply(whole, &reply) == REDIS_OK && reply != nullptr;) {
      expected.push_back(Describe(*static_cast<redisReply*>(reply)));
      freeReplyObject(reply);
      reply = nullptr;
    }
    redisReaderFree(whole);
    ASSERT_EQ(expected.size(), count);

    ReplyReader reader(kLimit);
    std::vector<std::string> found;
    for (size_t fed = 0; fed < wire.size();) {
      const size_t size = std::min(wire.size() - fed, 1 + random() % (round % 2 == 0 ? 3 : 3000));
      reader.Feed({wire.data() + fed, size});
      fed += size;
      for (;;) {
        auto next = reader.Next();
        ASSERT_TRUE(next.ok()) << next.status();
        if (!next->has_value()) break;
        const Reply reply = **std::move(next);
        found.push_back(Describe(reply.value()));
      }
    }
    ASSERT_EQ(found, expected);
  }
}

TEST(ReplyTest, GarbageIsAnErrorAndNeverACrash) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 2000; ++round) {
    std::string wire;
    for (int i = 0; i < 3; ++i) Generate(random, 0, &wire);
    for (int i = 0; i < 3; ++i) wire[random() % wire.size()] = static_cast<char>(random());
    ReplyReader reader(kLimit);
    reader.Feed(wire);
    for (;;) {
      auto next = reader.Next();
      if (!next.ok()) {
        EXPECT_EQ(ReasonOf(next.status()), "REDIS_PROTOCOL");
        break;
      }
      if (!next->has_value()) break;
      Describe((*next)->value());
    }
  }
}

absl::Status ErrorOf(std::string_view wire) {
  ReplyReader reader(kLimit);
  reader.Feed(wire);
  return reader.Next().status();
}

TEST(ReplyTest, WhatIsTooLongIsRefusedBeforeItIsStored) {
  EXPECT_FALSE(ErrorOf("*2000000000\r\n").ok());
  ReplyReader reader(kLimit);
  reader.Feed("$3000000\r\n");
  absl::Status status;
  const std::string part(1 << 16, 'x');
  int fed = 0;
  for (; status.ok() && fed < 100; ++fed) {
    reader.Feed(part);
    status = reader.Next().status();
  }
  EXPECT_EQ(ReasonOf(status), "REDIS_PROTOCOL");
  EXPECT_LE(fed, 20);
  // Many strings of one array count together.
  std::string many = "*64\r\n";
  for (int i = 0; i < 64; ++i) many += "$65536\r\n" + part + "\r\n";
  EXPECT_FALSE(ErrorOf(many).ok());
}

TEST(ReplyTest, APushOfRespThreeIsNoReply) {
  EXPECT_EQ(ReasonOf(ErrorOf(">2\r\n+invalidate\r\n*0\r\n")), "REDIS_PROTOCOL");
}

TEST(ReplyTest, ElementsAfterNestedArraysAreFound) {
  ReplyReader reader(kLimit);
  reader.Feed("*4\r\n*2\r\n:1\r\n*1\r\n:2\r\n$3\r\nabc\r\n*0\r\n:7\r\n");
  const Reply reply = **reader.Next();
  ASSERT_EQ(reply.size(), 4u);
  EXPECT_EQ(reply[0][1][0].integer(), 2);
  EXPECT_EQ(reply[1].text(), "abc");
  EXPECT_EQ(reply[2].size(), 0u);
  EXPECT_EQ(reply[3].integer(), 7);
}

}  // namespace
}  // namespace tollhouse::redis
