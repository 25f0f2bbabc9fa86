// Leases: from the ledger into the store, back, and what expired on the way.
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/obs/log.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/enforcer_state.h"

namespace tollhouse::enforcer {

bool Transient(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kAborted ||
         status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kInternal ||
         status.code() == absl::StatusCode::kUnknown;
}

// Moves all free lease of these (budget, period)s into the outbox and starts posting it; `done` (may
// be null) tells whether the store did.
void Enforcer::TakeOutLease(const OrgPtr& org, int64_t epoch, std::vector<LeaseRecord> leases,
                            std::function<void(bool taken)> done) {
  struct Work {
    StoreBatch batch;
    std::vector<LeaseRecord> leases;  // owns the periods
    std::vector<BudgetAmount> keep;
  };
  auto work = std::make_shared<Work>();
  work->leases = std::move(leases);
  for (const LeaseRecord& lease : work->leases) work->keep.push_back({lease.budget_id, lease.period, 0});
  work->batch.org_id = org->id;
  work->batch.events.emplace_back(TakeOut{epoch, work->keep});
  RunBatch(std::shared_ptr<StoreBatch>(work, &work->batch), [this, org, work, done = std::move(done)] {
    const bool ok = work->batch.status.ok();
    const bool taken = ok && std::get<TakeOutEffect>(work->batch.effects[0]).return_id > 0;
    if (taken) {
      absl::MutexLock lock(&org->mutex);
      org->returns = true;
    }
    if (done != nullptr) done(ok);
    if (taken) Pump(org);
  });
}

// After a call that failed: leave the ledger (or the store, then `ledger` is false) alone for a moment.
void Enforcer::BackOff(Org& org, bool ledger) ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  org.ledger_down |= ledger;
  org.call_backoff = std::clamp(org.call_backoff * 2, options_.first_backoff, options_.longest_backoff);
  org.call_again_at = clock_->Monotonic() + org.call_backoff;
}

void Enforcer::CallFailed(const OrgPtr& org, int64_t epoch, const char* event, const absl::Status& status) {
  const bool closed = ReasonOf(status) == "EPOCH_CLOSED";
  {
    absl::MutexLock lock(&org->mutex);
    org->calling = false;
    if (!closed && org->epoch == epoch) BackOff(*org, true);
  }
  obs::Warning(event, {{"org", org->id}, {"error", Std(status.message())}});
  if (closed) Fence(org, epoch, true);
}

// Sends the next lease call if none is under way: what others left first, then an unanswered one
// again, returns, new grants.
void Enforcer::Pump(const OrgPtr& org) {
  std::optional<ledger::v1::GrantLeaseRequest> grant;
  bool list = false;
  {
    absl::MutexLock lock(&org->mutex);
    if (org->calling || org->phase != Org::Phase::kOpen) return;
    if (clock_->Monotonic() < org->call_again_at) return;
    if (org->recover) {
      list = true;
    } else if (org->unanswered) {
      grant = org->unanswered;  // its answer may be old: who waits now waits for the next call
    } else if (org->returns) {
    } else if (!org->demand.empty()) {
      grant.emplace();
      grant->set_org_id(org->id);
      grant->set_epoch(org->epoch);
      {
        absl::MutexLock numbers(&mutex_);
        grant->set_request_id(absl::StrCat(options_.instance, "/", ++requests_made_));
      }
      ++org->calls_sent;
      for (const auto& [key, demand] : org->demand) {
        auto* item = grant->add_items();
        Org::LeaseView& view = org->views[key];
        view.last_call = org->calls_sent;
        const auto budget = org->rules.FindBudget(key.first);
        item->set_budget_id(key.first);
        item->set_period(key.second);
        item->set_need_nanousd(1);
        item->set_want_nanousd(org->Ask(view, demand.wanted, budget != nullptr && budget->recall(),
                                        options_.lease_horizon));
        // What the store can count, whoever asked for it.
        item->set_leased_max_nanousd(store_->max_lease_nanos());
      }
      org->demand.clear();
      org->unanswered = grant;
      org->unanswered_call = org->calls_sent;
      for (Pending& pending : org->short_of_lease) org->in_call.push_back(std::move(pending));
      org->short_of_lease.clear();
    } else {
      return;
    }
    org->calling = true;
  }
  if (list) {
    ListGrants(org);
  } else if (grant) {
    SendGrant(org, *grant);
  } else {
    SendReturn(org);
  }
}

