#include "services/budget-enforcer/enforcer.h"

#include <cstring>
#include <set>

#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/obs/log.h"
#include "libs/rpc/permission.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/enforcer_state.h"

namespace tollhouse::enforcer {
namespace {

// A settlement waits this long for the store before its caller is told.
constexpr absl::Duration kStalledMax = absl::Seconds(30);
constexpr absl::Duration kRetryStalled = absl::Milliseconds(200);
constexpr size_t kRetriedAtOnce = 1024;
constexpr size_t kPolledAtOnce = 64;
constexpr absl::Duration kReadTimeout = absl::Seconds(5);
// Within a busy org's batches, holds past their deadline are looked for this often.
constexpr absl::Duration kExpireInBatches = absl::Milliseconds(100);

// Whether the events of a batch that failed may have been applied, or may be yet. No for the few
// reasons that say so (libs/redis/client.h); else a long outage would make every reservation a doubt.
bool MayHaveRun(const absl::Status& status) {
  static constexpr std::string_view kNotRun[] = {"REDIS_UNAVAILABLE", "REDIS_NOT_PRIMARY", "REDIS_REFUSED",
                                                 "REDIS_UNFIT",       "REDIS_DENIED",      "REDIS_OVERLOADED",
                                                 "INCARNATION_CHANGED"};
  const std::string reason = ReasonOf(status);
  return std::find(std::begin(kNotRun), std::end(kNotRun), reason) == std::end(kNotRun);
}

}  // namespace

v1::OperationResult FailedResult(uint64_t sequence, std::string_view reason, std::string_view message,
                                 int64_t maybe_held_epoch) {
  v1::OperationResult result;
  result.set_sequence(sequence);
  result.mutable_failed()->set_reason(std::string(reason));
  result.mutable_failed()->set_message(std::string(message));
  result.mutable_failed()->set_maybe_held_epoch(maybe_held_epoch);
  return result;
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t nanos = absl::ToUnixNanos(time);
  int64_t seconds = nanos / 1'000'000'000;
  int64_t rest = nanos % 1'000'000'000;
  if (rest < 0) {
    rest += 1'000'000'000;
    --seconds;
  }
  out.set_seconds(seconds);
  out.set_nanos(static_cast<int32_t>(rest));
  return out;
}

void FillHeld(const HoldRecord& hold, google::protobuf::RepeatedPtrField<common::v1::HeldBudget>* out,
              bool covers) {
  for (const HeldAmount& amount : hold.budgets) {
    common::v1::HeldBudget* held = out->Add();
    held->set_budget_id(amount.budget_id);
    held->set_period(amount.period);
    held->set_amount_nanousd(covers ? amount.covers_nanos : amount.amount_nanos);
    held->set_observe(amount.observe);
  }
}

Enforcer::Enforcer(EnforcerOptions options, HoldStore* store, LedgerClient* ledger, const Clock* clock)
    : options_(std::move(options)),
      store_(store),
      ledger_(ledger),
      clock_(clock),
      alive_(std::make_shared<Alive>(&gone_)) {
  Metrics::Get();
  store_->SetIncarnationChanged([this, alive = std::weak_ptr<Alive>(alive_)] {
    if (const auto keep = alive.lock(); keep != nullptr) IncarnationChanged();
  });
}

Enforcer::~Enforcer() {
  alive_.reset();
  gone_.WaitForNotification();
}

Enforcer::OrgPtr Enforcer::FindOrg(int64_t org_id, bool make) {
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (auto it = orgs_.find(org_id); it != orgs_.end()) return it->second;
  }
  if (!make) return nullptr;
  absl::MutexLock lock(&mutex_);
  OrgPtr& org = orgs_[org_id];
  if (org == nullptr) org = std::make_shared<Org>(org_id);
  return org;
}

std::vector<Enforcer::OrgPtr> Enforcer::AllOrgs() {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<OrgPtr> all;
  all.reserve(orgs_.size());
  for (const auto& [id, org] : orgs_) all.push_back(org);
  return all;
}

void Enforcer::Deliver(Results results) {
  // Consecutive results of one sink go together.
  std::vector<v1::OperationResult> group;
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].second.has_failed()) {
      Metrics::Get().Failed(results[i].second.failed().reason()).Increment();
    }
    group.push_back(std::move(results[i].second));
    if (i + 1 == results.size() || results[i + 1].first != results[i].first) {
      results[i].first->Deliver(std::move(group));
      group.clear();
    }
  }
}

