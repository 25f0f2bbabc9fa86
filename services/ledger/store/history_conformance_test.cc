// Random histories against a naive model: leases, settlements, losses of epochs, resolutions, changes
// of limits, restarts. The model knows only sums: for each budget row what is leased, in suspense and
// spent, and what the owner wants. Everything else follows:
//     cap + overrun = max(target, leased + suspense + spent)     (nothing forgiven, nothing invented)
//     avail = max(0, target - leased - suspense - spent)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/seed.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

constexpr int kSteps = 250;
constexpr int kHistories = 1;
constexpr int64_t kHold = 100;

// A hold as its edge knows it.
struct Hold {
  v1::Entry entry;       // kind and cost set once the edge knows them
  std::vector<int> rows;
  std::vector<int64_t> amounts;
  bool in_store = true;  // the enforcer's record is open
  bool ended = false;    // settled or void in the ledger
  bool resolved = false; // ended by an operator
  bool suspended = false;
  enum { kLeased, kOwn, kLost, kNowhere } where = kLeased;
  std::vector<int64_t> own;  // what its own suspense row holds
};

class History {
 public:
  History(sql::Dialect dialect, uint64_t seed) : random_(seed), home_(dialect) {
    Open();
    path_ = {Create("acme", 1), Create("acme/t", 2), Create("acme/t/u", 3)};
    Set(0, "acme", "month");
    Set(1, "acme/t", "day");
    Set(2, "acme/t/u", "total");
    NewEpoch();
  }

  void Run() {
    for (int step = 0; step < kSteps && !::testing::Test::HasFailure(); ++step) {
      const std::string what = Step();
      log_.push_back(what);
      Check();
      if (step % 50 == 49) Verify();
      if (::testing::Test::HasFailure()) {
        for (size_t i = log_.size() > 15 ? log_.size() - 15 : 0; i < log_.size(); ++i) {
          ADD_FAILURE() << "step " << i << ": " << log_[i];
        }
      }
    }
    Verify();
  }

 private:
  struct Row {
    v1::Budget budget;
    int64_t limit = 0;
    int hard_pct = 100;
    int64_t target = 0;
    int64_t leased = 0;
    int64_t spent = 0;
    int64_t own = 0;                   // suspense of single holds
    std::map<int64_t, int64_t> lost;   // suspense of closed epochs
    int64_t remaining = 0;             // the enforcer's side of the lease
    int64_t suspense() const {
      int64_t sum = own;
      for (const auto& [epoch, amount] : lost) sum += amount;
      return sum;
    }
    int64_t used() const { return leased + suspense() + spent; }
  };

