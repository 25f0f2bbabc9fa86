// The real enforcer on the real ledger: every budget row, journal entry and lease of theirs agrees.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libs/base/uuid.h"
#include "libs/testing/redis_server.h"
#include "libs/testing/seed.h"
#include "libs/testing/temp_dir.h"
#include "services/budget-enforcer/app.h"
#include "services/ledger/app.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse {
namespace {

using enforcer::v1::Operation;
using enforcer::v1::OperationResult;
constexpr int64_t kDollar = 1'000'000'000;

class EscrowChainTest : public ::testing::Test {
 protected:
  EscrowChainTest() {
    ledger::Config config;
    config.database = "sqlite:" + dir_.File("ledger.db");
    auto app = ledger::App::Create(config);
    EXPECT_TRUE(app.ok()) << app.status();
    ledger_ = *std::move(app);
    grpc::ServerBuilder builder;
    ledger_->RegisterInternal(builder);
    ledger_->RegisterAdmin(builder);
    ledger_server_ = builder.BuildAndStart();
    EXPECT_TRUE(ledger_->Start().ok());
    auto channel = ledger_server_->InProcessChannel({});
    ledger_stub_ = ledger::v1::LedgerService::NewStub(channel);
    admin_ = ledger::v1::LedgerAdminService::NewStub(channel);
    StartEnforcer();
    const std::pair<const char*, common::v1::AccountKind> accounts[] = {
        {"acme", common::v1::ACCOUNT_KIND_ORG},
        {"acme/payments", common::v1::ACCOUNT_KIND_TEAM},
        {"acme/payments/sarah", common::v1::ACCOUNT_KIND_USER}};
    for (const auto& [path, kind] : accounts) {
      grpc::ClientContext context;
      ledger::v1::CreateAccountRequest request;
      request.set_kind(kind);
      request.set_path(path);
      ledger::v1::CreateAccountResponse response;
      const grpc::Status status = admin_->CreateAccount(&context, request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      path_.push_back(response.account().id());
    }
    grpc::ClientContext context;
    ledger::v1::CreateKeyAccountRequest key;
    key.set_parent_path("acme/payments/sarah");
    key.set_name("laptop");
    key.set_client_request_id("1");
    ledger::v1::CreateKeyAccountResponse made;
    EXPECT_TRUE(ledger_stub_->CreateKeyAccount(&context, key, &made).ok());
    path_.push_back(made.account_id());
  }

  ~EscrowChainTest() override {
    StopEnforcers();
    ledger_->Stop();
    ledger_server_->Shutdown(std::chrono::system_clock::now());
    ledger_server_.reset();
  }

  // With its holds in memory, or in Redis.
  void StartEnforcer(const std::string& redis_uri = "") {
    enforcer::Config config;
    config.enforcer_id = absl::StrCat("enforcer-", members_.size());
    config.redis.uri = redis_uri;
    config.tick_interval = absl::Milliseconds(2);
    config.options.held_poll = absl::Milliseconds(20);
    auto app = enforcer::App::Create(config, ledger_server_->InProcessChannel({}));
    ASSERT_TRUE(app.ok()) << app.status();
    Member& member = members_.emplace_back();
    member.app = *std::move(app);
    grpc::ServerBuilder builder;
    member.app->RegisterInternal(builder);
    member.app->RegisterAdmin(builder);
    member.server = builder.BuildAndStart();
    ASSERT_TRUE(member.app->Start().ok());
    ASSERT_TRUE(member.app->WaitReady(absl::Seconds(20)));
    member.stub = enforcer::v1::EnforcerService::NewStub(member.server->InProcessChannel({}));
  }

  void StopEnforcers() {
    for (Member& member : members_) {
      member.app->Stop();
      member.server->Shutdown(std::chrono::system_clock::now());
    }
    members_.clear();
  }

  void StartTwoOn(const testing::RedisServer& redis) {
    StopEnforcers();
    StartEnforcer(redis.uri());
    StartEnforcer(redis.uri());
  }

  void SetBudget(const std::string& path, int64_t limit) {
    grpc::ClientContext context;
    ledger::v1::SetBudgetRequest request;
    request.set_path(path);
    request.set_limit_nanousd(limit);
    request.set_window("total");
    ledger::v1::SetBudgetResponse response;
    const grpc::Status status = admin_->SetBudget(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.stragglers_size(), 0);
  }

  ledger::v1::Budget Budget(const std::string& path) {
    grpc::ClientContext context;
    ledger::v1::ListBudgetsRequest request;
    request.set_path(path);
    ledger::v1::ListBudgetsResponse response;
    EXPECT_TRUE(admin_->ListBudgets(&context, request, &response).ok());
    EXPECT_EQ(response.budgets_size(), 1);
    return response.budgets_size() > 0 ? response.budgets(0) : ledger::v1::Budget();
  }

  Operation Reserve(int64_t nanos, int64_t wait_ms = 0) {
    Operation op;
    auto* reserve = op.mutable_reserve();
    reserve->set_hold_id(std::string(NewUuid(absl::Now()).raw()));
    for (int64_t id : path_) reserve->add_account_ids(id);
    reserve->set_provider("openai");
    reserve->set_model("gpt-4o");
    reserve->set_strict_nanousd(nanos);
    reserve->set_first_attempt(true);
    reserve->set_wait_ms(wait_ms);
    reserve->set_time_to_live_ms(time_to_live_ms_);
    return op;
  }

  template <typename Method>
  OperationResult Call(Method method, const Operation& op) {
    grpc::ClientContext context;
    enforcer::v1::OperationBatch batch;
    batch.mutable_edge()->set_edge_id("edge-1");
    batch.mutable_edge()->set_boot_id("boot-1");
    *batch.add_operations() = op;
    enforcer::v1::ResultBatch results;
    auto& stub = *members_[calls_++ % members_.size()].stub;  // each call at another enforcer
    const grpc::Status status = (stub.*method)(&context, batch, &results);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return results.results_size() == 1 ? results.results(0) : OperationResult();
  }
  OperationResult Ask(const Operation& op) { return Call(&enforcer::v1::EnforcerService::Stub::Reserve, op); }

  ledger::v1::Entry Entry(const Operation& op, const enforcer::v1::Admitted& admitted, int64_t cost,
                          ledger::v1::EntryKind kind = ledger::v1::ENTRY_KIND_SETTLE) {
    ledger::v1::Entry entry;
    entry.set_hold_id(op.reserve().hold_id());
    entry.set_kind(kind);
    *entry.mutable_account_ids() = op.reserve().account_ids();
    entry.set_account_path("acme/payments/sarah/laptop");
    entry.set_epoch(admitted.epoch());
    entry.set_edge_id("edge-1");
    entry.set_boot_id("boot-1");
    *entry.mutable_budgets() = admitted.budgets();
    entry.set_provider("openai");
    entry.set_model("gpt-4o");
    entry.set_cost_nanousd(cost);
    entry.set_hold_nanousd(op.reserve().strict_nanousd());
    entry.set_status("ok");
    entry.set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
    const int64_t now = absl::ToUnixSeconds(absl::Now());
    entry.mutable_started_at()->set_seconds(now);
    entry.mutable_ended_at()->set_seconds(now);
    return entry;
  }

  void Post(const ledger::v1::Entry& entry) {
    grpc::ClientContext context;
    ledger::v1::PostRequest request;
    *request.add_entries() = entry;
    ledger::v1::PostResponse response;
    const grpc::Status status = ledger_stub_->PostBatch(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.results(0).outcome(), ledger::v1::POST_OUTCOME_POSTED)
        << response.results(0).message();
  }

  // Settles everywhere, as an edge does.
  void Spend(const Operation& op, const enforcer::v1::Admitted& admitted, int64_t cost) {
    Operation settle, acknowledge;
    settle.mutable_settle()->set_hold_id(op.reserve().hold_id());
    settle.mutable_settle()->set_org_id(path_[0]);
    settle.mutable_settle()->set_epoch(admitted.epoch());
    settle.mutable_settle()->set_actual_nanousd(cost);
    EXPECT_TRUE(Call(&enforcer::v1::EnforcerService::Stub::Settle, settle).has_done());
    Post(Entry(op, admitted, cost));
    acknowledge.mutable_acknowledge()->set_hold_id(op.reserve().hold_id());
    acknowledge.mutable_acknowledge()->set_org_id(path_[0]);
    acknowledge.mutable_acknowledge()->set_epoch(admitted.epoch());
    acknowledge.mutable_acknowledge()->set_posted_nanousd(cost);
    EXPECT_TRUE(Call(&enforcer::v1::EnforcerService::Stub::Settle, acknowledge).has_done());
  }

  // Announces at the ledger what this edge has not settled of closed epochs.
  void Announce(int64_t epoch, const std::vector<ledger::v1::Entry>& unsettled) {
    grpc::ClientContext context;
    ledger::v1::AnnounceHoldsRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch);
    request.set_edge_id("edge-1");
    request.set_boot_id("boot-1");
    for (const auto& entry : unsettled) *request.add_unsettled() = entry;
    ledger::v1::AnnounceHoldsResponse response;
    const grpc::Status status = ledger_stub_->AnnounceHolds(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  std::vector<std::string> VerifyProblems() {
    grpc::ClientContext context;
    auto reader = admin_->VerifyLedger(&context, {});
    ledger::v1::VerifyLedgerProgress progress, last;
    while (reader->Read(&progress)) last = progress;
    EXPECT_TRUE(reader->Finish().ok());
    return {last.problems().begin(), last.problems().end()};
  }

  struct Member {
    std::unique_ptr<enforcer::App> app;
    std::unique_ptr<grpc::Server> server;
    std::unique_ptr<enforcer::v1::EnforcerService::Stub> stub;
  };

  void SpendTheLastDollar();

  testing::TempDir dir_;
  std::unique_ptr<ledger::App> ledger_;
  std::unique_ptr<grpc::Server> ledger_server_;
  std::unique_ptr<ledger::v1::LedgerService::Stub> ledger_stub_;
  std::unique_ptr<ledger::v1::LedgerAdminService::Stub> admin_;
  std::vector<Member> members_;
  std::atomic<size_t> calls_ = 0;
  std::vector<int64_t> path_;
  int64_t time_to_live_ms_ = 600'000;
};

void EscrowChainTest::SpendTheLastDollar() {
  const uint64_t seed = testing::TestSeed();
  constexpr int64_t kHold = 1'000'003;
  constexpr int64_t kCap = 30 * kHold + kHold / 2;
  SetBudget("acme", 1000 * kCap);
  SetBudget("acme/payments", kCap);
  std::atomic<int64_t> billed = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 100; ++i) {
    callers.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      while (true) {
        const Operation op = Reserve(kHold, 500);
        const OperationResult result = Ask(op);
        if (result.refused().reason() == enforcer::v1::REASON_BUDGET_HELD) continue;
        if (!result.has_admitted()) {
          EXPECT_EQ(result.refused().reason(), enforcer::v1::REASON_BUDGET_EXHAUSTED)
              << result.ShortDebugString();
          return;
        }
        const int64_t cost = 1 + static_cast<int64_t>(random() % kHold);
        EXPECT_LE(billed += cost, kCap);
        Spend(op, result.admitted(), cost);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const ledger::v1::Budget team = Budget("acme/payments");
  EXPECT_EQ(team.spent_nanousd(), billed);
  EXPECT_LT(kCap - team.spent_nanousd(), kHold);
  EXPECT_EQ(team.overrun_nanousd(), 0);
  EXPECT_EQ(Budget("acme").spent_nanousd(), billed);
  EXPECT_EQ(VerifyProblems(), std::vector<std::string>{});
}

TEST_F(EscrowChainTest, TheLastDollarGoesToWhomItFitsAndNoFurther) { SpendTheLastDollar(); }

TEST_F(EscrowChainTest, TheLastDollarThroughTwoEnforcersOnOneRedis) {
  const testing::RedisServer redis;
  StartTwoOn(redis);
  SpendTheLastDollar();
}

TEST_F(EscrowChainTest, AFlushedRedisBlocksUntilItsEdgesHaveReported) {
  testing::RedisServer redis;
  StartTwoOn(redis);
  SetBudget("acme", 10 * kDollar);
  const Operation open = Reserve(4 * kDollar), fills = Reserve(6 * kDollar);
  const OperationResult admitted = Ask(open);
  ASSERT_TRUE(admitted.has_admitted()) << admitted.ShortDebugString();
  ASSERT_TRUE(Ask(fills).has_admitted());
  redis.FlushAll();
  EXPECT_EQ(Ask(Reserve(kDollar)).refused().reason(), enforcer::v1::REASON_BUDGET_BLOCKED);
  EXPECT_EQ(Ask(Reserve(kDollar)).refused().reason(), enforcer::v1::REASON_BUDGET_BLOCKED);
  // The edge forwarded one of the two and still waits for its answer.
  Announce(admitted.admitted().epoch(),
           {Entry(open, admitted.admitted(), 0, ledger::v1::ENTRY_KIND_SUSPEND)});
  const OperationResult again = Ask(Reserve(6 * kDollar));
  ASSERT_TRUE(again.has_admitted()) << again.ShortDebugString();
  EXPECT_EQ(again.admitted().epoch(), admitted.admitted().epoch() + 1);
  Spend(open, admitted.admitted(), kDollar);
  EXPECT_EQ(Budget("acme").suspense_nanousd(), 0);
  EXPECT_EQ(VerifyProblems(), std::vector<std::string>{});
}

TEST_F(EscrowChainTest, ALostEnforcerBlocksUntilItsEdgesHaveReported) {
  SetBudget("acme", 10 * kDollar);
  const Operation open = Reserve(4 * kDollar);
  const OperationResult admitted = Ask(open);
  ASSERT_TRUE(admitted.has_admitted()) << admitted.ShortDebugString();
  const Operation fills = Reserve(6 * kDollar);
  const OperationResult filled = Ask(fills);
  ASSERT_TRUE(filled.has_admitted()) << filled.ShortDebugString();
  StopEnforcers();
  StartEnforcer();
  OperationResult refused = Ask(Reserve(kDollar));
  EXPECT_EQ(refused.refused().reason(), enforcer::v1::REASON_BUDGET_BLOCKED) << refused.ShortDebugString();
  // The edge forwarded one of the two and still waits for its answer.
  Announce(admitted.admitted().epoch(),
           {Entry(open, admitted.admitted(), 0, ledger::v1::ENTRY_KIND_SUSPEND)});
  EXPECT_EQ(Budget("acme").suspense_nanousd(), 4 * kDollar);
  const OperationResult again = Ask(Reserve(6 * kDollar));
  EXPECT_TRUE(again.has_admitted()) << again.ShortDebugString();
  EXPECT_EQ(Ask(Reserve(kDollar)).refused().reason(), enforcer::v1::REASON_BUDGET_HELD);
  Spend(open, admitted.admitted(), kDollar);
  EXPECT_EQ(Budget("acme").suspense_nanousd(), 0);
  EXPECT_EQ(Budget("acme").spent_nanousd(), kDollar);
  EXPECT_TRUE(Ask(Reserve(3 * kDollar, 5000)).has_admitted());
  EXPECT_EQ(VerifyProblems(), std::vector<std::string>{});
}

TEST_F(EscrowChainTest, ALoweredLimitIsInForceWhenSetBudgetReturns) {
  SetBudget("acme", 100 * kDollar);
  const Operation first = Reserve(kDollar);
  const OperationResult admitted = Ask(first);
  ASSERT_TRUE(admitted.has_admitted());
  SetBudget("acme", 2 * kDollar);
  EXPECT_TRUE(Ask(Reserve(kDollar)).has_admitted());
  EXPECT_EQ(Ask(Reserve(kDollar)).refused().reason(), enforcer::v1::REASON_BUDGET_HELD);
  SetBudget("acme", 3 * kDollar);
  EXPECT_TRUE(Ask(Reserve(kDollar)).has_admitted());
  EXPECT_EQ(VerifyProblems(), std::vector<std::string>{});
}

TEST_F(EscrowChainTest, AnExpiredHoldIsSuspenseUntilItsResultComes) {
  SetBudget("acme", 10 * kDollar);
  time_to_live_ms_ = 20;
  const Operation op = Reserve(4 * kDollar);
  const OperationResult admitted = Ask(op);
  ASSERT_TRUE(admitted.has_admitted());
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (Budget("acme").suspense_nanousd() == 0 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(Budget("acme").suspense_nanousd(), 4 * kDollar);
  Spend(op, admitted.admitted(), kDollar);
  EXPECT_EQ(Budget("acme").suspense_nanousd(), 0);
  EXPECT_EQ(Budget("acme").spent_nanousd(), kDollar);
  time_to_live_ms_ = 600'000;
  EXPECT_TRUE(Ask(Reserve(9 * kDollar)).has_admitted());
  EXPECT_EQ(VerifyProblems(), std::vector<std::string>{});
}

TEST_F(EscrowChainTest, ACleanStopLeavesOnlyOpenHoldsBehind) {
  SetBudget("acme", 100 * kDollar);
  const Operation op = Reserve(kDollar);
  const OperationResult admitted = Ask(op);
  ASSERT_TRUE(admitted.has_admitted());
  StopEnforcers();
  EXPECT_EQ(Budget("acme").leased_nanousd(), kDollar);
  StartEnforcer();
  EXPECT_TRUE(Ask(Reserve(99 * kDollar)).has_admitted());
}

}  // namespace
}  // namespace tollhouse