// --- the store -----------------------------------------------------------------------------------
void Enforcer::RunBatch(std::shared_ptr<StoreBatch> batch, std::function<void()> done) {
  StoreBatch* const raw = batch.get();
  const absl::Duration began = clock_->Monotonic();
  store_->Run(raw, [this, alive = alive_, batch = std::move(batch), done = std::move(done), began] {
    const absl::Duration now = clock_->Monotonic();
    Metrics::Get().script_seconds.Observe(absl::ToDoubleSeconds(now - began));
    if (batch->status.ok()) {
      store_answered_ns_ = absl::ToInt64Nanoseconds(now);
    } else {
      Metrics::Get().store_errors.Increment();
    }
    done();
  });
}

void Enforcer::Read(int64_t org_id, const StoreQuery& query,
                    std::function<void(absl::StatusOr<StoreView>)> done) {
  store_->Read(org_id, query, [alive = alive_, done = std::move(done)](absl::StatusOr<StoreView> view) {
    if (!view.ok()) Metrics::Get().store_errors.Increment();
    done(std::move(view));
  });
}

std::vector<std::pair<Enforcer::OrgPtr, StoreView>> Enforcer::ReadAll(const std::vector<OrgPtr>& orgs,
                                                                     const StoreQuery& query) {
  struct Gathered {
    absl::Mutex mutex;
    size_t missing ABSL_GUARDED_BY(mutex) = 0;
    std::vector<std::pair<OrgPtr, StoreView>> views ABSL_GUARDED_BY(mutex);
  };
  auto gathered = std::make_shared<Gathered>();
  {
    absl::MutexLock lock(&gathered->mutex);
    gathered->missing = orgs.size();
  }
  for (const OrgPtr& org : orgs) {
    Read(org->id, query, [gathered, org](absl::StatusOr<StoreView> view) {
      absl::MutexLock lock(&gathered->mutex);
      if (view.ok()) gathered->views.emplace_back(org, *std::move(view));
      --gathered->missing;
    });
  }
  absl::MutexLock lock(&gathered->mutex);
  const auto all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(gathered->mutex) { return gathered->missing == 0; };
  gathered->mutex.AwaitWithTimeout(absl::Condition(&all), kReadTimeout);
  std::vector<std::pair<OrgPtr, StoreView>> views = std::move(gathered->views);
  std::sort(views.begin(), views.end(),
            [](const auto& a, const auto& b) { return a.first->id < b.first->id; });
  return views;
}

