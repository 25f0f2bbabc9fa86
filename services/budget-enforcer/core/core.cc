#include "services/budget-enforcer/core/core.h"

#include <algorithm>
#include <tuple>

#include "absl/hash/hash.h"
#include "libs/base/strings.h"

namespace tollhouse::enforcer {
namespace {

// The millisecond in which a UUIDv7 was made: its first 48 bits.
int64_t MadeAtMs(const Uuid& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.bytes[i];
  return ms;
}

}  // namespace

size_t OrgState::LeaseKeyHash::Hash(int64_t id, std::string_view period) {
  return absl::HashOf(id, Absl(period));
}

// --- look-ups ------------------------------------------------------------------------------------
uint32_t OrgState::FindHold(const Uuid& hold_id) const {
  auto it = hold_index_.find(hold_id);
  return it == hold_index_.end() ? kNone : it->second;
}

uint32_t OrgState::FindLease(int64_t budget_id, std::string_view period) const {
  auto it = lease_index_.find(LeaseKeyView{budget_id, period});
  return it == lease_index_.end() ? kNone : it->second;
}

uint32_t OrgState::FindOrMakeLease(int64_t budget_id, std::string_view period) {
  if (uint32_t found = FindLease(budget_id, period); found != kNone) return found;
  uint32_t slot;
  if (spare_leases_.empty()) {
    slot = static_cast<uint32_t>(leases_.size());
    leases_.emplace_back();
  } else {
    slot = spare_leases_.back();
    spare_leases_.pop_back();
  }
  leases_[slot] = LeaseSlot{budget_id, std::string(period)};
  lease_index_.emplace(LeaseKey{budget_id, std::string(period)}, slot);
  return slot;
}

void OrgState::DropIdleLease(uint32_t lease) {
  LeaseSlot& slot = leases_[lease];
  if (slot.free != 0 || slot.holds != 0) return;
  lease_index_.erase(lease_index_.find(LeaseKeyView{slot.budget_id, slot.period}));
  slot = LeaseSlot{};
  spare_leases_.push_back(lease);
}

uint32_t OrgState::FindOrMakeEdge(std::string_view edge_id, std::string_view boot_id) {
  uint32_t unused = kNone;
  for (uint32_t i = 0; i < edges_.size(); ++i) {
    if (edges_[i].edge_id == edge_id && edges_[i].boot_id == boot_id) return i;
    if (edges_[i].holds == 0) unused = i;
  }
  if (unused == kNone) {
    unused = static_cast<uint32_t>(edges_.size());
    edges_.emplace_back();
  }
  edges_[unused] = EdgeName{std::string(edge_id), std::string(boot_id)};
  return unused;
}

bool AnyTwice(absl::Span<const BudgetAmount> items) {
  for (size_t i = 0; i < items.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (items[j].budget_id == items[i].budget_id && items[j].period == items[i].period) return true;
    }
  }
  return false;
}

bool OrgState::Retryable(const Uuid& hold_id) const {
  return MadeAtMs(hold_id) + options_.retry_horizon_ms >= now_ms_;
}

// --- reserve -------------------------------------------------------------------------------------
void OrgState::CheckLimits(const Reserve& event, ReserveEffect& effect) const {
  if (!event.first_attempt) return;
  for (const LimitAsk& ask : event.limits) {
    auto it = meters_.find(ask.account_id);
    const Meters meters = it == meters_.end() ? Meters{} : it->second;
    auto check_rate = [&](const RateBucket& bucket, int64_t limit, int64_t cost, LimitKind kind) {
      if (limit == 0) return;
      const int64_t wait = WaitFor(bucket, limit, cost, now_ms_);
      if (wait != 0) effect.limits.push_back({ask.account_id, kind, limit, wait});
    };
    check_rate(meters.requests, ask.requests_per_minute, 1, LimitKind::kRequests);
    check_rate(meters.tokens, ask.tokens_per_minute, event.tokens, LimitKind::kTokens);
    if (ask.concurrency > 0 && meters.slots >= ask.concurrency) {
      effect.limits.push_back({ask.account_id, LimitKind::kConcurrency, ask.concurrency, 0});
    }
  }
}

