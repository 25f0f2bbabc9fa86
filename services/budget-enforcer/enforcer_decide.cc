#include "libs/obs/log.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/enforcer_state.h"

namespace tollhouse::enforcer {
namespace {

// The least retryable reason is the answer's.
int Rank(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_NO_BUDGET:
      return 9;
    case v1::REASON_BUDGET_EXHAUSTED:
      return 8;
    case v1::REASON_LEDGER_UNAVAILABLE:
      return 7;
    case v1::REASON_BUDGET_BLOCKED:
      return 6;
    case v1::REASON_BUDGET_HELD:
      return 5;
    case v1::REASON_CONCURRENCY:
      return 4;
    case v1::REASON_TOKEN_RATE:
      return 3;
    case v1::REASON_REQUEST_RATE:
      return 2;
    default:
      return 0;
  }
}

v1::Reason ReasonFor(LimitKind kind) {
  return kind == LimitKind::kRequests ? v1::REASON_REQUEST_RATE
         : kind == LimitKind::kTokens ? v1::REASON_TOKEN_RATE
                                      : v1::REASON_CONCURRENCY;
}

}  // namespace

int64_t Enforcer::Org::Target(const LeaseView& view, absl::Duration horizon) const {
  const int64_t seconds = std::max<int64_t>(1, absl::ToInt64Seconds(horizon));
  const int64_t burn =
      view.rate_per_s > kLargestLease / seconds ? kLargestLease : view.rate_per_s * seconds;
  const int64_t ahead = std::min(view.largest_hold, kLargestLease / kHoldsAhead) * kHoldsAhead;
  return std::min(kLargestLease, std::max(burn, ahead));
}

int64_t Enforcer::Org::Ask(const LeaseView& view, int64_t wanted, bool recall,
                           absl::Duration horizon) const {
  if (recall) return std::max<int64_t>(1, wanted);
  int64_t want = std::max(wanted, Target(view, horizon));
  if (view.state_call >= 0) {
    // Far from the cap: never more than half of what is left, so that a lost store strands little.
    // Near it: the whole remainder, so that nothing is stranded beside the lease.
    const int64_t left = view.state.avail_nanousd();
    const int64_t margin = std::min(view.largest_hold, kLargestLease / kHoldsAhead) * 2 * kHoldsAhead;
    want = left - want < margin ? kLargestLease : std::max(wanted, std::min(want, left / 2));
  }
  return std::clamp<int64_t>(want, 1, kLargestLease);
}

