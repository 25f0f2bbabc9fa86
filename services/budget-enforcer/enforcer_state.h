// What an Enforcer keeps in memory per org. Private to enforcer*.cc.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "libs/base/strings.h"
#include "services/budget-enforcer/enforcer.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/rules.h"

namespace tollhouse::enforcer {

using BudgetKey = std::pair<int64_t, std::string>;  // (budget, period)
using BudgetKeyView = std::pair<int64_t, std::string_view>;
struct BudgetKeyHash {
  using is_transparent = void;
  size_t operator()(const BudgetKeyView& key) const { return absl::HashOf(key.first, Absl(key.second)); }
};
struct BudgetKeyEqual {
  using is_transparent = void;
  bool operator()(const BudgetKeyView& a, const BudgetKeyView& b) const { return a == b; }
};
template <typename Value>
using ByBudget = absl::flat_hash_map<BudgetKey, Value, BudgetKeyHash, BudgetKeyEqual>;

inline constexpr int64_t kLargestLease = 4 * kMaxHoldNanos;  // four of the largest holds
inline constexpr int64_t kHoldsAhead = 8;                    // the least a lease is made for

// `maybe_held_epoch`: see v1::Failed.
v1::OperationResult FailedResult(uint64_t sequence, std::string_view reason, std::string_view message,
                                 int64_t maybe_held_epoch = 0);
google::protobuf::Timestamp ToProto(absl::Time time);
void FillHeld(const HoldRecord& hold, google::protobuf::RepeatedPtrField<common::v1::HeldBudget>* out,
              bool covers);

// Goes when the last callback goes.
struct Enforcer::Alive {
  explicit Alive(absl::Notification* all_gone) : gone(all_gone) {}
  ~Alive() { gone->Notify(); }
  absl::Notification* const gone;
};

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
  int64_t maybe_held_epoch = 0;        // of a try that the store gave no answer to
  Match match;                         // of the last try
  std::vector<int64_t> open;           // budgets to take 0 of: the ledger is out of reach
  // The ledger's state of a budget is fresh for this request if it came with a later lease call.
  int64_t asked_after = -1;
  uint64_t place = 0;  // in the queue of those who wait for money that others hold; 0: not one of them
  int hopeful = 0;     // times the ledger had enough and others were faster

  int64_t largest_ask() const {
    int64_t most = 0;
    for (const BudgetAmount& ask : match.asks) most = std::max(most, ask.amount_nanos);
    return most;
  }
};

// Operations of one org on their way through the store.
struct Enforcer::Run {
  struct Other {  // not a Reserve
    size_t event = 0;
    uint64_t sequence = 0;
    std::shared_ptr<ResultSink> sink;
    absl::Duration arrived;
    bool refresh = false;
    bool ends = false;  // Settle or Void
  };
  struct Grant {
    int64_t grant_id = 0;
    std::vector<BudgetAmount> amounts;
  };

  OrgPtr org;
  std::shared_ptr<const Arrival> arrival;
  StoreBatch batch;
  std::vector<Pending> reserves;
  size_t first_reserve = 0;  // event of reserves[0]; the others follow
  std::vector<Other> others;
  int64_t answered_call = 0;  // the lease call whose answer this run follows, 0: none
  // AddGrants, the first events of all; what their periods point to is kept by `grants_from`.
  std::vector<Grant> grants;
  int64_t grant_epoch = 0;
  std::string request_id;  // of the one that this enforcer asked for, "" if these were listed
  std::shared_ptr<const void> grants_from;
  bool grant_missing = false;  // one of them could not be added: an earlier one is not there yet
  std::vector<BudgetAmount> recall_keep;
  std::vector<std::shared_ptr<Budget>> recall_budgets;  // own the periods of recall_keep
  std::optional<size_t> take_out;                       // its event

