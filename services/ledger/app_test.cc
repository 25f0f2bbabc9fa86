// The ledger behind a real gRPC server in this process.
#include "services/ledger/app.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/rpc/status.h"
#include "libs/rpc/watch_client.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/grpc_service.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse::ledger {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using WatchClient = rpc::WatchClient<v1::WatchRequest, v1::WatchResponse>;

// What a watcher has seen.
class Watcher {
 public:
  Watcher(v1::LedgerService::Stub* stub, const std::string& name)
      : client_(
            name,
            [stub](grpc::ClientContext* context, WatchClient::Reactor* reactor) {
              stub->async()->Watch(context, reactor);
            },
            [this](const v1::WatchResponse& response) {
              absl::MutexLock lock(&mutex_);
              seen_.push_back(response);
              const auto unblocked = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
                return !blocked_;
              };
              mutex_.Await(absl::Condition(&unblocked));
            },
            Clock::System()) {
    client_.Start();
    EXPECT_TRUE(client_.WaitSynced(absl::Seconds(10)));
  }
  ~Watcher() {
    Block(false);
    client_.Stop();
  }

  void Block(bool blocked) {
    absl::MutexLock lock(&mutex_);
    blocked_ = blocked;
  }

  // Waits for that many changes after the snapshot.
  bool WaitForChanges(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return seen_.size() > count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10));
  }

  std::vector<v1::WatchResponse> seen() {
    absl::MutexLock lock(&mutex_);
    return seen_;
  }

 private:
  absl::Mutex mutex_;
  bool blocked_ = false;
  std::vector<v1::WatchResponse> seen_;
  WatchClient client_;
};

class AppTest : public ::testing::Test {
 protected:
  AppTest() { Start(nullptr); }
  ~AppTest() override { Stop(); }

  void Start(const rpc::Authenticator* authenticator) {
    auto app = App::Create({.database = "sqlite:" + dir_.File("ledger.db"),
                            .clock = &clock_,
                            .authenticator = authenticator,
                            .acknowledge_timeout = acknowledge_timeout_});
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    grpc::ServerBuilder builder;
    app_->RegisterInternal(builder);
    app_->RegisterAdmin(builder);
    server_ = builder.BuildAndStart();
    ASSERT_TRUE(app_->Start().ok());
    const auto channel = server_->InProcessChannel({});
    ledger_ = v1::LedgerService::NewStub(channel);
    admin_ = v1::LedgerAdminService::NewStub(channel);
  }

  void Stop() {
    app_->Stop();
    server_->Shutdown();
    ledger_.reset();
    admin_.reset();
    app_.reset();
  }

  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response, const std::string& token = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    return rpc::FromGrpc((stub.*method)(&context, request, response));
  }

  v1::Account Create(const std::string& path, common::v1::AccountKind kind) {
    v1::CreateAccountRequest request;
    request.set_path(path);
    request.set_kind(kind);
    v1::CreateAccountResponse response;
    const absl::Status status =
        Call(*admin_, &v1::LedgerAdminService::Stub::CreateAccount, request, &response);
    EXPECT_TRUE(status.ok()) << status;
    return response.account();
  }

  absl::Status SetBudget(const v1::SetBudgetRequest& request, v1::SetBudgetResponse* response) {
    return Call(*admin_, &v1::LedgerAdminService::Stub::SetBudget, request, response);
  }

  v1::Entry Entry(int64_t org, int64_t cost) {
    v1::Entry entry;
    entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    entry.set_kind(v1::ENTRY_KIND_SETTLE);
    entry.add_account_ids(org);
    entry.set_cost_nanousd(cost);
    return entry;
  }

  absl::Duration acknowledge_timeout_ = absl::Seconds(5);
  testing::TempDir dir_;
  testing::FakeClock clock_;
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::LedgerService::Stub> ledger_;
  std::unique_ptr<v1::LedgerAdminService::Stub> admin_;
};

TEST_F(AppTest, ChangesReachWatchersBeforeTheSetterReturns) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  Watcher watcher(ledger_.get(), "enforcer/1");
  ASSERT_EQ(watcher.seen().size(), 1u);
  EXPECT_TRUE(watcher.seen()[0].snapshot());
  v1::SetBudgetRequest request;
  request.set_path("acme");
  request.set_limit_nanousd(1000);
  v1::SetBudgetResponse response;
  ASSERT_TRUE(SetBudget(request, &response).ok());
  EXPECT_THAT(response.stragglers(), IsEmpty());
  EXPECT_TRUE(response.created());
  const auto seen = watcher.seen();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[1].budgets(0).display_id(), "acme#month");
  EXPECT_EQ(seen[1].budgets(0).org_id(), org.id());
  EXPECT_GT(seen[1].version(), seen[0].version());
  Watcher late(ledger_.get(), "edge/1");
  EXPECT_EQ(late.seen()[0].budgets_size(), 1);
}

