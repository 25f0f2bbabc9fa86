// The client on a Redis Cluster of three primaries.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "libs/base/error.h"
#include "libs/redis/client.h"
#include "libs/redis/command.h"
#include "libs/testing/redis_server.h"

namespace tollhouse::redis {
namespace {

using tollhouse::testing::AwaitProcess;
using tollhouse::testing::RedisCluster;

constexpr absl::Duration kPatience = absl::Seconds(20);

// One Cluster for all tests: each restores what it moves.
RedisCluster& Cluster() {
  static auto* const cluster = new RedisCluster(3);
  return *cluster;
}

std::unique_ptr<Client> Connect(const std::string& uri, Options options = {}) {
  options.uri = uri;
  auto client = Client::Create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  const absl::Status status = (*client)->WaitUntilConnected(kPatience);
  EXPECT_TRUE(status.ok()) << status;
  return *std::move(client);
}

std::string IncarnationOf(RedisCluster& cluster, int node) {
  const std::string info = cluster.node(node).Command({"INFO"});
  const auto field = [&](const std::string& name) {
    const size_t at = info.find(name + ":") + name.size() + 1;
    return info.substr(at, info.find('\r', at) - at);
  };
  return field("run_id") + "/" + field("master_replid");
}

TEST(ClusterTest, CallsGoToTheNodeOfTheirKey) {
  const auto client = Connect(Cluster().uri());
  for (int i = 0; i < 100; ++i) {
    const std::string key = absl::StrCat("key", i);
    ASSERT_TRUE(client->CallAndWait({"SET", key, key}, kPatience).ok());
    EXPECT_EQ(client->CallAndWait({"GET", key}, kPatience)->text(), key);
    const int owner = Cluster().Owner(KeySlot(key));
    EXPECT_EQ(Cluster().node(owner).Command({"GET", key}), key);
    EXPECT_EQ(client->Incarnation(key), IncarnationOf(Cluster(), owner));
  }
  EXPECT_TRUE(client->CallAndWait({"PING"}, kPatience).ok());
}

TEST(ClusterTest, OneNodeOfManyIsEnoughToFindThem) {
  const auto client =
      Connect(absl::StrCat("redis+cluster://127.0.0.1:1,", Cluster().node(1).address()));
  EXPECT_TRUE(client->CallAndWait({"SET", "foo", "1"}, kPatience).ok());  // the third node's
}

TEST(ClusterTest, KeysOfTwoSlotsInOneScriptAreRefused) {
  const auto client = Connect(Cluster().uri());
  const Script script("return 1");
  const std::string_view keys[] = {"a", "b"};
  EXPECT_EQ(ReasonOf(client->RunScriptAndWait(script, keys, {}, kPatience).status()), "REDIS_ERROR");
}

// A slot that stands between two nodes: what is there is served there, what is nowhere is asked for
// at the other node, and a script whose keys are torn apart waits until they are together again (so
// does one of several keys that do not exist yet: Redis cannot know).
TEST(ClusterTest, ASlotInTheMiddleOfItsMove) {
  RedisCluster& cluster = Cluster();
  const auto client = Connect(cluster.uri());
  const int slot = KeySlot("{m}");
  const int from = cluster.Owner(slot);
  const int to = (from + 1) % 3;
  const Script script("return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])");
  const std::string_view keys[] = {"{m}a", "{m}b"};
  ASSERT_TRUE(client->CallAndWait({"DEL", "{m}a", "{m}b", "{m}c"}, kPatience).ok());
  ASSERT_EQ(client->RunScriptAndWait(script, keys, {}, kPatience)->integer(), 2);
  cluster.BeginMove(slot, to);
  EXPECT_EQ(client->RunScriptAndWait(script, keys, {}, kPatience)->integer(), 4);  // still here
  const Script single("return redis.call('INCR', KEYS[1])");
  const std::string_view fresh[] = {"{m}c"};
  EXPECT_EQ(client->RunScriptAndWait(single, fresh, {}, kPatience)->integer(), 1);  // ASK
  EXPECT_EQ(client->RunScriptAndWait(single, fresh, {}, kPatience)->integer(), 2);
  ASSERT_EQ(cluster.MoveKeys(slot, from, to, 1), 1);
  EXPECT_FALSE(client->RunScriptAndWait(script, keys, {}, absl::Milliseconds(50)).ok());  // TRYAGAIN
  absl::StatusOr<Reply> waited;
  std::thread waiter([&] { waited = client->RunScriptAndWait(script, keys, {}, kPatience); });
  while (cluster.MoveKeys(slot, from, to, 1) > 0) {
  }
  waiter.join();
  ASSERT_TRUE(waited.ok()) << waited.status();
  EXPECT_EQ(waited->integer(), 6);
  EXPECT_EQ(client->Incarnation("{m}a"), IncarnationOf(cluster, from));
  cluster.EndMove(slot, to);
  EXPECT_EQ(client->RunScriptAndWait(script, keys, {}, kPatience)->integer(), 8);  // MOVED
  EXPECT_TRUE(AwaitProcess(
      [&] { return client->Incarnation("{m}a") == IncarnationOf(cluster, to); }));
  cluster.MoveSlot(slot, from);
}

// Counts every increment twice over: in the counter and in the replies.
class Load {
 public:
  Load(Client& client, std::vector<std::string> tags, int concurrency)
      : client_(client), tags_(std::move(tags)) {
    for (const std::string& tag : tags_) {
      EXPECT_TRUE(client.CallAndWait({"DEL", tag + "a", tag + "b"}, kPatience).ok());
    }
    for (int i = 0; i < concurrency; ++i) Next(static_cast<size_t>(i));
  }
  ~Load() { Stop(); }

  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
    mutex_.Await(absl::Condition(&idle));
  }
  size_t acknowledged() const {
    absl::MutexLock lock(&mutex_);
    size_t all = 0;
    for (const auto& [tag, values] : seen_) all += values.size();
    return all;
  }
  // After Stop: every acknowledged increment is its own, and only those with an unknown outcome may
  // stand between.
  void Check() {
    absl::MutexLock lock(&mutex_);
    for (const std::string& tag : tags_) {
      std::vector<int64_t>& values = seen_[tag];
      std::sort(values.begin(), values.end());
      EXPECT_TRUE(std::adjacent_find(values.begin(), values.end()) == values.end()) << tag;
      const auto left = client_.CallAndWait({"MGET", tag + "a", tag + "b"}, kPatience);
      ASSERT_TRUE(left.ok()) << left.status();
      const int64_t total = std::stoll(std::string((*left)[0].text()));
      EXPECT_EQ((*left)[1].text(), std::to_string(total)) << tag;
      EXPECT_GE(total, static_cast<int64_t>(values.size())) << tag;
      EXPECT_LE(total, static_cast<int64_t>(values.size()) + unknown_[tag]) << tag;
    }
    EXPECT_EQ(wrong_, 0);
  }
  int unknown() const {
    absl::MutexLock lock(&mutex_);
    int all = 0;
    for (const auto& [tag, count] : unknown_) all += count;
    return all;
  }

