// Random histories of two enforcers on one store: enforcers die between any two calls, stores are lost,
// flushed and come back, the ledger is cut off, everything arrives in any order. At every moment the
// provider's bills stay below the caps and the ledger's books agree; afterwards nothing has leaked.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/cluster_testing.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kHold = 100;
constexpr int64_t kOrg = 1, kTeam = 2;

struct Faults {
  bool kill = false, store = false, ledger = false;
};

// Requests of one edge, which never loses its journal.
class Edge {
 public:
  Edge(TestCluster* cluster, int64_t org_cap, int64_t team_cap)
      : cluster_(*cluster), caps_{{kOrg, org_cap}, {kTeam, team_cap}} {
    cluster_.SetBudget(EnforcerWorld::Rule(kOrg), org_cap);
    cluster_.SetBudget(EnforcerWorld::Rule(kTeam), team_cap);
  }

  int64_t billed(int64_t account) { return billed_[account]; }
  bool idle() const { return requests_.empty(); }
  int exhausted() const { return exhausted_; }

  void Begin(int64_t wait_ms) {
    Request request;
    const int64_t team = Random(3) == 0 ? 7 : kTeam;  // one without a budget of its own
    request.reserve = cluster_.Reserve(kHold, {kOrg, team});
    request.reserve.mutable_reserve()->set_wait_ms(wait_ms);
    request.in_team = team == kTeam;
    SendTo(request, request.reserve);
    requests_.push_back(std::move(request));
  }

  // Something happens to one of the requests, if it can.
  void Advance() {
    if (requests_.empty()) return;
    const size_t index = Random(requests_.size());
    Request& request = requests_[index];
    const v1::OperationResult* result = cluster_.Result(request.sent);
    if (result == nullptr) {
      if (request.at_life != lives_[request.at]) SendTo(request, request.operation);  // its enforcer died
      return;
    }
    switch (request.state) {
      case State::kReserving:
        Answered(request, *result);
        break;
      case State::kAdmitted:
        Forward(request);
        break;
      case State::kForwarded: {
        request.state = State::kSettling;
        SendTo(request, EnforcerWorld::Settle(request.reserve, request.admitted.epoch(), request.bill));
        break;
      }
      case State::kSettling:
        if (Random(8) == 0) break;
        cluster_.ledger().Post(EnforcerWorld::Entry(request.reserve, request.admitted, request.bill));
        request.state = State::kPosted;
        SendTo(request, EnforcerWorld::Acknowledge(request.reserve, request.admitted.epoch(), request.bill));
        break;
      case State::kPosted:
        request.state = State::kDone;
        break;
      case State::kDone:
        break;
    }
    if (request.state == State::kDone) {
      std::swap(request, requests_.back());
      requests_.pop_back();
    }
  }

  // R7: tokens of closed epochs are dropped, then what was forwarded under them is told. Once all of
  // that is posted, the rest of the lost lease is free.
  void Announce() {
    floor_ = cluster_.ledger().epoch(kOrg);
    for (Request& request : requests_) {
      const bool posted = request.state == State::kPosted || request.state == State::kReserving ||
                          request.state == State::kDone;
      if (!posted && request.admitted.epoch() < floor_ && request.state != State::kAdmitted) return;
    }
    cluster_.ledger().ReclaimLost(kOrg);
  }

  void Killed(int i) { ++lives_[i]; }

  // What an operator does in the end: a reservation that got no decision may have left a hold that
  // nobody knows of; nothing was sent under it.
  void ResolveUnknown() {
    for (const v1::Operation& reserve : undecided_) {
      cluster_.ledger().Post(EnforcerWorld::Entry(reserve, v1::Admitted(), 0));
    }
  }

 private:
  enum class State { kReserving, kAdmitted, kForwarded, kSettling, kPosted, kDone };
  struct Request {
    v1::Operation reserve, operation;
    State state = State::kReserving;
    bool in_team = false;
    uint64_t sent = 0;
    int at = 0, at_life = 0;
    v1::Admitted admitted;
    int64_t bill = 0;
  };