TEST_F(AppTest, StragglersAreNamed) {
  Stop();
  acknowledge_timeout_ = absl::Milliseconds(50);
  Start(nullptr);
  Create("acme", common::v1::ACCOUNT_KIND_ORG);
  Watcher watcher(ledger_.get(), "edge/slow");
  watcher.Block(true);
  v1::SetBudgetRequest request;
  request.set_path("acme");
  v1::SetBudgetResponse response;
  ASSERT_TRUE(SetBudget(request, &response).ok());
  EXPECT_THAT(response.stragglers(), ElementsAre("edge/slow"));
}

TEST_F(AppTest, BadBudgetsAreRefusedWithAReason) {
  Create("acme", common::v1::ACCOUNT_KIND_ORG);
  const auto reason = [&](const std::function<void(v1::SetBudgetRequest&)>& change) {
    v1::SetBudgetRequest request;
    request.set_path("acme");
    request.set_limit_nanousd(1000);
    change(request);
    v1::SetBudgetResponse response;
    return ReasonOf(SetBudget(request, &response));
  };
  using Request = v1::SetBudgetRequest;
  EXPECT_EQ(reason([](Request& r) { r.set_limit_nanousd(-1); }), "BAD_AMOUNT");
  EXPECT_EQ(reason([](Request& r) { r.set_limit_nanousd(4'000'000'000'000'000'001); }), "BAD_AMOUNT");
  EXPECT_EQ(reason([](Request& r) { r.set_limit_nanousd(0); }), "");
  EXPECT_EQ(reason([](Request& r) { r.set_limit_nanousd(4'000'000'000'000'000'000); }), "");
  EXPECT_EQ(reason([](Request& r) { r.set_window("fortnight"); }), "BAD_WINDOW");
  EXPECT_EQ(reason([](Request& r) { r.set_anchor("2026-11-01"); }), "BAD_WINDOW");
  EXPECT_EQ(reason([](Request& r) { r.set_window("7d"); r.set_anchor("2026-02-30"); }), "BAD_WINDOW");
  EXPECT_EQ(reason([](Request& r) { r.set_window("7d"); r.set_anchor("2026-02-03"); }), "");
  EXPECT_EQ(reason([](Request& r) { r.set_time_zone("Mars/Olympus"); }), "BAD_TIME_ZONE");
  EXPECT_EQ(reason([](Request& r) { r.set_mode("enforced"); }), "BAD_ARGUMENT");
  EXPECT_EQ(reason([](Request& r) { r.set_hard_pct(-5); }), "BAD_ARGUMENT");
  EXPECT_EQ(reason([](Request& r) { r.add_soft_pct(0); }), "BAD_ARGUMENT");
  EXPECT_EQ(reason([](Request& r) { r.set_for_each("org"); }), "BAD_ARGUMENT");
  EXPECT_EQ(reason([](Request& r) { r.set_name("month"); }), "BAD_NAME");
  EXPECT_EQ(reason([](Request& r) { r.set_path("acme/../x"); }), "BAD_NAME");
  EXPECT_EQ(reason([](Request& r) { r.set_path("nobody"); }), "ACCOUNT_NOT_FOUND");
  EXPECT_EQ(reason([](Request& r) { (*r.mutable_match())["bad key"] = "x"; }), "BAD_ARGUMENT");
  EXPECT_EQ(reason([](Request& r) { (*r.mutable_match())["k"] = "line\nbreak"; }), "BAD_ARGUMENT");
}

TEST_F(AppTest, AdminNeedsTheTokenAndTheInternalServiceDoesNot) {
  Stop();
  const rpc::Authenticator authenticator("right");
  Start(&authenticator);
  v1::ListAccountsRequest request;
  v1::ListAccountsResponse response;
  const auto list = [&](const std::string& token) {
    return Call(*admin_, &v1::LedgerAdminService::Stub::ListAccounts, request, &response, token);
  };
  EXPECT_EQ(ReasonOf(list("")), "BAD_TOKEN");
  EXPECT_EQ(ReasonOf(list("wrong")), "BAD_TOKEN");
  EXPECT_TRUE(list("right").ok());
  v1::ListGrantsResponse grants;
  EXPECT_TRUE(Call(*ledger_, &v1::LedgerService::Stub::ListGrants, v1::ListGrantsRequest(), &grants).ok());
  Stop();
  Start(nullptr);
}

TEST_F(AppTest, PostStreamAnswersEveryRequestInOrderAfterItsCommit) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  grpc::ClientContext context;
  const auto stream = ledger_->Post(&context);
  constexpr int kRequests = 50;
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) {
      v1::PostRequest request;
      for (int j = 0; j <= i % 3; ++j) *request.add_entries() = Entry(org.id(), i);
      EXPECT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  int64_t total = 0;
  for (int i = 0; i < kRequests; ++i) {
    v1::PostResponse response;
    ASSERT_TRUE(stream->Read(&response)) << i;
    ASSERT_EQ(response.results_size(), i % 3 + 1) << i;
    EXPECT_EQ(response.results(0).outcome(), v1::POST_OUTCOME_POSTED);
    EXPECT_EQ(response.results(0).posted_nanousd(), i);
    total += static_cast<int64_t>(i) * (i % 3 + 1);
  }
  writer.join();
  v1::PostResponse end;
  EXPECT_FALSE(stream->Read(&end));
  EXPECT_TRUE(stream->Finish().ok());
  v1::GetSpendResponse spend;
  ASSERT_TRUE(Call(*admin_, &v1::LedgerAdminService::Stub::GetSpend, v1::GetSpendRequest(), &spend).ok());
  EXPECT_EQ(spend.total().cost_nanousd(), total);
}

