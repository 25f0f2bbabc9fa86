// Decides reservations: matches budgets, keeps leases filled from the ledger, waits for money that
// other requests hold, and says why where there is none. The holds themselves are the store's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "services/budget-enforcer/ledger_client.h"
#include "services/budget-enforcer/store/hold_store.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::enforcer {

struct EnforcerOptions {
  // How long requests can go on without the ledger, at the rate seen last: the size of a lease.
  absl::Duration lease_horizon = absl::Seconds(60);
  // Free lease of a budget that nobody used for this long goes back.
  absl::Duration idle_return = absl::Minutes(2);
  // While requests wait for money that others hold, the ledger is asked for more this often.
  absl::Duration held_poll = absl::Milliseconds(250);
  // A reservation that cannot even be decided (no rules, epoch or edge registered yet) fails then.
  absl::Duration patience = absl::Seconds(5);
  // After a failed call, the ledger is left alone this long; doubles up to the second value.
  absl::Duration first_backoff = absl::Milliseconds(100);
  absl::Duration longest_backoff = absl::Seconds(2);
  // Of a Reserve that names none, and the longest that one may ask for.
  absl::Duration default_time_to_live = absl::Minutes(10);
  absl::Duration longest_time_to_live = absl::Hours(24);
  absl::Duration longest_wait = absl::Seconds(60);
  // Reservations per org that may wait for money; more are refused as held.
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

// Thread-safe. Every operation gets exactly one result.
class Enforcer {
 public:
  // `store`, `ledger` and `clock` must outlive it.
  Enforcer(EnforcerOptions options, HoldStore* store, LedgerClient* ledger, const Clock* clock);
  ~Enforcer();
  Enforcer(const Enforcer&) = delete;
  Enforcer& operator=(const Enforcer&) = delete;

  void Execute(std::shared_ptr<const Arrival> arrival, const std::shared_ptr<ResultSink>& sink);

  // One message of the ledger's Watch. When it returns, the rules are in force, and free lease that
  // the ledger wants back cannot be spent any more.
  void ApplyRules(const ledger::v1::WatchResponse& change);

  // Whatever is due by now: expiry, refills, returns, retries, time-outs. Cheap; call it every few
  // milliseconds, one call at a time.
  void Tick();

  // Holds below an account (0: all), open ones and settled ones that the ledger does not have yet.
  std::vector<v1::HoldView> ListHolds(int64_t account_id, size_t max);
  // Of budgets of `subtree`'s accounts only; "": of any.
  std::vector<v1::GetBudgetHoldsResponse::Held> BudgetHolds(const std::vector<int64_t>& budget_ids,
                                                            std::string_view subtree = "");

  // Answers everything that waits with LEDGER_UNAVAILABLE, takes no more, and gives free lease back
  // to the ledger; waits for that at most `timeout`. Idempotent.
  void Drain(absl::Duration timeout);

 private:
  struct Org;
  struct Pending;
  struct Run;
  struct LeaseCall;
  using OrgPtr = std::shared_ptr<Org>;
  using Results = std::vector<std::pair<std::shared_ptr<ResultSink>, v1::OperationResult>>;

  OrgPtr FindOrg(int64_t org_id, bool make);
  std::vector<OrgPtr> AllOrgs();

  void RunReserves(const OrgPtr& org, std::vector<Pending> reserves, std::shared_ptr<Run> run);
  void SubmitRun(std::shared_ptr<Run> run);
  void FinishRun(const std::shared_ptr<Run>& run);
  void DecideReserve(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  void DecideShort(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  void DecideOutage(Org& org, Run& run, Pending& pending, const ReserveEffect& effect);
  void AnswerReplay(const OrgPtr& org, Pending pending);
  void Deliver(Results results);

  void OpenEpoch(const OrgPtr& org);
  void EpochAnswered(const OrgPtr& org, const std::string& incarnation,
                     const absl::StatusOr<ledger::v1::RegisterEpochResponse>& answer, int attempt);
  void RegisterEpoch(const OrgPtr& org, int attempt);
  void RegisterEdge(const OrgPtr& org, int64_t epoch, const std::string& edge_id,
                    const std::string& boot_id);
  void Fence(const OrgPtr& org, int64_t epoch);
  void OpenMoreAtStart();

  void Pump(const OrgPtr& org);
  void BackOff(Org& org);
  void SendReturn(const OrgPtr& org);
  void SendGrant(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request);
  void GrantAnswered(const OrgPtr& org, const ledger::v1::GrantLeaseRequest& request,
                     const absl::StatusOr<ledger::v1::GrantLeaseResponse>& answer);
  void TickOrg(const OrgPtr& org, absl::Duration now);
  void Maintain(const OrgPtr& org, absl::Duration elapsed);
  void PostExpired(const OrgPtr& org);
  void AcknowledgeGrants(const OrgPtr& org);
  void TakeOutLease(const OrgPtr& org, int64_t epoch, std::vector<LeaseRecord> leases);

  const EnforcerOptions options_;
  HoldStore* const store_;
  LedgerClient* const ledger_;
  const Clock* const clock_;

  absl::Mutex mutex_;
  absl::flat_hash_map<int64_t, OrgPtr> orgs_ ABSL_GUARDED_BY(mutex_);
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;    // a snapshot of the rules was applied
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<OrgPtr> to_open_ ABSL_GUARDED_BY(mutex_);  // at start: orgs whose epoch is another's
  int opening_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tollhouse::enforcer
