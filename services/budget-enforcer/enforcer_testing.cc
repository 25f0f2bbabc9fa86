#include "services/budget-enforcer/enforcer_testing.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tollhouse::enforcer {

// NewUuid's time never goes back within a thread, but from one test's clock to the next it does.
Uuid HoldIdMadeAt(absl::Time wall) {
  Uuid id = NewUuid(wall);
  const int64_t ms = absl::ToUnixMillis(wall);
  for (int i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(ms >> (40 - 8 * i));
  return id;
}

TestSession::TestSession(std::shared_ptr<grpc::Channel> channel, const std::string& edge_id)
    : stub_(v1::EnforcerService::NewStub(channel)), stream_(stub_->Session(&context_)) {
  v1::SessionRequest hello;
  hello.mutable_edge()->set_edge_id(edge_id);
  hello.mutable_edge()->set_boot_id("boot");
  stream_->Write(hello);
  reader_ = std::thread([this] {
    v1::SessionResponse response;
    while (stream_->Read(&response)) {
      absl::MutexLock lock(&mutex_);
      for (auto& result : *response.mutable_results()) {
        const uint64_t sequence = result.sequence();
        EXPECT_TRUE(results_.emplace(sequence, std::move(result)).second)
            << "operation " << sequence << " was answered twice";
      }
    }
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  });
}

TestSession::~TestSession() { Finish(); }

uint64_t TestSession::Send(std::vector<v1::Operation> operations) {
  absl::MutexLock lock(&mutex_);
  v1::SessionRequest request;
  const uint64_t first = next_;
  for (v1::Operation& op : operations) {
    op.set_sequence(next_++);
    *request.add_operations() = std::move(op);
  }
  stream_->Write(request);
  return first;
}

v1::OperationResult TestSession::Wait(uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  const auto there = [&]() { return ended_ || results_.contains(sequence); };
  mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  auto it = results_.find(sequence);
  if (it == results_.end()) {
    ADD_FAILURE() << "no result of operation " << sequence << (ended_ ? ": the stream ended" : "");
    return {};
  }
  v1::OperationResult result = std::move(it->second);
  results_.erase(it);
  return result;
}

bool TestSession::Arrived(uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  return results_.contains(sequence);
}

grpc::Status TestSession::Finish() {
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return status_;
    finished_ = true;
  }
  stream_->WritesDone();
  reader_.join();
  status_ = stream_->Finish();
  return status_;
}

EnforcerWorld::EnforcerWorld(EnforcerOptions options, bool real_time, std::string redis)
    : options_(options), redis_(std::move(redis)), used_clock_(real_time ? Clock::System() : &clock_) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&ledger_);
  ledger_server_ = builder.BuildAndStart();
  StartEnforcer();
}

EnforcerWorld::~EnforcerWorld() {
  StopEnforcer(false);
  ledger_.Shutdown();
  ledger_server_->Shutdown(std::chrono::system_clock::now());
  EXPECT_EQ(ledger_.problems(), std::vector<std::string>{});
}

void EnforcerWorld::StartEnforcer() {
  Config config;
  config.options = options_;
  config.redis.uri = redis_;
  config.clock = used_clock_;
  config.tick_interval = absl::Milliseconds(2);
  config.ledger_timeout = absl::Seconds(10);
  auto app = App::Create(config, ledger_server_->InProcessChannel({}));
  ASSERT_TRUE(app.ok());
  app_ = *std::move(app);
  grpc::ServerBuilder builder;
  app_->RegisterInternal(builder);
  app_->RegisterAdmin(builder);
  enforcer_server_ = builder.BuildAndStart();
  ASSERT_TRUE(app_->Start().ok());
  ASSERT_TRUE(app_->WaitReady(absl::Seconds(20)));
  session_ = NewSession("edge-1");
}

void EnforcerWorld::StopEnforcer(bool crash) {
  session_.reset();
  if (crash) ledger_.SetFault(FakeLedger::Fault::kUnavailable);  // whatever it says last is lost
  app_->Stop();
  enforcer_server_->Shutdown(std::chrono::system_clock::now());
  enforcer_server_.reset();
  app_.reset();
  if (crash) ledger_.SetFault(FakeLedger::Fault::kNone);
}

