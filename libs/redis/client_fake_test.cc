// The client against a Redis that misbehaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/redis/client.h"
#include "libs/redis/fake_redis_testing.h"
#include "libs/testing/process.h"

namespace tollhouse::redis {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

std::unique_ptr<Client> Connect(const FakeRedis& redis, Options options = {}) {
  options.uri = redis.uri();
  auto client = Client::Create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  const absl::Status status = (*client)->WaitUntilConnected(kPatience);
  EXPECT_TRUE(status.ok()) << status;
  return *std::move(client);
}

// Answers ECHO as it should, WEIRD with `weird`.
FakeRedis::Answer Weird(std::vector<std::string> weird) {
  return [weird = std::move(weird)](const FakeRedis::Command& command) -> std::vector<std::string> {
    if (command[0] == "WEIRD") return weird;
    return {FakeRedis::Bulk(command.back())};
  };
}

void ExpectEcho(Client& client) {
  // The first calls may still meet the connection that ended.
  EXPECT_TRUE(tollhouse::testing::AwaitProcess([&] {
    const auto reply = client.CallAndWait({"ECHO", "hello"}, kPatience);
    return reply.ok() && reply->text() == "hello";
  }));
}

// One of the ways to break off: the call may have been executed, the next connection works.
void ExpectBrokenAndHealed(const std::vector<std::string>& weird, const std::string& message) {
  FakeRedis redis(Weird(weird));
  const auto client = Connect(redis, {.max_reply_bytes = 1 << 20});
  const auto reply = client->CallAndWait({"WEIRD"}, kPatience);
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(ReasonOf(reply.status()), "REDIS_BROKEN") << reply.status();
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr(message));
  EXPECT_TRUE(MayHaveBeenExecuted(reply.status()));
  ExpectEcho(*client);
  EXPECT_EQ(redis.connections(), 2);
}

TEST(ClientFakeTest, RepliesInPieces) {
  FakeRedis redis(Weird({"*3\r\n$5", "\r\nhel", "lo\r\n:", "42\r", "\n$-1", "\r\n"}));
  const auto client = Connect(redis);
  const auto reply = client->CallAndWait({"WEIRD"}, kPatience);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ((*reply)[0].text(), "hello");
  EXPECT_EQ((*reply)[1].integer(), 42);
  EXPECT_TRUE((*reply)[2].is_nil());
}

TEST(ClientFakeTest, GarbageBreaksTheConnection) {
  ExpectBrokenAndHealed({"HTTP/1.1 400 Bad Request\r\n\r\n"}, "no Redis reply");
}

TEST(ClientFakeTest, ClosingInTheMiddleOfAReplyBreaksTheConnection) {
  ExpectBrokenAndHealed({"$10\r\nhal", FakeRedis::kClose}, "closed");
}

TEST(ClientFakeTest, AHugeReplyBreaksTheConnection) {
  ExpectBrokenAndHealed({"$9000000\r\n", std::string(2 << 20, 'x')}, "longer than 1048576 bytes");
  ExpectBrokenAndHealed({"*1000000000\r\n"}, "longer than 1048576 bytes");
}

TEST(ClientFakeTest, APushBreaksTheConnection) {
  ExpectBrokenAndHealed({">2\r\n+invalidate\r\n*0\r\n"}, "no Redis reply");
}

TEST(ClientFakeTest, AReplyThatNobodyAskedForBreaksTheConnection) {
  FakeRedis redis(Weird({":1\r\n:2\r\n"}));
  const auto client = Connect(redis);
  EXPECT_EQ(client->CallAndWait({"WEIRD"}, kPatience)->integer(), 1);
  ExpectEcho(*client);
  EXPECT_EQ(redis.connections(), 2);
}

TEST(ClientFakeTest, AnErrorInTheMiddleOfAPipelineIsItsCallsAlone) {
  FakeRedis redis(Weird({"-WRONGTYPE no list\r\n"}));
  const auto client = Connect(redis);
  constexpr int kCalls = 50;
  absl::BlockingCounter left(kCalls);
  std::atomic<int> echoes = 0, errors = 0;
  for (int i = 0; i < kCalls; ++i) {
    const std::string text = std::to_string(i);
    const auto done = [&, text](absl::StatusOr<Reply> reply) {
      if (reply.ok() && reply->text() == text) ++echoes;
      if (ReasonOf(reply.status()) == "REDIS_ERROR") {
        EXPECT_EQ(MetadataOf(reply.status())["redis_code"], "WRONGTYPE");
        ++errors;
      }
      left.DecrementCount();
    };
    if (i == 25) {
      client->Call({"WEIRD"}, kPatience, done);
    } else {
      client->Call({"ECHO", text}, kPatience, done);
    }
  }
  left.Wait();
  EXPECT_EQ(echoes, kCalls - 1);
  EXPECT_EQ(errors, 1);
}