// --- arrival -------------------------------------------------------------------------------------
void Enforcer::Execute(std::shared_ptr<const Arrival> arrival, const std::shared_ptr<ResultSink>& sink) {
  const absl::Duration now = clock_->Monotonic();
  const int64_t now_ms = absl::ToUnixMillis(clock_->Wall());
  Results bad;
  auto fail = [&](const v1::Operation& op, std::string_view message) {
    bad.emplace_back(sink, FailedResult(op.sequence(), "BAD_OPERATION", message));
  };
  bool draining;
  {
    absl::ReaderMutexLock lock(&mutex_);
    draining = draining_;
  }
  std::vector<std::pair<int64_t, std::shared_ptr<Run>>> runs;  // by org
  auto run_of = [&](int64_t org_id) -> Run* {
    for (auto& [id, run] : runs) {
      if (id == org_id) return run.get();
    }
    auto run = std::make_shared<Run>();
    run->org = FindOrg(org_id, true);
    run->arrival = arrival;
    run->batch.org_id = org_id;
    runs.emplace_back(org_id, run);
    return run.get();
  };
  // The operations on holds that exist need nothing but the store.
  auto other = [&](const v1::Operation& op, const std::string& raw, int64_t org_id, auto event) {
    auto id = UuidFromRaw(raw);
    if (!id.ok() || org_id <= 0) return fail(op, "hold_id must be 16 bytes and org_id positive");
    event.hold_id = *id;
    event.now_ms = now_ms;
    Run* run = run_of(org_id);
    run->others.push_back({run->batch.events.size(), op.sequence(), sink, now,
                           std::is_same_v<decltype(event), Refresh>,
                           std::is_same_v<decltype(event), Settle> ||
                               std::is_same_v<decltype(event), Void>});
    run->batch.events.emplace_back(event);
  };
  for (const v1::Operation& op : arrival->operations) {
    switch (op.kind_case()) {
      case v1::Operation::kReserve: {
        const v1::Reserve& ask = op.reserve();
        auto id = UuidFromRaw(ask.hold_id());
        const bool path_ok =
            ask.account_ids_size() > 0 && ask.account_ids_size() <= 16 &&
            std::all_of(ask.account_ids().begin(), ask.account_ids().end(),
                        [](int64_t account) { return account > 0; });
        if (!id.ok()) {
          fail(op, "hold_id must be 16 bytes");
        } else if (ask.fingerprint().size() > std::tuple_size_v<Fingerprint>) {
          fail(op, "fingerprint must be at most 32 bytes");
        } else if (!path_ok) {
          fail(op, "account_ids must be 1 to 16 positive numbers");
        } else if (ask.strict_nanousd() < 0 || ask.strict_nanousd() > kMaxHoldNanos ||
                   ask.tight_nanousd() < 0 || ask.tight_nanousd() > kMaxHoldNanos) {
          fail(op, "a hold must be between 0 and $1,000,000");
        } else if (ask.estimated_tokens() < 0 || ask.estimated_tokens() > kMaxRate ||
                   ask.wait_ms() < 0 || ask.time_to_live_ms() < 0) {
          fail(op, "estimated_tokens, wait_ms and time_to_live_ms must not be negative");
        } else if (draining) {
          bad.emplace_back(sink, FailedResult(op.sequence(), "LEDGER_UNAVAILABLE",
                                              "the enforcer is shutting down"));
        } else {
          Pending pending;
          pending.arrival = arrival;
          pending.ask = &ask;
          pending.sequence = op.sequence();
          pending.sink = sink;
          pending.hold_id = *id;
          std::memcpy(pending.fingerprint.data(), ask.fingerprint().data(), ask.fingerprint().size());
          pending.arrived = now;
          pending.give_up_at =
              now + std::min(absl::Milliseconds(std::min<int64_t>(ask.wait_ms(), 1 << 30)),
                             options_.longest_wait);
          run_of(ask.account_ids(0))->reserves.push_back(std::move(pending));
        }
        break;
      }
      case v1::Operation::kSettle: {
        const v1::Settle& in = op.settle();
        Settle event{in.epoch()};
        event.actual_nanos = in.actual_nanousd();
        event.actual_tokens = in.actual_tokens();
        other(op, in.hold_id(), in.org_id(), event);
        break;
      }
      case v1::Operation::kVoid:
        other(op, op.void_().hold_id(), op.void_().org_id(), Void{op.void_().epoch()});
        break;
      case v1::Operation::kAcknowledge: {
        Acknowledge event{op.acknowledge().epoch()};
        event.posted_nanos = op.acknowledge().posted_nanousd();
        other(op, op.acknowledge().hold_id(), op.acknowledge().org_id(), event);
        break;
      }
      case v1::Operation::kRefresh:
        other(op, op.refresh().hold_id(), op.refresh().org_id(), Refresh{op.refresh().epoch()});
        break;
      default:
        fail(op, "the operation has no kind");
    }
  }
  if (!bad.empty()) Deliver(std::move(bad));
  for (auto& [org_id, run] : runs) {
    std::vector<Pending> reserves = std::move(run->reserves);
    run->reserves.clear();
    OrgPtr org = run->org;
    RunReserves(org, std::move(reserves), std::move(run));
  }
}

