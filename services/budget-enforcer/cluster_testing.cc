#include "services/budget-enforcer/cluster_testing.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/rpc/status.h"
#include "services/budget-enforcer/enforcer_testing.h"
#include "services/budget-enforcer/store/org_steps.h"

namespace tollhouse::enforcer {

// --- SharedStore ---------------------------------------------------------------------------------
void SharedStore::Lose() {
  incarnations_.push_back({absl::StrCat("store-", ++made_), {}});
  leading = incarnations_.size() - 1;
}

void SharedStore::Flush() { incarnations_[leading] = {absl::StrCat("store-", ++made_), {}}; }

void SharedStore::Run(size_t incarnation, StoreBatch* batch) {
  Incarnation& now = incarnations_[incarnation];
  batch->effects.clear();
  if (!batch->incarnation.empty() && batch->incarnation != now.identity) {
    batch->status = MakeError(absl::StatusCode::kFailedPrecondition, "INCARNATION_CHANGED", "another");
    return;
  }
  batch->effects = StepAll(now.orgs[batch->org_id], batch->events);
}

StoreView SharedStore::Read(size_t incarnation, int64_t org_id, const StoreQuery& query) {
  return ViewOf(incarnations_[incarnation].orgs[org_id], query);
}

// --- one enforcer --------------------------------------------------------------------------------
struct TestCluster::NodeStore final : HoldStore {
  NodeStore(TestCluster* c, Node* n) : cluster(c), node(n) {}

  size_t incarnation() const {
    return sees < 0 ? cluster->store_.leading : static_cast<size_t>(sees);
  }
  absl::Status Check() const {
    if (!cluster->store_.down) return absl::OkStatus();
    return MakeError(absl::StatusCode::kUnavailable, "REDIS_UNAVAILABLE", "the store is down");
  }
  void Identify(int64_t, std::function<void(absl::StatusOr<std::string>)> done) override;
  void SetIncarnationChanged(std::function<void()> hint) override { changed = std::move(hint); }
  int64_t max_lease_nanos() const override { return int64_t{1} << 53; }
  bool shared() const override { return true; }
  void Run(StoreBatch* batch, std::function<void()> done) override;
  void Read(int64_t org_id, const StoreQuery& query,
            std::function<void(absl::StatusOr<StoreView>)> done) override;

  TestCluster* const cluster;
  Node* const node;
  std::function<void()> changed;
  int sees = -1;
};

struct TestCluster::NodeLedger final : LedgerClient {
  NodeLedger(TestCluster* c, Node* n) : cluster(c), node(n) {}

  template <typename Request, typename Response>
  void Call(grpc::Status (FakeLedger::*method)(grpc::ServerContext*, const Request*, Response*),
            const Request& request, Done<Response> done);

  void RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                     Done<ledger::v1::RegisterEpochResponse> done) override {
    Call(&FakeLedger::RegisterEpoch, request, std::move(done));
  }
  void RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                    Done<ledger::v1::RegisterEdgeResponse> done) override {
    Call(&FakeLedger::RegisterEdge, request, std::move(done));
  }
  void GrantLease(const ledger::v1::GrantLeaseRequest& request,
                  Done<ledger::v1::GrantLeaseResponse> done) override {
    Call(&FakeLedger::GrantLease, request, std::move(done));
  }
  void AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                         Done<ledger::v1::AcknowledgeGrantsResponse> done) override {
    Call(&FakeLedger::AcknowledgeGrants, request, std::move(done));
  }
  void ListGrants(const ledger::v1::ListGrantsRequest& request,
                  Done<ledger::v1::ListGrantsResponse> done) override {
    Call(&FakeLedger::ListGrants, request, std::move(done));
  }
  void ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                   Done<ledger::v1::ReturnLeaseResponse> done) override {
    Call(&FakeLedger::ReturnLease, request, std::move(done));
  }
  void PostExpired(const ledger::v1::PostExpiredRequest& request,
                   Done<ledger::v1::PostExpiredResponse> done) override {
    Call(&FakeLedger::PostExpired, request, std::move(done));
  }

  TestCluster* const cluster;
  Node* const node;
};

struct TestCluster::Node {
  explicit Node(TestCluster* cluster) : store(cluster, this), ledger(cluster, this) {}

  NodeStore store;
  NodeLedger ledger;
  bool ledger_cut = false;
  std::deque<Message> store_messages;   // in order
  std::deque<Message> store_replies;  // in order
  std::vector<Message> ledger_messages;  // in any order
  std::unique_ptr<Enforcer> enforcer;
};

