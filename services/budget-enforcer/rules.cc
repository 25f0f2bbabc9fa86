#include "services/budget-enforcer/rules.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::enforcer {
namespace {

bool ParseDay(const std::string& text, absl::CivilDay* day) {
  return text.empty() || absl::ParseCivilTime(text, day);
}

}  // namespace

// --- Budget --------------------------------------------------------------------------------------
Budget::Budget(const ledger::v1::BudgetRule& rule)
    : id_(rule.budget_id()),
      account_id_(rule.account_id()),
      display_id_(rule.display_id()),
      observe_(rule.mode() == common::v1::BUDGET_MODE_OBSERVE),
      tight_(rule.bound() == common::v1::BOUND_POLICY_TIGHT),
      open_on_outage_(rule.on_outage() == common::v1::OUTAGE_POLICY_OPEN),
      recall_(rule.recall()) {
  absl::CivilDay anchor;
  const bool anchored = ParseDay(rule.anchor(), &anchor);
  auto window = ParseWindow(rule.window(), anchor);
  auto zone = ParseTimeZone(rule.time_zone().empty() ? "UTC" : rule.time_zone());
  usable_ = anchored && window.ok() && zone.ok();
  if (usable_) {
    window_ = *window;
    zone_ = *zone;
  } else {
    obs::Error("budget_rule_unusable", {{"budget", display_id_},
                                        {"window", rule.window()},
                                        {"time_zone", rule.time_zone()},
                                        {"anchor", rule.anchor()}});
  }
  match_.assign(rule.match().begin(), rule.match().end());
  std::sort(match_.begin(), match_.end());
}

bool Budget::Matches(const v1::Reserve& request) const {
  for (const auto& [key, value] : match_) {
    if (key == "model") {
      if (request.model() != value) return false;
    } else if (key == "provider") {
      if (request.provider() != value) return false;
    } else {
      auto tag = request.tags().find(key);
      if (tag == request.tags().end() || tag->second != value) return false;
    }
  }
  return true;
}

void Budget::Select(absl::Time at) {
  if (at >= start_ && at < end_) return;
  Period period = PeriodAt(window_, zone_, at);
  start_ = period.start;
  end_ = period.end;
  if (keys_.empty() || keys_.back() != period.key) keys_.push_back(std::move(period.key));
}

std::string_view Budget::PeriodKey(absl::Time at) {
  Select(at);
  return keys_.back();
}

absl::Time Budget::PeriodEnd(absl::Time at) {
  Select(at);
  return end_;
}

// --- Rules ---------------------------------------------------------------------------------------
void Rules::SetBudget(const ledger::v1::BudgetRule& rule) {
  DeleteBudget(rule.budget_id());
  auto budget = std::make_shared<Budget>(rule);
  budgets_[budget->id()] = budget;
  accounts_[budget->account_id()].budgets.push_back(std::move(budget));
  FindRecalled();
}

void Rules::DeleteBudget(int64_t budget_id) {
  auto it = budgets_.find(budget_id);
  if (it == budgets_.end()) return;
  auto& siblings = accounts_[it->second->account_id()].budgets;
  siblings.erase(std::remove(siblings.begin(), siblings.end(), it->second), siblings.end());
  budgets_.erase(it);
  FindRecalled();
}

void Rules::FindRecalled() {
  recalled_.clear();
  for (const auto& [id, budget] : budgets_) {
    if (budget->recall() && budget->usable()) recalled_.push_back(budget);
  }
  std::sort(recalled_.begin(), recalled_.end(),
            [](const auto& a, const auto& b) { return a->id() < b->id(); });
}

void Rules::SetLimits(const ledger::v1::AccountLimits& limits) {
  Account& account = accounts_[limits.account_id()];
  account.path = limits.path();
  const auto clamp = [](int64_t value) { return std::clamp<int64_t>(value, 0, kMaxRate); };
  account.limits = {limits.account_id(), clamp(limits.limits().requests_per_minute()),
                    clamp(limits.limits().tokens_per_minute()),
                    clamp(limits.limits().concurrency())};
}

void Rules::Clear() {
  accounts_.clear();
  budgets_.clear();
  recalled_.clear();
}

Match Rules::MatchRequest(const v1::Reserve& request, absl::Time at) {
  Match match;
  for (int64_t account_id : request.account_ids()) {
    auto it = accounts_.find(account_id);
    if (it == accounts_.end()) continue;
    const LimitAsk& limits = it->second.limits;
    if (limits.requests_per_minute > 0 || limits.tokens_per_minute > 0 || limits.concurrency > 0) {
      match.limits.push_back(limits);
    }
    for (const std::shared_ptr<Budget>& budget : it->second.budgets) {
      if (!budget->Matches(request)) continue;
      if (!budget->usable()) {
        match.error = "BAD_BUDGET_RULE";
        return match;
      }
      if (match.budgets.size() == kMaxBudgetsPerHold) {
        match.error = "TOO_MANY_BUDGETS";
        return match;
      }
      const bool observe = budget->observe();
      const int64_t amount = budget->tight() ? request.tight_nanousd() : request.strict_nanousd();
      match.asks.push_back({budget->id(), budget->PeriodKey(at), observe ? 0 : amount, observe});
      match.budgets.push_back(budget);
      match.enforced |= !observe;
    }
  }
  return match;
}

std::shared_ptr<Budget> Rules::FindBudget(int64_t budget_id) const {
  auto it = budgets_.find(budget_id);
  return it == budgets_.end() ? nullptr : it->second;
}

std::string Rules::PathOf(int64_t account_id) const {
  auto it = accounts_.find(account_id);
  return it == accounts_.end() || it->second.path.empty() ? absl::StrCat(account_id)
                                                          : it->second.path;
}

}  // namespace tollhouse::enforcer
