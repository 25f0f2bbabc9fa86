// The client when another Redis becomes the primary.
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/redis/client.h"
#include "libs/testing/redis_server.h"

namespace tollhouse::redis {
namespace {

using tollhouse::testing::AwaitProcess;
using tollhouse::testing::RedisSentinel;
using tollhouse::testing::RedisServer;

constexpr absl::Duration kPatience = absl::Seconds(20);

std::unique_ptr<Client> Connect(const std::string& uri) {
  auto client = Client::Create(Options{.uri = uri, .check_interval = absl::Milliseconds(100)});
  EXPECT_TRUE(client.ok()) << client.status();
  const absl::Status status = (*client)->WaitUntilConnected(kPatience);
  EXPECT_TRUE(status.ok()) << status;
  return *std::move(client);
}

// Waits until a write reaches the server.
void ExpectWritesTo(Client& client, RedisServer& server) {
  EXPECT_TRUE(AwaitProcess([&] {
    client.CallAndWait({"SET", "where", std::to_string(server.port())}, absl::Seconds(1))
        .status()
        .IgnoreError();
    return server.Command({"GET", "where"}) == std::to_string(server.port());
  })) << client.Health();
}

RedisServer::Options ReplicaOf(const RedisServer& primary) {
  return {.replica_of = primary.port()};
}

TEST(FailoverTest, ThePrimaryIsFoundAmongAddresses) {
  RedisServer primary;
  RedisServer replica(ReplicaOf(primary));
  const auto client =
      Connect(absl::StrCat("redis://127.0.0.1:1,", replica.address(), ",", primary.address()));
  ExpectWritesTo(*client, primary);
}

TEST(FailoverTest, APromotedReplicaTakesOverAndIsAnotherIncarnation) {
  RedisServer primary;
  RedisServer replica(ReplicaOf(primary));
  const auto client = Connect(absl::StrCat("redis://", primary.address(), ",", replica.address()));
  const std::string before = client->Incarnation();
  ASSERT_TRUE(client->CallAndWait({"SET", "kept", "1"}, kPatience).ok());
  ASSERT_EQ(client->CallAndWait({"WAIT", "1", "10000"}, kPatience)->integer(), 1);
  replica.CutReplication();
  ASSERT_TRUE(client->CallAndWait({"SET", "lost", "1"}, kPatience).ok());
  primary.Kill();
  replica.Promote();
  ExpectWritesTo(*client, replica);
  EXPECT_NE(client->Incarnation(), before);
  EXPECT_EQ(client->CallAndWait({"GET", "kept"}, kPatience)->text(), "1");
  EXPECT_TRUE(client->CallAndWait({"GET", "lost"}, kPatience)->is_nil());
}

TEST(FailoverTest, OfAZombieAndItsSuccessorTheSuccessorIsUsed) {
  RedisServer primary;
  RedisServer replica(ReplicaOf(primary));
  const std::string uri = absl::StrCat("redis://", primary.address(), ",", replica.address());
  const auto client = Connect(uri);
  ExpectWritesTo(*client, primary);
  replica.Promote();  // and the old one goes on as if nothing had happened
  ExpectWritesTo(*client, replica);
  ExpectWritesTo(*Connect(uri), replica);
}

TEST(FailoverTest, ADemotedPrimaryIsLeftWithoutAWrite) {
  RedisServer first;
  RedisServer second(ReplicaOf(first));
  const auto client = Connect(absl::StrCat("redis://", first.address(), ",", second.address()));
  ASSERT_TRUE(client->CallAndWait({"WAIT", "1", "10000"}, kPatience).ok());
  second.Promote();
  first.Follow(second);
  ExpectWritesTo(*client, second);
  // And back: the same server, another history.
  const std::string before = client->Incarnation();
  second.CutReplication();
  first.Promote();
  ExpectWritesTo(*client, first);
  EXPECT_NE(client->Incarnation(), before);
}

TEST(FailoverTest, AReadOnlyAnswerIsNotExecutedAndLooksForThePrimary) {
  RedisServer first;
  RedisServer second(ReplicaOf(first));
  auto created = Client::Create(
      Options{.uri = absl::StrCat("redis://", first.address(), ",", second.address()),
              .check_interval = absl::Hours(1)});
  Client& client = **created;
  ASSERT_TRUE(client.WaitUntilConnected(kPatience).ok());
  second.Promote();
  first.Follow(second);
  const auto refused = client.CallAndWait({"SET", "k", "v"}, kPatience);
  EXPECT_EQ(ReasonOf(refused.status()), "REDIS_NOT_PRIMARY") << refused.status();
  EXPECT_FALSE(MayHaveBeenExecuted(refused.status()));
  ExpectWritesTo(client, second);
}

// The failback that revives run_id and connection over another history.
TEST(FailoverTest, AnotherHistoryOnTheSameConnectionIsAnotherIncarnation) {
  RedisServer server;
  RedisServer other;
  auto created = Client::Create(
      Options{.uri = server.uri(), .check_interval = absl::Milliseconds(20)});
  Client& client = **created;
  ASSERT_TRUE(client.WaitUntilConnected(kPatience).ok());
  const std::string before = client.Incarnation();
  std::atomic<int> changes = 0;
  client.SetIncarnationChanged([&] { ++changes; });
  server.Follow(other);
  server.Promote();
  EXPECT_TRUE(AwaitProcess([&] {
    const std::string now = client.Incarnation();
    return !now.empty() && now != before;
  }));
  EXPECT_EQ(client.Incarnation().substr(0, 40), before.substr(0, 40));
  EXPECT_TRUE(AwaitProcess([&] { return changes == 2; }));
}

TEST(FailoverTest, SentinelsNameThePrimaryAndItsSuccessor) {
  RedisServer primary;
  RedisServer replica(ReplicaOf(primary));
  RedisSentinel one(primary, 2), two(primary, 2), three(primary, 2);
  for (RedisSentinel* sentinel : {&one, &two, &three}) sentinel->AwaitKnows(1, 2);
  const auto client = Connect(absl::StrCat("redis+sentinel://127.0.0.1:1,", one.address(), ",",
                                           two.address(), ",", three.address(), "/main"));
  ExpectWritesTo(*client, primary);
  const std::string before = client->Incarnation();
  three.Kill();
  primary.Kill();
  ExpectWritesTo(*client, replica);
  EXPECT_NE(client->Incarnation(), before);
}

TEST(FailoverTest, APausedPrimaryIsLeftWhenSentinelsPromoteAnother) {
  RedisServer primary;
  RedisServer replica(ReplicaOf(primary));
  RedisSentinel sentinel(primary);
  sentinel.AwaitKnows(1, 0);
  const auto client = Connect(absl::StrCat("redis+sentinel://", sentinel.address(), "/main"));
  ExpectWritesTo(*client, primary);
  primary.Pause();
  ExpectWritesTo(*client, replica);
  primary.Resume();  // the sentinel makes a replica of it
  ExpectWritesTo(*client, replica);
}

TEST(FailoverTest, SentinelsThatDoNotKnowTheNameSaySo) {
  RedisServer primary;
  RedisSentinel sentinel(primary);
  const auto client = *Client::Create(
      Options{.uri = absl::StrCat("redis+sentinel://", sentinel.address(), "/other")});
  absl::Status status;
  EXPECT_TRUE(AwaitProcess([&] {
    status = client->Health();
    return absl::StrCat(status.message()).find("No such master") != std::string::npos;
  })) << status;
}

}  // namespace
}  // namespace tollhouse::redis