  int64_t Pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  void Open() {
    store_.reset();
    home_.Reopen();
    auto opened = home_.Open(&clock_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }

  int64_t Create(const std::string& path, int kind) {
    v1::CreateAccountRequest request;
    request.set_path(path);
    request.set_kind(static_cast<common::v1::AccountKind>(kind));
    int64_t version = 0;
    return store_->CreateAccount(nullptr, request, &version)->account().id();
  }

  void Set(int index, const std::string& path, const std::string& window) {
    Row& row = rows_[index];
    row.limit = Pick(0, 20) * 100 + Pick(0, 99);
    row.hard_pct = Pick(0, 1) == 0 ? 100 : static_cast<int>(Pick(50, 130));
    BudgetSpec spec;
    spec.path = path;
    spec.window = window;
    spec.limit_nanos = row.limit;
    spec.hard_pct = row.hard_pct;
    int64_t version = 0;
    const auto set = store_->SetBudget(nullptr, spec, &version);
    ASSERT_TRUE(set.ok()) << set.status();
    if (row.budget.period() != set->budget().period()) {
      const v1::Budget budget = set->budget();
      row = {.budget = budget, .limit = row.limit, .hard_pct = row.hard_pct};
    }
    row.target = row.limit * row.hard_pct / 100;
  }

  void NewEpoch() {
    v1::RegisterEpochRequest request;
    request.set_org_id(path_[0]);
    request.set_expected_epoch(epoch_);
    request.set_incarnation(absl::StrCat("memory-", epoch_ + 1));
    int64_t version = 0;
    const auto epoch = store_->RegisterEpoch(request, &version);
    ASSERT_TRUE(epoch.ok()) << epoch.status();
    for (Row& row : rows_) {
      if (epoch_ > 0) row.lost[epoch_] += row.leased;
      row.leased = row.remaining = 0;
    }
    for (Hold& hold : holds_) {
      hold.in_store = false;
      if (hold.entry.epoch() != epoch_ || hold.ended) continue;
      if (hold.where == Hold::kOwn) {
        for (size_t i = 0; i < hold.rows.size(); ++i) {
          rows_[hold.rows[i]].own -= hold.own[i];
          rows_[hold.rows[i]].lost[epoch_] += hold.own[i];
        }
      }
      hold.where = Hold::kLost;
    }
    if (epoch_ > 0) closed_.insert(epoch_);
    epoch_ = *epoch;
    for (const char* edge : {"edge-0", "edge-1"}) {
      v1::RegisterEdgeRequest join;
      join.set_org_id(path_[0]);
      join.set_epoch(epoch_);
      join.set_edge_id(edge);
      ASSERT_TRUE(store_->RegisterEdge(join).ok());
    }
    grant_ = 0;
    return_ = 0;
  }

  v1::PostResult Post(const v1::Entry& entry) {
    const v1::Entry* const entries[] = {&entry};
    const auto results = store_->Post(entries);
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? results->front() : v1::PostResult();
  }

  // The hold's row in the store, found by where its money is.
  Hold* AnyHold(const std::function<bool(const Hold&)>& fits) {
    std::vector<Hold*> found;
    for (Hold& hold : holds_) {
      if (fits(hold)) found.push_back(&hold);
    }
    return found.empty() ? nullptr : found[static_cast<size_t>(Pick(0, found.size() - 1))];
  }

  // The model of a terminal posting.
  void End(Hold& hold, int64_t cost) {
    for (size_t i = 0; i < hold.rows.size(); ++i) {
      Row& row = rows_[hold.rows[i]];
      const int64_t amount = hold.amounts[i];
      row.spent += cost;
      switch (hold.where) {
        case Hold::kLeased:
          row.leased -= std::min(cost, amount);
          if (hold.in_store) row.remaining += amount - std::min(cost, amount);
          break;
        case Hold::kOwn:
          row.own -= hold.own[i];
          break;
        case Hold::kLost:
          row.lost[hold.entry.epoch()] -=
              std::min({cost, amount, row.lost[hold.entry.epoch()]});
          break;
        case Hold::kNowhere:
          break;
      }
    }
    hold.ended = true;
    hold.in_store = false;
    hold.where = Hold::kNowhere;
  }

  std::string Step() {
    switch (Pick(0, 17)) {
      case 0:
      case 1:
        return LeaseSome();
      case 2:
      case 3:
      case 4:
        return Reserve();
      case 5:
      case 6:
      case 7:
        return Settle();
      case 8:
        return Suspend();
      case 9:
        return Expire();
      case 10:
        return Repeat();
      case 11:
        return Return();
      case 12:
        if (Pick(0, 3) > 0) return Announce();
        NewEpoch();
        return absl::StrCat("epoch ", epoch_);
      case 13:
        return Resolve();
      case 14:
        return LateTruth();
      case 15: {
        const int index = static_cast<int>(Pick(0, 2));
        Set(index, std::vector<std::string>{"acme", "acme/t", "acme/t/u"}[index],
            rows_[index].budget.window());
        return absl::StrCat("limit ", index, " = ", rows_[index].limit, " x ", rows_[index].hard_pct);
      }
      case 16:
        return Announce();
      default:
        if (Pick(0, 4) == 0) {
          Open();
          return "restart";
        }
        return "nothing";
    }
  }

  std::string LeaseSome() {
    v1::GrantLeaseRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    request.set_request_id(absl::StrCat("request/", ++grant_));
    for (Row& row : rows_) {
      auto& item = *request.add_items();
      item.set_budget_id(row.budget.budget_id());
      item.set_period(row.budget.period());
      item.set_need_nanousd(Pick(1, 300));
      item.set_want_nanousd(item.need_nanousd() + Pick(0, 300));
    }
    const auto answer = store_->GrantLease(request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (Pick(0, 3) == 0) {  // the reply was lost
      const auto again = store_->GrantLease(request);
      EXPECT_EQ(again->SerializeAsString(), answer->SerializeAsString());
    }
    std::string text = "lease";
    for (size_t i = 0; i < rows_.size(); ++i) {
      const int64_t need = request.items(static_cast<int>(i)).need_nanousd();
      const int64_t want = request.items(static_cast<int>(i)).want_nanousd();
      const int64_t avail = std::max<int64_t>(0, rows_[i].target - rows_[i].used());
      const int64_t granted = answer->items(static_cast<int>(i)).granted_nanousd();
      EXPECT_EQ(granted, avail >= need ? std::min(avail, want) : 0);
      rows_[i].leased += granted;
      rows_[i].remaining += granted;
      absl::StrAppend(&text, " ", granted);
    }
    return text;
  }

  std::string Reserve() {
    Hold hold;
    for (int i = 0; i < 3; ++i) {
      if (i > 0 && Pick(0, 9) == 0) continue;
      hold.rows.push_back(i);
      hold.amounts.push_back(Pick(1, 4) == 1 ? kHold / 2 : kHold);
    }
    for (size_t i = 0; i < hold.rows.size(); ++i) {
      if (rows_[hold.rows[i]].remaining < hold.amounts[i]) return "reserve refused";
    }
    v1::Entry& entry = hold.entry;
    entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    for (const int64_t id : path_) entry.add_account_ids(id);
    entry.set_epoch(epoch_);
    entry.set_edge_id(absl::StrCat("edge-", Pick(0, 1)));
    entry.set_hold_nanousd(kHold);
    entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(clock_.Wall()));
    for (size_t i = 0; i < hold.rows.size(); ++i) {
      Row& row = rows_[hold.rows[i]];
      row.remaining -= hold.amounts[i];
      auto& held = *entry.add_budgets();
      held.set_budget_id(row.budget.budget_id());
      held.set_period(row.budget.period());
      held.set_amount_nanousd(hold.amounts[i]);
    }
    holds_.push_back(hold);
    return absl::StrCat("reserve #", holds_.size() - 1);
  }

  int64_t SomeCost(const Hold& hold) {
    const int64_t least = *std::min_element(hold.amounts.begin(), hold.amounts.end());
    return Pick(0, 7) == 0 ? Pick(0, 250) : Pick(0, least);
  }

  std::string Settle() {
    Hold* const hold = AnyHold([](const Hold& h) { return !h.ended; });
    if (hold == nullptr) return "nothing to settle";
    const bool is_void = Pick(0, 5) == 0;
    const int64_t cost = is_void ? 0 : SomeCost(*hold);
    hold->entry.set_kind(is_void ? v1::ENTRY_KIND_VOID : v1::ENTRY_KIND_SETTLE);
    hold->entry.set_cost_nanousd(cost);
    EXPECT_EQ(Post(hold->entry).outcome(), v1::POST_OUTCOME_POSTED);
    End(*hold, cost);
    return absl::StrCat("settle #", hold - holds_.data(), " at ", cost);
  }

  std::string Suspend() {
    Hold* const hold = AnyHold([](const Hold& h) { return !h.ended && !h.suspended; });
    if (hold == nullptr) return "nothing to suspend";
    v1::Entry entry = hold->entry;
    entry.set_kind(v1::ENTRY_KIND_SUSPEND);
    EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);
    hold->suspended = true;
    hold->in_store = false;  // acknowledged or expired: never credited
    if (hold->where == Hold::kLeased) {
      ToOwn(*hold);
    } else if (hold->where == Hold::kNowhere) {  // its epoch was reclaimed without a word of it
      hold->own.clear();
      for (size_t i = 0; i < hold->rows.size(); ++i) {
        Row& row = rows_[hold->rows[i]];
        const int64_t avail = std::max<int64_t>(0, row.target - row.used());
        hold->own.push_back(std::min(avail, hold->amounts[i]));
        row.own += hold->own.back();
      }
      hold->where = Hold::kOwn;
    }
    return absl::StrCat("suspend #", hold - holds_.data());
  }