// Adds what can be tried now of `reserves` to `run` (null: a new one) and submits it.
void Enforcer::RunReserves(const OrgPtr& org, std::vector<Pending> reserves, std::shared_ptr<Run> run) {
  if (reserves.empty() && run == nullptr) return;
  const absl::Time wall = clock_->Wall();
  const absl::Duration now = clock_->Monotonic();
  const int64_t now_ms = absl::ToUnixMillis(wall);
  bool synced;
  {
    absl::ReaderMutexLock lock(&mutex_);
    synced = synced_;
  }
  if (run == nullptr) {
    run = std::make_shared<Run>();
    run->org = org;
    run->batch.org_id = org->id;
  }
  bool open_epoch = false;
  std::vector<std::pair<std::string, std::string>> new_edges;
  int64_t epoch = 0;
  {
    absl::MutexLock lock(&org->mutex);
    epoch = org->epoch;
    org->used_at = now;
    const v1::Edge* registered = nullptr;  // the one looked up last
    for (Pending& pending : reserves) {
      if (pending.sink->closed()) continue;
      if (synced && org->phase == Org::Phase::kClosed) {
        const int64_t failed_ns = absl::ToInt64Nanoseconds(org->failed_at);
        const bool better = (org->closed == Closed::kLedger && ledger_answered_ns_ > failed_ns) ||
                            (org->closed == Closed::kStore && store_answered_ns_ > failed_ns);
        const bool soon = org->closed == Closed::kNotYet || org->closed == Closed::kSuperseded;
        if (now >= org->open_again_at || better) {
          open_epoch = true;
        } else if (!soon || org->open_again_at > pending.arrived + options_.patience) {
          FailOrAdmitOpen(*org, pending, org->closed, run->results);
          continue;
        }
      }
      if (!synced || org->phase != Org::Phase::kOpen) {
        org->parked.push_back(std::move(pending));
        continue;
      }
      const v1::Edge& edge = pending.arrival->edge;
      if (&edge != registered) {
        auto known = org->edges.find({edge.edge_id(), edge.boot_id()});
        if (known == org->edges.end()) {
          org->edges[{edge.edge_id(), edge.boot_id()}];
          new_edges.emplace_back(edge.edge_id(), edge.boot_id());
        }
        if (known == org->edges.end() || !known->second.registered) {
          org->parked.push_back(std::move(pending));
          continue;
        }
        registered = &edge;
      }
      pending.match = org->rules.MatchRequest(*pending.ask, wall);
      if (pending.match.error[0] != '\0') {
        run->results.emplace_back(pending.sink,
                                  FailedResult(pending.sequence, pending.match.error,
                                               "the budgets of this request cannot be applied"));
        continue;
      }
      if (pending.ask->require_budget() && !pending.match.enforced) {
        v1::OperationResult result;
        result.set_sequence(pending.sequence);
        result.mutable_refused()->set_reason(v1::REASON_NO_BUDGET);
        Metrics::Get().Refused(v1::REASON_NO_BUDGET).Increment();
        run->results.emplace_back(pending.sink, std::move(result));
        continue;
      }
      for (BudgetAmount& ask : pending.match.asks) {
        if (std::count(pending.open.begin(), pending.open.end(), ask.budget_id) > 0) {
          ask.amount_nanos = 0;
        }
      }
      pending.epoch = org->epoch;
      run->reserves.push_back(std::move(pending));
    }
    // While the ledger wants lease back, credits do not stay.
    if (!org->rules.recalled().empty() && (!run->others.empty() || org->recall_due) &&
        org->phase == Org::Phase::kOpen) {
      for (const auto& budget : org->rules.recalled()) {
        run->recall_budgets.push_back(budget);
        run->recall_keep.push_back({budget->id(), budget->PeriodKey(wall), 0});
      }
    }
    const bool expire = epoch > 0 && now - org->expired_until >= kExpireInBatches;
    if (expire) {
      org->expired_until = now;
      run->batch.events.emplace_back(enforcer::Tick{epoch, now_ms, 256});
    }
    if (!run->recall_keep.empty()) {
      run->take_out = run->batch.events.size();
      run->batch.events.emplace_back(TakeOut{epoch, run->recall_keep});
    }
    run->first_reserve = run->batch.events.size();
    for (const Pending& pending : run->reserves) {
      Reserve event;
      event.epoch = pending.epoch;
      event.now_ms = now_ms;
      event.hold_id = pending.hold_id;
      event.fingerprint = pending.fingerprint;
      event.budgets = pending.match.asks;
      event.limits = pending.match.limits;
      event.tokens = pending.ask->estimated_tokens();
      event.first_attempt = pending.ask->first_attempt();
      const absl::Duration ttl =
          pending.ask->time_to_live_ms() == 0
              ? options_.default_time_to_live
              : absl::Milliseconds(std::min<int64_t>(pending.ask->time_to_live_ms(), int64_t{1} << 40));
      event.time_to_live_ms = absl::ToInt64Milliseconds(std::min(ttl, options_.longest_time_to_live));
      event.account_ids = absl::MakeConstSpan(pending.ask->account_ids().data(),
                                              pending.ask->account_ids().size());
      event.edge_id = pending.arrival->edge.edge_id();
      event.boot_id = pending.arrival->edge.boot_id();
      run->batch.events.emplace_back(event);
    }
  }
  if (run->reserves.empty() && run->others.empty() && run->grants.empty()) {
    if (!run->results.empty()) Deliver(std::move(run->results));
  } else {
    SubmitRun(std::move(run));
  }
  if (open_epoch) WantOpen(org, true);
  for (const auto& [edge_id, boot_id] : new_edges) RegisterEdge(org, epoch, edge_id, boot_id);
}

