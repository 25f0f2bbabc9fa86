#include "libs/redis/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/testing/redis_server.h"

namespace tollhouse::redis {
namespace {

using ::testing::HasSubstr;
using tollhouse::testing::AwaitProcess;
using tollhouse::testing::RedisServer;
using tollhouse::testing::TempDir;
using tollhouse::testing::TestCertificate;

constexpr absl::Duration kPatience = absl::Seconds(20);

std::unique_ptr<Client> Create(Options options) {
  auto client = Client::Create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

std::unique_ptr<Client> Connect(Options options) {
  auto client = Create(std::move(options));
  const absl::Status status = client->WaitUntilConnected(kPatience);
  EXPECT_TRUE(status.ok()) << status;
  return client;
}

std::unique_ptr<Client> Connect(const RedisServer& server) {
  return Connect(Options{.uri = server.uri()});
}

// Waits until the client says so why it is not connected.
void AwaitReason(const Client& client, const std::string& reason, const std::string& message) {
  absl::Status status;
  EXPECT_TRUE(AwaitProcess([&] {
    status = client.Health();
    return ReasonOf(status) == reason &&
           absl::StrCat(status.message()).find(message) != std::string::npos;
  })) << status;
}

TEST(ClientTest, CallsAndScriptsAreAnswered) {
  RedisServer server;
  const auto client = Connect(server);
  EXPECT_EQ(client->CallAndWait({"SET", "k", "v"}, kPatience)->text(), "OK");
  EXPECT_EQ(client->CallAndWait({"GET", "k"}, kPatience)->text(), "v");
  EXPECT_TRUE(client->CallAndWait({"GET", "absent"}, kPatience)->is_nil());

  const Script script("return {KEYS[1], ARGV[1], 7, {1, 2}}");
  const std::string_view keys[] = {"a"};
  const std::string_view args[] = {"b"};
  const auto reply = client->RunScriptAndWait(script, keys, args, kPatience);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ((*reply)[0].text(), "a");
  EXPECT_EQ((*reply)[1].text(), "b");
  EXPECT_EQ((*reply)[2].integer(), 7);
  EXPECT_EQ((*reply)[3][1].integer(), 2);
}

TEST(ClientTest, BytesOfAnyKindAndLengthComeBack) {
  RedisServer server;
  const auto client = Connect(server);
  std::string big(3 << 20, '\0');
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 7 + i / 251);
  EXPECT_TRUE(client->CallAndWait({"SET", std::string_view("k\r\n\0x", 5), big}, kPatience).ok());
  const auto reply = client->CallAndWait({"GET", std::string_view("k\r\n\0x", 5)}, kPatience);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(reply->text() == big);
  EXPECT_EQ(client->CallAndWait({"GET", ""}, kPatience)->type(), Value::Type::kNil);
}

TEST(ClientTest, CallsOfAThreadRunInOrderAndNoneIsLostOrDoubled) {
  RedisServer server;
  const auto client = Connect(server);
  constexpr int kThreads = 4, kCalls = 5000;
  absl::BlockingCounter left(kThreads * kCalls);
  std::atomic<int> out_of_order = 0;
  std::vector<std::thread> threads;
  std::vector<int64_t> last(kThreads, 0);  // written on the IO thread
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const std::string key = "own" + std::to_string(t);
      for (int i = 1; i <= kCalls; ++i) {
        client->Call({"INCR", key}, kPatience, [&, t, i](absl::StatusOr<Reply> reply) {
          if (!reply.ok() || reply->integer() != i || last[static_cast<size_t>(t)] != i - 1) {
            ++out_of_order;
          }
          last[static_cast<size_t>(t)] = i;
          left.DecrementCount();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  left.Wait();
  EXPECT_EQ(out_of_order, 0);
  EXPECT_EQ(server.Command({"GET", "own0"}), std::to_string(kCalls));
}

TEST(ClientTest, AForgottenScriptIsSentAgainAndRunsOnce) {
  RedisServer server;
  const auto client = Connect(server);
  const Script script("return redis.call('INCR', KEYS[1])");
  const std::string_view keys[] = {"n"};
  constexpr int kCalls = 2000;
  absl::BlockingCounter left(kCalls);
  std::atomic<int> failed = 0;
  for (int i = 0; i < kCalls; ++i) {
    if (i % 200 == 199) server.Command({"SCRIPT", "FLUSH"});
    client->RunScript(script, keys, {}, kPatience, [&](absl::StatusOr<Reply> reply) {
      if (!reply.ok()) ++failed;
      left.DecrementCount();
    });
  }
  left.Wait();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(server.Command({"GET", "n"}), std::to_string(kCalls));
}

TEST(ClientTest, ACallBackMayCall) {
  RedisServer server;
  const auto client = Connect(server);
  absl::Notification done;
  int left = 1000;
  std::function<void(absl::StatusOr<Reply>)> again = [&](absl::StatusOr<Reply> reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    if (--left == 0) return done.Notify();
    client->Call({"INCR", "n"}, kPatience, again);
  };
  client->Call({"INCR", "n"}, kPatience, again);
  done.WaitForNotification();
  EXPECT_EQ(server.Command({"GET", "n"}), "1000");
}

TEST(ClientTest, WhatRedisRefusesHasAReasonAndHeals) {
  RedisServer server(RedisServer::Options{.settings = {"busy-reply-threshold 10"}});
  const auto client = Connect(server);
  const auto reason = [&] {
    return ReasonOf(client->CallAndWait({"SET", "k", "v"}, kPatience).status());
  };
  server.Command({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_EQ(reason(), "REDIS_REFUSED");
  server.Command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_EQ(reason(), "");
  server.Command({"CONFIG", "SET", "min-replicas-to-write", "1"});
  EXPECT_EQ(reason(), "REDIS_REFUSED");
  server.Command({"CONFIG", "SET", "min-replicas-to-write", "0"});
  EXPECT_EQ(reason(), "");
  server.Command({"RPUSH", "list", "x"});
  const auto wrong = client->CallAndWait({"INCR", "list"}, kPatience);
  EXPECT_EQ(ReasonOf(wrong.status()), "REDIS_ERROR");
  EXPECT_EQ(MetadataOf(wrong.status())["redis_code"], "WRONGTYPE");

  const auto other = Connect(server);
  const Script forever("while true do end");
  absl::Notification killed;
  other->RunScript(forever, {}, {}, kPatience, [&](absl::StatusOr<Reply>) { killed.Notify(); });
  EXPECT_TRUE(AwaitProcess([&] { return reason() == "REDIS_UNAVAILABLE"; }));
  EXPECT_EQ(server.Command({"SCRIPT", "KILL"}), "OK");
  killed.WaitForNotification();
  EXPECT_EQ(reason(), "");
}

// Redis looks at its memory before a script's first write only, if that could need some.
TEST(ClientTest, AScriptWithoutMemoryRunsWhollyOrNotAtAll) {
  RedisServer server;
  const auto client = Connect(server);
  server.Command({"SET", "n", "7"});
  server.Command({"CONFIG", "SET", "maxmemory", "1"});
  const Script needs("redis.call('SET', 'a', '1') return redis.call('DEL', 'n')");
  const auto refused = client->RunScriptAndWait(needs, {}, {}, kPatience);
  EXPECT_EQ(ReasonOf(refused.status()), "REDIS_REFUSED");
  EXPECT_FALSE(MayHaveBeenExecuted(refused.status()));
  EXPECT_EQ(server.Command({"GET", "n"}), "7");
  const Script frees("redis.call('DEL', 'n') return redis.call('SET', 'b', '1')");
  EXPECT_TRUE(client->RunScriptAndWait(frees, {}, {}, kPatience).ok());
  EXPECT_EQ(server.Command({"GET", "b"}), "1");
}

TEST(ClientTest, ARedisThatMayForgetIsNotUsedUntilItIsConfigured) {
  RedisServer evicting(RedisServer::Options{.settings = {"maxmemory-policy allkeys-lru"}});
  const auto client = Create(Options{.uri = evicting.uri()});
  AwaitReason(*client, "REDIS_UNFIT", "set maxmemory-policy noeviction");
  const auto refused = client->CallAndWait({"SET", "k", "v"}, kPatience);
  EXPECT_EQ(ReasonOf(refused.status()), "REDIS_UNFIT");
  EXPECT_FALSE(MayHaveBeenExecuted(refused.status()));
  evicting.Command({"CONFIG", "SET", "maxmemory-policy", "noeviction"});
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());

  RedisServer forgetful(RedisServer::Options{.persist = false});
  const auto second = Create(Options{.uri = forgetful.uri()});
  AwaitReason(*second, "REDIS_UNFIT", "set appendonly yes");
  forgetful.Command({"CONFIG", "SET", "save", "3600 1"});
  EXPECT_TRUE(second->WaitUntilConnected(kPatience).ok());
  RedisServer third_server(RedisServer::Options{.persist = false});
  Connect(Options{.uri = third_server.uri(), .require_persistence = false});
}

TEST(ClientTest, ARedisThatBeginsToEvictIsLeft) {
  RedisServer server;
  const auto client =
      Connect(Options{.uri = server.uri(), .check_interval = absl::Milliseconds(20)});
  server.Command({"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"});
  AwaitReason(*client, "REDIS_UNFIT", "allkeys-lru");
  server.Command({"CONFIG", "SET", "maxmemory-policy", "noeviction"});
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
}

TEST(ClientTest, AClusterNodeIsNoSingleRedisAndTheOtherWayRound) {
  RedisServer single;
  RedisServer node(RedisServer::Options{.cluster = true});
  AwaitReason(*Create(Options{.uri = node.uri()}), "REDIS_UNFIT", "redis+cluster://");
  AwaitReason(*Create(Options{.uri = "redis+cluster://" + single.address()}), "REDIS_UNAVAILABLE",
              "cluster support disabled");
}

TEST(ClientTest, PasswordsComeFromAFileThatMayChange) {
  RedisServer server(RedisServer::Options{.password = "first-secret"});
  TempDir dir;
  const std::string file = dir.File("password");
  const auto client = Create(Options{.uri = server.uri(), .password_file = file});
  AwaitReason(*client, "REDIS_DENIED", "cannot be read");
  std::ofstream(file) << "wrong-secret\n";
  AwaitReason(*client, "REDIS_DENIED", "WRONGPASS");
  EXPECT_EQ(absl::StrCat(client->Health().message()).find("secret"), std::string::npos);
  std::ofstream(file) << "first-secret\n";
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
  AwaitReason(*Create(Options{.uri = server.uri()}), "REDIS_DENIED", "NOAUTH");
}

TEST(ClientTest, AUserWhoMayNotRunScriptsIsToldSo) {
  RedisServer server;
  server.Command({"ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-eval"});
  TempDir dir;
  std::ofstream(dir.File("password")) << "secret";
  const auto client = Create(
      Options{.uri = "redis://app@" + server.address(), .password_file = dir.File("password")});
  AwaitReason(*client, "REDIS_UNFIT", "runs no scripts");
  server.Command({"ACL", "SETUSER", "app", "+eval"});
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
  EXPECT_EQ(client->CallAndWait({"ACL", "WHOAMI"}, kPatience)->text(), "app");
}

// The rights that docs/operations/redis.md asks for are enough.
TEST(ClientTest, AUserWithTheDocumentedRightsIsEnough) {
  RedisServer server;
  server.Command({"ACL", "SETUSER", "enforcer", "on", ">secret", "~tollhouse:*", "resetchannels",
                  "-@all", "+@read", "+@write", "-@dangerous", "+info", "+config|get",
                  "+script|load", "+eval", "+evalsha", "+time"});
  server.Command({"CONFIG", "SET", "appendonly", "no"});  // so that the save points are asked for
  server.Command({"CONFIG", "SET", "save", "3600 1"});
  TempDir dir;
  std::ofstream(dir.File("password")) << "secret";
  const auto client = Connect(Options{.uri = "redis://enforcer@" + server.address(),
                                      .password_file = dir.File("password")});
  const Script script(
      "redis.call('HSET', KEYS[1], 'f', '1') redis.call('ZADD', KEYS[2], 1, 'm') "
      "redis.call('TIME') redis.call('INFO', 'replication') return redis.call('HGETALL', KEYS[1])");
  const std::string_view keys[] = {"tollhouse:{1}:h", "tollhouse:{1}:z"};
  const auto reply = client->RunScriptAndWait(script, keys, {}, kPatience);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->size(), 2u);
  EXPECT_EQ(ReasonOf(client->CallAndWait({"FLUSHALL"}, kPatience).status()), "REDIS_DENIED");
  EXPECT_EQ(ReasonOf(client->CallAndWait({"GET", "other"}, kPatience).status()), "REDIS_DENIED");
}

TEST(ClientTest, ALostConnectionSaysWhatIsUnknownAndIsMadeAgain) {
  RedisServer server;
  const auto client = Connect(server);
  const std::string before = client->Incarnation();
  EXPECT_EQ(before.size(), 81u);
  server.Pause();
  absl::Notification answered;
  absl::Status status;
  client->Call({"INCR", "n"}, kPatience, [&](absl::StatusOr<Reply> reply) {
    status = reply.status();
    answered.Notify();
  });
  ASSERT_TRUE(AwaitProcess([&] { return client->load().in_flight > 0; }));
  server.Kill();
  answered.WaitForNotification();
  EXPECT_EQ(ReasonOf(status), "REDIS_BROKEN") << status;
  EXPECT_TRUE(MayHaveBeenExecuted(status));
  AwaitReason(*client, "REDIS_UNAVAILABLE", "no connection");
  EXPECT_EQ(client->Incarnation(), "");
  const auto refused = client->CallAndWait({"INCR", "n"}, kPatience);
  EXPECT_EQ(ReasonOf(refused.status()), "REDIS_UNAVAILABLE");
  EXPECT_FALSE(MayHaveBeenExecuted(refused.status()));
  server.Start();
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
  EXPECT_NE(client->Incarnation(), before);
}

TEST(ClientTest, AnotherIncarnationIsToldBeforeAnythingIsSentToIt) {
  RedisServer server;
  auto client = Create(Options{.uri = server.uri()});
  std::atomic<int> changes = 0, answers = 0, answers_at_change = -1;
  client->SetIncarnationChanged([&] {
    ++changes;
    answers_at_change = answers.load();
  });
  ASSERT_TRUE(client->WaitUntilConnected(kPatience).ok());
  const std::string first = client->Incarnation();
  ASSERT_TRUE(AwaitProcess([&] { return changes == 1; }));
  client->Reconnect();  // the same incarnation again: no change
  ASSERT_TRUE(AwaitProcess([&] { return client->CallAndWait({"PING"}, kPatience).ok(); }));
  server.FlushAll();
  EXPECT_EQ(client->Incarnation(), first);
  EXPECT_EQ(changes, 1);
  server.Stop();
  server.Start();
  ASSERT_TRUE(AwaitProcess([&] {
    const bool ok = client->CallAndWait({"PING"}, kPatience).ok();
    answers += ok;
    return ok;
  }));
  EXPECT_EQ(changes, 2);
  EXPECT_EQ(answers_at_change, 0);
}

TEST(ClientTest, ACallBackSetLateIsToldToo) {
  RedisServer server;
  const auto client = Connect(server);
  absl::Notification told;
  client->SetIncarnationChanged([&] { told.Notify(); });
  told.WaitForNotification();
}

TEST(ClientTest, APausedRedisTimesOutAndTheRepliesStayWithTheirCalls) {
  RedisServer server;
  const auto client = Connect(server);
  server.Pause();
  const auto late = client->CallAndWait({"INCR", "n"}, absl::Milliseconds(30));
  EXPECT_EQ(ReasonOf(late.status()), "REDIS_TIMEOUT") << late.status();
  server.Resume();
  EXPECT_EQ(client->CallAndWait({"INCR", "n"}, kPatience)->integer(), 2);
}

TEST(ClientTest, ARedisThatStaysSilentIsGivenUpAndFoundAgain) {
  RedisServer server;
  const auto client = Connect(Options{.uri = server.uri(),
                                      .connect_timeout = absl::Milliseconds(100),
                                      .stall_timeout = absl::Milliseconds(100),
                                      .check_interval = absl::Milliseconds(20)});
  const std::string before = client->Incarnation();
  server.Pause();
  AwaitReason(*client, "REDIS_UNAVAILABLE", "no answer within");
  const auto refused = client->CallAndWait({"INCR", "n"}, kPatience);
  EXPECT_FALSE(MayHaveBeenExecuted(refused.status())) << refused.status();
  server.Resume();
  EXPECT_TRUE(client->WaitUntilConnected(kPatience).ok());
  EXPECT_EQ(client->Incarnation(), before);
}

// A call whose deadline came while it waited in this process was never sent.
TEST(ClientTest, WhatWasNotSentIsNotExecuted) {
  RedisServer server;
  const auto client = Connect(Options{.uri = server.uri(), .max_in_flight = 1});
  server.Pause();
  absl::BlockingCounter left(1);
  client->Call({"INCR", "sent"}, kPatience, [&](absl::StatusOr<Reply>) { left.DecrementCount(); });
  ASSERT_TRUE(AwaitProcess([&] { return client->load().in_flight == 1; }));
  const auto unsent = client->CallAndWait({"INCR", "unsent"}, absl::Milliseconds(20));
  EXPECT_EQ(ReasonOf(unsent.status()), "REDIS_UNAVAILABLE") << unsent.status();
  EXPECT_FALSE(MayHaveBeenExecuted(unsent.status()));
  server.Resume();
  left.Wait();
  EXPECT_EQ(client->CallAndWait({"MGET", "sent", "unsent"}, kPatience)->value()[0].text(), "1");
  EXPECT_EQ(server.Command({"GET", "unsent"}), "");
}

TEST(ClientTest, TheEndOfAClientAnswersEveryCall) {
  RedisServer server;
  for (const bool connected : {true, false}) {
    auto client = connected ? Connect(Options{.uri = server.uri(), .max_in_flight = 10})
                            : Create(Options{.uri = server.uri(), .max_in_flight = 10});
    server.Pause();
    std::atomic<int> answered = 0;
    for (int i = 0; i < 1000; ++i) {
      client->Call({"INCR", "n"}, kPatience, [&](absl::StatusOr<Reply> reply) {
        EXPECT_FALSE(reply.ok());
        ++answered;
      });
    }
    client.reset();
    EXPECT_EQ(answered, 1000);
    server.Resume();
  }
}

// --- TLS ------------------------------------------------------------------------------------------

TEST(ClientTlsTest, AServerThatTheAuthorityKnowsIsUsed) {
  RedisServer server(RedisServer::Options{.tls = true});
  const auto client =
      Connect(Options{.uri = server.uri(), .tls_ca_file = server.certificate().certificate_file});
  std::string big(300000, 'x');
  EXPECT_TRUE(client->CallAndWait({"SET", "k", big}, kPatience).ok());
  EXPECT_EQ(client->CallAndWait({"GET", "k"}, kPatience)->text(), big);
  constexpr int kCalls = 3000;
  absl::BlockingCounter left(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    client->Call({"INCR", "n"}, kPatience, [&](absl::StatusOr<Reply>) { left.DecrementCount(); });
  }
  left.Wait();
  EXPECT_EQ(server.Command({"GET", "n"}), std::to_string(kCalls));
}

TEST(ClientTlsTest, AnUnknownAuthorityAnotherNameOrPlainTextAreRefused) {
  RedisServer server(RedisServer::Options{.tls = true});
  TempDir dir;
  const TestCertificate other(dir.path(), "other", "IP:127.0.0.1");
  AwaitReason(*Create(Options{.uri = server.uri(), .tls_ca_file = other.certificate_file}),
              "REDIS_UNAVAILABLE", "TLS failed");
  AwaitReason(*Create(Options{.uri = "redis://" + server.address()}), "REDIS_UNAVAILABLE", "");
  RedisServer named(RedisServer::Options{.tls = true, .certificate_name = "DNS:redis.test"});
  const std::string ca = named.certificate().certificate_file;
  AwaitReason(*Create(Options{.uri = named.uri(), .tls_ca_file = ca}), "REDIS_UNAVAILABLE",
              "TLS failed");
  Connect(Options{.uri = named.uri(), .tls_ca_file = ca, .tls_server_name = "redis.test"});
  RedisServer plain;
  AwaitReason(*Create(Options{.uri = "rediss://" + plain.address(),
                              .tls_ca_file = ca,
                              .connect_timeout = absl::Milliseconds(100)}),
              "REDIS_UNAVAILABLE", "no connection within");
}

TEST(ClientTlsTest, AServerThatWantsACertificateGetsIt) {
  RedisServer server(RedisServer::Options{.tls = true, .tls_clients = true});
  const TestCertificate& own = server.certificate();
  const auto without = Create(Options{.uri = server.uri(), .tls_ca_file = own.certificate_file});
  AwaitReason(*without, "REDIS_UNAVAILABLE", "");
  EXPECT_FALSE(without->CallAndWait({"PING"}, kPatience).ok());
  const auto with = Connect(Options{.uri = server.uri(),
                                    .tls_ca_file = own.certificate_file,
                                    .tls_certificate_file = own.certificate_file,
                                    .tls_key_file = own.key_file});
  EXPECT_TRUE(with->CallAndWait({"PING"}, kPatience).ok());
}

TEST(ClientTlsTest, FilesThatCannotBeUsedAreNamedAtOnce) {
  TempDir dir;
  const TestCertificate good(dir.path(), "good", "IP:127.0.0.1");
  const auto reason = [&](Options options) {
    options.uri = "rediss://127.0.0.1:1";
    return ReasonOf(Client::Create(std::move(options)).status());
  };
  EXPECT_EQ(reason({.tls_ca_file = dir.File("absent")}), "REDIS_TLS");
  EXPECT_EQ(reason({.tls_ca_file = good.certificate_file,
                    .tls_certificate_file = good.certificate_file}),
            "REDIS_TLS");
  EXPECT_EQ(reason({.tls_ca_file = good.certificate_file,
                    .tls_certificate_file = good.key_file,
                    .tls_key_file = good.key_file}),
            "REDIS_TLS");
  EXPECT_EQ(ReasonOf(Client::Create({.uri = "redis://:pw@h"}).status()), "REDIS_URI");
}

}  // namespace
}  // namespace tollhouse::redis
