// Decides reservations: matches budgets, keeps leases filled from the ledger, waits for money that
// other requests hold, and says why where there is none. The holds themselves are the store's, which
// several enforcers may share.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "services/budget-enforcer/ledger_client.h"
#include "services/budget-enforcer/store/hold_store.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::enforcer {

struct EnforcerOptions {
  // Differs from that of every other enforcer process, past ones included: it makes the ids of lease
  // requests.
  std::string instance = "enforcer";
  // How long requests can go on without the ledger, at the rate seen last: the size of a lease.
  absl::Duration lease_horizon = absl::Seconds(60);
  // Free lease of a budget that nobody used for this long goes back.
  absl::Duration idle_return = absl::Minutes(2);
  // While requests wait for money that others hold, the store is tried again this often (another
  // enforcer may have freed some), and the ledger asked.
  absl::Duration store_poll = absl::Milliseconds(50);
  absl::Duration held_poll = absl::Milliseconds(250);
  // A reservation that cannot even be decided (no rules, epoch or edge registered yet) fails then.
  absl::Duration patience = absl::Seconds(5);
  // After a failed call, the ledger or store is left alone this long; doubles up to the second value.
  absl::Duration first_backoff = absl::Milliseconds(100);
  absl::Duration longest_backoff = absl::Seconds(2);
  // When another incarnation of the store was registered over ours, which is still there: how long
  // ours stays out of service before it is registered again. Doubles each time up to the second value,
  // starts anew after an epoch that stayed open that long.
  absl::Duration first_takeover = absl::Seconds(1);
  absl::Duration longest_takeover = absl::Minutes(1);
  // How often the store is asked for holds to expire, and for what other enforcers left in its
  // outboxes: of orgs with requests, and of others.
  absl::Duration busy_interval = absl::Seconds(1);
  absl::Duration idle_interval = absl::Seconds(15);
  // Orgs whose epochs are opened at the same time.
  int opening_max = 64;
  // Of a Reserve that names none, and the longest that one may ask for.
  absl::Duration default_time_to_live = absl::Minutes(10);
  absl::Duration longest_time_to_live = absl::Hours(24);
  absl::Duration longest_wait = absl::Seconds(60);
  // Reservations per org that may wait for money, and settlements that may wait for the store; more
  // are refused.
  size_t waiting_max = 20'000;
};

// Where results go: one per Session or unary call. Deliver is thread-safe and is called without
// locks held; it takes what it can and forgets the rest once the caller is gone.
class ResultSink {
 public:
  virtual ~ResultSink() = default;
  virtual void Deliver(std::vector<v1::OperationResult> results) = 0;
  // True once the caller is gone: nobody waits for these results any more.
  virtual bool closed() const = 0;
};

// Operations that arrived together, kept alive by whoever still works on one of them.
struct Arrival {
  v1::Edge edge;
  google::protobuf::RepeatedPtrField<v1::Operation> operations;
};

// Thread-safe; has no threads of its own and no randomness. Every operation gets exactly one result.
class Enforcer {
 public:
  // `store`, `ledger` and `clock` must outlive it.
  Enforcer(EnforcerOptions options, HoldStore* store, LedgerClient* ledger, const Clock* clock);
  // Waits until no callback given to the store or the ledger exists any more.
  ~Enforcer();
  Enforcer(const Enforcer&) = delete;
  Enforcer& operator=(const Enforcer&) = delete;

  void Execute(std::shared_ptr<const Arrival> arrival, const std::shared_ptr<ResultSink>& sink);

  // One message of the ledger's Watch; the next one only after `applied` was called, on any thread:
  // then the rules are in force, and free lease that the ledger wants back cannot be spent any more.
  void ApplyRules(const ledger::v1::WatchResponse& change, std::function<void()> applied);

  // Whatever is due by now: expiry, refills, returns, retries, time-outs. Cheap; call it every few
  // milliseconds, one call at a time.
  void Tick();

  // Holds below an account (0: all), open ones and settled ones that the ledger does not have yet.
  // These wait for the store, a few seconds at most.
  std::vector<v1::HoldView> ListHolds(int64_t account_id, size_t max);
  // Of budgets of `subtree`'s accounts only; "": of any.
  std::vector<v1::GetBudgetHoldsResponse::Held> BudgetHolds(const std::vector<int64_t>& budget_ids,
                                                            std::string_view subtree = "");

  // Answers everything that waits with LEDGER_UNAVAILABLE and takes no more. Free lease goes back to
  // the ledger if it would be lost with this process; waits for calls under way at most `timeout`.
  // Idempotent.
  void Drain(absl::Duration timeout);

 private:
  struct Alive;
  struct Org;
  struct Pending;
  struct Run;
  using OrgPtr = std::shared_ptr<Org>;
  using Results = std::vector<std::pair<std::shared_ptr<ResultSink>, v1::OperationResult>>;
  // Why an org has no open epoch.
  enum class Closed { kNotYet, kSuperseded, kLedger, kStore, kUnknownOrg };