// --- grants --------------------------------------------------------------------------------------
void Enforcer::SendGrant(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request) {
  ledger_->GrantLease(request, Answer<ledger::v1::GrantLeaseResponse>(
                                   "GrantLease", [this, org, request](const auto& answer) {
                                     GrantAnswered(org, request, answer);
                                   }));
}

void Enforcer::GrantAnswered(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request,
                             const absl::StatusOr<ledger::v1::GrantLeaseResponse>& answer) {
  std::vector<Pending> tried;
  auto run = std::make_shared<Run>();
  bool fence = false;
  {
    absl::MutexLock lock(&org->mutex);
    const absl::Duration now = clock_->Monotonic();
    org->calling = answer.ok();  // until the store has it
    tried.swap(org->in_call);
    if (org->epoch != request.epoch() || org->phase != Org::Phase::kOpen) {
      // Fenced meanwhile; whoever waited tries again under what is open then.
      org->calling = false;
    } else if (answer.ok()) {
      org->ledger_down = false;
      org->call_backoff = absl::ZeroDuration();
      auto grant = std::make_shared<const ledger::v1::GrantLeaseResponse>(*answer);
      run->org = org;
      run->batch.org_id = org->id;
      run->answered_call = org->unanswered_call;
      run->grant_epoch = request.epoch();
      run->request_id = request.request_id();
      run->grants_from = grant;
      Run::Grant& added = run->grants.emplace_back();
      added.grant_id = grant->grant_id();
      int64_t granted = 0;
      for (const auto& item : grant->items()) {
        added.amounts.push_back({item.budget_id(), item.period(), item.granted_nanousd()});
        granted = std::max(granted, item.granted_nanousd());
        Org::LeaseView& view = org->views[{item.budget_id(), item.period()}];
        view.state = item.state();
        view.row_known = item.has_state();
        view.state_call = org->unanswered_call;
        view.confirmed_at = now;
      }
      run->batch.events.emplace_back(AddGrant{request.epoch(), added.grant_id, added.amounts});
      // Those who wait for money that others hold hear the news too, those who waited longest first.
      std::vector<Pending> all = TakeWaiting(*org, std::max<int64_t>(granted, kLargestLease));
      for (Pending& pending : tried) all.push_back(std::move(pending));
      tried = std::move(all);
    } else if (ReasonOf(answer.status()) == "EPOCH_CLOSED") {
      fence = true;
    } else {
      obs::Warning("lease_not_granted", {{"org", org->id}, {"error", Std(answer.status().message())}});
      if (!Transient(answer.status())) {
        // Refused as a whole: nothing was granted to this request.
        org->unanswered.reset();
        for (const auto& item : request.items()) {
          Org::LeaseView& view = org->views[{item.budget_id(), item.period()}];
          view.last_call = view.state_call;
        }
      }
      BackOff(*org, true);
    }
  }
  if (fence) Fence(org, request.epoch(), true);
  const bool granted = !run->grants.empty();
  RunReserves(org, std::move(tried), granted ? run : nullptr);
  if (!granted) Pump(org);
}

// Grants that are not known to be in the store: of an enforcer that did not live to add them, or
// added by now.
void Enforcer::ListGrants(const OrgPtr& org) {
  ledger::v1::ListGrantsRequest request;
  request.set_org_id(org->id);
  {
    absl::MutexLock lock(&org->mutex);
    request.set_epoch(org->epoch);
    org->recovered_at = clock_->Monotonic();
  }
  ledger_->ListGrants(request, Answer<ledger::v1::ListGrantsResponse>(
                                   "ListGrants", [this, org, epoch = request.epoch()](const auto& answer) {
                                     GrantsListed(org, epoch, answer);
                                   }));
}

