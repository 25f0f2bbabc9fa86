// RedisStore and a real Redis that restarts, forgets, fails over, fills up and stops answering.
#include "services/budget-enforcer/store/redis_store.h"

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/redis/command.h"
#include "libs/testing/redis_server.h"
#include "services/budget-enforcer/core/core_testing.h"
#include "services/budget-enforcer/store/store_history_testing.h"

namespace tollhouse::enforcer {
namespace {

using testing::RedisServer;
using What = StoreQuery::What;

constexpr int64_t kOrg = 7;

RedisStoreOptions Options() {
  RedisStoreOptions options;
  options.clock_ahead_max = absl::InfiniteDuration();
  return options;
}

std::unique_ptr<RedisStore> Connect(const std::string& uri, RedisStoreOptions options = Options()) {
  redis::Options redis;
  redis.uri = uri;
  redis.check_interval = absl::Milliseconds(50);
  auto store = RedisStore::Create(redis, std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->WaitUntilConnected(absl::Seconds(10)).ok());
  return *std::move(store);
}

// One batch with one event: its effect; the store's failure is the test's.
template <typename Effect, typename Event>
Effect Do(HoldStore& store, const Event& event) {
  StoreBatch batch;
  batch.org_id = kOrg;
  batch.events = {event};
  RunAndWait(store, batch);
  EXPECT_TRUE(batch.status.ok()) << batch.status;
  return batch.status.ok() ? std::get<Effect>(batch.effects[0]) : Effect{};
}

// The same until the store can be reached again.
template <typename Effect, typename Event>
Effect DoWhenBack(RedisStore& store, const Event& event) {
  const absl::Time give_up = absl::Now() + absl::Seconds(10);
  StoreBatch batch;
  batch.org_id = kOrg;
  do {
    EXPECT_TRUE(store.WaitUntilConnected(absl::Seconds(10)).ok());
    batch.events = {event};
    RunAndWait(store, batch);
  } while (!batch.status.ok() && absl::Now() < give_up);
  EXPECT_TRUE(batch.status.ok()) << batch.status;
  return batch.status.ok() ? std::get<Effect>(batch.effects[0]) : Effect{};
}

std::string Open(HoldStore& store, int64_t epoch) {
  auto identity = IdentifyAndWait(store, kOrg);
  EXPECT_TRUE(identity.ok()) << identity.status();
  StoreBatch batch;
  batch.org_id = kOrg;
  batch.incarnation = *identity;
  batch.events = {InitEpoch{epoch}};
  RunAndWait(store, batch);
  EXPECT_TRUE(batch.status.ok()) << batch.status;
  EXPECT_EQ(std::get<Outcome>(batch.effects[0]), Outcome::kDone);
  return *identity;
}

GrantEffect Lease(HoldStore& store, int64_t epoch, int64_t grant_id, int64_t nanos) {
  const std::vector<BudgetAmount> amounts = {{1, "total", nanos}};
  return Do<GrantEffect>(store, AddGrant{epoch, grant_id, amounts});
}

// A Reserve of one budget.
struct Ask {
  explicit Ask(uint64_t number, int64_t nanos = 10, int64_t epoch = 1)
      : reserve(TestHoldId(number), {{1, "total", nanos}}) {
    reserve.event.epoch = epoch;
  }
  const Reserve& operator*() { return *reserve; }
  TestReserve reserve;
};

int64_t FreeNanos(HoldStore& store) {
  auto view = ReadAndWait(store, kOrg, {What::kLeases});
  EXPECT_TRUE(view.ok()) << view.status();
  return view.ok() && !view->leases.empty() ? view->leases[0].free_nanos : 0;
}

int64_t Number(const std::string& text) {
  int64_t value = -1;
  EXPECT_TRUE(absl::SimpleAtoi(text, &value)) << text;
  return value;
}

std::string Key(const char* part) { return absl::StrCat("tollhouse:{", kOrg, "}:", part); }

TEST(RedisStoreTest, GathersBatchesWhileACallIsUnderWay) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  Lease(*store, 1, 1, 1'000'000);
  server.Command({"CONFIG", "RESETSTAT"});
  constexpr int kBatches = 2000;
  std::vector<std::unique_ptr<Ask>> asks;
  std::vector<StoreBatch> batches(kBatches);
  absl::BlockingCounter done(kBatches);
  for (int i = 0; i < kBatches; ++i) {
    asks.push_back(std::make_unique<Ask>(i));
    batches[i].org_id = kOrg;
    batches[i].events = {**asks[i]};
  }
  for (StoreBatch& batch : batches) store->Run(&batch, [&] { done.DecrementCount(); });
  done.Wait();
  int64_t last = 1'000'000;
  for (StoreBatch& batch : batches) {
    ASSERT_TRUE(batch.status.ok()) << batch.status;
    const auto& effect = std::get<ReserveEffect>(batch.effects[0]);
    ASSERT_EQ(effect.outcome, Outcome::kDone);
    EXPECT_EQ(effect.remaining[0], last - 10) << "in the order in which they were submitted";
    last = effect.remaining[0];
  }
  const std::string stats = server.Command({"INFO", "commandstats"});
  const size_t at = stats.find("cmdstat_evalsha:calls=");
  ASSERT_NE(at, std::string::npos);
  EXPECT_LT(Number(stats.substr(at + 22, stats.find(',', at) - at - 22)), kBatches / 4);
}

TEST(RedisStoreTest, ARestartedRedisIsAnotherIncarnation) {
  RedisServer server;
  std::atomic<int> changes = 0;  // must outlive the store
  auto store = Connect(server.uri());
  store->SetIncarnationChanged([&] { ++changes; });
  const std::string before = Open(*store, 1);
  Lease(*store, 1, 1, 100);
  Ask ask(1);
  EXPECT_EQ(Do<ReserveEffect>(*store, *ask).outcome, Outcome::kDone);
  const int connected = changes;
  server.Kill();
  server.Start();
  Ask later(2);
  // The data are back from the append-only file, and are worth nothing: its last second may be missing.
  EXPECT_EQ(DoWhenBack<ReserveEffect>(*store, *later).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(Do<HoldEffect>(*store, Settle{1, kNoonMs, TestHoldId(1), 1}).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(Lease(*store, 1, 2, 5).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(FreeNanos(*store), 0);
  EXPECT_GT(changes, connected);
  EXPECT_NE(Open(*store, 2), before);
  EXPECT_EQ(Do<HoldEffect>(*store, Settle{1, kNoonMs, TestHoldId(1), 1}).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(FreeNanos(*store), 0) << "what a restored file brought along is wiped";
  EXPECT_TRUE(Lease(*store, 2, 1, 40).applied);
  Ask again(2, 10, 2);
  EXPECT_EQ(Do<ReserveEffect>(*store, *again).outcome, Outcome::kDone);
}

TEST(RedisStoreTest, AnEpochCannotBeginAgainAfterAFlush) {
  RedisServer server;
  auto store = Connect(server.uri());
  const std::string before = Open(*store, 1);
  Lease(*store, 1, 1, 100);
  server.FlushAll();
  Ask ask(1);
  EXPECT_EQ(Do<ReserveEffect>(*store, *ask).outcome, Outcome::kEpochClosed);
  // A late InitEpoch of the flushed epoch, under the identity that it was registered for.
  StoreBatch late;
  late.org_id = kOrg;
  late.incarnation = before;
  late.events = {InitEpoch{1}};
  RunAndWait(*store, late);
  EXPECT_EQ(late.status.code(), absl::StatusCode::kFailedPrecondition) << late.status;
  EXPECT_EQ(ReasonOf(late.status), "INCARNATION_CHANGED");
  EXPECT_NE(Open(*store, 2), before);
  EXPECT_EQ(Lease(*store, 1, 1, 100).outcome, Outcome::kEpochClosed);
}

TEST(RedisStoreTest, OneOrgsDeletedKeysConcernNobodyElse) {
  RedisServer server;
  auto store = Connect(server.uri());
  const std::string before = Open(*store, 1);
  auto other = IdentifyAndWait(*store, kOrg + 1);
  server.Command({"DEL", Key("org")});
  EXPECT_NE(*IdentifyAndWait(*store, kOrg), before);
  EXPECT_EQ(*IdentifyAndWait(*store, kOrg + 1), *other);
}

// Until the replica has what its primary has of the org.
void AwaitReplicated(RedisServer& primary, RedisServer& replica) {
  const std::string want = primary.Command({"HGET", Key("org"), "m"});
  const absl::Time give_up = absl::Now() + absl::Seconds(10);
  while (replica.Command({"HGET", Key("org"), "m"}) != want) {
    if (absl::Now() > give_up) FAIL() << "the replica does not follow";
  }
}

// A primary that leads, loses its lead and its last writes, and leads again: same process, same
// run_id, epoch key intact. Whether an old epoch's events are served there.
bool ServedAfterFailback(RedisStoreOptions options) {
  RedisServer first;
  RedisServer::Options follower;
  follower.replica_of = first.port();
  RedisServer second(follower);
  auto store = Connect(first.uri(), options);
  Open(*store, 1);
  Lease(*store, 1, 1, 100);
  AwaitReplicated(first, second);
  second.CutReplication();
  Ask lost(1, 100);
  EXPECT_EQ(Do<ReserveEffect>(*store, *lost).outcome, Outcome::kDone);  // `second` never hears of it
  second.Promote();
  auto promoted = Connect(second.uri(), options);
  Ask ask(2, 100);
  bool served = Do<ReserveEffect>(*promoted, *ask).outcome != Outcome::kEpochClosed;
  served |= FreeNanos(*promoted) != 0;
  first.Follow(second);
  StoreBatch refused;
  refused.org_id = kOrg;
  Ask third(3);
  refused.events = {*third};
  RunAndWait(*store, refused);
  served |= refused.status.ok() && std::get<ReserveEffect>(refused.effects[0]).outcome == Outcome::kDone;
  first.Promote();
  auto again = Connect(first.uri(), options);
  Ask fourth(4, 100);
  served |= Do<ReserveEffect>(*again, *fourth).outcome != Outcome::kEpochClosed;
  served |= DoWhenBack<ReserveEffect>(*store, *fourth).outcome != Outcome::kEpochClosed;
  return served;
}

TEST(RedisStoreTest, APromotedReplicaAndAFailbackServeNoOldEpoch) {
  EXPECT_FALSE(ServedAfterFailback(Options()));
}

TEST(RedisStoreTest, WithoutTheIdentityInEveryScriptAFailbackWouldServe) {
  RedisStoreOptions broken = Options();
  const std::string check = "if org[2] and string.find(info, 'master_replid:' .. org[2], 1, true) then epoch = key end";
  const size_t at = broken.run_script.find(check);
  ASSERT_NE(at, std::string::npos);
  broken.run_script.replace(at, check.size(), "epoch = key");
  EXPECT_TRUE(ServedAfterFailback(broken));
}

TEST(RedisStoreTest, AZombiePrimarySpendsOnlyItsOwnEpoch) {
  RedisServer first;
  RedisServer::Options follower;
  follower.replica_of = first.port();
  RedisServer second(follower);
  auto zombie = Connect(first.uri());
  const std::string old = Open(*zombie, 1);
  Lease(*zombie, 1, 1, 100);
  AwaitReplicated(first, second);
  second.CutReplication();
  second.Promote();
  auto leader = Connect(second.uri());
  StoreBatch stale;  // registered for the old primary, sent to the new one
  stale.org_id = kOrg;
  stale.incarnation = old;
  stale.events = {InitEpoch{2}};
  RunAndWait(*leader, stale);
  EXPECT_EQ(ReasonOf(stale.status), "INCARNATION_CHANGED");
  Open(*leader, 2);
  EXPECT_EQ(FreeNanos(*leader), 0);
  EXPECT_TRUE(Lease(*leader, 2, 1, 50).applied);
  Ask ask(1, 10, 2);
  EXPECT_EQ(Do<ReserveEffect>(*zombie, *ask).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(Lease(*zombie, 2, 1, 50).outcome, Outcome::kEpochClosed);
  Ask under_old(2);
  EXPECT_EQ(Do<ReserveEffect>(*leader, *under_old).outcome, Outcome::kEpochClosed);
}

TEST(RedisStoreTest, AnAnswerThatGotLostIsAskedForAgain) {
  RedisServer server;
  RedisStoreOptions options = Options();
  options.timeout = absl::Milliseconds(100);
  auto store = Connect(server.uri(), options);
  Open(*store, 1);
  Lease(*store, 1, 1, 100);
  server.Pause();
  Ask ask(1);
  StoreBatch batch;
  batch.org_id = kOrg;
  batch.events = {*ask};
  RunAndWait(*store, batch);
  EXPECT_EQ(batch.status.code(), absl::StatusCode::kUnavailable) << batch.status;
  EXPECT_TRUE(redis::MayHaveBeenExecuted(batch.status)) << batch.status;
  server.Resume();
  EXPECT_EQ(DoWhenBack<ReserveEffect>(*store, *ask).outcome, Outcome::kDone);
  const auto settle = [&] { return DoWhenBack<HoldEffect>(*store, Settle{1, kNoonMs, TestHoldId(1), 4}); };
  settle();
  EXPECT_FALSE(settle().applied);
  EXPECT_EQ(FreeNanos(*store), 96);
}

TEST(RedisStoreTest, AForgottenScriptIsSentAgain) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  Lease(*store, 1, 1, 100);
  server.Command({"SCRIPT", "FLUSH"});
  Ask ask(1);
  EXPECT_EQ(Do<ReserveEffect>(*store, *ask).outcome, Outcome::kDone);
  EXPECT_EQ(FreeNanos(*store), 90);
}

TEST(RedisStoreTest, AFullRedisRefusesWholeCallsAndStillLetsGo) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  Lease(*store, 1, 1, 1000);
  Ask ask(1);
  EXPECT_EQ(Do<ReserveEffect>(*store, *ask).outcome, Outcome::kDone);
  server.Command({"CONFIG", "SET", "maxmemory", "1"});
  Ask more(2);
  StoreBatch batch;
  batch.org_id = kOrg;
  batch.events = {*more, Settle{1, kNoonMs, TestHoldId(1), 4}};
  RunAndWait(*store, batch);
  EXPECT_EQ(ReasonOf(batch.status), "REDIS_REFUSED") << batch.status;
  EXPECT_FALSE(redis::MayHaveBeenExecuted(batch.status));
  EXPECT_EQ(FreeNanos(*store), 990) << "nothing of it was applied";
  // What makes room is taken.
  EXPECT_TRUE(Do<HoldEffect>(*store, Acknowledge{1, kNoonMs, TestHoldId(1), 4}).applied);
  EXPECT_EQ(FreeNanos(*store), 996);
  server.Command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_EQ(Do<ReserveEffect>(*store, *more).outcome, Outcome::kDone);
}

TEST(RedisStoreTest, ARedisThatIsAwayFailsBatchesInTime) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  server.Kill();
  Ask ask(1);
  StoreBatch batch;
  batch.org_id = kOrg;
  batch.events = {*ask};
  const absl::Time start = absl::Now();
  RunAndWait(*store, batch);
  EXPECT_EQ(batch.status.code(), absl::StatusCode::kUnavailable) << batch.status;
  EXPECT_FALSE(IdentifyAndWait(*store, kOrg).ok());
  EXPECT_FALSE(ReadAndWait(*store, kOrg, {What::kLeases}).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST(RedisStoreTest, BatchesThatCannotBeExpressedFailAlone) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  Lease(*store, 1, 1, 100);
  const std::string long_name(70'000, 'x');
  Ask bad(1), good(2);
  bad.reserve.event.edge_id = long_name;
  StoreBatch first, second, third;
  first.org_id = second.org_id = third.org_id = kOrg;
  first.events = {*bad};
  second.events = {*good};
  third.events = {InitEpoch{2}};
  RunAndWait(*store, first);
  RunAndWait(*store, second);
  RunAndWait(*store, third);
  EXPECT_EQ(first.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(second.status.ok());
  EXPECT_EQ(third.status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(RedisStoreTest, OneEnforcersClockAheadExpiresNothing) {
  RedisServer server;
  auto store = Connect(server.uri(), RedisStoreOptions{});
  Open(*store, 1);
  Lease(*store, 1, 1, 100);
  const int64_t now = absl::ToUnixMillis(absl::Now());
  TestReserve reserve(TestHoldId(1, now), {{1, "total", 10}});
  reserve.event.now_ms = now;
  EXPECT_EQ(Do<ReserveEffect>(*store, *reserve).outcome, Outcome::kDone);
  EXPECT_EQ(Do<TickEffect>(*store, Tick{1, now + 86'400'000}).expired, 0);
  TestReserve next(TestHoldId(2, now), {{1, "total", 10}});
  next.event.now_ms = now;
  EXPECT_EQ(Do<ReserveEffect>(*store, *next).outcome, Outcome::kDone);
}

// Thousands of holds, each settled and acknowledged, over many horizons: what is kept of them levels off.
TEST(RedisStoreTest, WhatIsRememberedOfFinishedHoldsIsBounded) {
  RedisServer server;
  RedisStoreOptions options = Options();
  options.core.retry_horizon_ms = 2'000;
  auto store = Connect(server.uri(), options);
  Open(*store, 1);
  Lease(*store, 1, 1, 1'000'000'000);
  constexpr int kPerStep = 50, kStepMs = 100;  // 500 holds a second
  int64_t now = kNoonMs, most_ends = 0;
  uint64_t number = 0;
  for (int step = 0; step < 300; ++step) {
    now += kStepMs;
    std::vector<std::unique_ptr<TestReserve>> asks;
    StoreBatch batch;
    batch.org_id = kOrg;
    batch.events = {Tick{1, now}};
    for (int i = 0; i < kPerStep; ++i) {
      asks.push_back(std::make_unique<TestReserve>(TestHoldId(++number, now),
                                                   std::vector<BudgetAmount>{{1, "total", 10}}));
      asks.back()->event.now_ms = now;
      asks.back()->event.time_to_live_ms = 1'000;
      batch.events.push_back(**asks.back());
    }
    for (int i = 0; i < kPerStep; ++i) {
      const Uuid& id = asks[i]->event.hold_id;
      if (i % 3 == 0) {
        batch.events.push_back(Void{1, now, id});
        continue;
      }
      batch.events.push_back(Settle{1, now, id, 4});
      batch.events.push_back(Acknowledge{1, now, id, 4});
    }
    RunAndWait(*store, batch);
    ASSERT_TRUE(batch.status.ok()) << batch.status;
    const int64_t ends = Number(server.Command({"HLEN", Key("ends")}));
    if (step < 100) {
      most_ends = std::max(most_ends, ends);
    } else {
      ASSERT_LE(ends, most_ends + kPerStep);
    }
    ASSERT_LE(Number(server.Command({"ZCARD", Key("due")})), 2 * 1'000 / kStepMs);
  }
  EXPECT_LE(most_ends, 500 * 4);
  EXPECT_EQ(server.Command({"HLEN", Key("holds")}), "1") << "what keeps it there";
  EXPECT_EQ(server.Command({"HLEN", Key("states")}), "1");
  EXPECT_EQ(server.Command({"HLEN", Key("org")}), "4") << "three of its own and one lease";
}

TEST(RedisStoreTest, ManyOrgsShareOneConnection) {
  RedisServer server;
  auto store = Connect(server.uri());
  constexpr int kOrgs = 50;
  for (int org = 1; org <= kOrgs; ++org) {
    StoreBatch batch;
    batch.org_id = org;
    batch.incarnation = *IdentifyAndWait(*store, org);
    const std::vector<BudgetAmount> amounts = {{1, "total", 100 + org}};
    batch.events = {InitEpoch{1}, AddGrant{1, 1, amounts}};
    RunAndWait(*store, batch);
    ASSERT_TRUE(batch.status.ok()) << batch.status;
  }
  for (int org = 1; org <= kOrgs; ++org) {
    auto view = ReadAndWait(*store, org, {What::kLeases});
    ASSERT_TRUE(view.ok());
    ASSERT_EQ(view->leases.size(), 1u);
    EXPECT_EQ(view->leases[0].free_nanos, 100 + org);
  }
}

TEST(RedisStoreTest, InAClusterAnOrgHasTheIdentityOfItsPrimary) {
  testing::RedisCluster cluster(3);
  auto store = Connect(cluster.uri());
  std::set<std::string> processes;
  constexpr int kOrgs = 30;
  for (int org = 1; org <= kOrgs; ++org) {
    const auto identity = IdentifyAndWait(*store, org);
    ASSERT_TRUE(identity.ok()) << identity.status();
    processes.insert(identity->substr(0, identity->rfind('/')));
    StoreBatch batch;
    batch.org_id = org;
    batch.incarnation = *identity;
    const std::vector<BudgetAmount> amounts = {{1, "total", 100}};
    Ask ask(org);
    batch.events = {InitEpoch{1}, AddGrant{1, 1, amounts}, *ask};
    RunAndWait(*store, batch);
    ASSERT_TRUE(batch.status.ok()) << batch.status;
    EXPECT_EQ(std::get<ReserveEffect>(batch.effects[2]).outcome, Outcome::kDone);
    const auto view = ReadAndWait(*store, org, {What::kLeases});
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->leases[0].free_nanos, 90);
  }
  EXPECT_EQ(processes.size(), 3u);
}

// While a slot moves its keys are here or there. What an org does goes on as long as they are together,
// also if there is nothing in most of them; on the other side it has another identity.
TEST(RedisStoreTest, AnOrgGoesOnWhileItsSlotMoves) {
  testing::RedisCluster cluster(3);
  auto store = Connect(cluster.uri());
  const int slot = redis::KeySlot(Key("org"));
  const int from = cluster.Owner(slot);
  const int to = (from + 1) % cluster.size();
  int64_t number = 0;
  const auto work = [&](int64_t epoch, int64_t now) {  // nothing is tried again
    const int64_t before = FreeNanos(*store);
    for (int i = 0; i < 30; ++i) {
      const Uuid id = TestHoldId(++number, now);
      TestReserve ask(id, {{1, "total", 10}});
      ask.event.epoch = epoch;
      ask.event.now_ms = now;
      EXPECT_EQ(Do<ReserveEffect>(*store, *ask).outcome, Outcome::kDone);
      EXPECT_EQ(Do<HoldEffect>(*store, Settle{epoch, now, id, 4}).outcome, Outcome::kDone);
      EXPECT_EQ(Do<HoldEffect>(*store, Acknowledge{epoch, now, id, 4}).outcome, Outcome::kDone);
    }
    EXPECT_EQ(Do<TickEffect>(*store, Tick{epoch, now}).expired, 0);
    EXPECT_EQ(FreeNanos(*store), before - 30 * 4);
  };
  Open(*store, 1);
  Lease(*store, 1, 1, 10'000);
  // All that was remembered is forgotten: every list is empty once more.
  const int64_t later = kNoonMs + 86'400'000;
  work(1, kNoonMs);
  for (int i = 0; i < 20; ++i) Do<TickEffect>(*store, Tick{1, later + i});
  cluster.BeginMove(slot, to);
  work(1, later + 20);
  EXPECT_EQ(cluster.MoveKeys(slot, from, to, 100), 9);
  EXPECT_EQ(Do<TickEffect>(*store, Tick{1, later + 20}).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(FreeNanos(*store), 0);
  Open(*store, 2);
  Lease(*store, 2, 1, 10'000);
  work(2, later + 20);
  cluster.EndMove(slot, to);
  work(2, later + 20);
}

TEST(RedisStoreTest, ViewsOfManyHoldsComeInPages) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  Lease(*store, 1, 1, 1'000'000);
  constexpr int kHolds = 1000;
  std::vector<std::unique_ptr<Ask>> asks;
  StoreBatch batch;
  batch.org_id = kOrg;
  for (int i = 0; i < kHolds; ++i) {
    asks.push_back(std::make_unique<Ask>(i));
    batch.events.push_back(**asks.back());
  }
  RunAndWait(*store, batch);
  ASSERT_TRUE(batch.status.ok()) << batch.status;
  auto all = ReadAndWait(*store, kOrg, {What::kHolds});
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->holds.size(), static_cast<size_t>(kHolds));
  EXPECT_EQ(Do<TickEffect>(*store, Tick{1, kNoonMs + 3'600'000, 300}).expired, 300);
  StoreQuery query{What::kExpired};
  query.max = 256;
  auto expired = ReadAndWait(*store, kOrg, query);
  ASSERT_TRUE(expired.ok());
  EXPECT_EQ(expired->holds.size(), 256u);
}

TEST(RedisStoreTest, TheEndAnswersWhatIsStillOpen) {
  RedisServer server;
  auto store = Connect(server.uri());
  Open(*store, 1);
  server.Pause();
  constexpr int kBatches = 500;
  std::vector<std::unique_ptr<Ask>> asks;
  std::vector<StoreBatch> batches(kBatches);
  std::atomic<int> done = 0;
  for (int i = 0; i < kBatches; ++i) {
    asks.push_back(std::make_unique<Ask>(i));
    batches[i].org_id = kOrg;
    batches[i].events = {**asks[i]};
    store->Run(&batches[i], [&] { ++done; });
  }
  store.reset();
  EXPECT_EQ(done, kBatches);
  for (const StoreBatch& batch : batches) EXPECT_FALSE(batch.status.ok());
  server.Resume();
}

}  // namespace
}  // namespace tollhouse::enforcer
