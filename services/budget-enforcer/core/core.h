// The hold state machine of one org: `effect = state.Step(event)`. Pure: no I/O, no clock, no
// randomness; time arrives in events. DESIGN.md section 4, rules R4..R11.
//
// Every Step is one script: it validates everything before its first write, so a refusal changes
// nothing. All of it is look-ups by key and integer arithmetic on purpose: the Redis script is the
// same algorithm. The same events give the same effects and views, order included. Not thread-safe; a
// state belongs to one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "libs/base/uuid.h"
#include "services/budget-enforcer/core/rate_limit.h"

namespace tollhouse::enforcer {

inline constexpr int64_t kMaxHoldNanos = 1'000'000'000'000'000;  // kMaxHold of libs/base/money.h
// The sum of free lease and holds of one (budget, period): kMaxCap of libs/base/money.h.
inline constexpr int64_t kMaxLeaseNanos = 4'000'000'000'000'000'000;
// The most that one hold may be settled with: exact in the Redis script's doubles.
inline constexpr int64_t kMaxActualNanos = (int64_t{1} << 53) - 1;
inline constexpr size_t kMaxBudgetsPerHold = 32;

using Fingerprint = std::array<uint8_t, 32>;

// --- events --------------------------------------------------------------------------------------
// Views in an event must live until Step returned. `now_ms` is Unix time; a value that lies before
// an earlier one counts as that one, so time never runs backwards inside a state.

// R8: raises the epoch key and wipes everything else. Does nothing if the key is not lower.
struct InitEpoch {
  int64_t epoch = 0;
};

// One budget's part of a hold, a grant or a return.
struct BudgetAmount {
  int64_t budget_id = 0;
  std::string_view period;   // Period.key
  int64_t amount_nanos = 0;  // 0..kMaxHoldNanos in a hold
  bool observe = false;      // named in the hold, not escrowed; amount 0