void Enforcer::GrantsListed(const OrgPtr& org, int64_t epoch,
                            const absl::StatusOr<ledger::v1::ListGrantsResponse>& answer) {
  std::vector<Pending> tried;
  auto run = std::make_shared<Run>();
  if (!answer.ok()) CallFailed(org, epoch, "grants_not_listed", answer.status());
  {
    absl::MutexLock lock(&org->mutex);
    tried.swap(org->in_call);
    if (!answer.ok()) {
    } else if (org->epoch != epoch || org->phase != Org::Phase::kOpen) {
      org->calling = false;
    } else {
      org->recover = false;
      org->ledger_down = false;
      org->call_backoff = absl::ZeroDuration();
      auto listed = std::make_shared<const ledger::v1::ListGrantsResponse>(*answer);
      run->org = org;
      run->batch.org_id = org->id;
      run->grant_epoch = epoch;
      run->grants_from = listed;
      for (const auto& grant : listed->grants()) {
        Run::Grant& added = run->grants.emplace_back();
        added.grant_id = grant.grant_id();
        for (const auto& held : grant.amounts()) {
          added.amounts.push_back({held.budget_id(), held.period(), held.amount_nanousd()});
        }
      }
      for (const Run::Grant& grant : run->grants) {
        run->batch.events.emplace_back(AddGrant{epoch, grant.grant_id, grant.amounts});
      }
      org->calling = !run->grants.empty();
    }
  }
  const bool listed = !run->grants.empty();
  RunReserves(org, std::move(tried), listed ? run : nullptr);
  if (!listed) Pump(org);
}

// What the store did with the AddGrants, the first events of this run.
void Enforcer::FinishGrants(Org& org, Run& run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  org.calling = false;
  const bool current = org.epoch == run.grant_epoch;
  for (size_t i = 0; i < run.grants.size(); ++i) {
    const auto& effect = std::get<GrantEffect>(run.batch.effects[i]);
    const Run::Grant& grant = run.grants[i];
    if (effect.outcome == Outcome::kDone) {
      if (current) org.to_acknowledge.push_back(grant.grant_id);
      if (!effect.applied) continue;
      (run.request_id.empty() ? Metrics::Get().grants_recovered : Metrics::Get().grants).Increment();
      for (const BudgetAmount& item : grant.amounts) {
        if (current) org.View(item.budget_id, item.period).flow += item.amount_nanos;
      }
    } else if (effect.outcome == Outcome::kOutOfOrder) {
      // Another enforcer's is still on its way, or never will be: the ledger lists it.
      run.grant_missing = current;
      org.recover |= current;
    } else if (effect.outcome != Outcome::kEpochClosed) {
      obs::Error("grant_not_added", {{"org", org.id},
                                     {"epoch", run.grant_epoch},
                                     {"grant", grant.grant_id},
                                     {"outcome", static_cast<int>(effect.outcome)}});
      org.recover |= current;
      BackOff(org, false);
    }
  }
  // Whether it is in the store or listed: this request is not sent again.
  if (current && org.unanswered && org.unanswered->request_id() == run.request_id) org.unanswered.reset();
  // Listed, and still there is a gap: not in a tight loop.
  if (run.grant_missing && run.request_id.empty()) BackOff(org, false);
}

void Enforcer::AcknowledgeGrants(const OrgPtr& org) {
  ledger::v1::AcknowledgeGrantsRequest request;
  {
    absl::MutexLock lock(&org->mutex);
    if (org->acknowledging || org->to_acknowledge.empty()) return;
    org->acknowledging = true;
    request.set_org_id(org->id);
    request.set_epoch(org->epoch);
    for (int64_t id : org->to_acknowledge) request.add_grant_ids(id);
  }
  ledger_->AcknowledgeGrants(
      request,
      Answer<ledger::v1::AcknowledgeGrantsResponse>(
          "AcknowledgeGrants", [this, org, request](const auto& answer) {
            absl::MutexLock lock(&org->mutex);
            org->acknowledging = false;
            if (!answer.ok()) org->acknowledge_at = clock_->Monotonic() + options_.longest_backoff;
            if (!answer.ok() || org->epoch != request.epoch()) return;  // later again
            auto& list = org->to_acknowledge;
            for (int64_t id : request.grant_ids()) {
              list.erase(std::remove(list.begin(), list.end(), id), list.end());
            }
          }));
}