void TestCluster::NodeStore::Identify(int64_t, std::function<void(absl::StatusOr<std::string>)> done) {
  node->store_messages.push_back({[this, done = std::move(done)] {
    absl::StatusOr<std::string> answer = cluster->store_.identity(incarnation());
    if (!Check().ok()) answer = Check();
    node->store_replies.push_back({[done, answer] { done(answer); }, true});
  }});
}

void TestCluster::NodeStore::Run(StoreBatch* batch, std::function<void()> done) {
  node->store_messages.push_back({[this, batch, done = std::move(done)] {
    batch->status = Check();
    if (batch->status.ok()) cluster->store_.Run(incarnation(), batch);
    if (cluster->store_.replies_lost) {
      batch->status = MakeError(absl::StatusCode::kUnavailable, "REDIS_TIMEOUT", "the reply is lost");
    }
    node->store_replies.push_back({done, true});
  }});
}

void TestCluster::NodeStore::Read(int64_t org_id, const StoreQuery& query,
                                  std::function<void(absl::StatusOr<StoreView>)> done) {
  node->store_messages.push_back({[this, org_id, query, done = std::move(done)] {
    auto answer =
        std::make_shared<absl::StatusOr<StoreView>>(cluster->store_.Read(incarnation(), org_id, query));
    if (!Check().ok()) *answer = Check();
    node->store_replies.push_back({[done, answer] { done(std::move(*answer)); }, true});
  }});
}

template <typename Request, typename Response>
void TestCluster::NodeLedger::Call(grpc::Status (FakeLedger::*method)(grpc::ServerContext*, const Request*,
                                                                      Response*),
                                   const Request& request, Done<Response> done) {
  node->ledger_messages.push_back({[this, method, request, done = std::move(done)] {
    auto answer = std::make_shared<absl::StatusOr<Response>>(absl::UnavailableError("cut off"));
    if (!node->ledger_cut && !cluster->ledger_cut_) {
      Response response;
      const grpc::Status status = (cluster->ledger_.*method)(nullptr, &request, &response);
      if (status.ok()) {
        *answer = std::move(response);
      } else {
        *answer = rpc::FromGrpc(status);
      }
    }
    node->ledger_messages.push_back({[done, answer] { done(std::move(*answer)); }, true});
  }});
}

struct TestCluster::Sink final : ResultSink {
  explicit Sink(TestCluster* c) : cluster(c) {}
  void Deliver(std::vector<v1::OperationResult> results) override {
    for (auto& result : results) {
      const uint64_t number = result.sequence();
      EXPECT_TRUE(cluster->results_.emplace(number, std::move(result)).second) << "answered twice";
    }
  }
  bool closed() const override { return false; }

  TestCluster* const cluster;
};

// --- the cluster ---------------------------------------------------------------------------------
TestCluster::TestCluster(int enforcers, uint64_t seed, EnforcerOptions options)
    : random_(seed), options_(std::move(options)) {
  for (int i = 0; i < enforcers; ++i) {
    nodes_.push_back(nullptr);
    Start(i);
  }
}

TestCluster::~TestCluster() {
  for (auto& node : nodes_) {
    node->store_messages.clear();
    node->store_replies.clear();
    node->ledger_messages.clear();
  }
  nodes_.clear();
  EXPECT_EQ(ledger_.problems(), std::vector<std::string>{});
}

Enforcer& TestCluster::enforcer(int i) { return *nodes_[i]->enforcer; }

void TestCluster::Start(int i) {
  auto node = std::make_unique<Node>(this);
  EnforcerOptions options = options_;
  options.instance = absl::StrCat("enforcer-", ++started_);
  node->enforcer = std::make_unique<Enforcer>(options, &node->store, &node->ledger, &clock_);
  nodes_[i] = std::move(node);
  PushRules(i);
}

void TestCluster::PushRules(int i) { enforcer(i).ApplyRules(ledger_.Snapshot(), [] {}); }

void TestCluster::CutLedger(int i, bool cut) { (i < 0 ? ledger_cut_ : nodes_[i]->ledger_cut) = cut; }

void TestCluster::SetBudget(const ledger::v1::BudgetRule& rule, int64_t cap) {
  ledger_.SetBudget(rule, cap);
  for (size_t i = 0; i < nodes_.size(); ++i) PushRules(static_cast<int>(i));
}

