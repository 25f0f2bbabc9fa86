// Two ledgers over one PostgreSQL, as two processes would be, and a watcher at each.
#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "libs/rpc/status.h"
#include "libs/rpc/watch_client.h"
#include "libs/testing/postgres_server.h"
#include "services/ledger/app.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse::ledger {
namespace {

using ::testing::IsEmpty;
using WatchClient = rpc::WatchClient<v1::WatchRequest, v1::WatchResponse>;

class Replica {
 public:
  explicit Replica(const std::string& database) {
    auto app = App::Create({.database = database, .acknowledge_timeout = absl::Seconds(20)});
    EXPECT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    grpc::ServerBuilder builder;
    app_->RegisterInternal(builder);
    app_->RegisterAdmin(builder);
    server_ = builder.BuildAndStart();
    EXPECT_TRUE(app_->Start().ok());
    ledger_ = v1::LedgerService::NewStub(server_->InProcessChannel({}));
    admin_ = v1::LedgerAdminService::NewStub(server_->InProcessChannel({}));
  }
  ~Replica() {
    app_->Stop();
    server_->Shutdown();
  }

  v1::LedgerService::Stub* ledger() { return ledger_.get(); }

  void CreateOrg() {
    v1::CreateAccountRequest request;
    request.set_path("acme");
    request.set_kind(common::v1::ACCOUNT_KIND_ORG);
    v1::CreateAccountResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(admin_->CreateAccount(&context, request, &response).ok());
  }

  // The stragglers.
  std::vector<std::string> SetBudget(int64_t limit) {
    v1::SetBudgetRequest request;
    request.set_path("acme");
    request.set_limit_nanousd(limit);
    v1::SetBudgetResponse response;
    grpc::ClientContext context;
    const absl::Status set = rpc::FromGrpc(admin_->SetBudget(&context, request, &response));
    EXPECT_TRUE(set.ok()) << set;
    return {response.stragglers().begin(), response.stragglers().end()};
  }

 private:
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::LedgerService::Stub> ledger_;
  std::unique_ptr<v1::LedgerAdminService::Stub> admin_;
};

// Counts the rules that it was told of.
class Watcher {
 public:
  Watcher(Replica& replica, const std::string& name)
      : client_(
            name,
            [stub = replica.ledger()](grpc::ClientContext* context, WatchClient::Reactor* reactor) {
              stub->async()->Watch(context, reactor);
            },
            [this](const v1::WatchResponse& response) {
              absl::MutexLock lock(&mutex_);
              rules_ += response.budgets_size();
            },
            Clock::System()) {
    client_.Start();
    EXPECT_TRUE(client_.WaitSynced(absl::Seconds(20)));
  }
  ~Watcher() { client_.Stop(); }

  int rules() {
    absl::MutexLock lock(&mutex_);
    return rules_;
  }

 private:
  absl::Mutex mutex_;
  int rules_ = 0;
  WatchClient client_;
};

TEST(ReplicasTest, ABudgetIsInForceAtTheEnforcersOfEveryLedgerWhenTheCallReturns) {
  const testing::PostgresDatabase database;
  ASSERT_TRUE(Migrate({.database = database.uri()}).ok());
  Replica one(database.uri());
  std::optional<Replica> two(std::in_place, database.uri());
  one.CreateOrg();
  Watcher at_one(one, "enforcer/1");
  std::optional<Watcher> at_two(std::in_place, *two, "enforcer/2");
  EXPECT_THAT(one.SetBudget(1000), IsEmpty());
  EXPECT_EQ(at_one.rules(), 1);
  EXPECT_EQ(at_two->rules(), 1);
  EXPECT_THAT(two->SetBudget(2000), IsEmpty());
  EXPECT_EQ(at_one.rules(), 2);
  EXPECT_EQ(at_two->rules(), 2);
  at_two.reset();
  two.reset();
  EXPECT_THAT(one.SetBudget(3000), IsEmpty());
  EXPECT_EQ(at_one.rules(), 3);
}

TEST(ReplicasTest, AnUnmigratedDatabaseIsRefused) {
  const testing::PostgresDatabase database;
  EXPECT_EQ(App::Create({.database = database.uri()}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace tollhouse::ledger
