// A whole Tollhouse under virtual time: what a seed makes of it, and what must be true of it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "libs/sql/database.h"
#include "services/ledger/store/store.h"
#include "tests/simulator/books.h"
#include "tests/simulator/edge.h"
#include "tests/simulator/ledger.h"
#include "tests/simulator/redis.h"
#include "tests/simulator/runtime.h"

namespace tollhouse::simulator {

// What all seeds share: a ledger with accounts and no budget yet. A run changes it for good: it needs a
// process (or a template) of its own.
struct Template {
  // `dir`: where journals go, and the name of the database (in memory).
  explicit Template(std::string dir);

  std::string dir;
  StoreClock clock;
  std::unique_ptr<sql::Database> database;
  std::vector<std::unique_ptr<ledger::Store>> stores;  // of each ledger, on one database
  ledger::Store* store = nullptr;                      // the first
  std::unique_ptr<Books> books;
  int64_t org_id = 0;
  std::vector<int64_t> keys;            // account ids
  std::vector<std::string> key_paths;   // as created
};

enum class FaultKind {
  kEdgeKill, kEdgePowerLoss, kEdgeLost, kEnforcerKill, kEnforcerShutdown, kLedgerKill, kPause,
  kClockJump, kPartition, kConnectionsBreak, kWeather, kPostgresDown, kPostgresCommitUnknown,
  kRedisFlush, kRedisFailover, kRedisZombie, kRedisRestart, kRedisFailback, kRedisApplySlowly, kRedisRepeats,
  kBudgetSet, kBudgetRaise, kBudgetDelete, kBudgetZone, kBudgetOpenOnOutage, kLimitsSet, kMoveAccount,
  kResolveSuspense,
};
inline constexpr int kFaultKinds = static_cast<int>(FaultKind::kResolveSuspense) + 1;
std::string_view NameOf(FaultKind kind);

struct Fault {
  int64_t at = 0;
  FaultKind kind = FaultKind::kEdgeKill;
  int64_t who = 0, amount = 0;
  int64_t duration = 0;
};

struct RunOptions {
  uint64_t seed = 1;
  bool trace = false;
  Mutant mutant = Mutant::kNone;
  // For shrinking: which of the seed's faults and requests happen at all.
  std::vector<bool> keep_faults, keep_demands;  // shorter: the rest is kept
};

struct Report {
  std::string violation;  // "": none
  uint64_t fingerprint = 0;
  int64_t events = 0;
  std::vector<int64_t> coverage;
  int faults = 0, demands = 0;  // of the seed
};

// Runs the seed in this process, at most once per template.
Report Run(Template* shared, const RunOptions& options);

}  // namespace tollhouse::simulator
