#include "tests/model/escrow_world.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace tollhouse::model {
namespace {

using enforcer::BudgetAmount;
using enforcer::HoldState;
using enforcer::OrgState;
using enforcer::Outcome;

constexpr int64_t kNowMs = 1'795'262'400'000;
constexpr char kPeriod[] = "total";

Vec Add(Vec a, const Vec& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
Vec Sub(Vec a, const Vec& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}
bool AnyBelow(const Vec& a, const Vec& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) return true;
  }
  return false;
}
bool IsZero(const Vec& a) { return a == Vec{}; }

Vec Cost(const Config& c, int request, int amount) {
  Vec v{};
  for (int node : c.paths[request]) v[node] = amount;
  return v;
}

// --- the ledger ----------------------------------------------------------------------------------
Vec Fixed(const Ledger& l) {
  Vec v = l.spent;
  for (const auto* terms : {&l.leased, &l.suspense}) {
    for (const Vec& x : *terms) v = Add(v, x);
  }
  return v;
}

bool Shrinking(const Ledger& l) { return AnyBelow(l.limit, l.cap); }

void SetLimit(const Config& c, Ledger& l, int limit) {
  if (c.mutation == Mutation::kRecallInLedgerOnly) {
    const int back = std::min(l.leased.back()[0], std::max(0, Fixed(l)[0] - limit));
    l.leased.back()[0] -= back;
  }
  const int fixed = Fixed(l)[0];
  l.limit[0] = limit;
  l.cap[0] = c.mutation == Mutation::kCapBelowLease ? limit : std::max(limit, fixed);
  l.avail[0] = l.cap[0] - fixed;
  ++l.changes;
}

// What nobody needs any more: a cap that is above its limit shrinks first.
void Release(const Config& c, Ledger& l, const Vec& amounts) {
  for (size_t n = 0; n < amounts.size(); ++n) {
    const int surplus = std::max(0, l.cap[n] - l.limit[n]);
    const int gone = c.mutation == Mutation::kRecallStaysFree ? 0 : std::min(surplus, amounts[n]);
    l.cap[n] -= gone;
    l.avail[n] += amounts[n] - gone;
  }
}

void RegisterEpoch(const Config& c, Ledger& l, int incarnation) {
  Vec& leased = l.leased.back();
  if (c.mutation == Mutation::kCloseReleasesLease) {
    l.avail = Add(l.avail, leased);
  } else {
    l.suspense.back() = Add(l.suspense.back(), leased);
  }
  leased = {};
  ++l.epoch;
  l.owner.push_back(incarnation);
  l.leased.emplace_back();
  l.suspense.emplace_back();
  l.last_grant.push_back(0);
  l.items.assign(c.requests(), -1);
  l.returned = false;
}

bool GrantLease(const Config& c, Ledger& l, int epoch, const Vec& need) {
  if (epoch != l.epoch && c.mutation != Mutation::kUnfencedLease) return false;
  if (AnyBelow(l.avail, need)) return false;
  l.leased[epoch - 1] = Add(l.leased[epoch - 1], need);
  l.avail = Sub(l.avail, need);
  l.listed.push_back({epoch, ++l.last_grant[epoch - 1], need});
  return true;
}

bool PostTerminal(const Config& c, Ledger& l, int r, Ledger::Entry entry) {
  if (l.journal[r].there && c.mutation != Mutation::kPostTwice) return false;
  entry.there = true;
  l.journal[r] = entry;
  if (c.mutation == Mutation::kPostIgnoresEpoch && entry.amount > 0) entry.epoch = l.epoch;
  const Vec used_up = Cost(c, r, entry.amount);
  l.spent = Add(l.spent, used_up);
  l.reports[r] = {};
  const int item = l.items[r];
  if (entry.amount > 0 && entry.epoch < l.epoch) {
    l.suspense[entry.epoch - 1] = Sub(l.suspense[entry.epoch - 1], used_up);
  } else if (entry.amount > 0 && item <= 0) {
    l.leased[entry.epoch - 1] = Sub(l.leased[entry.epoch - 1], used_up);
  }
  if (item > 0) {
    const int used = entry.epoch == l.epoch ? entry.amount : 0;
    l.suspense.back() = Sub(l.suspense.back(), Cost(c, r, item));
    Release(c, l, Cost(c, r, item - used));
    l.items[r] = 0;
  }
  return true;
}

bool PostExpired(const Config& c, Ledger& l, int r, int epoch, int covers) {
  if (epoch != l.epoch && c.mutation != Mutation::kExpireUnfenced) return false;
  if (l.items[r] >= 0 && c.mutation != Mutation::kExpireTwice) return false;
  Vec& leased = l.leased[epoch - 1];
  if (!l.journal[r].there) {
    leased = Sub(leased, Cost(c, r, covers));
    l.suspense[epoch - 1] = Add(l.suspense[epoch - 1], Cost(c, r, covers));
    l.items[r] = covers;
    return true;
  }
  const int took = l.journal[r].epoch == epoch ? l.journal[r].amount : 0;
  leased = Sub(leased, Cost(c, r, covers - took));
  Release(c, l, Cost(c, r, covers - took));
  l.items[r] = 0;
  return true;
}

bool PostReturn(const Config& c, Ledger& l, int epoch, const Vec& amounts) {
  if (epoch != l.epoch && c.mutation != Mutation::kUnfencedReturn) return false;
  if (l.returned && c.mutation != Mutation::kReturnTwice) return false;
  l.leased.back() = Sub(l.leased.back(), amounts);
  Release(c, l, amounts);
  l.returned = true;
  return true;
}

