// Several enforcers on one hold store and one ledger, on one thread: every call is two steps (it
// arrives, its answer comes back) which a test lets happen in any order, or never.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "services/budget-enforcer/enforcer.h"
#include "services/budget-enforcer/fake_ledger_testing.h"
#include "services/budget-enforcer/store/memory_store.h"

namespace tollhouse::enforcer {

// Stands in for Redis: outlives enforcers, and may be lost. Incarnations are numbered from 0.
class SharedStore {
 public:
  SharedStore() { Lose(); }

  // Another incarnation leads, with nothing in it. Enforcers hear of it by TestCluster::Hint.
  void Lose();
  // Everything is gone, without any process having restarted.
  void Flush();
  // The one that leads; an older number: it leads again with what it had (a failback).
  size_t leading = 0;
  bool down = false;
  bool replies_lost = false;  // batches run, and nobody hears of it

  OrgState& org(int64_t org_id) { return incarnations_[leading].orgs[org_id]; }
  const std::string& identity(size_t incarnation) const { return incarnations_[incarnation].identity; }
  void Run(size_t incarnation, StoreBatch* batch);
  StoreView Read(size_t incarnation, int64_t org_id, const StoreQuery& query);

 private:
  struct Incarnation {
    std::string identity;
    std::map<int64_t, OrgState> orgs;
  };

  std::vector<Incarnation> incarnations_;
  int made_ = 0;
};

class TestCluster {
 public:
  explicit TestCluster(int enforcers, uint64_t seed, EnforcerOptions options = {});
  ~TestCluster();

  testing::FakeClock& clock() { return clock_; }
  FakeLedger& ledger() { return ledger_; }
  SharedStore& store() { return store_; }
  std::mt19937_64& random() { return random_; }
  Enforcer& enforcer(int i);
  size_t size() const { return nodes_.size(); }

  // The ledger cannot be reached by this enforcer (or by any: -1).
  void CutLedger(int i, bool cut);
  void SetBudget(const ledger::v1::BudgetRule& rule, int64_t cap);
  void SetLimits(const ledger::v1::AccountLimits& limits);

  // Everything that is under way to and from the ledger and the store.
  size_t messages() const;

  // Sends one operation of `edge`; its result is found under the number returned.
  uint64_t Send(int i, v1::Operation operation, const std::string& edge = "edge");
  // Null: not there yet.
  const v1::OperationResult* Result(uint64_t number) const;
  // Send, then Settle() until it is answered, without time passing.
  v1::OperationResult Call(int i, v1::Operation operation, const std::string& edge = "edge");
  v1::Operation Reserve(int64_t nanos, std::vector<int64_t> path = {1, 2, 3, 4});

  // Lets one step happen, any of those that may; false: there is none.
  bool Step();
  // All steps there are, and those that follow.
  void Settle();
  // Time passes, with ticks and all steps.
  void Pass(absl::Duration time);
  // Another store leads: tells the enforcers to look.
  void Hint();
  // This enforcer is connected to an old incarnation that still answers; -1: to the one that leads.
  void Connect(int i, int incarnation);
  // kill -9: what it sent may arrive or not, nothing comes back; a new process takes its place.
  void Kill(int i);
  // The new rules reach this enforcer now (SetBudget lets them reach all).
  void PushRules(int i);

 private:
  struct Node;
  struct NodeStore;
  struct NodeLedger;
  struct Sink;
  struct Message {  // under way
    std::function<void()> arrive;
    bool reply = false;
  };

  void Start(int i);

  testing::FakeClock clock_;
  std::mt19937_64 random_;
  const EnforcerOptions options_;
  FakeLedger ledger_;
  SharedStore store_;
  std::vector<std::unique_ptr<Node>> nodes_;
  bool ledger_cut_ = false;
  uint64_t sent_ = 0;
  int started_ = 0;
  std::map<uint64_t, v1::OperationResult> results_;
};

}  // namespace tollhouse::enforcer
