#include "services/edge/batch_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "absl/synchronization/notification.h"
#include "libs/rpc/channel.h"
#include "libs/rpc/server.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"

namespace tollhouse::edge {
namespace {

using enforcer::v1::EnforcerService;
using enforcer::v1::SessionRequest;
using enforcer::v1::SessionResponse;

// Takes batches; answers them or hangs, as an enforcer does whose threads are stuck somewhere.
class Peer final : public EnforcerService::WithCallbackMethod_Session<EnforcerService::Service> {
 public:
  explicit Peer(bool answers) : answers_(answers) {}

  grpc::ServerBidiReactor<SessionRequest, SessionResponse>* Session(grpc::CallbackServerContext*) override {
    absl::MutexLock lock(&mutex_);
    return reactors_.emplace_back(std::make_unique<Reactor>(answers_)).get();
  }

 private:
  struct Reactor final : grpc::ServerBidiReactor<SessionRequest, SessionResponse> {
    explicit Reactor(bool a) : answers(a) { StartRead(&request); }
    void OnReadDone(bool ok) override {
      if (ok && answers) StartWrite(&response);
    }
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override {}  // kept until the peer ends

    const bool answers;
    SessionRequest request;
    SessionResponse response;
  };

  const bool answers_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Reactor>> reactors_ ABSL_GUARDED_BY(mutex_);
};

std::unique_ptr<rpc::Server> Start(Peer& peer) {
  rpc::ServerOptions options{.listen = "127.0.0.1:0", .credentials = grpc::InsecureServerCredentials()};
  auto server = rpc::Server::Start(options, [&](grpc::ServerBuilder& builder) { builder.RegisterService(&peer); });
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

TEST(BatchStreamTest, AStreamWhoseOtherEndHangsIsLeftForAnotherReplica) {
  Peer hanging(false), good(true);
  const auto first = Start(hanging);
  const auto second = Start(good);
  const auto channel = rpc::ConnectTo("enforcer", first->address() + "," + second->address(),
                                      *rpc::Security::Insecure());
  ASSERT_TRUE(channel.ok()) << channel.status();
  const auto stub = EnforcerService::NewStub(*channel);
  absl::Notification answered;
  std::atomic<int> streams = 0;
  BatchStream<SessionRequest, SessionResponse> stream(
      {[&](grpc::ClientContext* context, auto* reactor) { stub->async()->Session(context, reactor); },
       [&] { ++streams; }, [](bool begins, SessionRequest*) { return begins; },
       [&](SessionResponse&) {
         if (!answered.HasBeenNotified()) answered.Notify();
       },
       [](const grpc::Status&) {}});
  stream.Start();
  while (!answered.WaitForNotificationWithTimeout(absl::Milliseconds(50))) {
    stream.LeaveIfSilentSince(std::chrono::steady_clock::now() - std::chrono::milliseconds(200));
  }
  const int before = streams;
  stream.LeaveIfSilentSince(std::chrono::steady_clock::time_point::min());
  EXPECT_EQ(streams, before) << "a stream that brought something is kept";
  stream.Stop();
}

}  // namespace
}  // namespace tollhouse::edge