void Enforcer::DecideReserve(Org& org, Run& run, Pending& pending, const ReserveEffect& effect)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  v1::OperationResult result;
  result.set_sequence(pending.sequence);
  const absl::Duration now = clock_->Monotonic();
  switch (effect.outcome) {
    case Outcome::kDone:
      break;
    case Outcome::kRefused:
      if (!effect.shortages.empty()) {
        DecideShort(org, run, pending, effect);
        return;
      }
      break;
    case Outcome::kConflict:
      run.results.emplace_back(pending.sink,
                               FailedResult(pending.sequence, "HOLD_CONFLICT",
                                            "this hold_id was used for another request"));
      return;
    case Outcome::kFinished:
      run.results.emplace_back(pending.sink, FailedResult(pending.sequence, "HOLD_FINISHED",
                                                          "this hold has ended already", pending.epoch));
      return;
    case Outcome::kStale:
      run.results.emplace_back(
          pending.sink,
          FailedResult(pending.sequence, "HOLD_STALE",
                       "hold_id must be a UUIDv7 made now: its time is too far from the enforcer's"));
      return;
    default:
      run.results.emplace_back(pending.sink, FailedResult(pending.sequence, "BAD_OPERATION",
                                                          "the reservation is out of bounds"));
      return;
  }
  if (effect.outcome == Outcome::kRefused) {  // by limits alone
    v1::Refused* refused = result.mutable_refused();
    for (const LimitViolation& limit : effect.limits) {
      v1::Violation* violation = refused->add_violations();
      violation->set_reason(ReasonFor(limit.kind));
      violation->set_budget(org.rules.PathOf(limit.account_id));
      violation->set_limit(limit.limit);
      const int64_t wait = limit.kind == LimitKind::kConcurrency
                               ? std::clamp<int64_t>(org.mean_open_ms / limit.limit, 50, 30'000)
                               : limit.retry_after_ms;
      if (Rank(violation->reason()) > Rank(refused->reason())) refused->set_reason(violation->reason());
      // All limits must have room; one that never will makes waiting pointless.
      if (wait < 0 || refused->retry_after_ms() < 0) {
        refused->set_retry_after_ms(-1);
      } else {
        refused->set_retry_after_ms(std::max(refused->retry_after_ms(), wait));
      }
    }
    refused->set_retry_after_ms(std::max<int64_t>(0, refused->retry_after_ms()));
    Metrics::Get().Refused(refused->reason()).Increment();
    run.results.emplace_back(pending.sink, std::move(result));
    return;
  }
  if (effect.replayed) {
    run.replays.push_back(std::move(pending));
    return;
  }
  v1::Admitted* admitted = result.mutable_admitted();
  admitted->set_epoch(pending.epoch);
  admitted->set_tightest_remaining_nanousd(-1);
  for (size_t i = 0; i < pending.match.asks.size(); ++i) {
    const BudgetAmount& ask = pending.match.asks[i];
    common::v1::HeldBudget* held = admitted->add_budgets();
    held->set_budget_id(ask.budget_id);
    held->set_period(std::string(ask.period));
    held->set_amount_nanousd(ask.amount_nanos);
    held->set_observe(ask.observe);
    if (ask.observe) continue;
    const Budget& budget = *pending.match.budgets[i];
    Org::LeaseView& view = org.View(ask.budget_id, ask.period);
    view.largest_hold = std::max(view.largest_hold, ask.amount_nanos);
    view.used_at = now;
    const int64_t beside = view.state_call >= 0 ? view.state.avail_nanousd() : 0;
    const int64_t remaining = effect.remaining[i] + beside;
    if (admitted->tightest_remaining_nanousd() < 0 ||
        remaining < admitted->tightest_remaining_nanousd()) {
      admitted->set_tightest_remaining_nanousd(remaining);
      admitted->set_tightest_budget(budget.display_id());
    }
    // Refill before it is needed.
    const int64_t target = org.Target(view, options_.lease_horizon);
    if (effect.remaining[i] < target / 2 && !budget.recall() && ask.amount_nanos > 0 &&
        (view.state_call < 0 || view.state.avail_nanousd() > 0) && view.last_call <= view.state_call &&
        now - view.refilled_at > absl::Milliseconds(50)) {
      view.refilled_at = now;
      org.Want({ask.budget_id, std::string(ask.period)}, 0);
    }
  }
  if (!pending.open.empty()) Metrics::Get().admitted_open.Increment();
  Metrics::Get().admitted.Increment();
  Metrics::Get().open_holds.Increment();
  run.results.emplace_back(pending.sink, std::move(result));
}