void Enforcer::SubmitRun(std::shared_ptr<Run> run) {
  std::shared_ptr<StoreBatch> batch(run, &run->batch);
  RunBatch(std::move(batch), [this, run] { FinishRun(run); });
}

// What became of the events may be unknown: reservations fail (their edges void what was made), settlements
// are tried again, grants are asked for again under the same ids.
void Enforcer::FailRun(const std::shared_ptr<Run>& run) {
  Org& org = *run->org;
  {
    absl::MutexLock lock(&org.mutex);
    // A hold that was made after all is not ended from here: the same Reserve may have been sent again
    // through another enforcer, and be in use. Its edge knows, and voids it.
    const bool maybe = MayHaveRun(run->batch.status);
    for (Pending& pending : run->reserves) {
      if (maybe) pending.maybe_held_epoch = pending.epoch;
      FailOrAdmitOpen(org, pending, Closed::kStore, run->results);
    }
    org.retry_stalled_at = clock_->Monotonic() + kRetryStalled;
    for (Run::Other& other : run->others) {
      if (org.stalled.size() < options_.waiting_max) {
        Metrics::Get().stalled.Increment();
        org.stalled.push_back({run->batch.events[other.event], std::move(other)});
      } else {
        run->results.emplace_back(other.sink, FailedResult(other.sequence, "STORE_UNAVAILABLE",
                                                           "too many operations wait for the hold store"));
      }
    }
    if (!run->grants.empty()) {
      org.calling = false;
      org.recover = true;
      BackOff(org, false);
    }
    if (run->take_out) org.recall_due = true;
  }
  obs::Warning("store_failed", {{"org", org.id}, {"error", Std(run->batch.status.message())}});
  Deliver(std::move(run->results));
}

void Enforcer::TickResult(Org& org, const TickEffect& effect) ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  if (effect.expired > 0) {
    org.expired = true;
    Metrics::Get().expired.Increment(effect.expired);
    Metrics::Get().open_holds.Decrement(effect.expired);
  }
  if (effect.more) org.expired_until = -absl::InfiniteDuration();  // at once again
}

void Enforcer::FinishOther(Org& org, Run& run, size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  const Run::Other& other = run.others[index];
  const auto& effect = std::get<HoldEffect>(run.batch.effects[other.event]);
  v1::OperationResult result;
  result.set_sequence(other.sequence);
  switch (effect.outcome) {
    case Outcome::kConflict:
      result = FailedResult(other.sequence, "HOLD_CONFLICT", "the hold ended with another result");
      break;
    case Outcome::kBad:
      result = FailedResult(other.sequence, "BAD_OPERATION", "an amount is out of bounds");
      break;
    case Outcome::kEpochClosed:
      if (other.refresh) {
        result = FailedResult(other.sequence, "EPOCH_CLOSED", "the hold's epoch is closed");
        break;
      }
      [[fallthrough]];  // the ledger owns what is left of a closed epoch
    default:
      result.mutable_done();
  }
  if (other.ends && effect.applied) {
    Metrics::Get().settled.Increment();
    Metrics::Get().open_holds.Decrement();
    org.mean_open_ms += (effect.open_ms - org.mean_open_ms) / 8;
  }
  run.freed += effect.credited_nanos;
  run.results.emplace_back(other.sink, std::move(result));
}

void Enforcer::FinishRun(const std::shared_ptr<Run>& run) {
  if (!run->batch.status.ok()) return FailRun(run);
  const OrgPtr& org = run->org;
  std::vector<Pending> woken;
  int64_t fence = 0;
  {
    absl::MutexLock lock(&org->mutex);
    for (const StoreEffect& effect : run->batch.effects) {
      if (const auto* tick = std::get_if<TickEffect>(&effect)) TickResult(*org, *tick);
    }
    if (!run->grants.empty()) FinishGrants(*org, *run);
    if (!run->grants.empty() && run->grant_epoch == org->epoch &&
        std::get<GrantEffect>(run->batch.effects[0]).outcome == Outcome::kEpochClosed) {
      fence = org->epoch;
    }
    if (run->take_out) {
      const auto& taken = std::get<TakeOutEffect>(run->batch.effects[*run->take_out]);
      if (taken.outcome == Outcome::kDone) org->recall_due = false;
      if (taken.return_id > 0) org->returns = true;
    }
    for (size_t i = 0; i < run->others.size(); ++i) FinishOther(*org, *run, i);
    for (size_t i = 0; i < run->reserves.size(); ++i) {
      const auto& effect = std::get<ReserveEffect>(run->batch.effects[run->first_reserve + i]);
      if (effect.outcome == Outcome::kEpochClosed) {
        if (run->reserves[i].epoch == org->epoch) fence = org->epoch;
        run->again.push_back(std::move(run->reserves[i]));
      } else {
        DecideReserve(*org, *run, run->reserves[i], effect);
      }
    }
    if (run->freed > 0) woken = TakeWaiting(*org, run->freed);
  }
  if (!run->results.empty()) Deliver(std::move(run->results));
  if (fence > 0) Fence(org, fence, false);
  for (Pending& pending : run->replays) AnswerReplay(org, std::move(pending));
  RunReserves(org, std::move(run->again), nullptr);
  RunReserves(org, std::move(woken), nullptr);
  Pump(org);
}

