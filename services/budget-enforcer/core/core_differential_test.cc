// Random histories through the state machine and through a model that is too simple to be wrong:
// plain maps, no indexes, sums recomputed from scratch.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/core/core.h"
#include "services/budget-enforcer/core/core_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int kBudgets = 4;
const char* const kPeriods[] = {"2026-11-21@UTC", "2026-11-22@UTC"};
using Key = std::pair<int64_t, std::string>;

class NaiveModel {
 public:
  struct Hold {
    std::map<Key, std::pair<int64_t, int64_t>> amounts;  // amount, covers
    HoldState state = HoldState::kOpen;
    uint8_t fingerprint = 0;
    int64_t deadline = 0, ttl = 0, actual = 0, admitted = 0;
  };

  std::map<Key, int64_t> free;
  std::map<Uuid, Hold> open;
  std::map<Uuid, std::pair<int, int64_t>> ended;  // fingerprint or -1, actual: -1 void, -2 unknown
  int64_t last_grant = 0;
  int64_t in_returns = 0, granted = 0, taken_by_ledger = 0;

  Outcome Reserve(const enforcer::Reserve& e) {
    if (auto it = open.find(e.hold_id); it != open.end()) {
      if (it->second.fingerprint != e.fingerprint[0]) return Outcome::kConflict;
      return it->second.state == HoldState::kOpen ? Outcome::kDone : Outcome::kFinished;
    }
    if (auto it = ended.find(e.hold_id); it != ended.end()) {
      if (Age(e.hold_id, e.now_ms) > 300'000 && Forgotten(e.hold_id)) return Outcome::kStale;
      const int fingerprint = it->second.first;
      return fingerprint < 0 || fingerprint == e.fingerprint[0] ? Outcome::kFinished
                                                                : Outcome::kConflict;
    }
    if (Age(e.hold_id, e.now_ms) > 300'000) return Outcome::kStale;
    for (const BudgetAmount& b : e.budgets) {
      if (free[{b.budget_id, std::string(b.period)}] < b.amount_nanos) return Outcome::kRefused;
    }
    Hold hold;
    hold.fingerprint = e.fingerprint[0];
    hold.admitted = e.now_ms;
    hold.ttl = e.time_to_live_ms;
    hold.deadline = e.now_ms + e.time_to_live_ms;
    for (const BudgetAmount& b : e.budgets) {
      free[{b.budget_id, std::string(b.period)}] -= b.amount_nanos;
      hold.amounts[{b.budget_id, std::string(b.period)}] = {b.amount_nanos, b.amount_nanos};
    }
    open[e.hold_id] = hold;
    return Outcome::kDone;
  }

  Outcome Settle(const Uuid& id, int64_t actual, int64_t now) {
    auto it = open.find(id);
    if (it == open.end()) {
      auto end = ended.find(id);
      if (end == ended.end() || Forgotten(id)) return Outcome::kDone;
      return end->second.second != -2 && end->second.second != actual ? Outcome::kConflict
                                                                      : Outcome::kDone;
    }
    Hold& hold = it->second;
    if (hold.state == HoldState::kSettled) {
      return hold.actual == actual ? Outcome::kDone : Outcome::kConflict;
    }
    if (hold.state == HoldState::kExpired) return Outcome::kDone;
    Credit(hold, actual);
    hold.state = HoldState::kSettled;
    hold.actual = actual;
    hold.deadline = std::max(hold.deadline, now + 600'000);
    if (Covers(hold) == 0) End(id, actual);
    return Outcome::kDone;
  }

  Outcome Void(const Uuid& id, int64_t now) {
    auto it = open.find(id);
    if (it == open.end()) {
      auto end = ended.find(id);
      if (end != ended.end() && !Forgotten(id)) {
        return end->second.second > 0 ? Outcome::kConflict : Outcome::kDone;
      }
      if (Age(id, now) <= 300'000) ended[id] = {-1, -1};
      return Outcome::kDone;
    }
    if (it->second.state == HoldState::kSettled) return Outcome::kConflict;
    if (it->second.state == HoldState::kExpired) return Outcome::kDone;
    Credit(it->second, 0);
    End(id, -1);
    return Outcome::kDone;
  }

  void Acknowledge(const Uuid& id, int64_t posted) {
    auto it = open.find(id);
    if (it == open.end() || it->second.state == HoldState::kExpired) return;
    Credit(it->second, posted);
    const int64_t actual = it->second.state == HoldState::kSettled ? it->second.actual : -2;
    End(id, actual);
  }

  int64_t TickAll(int64_t now) {
    int64_t expired = 0;
    std::vector<Uuid> due;
    for (auto& [id, hold] : open) {
      if (hold.state != HoldState::kExpired && hold.deadline <= now) due.push_back(id);
    }
    for (const Uuid& id : due) {
      Hold& hold = open[id];
      ++expired;
      if (Covers(hold) == 0) {
        End(id, hold.state == HoldState::kSettled ? hold.actual : -2);
      } else {
        hold.state = HoldState::kExpired;
      }
    }
    ticked = now;
    return expired;
  }

  void ExpiredPosted(const Uuid& id) {
    auto it = open.find(id);
    if (it != open.end() && it->second.state == HoldState::kExpired) End(id, -2);
  }

  static int64_t Covers(const Hold& hold) {
    int64_t sum = 0;
    for (const auto& [key, a] : hold.amounts) sum += a.second;
    return sum;
  }

  int64_t ticked = 0;

 private:
  static int64_t Made(const Uuid& id) { return absl::ToUnixMillis(UuidTime(id)); }
  static int64_t Age(const Uuid& id, int64_t now) { return now - Made(id); }
  bool Forgotten(const Uuid& id) const {
    return ((Made(id) + 300'000) / 1000 + 1) * 1000 <= ticked || never_kept.contains(id);
  }
  void Credit(Hold& hold, int64_t down_to) {
    for (auto& [key, a] : hold.amounts) {
      const int64_t back = std::max<int64_t>(0, a.second - down_to);
      a.second -= back;
      free[key] += back;
    }
  }
  void End(const Uuid& id, int64_t actual) {
    taken_by_ledger += Covers(open[id]);
    if (Age(id, now) > 300'000) {
      never_kept.insert(id);
    }
    ended[id] = {open[id].fingerprint, actual};
    open.erase(id);
  }

 public:
  int64_t now = 0;
  std::set<Uuid> never_kept;
};

TEST(CoreDifferentialTest, RandomHistoriesMatchTheNaiveModel) {
  std::mt19937_64 random(testing::TestSeed());
  auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  for (int round = 0; round < 60; ++round) {
    OrgState state;
    NaiveModel naive;
    ASSERT_EQ(state.Step(InitEpoch{1}), Outcome::kDone);
    std::vector<Uuid> ids;
    int64_t now = kNoonMs;
    for (int step = 0; step < 1500; ++step) {
      naive.now = now;
      const Uuid id = ids.empty() || below(4) == 0 ? TestHoldId(random(), now) : ids[below(ids.size())];
      SCOPED_TRACE("round " + std::to_string(round) + " step " + std::to_string(step));
      switch (below(12)) {
        case 0:
        case 1:
        case 2:
        case 3: {
          std::vector<BudgetAmount> asks;
          for (int b = 1; b <= kBudgets; ++b) {
            if (below(2)) asks.push_back({b, kPeriods[below(2)], below(30)});
          }
          TestReserve reserve(id, asks);
          reserve.event.now_ms = now;
          reserve.event.fingerprint[0] = static_cast<uint8_t>(below(20) == 0 ? 9 : 7);
          reserve.event.time_to_live_ms = 1 + below(100'000);
          const Outcome expected = naive.Reserve(*reserve);
          ASSERT_EQ(state.Step(*reserve).outcome, expected);
          ids.push_back(id);
          break;
        }
        case 4:
        case 5: {
          const int64_t actual = below(35);
          ASSERT_EQ(state.Step(Settle{1, now, id, actual}).outcome, naive.Settle(id, actual, now));
          break;
        }
        case 6:
          ASSERT_EQ(state.Step(Void{1, now, id}).outcome, naive.Void(id, now));
          break;
        case 7: {
          const int64_t posted = below(35);
          state.Step(Acknowledge{1, now, id, posted});
          naive.Acknowledge(id, posted);
          break;
        }
        case 8: {
          const int64_t grant = state.last_grant_id() + below(3);
          const BudgetAmount item{1 + below(kBudgets), kPeriods[below(2)], below(60)};
          const bool applies = grant == naive.last_grant + 1;
          ASSERT_EQ(Grant(state, grant, {item}).applied, applies);
          if (applies) {
            naive.free[{item.budget_id, std::string(item.period)}] += item.amount_nanos;
            naive.granted += item.amount_nanos;
            naive.last_grant = grant;
          }
          break;
        }
        case 9: {
          const Key key{1 + below(kBudgets), kPeriods[below(2)]};
          std::vector<BudgetAmount> keep = {{key.first, key.second, below(20)}};
          const int64_t out = std::max<int64_t>(0, naive.free[key] - keep[0].amount_nanos);
          ASSERT_EQ(state.Step(TakeOut{1, keep}).return_id != 0, out > 0);
          naive.free[key] -= out;
          naive.in_returns += out;
          break;
        }
        case 10:
          now += below(20) == 0 ? below(400'000) : below(2000);
          naive.now = now;
          ASSERT_EQ(state.Step(Tick{1, now, 1'000'000}).expired, naive.TickAll(now));
          break;
        case 11:
          state.Step(ExpiredPosted{1, id});
          naive.ExpiredPosted(id);
          break;
      }
      int64_t free = 0, held = 0, naive_held = 0;
      for (const LeaseRecord& lease : state.Leases()) {
        ASSERT_GE(lease.free_nanos, 0);
        ASSERT_GE(lease.held_nanos, 0);
        ASSERT_EQ(lease.free_nanos, (naive.free[{lease.budget_id, lease.period}]));
        free += lease.free_nanos;
        held += lease.held_nanos;
      }
      for (const auto& [hold_id, hold] : naive.open) naive_held += NaiveModel::Covers(hold);
      ASSERT_EQ(held, naive_held);
      ASSERT_EQ(free + held + naive.in_returns + naive.taken_by_ledger, naive.granted)
          << "conservation inside the store";
      ASSERT_EQ(state.hold_count(), naive.open.size());
    }
  }
}

}  // namespace
}  // namespace tollhouse::enforcer