  void ToOwn(Hold& hold) {
    hold.own = hold.amounts;
    for (size_t i = 0; i < hold.rows.size(); ++i) {
      rows_[hold.rows[i]].leased -= hold.amounts[i];
      rows_[hold.rows[i]].own += hold.amounts[i];
    }
    hold.where = Hold::kOwn;
  }

  std::string Expire() {
    Hold* const hold = AnyHold([](const Hold& h) { return h.in_store && !h.ended; });
    if (hold == nullptr) return "nothing to expire";
    v1::PostExpiredRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    auto& expired = *request.add_holds();
    expired.set_hold_id(hold->entry.hold_id());
    *expired.mutable_account_ids() = hold->entry.account_ids();
    *expired.mutable_covers() = hold->entry.budgets();
    expired.set_edge_id(hold->entry.edge_id());
    for (int64_t times = Pick(1, 2); times > 0; --times) {
      EXPECT_TRUE(store_->PostExpired(request).ok());
    }
    hold->in_store = false;
    ToOwn(*hold);
    return absl::StrCat("expire #", hold - holds_.data());
  }

  std::string Repeat() {
    Hold* const hold = AnyHold([](const Hold& h) { return h.ended && !h.resolved; });
    if (hold == nullptr) return "nothing to repeat";
    EXPECT_EQ(Post(hold->entry).outcome(), v1::POST_OUTCOME_DUPLICATE);
    v1::Entry other = hold->entry;
    other.set_kind(v1::ENTRY_KIND_SETTLE);
    other.set_cost_nanousd(other.cost_nanousd() + 1);
    EXPECT_EQ(Post(other).outcome(), v1::POST_OUTCOME_CONFLICT);
    other.set_kind(v1::ENTRY_KIND_SUSPEND);
    EXPECT_EQ(Post(other).outcome(), v1::POST_OUTCOME_DUPLICATE);
    if (hold->entry.epoch() < epoch_) {  // an expiry of a closed epoch is nothing
      v1::PostExpiredRequest request;
      request.set_org_id(path_[0]);
      request.set_epoch(hold->entry.epoch());
      auto& expired = *request.add_holds();
      expired.set_hold_id(hold->entry.hold_id());
      *expired.mutable_covers() = hold->entry.budgets();
      EXPECT_TRUE(store_->PostExpired(request).ok());
    }
    return absl::StrCat("repeat #", hold - holds_.data());
  }

