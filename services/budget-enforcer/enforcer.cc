#include "services/budget-enforcer/enforcer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/obs/metrics.h"
#include "libs/rpc/permission.h"
#include "services/budget-enforcer/rules.h"

namespace tollhouse::enforcer {
namespace {

using Key = std::pair<int64_t, std::string>;  // (budget, period)
using KeyView = std::pair<int64_t, std::string_view>;
struct KeyHash {
  using is_transparent = void;
  size_t operator()(const KeyView& key) const { return absl::HashOf(key.first, Absl(key.second)); }
};
struct KeyEqual {
  using is_transparent = void;
  bool operator()(const KeyView& a, const KeyView& b) const { return a == b; }
};
template <typename Value>
using ByKey = absl::flat_hash_map<Key, Value, KeyHash, KeyEqual>;

constexpr int64_t kLargestLease = 4 * kMaxHoldNanos;  // four of the largest holds
constexpr int64_t kHoldsAhead = 8;                    // the least a lease is made for
constexpr int kOpeningAtOnce = 16;

struct Metrics {
  prometheus::Counter& admitted =
      obs::Counter("tollhouse_enforcer_reservations_admitted_total", "Holds made");
  prometheus::Counter& admitted_open =
      obs::Counter("tollhouse_enforcer_reservations_admitted_open_total",
                   "Holds made without lease of a budget that is open on outage");
  prometheus::Counter& waited = obs::Counter("tollhouse_enforcer_reservations_waited_total",
                                             "Reservations that waited for money held by others");
  prometheus::Counter& expired =
      obs::Counter("tollhouse_enforcer_holds_expired_total", "Holds that became suspense");
  prometheus::Counter& settled =
      obs::Counter("tollhouse_enforcer_holds_settled_total", "Holds settled or voided");
  prometheus::Counter& grants =
      obs::Counter("tollhouse_enforcer_lease_grants_total", "Lease grants taken from the ledger");
  prometheus::Counter& returns =
      obs::Counter("tollhouse_enforcer_lease_returns_total", "Lease given back to the ledger");
  prometheus::Counter& epochs =
      obs::Counter("tollhouse_enforcer_epochs_registered_total", "Epochs registered");

  prometheus::Counter& Refused(v1::Reason reason) {
    static const auto& counters = *new std::vector<prometheus::Counter*>([] {
      std::vector<prometheus::Counter*> all;
      for (int i = 0; i <= v1::Reason_MAX; ++i) {
        all.push_back(&obs::Counter("tollhouse_enforcer_reservations_refused_total",
                                    "Reservations refused, by reason of the answer",
                                    {{"reason", v1::Reason_Name(static_cast<v1::Reason>(i))}}));
      }
      return all;
    }());
    return *counters[reason];
  }

  static Metrics& Get() {
    static Metrics& metrics = *new Metrics;
    return metrics;
  }
};

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

v1::OperationResult FailedResult(uint64_t sequence, std::string_view reason, std::string_view message) {
  v1::OperationResult result;
  result.set_sequence(sequence);
  result.mutable_failed()->set_reason(std::string(reason));
  result.mutable_failed()->set_message(std::string(message));
  return result;
}

// Infrastructure that may be back in a moment; anything else is the ledger's answer.
bool Transient(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kAborted ||
         status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kInternal ||
         status.code() == absl::StatusCode::kUnknown;
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

}  // namespace

// --- what is in memory per org -------------------------------------------------------------------
// A Reserve on its way to an answer.
struct Enforcer::Pending {
  std::shared_ptr<const Arrival> arrival;  // owns `ask`
  const v1::Reserve* ask = nullptr;
  uint64_t sequence = 0;
  std::shared_ptr<ResultSink> sink;
  Uuid hold_id;
  Fingerprint fingerprint{};
  absl::Duration arrived, give_up_at;  // monotonic
  int64_t epoch = 0;                   // of the last try
  Match match;                         // of the last try
  std::vector<int64_t> open;           // budgets to take 0 of: the ledger is out of reach
  // The ledger's state of a budget is fresh for this request if it came with a later lease call.
  int64_t asked_after = -1;
  bool waiting = false;  // for money that others hold
  int hopeful = 0;       // times the ledger had enough and others were faster
};

struct Enforcer::Org {
  explicit Org(int64_t org_id) : id(org_id) {}

  enum class Phase { kClosed, kOpening, kOpen };
  struct LeaseView {
    int64_t state_call = -1;  // the lease call that brought `state`; -1: none
    ledger::v1::BudgetState state;
    bool row_known = false;     // the ledger has such a row; `state` may still be all zero
    int64_t last_call = -1;     // the last lease call that asked for this
    int64_t largest_hold = 0;
    int64_t rate_per_s = 0;     // nanos of lease used up, decaying average
    int64_t flow = 0;           // granted - returned since the last measurement
    int64_t last_free = 0;
    absl::Duration used_at;
    absl::Duration refilled_at = -absl::InfiniteDuration();
  };
  struct Demand {
    int64_t wanted = 0;  // by reservations that wait
  };
  struct EdgeState {
    bool registered = false;
  };

  const int64_t id;
  absl::Mutex mutex;
  Rules rules ABSL_GUARDED_BY(mutex);

  Phase phase ABSL_GUARDED_BY(mutex) = Phase::kClosed;
  int64_t epoch ABSL_GUARDED_BY(mutex) = 0;         // the open one, ours
  int64_t newest_epoch ABSL_GUARDED_BY(mutex) = 0;  // that anyone registered, as far as known
  std::string incarnation ABSL_GUARDED_BY(mutex);   // of the store, when it was asked last
  absl::Duration open_again_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration open_backoff ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  bool opened_at_start ABSL_GUARDED_BY(mutex) = false;
  std::map<std::pair<std::string, std::string>, EdgeState> edges ABSL_GUARDED_BY(mutex);
  std::vector<Pending> parked ABSL_GUARDED_BY(mutex);  // until rules, epoch and edge are there