// Those who wait longest, as many as `freed_nanos` may serve.
std::vector<Enforcer::Pending> Enforcer::TakeWaiting(Org& org, int64_t freed_nanos)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  constexpr size_t kAtLeast = 16, kAtMost = 1024;
  std::vector<Pending> taken;
  int64_t asked = 0;
  while (!org.held.empty() && taken.size() < kAtMost) {
    if (taken.size() >= kAtLeast && asked / 2 >= freed_nanos) break;
    Pending& first = org.held.begin()->second;
    asked += first.largest_ask();
    taken.push_back(std::move(first));
    org.held.erase(org.held.begin());
  }
  return taken;
}

// --- time ----------------------------------------------------------------------------------------
void Enforcer::Tick() {
  const absl::Duration now = clock_->Monotonic();
  absl::Duration lease_age = absl::ZeroDuration();
  int64_t outbox = 0;
  size_t waiting = 0;
  for (const OrgPtr& org : AllOrgs()) {
    TickOrg(org, now);
    absl::MutexLock lock(&org->mutex);
    lease_age = std::max(lease_age, org->lease_age);
    outbox += org->outbox;
    waiting += org->held.size() + org->parked.size() + org->short_of_lease.size() + org->in_call.size();
  }
  Metrics::Get().lease_age_seconds.Set(absl::ToDoubleSeconds(lease_age));
  Metrics::Get().outbox.Set(outbox);
  Metrics::Get().waiting.Set(waiting);
}