  std::string Return() {
    Row& row = rows_[static_cast<size_t>(Pick(0, 2))];
    if (row.remaining == 0) return "nothing to return";
    const int64_t amount = Pick(1, row.remaining);
    v1::ReturnLeaseRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    request.set_return_id(++return_);
    auto& back = *request.add_amounts();
    back.set_budget_id(row.budget.budget_id());
    back.set_period(row.budget.period());
    back.set_amount_nanousd(amount);
    for (int64_t times = Pick(1, 2); times > 0; --times) {
      EXPECT_TRUE(store_->ReturnLease(request).ok());
    }
    row.remaining -= amount;
    row.leased -= amount;
    return absl::StrCat("return ", amount);
  }

  std::string Announce() {
    if (closed_.empty()) return "nothing to announce";
    const std::string edge = absl::StrCat("edge-", Pick(0, 1));
    v1::AnnounceHoldsRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_ - 1);
    request.set_edge_id(edge);
    for (Hold& hold : holds_) {
      if (hold.ended || hold.entry.epoch() == epoch_ || hold.entry.edge_id() != edge) continue;
      v1::Entry& entry = *request.add_unsettled() = hold.entry;
      entry.set_kind(v1::ENTRY_KIND_SUSPEND);
    }
    const absl::Status status = store_->AnnounceHolds(request);
    EXPECT_TRUE(status.ok()) << status;
    std::set<int64_t> reclaimed;
    for (const int64_t epoch : closed_) {
      announced_[epoch].insert(edge);
      if (announced_[epoch].size() == 2) reclaimed.insert(epoch);
    }
    // Where every edge has, each unsettled hold gets a row of its own, the rest returns.
    for (Hold& hold : holds_) {
      if (hold.ended || hold.where != Hold::kLost || !reclaimed.contains(hold.entry.epoch())) continue;
      hold.own.clear();
      for (size_t i = 0; i < hold.rows.size(); ++i) {
        Row& row = rows_[hold.rows[i]];
        int64_t& lost = row.lost[hold.entry.epoch()];
        hold.own.push_back(std::min(lost, hold.amounts[i]));
        lost -= hold.own.back();
        row.own += hold.own.back();
      }
      hold.where = Hold::kOwn;
    }
    for (const int64_t epoch : reclaimed) {
      for (Row& row : rows_) row.lost.erase(epoch);
      closed_.erase(epoch);
    }
    return absl::StrCat("announce ", edge, ", reclaimed ", reclaimed.size());
  }

  std::string Resolve() {
    Hold* const hold = AnyHold([](const Hold& h) {
      return !h.ended && (h.where == Hold::kOwn || (h.where == Hold::kLost && h.suspended));
    });
    if (hold == nullptr) return "nothing to resolve";
    const int64_t cost = SomeCost(*hold);
    const auto resolved = store_->ResolveSuspense(nullptr, hold->entry.hold_id(), cost, "said so");
    EXPECT_TRUE(resolved.ok()) << resolved.status();
    End(*hold, cost);
    hold->resolved = true;
    hold->entry.set_cost_nanousd(cost);
    return absl::StrCat("resolve #", hold - holds_.data(), " at ", cost);
  }

  std::string LateTruth() {
    Hold* const hold = AnyHold([](const Hold& h) { return h.resolved; });
    if (hold == nullptr) return "no late truth";
    const int64_t was = hold->entry.cost_nanousd();
    const int64_t cost = SomeCost(*hold);
    hold->entry.set_kind(v1::ENTRY_KIND_SETTLE);
    hold->entry.set_cost_nanousd(cost);
    EXPECT_EQ(Post(hold->entry).outcome(), v1::POST_OUTCOME_POSTED);
    for (const int index : hold->rows) rows_[index].spent += cost - was;
    hold->resolved = false;
    return absl::StrCat("late #", hold - holds_.data(), " at ", cost, " after ", was);
  }

  void Check() {
    v1::GrantLeaseRequest request;  // asks for more than there can be: reads the rows
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    request.set_request_id(absl::StrCat("request/", ++grant_));
    for (const Row& row : rows_) {
      auto& item = *request.add_items();
      item.set_budget_id(row.budget.budget_id());
      item.set_period(row.budget.period());
      item.set_need_nanousd(kMaxCap.nanos());
    }
    const auto answer = store_->GrantLease(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    for (size_t i = 0; i < rows_.size(); ++i) {
      const v1::BudgetState& state = answer->items(static_cast<int>(i)).state();
      const Row& row = rows_[i];
      EXPECT_EQ(state.leased_nanousd(), row.leased) << "row " << i;
      EXPECT_EQ(state.suspense_nanousd(), row.suspense()) << "row " << i;
      EXPECT_EQ(state.lost_lease_nanousd(), row.suspense() - row.own) << "row " << i;
      EXPECT_EQ(state.spent_nanousd(), row.spent) << "row " << i;
      EXPECT_EQ(state.cap_nanousd() + state.overrun_nanousd(), std::max(row.target, row.used()))
          << "row " << i;
      EXPECT_EQ(state.avail_nanousd(), std::max<int64_t>(0, row.target - row.used())) << "row " << i;
      EXPECT_GE(state.cap_nanousd(), row.target) << "row " << i;
      // I3 as an equation: the enforcer's lease and open holds are what is leased.
      int64_t open = row.remaining;
      for (const Hold& hold : holds_) {
        for (size_t h = 0; h < hold.rows.size(); ++h) {
          if (hold.in_store && !hold.ended && hold.rows[h] == static_cast<int>(i)) {
            open += hold.amounts[h];
          }
        }
      }
      EXPECT_EQ(open, row.leased) << "row " << i;
    }
  }

  void Verify() {
    v1::VerifyLedgerProgress last;
    EXPECT_TRUE(store_
                    ->Verify({},
                             [&](const v1::VerifyLedgerProgress& progress) {
                               last = progress;
                               return true;
                             })
                    .ok());
    EXPECT_TRUE(last.ok()) << last.DebugString();
  }

  std::mt19937_64 random_;
  StoreHome home_;
  testing::FakeClock clock_;
  std::unique_ptr<SqlStore> store_;
  std::vector<int64_t> path_;
  std::array<Row, 3> rows_;
  std::vector<Hold> holds_;
  std::set<int64_t> closed_;
  std::map<int64_t, std::set<std::string>> announced_;  // by closed epoch
  std::vector<std::string> log_;
  int64_t epoch_ = 0;
  int64_t grant_ = 0;
  int64_t return_ = 0;
};

class StoreHistoryTest : public ::testing::TestWithParam<sql::Dialect> {};

TEST_P(StoreHistoryTest, RandomHistoriesAgreeWithTheModel) {
  const uint64_t seed = testing::TestSeed();
  for (int i = 0; i < kHistories && !HasFailure(); ++i) History(GetParam(), seed + i).Run();
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreHistoryTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);

}  // namespace
}  // namespace tollhouse::ledger