void TestCluster::SetLimits(const ledger::v1::AccountLimits& limits) {
  ledger_.SetLimits(limits);
  for (size_t i = 0; i < nodes_.size(); ++i) PushRules(static_cast<int>(i));
}

v1::Operation TestCluster::Reserve(int64_t nanos, std::vector<int64_t> path) {
  v1::Operation op;
  v1::Reserve* reserve = op.mutable_reserve();
  reserve->set_hold_id(std::string(HoldIdMadeAt(clock_.Wall()).raw()));
  reserve->set_fingerprint("f");
  for (int64_t id : path) reserve->add_account_ids(id);
  reserve->set_strict_nanousd(nanos);
  reserve->set_tight_nanousd(nanos);
  reserve->set_first_attempt(true);
  reserve->set_time_to_live_ms(600'000);
  return op;
}

uint64_t TestCluster::Send(int i, v1::Operation operation, const std::string& edge) {
  auto arrival = std::make_shared<Arrival>();
  arrival->edge.set_edge_id(edge);
  arrival->edge.set_boot_id("boot");
  operation.set_sequence(++sent_);
  *arrival->operations.Add() = std::move(operation);
  const uint64_t number = sent_;
  enforcer(i).Execute(std::move(arrival), std::make_shared<Sink>(this));
  return number;
}

const v1::OperationResult* TestCluster::Result(uint64_t number) const {
  const auto it = results_.find(number);
  return it == results_.end() ? nullptr : &it->second;
}

v1::OperationResult TestCluster::Call(int i, v1::Operation operation, const std::string& edge) {
  const uint64_t number = Send(i, std::move(operation), edge);
  Settle();
  const v1::OperationResult* result = Result(number);
  return result == nullptr ? v1::OperationResult{} : *result;
}

bool TestCluster::Step() {
  struct Choice {
    Node* node;
    int kind;
    size_t index;
  };
  std::vector<Choice> choices;
  for (const auto& node : nodes_) {
    if (!node->store_messages.empty()) choices.push_back({node.get(), 0, 0});
    if (!node->store_replies.empty()) choices.push_back({node.get(), 1, 0});
    for (size_t i = 0; i < node->ledger_messages.size(); ++i) choices.push_back({node.get(), 2, i});
  }
  if (choices.empty()) return false;
  const Choice chosen = choices[random_() % choices.size()];
  Message step;
  if (chosen.kind == 2) {
    auto& steps = chosen.node->ledger_messages;
    step = std::move(steps[chosen.index]);
    steps.erase(steps.begin() + static_cast<int64_t>(chosen.index));
  } else {
    auto& steps = chosen.kind == 0 ? chosen.node->store_messages : chosen.node->store_replies;
    step = std::move(steps.front());
    steps.pop_front();
  }
  step.arrive();
  return true;
}

void TestCluster::Settle() {
  for (int i = 0; i < 1'000'000; ++i) {
    if (!Step()) return;
  }
  ADD_FAILURE() << "the cluster does not come to rest";
}

void TestCluster::Pass(absl::Duration time) {
  const absl::Duration part = std::max(absl::Milliseconds(20), time / 50);
  for (absl::Duration passed = absl::ZeroDuration(); passed < time; passed += part) {
    clock_.Advance(part);
    for (const auto& node : nodes_) node->enforcer->Tick();
    Settle();
  }
}

void TestCluster::Hint() {
  for (const auto& node : nodes_) {
    if (node->store.changed != nullptr) node->store.changed();
  }
}

void TestCluster::Connect(int i, int incarnation) {
  nodes_[i]->store.sees = incarnation;
  if (nodes_[i]->store.changed != nullptr) nodes_[i]->store.changed();
}

size_t TestCluster::messages() const {
  size_t all = 0;
  for (const auto& node : nodes_) {
    all += node->store_messages.size() + node->store_replies.size() + node->ledger_messages.size();
  }
  return all;
}

void TestCluster::Kill(int i) {
  Node& node = *nodes_[i];
  // What was sent before may still arrive.
  while (!node.store_messages.empty() && random_() % 2 == 0) {
    node.store_messages.front().arrive();
    node.store_messages.pop_front();
  }
  std::vector<Message> calls = std::move(node.ledger_messages);
  for (const Message& call : calls) {
    if (!call.reply && random_() % 2 == 0) call.arrive();
  }
  calls.clear();
  node.store_messages.clear();
  node.store_replies.clear();
  node.ledger_messages.clear();
  Start(i);
}

}  // namespace tollhouse::enforcer