  OrgPtr FindOrg(int64_t org_id, bool make);
  std::vector<OrgPtr> AllOrgs();

  // The store's calls, with `alive_` in the callback and their time measured.
  void RunBatch(std::shared_ptr<StoreBatch> batch, std::function<void()> done);
  void Read(int64_t org_id, const StoreQuery& query, std::function<void(absl::StatusOr<StoreView>)> done);
  // A ledger's callback of `method` around `done`: keeps `alive_`, counts.
  template <typename Response>
  LedgerClient::Done<Response> Answer(const char* method, std::function<void(const absl::StatusOr<Response>&)> done);
  // The views of all these orgs; waits for them.
  std::vector<std::pair<OrgPtr, StoreView>> ReadAll(const std::vector<OrgPtr>& orgs, const StoreQuery& query);

  void RunReserves(const OrgPtr& org, std::vector<Pending> reserves, std::shared_ptr<Run> run);
  void SubmitRun(std::shared_ptr<Run> run);
  void FinishRun(const std::shared_ptr<Run>& run);
  void FailRun(const std::shared_ptr<Run>& run);
  void FinishGrants(Org& org, Run& run);
  void FinishOther(Org& org, Run& run, size_t index);
  void TickResult(Org& org, const TickEffect& effect);
  void DecideReserve(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  void DecideShort(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  void DecideOutage(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  bool AdmitOpen(Org& org, Pending& pending, Results& results);
  void FailOrAdmitOpen(Org& org, Pending& pending, Closed why, Results& results);
  void AnswerReplay(const OrgPtr& org, Pending pending);
  void Deliver(Results results);

  void WantOpen(const OrgPtr& org, bool urgent);
  void OpenMore();
  void Identify(const OrgPtr& org, int attempt, bool ask_ledger);
  void Identified(const OrgPtr& org, const absl::StatusOr<std::string>& identity, int attempt,
                  bool ask_ledger);
  void RegisterEpoch(const OrgPtr& org, const std::string& identity, int attempt);
  void InitEpoch(const OrgPtr& org, const std::string& identity, int64_t epoch, int attempt);
  void Opened(const OrgPtr& org, const std::string& identity, int64_t epoch);
  void OpenFailed(const OrgPtr& org, Closed why, absl::Duration wait);
  void OpeningEnded(const OrgPtr& org);
  void RegisterEdge(const OrgPtr& org, int64_t epoch, const std::string& edge_id,
                    const std::string& boot_id);
  void Fence(const OrgPtr& org, int64_t epoch, bool ask_ledger);
  void IncarnationChanged();

  void Pump(const OrgPtr& org);
  void BackOff(Org& org, bool ledger);
  void SendReturn(const OrgPtr& org);
  void SendGrant(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request);
  void GrantAnswered(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request,
                     const absl::StatusOr<ledger::v1::GrantLeaseResponse>& answer);
  void ListGrants(const OrgPtr& org);
  void GrantsListed(const OrgPtr& org, int64_t epoch,
                    const absl::StatusOr<ledger::v1::ListGrantsResponse>& answer);
  void CallFailed(const OrgPtr& org, int64_t epoch, const char* event, const absl::Status& status);
  std::vector<Pending> TakeWaiting(Org& org, int64_t freed_nanos);
  void TickOrg(const OrgPtr& org, absl::Duration now);
  void ExpireDue(const OrgPtr& org, int64_t epoch);
  void RetryStalled(const OrgPtr& org);
  void Maintain(const OrgPtr& org, absl::Duration elapsed);
  void LookIntoOutboxes(const OrgPtr& org);
  void PostExpired(const OrgPtr& org);
  void AcknowledgeGrants(const OrgPtr& org);
  void TakeOutLease(const OrgPtr& org, int64_t epoch, std::vector<LeaseRecord> leases,
                    std::function<void(bool taken)> done);

  const EnforcerOptions options_;
  HoldStore* const store_;
  LedgerClient* const ledger_;
  const Clock* const clock_;
  absl::Notification gone_;
  std::shared_ptr<Alive> alive_;  // a copy in every callback

  absl::Mutex mutex_;
  absl::btree_map<int64_t, OrgPtr> orgs_ ABSL_GUARDED_BY(mutex_);
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;  // a snapshot of the rules was applied
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t requests_made_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<OrgPtr> open_first_ ABSL_GUARDED_BY(mutex_);  // orgs with requests
  std::deque<OrgPtr> open_next_ ABSL_GUARDED_BY(mutex_);
  int opening_ ABSL_GUARDED_BY(mutex_) = 0;
  bool in_open_more_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> ledger_answered_ns_ = INT64_MIN;  // monotonic
  std::atomic<int64_t> store_answered_ns_ = INT64_MIN;
};

}  // namespace tollhouse::enforcer