  // Lease calls (grants and returns) go one at a time: grants are numbered without gaps.
  bool calling ABSL_GUARDED_BY(mutex) = false;
  int64_t calls_sent ABSL_GUARDED_BY(mutex) = 0;
  int64_t last_grant ABSL_GUARDED_BY(mutex) = 0;
  // A grant whose outcome is not known yet, and its call number: sent again until it is.
  std::optional<ledger::v1::GrantLeaseRequest> unanswered ABSL_GUARDED_BY(mutex);
  int64_t unanswered_call ABSL_GUARDED_BY(mutex) = 0;
  bool ledger_down ABSL_GUARDED_BY(mutex) = false;
  absl::Duration call_again_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration call_backoff ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  bool returns ABSL_GUARDED_BY(mutex) = false;  // the store may have returns to post
  ByKey<Demand> demand ABSL_GUARDED_BY(mutex);
  std::vector<Pending> short_of_lease ABSL_GUARDED_BY(mutex);  // for the next call's answer
  std::vector<Pending> in_call ABSL_GUARDED_BY(mutex);         // for the answer under way
  std::deque<Pending> held ABSL_GUARDED_BY(mutex);             // for credits, or time
  ByKey<LeaseView> views ABSL_GUARDED_BY(mutex);
  std::vector<int64_t> to_acknowledge ABSL_GUARDED_BY(mutex);
  bool acknowledging ABSL_GUARDED_BY(mutex) = false;
  bool expired ABSL_GUARDED_BY(mutex) = false;  // the store may have expired holds to post
  bool posting_expired ABSL_GUARDED_BY(mutex) = false;
  absl::Duration post_expired_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration held_polled_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration measured_at ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  int64_t mean_open_ms ABSL_GUARDED_BY(mutex) = 1000;  // how long holds stay open, decaying average

  LeaseView& View(int64_t budget_id, std::string_view period) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (auto it = views.find(KeyView{budget_id, period}); it != views.end()) return it->second;
    return views[{budget_id, std::string(period)}];
  }

  // What a lease should be, and what to ask for now.
  int64_t Target(const LeaseView& view, absl::Duration horizon) const {
    const int64_t seconds = std::max<int64_t>(1, absl::ToInt64Seconds(horizon));
    const int64_t burn = view.rate_per_s > kLargestLease / seconds ? kLargestLease
                                                                   : view.rate_per_s * seconds;
    const int64_t ahead = std::min(view.largest_hold, kLargestLease / kHoldsAhead) * kHoldsAhead;
    return std::min(kLargestLease, std::max(burn, ahead));
  }

  int64_t Want(const LeaseView& view, int64_t wanted, bool recall, absl::Duration horizon) const {
    if (recall) return std::max<int64_t>(1, wanted);
    int64_t want = std::max(wanted, Target(view, horizon));
    if (view.state_call >= 0) {
      // Far from the cap: never more than half of what is left, so that a lost store strands little.
      // Near it: the whole remainder, so that nothing is stranded beside the lease.
      const int64_t left = view.state.avail_nanousd();
      const int64_t margin =
          std::min(view.largest_hold, kLargestLease / kHoldsAhead) * 2 * kHoldsAhead;
      want = left - want < margin ? kLargestLease : std::max(wanted, std::min(want, left / 2));
    }
    return std::clamp<int64_t>(want, 1, kLargestLease);
  }
};

// Operations of one org on their way through the store.
struct Enforcer::Run {
  struct Other {  // not a Reserve
    size_t event = 0;
    uint64_t sequence = 0;
    std::shared_ptr<ResultSink> sink;
    bool refresh = false;
    bool ends = false;  // Settle or Void
  };

  OrgPtr org;
  std::shared_ptr<const Arrival> arrival;
  StoreBatch batch;
  std::vector<Pending> reserves;
  size_t first_reserve = 0;  // event of reserves[0]; the others follow
  std::vector<Other> others;
  int64_t answered_call = 0;  // the lease call whose answer this run follows, 0: none
  bool grant = false;         // events[0] is an AddGrant
  std::vector<BudgetAmount> grant_amounts;
  std::shared_ptr<ledger::v1::GrantLeaseRequest> grant_request;
  std::vector<BudgetAmount> recall_keep;
  std::vector<std::shared_ptr<Budget>> recall_budgets;  // own the periods of recall_keep
  size_t take_out = 0;                                  // its event, 0: none