// --- returns -------------------------------------------------------------------------------------
void Enforcer::SendReturn(const OrgPtr& org) {
  Read(org->id, {StoreQuery::What::kReturns}, [this, org](absl::StatusOr<StoreView> view) {
    ledger::v1::ReturnLeaseRequest request;
    bool more = false;
    {
      absl::MutexLock lock(&org->mutex);
      if (!view.ok()) {
        BackOff(*org, false);
      } else {
        more = view->epoch == org->epoch && !view->returns.empty();
        org->returns = more;
      }
      org->calling = more;
      request.set_epoch(org->epoch);
    }
    if (!view.ok()) return;
    if (!more) return Pump(org);
    const ReturnRecord& record = view->returns.front();
    request.set_org_id(org->id);
    request.set_return_id(record.return_id);
    for (const LeaseRecord& lease : record.amounts) {
      auto* held = request.add_amounts();
      held->set_budget_id(lease.budget_id);
      held->set_period(lease.period);
      held->set_amount_nanousd(lease.free_nanos);
    }
    ledger_->ReturnLease(
        request, Answer<ledger::v1::ReturnLeaseResponse>("ReturnLease", [this, org,
                                                                         request](const auto& answer) {
          if (!answer.ok()) {
            return CallFailed(org, request.epoch(), "lease_not_returned", answer.status());
          }
          {
            absl::MutexLock lock(&org->mutex);
            org->ledger_down = false;
            org->call_backoff = absl::ZeroDuration();
            Metrics::Get().returns.Increment();
            for (const auto& held : request.amounts()) {
              Org::LeaseView& lease = org->View(held.budget_id(), held.period());
              lease.flow -= held.amount_nanousd();
              if (lease.state_call >= 0) {
                lease.state.set_avail_nanousd(lease.state.avail_nanousd() + held.amount_nanousd());
              }
            }
          }
          auto posted = std::make_shared<StoreBatch>();
          posted->org_id = org->id;
          posted->events.emplace_back(ReturnPosted{request.epoch(), request.return_id()});
          RunBatch(posted, [this, org, posted] {
            {
              absl::MutexLock lock(&org->mutex);
              org->calling = false;
              if (!posted->status.ok()) BackOff(*org, false);
            }
            Pump(org);
          });
        }));
  });
}

// --- time ----------------------------------------------------------------------------------------
// Measures how fast lease is used up, and gives back what nobody will use.
void Enforcer::Maintain(const OrgPtr& org, absl::Duration elapsed) {
  const int64_t seconds = std::max<int64_t>(1, absl::ToInt64Seconds(elapsed));
  Read(org->id, {StoreQuery::What::kLeases}, [this, org, seconds](absl::StatusOr<StoreView> read) {
    if (!read.ok()) return;
    const absl::Duration now = clock_->Monotonic();
    const absl::Time wall = clock_->Wall();
    std::vector<LeaseRecord> back;
    int64_t epoch = 0;
    {
      absl::MutexLock lock(&org->mutex);
      if (org->phase != Org::Phase::kOpen || org->epoch != read->epoch) return;
      epoch = org->epoch;
      absl::flat_hash_map<BudgetKey, const LeaseRecord*> there;
      for (const LeaseRecord& lease : read->leases) {
        there[{lease.budget_id, lease.period}] = &lease;
        // Another enforcer's, or one of an earlier life: its age is not known.
        auto [view, made] = org->views.try_emplace(BudgetKey{lease.budget_id, lease.period});
        if (made) view->second.used_at = view->second.confirmed_at = now;
      }
      org->lease_age = absl::ZeroDuration();
      for (auto it = org->views.begin(); it != org->views.end();) {
        Org::LeaseView& view = it->second;
        const auto lease = there.find(it->first);
        const int64_t free = lease == there.end() ? 0 : lease->second->free_nanos;
        const int64_t held = lease == there.end() ? 0 : lease->second->held_nanos;
        // What left as free lease, and what left for good. More than there should be is a grant that
        // another enforcer added: then this second tells nothing.
        const int64_t taken = view.last_free + view.flow - free;
        const int64_t spent = taken + view.last_held - held;
        if (spent >= 0 || !store_->shared()) {
          const int64_t used = std::max<int64_t>({0, taken, spent}) / seconds;
          view.rate_per_s = used > view.rate_per_s ? (view.rate_per_s + used) / 2
                                                   : view.rate_per_s - (view.rate_per_s - used) / 8;
        }
        if (free != view.last_free || held != view.last_held) {
          if (store_->shared()) view.used_at = now;  // by somebody
        }
        view.last_free = free;
        view.last_held = held;
        view.flow = 0;
        if (lease != there.end() && now - view.used_at < absl::Minutes(1)) {
          org->lease_age = std::max(org->lease_age, now - view.confirmed_at);
        }
        const bool gone = free == 0 && now - view.used_at > 2 * options_.idle_return &&
                          view.last_call <= view.state_call;
        if (gone) {
          org->views.erase(it++);
        } else {
          ++it;
        }
      }
      for (LeaseRecord& lease : read->leases) {
        if (lease.free_nanos == 0) continue;
        const auto budget = org->rules.FindBudget(lease.budget_id);
        const bool current =
            budget != nullptr && budget->usable() && budget->PeriodKey(wall) == lease.period;
        auto view = org->views.find(BudgetKey{lease.budget_id, lease.period});
        const bool idle =
            view == org->views.end() || now - view->second.used_at > options_.idle_return;
        if (!current || idle || budget->recall()) back.push_back(std::move(lease));
      }
    }
    if (!back.empty()) TakeOutLease(org, epoch, std::move(back), nullptr);
  });
}

