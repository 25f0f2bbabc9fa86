// Two whole enforcers on one real Redis, under load from many callers: the cap holds while Redis is
// flushed, killed and failed over, service is back within two seconds, and nothing leaks.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "libs/testing/redis_server.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/app.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kHold = 1'000'003;

class EnforcersRedisTest : public ::testing::Test {
 protected:
  struct Member {
    std::unique_ptr<App> app;
    std::unique_ptr<grpc::Server> server;
  };

  EnforcersRedisTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&ledger_);
    ledger_server_ = builder.BuildAndStart();
  }

  ~EnforcersRedisTest() override {
    sessions_.clear();
    for (Member& member : members_) Stop(member);
    ledger_.Shutdown();
    ledger_server_->Shutdown(std::chrono::system_clock::now());
    EXPECT_EQ(ledger_.problems(), std::vector<std::string>{});
  }

  void StartTwo(const std::string& uri) {
    for (const char* name : {"enforcer-a", "enforcer-b"}) {
      Config config;
      config.enforcer_id = name;
      config.redis.uri = uri;
      config.redis.check_interval = absl::Milliseconds(200);
      config.tick_interval = absl::Milliseconds(10);
      auto app = App::Create(config, ledger_server_->InProcessChannel({}));
      if (!app.ok()) throw std::runtime_error(app.status().ToString());
      Member& member = members_.emplace_back();
      member.app = *std::move(app);
      grpc::ServerBuilder builder;
      member.app->RegisterInternal(builder);
      member.app->RegisterAdmin(builder);
      member.server = builder.BuildAndStart();
      if (!member.app->Start().ok() || !member.app->WaitReady(absl::Seconds(20))) {
        throw std::runtime_error("an enforcer does not start");
      }
      sessions_.push_back(
          std::make_unique<TestSession>(member.server->InProcessChannel({}), "edge"));
    }
  }

  static void Stop(Member& member) {
    if (member.app == nullptr) return;
    member.app->Stop();
    member.server->Shutdown(std::chrono::system_clock::now());
    member.server.reset();
    member.app.reset();
  }

  static v1::Operation Reserve(std::vector<int64_t> path) {
    v1::Operation op;
    v1::Reserve* reserve = op.mutable_reserve();
    reserve->set_hold_id(std::string(NewUuid(absl::Now()).raw()));
    reserve->set_fingerprint("f");
    for (int64_t id : path) reserve->add_account_ids(id);
    reserve->set_strict_nanousd(kHold);
    reserve->set_tight_nanousd(kHold);
    reserve->set_first_attempt(true);
    reserve->set_time_to_live_ms(600'000);
    return op;
  }

  TestSession& any(std::mt19937_64& random) { return *sessions_[random() % sessions_.size()]; }

  // One request as an edge makes it, its parts at any enforcer.
  v1::OperationResult Once(std::mt19937_64& random, int64_t cap) {
    v1::Operation reserve = Reserve({1, 2});
    const v1::OperationResult result = any(random).Call(reserve);
    if (!result.has_admitted()) return result;
    const int64_t epoch = result.admitted().epoch();
    const int64_t cost = 1 + static_cast<int64_t>(random() % kHold);
    EXPECT_LE(billed_ += cost, cap) << "the provider billed more than the cap";
    any(random).Call(EnforcerWorld::Settle(reserve, epoch, cost));
    ledger_.Post(EnforcerWorld::Entry(reserve, result.admitted(), cost));
    any(random).Call(EnforcerWorld::Acknowledge(reserve, epoch, cost));
    return result;
  }

  // Requests one after the other until one is admitted; how long that took.
  absl::Duration UntilServed(std::mt19937_64& random, int64_t cap) {
    const absl::Time began = absl::Now();
    while (absl::Now() - began < absl::Seconds(20)) {
      if (Once(random, cap).has_admitted()) break;
    }
    return absl::Now() - began;
  }

  // What the ledger calls leased is in Redis: free, none of it held.
  void ExpectNothingLeaked(int64_t budget_id) {
    auto stub = v1::EnforcerAdminService::NewStub(members_[0].server->InProcessChannel({}));
    v1::GetBudgetHoldsResponse view;
    const auto good = [&](const FakeLedger::Row& row) {
      grpc::ClientContext context;
      v1::GetBudgetHoldsRequest request;
      request.add_budget_ids(budget_id);
      view.Clear();
      if (!stub->GetBudgetHolds(&context, request, &view).ok()) return false;
      int64_t free = 0, held = 0;
      for (const auto& budget : view.held()) {
        free += budget.lease_remaining_nanousd();
        held += budget.held_nanousd();
      }
      return held == 0 && free == row.leased;
    };
    bool settled = false;
    const absl::Time end = absl::Now() + absl::Seconds(15);
    while (!settled && absl::Now() < end) settled = good(ledger_.row(budget_id));
    EXPECT_TRUE(settled) << view.ShortDebugString() << " of " << ledger_.row(budget_id).leased;
  }

  FakeLedger ledger_;
  std::unique_ptr<grpc::Server> ledger_server_;
  std::vector<Member> members_;
  std::vector<std::unique_ptr<TestSession>> sessions_;
  std::atomic<int64_t> billed_ = 0;
};

