// The configuration of one org as the enforcer uses it: which budgets and limits a request meets.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/time/time.h"
#include "libs/base/window.h"
#include "services/budget-enforcer/core/core.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::enforcer {

// One budget. Immutable but for the cached period, which its Rules' owner guards.
class Budget {
 public:
  // A rule that cannot be understood is kept and refuses whatever it may concern (`usable` false).
  explicit Budget(const ledger::v1::BudgetRule& rule);

  int64_t id() const { return id_; }
  int64_t account_id() const { return account_id_; }
  const std::string& display_id() const { return display_id_; }
  // Of its account: what stands before the '#'.
  std::string_view path() const { return std::string_view(display_id_).substr(0, display_id_.find('#')); }
  bool usable() const { return usable_; }
  bool observe() const { return observe_; }
  bool tight() const { return tight_; }
  bool open_on_outage() const { return open_on_outage_; }
  bool recall() const { return recall_; }

  bool Matches(const v1::Reserve& request) const;

  // The key of the period that contains `at`. The view lives as long as the budget.
  std::string_view PeriodKey(absl::Time at);
  // When the period that contains `at` ends; InfiniteFuture for total.
  absl::Time PeriodEnd(absl::Time at);

 private:
  void Select(absl::Time at);

  int64_t id_ = 0;
  int64_t account_id_ = 0;
  std::string display_id_;
  bool usable_ = false, observe_ = false, tight_ = false, open_on_outage_ = false, recall_ = false;
  Window window_;
  absl::TimeZone zone_;
  std::vector<std::pair<std::string, std::string>> match_;
  absl::Time start_ = absl::InfiniteFuture(), end_ = absl::InfinitePast();
  std::deque<std::string> keys_;  // every period selected so far, the current one last
};

// What one Reserve is checked against.
struct Match {
  absl::InlinedVector<std::shared_ptr<Budget>, 4> budgets;
  absl::InlinedVector<BudgetAmount, 4> asks;  // one per budget; periods are views into `budgets`
  absl::InlinedVector<LimitAsk, 4> limits;
  bool enforced = false;      // one of the budgets is
  const char* error = "";     // reason why the request cannot be decided: BAD_BUDGET_RULE, TOO_MANY_BUDGETS
};

// All rules of one org. Not thread-safe.
class Rules {
 public:
  void SetBudget(const ledger::v1::BudgetRule& rule);
  void DeleteBudget(int64_t budget_id);
  void SetLimits(const ledger::v1::AccountLimits& limits);
  void Clear();

  // The budgets and limits on the path of the request at `at`, in path order.
  Match MatchRequest(const v1::Reserve& request, absl::Time at);

  // Null if unknown.
  std::shared_ptr<Budget> FindBudget(int64_t budget_id) const;
  // Budgets whose lease the ledger wants back.
  const std::vector<std::shared_ptr<Budget>>& recalled() const { return recalled_; }
  // Of an account with limits; its number otherwise.
  std::string PathOf(int64_t account_id) const;
  bool HasBudget(int64_t budget_id) const { return budgets_.contains(budget_id); }

 private:
  struct Account {
    std::string path;
    LimitAsk limits;
    std::vector<std::shared_ptr<Budget>> budgets;
  };

  void FindRecalled();

  absl::flat_hash_map<int64_t, Account> accounts_;
  absl::flat_hash_map<int64_t, std::shared_ptr<Budget>> budgets_;
  std::vector<std::shared_ptr<Budget>> recalled_;
};

}  // namespace tollhouse::enforcer