  // Set while finishing.
  Results results;
  std::vector<Pending> again, replays;
  bool credited = false;
};

Enforcer::Enforcer(EnforcerOptions options, HoldStore* store, LedgerClient* ledger, const Clock* clock)
    : options_(options), store_(store), ledger_(ledger), clock_(clock) {
  Metrics::Get();
}

Enforcer::~Enforcer() = default;

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
    group.push_back(std::move(results[i].second));
    if (i + 1 == results.size() || results[i + 1].first != results[i].first) {
      results[i].first->Deliver(std::move(group));
      group.clear();
    }
  }
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
    run->others.push_back({run->batch.events.size(), op.sequence(), sink,
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
  const absl::Time wall = clock_->Wall();
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
    const v1::Edge* registered = nullptr;  // the one looked up last
    for (Pending& pending : reserves) {
      if (pending.sink->closed()) continue;
      if (!synced || org->phase != Org::Phase::kOpen) {
        if (synced && org->phase == Org::Phase::kClosed) {
          if (clock_->Monotonic() < org->open_again_at) {
            run->results.emplace_back(
                pending.sink, FailedResult(pending.sequence, "LEDGER_UNAVAILABLE",
                                           "no epoch is open: the ledger cannot be reached"));
            continue;
          }
          open_epoch = true;
        }
        org->parked.push_back(std::move(pending));
        continue;
      }
      const v1::Edge& edge = pending.arrival->edge;
      if (&edge != registered) {
        auto known = org->edges.find({edge.edge_id(), edge.boot_id()});
        if (known != org->edges.end() && known->second.registered) registered = &edge;
      }
      if (&edge != registered) {
        auto known = org->edges.find({edge.edge_id(), edge.boot_id()});
        if (known == org->edges.end()) {
          org->edges[{edge.edge_id(), edge.boot_id()}];
          new_edges.emplace_back(edge.edge_id(), edge.boot_id());
        }
        org->parked.push_back(std::move(pending));
        continue;
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
    if (!org->rules.recalled().empty() && !run->others.empty() && org->phase == Org::Phase::kOpen) {
      for (const auto& budget : org->rules.recalled()) {
        run->recall_budgets.push_back(budget);
        run->recall_keep.push_back({budget->id(), budget->PeriodKey(wall), 0});
      }
    }
    if (epoch > 0) run->batch.events.emplace_back(enforcer::Tick{epoch, now_ms, 256});
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
  if (run->reserves.empty() && run->others.empty() && !run->grant) {
    if (!run->results.empty()) Deliver(std::move(run->results));
  } else {
    SubmitRun(std::move(run));
  }
  if (open_epoch) OpenEpoch(org);
  for (const auto& [edge_id, boot_id] : new_edges) RegisterEdge(org, epoch, edge_id, boot_id);
}

void Enforcer::SubmitRun(std::shared_ptr<Run> run) {
  StoreBatch* const batch = &run->batch;
  store_->Run(batch, [this, run = std::move(run)] { FinishRun(run); });
}

void Enforcer::FinishRun(const std::shared_ptr<Run>& run) {
  const OrgPtr& org = run->org;
  std::vector<Pending> woken;
  int64_t fence = 0;
  if (!run->batch.status.ok()) {
    for (const Pending& pending : run->reserves) {
      run->results.emplace_back(pending.sink, FailedResult(pending.sequence, "LEDGER_UNAVAILABLE",
                                                           "the hold store cannot be reached"));
    }
    for (const Run::Other& other : run->others) {
      run->results.emplace_back(other.sink, FailedResult(other.sequence, "LEDGER_UNAVAILABLE",
                                                         "the hold store cannot be reached"));
    }
    if (run->grant) {  // asked for again, under the same number
      absl::MutexLock lock(&org->mutex);
      org->calling = false;
      BackOff(*org);
    }
    Deliver(std::move(run->results));
    return;
  }
  {
    absl::MutexLock lock(&org->mutex);
    for (const StoreEffect& effect : run->batch.effects) {
      if (const auto* tick = std::get_if<TickEffect>(&effect); tick != nullptr && tick->expired > 0) {
        org->expired = true;
        Metrics::Get().expired.Increment(tick->expired);
      }
    }
    if (run->grant) {
      const auto& effect = std::get<GrantEffect>(run->batch.effects[0]);
      org->calling = false;  // not before: grants are added in the order of their numbers
      if (org->epoch == run->grant_request->epoch()) org->unanswered.reset();
      if (effect.outcome == Outcome::kDone) {
        if (org->epoch == run->grant_request->epoch()) {
          org->to_acknowledge.push_back(run->grant_request->grant_id());
        }
        if (effect.applied) {
          for (const BudgetAmount& item : run->grant_amounts) {
            org->views[{item.budget_id, std::string(item.period)}].flow += item.amount_nanos;
          }
        }
        Metrics::Get().grants.Increment();
      } else if (effect.outcome != Outcome::kEpochClosed) {
        obs::Error("grant_not_added", {{"org", org->id},
                                       {"epoch", run->grant_request->epoch()},
                                       {"grant", run->grant_request->grant_id()},
                                       {"outcome", static_cast<int>(effect.outcome)}});
      }
    }
    if (run->take_out > 0 && std::get<TakeOutEffect>(run->batch.effects[run->take_out]).return_id > 0) {
      org->returns = true;
    }
    for (const Run::Other& other : run->others) {
      const auto& effect = std::get<HoldEffect>(run->batch.effects[other.event]);
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
        org->mean_open_ms += (effect.open_ms - org->mean_open_ms) / 8;
      }
      run->credited |= effect.credited_nanos > 0;
      run->results.emplace_back(other.sink, std::move(result));
    }
    for (size_t i = 0; i < run->reserves.size(); ++i) {
      const auto& effect = std::get<ReserveEffect>(run->batch.effects[run->first_reserve + i]);
      if (effect.outcome == Outcome::kEpochClosed) {
        if (run->reserves[i].epoch == org->epoch) fence = org->epoch;
        run->again.push_back(std::move(run->reserves[i]));
      } else {
        DecideReserve(*org, *run, run->reserves[i], effect);
      }
    }
    if (run->credited && !org->held.empty()) {
      woken.assign(std::make_move_iterator(org->held.begin()), std::make_move_iterator(org->held.end()));
      org->held.clear();
    }
  }
  if (!run->results.empty()) Deliver(std::move(run->results));
  if (fence > 0) Fence(org, fence);
  for (Pending& pending : run->replays) AnswerReplay(org, std::move(pending));
  if (!run->again.empty()) RunReserves(org, std::move(run->again), nullptr);
  if (!woken.empty()) RunReserves(org, std::move(woken), nullptr);
  Pump(org);
}

// --- decisions -----------------------------------------------------------------------------------
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
                                                          "this hold has ended already"));
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
      violation->set_reason(limit.kind == LimitKind::kRequests ? v1::REASON_REQUEST_RATE
                            : limit.kind == LimitKind::kTokens ? v1::REASON_TOKEN_RATE
                                                               : v1::REASON_CONCURRENCY);
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
      org.demand[{ask.budget_id, std::string(ask.period)}];
    }
  }
  if (!pending.open.empty()) Metrics::Get().admitted_open.Increment();
  Metrics::Get().admitted.Increment();
  run.results.emplace_back(pending.sink, std::move(result));
}