TEST(ClientFakeTest, EveryErrorHasItsReason) {
  FakeRedis redis([](const FakeRedis::Command& command) -> std::vector<std::string> {
    return {"-" + command[1] + " says the test\r\n"};
  });
  const auto client = Connect(redis);
  const std::pair<const char*, const char*> expected[] = {
      {"OOM", "REDIS_REFUSED"},           {"MISCONF", "REDIS_REFUSED"},
      {"NOREPLICAS", "REDIS_REFUSED"},    {"LOADING", "REDIS_UNAVAILABLE"},
      {"BUSY", "REDIS_UNAVAILABLE"},      {"NOPERM", "REDIS_DENIED"},
      {"ERR", "REDIS_ERROR"},             {"READONLY", "REDIS_NOT_PRIMARY"},
      {"MASTERDOWN", "REDIS_NOT_PRIMARY"}, {"NOAUTH", "REDIS_DENIED"}};
  for (const auto& [code, reason] : expected) {
    ASSERT_TRUE(client->WaitUntilConnected(kPatience).ok());
    absl::Status status;
    // Those that end the connection may take the next call with them.
    ASSERT_TRUE(tollhouse::testing::AwaitProcess([&] {
      status = client->CallAndWait({"FAIL", code}, kPatience).status();
      return ReasonOf(status) != "REDIS_BROKEN";
    }));
    EXPECT_EQ(ReasonOf(status), reason) << code;
    EXPECT_EQ(MayHaveBeenExecuted(status), std::string(code) == "ERR") << code;
  }
}

TEST(ClientFakeTest, AMissingPermissionWithinAScriptMayHaveLeftWrites) {
  FakeRedis redis(Weird({"-NOPERM no script: 0123, on @user_script:1.\r\n"}));
  const auto client = Connect(redis);
  const auto reply = client->CallAndWait({"WEIRD"}, kPatience);
  EXPECT_EQ(ReasonOf(reply.status()), "REDIS_ERROR");
  EXPECT_TRUE(MayHaveBeenExecuted(reply.status()));
}

TEST(ClientFakeTest, AScriptThatIsNeverKnownIsGivenUp) {
  std::atomic<int> tries = 0;
  FakeRedis redis([&](const FakeRedis::Command&) -> std::vector<std::string> {
    ++tries;
    return {"-NOSCRIPT No matching script.\r\n"};
  });
  const auto client = Connect(redis);
  const Script script("return 1");
  const auto reply = client->RunScriptAndWait(script, {}, {}, kPatience);
  EXPECT_EQ(ReasonOf(reply.status()), "REDIS_UNAVAILABLE");
  EXPECT_FALSE(MayHaveBeenExecuted(reply.status()));
  EXPECT_LE(tries, 10);
}

// What is wrong with the Redis found, and that it is used once that is mended.
void ExpectNotUsedUntilHealthy(const std::string& info, const std::string& probe,
                               const std::string& reason, const std::string& message) {
  FakeRedis redis(Weird({}));
  redis.SetInfo(info);
  redis.SetWriteProbe(probe);
  auto client = *Client::Create({.uri = redis.uri()});
  EXPECT_TRUE(tollhouse::testing::AwaitProcess(
      [&] { return absl::StrCat(client->Health().message()).find(message) != std::string::npos; }))
      << client->Health();
  const auto reply = client->CallAndWait({"ECHO", "x"}, kPatience);
  EXPECT_EQ(ReasonOf(reply.status()), reason) << reply.status();
  EXPECT_FALSE(MayHaveBeenExecuted(reply.status()));
  EXPECT_EQ(client->Incarnation(), "");
  redis.SetInfo("");
  redis.SetWriteProbe("");
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
  ExpectEcho(*client);
  EXPECT_EQ(client->Incarnation(), "1111/2222");
}

TEST(ClientFakeTest, ARedisThatCannotBeUsedIsAskedAgain) {
  ExpectNotUsedUntilHealthy(FakeRedis::Bulk("run_id:1\r\nmaster_replid:2\r\nrole:master\r\nloading:1\r\n"),
                            "", "REDIS_UNAVAILABLE", "is loading");
  ExpectNotUsedUntilHealthy(
      FakeRedis::Bulk("run_id:1\r\nmaster_replid:2\r\nrole:slave\r\nmaster_host:h\r\nmaster_port:7\r\n"),
      "", "REDIS_UNAVAILABLE", "replica of h:7");
  ExpectNotUsedUntilHealthy("-ERR syntax error\r\n", "", "REDIS_UNFIT", "Redis 7 or newer");
  ExpectNotUsedUntilHealthy("", "-OOM command not allowed\r\n", "REDIS_REFUSED", "OOM");
  ExpectNotUsedUntilHealthy("", "-MISCONF errors writing to disk\r\n", "REDIS_REFUSED", "MISCONF");
  ExpectNotUsedUntilHealthy("", "-ERR unknown command 'EVAL'\r\n", "REDIS_UNFIT", "runs no scripts");
  ExpectNotUsedUntilHealthy("", "-LOADING in memory\r\n", "REDIS_UNAVAILABLE", "LOADING");
}