bool Reclaim(const Config& c, Ledger& l, int epoch) {
  Vec keep{};
  for (int r = 0; r < c.requests(); ++r) {
    if (l.journal[r].there) continue;
    if (l.reports[r].covered < epoch && c.mutation != Mutation::kReclaimWithoutReports) return false;
    if (l.reports[r].unsettled == epoch && c.mutation != Mutation::kReclaimUnsettled) {
      keep = Add(keep, Cost(c, r, kHold));
    }
  }
  Vec rest{};
  for (size_t i = 0; i < rest.size(); ++i) rest[i] = std::max(0, l.suspense[epoch - 1][i] - keep[i]);
  if (IsZero(rest)) return false;
  l.suspense[epoch - 1] = Sub(l.suspense[epoch - 1], rest);
  Release(c, l, rest);
  return true;
}

// --- the store: the real core, called as its callers would, or as a mutation would ---------------
enum class Status : uint8_t { kNone, kOpen, kSettled, kExpired, kDone };
struct HoldView {
  Status status = Status::kNone;
  int covers = 0;
};

Uuid HoldId(const Store& s, int r) {
  Uuid id;
  for (int i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(kNowMs >> (40 - 8 * i));
  id.bytes[15] = static_cast<uint8_t>(r + 16 * s.remade[r]);
  return id;
}

int KeyEpoch(const Store& s) { return static_cast<int>(s.core->epoch()); }

Vec Free(const Config& c, const Store& s) {
  Vec v{};
  for (int n = 0; n < c.nodes(); ++n) {
    if (auto lease = s.core->Lease(n + 1, kPeriod)) v[n] = static_cast<int>(lease->free_nanos);
  }
  return v;
}

HoldView HoldOf(const Store& s, int r) {
  const Uuid id = HoldId(s, r);
  if (auto hold = s.core->Hold(id)) {
    HoldView view;
    for (const auto& budget : hold->budgets) {
      view.covers = std::max(view.covers, static_cast<int>(budget.covers_nanos));
    }
    view.status = hold->state == HoldState::kOpen      ? Status::kOpen
                  : hold->state == HoldState::kSettled ? Status::kSettled
                                                       : Status::kExpired;
    return view;
  }
  return {s.core->Finished(id) ? Status::kDone : Status::kNone, 0};
}

int LastGrant(const Store& s) { return static_cast<int>(s.core->last_grant_id()) - s.ghosts; }

std::optional<Vec> Outbox(const Store& s) {
  const auto returns = s.core->Returns();
  if (returns.empty()) return std::nullopt;
  Vec v{};
  for (const auto& lease : returns[0].amounts) {
    v[lease.budget_id - 1] = static_cast<int>(lease.free_nanos);
  }
  return v;
}

std::vector<BudgetAmount> Amounts(const Config& c, const Vec& v, bool zeros = false) {
  std::vector<BudgetAmount> out;
  for (int n = 0; n < c.nodes(); ++n) {
    if (v[n] > 0 || zeros) out.push_back({n + 1, kPeriod, v[n]});
  }
  return out;
}

bool KeyOk(const Config& c, const Store& s, int epoch) {
  if (c.mutation == Mutation::kSkipEpochCheck) return KeyEpoch(s) > 0;
  return KeyEpoch(s) == epoch;
}

// Runs `step` on a copy of the core; keeps it if `step` says that something changed.
template <typename Step>
bool Run(Store& s, Step step) {
  auto next = std::make_shared<OrgState>(*s.core);
  if (!step(*next)) return false;
  s.core = std::move(next);
  return true;
}

// What the caller passes as its epoch.
int64_t CalledFor(const Config& c, const Store& s, int epoch) {
  if (c.mutation == Mutation::kSkipEpochCheck) return KeyEpoch(s);
  return epoch;
}

void Ghost(const Config& c, Store& s, OrgState& core, const Vec& amounts) {
  const auto items = Amounts(c, amounts);
  core.Step(enforcer::AddGrant{core.epoch(), core.last_grant_id() + 1, items});
  ++s.ghosts;
}

bool Init(const Config& c, Store& s, int epoch) {
  if (c.mutation == Mutation::kInitDownwards && KeyEpoch(s) > epoch) {
    auto fresh = std::make_shared<OrgState>();
    fresh->Step(enforcer::InitEpoch{epoch});
    s.core = std::move(fresh);
    s.ghosts = 0;
    return true;
  }
  if (KeyEpoch(s) >= epoch) return false;
  const Vec free = Free(c, s);
  return Run(s, [&](OrgState& core) {
    if (core.Step(enforcer::InitEpoch{epoch}) != Outcome::kDone) return false;
    s.ghosts = 0;
    s.remade = {};
    if (c.mutation == Mutation::kInitKeepsState && !IsZero(free)) Ghost(c, s, core, free);
    return true;
  });
}

struct ReserveAnswer {
  bool granted = false;
  bool changed = false;
};

ReserveAnswer Reserve(const Config& c, Store& s, int epoch, int r) {
  ReserveAnswer answer;
  if (c.mutation == Mutation::kForgetFinishedHolds && KeyOk(c, s, epoch) && s.remade[r] == 0 &&
      HoldOf(s, r).status == Status::kDone) {
    ++s.remade[r];
    Store tried = s;
    answer = Reserve(c, tried, epoch, r);
    if (answer.granted) {
      s = tried;
    } else {
      --s.remade[r];
    }
    return answer;
  }
  answer.changed = Run(s, [&](OrgState& core) {
    std::vector<BudgetAmount> asks = Amounts(c, Cost(c, r, kHold));
    if (c.mutation == Mutation::kParentUnchecked) asks = {asks.back()};
    enforcer::Reserve event;
    event.epoch = CalledFor(c, s, epoch);
    event.now_ms = kNowMs;
    event.hold_id = HoldId(s, r);
    event.budgets = asks;
    event.time_to_live_ms = 1'000'000;
    auto effect = core.Step(event);
    if (effect.outcome == Outcome::kRefused && c.mutation == Mutation::kCheckThenDecrement) {
      Vec missing{};
      for (const auto& shortage : effect.shortages) {
        const BudgetAmount& ask = asks[shortage.index];
        missing[ask.budget_id - 1] = static_cast<int>(ask.amount_nanos - shortage.free_nanos);
      }
      Ghost(c, s, core, missing);
      effect = core.Step(event);
    }
    answer.granted = effect.outcome == Outcome::kDone;
    return answer.granted && !effect.replayed;
  });
  return answer;
}

bool AddGrant(const Config& c, Store& s, int epoch, const Ledger::Grant& grant) {
  return Run(s, [&](OrgState& core) {
    const auto items = Amounts(c, grant.amounts);
    enforcer::AddGrant event{CalledFor(c, s, epoch), grant.id + s.ghosts, items};
    if (c.mutation == Mutation::kGrantOutOfOrder && core.epoch() == epoch) {
      while (core.last_grant_id() + 1 < event.grant_id) {
        core.Step(enforcer::AddGrant{epoch, core.last_grant_id() + 1, {}});
      }
    }
    if (core.Step(event).applied) return true;
    if (c.mutation != Mutation::kGrantAddedTwice || core.epoch() != epoch || grant.id > LastGrant(s)) {
      return false;
    }
    Ghost(c, s, core, grant.amounts);
    return true;
  });
}

// The edge's half of Settle (amount > 0) or Void.
bool Credit(const Config& c, Store& s, int epoch, int r, int amount) {
  const HoldView before = HoldOf(s, r);
  return Run(s, [&](OrgState& core) {
    const int64_t called = CalledFor(c, s, epoch);
    const Uuid id = HoldId(s, r);
    if (core.epoch() == called && c.mutation == Mutation::kCreditTwice &&
        before.status == Status::kSettled && amount < kHold) {
      Ghost(c, s, core, Cost(c, r, kHold - amount));
      return true;
    }
    if (core.epoch() == called && c.mutation == Mutation::kCreditAnyIncarnation &&
        before.status == Status::kNone && amount == 0) {
      Ghost(c, s, core, Cost(c, r, kHold));
    }
    enforcer::HoldEffect effect = amount > 0
                                      ? core.Step(enforcer::Settle{called, kNowMs, id, amount})
                                      : core.Step(enforcer::Void{called, kNowMs, id});
    if (c.mutation == Mutation::kForgetSettled && effect.applied && amount > 0) {
      core.Step(enforcer::Acknowledge{called, kNowMs, id, amount});
    }
    // A Void of a hold that never came is remembered: that is a change too.
    return effect.applied || (effect.outcome == Outcome::kDone && amount == 0 &&
                              before.status == Status::kNone);
  });
}

bool Acknowledge(const Config& c, Store& s, int epoch, int r, int posted) {
  return Run(s, [&](OrgState& core) {
    return core.Step(enforcer::Acknowledge{CalledFor(c, s, epoch), kNowMs, HoldId(s, r), posted}).applied;
  });
}

bool Expire(const Config& c, Store& s, int epoch, int r) {
  return Run(s, [&](OrgState& core) {
    if (c.mutation == Mutation::kReleaseOnExpiry) {
      return core.Step(enforcer::Acknowledge{epoch, kNowMs, HoldId(s, r), 0}).applied;
    }
    return core.Step(enforcer::Expire{CalledFor(c, s, epoch), HoldId(s, r)}).applied;
  });
}

bool DropExpired(const Config& c, Store& s, int r) {
  return Run(s, [&](OrgState& core) {
    return core.Step(enforcer::ExpiredPosted{core.epoch(), HoldId(s, r)}).applied;
  });
}

bool TakeOut(const Config& c, Store& s, int epoch) {
  if (Outbox(s)) return false;
  const Vec free = Free(c, s);
  return Run(s, [&](OrgState& core) {
    const auto keep = Amounts(c, Vec{}, true);
    if (core.Step(enforcer::TakeOut{CalledFor(c, s, epoch), keep}).return_id == 0) return false;
    if (c.mutation == Mutation::kReturnStaysFree) Ghost(c, s, core, free);
    return true;
  });
}

bool DropOutbox(Store& s) {
  return Run(s, [&](OrgState& core) {
    return core.Step(enforcer::ReturnPosted{core.epoch(), core.Returns()[0].return_id}) == Outcome::kDone;
  });
}

// --- guards of the actors ------------------------------------------------------------------------
// R12: the store's key says the open epoch, and the ledger registered exactly this incarnation.
bool Validates(const Config& c, const World& w, int i) {
  const int key = KeyEpoch(w.stores[i]);
  const bool key_fits =
      key == w.ledger.epoch || (c.mutation == Mutation::kFlushUndetected && key == 0);
  const int owner = w.ledger.owner.back();
  const bool identity_fits =
      c.mutation == Mutation::kTrustPromotedSnapshot ||
      (c.mutation == Mutation::kIdentityRunIdOnly && c.process[owner] == c.process[i]) || owner == i;
  return key_fits && identity_fits;
}

// R7: a report counts only if nobody can still grant under a closed epoch, and the edge has no token
// and no Reserve of one.
bool ReportIsFinal(const Config& c, const World& w, int r) {
  const int closed = (1 << w.ledger.epoch) - 1;
  const bool no_enforcer =
      c.mutation == Mutation::kReclaimWithLiveZombie ||
      std::all_of(w.enforcers.begin(), w.enforcers.end(), [&](const EnforcerActor& e) {
        return e.phase == EnforcerActor::kIdle || e.epoch == w.ledger.epoch;
      });
  const Request& q = w.requests[r];
  const int live = c.mutation == Mutation::kDeadlineFromReply ? q.tokens : q.tokens | q.asked;
  return no_enforcer && (c.mutation == Mutation::kReclaimWithLiveTokens || (live & closed) == 0);
}

// --- the environment -----------------------------------------------------------------------------
Store EmptyStore() {
  Store s;
  s.core = std::make_shared<OrgState>();
  return s;
}

// One representative of the worlds that no step can tell apart.
void Normalize(const Config& c, World& w) {
  Ledger& l = w.ledger;
  std::set<int> served;
  for (const EnforcerActor& e : w.enforcers) served.insert(e.epoch);
  std::erase_if(l.listed, [&](const Ledger::Grant& g) {
    return g.epoch != l.epoch && !served.contains(g.epoch);
  });
  std::erase_if(w.inflight, [&](const Inflight& x) { return !w.stores[x.store].up; });
  for (size_t i = 0; i < w.stores.size(); ++i) {
    Store& s = w.stores[i];
    const int key = KeyEpoch(s);
    if (!s.up) {
      if (key < l.epoch && key > 0) {
        s = EmptyStore();
        s.up = false;
      }
      continue;
    }
    if (!c.reduce || key == 0) continue;
    const bool unread = key < l.epoch && !served.contains(key) &&
                        std::none_of(w.inflight.begin(), w.inflight.end(), [&](const Inflight& x) {
                          return x.store == static_cast<int>(i);
                        });
    if (unread || l.owner[key - 1] != static_cast<int>(i)) s = EmptyStore();
  }
  if (c.reduce) w.snapshot.reset();
}

class Explorer {
 public:
  Explorer(const Config& config, const World& world, const Emit& emit)
      : c_(config), w_(world), emit_(emit), newest_(static_cast<int>(world.stores.size()) - 1) {}

  void All() {
    for (size_t s = 0; s < w_.enforcers.size(); ++s) {
      const EnforcerActor& e = w_.enforcers[s];
      if (s > 0 && Same(e, w_.enforcers[s - 1])) continue;
      if (e.phase == EnforcerActor::kIdle) {
        Connect(s);
        continue;
      }
      World next = w_;
      next.enforcers[s] = {};
      Go(Kind::kStep, absl::StrCat("E", s, " stops"), std::move(next));
      // A process that leads again is found on the same connection; its scripts see another identity.
      const bool back = c_.mutation == Mutation::kIdentityAtConnectOnly &&
                        !w_.stores[e.connection].up && c_.process[newest_] == c_.process[e.connection];
      const int connection = back ? newest_ : e.connection;
      if (w_.stores[connection].up) EnforcerSteps(s, connection, e.epoch);
    }
    LateReserves();
    Outboxes();
    for (int e = 1; e < w_.ledger.epoch; ++e) {
      World next = w_;
      if (Reclaim(c_, next.ledger, e)) {
        Go(Kind::kStep, absl::StrCat("ledger reclaims epoch ", e), std::move(next));
      }
    }
    for (int r = 0; r < c_.requests(); ++r) EdgeSteps(r);
    LimitChanges();
    StoreFaults();
  }

 private:
  static bool Same(const EnforcerActor& a, const EnforcerActor& b) {
    return a.connection == b.connection && a.epoch == b.epoch && a.phase == b.phase;
  }

  void Go(Kind kind, std::string name, World next) {
    Normalize(c_, next);
    emit_(kind, std::move(name), std::move(next));
  }

  void Connect(size_t s) {
    for (int i = 0; i <= newest_; ++i) {
      if (!w_.stores[i].up) continue;
      World next = w_;
      if (Validates(c_, w_, i)) {
        next.enforcers[s] = {i, w_.ledger.epoch, EnforcerActor::kServing};
        Go(Kind::kStep, absl::StrCat("E", s, " serves epoch ", w_.ledger.epoch, " from store ", i), next);
      } else if (w_.ledger.epoch < c_.epochs) {
        RegisterEpoch(c_, next.ledger, i);
        next.enforcers[s] = {i, next.ledger.epoch, EnforcerActor::kInit};
        Go(i == newest_ ? Kind::kStep : Kind::kFault,
           absl::StrCat("E", s, " finds store ", i, ", registers epoch ", next.ledger.epoch), next);
      }
    }
  }

  void EnforcerSteps(size_t s, int i, int e) {
    const Ledger& l = w_.ledger;
    if (w_.enforcers[s].phase == EnforcerActor::kInit) {
      World next = w_;
      const bool done = Init(c_, next.stores[i], e);
      next.enforcers[s] = done ? EnforcerActor{i, e, EnforcerActor::kServing} : EnforcerActor{};
      Go(Kind::kStep, absl::StrCat("E", s, " inits store ", i, " for epoch ", e), std::move(next));
      return;
    }
    // An enforcer that takes an empty store for its own makes the key without wiping anything else.
    if (c_.mutation == Mutation::kFlushUndetected && KeyEpoch(w_.stores[i]) == 0) {
      World next = w_;
      if (Init(c_, next.stores[i], e)) {
        Go(Kind::kStep, absl::StrCat("E", s, " goes on in the empty store ", i), std::move(next));
      }
      return;
    }
    const Store& store = w_.stores[i];
    for (size_t g = 0; g < l.listed.size(); ++g) {
      const Ledger::Grant& grant = l.listed[g];
      if (grant.epoch != e) continue;
      World next = w_;
      if (AddGrant(c_, next.stores[i], e, grant)) {
        Go(Kind::kStep, absl::StrCat("E", s, " adds grant ", grant.id, " in store ", i), std::move(next));
      }
      if (KeyOk(c_, store, e) && KeyEpoch(store) == e && grant.id <= LastGrant(store)) {
        World acked = w_;
        acked.ledger.listed.erase(acked.ledger.listed.begin() + static_cast<int64_t>(g));
        Go(Kind::kStep, absl::StrCat("E", s, " acknowledges grant ", grant.id), std::move(acked));
      }
    }
    if (c_.returns || Shrinking(l)) {
      World next = w_;
      if (TakeOut(c_, next.stores[i], e)) {
        Go(Kind::kStep, absl::StrCat("E", s, " takes lease out of store ", i), std::move(next));
      }
    }
    std::set<Vec> needs;
    const Vec free = Free(c_, store);
    for (int r = 0; r < c_.requests(); ++r) {
      const Request& q = w_.requests[r];
      const HoldView hold = HoldOf(store, r);
      if (q.phase == Request::kWait && q.edge == Request::kUp) ReserveSteps(s, i, e, r, hold, free, &needs);
      const int known = c_.mutation == Mutation::kCreditBeforeJournal ? q.billed : q.amount;
      if (q.edge == Request::kUp &&
          (q.phase == Request::kGaveUp || (known > 0 && q.epoch == e))) {
        World next = w_;
        const int amount = q.phase == Request::kGaveUp ? 0 : known;
        if (Credit(c_, next.stores[i], e, r, amount)) {
          Go(Kind::kStep, absl::StrCat("E", s, " credits r", r, ", used ", amount), std::move(next));
        }
      }
      const Ledger::Entry& entry = l.journal[r];
      if (entry.there) {
        World next = w_;
        if (Acknowledge(c_, next.stores[i], e, r, entry.epoch == e ? entry.amount : 0)) {
          Go(Kind::kStep, absl::StrCat("store ", i, " learns that r", r, " is posted"), std::move(next));
        }
      }
      World next = w_;
      if (c_.mutation == Mutation::kExpireInLedgerFirst) {
        if (hold.status == Status::kOpen && KeyOk(c_, store, e) &&
            PostExpired(c_, next.ledger, r, e, kHold)) {
          Go(Kind::kStep, absl::StrCat("ledger expires r", r, ", store ", i, " does not know"), next);
        }
      } else if (Expire(c_, next.stores[i], e, r)) {
        Go(Kind::kStep, absl::StrCat("E", s, " expires r", r, " in store ", i), std::move(next));
      }
    }
    int pending = 0;
    for (const Ledger::Grant& grant : l.listed) pending += grant.epoch == e;
    for (const Vec& need : needs) {
      if (IsZero(need) || pending >= c_.grants) continue;
      World next = w_;
      if (GrantLease(c_, next.ledger, e, need)) {
        Go(Kind::kStep, absl::StrCat("E", s, " leases in epoch ", e), std::move(next));
      }
    }
    if (c_.mutation == Mutation::kUnlistedGrant && !l.listed.empty()) {
      World next = w_;
      next.ledger.listed.clear();
      Go(Kind::kStep, absl::StrCat("E", s, " dies with its grant"), std::move(next));
    }
  }

  void ReserveSteps(size_t s, int i, int e, int r, const HoldView& hold, const Vec& free,
                    std::set<Vec>* needs) {
    if (hold.status == Status::kNone) {
      Vec need{};
      const Vec cost = Cost(c_, r, kHold);
      for (size_t n = 0; n < need.size(); ++n) need[n] = std::max(0, cost[n] - free[n]);
      needs->insert(need);
    }
    // The edge promised not to use this epoch any more.
    if (c_.promise && e <= w_.ledger.reports[r].covered) return;
    World next = w_;
    if (c_.late) {
      const bool sent = std::any_of(w_.inflight.begin(), w_.inflight.end(), [&](const Inflight& x) {
        return x.request == r && x.store == i && x.epoch == e;
      });
      if (sent || static_cast<int>(w_.inflight.size()) >= c_.inflight) return;
      // A check on its own promises nothing once the script runs later.
      if (c_.mutation == Mutation::kCheckThenDecrement && AnyBelow(free, Cost(c_, r, kHold))) return;
      next.inflight.push_back({r, i, e});
      next.requests[r].asked |= 1 << e;
      Go(Kind::kStep, absl::StrCat("E", s, " sends Reserve r", r, " to store ", i, " epoch ", e), next);
      return;
    }
    if (Reserve(c_, next.stores[i], e, r).granted) {
      next.requests[r].tokens |= 1 << e;
      Go(Kind::kStep, absl::StrCat("E", s, " reserves r", r, " in store ", i, " epoch ", e), next);
    }
  }

  // Reserves that outlive their sender. An answer after the start deadline is thrown away.
  void LateReserves() {
    for (size_t x = 0; x < w_.inflight.size(); ++x) {
      const auto [r, i, e] = w_.inflight[x];
      World next = w_;
      next.inflight.erase(next.inflight.begin() + static_cast<int64_t>(x));
      const bool granted = Reserve(c_, next.stores[i], e, r).granted;
      Request& q = next.requests[r];
      const bool in_time = c_.mutation == Mutation::kDeadlineFromReply
                               ? q.phase == Request::kWait && q.edge == Request::kUp
                               : (q.asked >> e & 1) != 0;
      q.asked &= ~(1 << e);
      if (granted && in_time) q.tokens |= 1 << e;
      Go(Kind::kStep,
         absl::StrCat("store ", i, " runs Reserve r", r, " epoch ", e, granted ? ": granted" : ": refused"),
         std::move(next));
    }
  }

  // What a store has for the ledger outlives the enforcer that put it there.
  void Outboxes() {
    for (int i = 0; i <= newest_; ++i) {
      const Store& store = w_.stores[i];
      const int key = KeyEpoch(store);
      if (key == 0) continue;
      // Whoever trusts a store sends what is in it.
      const bool any = c_.mutation == Mutation::kIdentityRunIdOnly ||
                       c_.mutation == Mutation::kIdentityAtConnectOnly;
      if (w_.ledger.owner[key - 1] != i && !any) continue;
      for (int r = 0; r < c_.requests(); ++r) {
        const HoldView hold = HoldOf(store, r);
        if (hold.status != Status::kExpired) continue;
        World next = w_;
        if (PostExpired(c_, next.ledger, r, key, hold.covers)) {
          Go(Kind::kStep, absl::StrCat("ledger learns that r", r, " expired, epoch ", key), std::move(next));
        }
        if (store.up && key == w_.ledger.epoch && w_.ledger.items[r] >= 0) {
          World dropped = w_;
          if (DropExpired(c_, dropped.stores[i], r)) {
            Go(Kind::kStep, absl::StrCat("store ", i, " drops expired r", r), std::move(dropped));
          }
        }
      }
      const std::optional<Vec> outbox = Outbox(store);
      if (!outbox) continue;
      World next = w_;
      if (PostReturn(c_, next.ledger, key, *outbox)) {
        Go(Kind::kStep, absl::StrCat("ledger takes lease back, epoch ", key), std::move(next));
      }
      if (key == w_.ledger.epoch && w_.ledger.returned && store.up) {
        World dropped = w_;
        if (DropOutbox(dropped.stores[i])) {
          dropped.ledger.returned = false;
          Go(Kind::kStep, absl::StrCat("store ", i, " drops its outbox"), std::move(dropped));
        }
      }
    }
  }

  void EdgeSteps(int r) {
    const Ledger& l = w_.ledger;
    const Request& q = w_.requests[r];
    const bool up = q.edge == Request::kUp;
    if (l.journal[r].there) {
      if (c_.mutation == Mutation::kPostTwice && q.amount > 0) {
        World next = w_;
        PostTerminal(c_, next.ledger, r, {true, q.epoch, q.amount});
        Go(Kind::kStep, absl::StrCat("ledger posts r", r, " again"), std::move(next));
      }
      return;
    }
    if (up && q.phase == Request::kWait) {
      for (int e = 1; e <= l.epoch; ++e) {
        if (q.tokens >> e & 1) {  // R13: the intent is in the journal before the first byte leaves
          for (int bill : {1, 2}) {
            World next = w_;
            Request& n = next.requests[r];
            n.phase = Request::kForwarded;
            n.asked = n.tokens = 0;
            n.epoch = e;
            n.billed = bill;
            Go(Kind::kStep, absl::StrCat("edge forwards r", r, " epoch ", e, ", billed ", bill), next);
          }
          if (c_.crash) {
            World next = w_;
            Request& n = next.requests[r];
            n.phase = Request::kForwarded;
            n.asked = n.tokens = 0;
            n.epoch = e;
            n.edge = Request::kDown;
            Go(Kind::kFault, absl::StrCat("edge of r", r, " dies after its intent, epoch ", e), next);
          }
        }
        if ((q.tokens | q.asked) >> e & 1) {
          World next = w_;
          next.requests[r].tokens &= ~(1 << e);
          next.requests[r].asked &= ~(1 << e);
          Go(Kind::kStep, absl::StrCat("token of r", r, " epoch ", e, " late"), std::move(next));
        }
      }
      World next = w_;
      next.requests[r].phase = Request::kGaveUp;
      next.requests[r].asked = next.requests[r].tokens = 0;
      Go(Kind::kStep, absl::StrCat("edge gives r", r, " up"), std::move(next));
    }
    if (up && q.phase == Request::kForwarded && q.amount == 0) {
      World next = w_;
      next.requests[r].amount = q.billed;
      Go(Kind::kStep, absl::StrCat("edge journals the result of r", r), next);
      if (c_.mutation == Mutation::kVoidWhenUnsure) {
        next = w_;
        next.requests[r].phase = Request::kGaveUp;
        next.requests[r].epoch = 0;
        Go(Kind::kStep, absl::StrCat("edge times out and voids r", r), std::move(next));
      }
    }
    if (up && (q.phase == Request::kGaveUp || q.amount > 0)) {
      World next = w_;
      const Ledger::Entry entry =
          q.amount > 0 ? Ledger::Entry{true, q.epoch, q.amount} : Ledger::Entry{true, 0, 0};
      if (PostTerminal(c_, next.ledger, r, entry)) {
        Go(Kind::kStep, absl::StrCat("ledger posts r", r, " (", entry.epoch, ", ", entry.amount, ")"), next);
      }
    }
    if (up && l.reports[r].covered < l.epoch - 1 && (c_.promise || ReportIsFinal(c_, w_, r))) {
      World next = w_;
      if (c_.promise && c_.mutation != Mutation::kPromiseBroken) {
        next.requests[r].tokens &= 1 << l.epoch;  // what is held or asked for under closed epochs is dropped
        next.requests[r].asked &= 1 << l.epoch;
      }
      const int unsettled = q.phase == Request::kForwarded && q.epoch < l.epoch ? q.epoch : 0;
      next.ledger.reports[r] = {l.epoch - 1, unsettled};
      Go(Kind::kStep, absl::StrCat("edge of r", r, " reports, unsettled ", unsettled), std::move(next));
    }
    if (up && q.phase != Request::kGaveUp && c_.crash) {
      World next = w_;
      next.requests[r].edge = Request::kDown;
      next.requests[r].asked = next.requests[r].tokens = 0;
      Go(Kind::kFault, absl::StrCat("edge of r", r, " crashes"), std::move(next));
    }
    if (q.edge == Request::kDown) {  // R14: intent without result: the whole hold is posted
      World next = w_;
      Request& n = next.requests[r];
      n.edge = Request::kUp;
      if (q.phase == Request::kForwarded) {
        if (c_.mutation == Mutation::kIntentAfterForward && q.amount == 0) {
          n.phase = Request::kGaveUp;
          n.epoch = 0;
        } else if (q.amount == 0) {
          n.amount = c_.mutation == Mutation::kPostPartialUsage ? 1 : kHold;
        }
      } else {
        n.phase = Request::kGaveUp;
      }
      Go(Kind::kStep, absl::StrCat("edge of r", r, " restarts"), std::move(next));
    }
    if (q.edge == Request::kLost) {  // an operator reads the provider's usage records
      World next = w_;
      Request& n = next.requests[r];
      n.edge = Request::kUp;
      if (q.billed > 0) {
        n.phase = Request::kForwarded;
        n.amount = q.billed;
      } else {
        n.phase = Request::kGaveUp;
        n.epoch = n.amount = 0;
      }
      const Ledger::Entry entry =
          q.billed > 0 ? Ledger::Entry{true, q.epoch, q.billed} : Ledger::Entry{true, 0, 0};
      PostTerminal(c_, next.ledger, r, entry);
      Go(Kind::kOperator, absl::StrCat("operator resolves r", r), std::move(next));
    } else if (c_.lost) {
      World next = w_;
      Request& n = next.requests[r];
      n.edge = Request::kLost;
      n.asked = n.tokens = 0;
      if (n.phase == Request::kGaveUp) n.phase = Request::kWait;
      Go(Kind::kFault, absl::StrCat("edge of r", r, " is lost"), std::move(next));
    }
  }

  // The owner lowers the first budget's limit, and sets it back.
  void LimitChanges() {
    if (c_.lowered == 0 || w_.ledger.changes >= 2) return;
    const bool lower = w_.ledger.limit[0] == c_.caps[0];
    World next = w_;
    SetLimit(c_, next.ledger, lower ? c_.lowered : c_.caps[0]);
    Go(Kind::kFault, lower ? "the limit is lowered" : "the limit is set back", std::move(next));
  }

  void StoreFaults() {
    const Ledger& l = w_.ledger;
    const Store& top = w_.stores[newest_];
    auto may_break = [&](int i) { return l.epoch < c_.epochs || l.owner.back() != i; };
    for (int i = 0; i <= newest_; ++i) {
      const Store& s = w_.stores[i];
      if (c_.flush && s.up && KeyEpoch(s) > 0 && may_break(i)) {
        World next = w_;
        next.stores[i] = EmptyStore();
        Go(Kind::kFault, absl::StrCat("FLUSHALL store ", i), std::move(next));
      }
      if (i < newest_ && s.up && may_break(i)) {
        World next = w_;
        next.stores[i].up = false;
        Go(Kind::kFault, absl::StrCat("zombie store ", i, " dies"), std::move(next));
      }
    }
    if (static_cast<int>(w_.stores.size()) == c_.incarnations || l.epoch == c_.epochs || !top.up) return;
    if (!w_.snapshot && KeyEpoch(top) > 0) {
      World next = w_;
      next.snapshot = top;
      Go(Kind::kFault, absl::StrCat("replica of store ", newest_, " stops following"), std::move(next));
    }
    const Store promoted = w_.snapshot ? *w_.snapshot : top;
    if (c_.failover && !(c_.failback && newest_ == 1)) {
      World next = w_;
      next.stores.push_back(promoted);
      next.snapshot.reset();
      Go(Kind::kFault, absl::StrCat("failover to store ", newest_ + 1), std::move(next));
    }
    if (c_.failback && newest_ == 1) {
      World next = w_;
      next.stores[0].up = false;
      next.stores.push_back(promoted);
      next.snapshot.reset();
      Go(Kind::kFault, "failback to the process of store 0 as store 2", std::move(next));
    }
    if (c_.restart) {
      World next = w_;
      next.stores[newest_].up = false;
      next.stores.push_back(promoted);
      next.snapshot.reset();
      Go(Kind::kFault, absl::StrCat("restart of store ", newest_, " as store ", newest_ + 1), std::move(next));
    }
  }

  const Config& c_;
  const World& w_;
  const Emit& emit_;
  const int newest_;
};

// --- keys ----------------------------------------------------------------------------------------
void Put(std::string& out, int value) {
  out.push_back(static_cast<char>(value + 64));
}
void Put(std::string& out, const Vec& v) {
  for (int x : v) Put(out, x);
}

// What of one store concerns one request.
void PutHold(std::string& out, const Store& s, int r) {
  const HoldView hold = HoldOf(s, r);
  Put(out, static_cast<int>(hold.status));
  Put(out, hold.covers);
  Put(out, s.remade[r]);
}

}  // namespace