// Too little lease in the store. Only the ledger knows whether there is more.
void Enforcer::DecideShort(Org& org, Run& run, Pending& pending, const ReserveEffect& effect)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(org.mutex) {
  const absl::Duration now = clock_->Monotonic();
  const absl::Time wall = clock_->Wall();
  if (org.ledger_down && now < org.call_again_at) {
    DecideOutage(org, run, pending, effect);
    return;
  }
  auto demand_all = [&] {
    for (const Shortage& shortage : effect.shortages) {
      const BudgetAmount& ask = pending.match.asks[shortage.index];
      Key key{ask.budget_id, std::string(ask.period)};
      Org::LeaseView& view = org.views[key];
      view.largest_hold = std::max(view.largest_hold, ask.amount_nanos);
      view.used_at = now;
      int64_t& wanted = org.demand[key].wanted;
      wanted = std::min(kLargestLease, wanted + ask.amount_nanos);
    }
  };
  // Woken by a credit that was not enough: wait on, unless time is up.
  if (pending.waiting && run.answered_call == 0 && now < pending.give_up_at) {
    org.held.push_back(std::move(pending));
    return;
  }
  bool fresh = pending.asked_after >= 0;
  for (const Shortage& shortage : effect.shortages) {
    const BudgetAmount& ask = pending.match.asks[shortage.index];
    auto view = org.views.find(Key{ask.budget_id, std::string(ask.period)});
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
  if (only_held && now < pending.give_up_at && org.held.size() < options_.waiting_max) {
    if (!pending.waiting) Metrics::Get().waited.Increment();
    pending.waiting = true;
    pending.asked_after = org.calls_sent;
    org.held.push_back(std::move(pending));
    return;
  }
  for (const LimitViolation& limit : effect.limits) {
    v1::Violation* violation = refused->add_violations();
    violation->set_reason(limit.kind == LimitKind::kRequests ? v1::REASON_REQUEST_RATE
                          : limit.kind == LimitKind::kTokens ? v1::REASON_TOKEN_RATE
                                                             : v1::REASON_CONCURRENCY);
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
    violation->set_reason(limit.kind == LimitKind::kRequests ? v1::REASON_REQUEST_RATE
                          : limit.kind == LimitKind::kTokens ? v1::REASON_TOKEN_RATE
                                                             : v1::REASON_CONCURRENCY);
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

// The same Reserve again while its hold is open: the answer is what the record says.
void Enforcer::AnswerReplay(const OrgPtr& org, Pending pending) {
  auto shared = std::make_shared<Pending>(std::move(pending));
  store_->Read(org->id, {StoreQuery::What::kHold, shared->hold_id},
               [this, shared](absl::StatusOr<StoreView> view) {
                 v1::OperationResult result;
                 result.set_sequence(shared->sequence);
                 if (!view.ok() || view->holds.empty() || view->epoch != shared->epoch) {
                   result = FailedResult(shared->sequence, "HOLD_FINISHED", "this hold has ended already");
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

// --- epochs --------------------------------------------------------------------------------------
void Enforcer::OpenEpoch(const OrgPtr& org) {
  {
    absl::MutexLock lock(&org->mutex);
    if (org->phase != Org::Phase::kClosed) return;
    org->phase = Org::Phase::kOpening;
  }
  RegisterEpoch(org, 0);
}

void Enforcer::RegisterEpoch(const OrgPtr& org, int attempt) {
  store_->Identify(org->id, [this, org, attempt](const absl::StatusOr<std::string>& identity) {
    if (!identity.ok()) return EpochAnswered(org, "", identity.status(), attempt);
    ledger::v1::RegisterEpochRequest request;
    request.set_org_id(org->id);
    request.set_incarnation(*identity);
    {
      absl::MutexLock lock(&org->mutex);
      org->incarnation = *identity;
      request.set_expected_epoch(org->newest_epoch);
    }
    ledger_->RegisterEpoch(request, [this, org, attempt, identity = *identity](const auto& answer) {
      EpochAnswered(org, identity, answer, attempt);
    });
  });
}

void Enforcer::EpochAnswered(const OrgPtr& org, const std::string& incarnation,
                             const absl::StatusOr<ledger::v1::RegisterEpochResponse>& answer,
                             int attempt) {
  if (!answer.ok() && ReasonOf(answer.status()) == "EPOCH_MOVED" && attempt < 3) {
    int64_t newest = 0;
    const auto metadata = MetadataOf(answer.status());
    if (auto it = metadata.find("epoch");
        it != metadata.end() && absl::SimpleAtoi(Absl(it->second), &newest)) {
      {
        absl::MutexLock lock(&org->mutex);
        org->newest_epoch = newest;
      }
      RegisterEpoch(org, attempt + 1);
      return;
    }
  }
  std::vector<Pending> parked;
  Results results;
  auto finish_opening = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(org->mutex) {
    parked.swap(org->parked);
    return std::exchange(org->opened_at_start, false);
  };
  bool at_start = false;
  if (!answer.ok()) {
    const bool no_org = answer.status().code() == absl::StatusCode::kNotFound;
    obs::Warning("epoch_not_registered", {{"org", org->id}, {"error", Std(answer.status().message())}});
    absl::MutexLock lock(&org->mutex);
    org->phase = Org::Phase::kClosed;
    org->open_backoff = std::clamp(org->open_backoff * 2, options_.first_backoff, options_.longest_backoff);
    org->open_again_at = clock_->Monotonic() + org->open_backoff;
    at_start = finish_opening();
    for (const Pending& pending : parked) {
      results.emplace_back(pending.sink,
                           no_org ? FailedResult(pending.sequence, "UNKNOWN_ACCOUNT",
                                                 "the ledger knows no such org")
                                  : FailedResult(pending.sequence, "LEDGER_UNAVAILABLE",
                                                 "no epoch can be opened: the ledger cannot be reached"));
    }
    parked.clear();
  } else {
    const int64_t epoch = answer->epoch();
    auto init = std::make_shared<StoreBatch>();
    init->org_id = org->id;
    init->incarnation = incarnation;
    init->events.emplace_back(InitEpoch{epoch});
    store_->Run(init.get(), [this, org, init, epoch] {
      std::vector<Pending> ready;
      bool start = false;
      const bool ok = init->status.ok() && std::get<Outcome>(init->effects[0]) == Outcome::kDone;
      {
        absl::MutexLock lock(&org->mutex);
        org->newest_epoch = std::max(org->newest_epoch, epoch);
        if (ok && org->newest_epoch == epoch) {
          org->phase = Org::Phase::kOpen;
          org->open_backoff = absl::ZeroDuration();
          if (org->epoch != epoch) {  // a new one: nothing of the old one counts
            org->epoch = epoch;
            org->edges.clear();
            org->views.clear();
            org->demand.clear();
            org->to_acknowledge.clear();
            org->unanswered.reset();
            org->last_grant = 0;
            org->returns = org->expired = false;
            org->ledger_down = false;
            for (Pending& p : org->short_of_lease) ready.push_back(std::move(p));
            for (Pending& p : org->held) ready.push_back(std::move(p));
            org->short_of_lease.clear();
            org->held.clear();
          }
        } else {
          org->phase = Org::Phase::kClosed;
          org->open_again_at = clock_->Monotonic() + options_.longest_backoff;
        }
        for (Pending& p : org->parked) ready.push_back(std::move(p));
        org->parked.clear();
        start = std::exchange(org->opened_at_start, false);
      }
      for (Pending& p : ready) {
        p.asked_after = -1;
        p.waiting = false;
      }
      Metrics::Get().epochs.Increment();
      obs::Info("epoch_opened", {{"org", org->id}, {"epoch", epoch}, {"serving", ok}});
      RunReserves(org, std::move(ready), nullptr);
      if (start) OpenMoreAtStart();
    });
    return;
  }
  if (!results.empty()) Deliver(std::move(results));
  if (at_start) OpenMoreAtStart();
}

// Somebody else registered an epoch, or the store lost ours: nothing of ours may be served (R4).
void Enforcer::Fence(const OrgPtr& org, int64_t epoch) {
  std::vector<Pending> failed;
  {
    absl::MutexLock lock(&org->mutex);
    if (org->epoch != epoch || org->phase != Org::Phase::kOpen) return;
    org->phase = Org::Phase::kClosed;
    // Two enforcers that register in turn burn a lease each time: give the other one a moment.
    org->open_backoff = std::clamp(org->open_backoff * 2, options_.first_backoff, options_.longest_backoff);
    org->open_again_at = clock_->Monotonic() + org->open_backoff;
    for (auto* waiting : {&org->short_of_lease, &org->parked}) {
      for (Pending& p : *waiting) failed.push_back(std::move(p));
      waiting->clear();
    }
    for (Pending& p : org->held) failed.push_back(std::move(p));
    org->held.clear();
    org->demand.clear();
  }
  obs::Warning("epoch_fenced", {{"org", org->id}, {"epoch", epoch}});
  Results results;
  for (const Pending& p : failed) {
    results.emplace_back(p.sink, FailedResult(p.sequence, "EPOCH_CLOSED", "another epoch was opened"));
  }
  Deliver(std::move(results));
}

void Enforcer::RegisterEdge(const OrgPtr& org, int64_t epoch, const std::string& edge_id,
                            const std::string& boot_id) {
  ledger::v1::RegisterEdgeRequest request;
  request.set_org_id(org->id);
  request.set_epoch(epoch);
  request.set_edge_id(edge_id);
  request.set_boot_id(boot_id);
  ledger_->RegisterEdge(request, [this, org, epoch, edge_id, boot_id](const auto& answer) {
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
      if (!answer.ok()) {
        auto rest = std::stable_partition(ready.begin(), ready.end(), [&](const Pending& p) {
          return p.arrival->edge.edge_id() != edge_id || p.arrival->edge.boot_id() != boot_id;
        });
        for (auto it = rest; it != ready.end(); ++it) {
          results.emplace_back(it->sink, FailedResult(it->sequence, "LEDGER_UNAVAILABLE",
                                                      "the edge cannot be registered at the ledger"));
        }
        ready.erase(rest, ready.end());
      }
    }
    if (!results.empty()) Deliver(std::move(results));
    if (!answer.ok() && ReasonOf(answer.status()) == "EPOCH_CLOSED") Fence(org, epoch);
    if (!ready.empty()) RunReserves(org, std::move(ready), nullptr);
  });
}

void Enforcer::OpenMoreAtStart() {
  OrgPtr next;
  {
    absl::MutexLock lock(&mutex_);
    --opening_;
    if (!to_open_.empty() && !draining_) {
      next = to_open_.front();
      to_open_.pop_front();
      ++opening_;
    }
  }
  if (next != nullptr) OpenEpoch(next);
}

// --- rules ---------------------------------------------------------------------------------------
void Enforcer::ApplyRules(const ledger::v1::WatchResponse& change) {
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

  const absl::Time wall = clock_->Wall();
  std::vector<std::pair<OrgPtr, int64_t>> fenced;
  std::vector<OrgPtr> foreign;
  struct Recall {
    OrgPtr org;
    int64_t epoch;
    std::vector<LeaseRecord> leases;
  };
  std::vector<Recall> recalls;
  for (const OrgPtr& org : AllOrgs()) {
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
    if (auto it = epochs.find(org->id); it != epochs.end()) {
      const ledger::v1::Epoch& epoch = *it->second;
      org->newest_epoch = std::max(org->newest_epoch, epoch.epoch());
      const bool ours = epoch.incarnation() == org->incarnation;
      if (!ours && epoch.epoch() > org->epoch) {
        if (org->phase == Org::Phase::kOpen) {
          fenced.emplace_back(org, org->epoch);
        } else if (change.snapshot() && org->phase == Org::Phase::kClosed) {
          foreign.push_back(org);
          org->opened_at_start = true;
        }
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
  for (const auto& [org, epoch] : fenced) Fence(org, epoch);
  for (Recall& recall : recalls) TakeOutLease(recall.org, recall.epoch, std::move(recall.leases));

  bool first = false;
  std::vector<OrgPtr> open_now;
  {
    absl::MutexLock lock(&mutex_);
    first = change.snapshot() && !std::exchange(synced_, true);
    // Old epochs are closed at once, so that their edges report and what they held comes back.
    for (const OrgPtr& org : foreign) {
      if (opening_ < kOpeningAtOnce) {
        ++opening_;
        open_now.push_back(org);
      } else {
        to_open_.push_back(org);
      }
    }
  }
  for (const OrgPtr& org : open_now) OpenEpoch(org);
  if (!first) return;
  for (const OrgPtr& org : AllOrgs()) {
    std::vector<Pending> parked;
    {
      absl::MutexLock lock(&org->mutex);
      parked.swap(org->parked);
    }
    if (!parked.empty()) RunReserves(org, std::move(parked), nullptr);
  }
}

// --- lease ---------------------------------------------------------------------------------------
// Moves all free lease of these (budget, period)s into the outbox and starts posting it.
void Enforcer::TakeOutLease(const OrgPtr& org, int64_t epoch, std::vector<LeaseRecord> leases) {
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
  store_->Run(&work->batch, [this, org, work] {
    if (!work->batch.status.ok()) return;
    if (std::get<TakeOutEffect>(work->batch.effects[0]).return_id == 0) return;
    {
      absl::MutexLock lock(&org->mutex);
      org->returns = true;
    }
    Pump(org);
  });
}

// After a lease call that failed: leave the ledger alone for a moment.
void Enforcer::BackOff(Org& org) {
  org.ledger_down = true;
  org.call_backoff = std::clamp(org.call_backoff * 2, options_.first_backoff, options_.longest_backoff);
  org.call_again_at = clock_->Monotonic() + org.call_backoff;
}

// Sends the next lease call if none is under way: an unanswered one again, returns, then grants.
void Enforcer::Pump(const OrgPtr& org) {
  std::optional<ledger::v1::GrantLeaseRequest> grant;
  {
    absl::MutexLock lock(&org->mutex);
    if (org->calling || org->phase != Org::Phase::kOpen) return;
    if (org->ledger_down && clock_->Monotonic() < org->call_again_at) return;
    if (org->unanswered) {
      grant = org->unanswered;  // its answer may be old: who waits now waits for the next call
    } else if (org->returns) {
      org->calling = true;
    } else if (!org->demand.empty()) {
      grant.emplace();
      grant->set_org_id(org->id);
      grant->set_epoch(org->epoch);
      grant->set_grant_id(++org->last_grant);
      ++org->calls_sent;
      for (const auto& [key, demand] : org->demand) {
        auto* item = grant->add_items();
        Org::LeaseView& view = org->views[key];
        view.last_call = org->calls_sent;
        const auto budget = org->rules.FindBudget(key.first);
        item->set_budget_id(key.first);
        item->set_period(key.second);
        item->set_need_nanousd(1);
        item->set_want_nanousd(
            org->Want(view, demand.wanted, budget != nullptr && budget->recall(), options_.lease_horizon));
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
  if (grant) {
    SendGrant(org, *grant);
  } else {
    SendReturn(org);
  }
}

void Enforcer::SendGrant(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request) {
  ledger_->GrantLease(request, [this, org, request](const auto& answer) {
    GrantAnswered(org, request, answer);
  });
}

void Enforcer::GrantAnswered(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request,
                             const absl::StatusOr<ledger::v1::GrantLeaseResponse>& answer) {
  std::vector<Pending> tried;
  auto run = std::make_shared<Run>();
  bool fence = false;
  {
    absl::MutexLock lock(&org->mutex);
    org->calling = answer.ok();  // until the store has it
    tried.swap(org->in_call);
    if (org->epoch != request.epoch() || org->phase != Org::Phase::kOpen) {
      // Fenced meanwhile; whoever waited tries again under what is open then.
      org->calling = false;
    } else if (answer.ok()) {
      org->ledger_down = false;
      org->call_backoff = absl::ZeroDuration();
      run->org = org;
      run->batch.org_id = org->id;
      run->grant = true;
      run->answered_call = org->unanswered_call;
      run->grant_request = std::make_shared<ledger::v1::GrantLeaseRequest>(request);
      for (int i = 0; i < answer->items_size() && i < request.items_size(); ++i) {
        const auto& item = answer->items(i);
        const auto& asked = run->grant_request->items(i);
        run->grant_amounts.push_back({asked.budget_id(), asked.period(), item.granted_nanousd()});
        Org::LeaseView& view = org->views[{asked.budget_id(), asked.period()}];
        view.state = item.state();
        view.row_known = item.has_state();
        view.state_call = org->unanswered_call;
      }
      run->batch.events.emplace_back(AddGrant{request.epoch(), request.grant_id(), run->grant_amounts});
      // Everyone who waits for money tries, those who waited longest first.
      std::vector<Pending> all(std::make_move_iterator(org->held.begin()),
                               std::make_move_iterator(org->held.end()));
      org->held.clear();
      for (Pending& pending : tried) all.push_back(std::move(pending));
      tried = std::move(all);
    } else if (ReasonOf(answer.status()) == "EPOCH_CLOSED") {
      fence = true;
    } else {
      obs::Warning("lease_not_granted", {{"org", org->id}, {"error", Std(answer.status().message())}});
      if (!Transient(answer.status())) {
        // Refused as a whole: nothing was granted under this number.
        org->unanswered.reset();
        --org->last_grant;
        for (const auto& item : request.items()) {
          Org::LeaseView& view = org->views[{item.budget_id(), item.period()}];
          view.last_call = view.state_call;
        }
      }
      BackOff(*org);
    }
  }
  if (fence) Fence(org, request.epoch());
  RunReserves(org, std::move(tried), run->grant ? run : nullptr);
  if (!run->grant) Pump(org);
}

void Enforcer::SendReturn(const OrgPtr& org) {
  store_->Read(org->id, {StoreQuery::What::kReturns}, [this, org](absl::StatusOr<StoreView> view) {
    auto stop = [&](bool more) {
      {
        absl::MutexLock lock(&org->mutex);
        org->calling = false;
        org->returns = more;
      }
      if (!more) Pump(org);
    };
    int64_t epoch;
    {
      absl::MutexLock lock(&org->mutex);
      epoch = org->epoch;
    }
    if (!view.ok()) return stop(true);
    if (view->epoch != epoch || view->returns.empty()) return stop(false);
    const ReturnRecord& record = view->returns.front();
    ledger::v1::ReturnLeaseRequest request;
    request.set_org_id(org->id);
    request.set_epoch(epoch);
    request.set_return_id(record.return_id);
    for (const LeaseRecord& lease : record.amounts) {
      auto* held = request.add_amounts();
      held->set_budget_id(lease.budget_id);
      held->set_period(lease.period);
      held->set_amount_nanousd(lease.free_nanos);
    }
    ledger_->ReturnLease(request, [this, org, request](const auto& answer) {
      auto posted = std::make_shared<StoreBatch>();
      bool fence = false;
      {
        absl::MutexLock lock(&org->mutex);
        org->calling = answer.ok();  // until the store has dropped it
        if (answer.ok()) {
          Metrics::Get().returns.Increment();
          for (const auto& held : request.amounts()) {
            Org::LeaseView& lease = org->views[{held.budget_id(), held.period()}];
            lease.flow -= held.amount_nanousd();
            if (lease.state_call >= 0) {
              lease.state.set_avail_nanousd(lease.state.avail_nanousd() + held.amount_nanousd());
            }
          }
        } else {
          fence = ReasonOf(answer.status()) == "EPOCH_CLOSED";
          BackOff(*org);
        }
      }
      if (fence) Fence(org, request.epoch());
      if (!answer.ok()) {
        obs::Warning("lease_not_returned",
                     {{"org", org->id}, {"error", Std(answer.status().message())}});
        return;
      }
      posted->org_id = org->id;
      posted->events.emplace_back(ReturnPosted{request.epoch(), request.return_id()});
      store_->Run(posted.get(), [this, org, posted] {
        {
          absl::MutexLock lock(&org->mutex);
          org->calling = false;
        }
        Pump(org);
      });
    });
  });
}

// --- time ----------------------------------------------------------------------------------------
void Enforcer::Tick() {
  const absl::Duration now = clock_->Monotonic();
  for (const OrgPtr& org : AllOrgs()) TickOrg(org, now);
}

void Enforcer::TickOrg(const OrgPtr& org, absl::Duration now) {
  Results late;
  std::vector<Pending> due;
  int64_t epoch = 0;
  bool maintain = false, acknowledge = false, expired = false;
  absl::Duration elapsed;
  {
    absl::MutexLock lock(&org->mutex);
    // Parked too long: whatever they wait for does not come.
    auto rest = std::stable_partition(org->parked.begin(), org->parked.end(), [&](const Pending& p) {
      return now - p.arrived < options_.patience;
    });
    for (auto it = rest; it != org->parked.end(); ++it) {
      late.emplace_back(it->sink, FailedResult(it->sequence, "LEDGER_UNAVAILABLE",
                                               "the ledger did not answer in time"));
    }
    org->parked.erase(rest, org->parked.end());
    if (org->phase == Org::Phase::kOpen) {
      epoch = org->epoch;
      // Waiting for held money: ask the ledger now and then, and once more before giving up.
      const bool poll = !org->held.empty() && now - org->held_polled_at >= options_.held_poll;
      for (auto it = org->held.begin(); it != org->held.end();) {
        if (it->sink->closed()) {
          it = org->held.erase(it);
          continue;
        }
        const bool over = now >= it->give_up_at;
        if (over || poll) {
          for (const BudgetAmount& ask : it->match.asks) {
            if (!ask.observe && ask.amount_nanos > 0) {
              int64_t& wanted = org->demand[{ask.budget_id, std::string(ask.period)}].wanted;
              wanted = std::min(kLargestLease, wanted + ask.amount_nanos);
            }
          }
        }
        if (over && !org->ledger_down) {
          it->asked_after = org->calls_sent;
          org->short_of_lease.push_back(std::move(*it));
          it = org->held.erase(it);
        } else if (over) {
          due.push_back(std::move(*it));
          it = org->held.erase(it);
        } else {
          ++it;
        }
      }
      if (poll) org->held_polled_at = now;
      acknowledge = !org->to_acknowledge.empty() && !org->acknowledging;
      expired = org->expired && !org->posting_expired && now >= org->post_expired_at;
      elapsed = now - org->measured_at;
      maintain = elapsed >= absl::Seconds(1);
      if (maintain) org->measured_at = now;
    }
  }
  if (!late.empty()) Deliver(std::move(late));
  if (epoch == 0) return;
  if (!due.empty()) RunReserves(org, std::move(due), nullptr);
  auto batch = std::make_shared<StoreBatch>();
  batch->org_id = org->id;
  batch->events.emplace_back(enforcer::Tick{epoch, absl::ToUnixMillis(clock_->Wall()), 1024});
  store_->Run(batch.get(), [this, org, batch] {
    if (!batch->status.ok()) return;
    const auto& effect = std::get<TickEffect>(batch->effects[0]);
    if (effect.expired == 0) return;
    Metrics::Get().expired.Increment(effect.expired);
    absl::MutexLock lock(&org->mutex);
    org->expired = true;
  });
  if (acknowledge) AcknowledgeGrants(org);
  if (expired) PostExpired(org);
  if (maintain) Maintain(org, elapsed);
  Pump(org);
}

// Measures how fast lease is used up, and gives back what nobody will use.
void Enforcer::Maintain(const OrgPtr& org, absl::Duration elapsed) {
  const int64_t seconds = std::max<int64_t>(1, absl::ToInt64Seconds(elapsed));
  store_->Read(org->id, {StoreQuery::What::kLeases}, [this, org, seconds](absl::StatusOr<StoreView> read) {
    if (!read.ok()) return;
    const absl::Duration now = clock_->Monotonic();
    const absl::Time wall = clock_->Wall();
    std::vector<LeaseRecord> back;
    int64_t epoch = 0;
    {
      absl::MutexLock lock(&org->mutex);
      if (org->phase != Org::Phase::kOpen || org->epoch != read->epoch) return;
      epoch = org->epoch;
      absl::flat_hash_map<Key, int64_t> free;
      for (LeaseRecord& lease : read->leases) free[{lease.budget_id, lease.period}] = lease.free_nanos;
      for (auto it = org->views.begin(); it != org->views.end();) {
        Org::LeaseView& view = it->second;
        auto there = free.find(it->first);
        const int64_t now_free = there == free.end() ? 0 : there->second;
        const int64_t used = std::max<int64_t>(0, view.last_free + view.flow - now_free) / seconds;
        view.rate_per_s = used > view.rate_per_s ? (view.rate_per_s + used) / 2
                                                 : view.rate_per_s - (view.rate_per_s - used) / 8;
        view.last_free = now_free;
        view.flow = 0;
        const bool gone = now_free == 0 && now - view.used_at > 2 * options_.idle_return &&
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
        auto view = org->views.find(Key{lease.budget_id, lease.period});
        const bool idle =
            view == org->views.end() || now - view->second.used_at > options_.idle_return;
        if (!current || idle || budget->recall()) back.push_back(std::move(lease));
      }
    }
    if (!back.empty()) TakeOutLease(org, epoch, std::move(back));
  });
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
  ledger_->AcknowledgeGrants(request, [org, request](const auto& answer) {
    absl::MutexLock lock(&org->mutex);
    org->acknowledging = false;
    if (!answer.ok() || org->epoch != request.epoch()) return;  // later again
    auto& list = org->to_acknowledge;
    for (int64_t id : request.grant_ids()) list.erase(std::remove(list.begin(), list.end(), id), list.end());
  });
}

// R5, second half: the ledger takes over what expired here.
void Enforcer::PostExpired(const OrgPtr& org) {
  {
    absl::MutexLock lock(&org->mutex);
    if (org->posting_expired) return;
    org->posting_expired = true;
  }
  store_->Read(org->id, {StoreQuery::What::kExpired}, [this, org](absl::StatusOr<StoreView> view) {
    if (!view.ok() || view->holds.empty()) {
      absl::MutexLock lock(&org->mutex);
      org->posting_expired = false;
      if (view.ok()) org->expired = false;
      return;
    }
    ledger::v1::PostExpiredRequest request;
    request.set_org_id(org->id);
    request.set_epoch(view->epoch);
    for (const HoldRecord& hold : view->holds) {
      auto* expired = request.add_holds();
      expired->set_hold_id(std::string(hold.hold_id.raw()));
      for (int64_t id : hold.account_ids) expired->add_account_ids(id);
      FillHeld(hold, expired->mutable_covers(), true);
      expired->set_edge_id(hold.edge_id);
      expired->set_boot_id(hold.boot_id);
    }
    auto posted = std::make_shared<StoreBatch>();
    posted->org_id = org->id;
    for (const HoldRecord& hold : view->holds) {
      posted->events.emplace_back(ExpiredPosted{view->epoch, hold.hold_id});
    }
    ledger_->PostExpired(request, [this, org, posted](const auto& answer) {
      if (!answer.ok()) {
        obs::Warning("expired_not_posted", {{"org", org->id}, {"error", Std(answer.status().message())}});
        absl::MutexLock lock(&org->mutex);
        org->posting_expired = false;
        org->post_expired_at = clock_->Monotonic() + options_.longest_backoff;
        return;
      }
      store_->Run(posted.get(), [this, org, posted] {
        {
          absl::MutexLock lock(&org->mutex);
          org->posting_expired = false;
        }
        PostExpired(org);  // until there are none
      });
    });
  });
}

// --- views and the end ---------------------------------------------------------------------------
std::vector<v1::HoldView> Enforcer::ListHolds(int64_t account_id, size_t max) {
  std::vector<v1::HoldView> views;
  for (const OrgPtr& org : AllOrgs()) {
    store_->Read(org->id, {StoreQuery::What::kHolds}, [&](absl::StatusOr<StoreView> read) {
      if (!read.ok()) return;
      std::sort(read->holds.begin(), read->holds.end(),
                [](const HoldRecord& a, const HoldRecord& b) { return a.hold_id < b.hold_id; });
      for (const HoldRecord& hold : read->holds) {
        if (views.size() == max) return;
        const bool below = account_id == 0 ||
                           std::find(hold.account_ids.begin(), hold.account_ids.end(), account_id) !=
                               hold.account_ids.end();
        if (!below || hold.state == HoldState::kExpired) continue;
        v1::HoldView& view = views.emplace_back();
        view.set_hold_id(hold.hold_id.ToString());
        if (!hold.account_ids.empty()) view.set_account_id(hold.account_ids.back());
        view.set_epoch(read->epoch);
        view.set_state(hold.state == HoldState::kOpen ? "open" : "settled");
        int64_t amount = 0;
        for (const HeldAmount& held : hold.budgets) amount = std::max(amount, held.covers_nanos);
        view.set_amount_nanousd(amount);
        *view.mutable_admitted_at() = ToProto(absl::FromUnixMillis(hold.admitted_ms));
        *view.mutable_expires_at() = ToProto(absl::FromUnixMillis(hold.deadline_ms));
        view.set_edge_id(hold.edge_id);
        FillHeld(hold, view.mutable_budgets(), false);
      }
    });
  }
  return views;
}

std::vector<v1::GetBudgetHoldsResponse::Held> Enforcer::BudgetHolds(
    const std::vector<int64_t>& budget_ids, std::string_view subtree) {
  std::vector<v1::GetBudgetHoldsResponse::Held> all;
  for (const OrgPtr& org : AllOrgs()) {
    std::set<int64_t> wanted;
    {
      absl::MutexLock lock(&org->mutex);
      for (int64_t id : budget_ids) {
        const auto budget = org->rules.FindBudget(id);
        if (subtree.empty() || (budget != nullptr && rpc::IsWithin(budget->path(), subtree))) {
          wanted.insert(id);
        }
      }
    }
    store_->Read(org->id, {StoreQuery::What::kLeases}, [&](absl::StatusOr<StoreView> read) {
      if (!read.ok()) return;
      for (const LeaseRecord& lease : read->leases) {
        if (!wanted.contains(lease.budget_id)) continue;
        auto& held = all.emplace_back();
        held.set_budget_id(lease.budget_id);
        held.set_period(lease.period);
        held.set_held_nanousd(lease.held_nanos);
        held.set_lease_remaining_nanousd(lease.free_nanos);
      }
    });
  }
  return all;
}

void Enforcer::Drain(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(draining_, true)) return;
    to_open_.clear();
  }
  const std::vector<OrgPtr> orgs = AllOrgs();
  for (const OrgPtr& org : orgs) {
    Results results;
    int64_t epoch = 0;
    {
      absl::MutexLock lock(&org->mutex);
      auto fail = [&](auto& waiting) {
        for (const Pending& p : waiting) {
          results.emplace_back(p.sink, FailedResult(p.sequence, "LEDGER_UNAVAILABLE",
                                                    "the enforcer is shutting down"));
        }
        waiting.clear();
      };
      fail(org->parked);
      fail(org->short_of_lease);
      fail(org->in_call);
      fail(org->held);
      org->demand.clear();
      if (org->phase == Org::Phase::kOpen) epoch = org->epoch;
    }
    Deliver(std::move(results));
    if (epoch == 0) continue;
    store_->Read(org->id, {StoreQuery::What::kLeases}, [&](absl::StatusOr<StoreView> read) {
      if (!read.ok()) return;
      std::erase_if(read->leases, [](const LeaseRecord& lease) { return lease.free_nanos == 0; });
      if (!read->leases.empty()) TakeOutLease(org, epoch, std::move(read->leases));
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
