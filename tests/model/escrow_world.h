// The escrow chain as a small world that can be explored completely: a model of the ledger, edges and
// the provider around the REAL hold state machine (services/budget-enforcer/core). DESIGN rules R1 to
// R14; each Mutation breaks one of them.
//
// There are no clocks, only what they imply: a hold may expire at any moment, a token may come too late
// at any moment. Any reply may be lost, any message may come twice or late, any machine may break.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/budget-enforcer/core/core.h"

namespace tollhouse::model {

inline constexpr int kHold = 2;  // of every reservation; the provider bills 1 or 2

// Broken rules. The store mutants drive the real core as a broken caller or a broken core would.
enum class Mutation {
  kNone,
  // the store
  kCheckThenDecrement,     // R9: admits although the lease went in between
  kParentUnchecked,        // R9: takes from the lowest budget only
  kForgetFinishedHolds,    // R9: a late Reserve makes the hold again
  kSkipEpochCheck,         // R4: runs scripts for whatever epoch is there
  kInitKeepsState,         // R8: a promoted snapshot's lease and holds survive
  kInitDownwards,          // R8: a stale enforcer lowers the key
  kGrantAddedTwice,        // R10
  kReleaseOnExpiry,        // R5: credits what expires
  kExpireInLedgerFirst,    // R5: the wrong order
  kCreditTwice,            // R11
  kCreditAnyIncarnation,   // R11: credits holds it does not have
  kForgetSettled,          // R11: drops the record at the credit
  kReturnStaysFree,        // R6: lease goes back and stays spendable
  kFlushUndetected,        // R4, R12: takes an empty store for the registered one
  kTrustPromotedSnapshot,  // R12: the epoch key is enough
  kIdentityRunIdOnly,      // R12: a process is known by its run_id, whatever history it has
  kIdentityAtConnectOnly,  // R12: and is not looked at again on the same connection
  kGrantOutOfOrder,        // R10: a grant is added although the one before is missing
  // the ledger
  kCloseReleasesLease,     // R1
  kUnfencedLease,          // R2
  kUnlistedGrant,          // R2
  kPostTwice,              // R3
  kPostIgnoresEpoch,       // R3
  kExpireTwice,            // R5
  kExpireUnfenced,         // R5
  kUnfencedReturn,         // R6
  kReturnTwice,            // R6
  kReclaimWithoutReports,  // R7
  kReclaimUnsettled,       // R7
  kCapBelowLease,          // a cap shrinks at once, whatever is leased
  kRecallInLedgerOnly,     // lease is taken back that the store still has
  kRecallStaysFree,        // what comes back may be leased again, above the new limit
  // the edge
  kReclaimWithLiveZombie,  // R7: reports while an old enforcer can still grant
  kReclaimWithLiveTokens,  // R7: reports while it holds tokens
  kDeadlineFromReply,      // R7: counts the start deadline from the answer
  kIntentAfterForward,     // R13
  kCreditBeforeJournal,    // R13
  kVoidWhenUnsure,         // R14
  kPostPartialUsage,       // R14
  kPromiseBroken,          // R7: reports, and forwards a closed epoch's token later
};

// Amounts per budget node.
using Vec = std::array<int, 3>;

struct Config {
  std::string name;
  // Edges crash and restart with their journal; disappear with it; free lease goes back; Reserves run
  // after their sender is gone; a replica is promoted and the old primary lives on; a restart from an
  // older state on disk; FLUSHALL.
  bool crash = false, lost = false, returns = false, late = false, failover = false, restart = false,
       flush = false;
  // After a failover the first process leads again, with the data of the second (same run_id, another
  // history).
  bool failback = false;
  // The first budget's limit may be lowered to this, and set back; 0: it stays.
  int lowered = 0;
  int enforcers = 2, incarnations = 1, epochs = 1, grants = 1, inflight = 1;
  std::vector<std::vector<int>> paths = {{0}, {0}};
  std::vector<int> caps = {3};
  std::vector<int> process = {1, 2, 3};  // run_id by incarnation
  // R7 by promise of the edges (what the edges do) instead of by clocks (all other configurations).
  bool promise = false;
  bool reduce = true;  // merge worlds that differ only in what nobody reads
  Mutation mutation = Mutation::kNone;

  int requests() const { return static_cast<int>(paths.size()); }
  int nodes() const { return static_cast<int>(caps.size()); }
};

enum class Kind : uint8_t { kStep, kFault, kOperator };

// The ledger: every function is one transaction. Epochs count from 1; index epoch - 1.
struct Ledger {
  struct Grant {
    int epoch = 0;
    int id = 0;
    Vec amounts{};
  };
  struct Entry {
    bool there = false;
    int epoch = 0;
    int amount = 0;  // 0: void
  };
  struct Report {
    int covered = 0;    // epochs up to this one are reported on
    int unsettled = 0;  // the epoch under which it is still unsettled
  };
  int epoch = 1;
  std::vector<int> owner = {0};
  Vec avail{}, spent{};
  // What the owner wants, and what is escrowed: after a decrease the cap follows as lease comes back.
  Vec limit{}, cap{};
  int changes = 0;  // of the limit
  std::vector<Vec> leased{Vec{}}, suspense{Vec{}};
  std::vector<int> last_grant{0};
  std::vector<Grant> listed;
  std::vector<int> items;  // per request, open epoch only: -1 none, else what is in suspense of it
  std::vector<Entry> journal;
  std::vector<Report> reports;
  bool returned = false;
};

// One incarnation of the store: the real core behind the calls that a mutation may bend.
struct Store {
  bool up = true;
  std::shared_ptr<const enforcer::OrgState> core;
  int ghosts = 0;                // made-up grants of a mutation
  std::array<int, 3> remade{};   // per request: times a forgotten hold was made again
};

struct EnforcerActor {
  enum Phase : uint8_t { kIdle, kInit, kServing };
  int connection = -1;
  int epoch = 0;
  Phase phase = kIdle;
};

struct Request {
  enum Phase : uint8_t { kWait, kForwarded, kGaveUp };
  enum Edge : uint8_t { kUp, kDown, kLost };
  Phase phase = kWait;
  Edge edge = kUp;
  int asked = 0, tokens = 0;  // bit sets of epochs
  int epoch = 0;              // the token it forwarded under
  int billed = 0;             // by the provider: only the oracle reads this
  int amount = 0;             // the result in the edge's journal; 0: in flight
};

struct Inflight {
  int request, store, epoch;
};

struct World {
  Ledger ledger;
  std::vector<Store> stores;
  std::optional<Store> snapshot;
  std::vector<EnforcerActor> enforcers;
  std::vector<Request> requests;
  std::vector<Inflight> inflight;
};

World Initial(const Config& config);

// Every next world, already normalized.
using Emit = std::function<void(Kind kind, std::string name, World next)>;
void Successors(const Config& config, const World& world, const Emit& emit);

// What tells this world from others: equal keys behave alike.
std::string KeyOf(const Config& config, const World& world);

// I1 to I6 in this world; empty if they hold.
std::string Violation(const Config& config, const World& world);

// L1: what is leased is free in a store that serves (or back), suspense is what is truly unknown.
bool Drained(const Config& config, const World& world, bool with_operator);

}  // namespace tollhouse::model