World Initial(const Config& c) {
  World w;
  for (int n = 0; n < c.nodes(); ++n) {
    w.ledger.avail[n] = w.ledger.limit[n] = w.ledger.cap[n] = c.caps[n];
  }
  w.ledger.items.assign(c.requests(), -1);
  w.ledger.journal.resize(c.requests());
  w.ledger.reports.resize(c.requests());
  Store first = EmptyStore();
  Run(first, [](OrgState& core) { return core.Step(enforcer::InitEpoch{1}) == Outcome::kDone; });
  w.stores.push_back(first);
  w.enforcers.resize(c.enforcers);
  w.requests.resize(c.requests());
  return w;
}

void Successors(const Config& config, const World& world, const Emit& emit) {
  Explorer(config, world, emit).All();
}

std::string KeyOf(const Config& c, const World& w) {
  const Ledger& l = w.ledger;
  std::string out;
  Put(out, l.epoch);
  for (int o : l.owner) Put(out, o);
  Put(out, l.avail);
  Put(out, l.spent);
  for (const Vec& v : l.leased) Put(out, v);
  for (const Vec& v : l.suspense) Put(out, v);
  Put(out, l.returned);
  Put(out, l.limit[0]);
  Put(out, l.cap[0]);
  Put(out, l.changes);
  // Grant numbers count only relative to the last one of their epoch.
  for (const Ledger::Grant& g : l.listed) {
    Put(out, g.epoch);
    Put(out, l.last_grant[g.epoch - 1] - g.id);
    Put(out, g.amounts);
  }
  Put(out, 63);
  auto put_store = [&](const Store& s) {
    const int key = KeyEpoch(s);
    Put(out, s.up);
    Put(out, key);
    Put(out, Free(c, s));
    Put(out, key == 0 || key > l.epoch ? 0 : l.last_grant[key - 1] - LastGrant(s));
    const auto outbox = Outbox(s);
    Put(out, outbox.has_value());
    if (outbox) Put(out, *outbox);
  };
  for (const Store& s : w.stores) put_store(s);
  Put(out, w.snapshot.has_value());
  if (w.snapshot) put_store(*w.snapshot);
  std::vector<std::tuple<int, int, int>> enforcers;
  for (const EnforcerActor& e : w.enforcers) enforcers.emplace_back(e.connection, e.epoch, e.phase);
  std::sort(enforcers.begin(), enforcers.end());
  for (const auto& [connection, epoch, phase] : enforcers) {
    Put(out, connection);
    Put(out, epoch);
    Put(out, phase);
  }
  std::vector<std::string> requests(c.requests());
  for (int r = 0; r < c.requests(); ++r) {
    std::string& q = requests[r];
    const Request& request = w.requests[r];
    for (int x : {int{request.phase}, int{request.edge}, request.asked, request.tokens, request.epoch,
                  request.billed, request.amount, l.items[r], int{l.journal[r].there},
                  l.journal[r].epoch, l.journal[r].amount, l.reports[r].covered, l.reports[r].unsettled}) {
      Put(q, x);
    }
    for (const Store& s : w.stores) PutHold(q, s, r);
    if (w.snapshot) PutHold(q, *w.snapshot, r);
    std::vector<std::pair<int, int>> late;
    for (const Inflight& x : w.inflight) {
      if (x.request == r) late.emplace_back(x.store, x.epoch);
    }
    std::sort(late.begin(), late.end());
    for (const auto& [store, epoch] : late) {
      Put(q, store);
      Put(q, epoch);
    }
    Put(q, 63);
  }
  // Requests of one path are interchangeable.
  const bool alike = std::all_of(c.paths.begin(), c.paths.end(),
                                 [&](const auto& path) { return path == c.paths[0]; });
  if (alike) std::sort(requests.begin(), requests.end());
  for (const std::string& q : requests) out += q;
  return out;
}