ReserveEffect OrgState::Step(const Reserve& event) {
  ReserveEffect effect;
  auto fail = [&](Outcome outcome) -> ReserveEffect& {
    effect.outcome = outcome;
    return effect;
  };
  if (epoch_ == 0 || event.epoch != epoch_) return fail(Outcome::kEpochClosed);
  Observe(event.now_ms);

  // Known already? The same content gets the same answer while the hold is open (R9).
  if (const uint32_t index = FindHold(event.hold_id); index != kNone) {
    const HoldSlot& hold = holds_[index];
    if (hold.fingerprint != event.fingerprint) return fail(Outcome::kConflict);
    if (hold.state != HoldState::kOpen) return fail(Outcome::kFinished);
    for (const HeldSlot& held : hold.budgets) effect.remaining.push_back(leases_[held.lease].free);
    effect.replayed = true;
    return effect;
  }
  if (auto it = finished_.find(event.hold_id); it != finished_.end()) {
    return fail(!it->second.known || it->second.fingerprint == event.fingerprint
                    ? Outcome::kFinished
                    : Outcome::kConflict);
  }
  if (!Retryable(event.hold_id) ||
      MadeAtMs(event.hold_id) > now_ms_ + options_.retry_horizon_ms) {
    return fail(Outcome::kStale);
  }

  // Validate everything before the first write.
  if (event.budgets.size() > kMaxBudgetsPerHold || event.tokens < 0 || event.tokens > kMaxRate ||
      event.time_to_live_ms <= 0 || AnyTwice(event.budgets)) {
    return fail(Outcome::kBad);
  }
  std::array<uint32_t, kMaxBudgetsPerHold> slots;
  for (size_t i = 0; i < event.budgets.size(); ++i) {
    const BudgetAmount& ask = event.budgets[i];
    if (ask.amount_nanos < 0 || ask.amount_nanos > kMaxHoldNanos) return fail(Outcome::kBad);
    slots[i] = FindLease(ask.budget_id, ask.period);
    const int64_t free = slots[i] == kNone ? 0 : leases_[slots[i]].free;
    if (!ask.observe && free < ask.amount_nanos) {
      effect.shortages.push_back({static_cast<uint32_t>(i), free});
    }
  }
  for (const LimitAsk& ask : event.limits) {
    if (std::max(ask.requests_per_minute, ask.tokens_per_minute) > kMaxRate ||
        std::min({ask.requests_per_minute, ask.tokens_per_minute, ask.concurrency}) < 0) {
      return fail(Outcome::kBad);
    }
  }
  CheckLimits(event, effect);
  if (!effect.shortages.empty() || !effect.limits.empty()) return fail(Outcome::kRefused);

  // Commit.
  uint32_t index;
  if (spare_holds_.empty()) {
    index = static_cast<uint32_t>(holds_.size());
    holds_.emplace_back();
  } else {
    index = spare_holds_.back();
    spare_holds_.pop_back();
  }
  HoldSlot& hold = holds_[index];
  hold.id = event.hold_id;
  hold.fingerprint = event.fingerprint;
  hold.state = HoldState::kOpen;
  hold.used = true;
  hold.edge = FindOrMakeEdge(event.edge_id, event.boot_id);
  ++edges_[hold.edge].holds;
  hold.admitted_ms = now_ms_;
  hold.time_to_live_ms = event.time_to_live_ms;
  hold.deadline_ms = now_ms_ + event.time_to_live_ms;
  hold.actual = kUnknown;
  hold.tokens = event.tokens;
  hold.account_ids.assign(event.account_ids.begin(), event.account_ids.end());
  for (size_t i = 0; i < event.budgets.size(); ++i) {
    const BudgetAmount& ask = event.budgets[i];
    const uint32_t slot =
        slots[i] == kNone ? FindOrMakeLease(ask.budget_id, ask.period) : slots[i];
    LeaseSlot& lease = leases_[slot];
    const int64_t amount = ask.observe ? 0 : ask.amount_nanos;
    lease.free -= amount;
    lease.held += amount;
    ++lease.holds;
    hold.budgets.push_back({slot, ask.observe, amount, amount});
    effect.remaining.push_back(lease.free);
  }
  for (const LimitAsk& ask : event.limits) {
    if (ask.requests_per_minute == 0 && ask.tokens_per_minute == 0 && ask.concurrency == 0) continue;
    Meters& meters = meters_[ask.account_id];
    if (ask.requests_per_minute > 0 && event.first_attempt) {
      Take(meters.requests, ask.requests_per_minute, 1, now_ms_);
    }
    Charge charge{ask.account_id, ask.tokens_per_minute, ask.concurrency > 0};
    if (ask.tokens_per_minute > 0) {
      Take(meters.tokens, ask.tokens_per_minute, event.tokens, now_ms_);
    }
    if (charge.slot) ++meters.slots;
    hold.charges.push_back(charge);
  }
  hold_index_.emplace(event.hold_id, index);
  Schedule(index);
  return effect;
}