void EnforcerWorld::Restart(bool crash) {
  StopEnforcer(crash);
  StartEnforcer();
}

std::unique_ptr<TestSession> EnforcerWorld::NewSession(const std::string& edge_id) {
  return std::make_unique<TestSession>(channel(), edge_id);
}

ledger::v1::BudgetRule EnforcerWorld::Rule(int64_t account_id, const std::string& window) {
  ledger::v1::BudgetRule rule;
  rule.set_budget_id(account_id * 10);
  rule.set_org_id(1);
  rule.set_account_id(account_id);
  rule.set_display_id(absl::StrCat("account-", account_id, "#", window));
  rule.set_window(window);
  rule.set_time_zone("Europe/Berlin");
  rule.set_mode(common::v1::BUDGET_MODE_ENFORCE);
  rule.set_bound(common::v1::BOUND_POLICY_STRICT);
  rule.set_on_outage(common::v1::OUTAGE_POLICY_CLOSED);
  return rule;
}

v1::Operation EnforcerWorld::Reserve(int64_t nanos, std::vector<int64_t> path) {
  v1::Operation op;
  v1::Reserve* reserve = op.mutable_reserve();
  reserve->set_hold_id(std::string(HoldIdMadeAt(used_clock_->Wall()).raw()));
  reserve->set_fingerprint("f");
  for (int64_t id : path) reserve->add_account_ids(id);
  reserve->set_provider("openai");
  reserve->set_model("gpt-4o");
  reserve->set_strict_nanousd(nanos);
  reserve->set_tight_nanousd(nanos / 2);
  reserve->set_first_attempt(true);
  reserve->set_time_to_live_ms(600'000);
  return op;
}

v1::Operation EnforcerWorld::Settle(const v1::Operation& reserve, int64_t epoch, int64_t actual) {
  v1::Operation op;
  op.mutable_settle()->set_hold_id(reserve.reserve().hold_id());
  op.mutable_settle()->set_org_id(reserve.reserve().account_ids(0));
  op.mutable_settle()->set_epoch(epoch);
  op.mutable_settle()->set_actual_nanousd(actual);
  return op;
}

v1::Operation EnforcerWorld::Void(const v1::Operation& reserve, int64_t epoch) {
  v1::Operation op;
  op.mutable_void_()->set_hold_id(reserve.reserve().hold_id());
  op.mutable_void_()->set_org_id(reserve.reserve().account_ids(0));
  op.mutable_void_()->set_epoch(epoch);
  return op;
}

v1::Operation EnforcerWorld::Acknowledge(const v1::Operation& reserve, int64_t epoch, int64_t posted) {
  v1::Operation op;
  op.mutable_acknowledge()->set_hold_id(reserve.reserve().hold_id());
  op.mutable_acknowledge()->set_org_id(reserve.reserve().account_ids(0));
  op.mutable_acknowledge()->set_epoch(epoch);
  op.mutable_acknowledge()->set_posted_nanousd(posted);
  return op;
}

v1::Operation EnforcerWorld::Refresh(const v1::Operation& reserve, int64_t epoch) {
  v1::Operation op;
  op.mutable_refresh()->set_hold_id(reserve.reserve().hold_id());
  op.mutable_refresh()->set_org_id(reserve.reserve().account_ids(0));
  op.mutable_refresh()->set_epoch(epoch);
  return op;
}

ledger::v1::Entry EnforcerWorld::Entry(const v1::Operation& reserve, const v1::Admitted& admitted,
                                       int64_t cost) {
  ledger::v1::Entry entry;
  entry.set_hold_id(reserve.reserve().hold_id());
  entry.set_kind(ledger::v1::ENTRY_KIND_SETTLE);
  *entry.mutable_account_ids() = reserve.reserve().account_ids();
  entry.set_epoch(admitted.epoch());
  *entry.mutable_budgets() = admitted.budgets();
  entry.set_cost_nanousd(cost);
  return entry;
}

}  // namespace tollhouse::enforcer