TEST_F(EnforcersRedisTest, TheLastDollarThroughBoth) {
  testing::RedisServer redis;
  const uint64_t seed = testing::TestSeed();
  const int64_t cap = 40 * kHold + kHold / 2;
  ledger_.SetBudget(EnforcerWorld::Rule(1), cap);
  ledger_.SetBudget(EnforcerWorld::Rule(2), 1000 * cap);
  StartTwo(redis.uri());
  std::atomic<int> other = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 64; ++i) {
    callers.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      while (true) {
        const v1::OperationResult result = Once(random, cap);
        if (result.has_admitted() || result.refused().reason() == v1::REASON_BUDGET_HELD) continue;
        other += result.refused().reason() != v1::REASON_BUDGET_EXHAUSTED;
        return;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(other, 0) << "only an exhausted budget is final";
  const FakeLedger::Row row = ledger_.row(10);
  EXPECT_EQ(row.spent, billed_);
  EXPECT_EQ(row.overrun, 0);
  EXPECT_LT(cap - row.spent, kHold) << "more was left than one hold at the final refusal (L2)";
  ExpectNothingLeaked(10);
  EXPECT_EQ(ledger_.epoch(1), 1) << "one store, one epoch";
}

TEST_F(EnforcersRedisTest, AFlushedRedisIsServedAgainWithinTwoSeconds) {
  testing::RedisServer redis;
  const int64_t cap = 1'000'000 * kHold;
  ledger_.SetBudget(EnforcerWorld::Rule(1), cap);
  StartTwo(redis.uri());
  std::mt19937_64 random(testing::TestSeed());
  UntilServed(random, cap);
  redis.FlushAll();
  EXPECT_LT(UntilServed(random, cap), absl::Seconds(2));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Once(random, cap).has_admitted());
  EXPECT_EQ(ledger_.epoch(1), 2);
  ExpectNothingLeaked(10);
}

TEST_F(EnforcersRedisTest, AKilledRedisIsAStoreThatIsAwayAndThenAnotherOne) {
  testing::RedisServer redis;
  const int64_t cap = 1'000'000 * kHold;
  ledger_.SetBudget(EnforcerWorld::Rule(1), cap);
  StartTwo(redis.uri());
  std::mt19937_64 random(testing::TestSeed());
  UntilServed(random, cap);
  const v1::Operation reserve = Reserve({1, 2});
  const v1::OperationResult admitted = sessions_[0]->Call(reserve);
  ASSERT_TRUE(admitted.has_admitted());
  redis.Kill();
  EXPECT_EQ(sessions_[0]->Call(Reserve({1, 2})).failed().reason(), "STORE_UNAVAILABLE");
  EXPECT_EQ(sessions_[1]->Call(Reserve({1, 2})).failed().reason(), "STORE_UNAVAILABLE");
  const uint64_t settle = sessions_[1]->Send({EnforcerWorld::Settle(reserve, 1, kHold / 2)});
  redis.Start();
  EXPECT_LT(UntilServed(random, cap), absl::Seconds(2));
  EXPECT_TRUE(sessions_[1]->Wait(settle).has_done()) << "the ledger owns what the old one held";
  EXPECT_EQ(ledger_.epoch(1), 2);
  ExpectNothingLeaked(10);
}

TEST_F(EnforcersRedisTest, AFailoverThatLosesWritesIsHarmless) {
  testing::RedisServer first;
  testing::RedisServer::Options options;
  options.replica_of = first.port();
  testing::RedisServer second(options);
  const int64_t cap = 1'000'000 * kHold;
  ledger_.SetBudget(EnforcerWorld::Rule(1), cap);
  StartTwo(first.uri() + "," + second.address());
  std::mt19937_64 random(testing::TestSeed());
  UntilServed(random, cap);
  second.CutReplication();
  for (int i = 0; i < 50; ++i) Once(random, cap);
  first.Kill();
  second.Promote();
  EXPECT_LT(UntilServed(random, cap), absl::Seconds(3));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Once(random, cap).has_admitted());
  EXPECT_EQ(ledger_.epoch(1), 2);
  EXPECT_EQ(ledger_.row(10).spent, billed_);
  ExpectNothingLeaked(10);
}

TEST_F(EnforcersRedisTest, OneEnforcerStopsAndTheOtherGoesOnFromItsLease) {
  testing::RedisServer redis;
  const int64_t cap = 1'000'000 * kHold;
  ledger_.SetBudget(EnforcerWorld::Rule(1), cap);
  StartTwo(redis.uri());
  std::mt19937_64 random(testing::TestSeed());
  UntilServed(random, cap);
  const v1::Operation reserve = Reserve({1, 2});
  const v1::OperationResult held = sessions_[0]->Call(reserve);
  ASSERT_TRUE(held.has_admitted());
  Stop(members_[0]);
  sessions_.erase(sessions_.begin());
  members_.erase(members_.begin());
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Once(random, cap).has_admitted());
  EXPECT_TRUE(sessions_[0]->Call(EnforcerWorld::Void(reserve, held.admitted().epoch())).has_done());
  ledger_.Post(EnforcerWorld::Entry(reserve, held.admitted(), 0));
  EXPECT_EQ(ledger_.epoch(1), 1);
  ExpectNothingLeaked(10);
}

}  // namespace
}  // namespace tollhouse::enforcer