std::string Violation(const Config& c, const World& w) {
  const Ledger& l = w.ledger;
  for (int n = 0; n < c.nodes(); ++n) {
    int billed = 0, posted = 0;
    for (int r = 0; r < c.requests(); ++r) {
      if (std::find(c.paths[r].begin(), c.paths[r].end(), n) == c.paths[r].end()) continue;
      billed += w.requests[r].billed;
      if (l.journal[r].there) posted += l.journal[r].amount;
    }
    if (billed > l.cap[n]) return absl::StrCat("OVERSPEND (I4): billed ", billed, " of ", l.cap[n]);
    int sum = l.avail[n] + l.spent[n];
    bool negative = l.avail[n] < 0 || l.spent[n] < 0;
    for (const auto* terms : {&l.leased, &l.suspense}) {
      for (const Vec& v : *terms) {
        sum += v[n];
        negative |= v[n] < 0;
      }
    }
    if (negative) return absl::StrCat("NEGATIVE term in the ledger (I1), node ", n);
    if (sum != l.cap[n]) return absl::StrCat("CONSERVATION (I1): node ", n, " sums to ", sum);
    if (l.cap[n] > l.limit[n] && l.avail[n] > 0) return "RECALL: room is given out above the limit";
    if (posted != l.spent[n]) {
      return absl::StrCat("EXACTLY ONCE (I5, I6): spent ", l.spent[n], ", journal ", posted);
    }
  }
  for (int r = 0; r < c.requests(); ++r) {
    if (l.journal[r].there && l.journal[r].amount < w.requests[r].billed) {
      return absl::StrCat("UNDERPOSTED (I5): r", r, " billed ", w.requests[r].billed, ", posted ",
                          l.journal[r].amount);
    }
  }
  // I2 and I3 as one equation inside the open epoch: nothing appears, nothing leaks.
  const Store& store = w.stores[l.owner.back()];
  if (KeyEpoch(store) != l.epoch) return "";
  Vec local = Free(c, store);
  for (int x : local) {
    if (x < 0) return "NEGATIVE lease in the store (I3)";
  }
  if (const auto outbox = Outbox(store); outbox && !l.returned) local = Add(local, *outbox);
  for (const Ledger::Grant& grant : l.listed) {
    if (grant.epoch == l.epoch && grant.id > LastGrant(store)) local = Add(local, grant.amounts);
  }
  for (int r = 0; r < c.requests(); ++r) {
    for (int made = 0; made <= store.remade[r]; ++made) {
      Store at = store;
      at.remade[r] = made;
      const HoldView hold = HoldOf(at, r);
      if (hold.covers == 0 || l.items[r] >= 0) continue;
      const int took = l.journal[r].there && l.journal[r].epoch == l.epoch ? l.journal[r].amount : 0;
      local = Add(local, Cost(c, r, std::max(0, hold.covers - took)));
    }
  }
  if (AnyBelow(l.leased.back(), local)) return "COVER (I3): the store holds more than is leased";
  if (local != l.leased.back()) return "LEAK (I2): the store holds less than is leased";
  return "";
}

bool Drained(const Config& c, const World& w, bool with_operator) {
  const Ledger& l = w.ledger;
  const Store& store = w.stores[l.owner.back()];
  const Vec expected =
      c.returns || Shrinking(l) || KeyEpoch(store) != l.epoch ? Vec{} : Free(c, store);
  if (l.leased.back() != expected) return false;
  std::vector<int> lost;
  for (int r = 0; r < c.requests(); ++r) {
    if (w.requests[r].edge == Request::kLost && !l.journal[r].there) lost.push_back(r);
  }
  if (with_operator && !lost.empty()) return false;
  for (int e = 1; e < l.epoch; ++e) {
    if (IsZero(l.suspense[e - 1])) continue;
    const bool explained = std::any_of(lost.begin(), lost.end(), [&](int r) {
      return l.reports[r].covered < e || l.reports[r].unsettled == e;
    });
    if (!explained) return false;
  }
  Vec unknown{};
  for (int r : lost) unknown = Add(unknown, Cost(c, r, std::max(0, l.items[r])));
  return l.suspense.back() == unknown;
}

}  // namespace tollhouse::model