 private:
  void Next(size_t index) {
    static const Script& script = *new Script(
        "local a = redis.call('INCR', KEYS[1]) local b = redis.call('INCR', KEYS[2]) return {a, b}");
    {
      absl::MutexLock lock(&mutex_);
      ++running_;
    }
    const std::string& tag = tags_[index % tags_.size()];
    const std::string first = tag + "a", second = tag + "b";
    const std::string_view keys[] = {first, second};
    client_.RunScript(script, keys, {}, kPatience, [this, index, &tag](absl::StatusOr<Reply> reply) {
      bool more;
      {
        absl::MutexLock lock(&mutex_);
        if (reply.ok()) {
          seen_[tag].push_back((*reply)[0].integer());
          if ((*reply)[0].integer() != (*reply)[1].integer()) ++wrong_;
        } else if (MayHaveBeenExecuted(reply.status())) {
          ++unknown_[tag];
        }
        more = !stopping_;
      }
      if (more) Next(index);
      absl::MutexLock lock(&mutex_);
      --running_;
    });
  }

  Client& client_;
  const std::vector<std::string> tags_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<int64_t>> seen_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> unknown_ ABSL_GUARDED_BY(mutex_);
  int wrong_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST(ClusterTest, ASlotMovesBackAndForthUnderLoadAndNoIncrementIsLostOrDoubled) {
  RedisCluster& cluster = Cluster();
  const auto client = Connect(cluster.uri());
  const int slot = KeySlot("{hot}");
  const int home = cluster.Owner(slot);
  Load load(*client, {"{hot}", "{cold}", "{warm}"}, 64);
  size_t before = 0;
  for (int round = 0; round < 20; ++round) {
    cluster.MoveSlot(slot, round % 2 == 0 ? (home + 1) % 3 : home, 1);
    // Some between two moves.
    EXPECT_TRUE(AwaitProcess([&] { return load.acknowledged() > before + 300; }));
    before = load.acknowledged();
  }
  load.Stop();
  EXPECT_EQ(load.unknown(), 0);
  load.Check();
}

TEST(ClusterTest, ANodeThatComesBackIsUsedAndTheOthersGoOn) {
  RedisCluster& cluster = Cluster();
  const auto client = Connect(cluster.uri());
  std::string gone = "{x}", there = "{y}";
  const int node = cluster.Owner(KeySlot(gone));
  for (int i = 0; cluster.Owner(KeySlot(there)) == node; ++i) there = absl::StrCat("{y", i, "}");
  Load load(*client, {gone, there}, 16);
  ASSERT_TRUE(AwaitProcess([&] { return load.acknowledged() > 200; }));
  const std::string before = client->Incarnation(gone);
  cluster.node(node).Command({"CONFIG", "SET", "appendfsync", "always"});
  cluster.node(node).Kill();
  ASSERT_TRUE(AwaitProcess([&] { return client->Incarnation(gone).empty(); }));
  EXPECT_TRUE(client->CallAndWait({"SET", there, "1"}, kPatience).ok());
  EXPECT_FALSE(client->CallAndWait({"SET", gone, "1"}, absl::Milliseconds(100)).ok());
  cluster.node(node).Start();
  EXPECT_TRUE(AwaitProcess([&] { return client->CallAndWait({"SET", gone, "1"}, kPatience).ok(); }));
  EXPECT_NE(client->Incarnation(gone), before);
  load.Stop();
  load.Check();
}

TEST(ClusterTest, AReplicaTakesOverTheSlotsOfItsPrimary) {
  RedisCluster cluster(3);
  tollhouse::testing::RedisServer& first = cluster.node(0);
  tollhouse::testing::RedisServer& second = cluster.AddReplica(0);
  const auto client =
      Connect(cluster.uri(), {.check_interval = absl::Milliseconds(100)});
  std::string moving = "{a}", staying = "{b}";
  for (int i = 0; cluster.Owner(KeySlot(moving)) != 0; ++i) moving = absl::StrCat("{a", i, "}");
  for (int i = 0; cluster.Owner(KeySlot(staying)) == 0; ++i) staying = absl::StrCat("{b", i, "}");
  const auto is_primary = [](tollhouse::testing::RedisServer& server) {
    return server.Command({"INFO", "replication"}).find("role:master") != std::string::npos;
  };
  // In agreement with its primary, under load: nothing is lost.
  const std::string before = client->Incarnation(moving);
  {
    Load load(*client, {moving, staying}, 32);
    ASSERT_TRUE(AwaitProcess([&] { return load.acknowledged() > 500; }));
    // Redis gives a failover up after five seconds when the votes do not come in time.
    absl::Time asked = absl::InfinitePast();
    ASSERT_TRUE(AwaitProcess([&] {
      if (is_primary(second)) return !is_primary(first);
      if (absl::Now() - asked > absl::Seconds(6)) {
        EXPECT_EQ(second.Command({"CLUSTER", "FAILOVER"}), "OK");
        asked = absl::Now();
      }
      return false;
    }));
    const size_t then = load.acknowledged();
    EXPECT_TRUE(AwaitProcess([&] { return load.acknowledged() > then + 500; }));
    load.Stop();
    load.Check();
  }
  ASSERT_TRUE(client->CallAndWait({"SET", moving, "1"}, kPatience).ok());
  EXPECT_NE(client->Incarnation(moving), before);
  // And without it, when it is dead.
  first.AwaitReplicated();
  second.Kill();
  ASSERT_EQ(first.Command({"CLUSTER", "FAILOVER", "TAKEOVER"}), "OK");
  EXPECT_TRUE(AwaitProcess(
      [&] { return client->CallAndWait({"SET", moving, "2"}, kPatience).ok(); }));
  EXPECT_EQ(first.Command({"GET", moving}), "2");
  // The same server, another history: known after check_interval at the latest.
  EXPECT_TRUE(AwaitProcess([&] {
    const std::string now = client->Incarnation(moving);
    return !now.empty() && now != before;
  }));
}

}  // namespace
}  // namespace tollhouse::redis