TEST(ClientFakeTest, ASilentRedisIsGivenUpAndItsCallsAnswered) {
  FakeRedis redis(Weird({}));  // WEIRD is never answered, and nothing after it: the pipeline stands
  const auto client = Connect(redis, {.stall_timeout = absl::Milliseconds(100),
                                      .check_interval = absl::Milliseconds(20)});
  absl::Notification answered;
  absl::Status status;
  client->Call({"WEIRD"}, absl::InfiniteDuration(), [&](absl::StatusOr<Reply> reply) {
    status = reply.status();
    answered.Notify();
  });
  // The answer to the next look is taken for WEIRD's, and then one is missing for ever: what
  // matters is that the call ends and the client goes on with a new connection.
  answered.WaitForNotification();
  ExpectEcho(*client);
}

TEST(ClientFakeTest, AReplyAfterTheDeadlineIsNotTheNextCalls) {
  absl::Notification release;
  FakeRedis redis([&](const FakeRedis::Command& command) -> std::vector<std::string> {
    if (command[0] == "SLOW") release.WaitForNotification();
    return {FakeRedis::Bulk(command.back())};
  });
  const auto client = Connect(redis);
  const auto late = client->CallAndWait({"SLOW", "late"}, absl::Milliseconds(30));
  EXPECT_EQ(ReasonOf(late.status()), "REDIS_TIMEOUT");
  EXPECT_TRUE(MayHaveBeenExecuted(late.status()));
  absl::Notification answered;
  client->Call({"ECHO", "next"}, kPatience, [&](absl::StatusOr<Reply> reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->text(), "next");
    answered.Notify();
  });
  release.Notify();
  answered.WaitForNotification();
  EXPECT_EQ(redis.connections(), 1);
}

TEST(ClientFakeTest, WhatWaitsIsBounded) {
  absl::Notification release;
  FakeRedis redis([&](const FakeRedis::Command& command) -> std::vector<std::string> {
    if (command[0] == "SLOW") release.WaitForNotification();
    return {FakeRedis::Bulk(command.back())};
  });
  const auto client = Connect(redis, {.max_in_flight = 1, .max_queued = 10});
  std::atomic<int> answered = 0, overloaded = 0, late = 0;
  constexpr int kCalls = 100;
  absl::BlockingCounter left(kCalls + 1);
  absl::Notification sent;
  const auto done = [&](absl::StatusOr<Reply> reply) {
    const std::string reason = ReasonOf(reply.status());
    if (reply.ok()) ++answered;
    if (reason == "REDIS_OVERLOADED") ++overloaded;
    if (reason == "REDIS_UNAVAILABLE") ++late;
    left.DecrementCount();
  };
  client->Call({"SLOW", "x"}, kPatience, done);
  ASSERT_TRUE(tollhouse::testing::AwaitProcess([&] { return client->load().in_flight == 1; }));
  for (int i = 0; i < kCalls; ++i) {
    // Half of those that wait have a deadline that comes before they are sent.
    client->Call({"ECHO", "x"}, i % 2 == 0 ? kPatience : absl::Milliseconds(20), done);
  }
  ASSERT_TRUE(tollhouse::testing::AwaitProcess([&] { return late == 5; }));
  EXPECT_EQ(overloaded, kCalls - 10);
  EXPECT_EQ(client->load().queued, 5u);
  release.Notify();
  left.Wait();
  EXPECT_EQ(answered, 6);
}

TEST(ClientFakeTest, AConnectionThatNeverLastsIsNotHammered) {
  FakeRedis redis(Weird({FakeRedis::kClose}));
  const auto client = Connect(redis, {.min_backoff = absl::Milliseconds(40),
                                      .max_backoff = absl::Milliseconds(80)});
  const absl::Time start = absl::Now();
  for (int i = 0; i < 20; ++i) client->CallAndWait({"WEIRD"}, kPatience).status().IgnoreError();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  EXPECT_LE(redis.connections(), 2 + seconds / 0.020);
}

}  // namespace
}  // namespace tollhouse::redis