void Enforcer::TickOrg(const OrgPtr& org, absl::Duration now) {
  Results late;
  std::vector<Pending> due;
  int64_t epoch = 0;
  bool open = false, urgent = false, retry = false;
  bool maintain = false, acknowledge = false, expire = false, post_expired = false, outboxes = false;
  absl::Duration elapsed;
  bool synced;
  {
    absl::ReaderMutexLock lock(&mutex_);
    synced = synced_;
  }
  {
    absl::MutexLock lock(&org->mutex);
    // Parked too long: whatever they wait for does not come.
    auto rest = std::stable_partition(org->parked.begin(), org->parked.end(), [&](const Pending& p) {
      return now - p.arrived < options_.patience;
    });
    for (auto it = rest; it != org->parked.end(); ++it) {
      FailOrAdmitOpen(*org, *it, org->phase == Org::Phase::kClosed ? org->closed : Closed::kLedger, late);
    }
    org->parked.erase(rest, org->parked.end());
    while (!org->stalled.empty() && now - org->stalled.front().other.arrived > kStalledMax) {
      const Run::Other& other = org->stalled.front().other;
      late.emplace_back(other.sink, FailedResult(other.sequence, "STORE_UNAVAILABLE",
                                                 "the hold store cannot be reached"));
      Metrics::Get().stalled.Decrement();
      org->stalled.pop_front();
    }
    retry = !org->stalled.empty() && now >= org->retry_stalled_at;
    if (retry) org->retry_stalled_at = now + kRetryStalled;
    open = synced && org->reopen && !org->queued && !org->opening && now >= org->open_again_at;
    urgent = !org->parked.empty() || now - org->used_at < absl::Minutes(1);
    if (org->phase == Org::Phase::kOpen) {
      epoch = org->epoch;
      const bool busy = now - org->used_at < absl::Seconds(10);
      const absl::Duration interval = busy ? options_.busy_interval : options_.idle_interval;
      // Waiting for held money: ask the ledger now and then, and once more before giving up.
      const bool poll = !org->held.empty() && now - org->held_polled_at >= options_.held_poll;
      for (auto it = org->held.begin(); it != org->held.end();) {
        Pending& pending = it->second;
        if (pending.sink->closed()) {
          it = org->held.erase(it);
          continue;
        }
        const bool over = now >= pending.give_up_at;
        if (over || poll) {
          for (const BudgetAmount& ask : pending.match.asks) {
            if (!ask.observe && ask.amount_nanos > 0) {
              org->Want({ask.budget_id, std::string(ask.period)}, ask.amount_nanos);
            }
          }
        }
        if (over && !org->ledger_down) {
          pending.asked_after = org->calls_sent;
          org->short_of_lease.push_back(std::move(pending));
          it = org->held.erase(it);
        } else if (over) {
          due.push_back(std::move(pending));
          it = org->held.erase(it);
        } else {
          ++it;
        }
      }
      if (poll) org->held_polled_at = now;
      // And the store, where another enforcer may have given something back: some of them each time.
      if (!org->held.empty() && now - org->store_polled_at >= options_.store_poll) {
        org->store_polled_at = now;
        auto it = org->held.upper_bound(org->polled_place);
        if (it == org->held.end()) it = org->held.begin();
        for (size_t i = 0; i < kPolledAtOnce && it != org->held.end(); ++i) {
          org->polled_place = it->first;
          due.push_back(std::move(it->second));
          it = org->held.erase(it);
        }
      }
      acknowledge = !org->to_acknowledge.empty() && !org->acknowledging && now >= org->acknowledge_at;
      post_expired = org->expired && !org->posting_expired && now >= org->post_expired_at;
      expire = now - org->expired_until >= interval;
      if (expire) org->expired_until = now;
      elapsed = now - org->measured_at;
      maintain = elapsed >= interval;
      if (maintain) org->measured_at = now;
      outboxes = store_->shared() && now - org->outboxes_at >= 5 * interval;
      if (outboxes) org->outboxes_at = now;
    }
  }
  if (!late.empty()) Deliver(std::move(late));
  if (open) WantOpen(org, urgent);
  if (retry) RetryStalled(org);
  if (epoch == 0) return;
  RunReserves(org, std::move(due), nullptr);
  if (expire) ExpireDue(org, epoch);
  if (acknowledge) AcknowledgeGrants(org);
  if (post_expired) PostExpired(org);
  if (maintain) Maintain(org, elapsed);
  if (outboxes) LookIntoOutboxes(org);
  Pump(org);
}

void Enforcer::ExpireDue(const OrgPtr& org, int64_t epoch) {
  auto batch = std::make_shared<StoreBatch>();
  batch->org_id = org->id;
  batch->events.emplace_back(enforcer::Tick{epoch, absl::ToUnixMillis(clock_->Wall()), 1024});
  RunBatch(batch, [this, org, batch, epoch] {
    if (!batch->status.ok()) return;
    const auto& effect = std::get<TickEffect>(batch->effects[0]);
    {
      absl::MutexLock lock(&org->mutex);
      TickResult(*org, effect);
    }
    if (effect.outcome == Outcome::kEpochClosed) Fence(org, epoch, false);
  });
}

void Enforcer::RetryStalled(const OrgPtr& org) {
  auto run = std::make_shared<Run>();
  run->org = org;
  run->batch.org_id = org->id;
  {
    absl::MutexLock lock(&org->mutex);
    while (!org->stalled.empty() && run->others.size() < kRetriedAtOnce) {
      Org::Stalled& stalled = org->stalled.front();
      Metrics::Get().stalled.Decrement();
      if (!stalled.other.sink->closed()) {
        stalled.other.event = run->batch.events.size();
        run->batch.events.push_back(std::move(stalled.event));
        run->others.push_back(std::move(stalled.other));
      }
      org->stalled.pop_front();
    }
    if (run->others.size() == kRetriedAtOnce) org->retry_stalled_at = -absl::InfiniteDuration();
  }
  if (!run->others.empty()) SubmitRun(std::move(run));
}