// Too little lease in the store. Only the ledger knows whether there is more.
void Enforcer::DecideShort(Org& org, Run& run, Pending& pending, const ReserveEffect& effect)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  const absl::Duration now = clock_->Monotonic();
  const absl::Time wall = clock_->Wall();
  // What is granted is not in the store yet: this one waits for it, whatever the ledger said.
  if (run.grant_missing) {
    org.in_call.push_back(std::move(pending));
    return;
  }
  auto demand_all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
    for (const Shortage& shortage : effect.shortages) {
      const BudgetAmount& ask = pending.match.asks[shortage.index];
      BudgetKey key{ask.budget_id, std::string(ask.period)};
      Org::LeaseView& view = org.views[key];
      view.largest_hold = std::max(view.largest_hold, ask.amount_nanos);
      view.used_at = now;
      org.Want(key, ask.amount_nanos);
    }
  };
  // Nobody waits for a ledger that is known to be away; the next call is made in the background.
  if (org.ledger_down && (now < org.call_again_at || org.calling)) {
    demand_all();
    DecideOutage(org, run, pending, effect);
    return;
  }
  // Tried again without news from the ledger, and it was not enough: wait on, unless time is up.
  if (pending.place != 0 && run.answered_call == 0 && now < pending.give_up_at) {
    org.Hold(std::move(pending));
    return;
  }
  bool fresh = pending.asked_after >= 0;
  for (const Shortage& shortage : effect.shortages) {
    const BudgetAmount& ask = pending.match.asks[shortage.index];
    auto view = org.views.find(BudgetKey{ask.budget_id, std::string(ask.period)});
    fresh = fresh && view != org.views.end() && view->second.state_call > pending.asked_after;
  }
  if (!fresh) {
    pending.asked_after = org.calls_sent;
    demand_all();
    org.short_of_lease.push_back(std::move(pending));
    return;
  }
  v1::OperationResult result;
  result.set_sequence(pending.sequence);
  v1::Refused* refused = result.mutable_refused();
  bool only_held = effect.limits.empty();
  for (const Shortage& shortage : effect.shortages) {
    const BudgetAmount& ask = pending.match.asks[shortage.index];
    Budget& budget = *pending.match.budgets[shortage.index];
    const Org::LeaseView& view = org.views[{ask.budget_id, std::string(ask.period)}];
    const ledger::v1::BudgetState& state = view.state;
    // avail + leased = cap + overrun - spent - suspense. What is leased is here: free, or held by
    // requests in flight. Lost leases come back once their edges have reported.
    const int64_t alive = state.avail_nanousd() + state.leased_nanousd();
    const int64_t ever = alive + state.lost_lease_nanousd();
    const bool unknown = !view.row_known;  // deleted by now, or never there
    if (unknown || shortage.free_nanos + state.avail_nanousd() >= ask.amount_nanos) {
      // There was enough, and others were faster, or the grant was sized before this came; or the
      // budget was deleted and the news is on its way.
      if (++pending.hopeful < 16) {
        pending.asked_after = org.calls_sent;
        demand_all();
        org.short_of_lease.push_back(std::move(pending));
        return;
      }
    }
    v1::Violation* violation = refused->add_violations();
    int64_t retry_after_ms = 0;
    if (ever < ask.amount_nanos && !unknown) {
      violation->set_reason(v1::REASON_BUDGET_EXHAUSTED);
      const absl::Time end = budget.PeriodEnd(wall);
      if (end != absl::InfiniteFuture()) retry_after_ms = absl::ToInt64Milliseconds(end - wall) + 1;
      only_held = false;
    } else if (alive < ask.amount_nanos) {
      violation->set_reason(v1::REASON_BUDGET_BLOCKED);
      retry_after_ms = 1000;
      only_held = false;
    } else {
      violation->set_reason(v1::REASON_BUDGET_HELD);
      retry_after_ms = std::clamp<int64_t>(org.mean_open_ms / 2, 50, 30'000);
    }
    violation->set_budget(budget.display_id());
    violation->set_limit_nanousd(state.cap_nanousd());
    violation->set_spent_nanousd(state.spent_nanousd());
    violation->set_held_nanousd(std::max<int64_t>(0, state.leased_nanousd() - shortage.free_nanos));
    violation->set_suspense_nanousd(state.suspense_nanousd());
    violation->set_needed_nanousd(ask.amount_nanos);
    if (state.has_resets_at()) {
      *violation->mutable_resets_at() = state.resets_at();
    } else if (const absl::Time end = budget.PeriodEnd(wall); end != absl::InfiniteFuture()) {
      *violation->mutable_resets_at() = ToProto(end);
    }
    if (Rank(violation->reason()) > Rank(refused->reason())) {
      refused->set_reason(violation->reason());
      refused->set_retry_after_ms(retry_after_ms);
    }
  }
  // What is leased may be in a grant that the enforcer who asked for it did not live to add.
  if (only_held && store_->shared() && now - org.recovered_at >= options_.held_poll) org.recover = true;
  if (only_held && now < pending.give_up_at && org.held.size() < options_.waiting_max) {
    if (pending.place == 0) Metrics::Get().waited.Increment();
    pending.asked_after = org.calls_sent;
    org.Hold(std::move(pending));
    return;
  }
  for (const LimitViolation& limit : effect.limits) {
    v1::Violation* violation = refused->add_violations();
    violation->set_reason(ReasonFor(limit.kind));
    violation->set_budget(org.rules.PathOf(limit.account_id));
    violation->set_limit(limit.limit);
    if (refused->reason() == v1::REASON_BUDGET_HELD) {
      refused->set_retry_after_ms(std::max(refused->retry_after_ms(), limit.retry_after_ms));
    }
  }
  Metrics::Get().Refused(refused->reason()).Increment();
  run.results.emplace_back(pending.sink, std::move(result));
}

