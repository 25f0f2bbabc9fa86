// The enforcer as edges see it, in one process with a fake ledger: servers, channels, a session.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "services/budget-enforcer/app.h"
#include "services/budget-enforcer/fake_ledger_testing.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"

namespace tollhouse::enforcer {

// A new hold id with the time of this clock.
Uuid HoldIdMadeAt(absl::Time wall);

// One Session stream. Thread-safe.
class TestSession {
 public:
  TestSession(std::shared_ptr<grpc::Channel> channel, const std::string& edge_id);
  ~TestSession();

  // Sends operations as one message; returns the sequence of the first (they count up).
  uint64_t Send(std::vector<v1::Operation> operations);
  // The result of an operation; fails the test and answers an empty one after 20 s.
  v1::OperationResult Wait(uint64_t sequence);
  v1::OperationResult Call(v1::Operation operation) { return Wait(Send({std::move(operation)})); }
  bool Arrived(uint64_t sequence);
  // Ends the stream; its status.
  grpc::Status Finish();

 private:
  std::unique_ptr<v1::EnforcerService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  absl::Mutex mutex_;
  uint64_t next_ = 1;
  bool ended_ = false;
  bool finished_ = false;
  grpc::Status status_;
  std::map<uint64_t, v1::OperationResult> results_;
  std::thread reader_;
};

// Org 1 with team 2, user 3, key 4 and a fake clock (or the machine's). Budgets are added by tests.
class EnforcerWorld {
 public:
  // `redis`: where holds are kept, "" for memory; needs real time.
  explicit EnforcerWorld(EnforcerOptions options = {}, bool real_time = false, std::string redis = "");
  ~EnforcerWorld();

  // A new enforcer process on the same ledger; the old one dies without draining if `crash`.
  void Restart(bool crash);

  testing::FakeClock& clock() { return clock_; }
  FakeLedger& ledger() { return ledger_; }
  TestSession& session() { return *session_; }
  std::unique_ptr<TestSession> NewSession(const std::string& edge_id);
  std::shared_ptr<grpc::Channel> channel() { return enforcer_server_->InProcessChannel({}); }

  // budget_id = account_id * 10 unless another rule is made by hand.
  static ledger::v1::BudgetRule Rule(int64_t account_id, const std::string& window = "total");
  v1::Operation Reserve(int64_t nanos, std::vector<int64_t> path = {1, 2, 3, 4});
  static v1::Operation Settle(const v1::Operation& reserve, int64_t epoch, int64_t actual);
  static v1::Operation Void(const v1::Operation& reserve, int64_t epoch);
  static v1::Operation Acknowledge(const v1::Operation& reserve, int64_t epoch, int64_t posted);
  static v1::Operation Refresh(const v1::Operation& reserve, int64_t epoch);
  // The ledger's entry of an admitted reservation.
  static ledger::v1::Entry Entry(const v1::Operation& reserve, const v1::Admitted& admitted, int64_t cost);

 private:
  void StartEnforcer();
  void StopEnforcer(bool crash);

  const EnforcerOptions options_;
  const std::string redis_;
  testing::FakeClock clock_;
  const Clock* const used_clock_;
  FakeLedger ledger_;
  std::unique_ptr<grpc::Server> ledger_server_;
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> enforcer_server_;
  std::unique_ptr<TestSession> session_;
};

}  // namespace tollhouse::enforcer