void OrgState::Schedule(uint32_t index) {
  // Entries of finished holds go when they come due; rebuilt when they outnumber the living.
  if (due_.size() > 2 * hold_index_.size() + 1024) {
    due_.clear();
    for (uint32_t i = 0; i < holds_.size(); ++i) {
      const HoldSlot& hold = holds_[i];
      if (hold.used && i != index && hold.state != HoldState::kExpired) {
        due_.push_back({hold.deadline_ms, i, hold.generation});
      }
    }
    std::make_heap(due_.begin(), due_.end());
  }
  due_.push_back({holds_[index].deadline_ms, index, holds_[index].generation});
  std::push_heap(due_.begin(), due_.end());
}

// --- the end of a hold ---------------------------------------------------------------------------
void OrgState::ReleaseLimits(HoldSlot& hold, std::optional<int64_t> actual_tokens) {
  for (const Charge& charge : hold.charges) {
    Meters& meters = meters_[charge.account_id];
    if (charge.slot) --meters.slots;
    if (charge.tokens_per_minute > 0 && actual_tokens) {
      Take(meters.tokens, charge.tokens_per_minute, *actual_tokens - hold.tokens, now_ms_);
    }
  }
  hold.charges.clear();
}

int64_t OrgState::CreditDownTo(HoldSlot& hold, int64_t covers) {
  int64_t most = 0;
  for (HeldSlot& held : hold.budgets) {
    const int64_t back = std::max<int64_t>(0, held.covers - covers);
    LeaseSlot& lease = leases_[held.lease];
    lease.free += back;
    lease.held -= back;
    held.covers -= back;
    most = std::max(most, back);
  }
  return most;
}

bool OrgState::CoversNothing(const HoldSlot& hold) {
  return std::all_of(hold.budgets.begin(), hold.budgets.end(),
                     [](const HeldSlot& held) { return held.covers == 0; });
}

void OrgState::Remember(const Uuid& id, FinishedHold end) {
  if (!Retryable(id)) return;  // no Reserve of it can be taken any more
  if (finished_.insert_or_assign(id, end).second) {
    forget_[(MadeAtMs(id) + options_.retry_horizon_ms) / 1000 + 1].push_back(id);
  }
}

void OrgState::Finish(uint32_t index, int64_t actual) {
  HoldSlot& hold = holds_[index];
  Remember(hold.id, {hold.fingerprint, actual, true});
  hold_index_.erase(hold.id);
  expired_.erase(index);
  --edges_[hold.edge].holds;
  for (const HeldSlot& held : hold.budgets) {
    LeaseSlot& lease = leases_[held.lease];
    lease.held -= held.covers;  // the ledger took this part
    --lease.holds;
    DropIdleLease(held.lease);
  }
  hold.budgets.clear();
  hold.charges.clear();
  hold.account_ids.clear();
  hold.used = false;
  ++hold.generation;
  spare_holds_.push_back(index);
}

HoldEffect OrgState::Step(const Settle& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  if (event.actual_nanos < 0 || event.actual_nanos > kMaxActualNanos || event.actual_tokens < 0 ||
      event.actual_tokens > kMaxRate) {
    return {Outcome::kBad};
  }
  Observe(event.now_ms);
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone) {
    auto it = finished_.find(event.hold_id);
    const bool other = it != finished_.end() && it->second.actual != kUnknown &&
                       it->second.actual != event.actual_nanos;
    return {other ? Outcome::kConflict : Outcome::kDone};
  }
  HoldSlot& hold = holds_[index];
  if (hold.state == HoldState::kSettled) {
    return {hold.actual == event.actual_nanos ? Outcome::kDone : Outcome::kConflict};
  }
  if (hold.state == HoldState::kExpired) return {};  // R5: the ledger owns what it covers
  HoldEffect effect{Outcome::kDone, true};
  effect.open_ms = now_ms_ - hold.admitted_ms;
  effect.credited_nanos = CreditDownTo(hold, event.actual_nanos);
  ReleaseLimits(hold, event.actual_tokens);
  if (CoversNothing(hold)) {
    Finish(index, event.actual_nanos);
    return effect;
  }
  hold.state = HoldState::kSettled;
  hold.actual = event.actual_nanos;
  hold.deadline_ms = std::max(hold.deadline_ms, now_ms_ + options_.settled_ttl_ms);
  return effect;
}