  friend bool operator==(const BudgetAmount&, const BudgetAmount&) = default;
};

// Whether a (budget, period) is named twice.
bool AnyTwice(absl::Span<const BudgetAmount> items);

// The limits of one account on the path; 0 = none.
struct LimitAsk {
  int64_t account_id = 0;
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;
  int64_t concurrency = 0;
};

// R9: a hold on every named budget, or none.
struct Reserve {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  Uuid hold_id;  // version 7: its age decides how long its end must be remembered
  Fingerprint fingerprint{};
  absl::Span<const BudgetAmount> budgets;  // each (budget, period) at most once
  absl::Span<const LimitAsk> limits;
  int64_t tokens = 0;         // for tokens_per_minute, 0..kMaxRate
  bool first_attempt = true;  // later attempts are counted but never refused by a limit
  int64_t time_to_live_ms = 0;
  absl::Span<const int64_t> account_ids;
  std::string_view edge_id, boot_id;
};

// R11: returns amount - actual of every budget to its lease; min(actual, amount) stays on record.
struct Settle {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  Uuid hold_id;
  int64_t actual_nanos = 0;  // 0..kMaxActualNanos
  int64_t actual_tokens = 0;
};

// Returns everything. Of a hold that is not known (yet): a Reserve that arrives later is refused.
struct Void {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  Uuid hold_id;
};

// R11: the ledger has the entry and took min(posted, amount) of each budget from this hold.
struct Acknowledge {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  Uuid hold_id;
  int64_t posted_nanos = 0;
};

// An open hold's deadline starts anew.
struct Refresh {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  Uuid hold_id;
};

// R5, first half: the hold becomes EXPIRED, nothing is credited, its record is the outbox entry.
struct Expire {
  int64_t epoch = 0;
  Uuid hold_id;
};

// R5: the ledger has the expired hold; the record may go.
struct ExpiredPosted {
  int64_t epoch = 0;
  Uuid hold_id;
};

// Time passes: expires holds past their deadline, at most `max_expired`; forgets ends that no
// retry can ask for any more.
struct Tick {
  int64_t epoch = 0;
  int64_t now_ms = 0;
  int64_t max_expired = 1024;
};

// R10: lease from the ledger, once per grant_id and in the order of ids.
struct AddGrant {
  int64_t epoch = 0;
  int64_t grant_id = 0;
  absl::Span<const BudgetAmount> amounts;  // each (budget, period) at most once
};

// R6, first half: free lease above `amount_nanos` leaves into an outbox record.
struct TakeOut {
  int64_t epoch = 0;
  absl::Span<const BudgetAmount> keep;  // amount_nanos: what may stay free
};

// R6: the ledger has the return; the record may go.
struct ReturnPosted {
  int64_t epoch = 0;
  int64_t return_id = 0;
};

// --- effects -------------------------------------------------------------------------------------
enum class Outcome {
  kDone,         // applied, or nothing was left to do
  kRefused,      // Reserve only: see shortages and limits
  kEpochClosed,  // R4: the event's epoch is not the state's
  kConflict,     // same hold_id, other content
  kFinished,     // Reserve of a hold that ended
  kStale,        // Reserve of a hold_id made too long ago (or in the future) to know whether it ended
  kOutOfOrder,   // AddGrant: an earlier grant is missing
  kBad,          // out of bounds
};

enum class LimitKind { kRequests, kTokens, kConcurrency };

struct Shortage {
  uint32_t index = 0;  // into Reserve.budgets
  int64_t free_nanos = 0;
};

struct LimitViolation {
  int64_t account_id = 0;
  LimitKind kind = LimitKind::kRequests;
  int64_t limit = 0;
  int64_t retry_after_ms = 0;  // -1: never, the request is larger than the limit
};

struct ReserveEffect {
  Outcome outcome = Outcome::kDone;
  bool replayed = false;                           // the hold was open already, nothing changed
  absl::InlinedVector<int64_t, 8> remaining;       // admitted: free lease after, per Reserve.budgets
  absl::InlinedVector<Shortage, 2> shortages;      // refused: every budget with too little lease
  absl::InlinedVector<LimitViolation, 2> limits;   // refused: every violated limit
};

struct HoldEffect {
  Outcome outcome = Outcome::kDone;
  bool applied = false;        // this event changed the hold
  int64_t credited_nanos = 0;  // the most that went back to one lease
  int64_t open_ms = 0;         // Settle and Void: how long the hold was open
};

struct TickEffect {
  Outcome outcome = Outcome::kDone;
  int64_t expired = 0;  // holds that became EXPIRED
  bool more = false;    // max_expired was reached
};

struct GrantEffect {
  Outcome outcome = Outcome::kDone;
  bool applied = false;
};

struct TakeOutEffect {
  Outcome outcome = Outcome::kDone;
  int64_t return_id = 0;  // 0: nothing was above what may stay
};

// --- views ---------------------------------------------------------------------------------------
enum class HoldState : uint8_t { kOpen, kSettled, kExpired };

struct HeldAmount {
  int64_t budget_id = 0;
  std::string period;
  int64_t amount_nanos = 0;  // as reserved
  int64_t covers_nanos = 0;  // what the record covers now
  bool observe = false;
};

struct HoldRecord {
  Uuid hold_id;
  HoldState state = HoldState::kOpen;
  int64_t admitted_ms = 0;
  int64_t deadline_ms = 0;
  std::vector<int64_t> account_ids;
  std::string edge_id, boot_id;
  std::vector<HeldAmount> budgets;
};

struct LeaseRecord {
  int64_t budget_id = 0;
  std::string period;
  int64_t free_nanos = 0;
  int64_t held_nanos = 0;  // covered by open, settled and expired holds
};

struct ReturnRecord {
  int64_t return_id = 0;
  std::vector<LeaseRecord> amounts;  // free_nanos: what was taken out
};

// --- the state -----------------------------------------------------------------------------------
struct CoreOptions {
  // A Reserve is taken while its hold_id is at most this old, and the end of a hold is remembered
  // at least as long: a late duplicate can never make a second hold.
  int64_t retry_horizon_ms = 300'000;
  // A settled hold that is not acknowledged expires after this time.
  int64_t settled_ttl_ms = 600'000;
  // The largest sum of free lease and holds of one (budget, period), at most kMaxLeaseNanos.
  int64_t max_lease_nanos = kMaxLeaseNanos;
};

class OrgState {
 public:
  explicit OrgState(CoreOptions options = {}) : options_(options) {}

  Outcome Step(const InitEpoch& event);
  ReserveEffect Step(const Reserve& event);
  HoldEffect Step(const Settle& event);
  HoldEffect Step(const Void& event);
  HoldEffect Step(const Acknowledge& event);
  HoldEffect Step(const Refresh& event);
  HoldEffect Step(const Expire& event);
  HoldEffect Step(const ExpiredPosted& event);
  TickEffect Step(const Tick& event);
  GrantEffect Step(const AddGrant& event);
  TakeOutEffect Step(const TakeOut& event);
  Outcome Step(const ReturnPosted& event);

  int64_t epoch() const { return epoch_; }  // 0: no key
  int64_t last_grant_id() const { return last_grant_; }
  size_t hold_count() const { return hold_index_.size(); }
  size_t finished_count() const { return finished_.size(); }
  size_t expired_count() const { return expired_.size(); }