// What another enforcer took out or let expire, and did not live to post.
void Enforcer::LookIntoOutboxes(const OrgPtr& org) {
  Read(org->id, {StoreQuery::What::kReturns}, [this, org](absl::StatusOr<StoreView> view) {
    if (!view.ok()) return;
    const auto returns = static_cast<int64_t>(view->returns.size());
    {
      absl::MutexLock lock(&org->mutex);
      org->outbox = returns;
      if (returns > 0 && view->epoch == org->epoch) org->returns = true;
    }
    StoreQuery query{StoreQuery::What::kExpired};
    query.max = 1024;
    Read(org->id, query, [org, returns](absl::StatusOr<StoreView> expired) {
      if (!expired.ok()) return;
      absl::MutexLock lock(&org->mutex);
      org->outbox = returns + static_cast<int64_t>(expired->holds.size());
      org->expired |= !expired->holds.empty();
    });
  });
}

// R5, second half: the ledger takes over what expired here.
void Enforcer::PostExpired(const OrgPtr& org) {
  {
    absl::MutexLock lock(&org->mutex);
    if (std::exchange(org->posting_expired, true)) return;
  }
  auto stop = [this, org](bool more, bool failed) {
    absl::MutexLock lock(&org->mutex);
    org->posting_expired = false;
    org->expired = more;
    if (failed) org->post_expired_at = clock_->Monotonic() + options_.longest_backoff;
  };
  Read(org->id, {StoreQuery::What::kExpired}, [this, org, stop](absl::StatusOr<StoreView> view) {
    if (!view.ok() || view->holds.empty()) return stop(!view.ok(), !view.ok());
    ledger::v1::PostExpiredRequest request;
    request.set_org_id(org->id);
    request.set_epoch(view->epoch);
    auto posted = std::make_shared<StoreBatch>();
    posted->org_id = org->id;
    for (const HoldRecord& hold : view->holds) {
      auto* expired = request.add_holds();
      expired->set_hold_id(std::string(hold.hold_id.raw()));
      for (int64_t id : hold.account_ids) expired->add_account_ids(id);
      FillHeld(hold, expired->mutable_covers(), true);
      expired->set_edge_id(hold.edge_id);
      expired->set_boot_id(hold.boot_id);
      posted->events.emplace_back(ExpiredPosted{view->epoch, hold.hold_id});
    }
    ledger_->PostExpired(
        request, Answer<ledger::v1::PostExpiredResponse>(
                     "PostExpired", [this, org, posted, stop](const auto& answer) {
                       if (!answer.ok()) {
                         obs::Warning("expired_not_posted",
                                      {{"org", org->id}, {"error", Std(answer.status().message())}});
                         return stop(true, true);
                       }
                       RunBatch(posted, [this, org, posted, stop] {
                         stop(true, !posted->status.ok());
                         if (posted->status.ok()) PostExpired(org);  // until there are none
                       });
                     }));
  });
}

}  // namespace tollhouse::enforcer