HoldEffect OrgState::Step(const Void& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  Observe(event.now_ms);
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone) {
    auto it = finished_.find(event.hold_id);
    if (it == finished_.end()) {
      Remember(event.hold_id, {{}, kVoided, false});
      return {};
    }
    return {it->second.actual > 0 ? Outcome::kConflict : Outcome::kDone};
  }
  HoldSlot& hold = holds_[index];
  if (hold.state == HoldState::kSettled) return {Outcome::kConflict};
  if (hold.state == HoldState::kExpired) return {};
  HoldEffect effect{Outcome::kDone, true};
  effect.open_ms = now_ms_ - hold.admitted_ms;
  effect.credited_nanos = CreditDownTo(hold, 0);
  ReleaseLimits(hold, 0);
  Finish(index, kVoided);
  return effect;
}

HoldEffect OrgState::Step(const Acknowledge& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  if (event.posted_nanos < 0) return {Outcome::kBad};
  Observe(event.now_ms);
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone || holds_[index].state == HoldState::kExpired) return {};
  HoldSlot& hold = holds_[index];
  HoldEffect effect{Outcome::kDone, true};
  const int64_t actual = hold.actual;
  // The credit may never have come; then the rest goes back now.
  effect.credited_nanos = CreditDownTo(hold, event.posted_nanos);
  ReleaseLimits(hold, std::nullopt);
  Finish(index, actual);
  return effect;
}

HoldEffect OrgState::Step(const Refresh& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  Observe(event.now_ms);
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone || holds_[index].state != HoldState::kOpen) return {};
  holds_[index].deadline_ms = now_ms_ + holds_[index].time_to_live_ms;
  return {Outcome::kDone, true};
}

HoldEffect OrgState::Step(const Expire& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone || holds_[index].state == HoldState::kExpired) return {};
  HoldSlot& hold = holds_[index];
  ReleaseLimits(hold, std::nullopt);
  hold.state = HoldState::kExpired;
  expired_.insert(index);
  if (CoversNothing(hold)) Finish(index, hold.actual);  // nothing that the ledger would have to own
  return {Outcome::kDone, true};
}

HoldEffect OrgState::Step(const ExpiredPosted& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  const uint32_t index = FindHold(event.hold_id);
  if (index == kNone || holds_[index].state != HoldState::kExpired) return {};
  Finish(index, kUnknown);
  return {Outcome::kDone, true};
}

TickEffect OrgState::Step(const Tick& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  Observe(event.now_ms);
  TickEffect effect;
  while (!due_.empty() && due_.front().at_ms <= now_ms_) {
    if (effect.expired >= event.max_expired) {
      effect.more = true;
      break;
    }
    const Due due = due_.front();
    std::pop_heap(due_.begin(), due_.end());
    due_.pop_back();
    HoldSlot& hold = holds_[due.hold];
    if (!hold.used || hold.generation != due.generation || hold.state == HoldState::kExpired) {
      continue;
    }
    if (hold.deadline_ms > now_ms_) {  // refreshed or settled meanwhile
      due_.push_back({hold.deadline_ms, due.hold, due.generation});
      std::push_heap(due_.begin(), due_.end());
      continue;
    }
    Step(Expire{event.epoch, hold.id});
    ++effect.expired;
  }
  while (!forget_.empty() && forget_.begin()->first * 1000 <= now_ms_) {
    for (const Uuid& id : forget_.begin()->second) finished_.erase(id);
    forget_.erase(forget_.begin());
  }
  return effect;
}

// --- lease ---------------------------------------------------------------------------------------
Outcome OrgState::Step(const InitEpoch& event) {
  if (event.epoch <= 0) return Outcome::kBad;
  if (event.epoch <= epoch_) return event.epoch == epoch_ ? Outcome::kDone : Outcome::kEpochClosed;
  const int64_t now_ms = now_ms_;
  *this = OrgState(options_);
  epoch_ = event.epoch;
  now_ms_ = now_ms;
  return Outcome::kDone;
}