TEST_F(AppTest, AbandonedPostStreamsLeaveNothingBehind) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    const auto stream = ledger_->Post(&context);
    v1::PostRequest request;
    *request.add_entries() = Entry(org.id(), 1);
    stream->Write(request);
    if (i % 2 == 0) {
      v1::PostResponse response;
      EXPECT_TRUE(stream->Read(&response));
    }
    context.TryCancel();
    EXPECT_FALSE(stream->Finish().ok());
  }
}

TEST_F(AppTest, ConcurrentBatchesAreAllPosted) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        v1::PostRequest request;
        *request.add_entries() = Entry(org.id(), 2);
        v1::PostResponse response;
        EXPECT_TRUE(Call(*ledger_, &v1::LedgerService::Stub::PostBatch, request, &response).ok());
        EXPECT_EQ(response.results(0).outcome(), v1::POST_OUTCOME_POSTED);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  v1::VerifyLedgerProgress last;
  grpc::ClientContext context;
  const auto progress = admin_->VerifyLedger(&context, {});
  while (progress->Read(&last)) {
  }
  EXPECT_TRUE(progress->Finish().ok());
  EXPECT_TRUE(last.done());
  EXPECT_TRUE(last.ok());
  EXPECT_EQ(last.entries(), 100);
}

TEST_F(AppTest, RaisesEndWithoutAnybodyAsking) {
  Create("acme", common::v1::ACCOUNT_KIND_ORG);
  v1::SetBudgetRequest set;
  set.set_path("acme");
  set.set_limit_nanousd(1000);
  v1::SetBudgetResponse budget;
  ASSERT_TRUE(SetBudget(set, &budget).ok());
  v1::RaiseBudgetRequest raise;
  raise.set_path("acme");
  raise.set_by_nanousd(200);
  raise.mutable_until()->set_seconds(absl::ToUnixSeconds(clock_.Wall()) + 60);
  v1::RaiseBudgetResponse raised;
  ASSERT_TRUE(Call(*admin_, &v1::LedgerAdminService::Stub::RaiseBudget, raise, &raised).ok());
  EXPECT_EQ(raised.budget().cap_nanousd(), 1200);
  Watcher watcher(ledger_.get(), "enforcer/1");
  clock_.Advance(absl::Minutes(1));
  EXPECT_TRUE(watcher.WaitForChanges(1));
  EXPECT_EQ(watcher.seen().back().budgets(0).display_id(), "acme#month");
  v1::ListBudgetsResponse list;
  ASSERT_TRUE(Call(*admin_, &v1::LedgerAdminService::Stub::ListBudgets, v1::ListBudgetsRequest(), &list).ok());
  EXPECT_EQ(list.budgets(0).cap_nanousd(), 1000);
}

TEST_F(AppTest, OversizedBatchesAreRefusedWhole) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  v1::PostRequest request;
  for (int i = 0; i < 4097; ++i) *request.add_entries() = Entry(org.id(), 1);
  v1::PostResponse response;
  const absl::Status status =
      Call(*ledger_, &v1::LedgerService::Stub::PostBatch, request, &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "BAD_ARGUMENT");
  grpc::ClientContext context;
  const auto stream = ledger_->Post(&context);
  stream->Write(request);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(ReasonOf(rpc::FromGrpc(stream->Finish())), "BAD_ARGUMENT");
  request.mutable_entries()->RemoveLast();
  ASSERT_TRUE(Call(*ledger_, &v1::LedgerService::Stub::PostBatch, request, &response).ok());
  EXPECT_EQ(response.results_size(), 4096);
}

TEST_F(AppTest, StateSurvivesARestart) {
  const v1::Account org = Create("acme", common::v1::ACCOUNT_KIND_ORG);
  v1::PostRequest request;
  *request.add_entries() = Entry(org.id(), 7);
  v1::PostResponse response;
  ASSERT_TRUE(Call(*ledger_, &v1::LedgerService::Stub::PostBatch, request, &response).ok());
  Stop();
  Start(nullptr);
  ASSERT_TRUE(Call(*ledger_, &v1::LedgerService::Stub::PostBatch, request, &response).ok());
  EXPECT_EQ(response.results(0).outcome(), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(response.results(0).posted_nanousd(), 7);
}

}  // namespace
}  // namespace tollhouse::ledger