  std::optional<HoldRecord> Hold(const Uuid& hold_id) const;
  bool Finished(const Uuid& hold_id) const { return finished_.contains(hold_id); }
  std::vector<HoldRecord> Holds() const;                     // in no meaningful order
  std::vector<HoldRecord> ExpiredHolds(size_t max) const;    // the outbox of R5
  std::vector<LeaseRecord> Leases() const;                   // by budget and period
  std::optional<LeaseRecord> Lease(int64_t budget_id, std::string_view period) const;
  std::vector<ReturnRecord> Returns() const;                 // the outbox of R6, by id

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct LeaseKey {
    int64_t budget_id;
    std::string period;
  };
  struct LeaseKeyView {
    int64_t budget_id;
    std::string_view period;
  };
  struct LeaseKeyHash {
    using is_transparent = void;
    size_t operator()(const LeaseKey& k) const { return Hash(k.budget_id, k.period); }
    size_t operator()(const LeaseKeyView& k) const { return Hash(k.budget_id, k.period); }
    static size_t Hash(int64_t id, std::string_view period);
  };
  struct LeaseKeyEqual {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return a.budget_id == b.budget_id && std::string_view(a.period) == std::string_view(b.period);
    }
  };
  struct LeaseSlot {
    int64_t budget_id = 0;
    std::string period;
    int64_t free = 0;
    int64_t held = 0;
    int64_t holds = 0;  // records that name this slot
  };
  struct HeldSlot {
    uint32_t lease = 0;
    bool observe = false;
    int64_t amount = 0;
    int64_t covers = 0;
  };
  struct Charge {  // what a limit's account was charged
    int64_t account_id = 0;
    int64_t tokens_per_minute = 0;  // 0: no tokens charged
    bool slot = false;
  };
  struct HoldSlot {
    Uuid id;
    Fingerprint fingerprint{};
    HoldState state = HoldState::kOpen;
    bool used = false;
    uint32_t generation = 0;
    uint32_t edge = 0;
    int64_t admitted_ms = 0;
    int64_t deadline_ms = 0;
    int64_t time_to_live_ms = 0;
    int64_t actual = 0;
    int64_t tokens = 0;
    absl::InlinedVector<HeldSlot, 4> budgets;
    absl::InlinedVector<Charge, 2> charges;
    absl::InlinedVector<int64_t, 4> account_ids;
  };
  struct FinishedHold {
    Fingerprint fingerprint{};
    int64_t actual = kUnknown;
    bool known = false;  // the fingerprint is
  };
  static constexpr int64_t kVoided = -1;
  static constexpr int64_t kUnknown = -2;
  struct Meters {
    RateBucket requests, tokens;
    int64_t slots = 0;
  };
  struct Due {
    int64_t at_ms;
    uint32_t hold;
    uint32_t generation;
    bool operator<(const Due& other) const { return at_ms > other.at_ms; }  // earliest on top
  };
  struct EdgeName {
    std::string edge_id, boot_id;
    int64_t holds = 0;
  };

  void Observe(int64_t now_ms) { now_ms_ = now_ms > now_ms_ ? now_ms : now_ms_; }
  bool Retryable(const Uuid& hold_id) const;
  uint32_t FindHold(const Uuid& hold_id) const;
  uint32_t FindLease(int64_t budget_id, std::string_view period) const;
  uint32_t FindOrMakeLease(int64_t budget_id, std::string_view period);
  void DropIdleLease(uint32_t lease);
  uint32_t FindOrMakeEdge(std::string_view edge_id, std::string_view boot_id);
  void CheckLimits(const Reserve& event, ReserveEffect& effect) const;
  void Schedule(uint32_t hold);
  void ReleaseLimits(HoldSlot& hold, std::optional<int64_t> actual_tokens);
  // Lowers what the record covers to at most `covers` per budget; the rest becomes free lease.
  int64_t CreditDownTo(HoldSlot& hold, int64_t covers);
  static bool CoversNothing(const HoldSlot& hold);
  void Finish(uint32_t hold, int64_t actual);
  void Remember(const Uuid& id, FinishedHold end);
  HoldRecord View(const HoldSlot& hold) const;

  CoreOptions options_;
  int64_t epoch_ = 0;
  int64_t now_ms_ = 0;
  int64_t last_grant_ = 0;
  int64_t last_return_ = 0;

  std::vector<LeaseSlot> leases_;
  std::vector<uint32_t> spare_leases_;
  absl::flat_hash_map<LeaseKey, uint32_t, LeaseKeyHash, LeaseKeyEqual> lease_index_;

  std::deque<HoldSlot> holds_;
  std::vector<uint32_t> spare_holds_;
  absl::flat_hash_map<Uuid, uint32_t> hold_index_;
  std::set<uint32_t> expired_;  // holds in state EXPIRED
  std::vector<Due> due_;  // a heap; entries of finished holds are skipped

  absl::flat_hash_map<Uuid, FinishedHold> finished_;
  std::map<int64_t, std::vector<Uuid>> forget_;  // by the second after which no retry is possible

  absl::flat_hash_map<int64_t, Meters> meters_;  // by account
  std::vector<EdgeName> edges_;
  std::map<int64_t, std::vector<LeaseRecord>> returns_;
};

}  // namespace tollhouse::enforcer