// Too little lease, and the ledger cannot be asked: each budget's owner chose what happens then.
void Enforcer::DecideOutage(Org& org, Run& run, Pending& pending, const ReserveEffect& effect)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  v1::OperationResult result;
  result.set_sequence(pending.sequence);
  v1::Refused* refused = result.mutable_refused();
  for (const Shortage& shortage : effect.shortages) {
    const Budget& budget = *pending.match.budgets[shortage.index];
    if (budget.open_on_outage()) continue;
    v1::Violation* violation = refused->add_violations();
    violation->set_reason(v1::REASON_LEDGER_UNAVAILABLE);
    violation->set_budget(budget.display_id());
    violation->set_needed_nanousd(pending.match.asks[shortage.index].amount_nanos);
  }
  if (refused->violations_size() == 0 && effect.limits.empty()) {
    for (const Shortage& shortage : effect.shortages) {
      pending.open.push_back(pending.match.asks[shortage.index].budget_id);
    }
    run.again.push_back(std::move(pending));
    return;
  }
  for (const LimitViolation& limit : effect.limits) {
    v1::Violation* violation = refused->add_violations();
    violation->set_reason(ReasonFor(limit.kind));
    violation->set_budget(org.rules.PathOf(limit.account_id));
    violation->set_limit(limit.limit);
  }
  for (const v1::Violation& violation : refused->violations()) {
    if (Rank(violation.reason()) > Rank(refused->reason())) refused->set_reason(violation.reason());
  }
  refused->set_retry_after_ms(absl::ToInt64Milliseconds(options_.longest_backoff));
  Metrics::Get().Refused(refused->reason()).Increment();
  run.results.emplace_back(pending.sink, std::move(result));
}

// Without a hold: the store or the ledger is away, and whoever owns the budgets on this path chose to
// let requests pass then. Nothing is set aside, so the ledger posts the whole cost as overrun. The
// token names the newest epoch, so that edges fence it like any other.
bool Enforcer::AdmitOpen(Org& org, Pending& pending, Results& results)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  Match match = org.rules.MatchRequest(*pending.ask, clock_->Wall());
  if (match.error[0] != '\0' || !match.enforced) return false;
  for (const std::shared_ptr<Budget>& budget : match.budgets) {
    if (!budget->observe() && !budget->open_on_outage()) return false;
  }
  v1::OperationResult result;
  result.set_sequence(pending.sequence);
  v1::Admitted* admitted = result.mutable_admitted();
  admitted->set_epoch(std::max(org.epoch, org.newest_epoch));
  admitted->set_tightest_remaining_nanousd(-1);
  for (const BudgetAmount& ask : match.asks) {
    common::v1::HeldBudget* held = admitted->add_budgets();
    held->set_budget_id(ask.budget_id);
    held->set_period(std::string(ask.period));
    held->set_observe(ask.observe);
  }
  Metrics::Get().admitted_open.Increment();
  const absl::Duration now = clock_->Monotonic();
  if (now - org.open_warned_at >= absl::Seconds(10)) {
    org.open_warned_at = now;
    obs::Warning("admitting_without_hold", {{"org", org.id}});
  }
  results.emplace_back(pending.sink, std::move(result));
  return true;
}

void Enforcer::FailOrAdmitOpen(Org& org, Pending& pending, Closed why, Results& results)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  if (why == Closed::kUnknownOrg) {
    results.emplace_back(pending.sink, FailedResult(pending.sequence, "UNKNOWN_ACCOUNT",
                                                    "the ledger knows no such org"));
  } else if (AdmitOpen(org, pending, results)) {
    return;
  } else if (why == Closed::kStore || why == Closed::kSuperseded) {
    results.emplace_back(pending.sink, FailedResult(pending.sequence, "STORE_UNAVAILABLE",
                                                    "the hold store cannot be reached",
                                                    pending.maybe_held_epoch));
  } else {
    results.emplace_back(pending.sink, FailedResult(pending.sequence, "LEDGER_UNAVAILABLE",
                                                    "the ledger cannot be reached"));
  }
}

// The same Reserve again while its hold is open: the answer is what the record says.
void Enforcer::AnswerReplay(const OrgPtr& org, Pending pending) {
  auto shared = std::make_shared<Pending>(std::move(pending));
  Read(org->id, {StoreQuery::What::kHold, shared->hold_id}, [this, shared](absl::StatusOr<StoreView> view) {
    v1::OperationResult result;
    result.set_sequence(shared->sequence);
    if (!view.ok()) {
      result = FailedResult(shared->sequence, "STORE_UNAVAILABLE", "the hold store cannot be reached",
                            shared->epoch);
    } else if (view->epoch != shared->epoch || view->holds.empty() ||
               view->holds[0].state != HoldState::kOpen) {
      result = FailedResult(shared->sequence, "HOLD_FINISHED", "this hold has ended already",
                            shared->epoch);
    } else {
      v1::Admitted* admitted = result.mutable_admitted();
      admitted->set_epoch(shared->epoch);
      admitted->set_tightest_remaining_nanousd(-1);
      FillHeld(view->holds[0], admitted->mutable_budgets(), false);
    }
    Results results;
    results.emplace_back(shared->sink, std::move(result));
    Deliver(std::move(results));
  });
}

}  // namespace tollhouse::enforcer
