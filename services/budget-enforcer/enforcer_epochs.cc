// Epochs, edges and rules: under what a hold may be made at all.
#include <set>

#include "absl/strings/numbers.h"
#include "libs/base/error.h"
#include "libs/obs/log.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/enforcer_state.h"

namespace tollhouse::enforcer {
namespace {

constexpr int kAttemptsMax = 4;

}  // namespace

std::vector<Enforcer::Pending> Enforcer::Org::TakeEverybody() {
  std::vector<Pending> all;
  for (auto* waiting : {&short_of_lease, &in_call}) {
    for (Pending& pending : *waiting) all.push_back(std::move(pending));
    waiting->clear();
  }
  for (auto& [place, pending] : held) all.push_back(std::move(pending));
  held.clear();
  for (Pending& pending : all) {  // what the ledger said before does not count any more
    pending.asked_after = -1;
    pending.place = 0;
    pending.hopeful = 0;
    pending.open.clear();
  }
  return all;
}

bool Enforcer::Org::NoteNewest(int64_t newest, const std::string& whose, absl::Duration now,
                               const EnforcerOptions& options) {
  const bool news = newest != newest_epoch;
  newest_epoch = newest;
  newest_incarnation = whose;
  // Ours may be a zombie, or the other one was found at a stale address. Whoever is wrong notices by
  // asking its store anew; taking over from each other at once would burn a lease each time.
  if (news && newest > epoch && !incarnation.empty() && whose != incarnation) {
    superseded = incarnation;
    if (now - opened_at > options.longest_takeover) takeover_wait = absl::ZeroDuration();
    takeover_wait = std::clamp(takeover_wait * 2, options.first_takeover, options.longest_takeover);
    takeover_at = now + takeover_wait;
  }
  return news;
}

// --- opening -------------------------------------------------------------------------------------
// Asks store and ledger under which epoch this org is to be served, as soon as there is room.
void Enforcer::WantOpen(const OrgPtr& org, bool urgent) {
  {
    absl::MutexLock lock(&org->mutex);
    if (org->opening) {
      org->hint = true;
      return;
    }
    if (std::exchange(org->queued, true)) return;
    org->reopen = false;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return;
    (urgent ? open_first_ : open_next_).push_back(org);
  }
  OpenMore();
}

void Enforcer::OpenMore() {
  while (true) {
    OrgPtr org;
    {
      absl::MutexLock lock(&mutex_);
      // One thread at a time, and never one loop within another: a store may answer at once.
      if (in_open_more_) return;
      auto& queue = open_first_.empty() ? open_next_ : open_first_;
      if (queue.empty() || opening_ >= options_.opening_max) return;
      org = queue.front();
      queue.pop_front();
      ++opening_;
      in_open_more_ = true;
    }
    bool ask_ledger;
    {
      absl::MutexLock lock(&org->mutex);
      org->queued = false;
      org->opening = true;
      ask_ledger = std::exchange(org->ask_ledger, false);
      if (org->phase == Org::Phase::kClosed) org->phase = Org::Phase::kOpening;
    }
    Identify(org, 0, ask_ledger);
    absl::MutexLock lock(&mutex_);
    in_open_more_ = false;
  }
}

void Enforcer::OpeningEnded(const OrgPtr& org) {
  bool again;
  {
    absl::MutexLock lock(&org->mutex);
    org->opening = false;
    again = std::exchange(org->hint, false);
  }
  {
    absl::MutexLock lock(&mutex_);
    --opening_;
  }
  if (again) WantOpen(org, true);
  OpenMore();
}

void Enforcer::Identify(const OrgPtr& org, int attempt, bool ask_ledger) {
  store_->Identify(org->id, [this, alive = alive_, org, attempt, ask_ledger](
                                const absl::StatusOr<std::string>& identity) {
    Identified(org, identity, attempt, ask_ledger);
  });
}

void Enforcer::Identified(const OrgPtr& org, const absl::StatusOr<std::string>& identity, int attempt,
                          bool ask_ledger) {
  if (!identity.ok()) {
    obs::Warning("store_not_identified", {{"org", org->id}, {"error", Std(identity.status().message())}});
    return OpenFailed(org, Closed::kStore, absl::ZeroDuration());
  }
  store_answered_ns_ = absl::ToInt64Nanoseconds(clock_->Monotonic());
  if (attempt >= kAttemptsMax) return OpenFailed(org, Closed::kStore, absl::ZeroDuration());
  int64_t adopt = 0;
  absl::Duration wait = absl::ZeroDuration();
  bool nothing = false;
  {
    absl::MutexLock lock(&org->mutex);
    const absl::Duration now = clock_->Monotonic();
    if (org->phase == Org::Phase::kOpen) {
      nothing = *identity == org->incarnation && org->newest_epoch <= org->epoch && !ask_ledger;
      if (!nothing) {
        Metrics::Get().epochs_lost.Increment();
        org->phase = Org::Phase::kOpening;
        for (Pending& pending : org->TakeEverybody()) org->parked.push_back(std::move(pending));
        org->demand.clear();
      }
    }
    if (nothing) {
    } else if (!ask_ledger && org->newest_epoch > 0 && org->newest_incarnation == *identity) {
      adopt = org->newest_epoch;
    } else if (*identity == org->superseded && now < org->takeover_at) {
      wait = org->takeover_at - now;
    }
  }
  if (nothing) return OpeningEnded(org);
  if (wait > absl::ZeroDuration()) return OpenFailed(org, Closed::kSuperseded, wait);
  if (adopt > 0) return InitEpoch(org, *identity, adopt, attempt);
  RegisterEpoch(org, *identity, attempt);
}

void Enforcer::RegisterEpoch(const OrgPtr& org, const std::string& identity, int attempt) {
  ledger::v1::RegisterEpochRequest request;
  request.set_org_id(org->id);
  request.set_incarnation(identity);
  {
    absl::MutexLock lock(&org->mutex);
    request.set_expected_epoch(org->newest_epoch);
  }
  ledger_->RegisterEpoch(
      request, Answer<ledger::v1::RegisterEpochResponse>(
                   "RegisterEpoch", [this, org, identity, attempt](const auto& answer) {
                     const absl::Duration now = clock_->Monotonic();
                     if (answer.ok()) {
                       {
                         absl::MutexLock lock(&org->mutex);
                         org->newest_epoch = answer->epoch();
                         org->newest_incarnation = identity;
                       }
                       return InitEpoch(org, identity, answer->epoch(), attempt);
                     }
                     obs::Warning("epoch_not_registered",
                                  {{"org", org->id}, {"error", Std(answer.status().message())}});
                     if (ReasonOf(answer.status()) == "EPOCH_MOVED") {
                       auto metadata = MetadataOf(answer.status());
                       int64_t newest = 0;
                       if (absl::SimpleAtoi(Absl(metadata["epoch"]), &newest)) {
                         {
                           absl::MutexLock lock(&org->mutex);
                           org->NoteNewest(newest, metadata["incarnation"], now, options_);
                         }
                         return Identify(org, attempt + 1, false);
                       }
                     }
                     const bool unknown = answer.status().code() == absl::StatusCode::kNotFound;
                     OpenFailed(org, unknown ? Closed::kUnknownOrg : Closed::kLedger, absl::ZeroDuration());
                   }));
}

void Enforcer::InitEpoch(const OrgPtr& org, const std::string& identity, int64_t epoch, int attempt) {
  auto init = std::make_shared<StoreBatch>();
  init->org_id = org->id;
  init->incarnation = identity;
  init->events.emplace_back(enforcer::InitEpoch{epoch});
  RunBatch(init, [this, org, init, identity, epoch, attempt] {
    if (!init->status.ok()) {
      if (ReasonOf(init->status) == "INCARNATION_CHANGED") return Identify(org, attempt + 1, false);
      obs::Warning("epoch_not_initialized", {{"org", org->id}, {"error", Std(init->status.message())}});
      return OpenFailed(org, Closed::kStore, absl::ZeroDuration());
    }
    // The store has a higher one: what is known here is old.
    if (std::get<Outcome>(init->effects[0]) != Outcome::kDone) return Identify(org, attempt + 1, true);
    Opened(org, identity, epoch);
  });
}

void Enforcer::Opened(const OrgPtr& org, const std::string& identity, int64_t epoch) {
  std::vector<Pending> ready;
  bool serving;
  {
    absl::MutexLock lock(&org->mutex);
    const absl::Duration now = clock_->Monotonic();
    serving = org->newest_epoch <= epoch;
    if (serving) {
      if (org->epoch != epoch || org->incarnation != identity) {  // nothing of the old one counts
        org->epoch = epoch;
        org->incarnation = identity;
        org->edges.clear();
        org->views.clear();
        org->demand.clear();
        org->to_acknowledge.clear();
        org->unanswered.reset();
        org->returns = org->expired = store_->shared();  // whatever others left there
        org->ledger_down = false;
        org->call_again_at = org->post_expired_at = -absl::InfiniteDuration();
      }
      org->phase = Org::Phase::kOpen;
      org->opened_at = now;
      org->recover = store_->shared();
      org->recall_due = true;
      ready = org->TakeEverybody();
      for (Pending& pending : org->parked) ready.push_back(std::move(pending));
      org->parked.clear();
    } else {  // another one was registered meanwhile
      org->phase = Org::Phase::kClosed;
      org->closed = Closed::kNotYet;
      org->hint = true;
    }
  }
  Metrics::Get().epochs.Increment();
  obs::Info("epoch_opened", {{"org", org->id}, {"epoch", epoch}, {"serving", serving}});
  OpeningEnded(org);
  RunReserves(org, std::move(ready), nullptr);
}

void Enforcer::OpenFailed(const OrgPtr& org, Closed why, absl::Duration wait) {
  Results results;
  {
    absl::MutexLock lock(&org->mutex);
    const absl::Duration now = clock_->Monotonic();
    const bool busy = !org->parked.empty() || now - org->used_at < absl::Minutes(1);
    if (org->opened_at > org->failed_at) org->open_backoff = absl::ZeroDuration();
    org->open_backoff = std::clamp(org->open_backoff * 2, options_.first_backoff,
                                   busy ? options_.longest_backoff : options_.idle_interval);
    wait = std::max(wait, org->open_backoff);
    org->open_again_at = now + wait;
    org->failed_at = now;
    org->reopen = why != Closed::kUnknownOrg;
    // A store that is away while an epoch is open: its scripts say so themselves.
    if (org->phase != Org::Phase::kOpen) {
      org->phase = Org::Phase::kClosed;
      org->closed = why;
      std::vector<Pending> parked = std::move(org->parked);
      org->parked.clear();
      for (Pending& pending : parked) {
        if (why == Closed::kSuperseded && org->open_again_at <= pending.arrived + options_.patience) {
          org->parked.push_back(std::move(pending));
        } else {
          FailOrAdmitOpen(*org, pending, why, results);
        }
      }
    }
  }
  if (!results.empty()) Deliver(std::move(results));
  OpeningEnded(org);
}

// Somebody else registered an epoch, or the store lost ours: nothing of ours may be served (R4).
// Whoever waits goes on under the next epoch.
void Enforcer::Fence(const OrgPtr& org, int64_t epoch, bool ask_ledger) {
  bool open_now;
  {
    absl::MutexLock lock(&org->mutex);
    if (org->epoch != epoch || org->phase != Org::Phase::kOpen) return;
    const absl::Duration now = clock_->Monotonic();
    Metrics::Get().epochs_lost.Increment();
    org->phase = Org::Phase::kClosed;
    org->closed = Closed::kNotYet;
    for (Pending& pending : org->TakeEverybody()) org->parked.push_back(std::move(pending));
    org->demand.clear();
    org->ask_ledger |= ask_ledger;
    // Lost as soon as it was won, again and again: not in a tight loop.
    org->open_backoff = now - std::exchange(org->fenced_at, now) < absl::Seconds(1)
                            ? std::clamp(org->open_backoff * 2, options_.first_backoff / 10,
                                         options_.longest_backoff)
                            : absl::ZeroDuration();
    org->open_again_at = now + org->open_backoff;
    org->reopen = true;
    open_now = org->open_backoff == absl::ZeroDuration();
  }
  obs::Warning("epoch_fenced", {{"org", org->id}, {"epoch", epoch}});
  if (open_now) WantOpen(org, true);
}

void Enforcer::IncarnationChanged() {
  const absl::Duration now = clock_->Monotonic();
  std::vector<OrgPtr> idle;
  for (const OrgPtr& org : AllOrgs()) {
    bool busy;
    {
      absl::MutexLock lock(&org->mutex);
      busy = !org->parked.empty() || now - org->used_at < absl::Minutes(1);
    }
    if (busy) {
      WantOpen(org, true);
    } else {
      idle.push_back(org);
    }
  }
  for (const OrgPtr& org : idle) WantOpen(org, false);
}

// --- edges ---------------------------------------------------------------------------------------
void Enforcer::RegisterEdge(const OrgPtr& org, int64_t epoch, const std::string& edge_id,
                            const std::string& boot_id) {
  ledger::v1::RegisterEdgeRequest request;
  request.set_org_id(org->id);
  request.set_epoch(epoch);
  request.set_edge_id(edge_id);
  request.set_boot_id(boot_id);
  ledger_->RegisterEdge(
      request,
      Answer<ledger::v1::RegisterEdgeResponse>(
          "RegisterEdge", [this, org, epoch, edge_id, boot_id](const auto& answer) {
            const bool closed = !answer.ok() && ReasonOf(answer.status()) == "EPOCH_CLOSED";
            std::vector<Pending> ready;
            Results results;
            {
              absl::MutexLock lock(&org->mutex);
              if (org->epoch == epoch) {
                if (answer.ok()) {
                  org->edges[{edge_id, boot_id}].registered = true;
                } else {
                  org->edges.erase({edge_id, boot_id});
                }
              }
              ready.swap(org->parked);
              if (!answer.ok() && !closed) {
                auto rest = std::stable_partition(ready.begin(), ready.end(), [&](const Pending& p) {
                  return p.arrival->edge.edge_id() != edge_id || p.arrival->edge.boot_id() != boot_id;
                });
                for (auto it = rest; it != ready.end(); ++it) {
                  FailOrAdmitOpen(*org, *it, Closed::kLedger, results);
                }
                ready.erase(rest, ready.end());
              }
            }
            if (!results.empty()) Deliver(std::move(results));
            if (closed) Fence(org, epoch, true);
            RunReserves(org, std::move(ready), nullptr);
          }));
}

// --- rules ---------------------------------------------------------------------------------------
void Enforcer::ApplyRules(const ledger::v1::WatchResponse& change, std::function<void()> applied) {
  std::set<int64_t> concerned;
  std::map<int64_t, std::vector<const ledger::v1::BudgetRule*>> budgets;
  std::map<int64_t, std::vector<const ledger::v1::AccountLimits*>> limits;
  std::map<int64_t, const ledger::v1::Epoch*> epochs;
  for (const auto& budget : change.budgets()) budgets[budget.org_id()].push_back(&budget);
  for (const auto& limit : change.limits()) limits[limit.org_id()].push_back(&limit);
  for (const auto& epoch : change.epochs()) {
    const ledger::v1::Epoch*& newest = epochs[epoch.org_id()];
    if (newest == nullptr || newest->epoch() < epoch.epoch()) newest = &epoch;
  }
  for (const auto& [id, x] : budgets) concerned.insert(id);
  for (const auto& [id, x] : limits) concerned.insert(id);
  for (const auto& [id, x] : epochs) concerned.insert(id);
  for (int64_t id : concerned) FindOrg(id, true);
  const bool all = change.snapshot() || change.deleted_budget_ids_size() > 0;

  const absl::Time wall = clock_->Wall();
  const absl::Duration now = clock_->Monotonic();
  struct Recall {
    OrgPtr org;
    int64_t epoch;
    std::vector<LeaseRecord> leases;
  };
  std::vector<Recall> recalls;
  std::vector<std::pair<OrgPtr, int64_t>> fenced;
  std::vector<std::pair<OrgPtr, bool>> to_open;
  for (const OrgPtr& org : AllOrgs()) {
    if (!all && !concerned.contains(org->id)) continue;
    absl::MutexLock lock(&org->mutex);
    if (change.snapshot()) org->rules.Clear();
    for (int64_t id : change.deleted_budget_ids()) org->rules.DeleteBudget(id);
    for (const auto* budget : budgets[org->id]) {
      org->rules.SetBudget(*budget);
      // What the ledger said of this budget before may no longer be true.
      for (auto& [key, view] : org->views) {
        if (key.first == budget->budget_id()) view.state_call = view.last_call = -1;
      }
    }
    for (const auto* limit : limits[org->id]) org->rules.SetLimits(*limit);
    if (auto it = epochs.find(org->id); it != epochs.end() && it->second->epoch() >= org->newest_epoch) {
      const bool news = org->NoteNewest(it->second->epoch(), it->second->incarnation(), now, options_);
      if (org->phase == Org::Phase::kOpen) {
        if (org->newest_epoch > org->epoch) fenced.emplace_back(org, org->epoch);
      } else if (change.snapshot() || (news && (org->epoch > 0 || !org->parked.empty()))) {
        // At start epochs are opened before anyone asks: an old one's edges report then, and what it
        // held comes back.
        to_open.emplace_back(org, !org->parked.empty());
      }
    }
    if (org->phase == Org::Phase::kOpen && !org->rules.recalled().empty()) {
      Recall recall{org, org->epoch, {}};
      for (const auto& budget : org->rules.recalled()) {
        recall.leases.push_back({budget->id(), std::string(budget->PeriodKey(wall))});
      }
      recalls.push_back(std::move(recall));
    }
  }
  for (const auto& [org, epoch] : fenced) Fence(org, epoch, false);

  struct Barrier {
    std::atomic<size_t> missing;
    std::function<void()> applied;
  };
  auto barrier = std::make_shared<Barrier>();
  barrier->missing = recalls.size() + 1;
  barrier->applied = std::move(applied);
  auto arrive = [barrier] {
    if (--barrier->missing == 0) barrier->applied();
  };
  for (Recall& recall : recalls) {
    const OrgPtr org = recall.org;
    TakeOutLease(org, recall.epoch, std::move(recall.leases), [org, arrive](bool taken) {
      // Not taken out: then before anything else that is done with it.
      if (!taken) {
        absl::MutexLock lock(&org->mutex);
        org->recall_due = true;
      }
      arrive();
    });
  }

  bool first;
  {
    absl::MutexLock lock(&mutex_);
    first = change.snapshot() && !std::exchange(synced_, true);
  }
  for (const bool urgent : {true, false}) {
    for (const auto& [org, with_requests] : to_open) {
      if (with_requests == urgent) WantOpen(org, urgent);
    }
  }
  if (first) {
    for (const OrgPtr& org : AllOrgs()) {
      std::vector<Pending> parked;
      {
        absl::MutexLock lock(&org->mutex);
        parked.swap(org->parked);
      }
      RunReserves(org, std::move(parked), nullptr);
    }
  }
  arrive();
}

}  // namespace tollhouse::enforcer