  // Set while finishing.
  Results results;
  std::vector<Pending> again, replays;
  int64_t freed = 0;
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
    int64_t rate_per_s = 0;     // nanos of lease used up by all enforcers, decaying average
    int64_t flow = 0;           // granted - returned here since the last measurement
    int64_t last_free = 0, last_held = 0;
    absl::Duration used_at;       // by any enforcer, as far as seen
    absl::Duration confirmed_at;  // the ledger's last word on it
    absl::Duration refilled_at = -absl::InfiniteDuration();
  };
  struct Demand {
    int64_t wanted = 0;  // by reservations that wait
  };
  struct EdgeState {
    bool registered = false;
  };
  struct Stalled {  // waits for the store
    StoreEvent event;
    Run::Other other;
  };

  const int64_t id;
  absl::Mutex mutex;
  Rules rules ABSL_GUARDED_BY(mutex);
  absl::Duration used_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();  // by a request

  // --- the epoch ---
  Phase phase ABSL_GUARDED_BY(mutex) = Phase::kClosed;
  Closed closed ABSL_GUARDED_BY(mutex) = Closed::kNotYet;
  bool opening ABSL_GUARDED_BY(mutex) = false;  // asking store and ledger; also while phase is kOpen
  bool queued ABSL_GUARDED_BY(mutex) = false;   // to be opened or looked at
  bool hint ABSL_GUARDED_BY(mutex) = false;     // came while opening: look again
  bool reopen ABSL_GUARDED_BY(mutex) = false;   // as soon as its time has come
  bool ask_ledger ABSL_GUARDED_BY(mutex) = false;  // the next opening: what is known is doubtful
  int64_t epoch ABSL_GUARDED_BY(mutex) = 0;        // the one served, or served last
  std::string incarnation ABSL_GUARDED_BY(mutex);  // of the store under `epoch`
  // That anyone registered, as far as known.
  int64_t newest_epoch ABSL_GUARDED_BY(mutex) = 0;
  std::string newest_incarnation ABSL_GUARDED_BY(mutex);
  std::string superseded ABSL_GUARDED_BY(mutex);  // our incarnation that another one was registered over
  absl::Duration takeover_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration takeover_wait ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  absl::Duration opened_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration fenced_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration failed_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration open_again_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration open_backoff ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  std::map<std::pair<std::string, std::string>, EdgeState> edges ABSL_GUARDED_BY(mutex);
  std::vector<Pending> parked ABSL_GUARDED_BY(mutex);  // until rules, epoch and edge are there

  // --- lease calls: grants, lists and returns go one at a time ---
  bool calling ABSL_GUARDED_BY(mutex) = false;
  int64_t calls_sent ABSL_GUARDED_BY(mutex) = 0;
  // A grant whose outcome is not known yet, and its call number: sent again until it is.
  std::optional<ledger::v1::GrantLeaseRequest> unanswered ABSL_GUARDED_BY(mutex);
  int64_t unanswered_call ABSL_GUARDED_BY(mutex) = 0;
  bool recover ABSL_GUARDED_BY(mutex) = false;  // grants of others, or of lost answers, may be listed
  absl::Duration recovered_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  bool ledger_down ABSL_GUARDED_BY(mutex) = false;
  absl::Duration call_again_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration call_backoff ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  bool returns ABSL_GUARDED_BY(mutex) = false;     // the store may have returns to post
  bool recall_due ABSL_GUARDED_BY(mutex) = false;  // free lease of recalled budgets may still be there
  std::map<BudgetKey, Demand> demand ABSL_GUARDED_BY(mutex);
  std::vector<Pending> short_of_lease ABSL_GUARDED_BY(mutex);  // for the next call's answer
  std::vector<Pending> in_call ABSL_GUARDED_BY(mutex);         // for the answer under way
  std::map<uint64_t, Pending> held ABSL_GUARDED_BY(mutex);     // for credits, or time; by place
  uint64_t last_place ABSL_GUARDED_BY(mutex) = 0;
  uint64_t polled_place ABSL_GUARDED_BY(mutex) = 0;  // the store poll goes round
  ByBudget<LeaseView> views ABSL_GUARDED_BY(mutex);
  std::vector<int64_t> to_acknowledge ABSL_GUARDED_BY(mutex);
  bool acknowledging ABSL_GUARDED_BY(mutex) = false;
  absl::Duration acknowledge_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  bool expired ABSL_GUARDED_BY(mutex) = false;  // the store may have expired holds to post
  bool posting_expired ABSL_GUARDED_BY(mutex) = false;
  absl::Duration post_expired_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();

  // --- time ---
  std::deque<Stalled> stalled ABSL_GUARDED_BY(mutex);
  absl::Duration retry_stalled_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration expired_until ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();  // last Tick event
  absl::Duration store_polled_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration held_polled_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration measured_at ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  absl::Duration outboxes_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration open_warned_at ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  absl::Duration lease_age ABSL_GUARDED_BY(mutex) = absl::ZeroDuration();
  int64_t outbox ABSL_GUARDED_BY(mutex) = 0;          // records seen last
  int64_t mean_open_ms ABSL_GUARDED_BY(mutex) = 1000;  // how long holds stay open, decaying average

  LeaseView& View(int64_t budget_id, std::string_view period) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (auto it = views.find(BudgetKeyView{budget_id, period}); it != views.end()) return it->second;
    return views[{budget_id, std::string(period)}];
  }

  void Want(const BudgetKey& key, int64_t nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    int64_t& wanted = demand[key].wanted;
    wanted = std::min(kLargestLease, wanted + nanos);
  }

  // Waits for money that others hold, at its old place if it had one.
  void Hold(Pending pending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (pending.place == 0) pending.place = ++last_place;
    const uint64_t place = pending.place;
    held.emplace(place, std::move(pending));
  }

  // The newest epoch is this one; true if that is news.
  bool NoteNewest(int64_t newest, const std::string& whose, absl::Duration now,
                  const EnforcerOptions& options) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Everything that waits for lease, to be tried anew under another epoch.
  std::vector<Pending> TakeEverybody() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // What a lease should be.
  int64_t Target(const LeaseView& view, absl::Duration horizon) const;
  // How much to ask the ledger for in the next call.
  int64_t Ask(const LeaseView& view, int64_t wanted, bool recall, absl::Duration horizon) const;
};

// Infrastructure that may be back in a moment; anything else is the ledger's answer.
bool Transient(const absl::Status& status);

template <typename Response>
LedgerClient::Done<Response> Enforcer::Answer(
    const char* method, std::function<void(const absl::StatusOr<Response>&)> done) {
  return [this, alive = alive_, method, done = std::move(done)](absl::StatusOr<Response> answer) {
    const bool answered = answer.ok() || !Transient(answer.status());
    Metrics::Get().LedgerCalls(method, answered).Increment();
    if (answered) ledger_answered_ns_ = absl::ToInt64Nanoseconds(clock_->Monotonic());
    done(answer);
  };
}

}  // namespace tollhouse::enforcer