  size_t Random(size_t below) { return cluster_.random()() % below; }

  void SendTo(Request& request, v1::Operation operation) {
    request.at = static_cast<int>(Random(cluster_.size()));
    request.at_life = lives_[request.at];
    request.operation = operation;
    request.sent = cluster_.Send(request.at, std::move(operation));
  }

  void Answered(Request& request, const v1::OperationResult& result) {
    if (result.has_admitted()) {
      request.admitted = result.admitted();
      request.state = State::kAdmitted;
      return;
    }
    request.state = State::kDone;
    if (result.has_failed()) {
      const std::string& reason = result.failed().reason();
      EXPECT_TRUE(reason == "STORE_UNAVAILABLE" || reason == "LEDGER_UNAVAILABLE" ||
                  reason == "HOLD_STALE" || reason == "HOLD_FINISHED")
          << reason;
      undecided_.push_back(request.reserve);
      return;
    }
    if (result.refused().reason() != v1::REASON_BUDGET_EXHAUSTED) return;
    // L2: exhausted is final, so there really is no room, whatever comes back.
    ++exhausted_;
    bool full = false;
    for (const v1::Violation& violation : result.refused().violations()) {
      full |= violation.limit_nanousd() - violation.spent_nanousd() < kHold ||
              violation.suspense_nanousd() > 0;
    }
    EXPECT_TRUE(full) << result.ShortDebugString();
  }

  void Forward(Request& request) {
    if (request.admitted.epoch() < floor_) {  // the edge dropped it
      request.state = State::kDone;
      return;
    }
    if (Random(10) == 0) {  // the client went away before anything was sent
      request.bill = 0;
      request.state = State::kSettling;
      SendTo(request, EnforcerWorld::Void(request.reserve, request.admitted.epoch()));
      return;
    }
    request.bill = 1 + static_cast<int64_t>(Random(kHold));
    request.state = State::kForwarded;
    billed_[kOrg] += request.bill;
    if (request.in_team) billed_[kTeam] += request.bill;
    for (const auto& [account, cap] : caps_) {
      ASSERT_LE(billed_[account], cap) << "the provider billed more than the cap of account " << account;
    }
  }

  TestCluster& cluster_;
  const std::map<int64_t, int64_t> caps_;
  std::map<int64_t, int64_t> billed_;
  std::vector<Request> requests_;
  std::vector<v1::Operation> undecided_;
  std::map<int, int> lives_;
  int64_t floor_ = 0;
  int exhausted_ = 0;
};

