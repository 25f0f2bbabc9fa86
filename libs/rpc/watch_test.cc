#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/synchronization/notification.h"
#include "libs/rpc/watch_client.h"
#include "libs/rpc/watch_hub.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::rpc {
namespace {

using ledger::v1::LedgerService;
using ledger::v1::WatchRequest;
using ledger::v1::WatchResponse;
using Hub = WatchHub<WatchRequest, WatchResponse>;
using Client = WatchClient<WatchRequest, WatchResponse>;

class Service final : public LedgerService::WithCallbackMethod_Watch<LedgerService::Service> {
 public:
  explicit Service(Hub* hub) : hub_(hub) {}
  grpc::ServerBidiReactor<WatchRequest, WatchResponse>* Watch(grpc::CallbackServerContext* context) override {
    return hub_->Serve(context);
  }

 private:
  Hub* const hub_;
};

// A hub behind a real server, reached in-process.
class WatchTest : public ::testing::Test {
 protected:
  WatchTest() : service_(&hub_) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = LedgerService::NewStub(server_->InProcessChannel({}));
  }
  ~WatchTest() override {
    hub_.Shutdown();
    server_->Shutdown();
  }

  std::unique_ptr<Client> MakeClient(const std::string& name, Client::Apply apply) {
    return std::make_unique<Client>(
        name, [this](grpc::ClientContext* context, Client::Reactor* reactor) {
          stub_->async()->Watch(context, reactor);
        },
        std::move(apply), Clock::System());
  }

  Hub hub_{[] {
    WatchResponse snapshot;
    snapshot.set_snapshot(true);
    snapshot.add_changed_account_ids(7);
    return snapshot;
  }};
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<LedgerService::Stub> stub_;
};

TEST_F(WatchTest, SnapshotComesFirstThenChangesInOrder) {
  absl::Mutex mutex;
  std::vector<WatchResponse> seen;
  auto client = MakeClient("edge/1", [&](const WatchResponse& response) {
    absl::MutexLock lock(&mutex);
    seen.push_back(response);
  });
  client->Start();
  ASSERT_TRUE(client->WaitSynced(absl::Seconds(10)));
  EXPECT_EQ(client->Staleness(), absl::ZeroDuration());
  int64_t version = 0;
  for (int i = 0; i < 100; ++i) {
    WatchResponse change;
    change.add_changed_account_ids(i);
    version = hub_.Publish(change);
  }
  EXPECT_TRUE(hub_.WaitAcknowledged(version, absl::Seconds(10)).empty());
  client->Stop();
  absl::MutexLock lock(&mutex);
  ASSERT_EQ(seen.size(), 101u);
  EXPECT_TRUE(seen[0].snapshot());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[i + 1].changed_account_ids(0), i);
}

TEST_F(WatchTest, AStragglerIsNamed) {
  absl::Notification release;
  auto client = MakeClient("edge/slow", [&](const WatchResponse& response) {
    if (!response.snapshot()) release.WaitForNotification();
  });
  client->Start();
  ASSERT_TRUE(client->WaitSynced(absl::Seconds(10)));
  const int64_t version = hub_.Publish(WatchResponse());
  EXPECT_EQ(hub_.WaitAcknowledged(version, absl::Milliseconds(50)),
            std::vector<std::string>{"edge/slow"});
  release.Notify();
  EXPECT_TRUE(hub_.WaitAcknowledged(version, absl::Seconds(10)).empty());
}

TEST_F(WatchTest, NobodyIsWaitedForWithoutSubscribers) {
  EXPECT_TRUE(hub_.WaitAcknowledged(hub_.Publish(WatchResponse()), absl::InfiniteDuration()).empty());
}

TEST_F(WatchTest, AClientThatLeavesIsNoLongerWaitedFor) {
  auto client = MakeClient("edge/1", [](const WatchResponse&) {});
  client->Start();
  ASSERT_TRUE(client->WaitSynced(absl::Seconds(10)));
  client->Stop();
  EXPECT_TRUE(hub_.WaitAcknowledged(hub_.Publish(WatchResponse()), absl::Seconds(10)).empty());
}

}  // namespace
}  // namespace tollhouse::rpc