// --- views and the end ---------------------------------------------------------------------------
std::vector<v1::HoldView> Enforcer::ListHolds(int64_t account_id, size_t max) {
  std::vector<v1::HoldView> views;
  for (auto& [org, read] : ReadAll(AllOrgs(), {StoreQuery::What::kHolds})) {
    std::sort(read.holds.begin(), read.holds.end(),
              [](const HoldRecord& a, const HoldRecord& b) { return a.hold_id < b.hold_id; });
    for (const HoldRecord& hold : read.holds) {
      if (views.size() == max) return views;
      const bool below = account_id == 0 ||
                         std::find(hold.account_ids.begin(), hold.account_ids.end(), account_id) !=
                             hold.account_ids.end();
      if (!below || hold.state == HoldState::kExpired) continue;
      v1::HoldView& view = views.emplace_back();
      view.set_hold_id(hold.hold_id.ToString());
      if (!hold.account_ids.empty()) view.set_account_id(hold.account_ids.back());
      view.set_epoch(read.epoch);
      view.set_state(hold.state == HoldState::kOpen ? "open" : "settled");
      int64_t amount = 0;
      for (const HeldAmount& held : hold.budgets) amount = std::max(amount, held.covers_nanos);
      view.set_amount_nanousd(amount);
      *view.mutable_admitted_at() = ToProto(absl::FromUnixMillis(hold.admitted_ms));
      *view.mutable_expires_at() = ToProto(absl::FromUnixMillis(hold.deadline_ms));
      view.set_edge_id(hold.edge_id);
      FillHeld(hold, view.mutable_budgets(), false);
    }
  }
  return views;
}

std::vector<v1::GetBudgetHoldsResponse::Held> Enforcer::BudgetHolds(
    const std::vector<int64_t>& budget_ids, std::string_view subtree) {
  std::set<int64_t> wanted;
  std::vector<OrgPtr> orgs;
  for (const OrgPtr& org : AllOrgs()) {
    bool concerned = false;
    absl::MutexLock lock(&org->mutex);
    for (int64_t id : budget_ids) {
      const auto budget = org->rules.FindBudget(id);
      if (budget == nullptr) continue;
      if (!subtree.empty() && !IsAtOrBelow(budget->path(), subtree)) continue;
      concerned = true;
      wanted.insert(id);
    }
    if (concerned) orgs.push_back(org);
  }
  std::vector<v1::GetBudgetHoldsResponse::Held> all;
  for (const auto& [org, read] : ReadAll(orgs, {StoreQuery::What::kLeases})) {
    for (const LeaseRecord& lease : read.leases) {
      if (!wanted.contains(lease.budget_id)) continue;
      auto& held = all.emplace_back();
      held.set_budget_id(lease.budget_id);
      held.set_period(lease.period);
      held.set_held_nanousd(lease.held_nanos);
      held.set_lease_remaining_nanousd(lease.free_nanos);
    }
  }
  return all;
}

void Enforcer::Drain(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(draining_, true)) return;
    open_first_.clear();
    open_next_.clear();
  }
  const std::vector<OrgPtr> orgs = AllOrgs();
  for (const OrgPtr& org : orgs) {
    Results results;
    int64_t epoch = 0;
    {
      absl::MutexLock lock(&org->mutex);
      std::vector<Pending> waiting = org->TakeEverybody();
      for (Pending& p : org->parked) waiting.push_back(std::move(p));
      org->parked.clear();
      for (const Pending& p : waiting) {
        results.emplace_back(p.sink, FailedResult(p.sequence, "LEDGER_UNAVAILABLE",
                                                  "the enforcer is shutting down"));
      }
      org->demand.clear();
      org->reopen = false;
      if (org->phase == Org::Phase::kOpen) epoch = org->epoch;
    }
    Deliver(std::move(results));
    if (epoch == 0 || store_->shared()) continue;
    Read(org->id, {StoreQuery::What::kLeases}, [this, org, epoch](absl::StatusOr<StoreView> read) {
      if (!read.ok()) return;
      std::erase_if(read->leases, [](const LeaseRecord& lease) { return lease.free_nanos == 0; });
      if (!read->leases.empty()) TakeOutLease(org, epoch, std::move(read->leases), nullptr);
    });
  }
  // What is not back in time becomes suspense of a closed epoch, which its edges' reports release.
  const absl::Time deadline = absl::Now() + timeout;
  for (const OrgPtr& org : orgs) {
    absl::MutexLock lock(&org->mutex);
    const auto idle = [&org]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(org->mutex) {
      return (!org->calling && (!org->returns || org->ledger_down)) ||
             org->phase != Org::Phase::kOpen;
    };
    org->mutex.AwaitWithDeadline(absl::Condition(&idle), deadline);
  }
}

}  // namespace tollhouse::enforcer