void PlayOne(uint64_t seed, int actions, Faults faults) {
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  TestCluster cluster(2, seed);
  std::mt19937_64& random = cluster.random();
  const int64_t org_cap = 1500 + static_cast<int64_t>(random() % 1000);
  Edge edge(&cluster, org_cap, 700);
  int lost = 0;
  for (int i = 0; i < actions; ++i) {
    const uint64_t what = random() % 1000;
    if (what < 60) {
      edge.Begin(random() % 2 == 0 ? 0 : static_cast<int64_t>(random() % 5000));
    } else if (what < 300) {
      edge.Advance();
    } else if (what < 330) {
      cluster.clock().Advance(absl::Milliseconds(static_cast<int64_t>(random() % 400)));
      for (size_t n = 0; n < cluster.size(); ++n) cluster.enforcer(static_cast<int>(n)).Tick();
    } else if (what < 333) {
      cluster.clock().Advance(absl::Seconds(static_cast<int64_t>(random() % 200)));
    } else if (what < 340) {
      cluster.PushRules(static_cast<int>(random() % cluster.size()));
    } else if (what < 345 && faults.kill) {
      const int victim = static_cast<int>(random() % cluster.size());
      cluster.Kill(victim);
      edge.Killed(victim);
    } else if (what < 348 && faults.store && lost < 4) {
      ++lost;
      if (random() % 2 == 0) {
        cluster.store().Lose();
      } else {
        cluster.store().Flush();
      }
      if (random() % 2 == 0) cluster.Hint();
    } else if (what < 350 && faults.store && cluster.store().leading > 0) {
      --cluster.store().leading;  // a failback
      if (random() % 2 == 0) cluster.Hint();
    } else if (what < 354 && faults.store) {
      cluster.store().down = !cluster.store().down;
      if (!cluster.store().down) cluster.Hint();
    } else if (what < 358 && faults.ledger) {
      cluster.CutLedger(static_cast<int>(random() % 3) - 1, random() % 2 == 0);
    } else if (what < 362) {
      edge.Announce();
    } else {
      cluster.Step();
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
  // Everything heals.
  cluster.store().down = false;
  for (int i = -1; i < 2; ++i) cluster.CutLedger(i, false);
  cluster.Hint();
  for (int i = 0; i < 4000 && !edge.idle(); ++i) {
    edge.Advance();
    cluster.Settle();
    if (i % 20 == 0) cluster.Pass(absl::Milliseconds(400));
    if (i % 100 == 0) {
      cluster.PushRules(0);
      cluster.PushRules(1);
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
  ASSERT_TRUE(edge.idle()) << "a request never ends";
  cluster.PushRules(0);
  cluster.PushRules(1);
  cluster.Pass(absl::Minutes(1));
  edge.Announce();
  cluster.Pass(absl::Minutes(30));
  edge.ResolveUnknown();
  for (const int64_t account : {kOrg, kTeam}) {
    const FakeLedger::Row row = cluster.ledger().row(account * 10);
    EXPECT_EQ(row.spent, edge.billed(account));
    EXPECT_EQ(row.overrun, 0);
    EXPECT_EQ(row.suspense, 0);
    const auto lease = cluster.store().org(kOrg).Lease(account * 10, "total");
    EXPECT_EQ(row.leased, lease ? lease->free_nanos + lease->held_nanos : 0) << "lease leaked (I2, I3)";
    EXPECT_EQ(lease ? lease->held_nanos : 0, 0) << "a hold never ended (L1)";
  }
  EXPECT_TRUE(cluster.store().org(kOrg).Returns().empty());
  EXPECT_EQ(cluster.store().org(kOrg).expired_count(), 0u);
  EXPECT_TRUE(cluster.ledger().listed_grants().empty());
  // What is left can be spent, by either.
  for (int i = 0; i < 2; ++i) {
    const bool fits = org_cap - cluster.ledger().row(10).spent >= (i + 1) * kHold;
    const v1::OperationResult last = cluster.Call(i, cluster.Reserve(kHold, {kOrg, 7}));
    EXPECT_EQ(last.has_admitted(), fits) << last.ShortDebugString();
  }
}

void Play(Faults faults) {
  const uint64_t seed = testing::TestSeed();
  const bool one = std::getenv("TOLLHOUSE_TEST_SEED") != nullptr;
  const int seeds = one ? 1 : std::getenv("TOLLHOUSE_TEST_LONG") != nullptr ? 2'000 : 60;
  for (int i = 0; i < seeds && !::testing::Test::HasFailure(); ++i) PlayOne(seed + i, 3000, faults);
}

TEST(EnforcersRandomTest, NothingFails) { Play({}); }
TEST(EnforcersRandomTest, EnforcersDie) { Play({.kill = true}); }
TEST(EnforcersRandomTest, StoresAreLost) { Play({.store = true}); }
TEST(EnforcersRandomTest, TheLedgerIsCutOff) { Play({.ledger = true}); }
TEST(EnforcersRandomTest, Everything) { Play({.kill = true, .store = true, .ledger = true}); }

}  // namespace
}  // namespace tollhouse::enforcer