GrantEffect OrgState::Step(const AddGrant& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  if (event.grant_id <= last_grant_) return {Outcome::kDone, false};
  if (event.grant_id != last_grant_ + 1) return {Outcome::kOutOfOrder};
  if (AnyTwice(event.amounts)) return {Outcome::kBad};
  for (const BudgetAmount& item : event.amounts) {
    const uint32_t slot = FindLease(item.budget_id, item.period);
    const int64_t there = slot == kNone ? 0 : leases_[slot].free + leases_[slot].held;
    if (item.amount_nanos < 0 || item.amount_nanos > options_.max_lease_nanos - there) {
      return {Outcome::kBad};
    }
  }
  for (const BudgetAmount& item : event.amounts) {
    if (item.amount_nanos > 0) {
      leases_[FindOrMakeLease(item.budget_id, item.period)].free += item.amount_nanos;
    }
  }
  last_grant_ = event.grant_id;
  return {Outcome::kDone, true};
}

TakeOutEffect OrgState::Step(const TakeOut& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return {Outcome::kEpochClosed};
  std::vector<LeaseRecord> taken;
  for (const BudgetAmount& item : event.keep) {
    const uint32_t slot = FindLease(item.budget_id, item.period);
    if (slot == kNone || leases_[slot].free <= item.amount_nanos || item.amount_nanos < 0) continue;
    taken.push_back({item.budget_id, std::string(item.period), leases_[slot].free - item.amount_nanos, 0});
    leases_[slot].free = item.amount_nanos;
    DropIdleLease(slot);
  }
  if (taken.empty()) return {};
  returns_.emplace(++last_return_, std::move(taken));
  return {Outcome::kDone, last_return_};
}

Outcome OrgState::Step(const ReturnPosted& event) {
  if (epoch_ == 0 || event.epoch != epoch_) return Outcome::kEpochClosed;
  returns_.erase(event.return_id);
  return Outcome::kDone;
}

// --- views ---------------------------------------------------------------------------------------
HoldRecord OrgState::View(const HoldSlot& hold) const {
  HoldRecord view{hold.id, hold.state, hold.admitted_ms, hold.deadline_ms};
  view.account_ids.assign(hold.account_ids.begin(), hold.account_ids.end());
  view.edge_id = edges_[hold.edge].edge_id;
  view.boot_id = edges_[hold.edge].boot_id;
  for (const HeldSlot& held : hold.budgets) {
    const LeaseSlot& lease = leases_[held.lease];
    view.budgets.push_back({lease.budget_id, lease.period, held.amount, held.covers, held.observe});
  }
  return view;
}

std::optional<HoldRecord> OrgState::Hold(const Uuid& hold_id) const {
  const uint32_t index = FindHold(hold_id);
  if (index == kNone) return std::nullopt;
  return View(holds_[index]);
}

std::vector<HoldRecord> OrgState::Holds() const {
  std::vector<HoldRecord> views;
  views.reserve(hold_index_.size());
  for (const HoldSlot& hold : holds_) {
    if (hold.used) views.push_back(View(hold));
  }
  return views;
}

std::vector<HoldRecord> OrgState::ExpiredHolds(size_t max) const {
  std::vector<HoldRecord> views;
  for (uint32_t index : expired_) {
    if (views.size() == max) break;
    views.push_back(View(holds_[index]));
  }
  return views;
}

std::vector<LeaseRecord> OrgState::Leases() const {
  std::vector<LeaseRecord> views;
  for (const auto& [key, slot] : lease_index_) {
    views.push_back({key.budget_id, key.period, leases_[slot].free, leases_[slot].held});
  }
  std::sort(views.begin(), views.end(), [](const LeaseRecord& a, const LeaseRecord& b) {
    return std::tie(a.budget_id, a.period) < std::tie(b.budget_id, b.period);
  });
  return views;
}

std::optional<LeaseRecord> OrgState::Lease(int64_t budget_id, std::string_view period) const {
  const uint32_t slot = FindLease(budget_id, period);
  if (slot == kNone) return std::nullopt;
  return LeaseRecord{budget_id, leases_[slot].period, leases_[slot].free, leases_[slot].held};
}

std::vector<ReturnRecord> OrgState::Returns() const {
  std::vector<ReturnRecord> views;
  for (const auto& [id, amounts] : returns_) views.push_back({id, amounts});
  return views;
}

}  // namespace tollhouse::enforcer
