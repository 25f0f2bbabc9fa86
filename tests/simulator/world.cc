#include "tests/simulator/world.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "libs/base/strings.h"
#include "libs/base/window.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::simulator {
namespace {

using ledger::BudgetKey;
using ledger::BudgetSpec;

constexpr int64_t kUnit = 10'000'000;  // one cent: amounts are small multiples of it
constexpr int64_t kRoomMax = 1000 * kUnit;
constexpr std::string_view kFaultNames[kFaultKinds] = {
    "edge_kill", "edge_power_loss", "edge_lost", "enforcer_kill", "enforcer_shutdown", "ledger_kill",
    "pause", "clock_jump", "partition", "connections_break", "weather", "postgres_down",
    "postgres_commit_unknown", "redis_flush", "redis_failover", "redis_zombie", "redis_restart",
    "redis_failback", "redis_apply_slowly", "redis_repeats", "budget_set", "budget_raise", "budget_delete",
    "budget_zone", "budget_open_on_outage", "limits_set", "move_account", "resolve_suspense"};

[[noreturn]] void Die(std::string_view what, const absl::Status& status) {
  std::fprintf(stderr, "%.*s: %s\n", static_cast<int>(what.size()), what.data(),
               std::string(status.message()).c_str());
  std::abort();
}

// What a violation throws, so that nothing runs on broken books.
struct Stop {};

std::string Hex(const std::string& raw) {
  const auto id = UuidFromRaw(raw);
  return id.ok() ? id->ToString().substr(20) : "?";
}

// What an entry takes from the lease of a budget. Never more than it names: the store may have a hold
// of which an edge that was let pass without one does not know.
int64_t TakenOf(const ledger::v1::Entry& entry, int64_t budget_id, std::string_view period) {
  for (const auto& held : entry.budgets()) {
    if (held.budget_id() != budget_id || held.period() != period) continue;
    return held.observe() ? 0 : std::min(entry.cost_nanousd(), held.amount_nanousd());
  }
  return 0;
}

class World final : public Observer {
 public:
  World(Template* shared, const RunOptions& options);
  Report Play();

  void Forwarded(const ledger::v1::Entry& intent, const Demand& demand, int edge) override;
  void WillBill(const std::string& hold_id, int64_t nanos, int64_t delay) override;
  void Written(const std::string& hold_id) override { purchases_.at(hold_id).written = true; }
  void Answered(const Demand& demand, const Answer& answer) override;
  void Violation(std::string what) override;

 private:
  struct Purchase {
    ledger::v1::Entry intent;
    int edge = 0;
    std::string edge_id;
    int64_t billed = 0;
    bool written = false;        // its end is in the edge's journal
    bool known_unknown = false;  // the edge cannot know the end
  };
  struct Meter {
    int64_t opened_spent = 0;  // what the journal said of the time before the budget
    int64_t opened_overrun = 0;
    int64_t billed = 0;
    int64_t excess = 0;    // beyond what was held
    int64_t forgiven = 0;  // of lost edges, given up by the operator
  };

  void Billed(const std::string& hold_id, int64_t nanos);
  void MakeBudgets();
  void MakePlan();
  void MakeDemands();
  void Happen(const Fault& fault);
  Actor* Victim(int64_t who);
  void SetBudget(BudgetSpec spec);
  void Heal();
  void RunUntil(int64_t until);
  void AfterEvent();
  void CheckRows();
  void CheckMeter(const BudgetPeriod& at);
  void CheckLeases();
  std::string Undrained();
  void Settle();
  void ChargedTo(const BookSuspense& row, const Purchase& purchase);
  void Operate();
  void CheckJournal();
  void CheckVerify();
  void Probe();
  void RunUntilIdle();
  int64_t RoomOf(int key);
  const Purchase* FindPurchase(const std::string& hold_id) const;
  bool Explained(const BookSuspense& row) const;

  Template* const shared_;
  const RunOptions options_;
  Random plan_, load_;
  Runtime runtime_;
  Network network_;
  SimLedger ledger_;
  std::unique_ptr<SimRedis> redis_;
  std::vector<std::unique_ptr<SimEnforcer>> enforcers_;
  std::vector<std::unique_ptr<Edge>> edges_;
  std::string dir_;

  std::vector<BudgetSpec> specs_;
  std::vector<Fault> faults_;
  std::vector<Demand> demands_;
  int64_t end_ = 0;  // of load and faults
  bool healed_ = false;
  int bills_to_come_ = 0;

  std::map<std::string, Purchase> purchases_;  // by hold
  std::map<BudgetPeriod, Meter> meters_;
  std::map<BudgetPeriod, BookRow> rows_;
  int64_t ledger_seen_ = -1, redis_seen_ = 0, leases_checked_ = 0;
  std::set<std::string> lost_edges_;  // edge ids that never announce again
  std::optional<Answer> probed_;
  std::string violation_;
};

absl::Time StartOf(uint64_t seed) {
  // Noon, or shortly before a day and a month end somewhere.
  const absl::Time noon = absl::FromUnixSeconds(1'795'262'400);  // 2026-11-21 12:00:00 UTC
  Random random(seed ^ 0x5eed);
  if (!random.Chance(400)) return noon;
  const absl::Time midnight = absl::FromUnixSeconds(1'796'083'200);  // 2026-12-01 00:00:00 UTC
  return midnight - absl::Milliseconds(random.Between(2000, 12000));
}

World::World(Template* shared, const RunOptions& options)
    : shared_(shared),
      options_(options),
      plan_(options.seed * 3 + 1),
      load_(options.seed * 3 + 2),
      runtime_(options.seed * 3, StartOf(options.seed), options.trace),
      network_(&runtime_),
      ledger_(&runtime_, &network_, shared->database.get(), {shared->stores[0].get(), shared->stores[1].get()},
              &shared->clock, options.mutant),
      dir_(absl::StrCat(shared->dir, "/", options.seed)) {
  std::filesystem::create_directory(dir_);
  enforcer::CoreOptions core;
  core.retry_horizon_ms = 60'000;
  core.settled_ttl_ms = 30'000;
  redis_ = std::make_unique<SimRedis>(&runtime_, core, options.mutant);
  enforcer::EnforcerOptions enforcing;
  enforcing.lease_horizon = absl::Seconds(plan_.Between(1, 20));
  enforcing.idle_return = absl::Seconds(plan_.Between(2, 10));
  enforcing.longest_backoff = absl::Seconds(1);
  enforcing.longest_takeover = absl::Seconds(4);
  enforcing.idle_interval = absl::Seconds(3);
  const int enforcers = static_cast<int>(plan_.Between(1, 3));
  for (int i = 0; i < enforcers; ++i) {
    enforcers_.push_back(std::make_unique<SimEnforcer>(&runtime_, &network_, redis_.get(), &ledger_, i,
                                                       enforcing, 200 * kMilli, options.mutant));
  }
  const Edge::World around{&runtime_, &network_, &ledger_, &enforcers_, &shared->keys, this, dir_,
                           options.mutant};
  const int edges = static_cast<int>(plan_.Between(1, 3));
  for (int i = 0; i < edges; ++i) edges_.push_back(std::make_unique<Edge>(around, EdgeOptions(), i));
}

void World::Violation(std::string what) {
  if (violation_.empty()) violation_ = std::move(what);
  runtime_.Trace("VIOLATION", violation_);
  throw Stop();
}

// --- what the seed makes -------------------------------------------------------------------------
void World::SetBudget(BudgetSpec spec) {
  int64_t version = 0;
  auto done = ledger_.Transact<ledger::v1::SetBudgetResponse>(
      0, [&] { return shared_->store->SetBudget(nullptr, spec, &version); });
  if (done.ok()) {
    runtime_.Trace("admin", absl::StrCat("budget ", spec.path, "#", spec.window, " ", spec.match, " limit ",
                                         spec.limit_nanos, " ", spec.time_zone));
  }
  // A new budget begins with what was spent before.
  std::map<BudgetPeriod, BookRow> now;
  shared_->books->ReadRows(&now);
  for (const auto& [at, row] : now) {
    if (rows_.contains(at) || row.spent == 0) continue;
    meters_[at].opened_spent = row.spent;
    meters_[at].opened_overrun = row.overrun;
  }
}

void World::MakeBudgets() {
  const auto add = [&](std::string path, std::string window, int64_t units, int per_mille) -> BudgetSpec* {
    if (!plan_.Chance(per_mille)) return nullptr;
    BudgetSpec spec;
    spec.path = std::move(path);
    spec.window = std::move(window);
    spec.limit_nanos = units * kUnit + plan_.Below(kUnit);
    static constexpr const char* kZones[] = {"UTC", "UTC", "America/New_York", "Asia/Kolkata"};
    spec.time_zone = kZones[plan_.Below(4)];
    specs_.push_back(std::move(spec));
    return &specs_.back();
  };
  specs_.reserve(16);
  static constexpr const char* kWindows[] = {"total", "month", "day", "week"};
  add("acme", kWindows[plan_.Below(4)], plan_.Between(30, 150), 950);
  add("acme/red", kWindows[plan_.Below(4)], plan_.Between(10, 80), 700);
  add("acme/blue", "day", plan_.Between(10, 60), 600);
  add("acme/red/ann", "day", plan_.Between(5, 40), 400);
  if (auto* spec = add("acme/blue", "total", plan_.Between(3, 30), 500)) {
    spec->match = ledger::EncodeTags({{"use_case", "batch"}});
  }
  if (auto* spec = add("acme/red", "total", plan_.Between(5, 40), 300)) {
    spec->match = ledger::EncodeTags({{"model", "small"}});
    spec->mode = common::v1::BUDGET_MODE_OBSERVE;
  }
  if (auto* spec = add("acme/red/ann/laptop", "day", plan_.Between(5, 30), 300)) {
    spec->bound = common::v1::BOUND_POLICY_TIGHT;
  }
  for (const BudgetSpec& spec : specs_) SetBudget(spec);
}

void World::MakePlan() {
  end_ = plan_.Between(6, 14) * kSecond;
  // Each seed has faults of a few kinds only: they meet each other more often so.
  const int density = static_cast<int>(plan_.Between(0, 350));
  for (int kind = 0; kind < kFaultKinds; ++kind) {
    if (!plan_.Chance(density)) continue;
    const int64_t times = plan_.Between(1, 3);
    for (int64_t i = 0; i < times; ++i) {
      Fault fault;
      fault.kind = static_cast<FaultKind>(kind);
      fault.at = plan_.Between(kSecond / 2, end_);
      fault.who = plan_.Below(1 << 20);
      fault.amount = plan_.Below(1 << 20);
      fault.duration = plan_.Chance(300) ? plan_.Between(2 * kSecond, 12 * kSecond)
                                         : plan_.Between(50 * kMilli, 2 * kSecond);
      faults_.push_back(fault);
    }
  }
  std::stable_sort(faults_.begin(), faults_.end(), [](const Fault& a, const Fault& b) { return a.at < b.at; });
}

void World::MakeDemands() {
  const int64_t count = load_.Between(10, 45);
  const bool above = load_.Chance(250);
  const int trouble = static_cast<int>(load_.Between(0, 350));
  const int64_t largest = load_.Between(2, 12);
  for (int64_t i = 0; i < count; ++i) {
    Demand demand;
    demand.at = load_.Between(300 * kMilli, end_);
    demand.edge = static_cast<int>(load_.Below(static_cast<int64_t>(edges_.size())));
    demand.key = static_cast<int>(load_.Below(static_cast<int64_t>(shared_->keys.size())));
    if (load_.Chance(400)) demand.use_case = "batch";
    demand.model = load_.Chance(500) ? "small" : "large";
    demand.strict_nanos = load_.Between(1, largest) * kUnit + load_.Below(1000);
    demand.tight_nanos = demand.strict_nanos / load_.Between(1, 4);
    demand.bill_nanos = load_.Chance(200) ? demand.strict_nanos
                                          : demand.strict_nanos * load_.Between(1, 100) / 100;
    demand.duration = load_.Chance(100) ? load_.Between(3 * kSecond, 30 * kSecond)
                                        : load_.Between(10 * kMilli, 2 * kSecond);
    demand.connect_time = load_.Chance(100) ? load_.Between(kSecond, 14 * kSecond)
                                            : load_.Between(0, 30 * kMilli);
    demand.wait_ms = load_.Chance(500) ? load_.Between(100, 3000) : 0;
    if (load_.Chance(trouble)) {
      static constexpr Behaviour kTrouble[] = {
          Behaviour::kRefuse, Behaviour::kRefuse, Behaviour::kNoAnswer,    Behaviour::kNeverArrived,
          Behaviour::kNotSent, Behaviour::kBroken, Behaviour::kBrokenFinal};
      demand.behaviour = kTrouble[load_.Below(7)];
    } else if (above && load_.Chance(100)) {
      demand.behaviour = Behaviour::kAboveHold;
      demand.bill_nanos = demand.strict_nanos + load_.Between(1, 3 * kUnit);
    }
    demands_.push_back(std::move(demand));
  }
}

// --- faults --------------------------------------------------------------------------------------
Actor* World::Victim(int64_t who) {
  const auto& actors = runtime_.actors();
  return actors[who % static_cast<int64_t>(actors.size())].get();
}

void World::Happen(const Fault& fault) {
  const std::string name = absl::StrCat("fault.", absl::string_view(NameOf(fault.kind).data(), NameOf(fault.kind).size()));
  const auto hit = [&] {
    runtime_.coverage.Hit(name);
    runtime_.Trace("FAULT", name);
  };
  const auto later = [&](int64_t delay, std::function<void()> event) {
    runtime_.After(delay, nullptr, [this, event = std::move(event)] {
      if (!healed_) event();
    });
  };
  Edge* const edge = edges_[fault.who % static_cast<int64_t>(edges_.size())].get();
  SimEnforcer* const enforcer = enforcers_[fault.who % static_cast<int64_t>(enforcers_.size())].get();
  const auto reboot_edge = [&] {
    later(fault.duration, [edge] {
      if (!edge->actor()->up && !edge->lost()) edge->Boot();
    });
  };
  const auto reboot_enforcer = [&] {
    later(fault.duration + kSecond + 1, [enforcer] {
      if (!enforcer->actor()->up) enforcer->Boot();
    });
  };
  switch (fault.kind) {
    case FaultKind::kEdgeKill:
    case FaultKind::kEdgePowerLoss:
    case FaultKind::kEdgeLost: {
      if (!edge->actor()->up) return;
      const int64_t living = std::count_if(edges_.begin(), edges_.end(), [](const auto& e) { return !e->lost(); });
      if (fault.kind == FaultKind::kEdgeLost && living < 2) return;
      hit();
      for (auto& [hold, purchase] : purchases_) {
        // What was written outlives the process, but not the power.
        const bool lost = fault.kind != FaultKind::kEdgeKill || !purchase.written;
        if (purchase.edge == edge->actor()->index && lost) purchase.known_unknown = true;
      }
      if (fault.kind == FaultKind::kEdgeKill) {
        edge->Kill();
      } else {
        lost_edges_.insert(edge->edge_id());
        fault.kind == FaultKind::kEdgePowerLoss ? edge->PowerLoss() : edge->Lose();
      }
      reboot_edge();
      break;
    }
    case FaultKind::kEnforcerKill:
      if (!enforcer->actor()->up) return;
      hit();
      enforcer->Kill();
      reboot_enforcer();
      break;
    case FaultKind::kEnforcerShutdown:
      if (!enforcer->actor()->up || enforcer->actor()->paused || enforcer->draining()) return;
      hit();
      enforcer->Shutdown();
      reboot_enforcer();
      break;
    case FaultKind::kLedgerKill: {
      const int server = static_cast<int>(fault.who % ledger_.servers());
      if (!ledger_.actor(server)->up) return;
      hit();
      runtime_.Die(ledger_.actor(server));
      network_.Died(ledger_.actor(server));
      later(fault.duration, [this, server] { ledger_.Restart(server); });
      break;
    }
    case FaultKind::kPause: {
      Actor* const victim = Victim(fault.who);
      if (!victim->up || victim->paused) return;
      hit();
      runtime_.Trace(victim->name, "paused");
      runtime_.Pause(victim);
      later(fault.duration, [this, victim] { runtime_.Resume(victim); });
      break;
    }
    case FaultKind::kClockJump: {
      Actor* const victim = Victim(fault.who);
      hit();
      victim->wall_offset += (fault.amount % 2 == 0 ? 1 : -1) * (fault.amount % 40) * kSecond;
      runtime_.Trace(victim->name, absl::StrCat("clock off by ", victim->wall_offset / kSecond, " s"));
      later(fault.duration, [victim] { victim->wall_offset = 0; });
      break;
    }
    case FaultKind::kPartition: {
      Actor* const a = Victim(fault.who);
      Actor* const b = Victim(fault.amount);
      if (a == b) return;
      hit();
      runtime_.Trace(a->name, absl::StrCat("cut off from ", b->name));
      network_.Cut(a, b);
      later(fault.duration, [this, a, b] { network_.Mend(a, b); });
      break;
    }
    case FaultKind::kConnectionsBreak:
      hit();
      network_.BreakSome(static_cast<int>(100 + fault.amount % 900));
      break;
    case FaultKind::kWeather:
      hit();
      network_.weather = {static_cast<int>(fault.amount % 150), static_cast<int>(fault.amount / 8 % 150),
                          static_cast<int>(fault.amount / 64 % 100)};
      later(fault.duration, [this] { network_.weather = {}; });
      break;
    case FaultKind::kPostgresDown:
      hit();
      ledger_.database.up = false;
      later(fault.duration, [this] { ledger_.database.up = true; });
      break;
    case FaultKind::kPostgresCommitUnknown:
      hit();
      ledger_.database.unknown = static_cast<int>(100 + fault.amount % 700);
      later(fault.duration, [this] { ledger_.database.unknown = 0; });
      break;
    case FaultKind::kRedisFlush:
      hit();
      redis_->Flush();
      break;
    case FaultKind::kRedisFailover:
    case FaultKind::kRedisZombie: {
      hit();
      const bool zombie = fault.kind == FaultKind::kRedisZombie;
      Actor* const old = redis_->primary().actor;
      redis_->Failover(zombie);
      // Who is connected finds out in its own time; some keep finding the old one.
      for (const auto& e : enforcers_) {
        if (!e->actor()->up) continue;
        if (zombie && runtime_.random.Chance(500)) {
          e->redis()->SetStale(true);
          later(fault.duration, [enforcer = e.get()] {
            if (!enforcer->actor()->up) return;
            enforcer->redis()->SetStale(false);
            enforcer->redis()->Reconnect();
          });
        } else {
          const uint64_t life = e->actor()->life;
          later(runtime_.random.Between(0, kSecond), [enforcer = e.get(), life] {
            if (enforcer->actor()->up && enforcer->actor()->life == life) enforcer->redis()->Reconnect();
          });
        }
      }
      if (!zombie) {
        network_.Died(old);
      } else {
        later(fault.duration + kSecond, [this] { redis_->KillZombies(); });
      }
      break;
    }
    case FaultKind::kRedisRestart:
      hit();
      network_.Died(redis_->primary().actor);
      redis_->Restart();
      break;
    case FaultKind::kRedisFailback:
      if (!redis_->Failback()) return;
      hit();
      for (const auto& e : enforcers_) {
        if (e->actor()->up && runtime_.random.Chance(700)) e->redis()->Reconnect();
      }
      break;
    case FaultKind::kRedisApplySlowly: {
      hit();
      RedisNode* const node = &redis_->primary();
      node->apply_slowly = true;
      later(fault.duration, [node] { node->apply_slowly = false; });
      break;
    }
    case FaultKind::kRedisRepeats: {
      hit();
      RedisNode* const node = &redis_->primary();
      node->repeats = true;
      later(fault.duration + kSecond, [node] { node->repeats = false; });
      break;
    }
    case FaultKind::kBudgetSet:
    case FaultKind::kBudgetZone:
    case FaultKind::kBudgetOpenOnOutage: {
      if (specs_.empty()) return;
      BudgetSpec& spec = specs_[fault.who % static_cast<int64_t>(specs_.size())];
      hit();
      if (fault.kind == FaultKind::kBudgetSet) {
        spec.limit_nanos = (fault.amount % 100) * kUnit;
      } else if (fault.kind == FaultKind::kBudgetZone) {
        spec.time_zone = spec.time_zone == "UTC" ? "Europe/Berlin" : "UTC";
      } else {
        spec.on_outage = common::v1::OUTAGE_POLICY_OPEN;
      }
      SetBudget(spec);
      break;
    }
    case FaultKind::kBudgetRaise: {
      if (specs_.empty()) return;
      const BudgetSpec& spec = specs_[fault.who % static_cast<int64_t>(specs_.size())];
      hit();
      int64_t version = 0;
      const absl::Time until = shared_->clock.Wall() + absl::Nanoseconds(fault.duration);
      (void)ledger_.Transact<ledger::v1::Budget>(0, [&] {
        return shared_->store->RaiseBudget(
            nullptr, BudgetKey{spec.path, spec.name, spec.window, spec.match},
            (1 + fault.amount % 20) * kUnit, until, "simulated", "", &version);
      });
      break;
    }
    case FaultKind::kBudgetDelete: {
      if (specs_.empty()) return;
      const BudgetSpec spec = specs_[fault.who % static_cast<int64_t>(specs_.size())];
      hit();
      int64_t version = 0;
      (void)ledger_.Transact<std::string>(0, [&] {
        return shared_->store->DeleteBudget(
            nullptr, BudgetKey{spec.path, spec.name, spec.window, spec.match}, &version);
      });
      later(fault.duration, [this, spec] { SetBudget(spec); });
      break;
    }
    case FaultKind::kLimitsSet: {
      hit();
      ledger::v1::SetLimitsRequest request;
      request.set_path("acme/blue");
      request.set_concurrency(1 + fault.amount % 2);
      request.set_requests_per_minute(2 + fault.amount % 10);
      int64_t version = 0;
      (void)ledger_.Transact<ledger::v1::SetLimitsResponse>(
          0, [&] { return shared_->store->SetLimits(nullptr, request, &version); });
      break;
    }
    case FaultKind::kMoveAccount: {
      hit();
      ledger::v1::MoveAccountRequest request;
      const bool red = fault.amount % 2 == 0;
      request.set_path(red ? "acme/blue/batch" : "acme/red/batch");
      request.set_new_path(red ? "acme/red/batch" : "acme/blue/batch");
      int64_t version = 0;
      (void)ledger_.Transact<ledger::v1::Account>(
          0, [&] { return shared_->store->MoveAccount(nullptr, request, &version); });
      break;
    }
    case FaultKind::kResolveSuspense: {
      // Somebody looks at the provider's records.
      for (const BookSuspense& row : shared_->books->OpenSuspense()) {
        const Purchase* const purchase = FindPurchase(row.hold_id);
        if (purchase == nullptr || !purchase->known_unknown || row.state != 1) continue;
        if (edges_.empty() || purchase->billed == 0) continue;
        hit();
        (void)ledger_.Transact<ledger::v1::JournalEntry>(0, [&] {
          return shared_->store->ResolveSuspense(nullptr, row.hold_id, purchase->billed,
                                                 "provider's records");
        });
      }
      break;
    }
  }
}

void World::Heal() {
  healed_ = true;
  runtime_.Trace("HEAL", "everything works from here on");
  network_.MendAll();
  network_.weather = {};
  ledger_.database.up = true;
  ledger_.database.unknown = 0;
  redis_->KillZombies();
  for (const auto& node : redis_->nodes()) node->apply_slowly = node->repeats = false;
  for (const auto& actor : runtime_.actors()) {
    actor->wall_offset = 0;
    runtime_.Resume(actor.get());
  }
  for (int i = 0; i < ledger_.servers(); ++i) {
    if (!ledger_.actor(i)->up) ledger_.Restart(i);
  }
  for (const auto& enforcer : enforcers_) {
    if (!enforcer->actor()->up || enforcer->draining()) {
      if (enforcer->actor()->up) enforcer->Kill();
      enforcer->Boot();
    } else {
      enforcer->redis()->SetStale(false);
      enforcer->redis()->Reconnect();
    }
    enforcer->SetTick(kSecond);
  }
  for (const auto& edge : edges_) {
    edge->NoMorePowerLoss();
    if (!edge->actor()->up && !edge->lost()) edge->Boot();
  }
}

// --- what happens, and what is recorded ----------------------------------------------------------
void World::Forwarded(const ledger::v1::Entry& intent, const Demand& demand, int edge) {
  const auto [it, fresh] = purchases_.try_emplace(intent.hold_id());
  if (!fresh) Violation(absl::StrCat("hold ", Hex(intent.hold_id()), " is forwarded twice"));
  Purchase& purchase = it->second;
  purchase.intent = intent;
  purchase.edge = edges_[edge]->actor()->index;
  purchase.edge_id = intent.edge_id();
  purchase.known_unknown = demand.behaviour == Behaviour::kNoAnswer ||
                           demand.behaviour == Behaviour::kNeverArrived ||
                           demand.behaviour == Behaviour::kBroken;
  if (demand.behaviour == Behaviour::kAboveHold) runtime_.coverage.Hit("hold.above");
  for (const auto& held : intent.budgets()) {
    // Only an unreachable ledger and an owner who wants it so let a request pass without a hold.
    if (!held.observe() && held.amount_nanousd() == 0) runtime_.coverage.Hit("hold.open_on_outage");
  }
}

void World::WillBill(const std::string& hold_id, int64_t nanos, int64_t delay) {
  ++bills_to_come_;
  runtime_.After(delay, nullptr, [this, hold_id, nanos] {
    --bills_to_come_;
    Billed(hold_id, nanos);
  });
}

void World::Billed(const std::string& hold_id, int64_t nanos) {
  Purchase& purchase = purchases_.at(hold_id);
  purchase.billed += nanos;
  runtime_.Trace("provider", absl::StrCat("bills ", Hex(hold_id), " ", nanos));
  for (const auto& held : purchase.intent.budgets()) {
    const BudgetPeriod at{held.budget_id(), held.period()};
    Meter& meter = meters_[at];
    meter.billed += nanos;
    meter.excess += std::max<int64_t>(0, nanos - held.amount_nanousd());
    CheckMeter(at);
  }
}

void World::Answered(const Demand& demand, const Answer& answer) {
  if (demand.probe) {
    probed_ = answer;
    return;
  }
  switch (answer.kind) {
    case Answer::Kind::kServed:
      runtime_.coverage.Hit("answer.served");
      break;
    case Answer::Kind::kRefused: {
      std::string reason = enforcer::v1::Reason_Name(answer.refused.reason());
      reason = reason.substr(reason.find('_') + 1);
      runtime_.Trace("client", absl::StrCat("refused: ", reason));
      for (const std::string_view known : Coverage::Names()) {
        if (known == "refused." + reason) runtime_.coverage.Hit(known);
      }
      break;
    }
    case Answer::Kind::kUnavailable: {
      runtime_.Trace("client", absl::StrCat("unavailable: ", answer.reason));
      const std::string name = "answer." + answer.reason;
      const auto names = Coverage::Names();
      runtime_.coverage.Hit(std::binary_search(names.begin(), names.end(), std::string_view(name))
                                ? std::string_view(name)
                                : "answer.other");
      break;
    }
  }
}

const World::Purchase* World::FindPurchase(const std::string& hold_id) const {
  const auto it = purchases_.find(hold_id);
  return it == purchases_.end() ? nullptr : &it->second;
}

// --- safety --------------------------------------------------------------------------------------
// I4, the theorem: what the provider has billed never exceeds the cap, at any level, but for bills
// above their holds.
void World::CheckMeter(const BudgetPeriod& at) {
  const auto meter = meters_.find(at);
  if (meter == meters_.end()) return;
  const auto row = rows_.find(at);
  const int64_t cap = row == rows_.end() ? 0 : row->second.cap;
  const int64_t before = meter->second.opened_spent - meter->second.opened_overrun;
  if (before + meter->second.billed > cap + meter->second.excess) {
    Violation(absl::StrCat("I4: budget ", at.first, " ", at.second, ": billed ", meter->second.billed,
                           " + before ", before, ", cap ", cap, ", above holds ", meter->second.excess));
  }
}

void World::CheckRows() {
  std::map<BudgetPeriod, BookRow> before = rows_;
  shared_->books->ReadRows(&rows_);
  for (const auto& [at, row] : rows_) {
    const auto was = before.find(at);
    if (was != before.end() && row.cap == was->second.cap && row.overrun == was->second.overrun) continue;
    if (was != before.end() && row.cap > std::max(was->second.cap, row.target)) {
      Violation(absl::StrCat("the cap of budget ", at.first, " ", at.second, " grew to ", row.cap));
    }
    const auto meter = meters_.find(at);
    const int64_t excess =
        meter == meters_.end() ? 0 : meter->second.excess + meter->second.opened_overrun;
    if (row.overrun > excess) {
      Violation(absl::StrCat("I4: budget ", at.first, " ", at.second, " is overrun by ", row.overrun,
                             ", bills above holds are ", excess));
    }
    CheckMeter(at);
  }
}

// I1, I2 and I3, as equations: what the store of the open epoch holds, and what is on its way to it,
// is what the ledger has leased; what single suspense rows and closed epochs hold is its suspense.
void World::CheckLeases() {
  Books& books = *shared_->books;
  const int64_t org = shared_->org_id;
  const auto open = books.OpenEpoch(org);
  const auto suspense = books.SuspenseByRow();
  for (const auto& [at, row] : rows_) {
    const std::string name = absl::StrCat("budget ", at.first, " ", at.second);
    if (std::min({row.cap, row.overrun, row.avail, row.leased, row.suspense, row.spent}) < 0 ||
        row.avail + row.leased + row.suspense + row.spent != row.cap + row.overrun) {
      Violation(absl::StrCat("I1: ", name));
    }
    const auto item = suspense.find(row.id);
    if (item != suspense.end() && item->second > row.suspense) {
      Violation(absl::StrCat("I2: ", name, " suspense ", row.suspense, ", its rows ", item->second));
    }
  }
  if (!open) return;
  OrgData* const data = redis_->Find(org, open->incarnation);
  if (data == nullptr || data->state.epoch() != open->epoch) return;
  const enforcer::OrgState& state = data->state;
  std::map<BudgetPeriod, int64_t> local;
  for (const auto& lease : state.Leases()) {
    if (lease.free_nanos < 0 || lease.held_nanos < 0) {
      Violation(absl::StrCat("I3: negative lease of budget ", lease.budget_id));
    }
    local[{lease.budget_id, lease.period}] += lease.free_nanos;
  }
  for (const auto& record : state.Returns()) {
    if (books.ReturnPosted(org, open->epoch, record.return_id)) continue;
    for (const auto& lease : record.amounts) local[{lease.budget_id, lease.period}] += lease.free_nanos;
  }
  for (const auto& [id, answer] : books.OpenGrants(org, open->epoch)) {
    if (id + data->ghosts <= state.last_grant_id()) continue;
    ledger::v1::GrantLeaseResponse grant;
    grant.ParseFromString(answer);
    for (const auto& item : grant.items()) local[{item.budget_id(), item.period()}] += item.granted_nanousd();
  }
  for (const auto& hold : state.Holds()) {
    const std::string id(KnownAs(*data, hold.hold_id).raw());
    if (books.HasSuspense(org, id, open->epoch)) continue;
    // What the ledger has taken of the hold already is no longer leased.
    const ledger::v1::Entry* const posted = ledger_.Posted(id);
    for (const auto& held : hold.budgets) {
      const int64_t taken = posted == nullptr || posted->epoch() != open->epoch
                                ? 0
                                : TakenOf(*posted, held.budget_id, held.period);
      local[{held.budget_id, held.period}] += std::max<int64_t>(0, held.covers_nanos - taken);
    }
  }
  for (const auto& [at, row] : rows_) {
    const auto it = local.find(at);
    const int64_t here = it == local.end() ? 0 : it->second;
    if (here == row.leased) continue;
    Violation(absl::StrCat(here > row.leased ? "I3 (cover)" : "I2 (leak)", ": budget ", at.first, " ", at.second,
                           ": the store and messages hold ", here, ", leased ", row.leased));
  }
  for (const auto& [at, here] : local) {
    if (here != 0 && !rows_.contains(at)) Violation(absl::StrCat("I3: lease of unknown budget ", at.first));
  }
}

void World::AfterEvent() {
  if (runtime_.events() > 200'000) Violation("L1: it never ends");
  if (ledger_.changes() != ledger_seen_) {
    ledger_seen_ = ledger_.changes();
    if (!ledger_.bug().empty()) Violation(ledger_.bug());
    CheckRows();
    for (const auto& store : shared_->stores) {
      if (store->counters().cover_missing > 0) Violation("I3: an epoch held less than a posting named");
    }
    if (ledger_seen_ % 16 == 0) {
      ++leases_checked_;
      CheckLeases();
    }
  }
}

void World::RunUntil(int64_t until) {
  while (runtime_.Step(until)) AfterEvent();
}

// --- the end -------------------------------------------------------------------------------------
// L1: what is leased is free in the store, nobody waits for anything.
std::string World::Undrained() {
  if (bills_to_come_ > 0) return "the provider bills";
  if (redis_->repeats() > 0) return "scripts run again";
  for (const auto& edge : edges_) {
    const std::string busy = edge->Busy();
    if (!busy.empty()) return absl::StrCat(edge->actor()->name, ": ", busy);
  }
  const auto open = shared_->books->OpenEpoch(shared_->org_id);
  if (!open) return "";
  OrgData* const data = redis_->Find(shared_->org_id, open->incarnation);
  if (data == nullptr || data->state.epoch() != open->epoch) return "the open epoch has no store";
  if (data->state.hold_count() > 0) return absl::StrCat(data->state.hold_count(), " holds");
  if (!data->state.Returns().empty()) return "returns";
  if (!shared_->books->OpenGrants(shared_->org_id, open->epoch).empty()) return "grants";
  for (const int64_t epoch : shared_->books->WaitingEpochs(shared_->org_id)) {
    if (lost_edges_.empty()) return absl::StrCat("epoch ", epoch, " is not reclaimed");
  }
  for (const BookSuspense& row : shared_->books->OpenSuspense()) {
    if (!Explained(row)) return absl::StrCat("hold ", Hex(row.hold_id), " is in suspense for no reason");
  }
  return "";
}

// Suspense is what is truly unknown: what a lost journal knew, and what the provider alone knows.
bool World::Explained(const BookSuspense& row) const {
  const Purchase* const purchase = FindPurchase(row.hold_id);
  return lost_edges_.contains(row.edge_id) || (purchase != nullptr && purchase->known_unknown);
}

void World::Settle() {
  const int64_t patience = runtime_.now() + 180 * kSecond;
  std::string waits = "start";
  while (runtime_.now() < patience) {
    RunUntil(runtime_.now() + 2 * kSecond);
    waits = Undrained();
    if (waits.empty()) break;
  }
  if (!waits.empty()) Violation(absl::StrCat("L1: does not come to rest: ", waits));
  CheckRows();
  CheckLeases();
}

// What a lost edge knew of a request let pass without a hold is lost, too: if the store had made one all
// the same, its budgets are charged.
void World::ChargedTo(const BookSuspense& row, const Purchase& purchase) {
  if (!lost_edges_.contains(row.edge_id)) return;
  ledger::v1::Entry entry;
  entry.ParseFromString(row.entry);
  const auto names = [](const ledger::v1::Entry& of, const common::v1::HeldBudget& budget) {
    return std::any_of(of.budgets().begin(), of.budgets().end(), [&](const auto& held) {
      return held.budget_id() == budget.budget_id() && held.period() == budget.period();
    });
  };
  for (const auto& held : entry.budgets()) {
    if (names(purchase.intent, held)) continue;
    meters_[{held.budget_id(), held.period()}].forgiven -= purchase.billed;
  }
  for (const auto& held : purchase.intent.budgets()) {
    if (!names(entry, held)) meters_[{held.budget_id(), held.period()}].forgiven += purchase.billed;
  }
}

// A person reads the provider's records and resolves what is unknown.
void World::Operate() {
  if (!shared_->books->WaitingEpochs(shared_->org_id).empty() && lost_edges_.empty()) {
    Violation("L1: an epoch waits for edges that are all there");
  }
  for (const BookSuspense& row : shared_->books->OpenSuspense()) {
    const Purchase* const purchase = FindPurchase(row.hold_id);
    auto resolved = ledger_.Transact<ledger::v1::JournalEntry>(0, [&] {
      return shared_->store->ResolveSuspense(
          nullptr, row.hold_id, purchase == nullptr ? 0 : purchase->billed, "provider's records");
    });
    if (!resolved.ok() && ReasonOf(resolved.status()) != "ALREADY_RESOLVED") {
      Violation(absl::StrCat("suspense is not resolved: ", resolved.status().message()));
    }
    if (resolved.ok() && purchase != nullptr) ChargedTo(row, *purchase);
    runtime_.coverage.Hit("operator.resolved");
  }
  // What only lost edges could tell is given up; what they spent is on nobody's books.
  for (const int64_t epoch : shared_->books->WaitingEpochs(shared_->org_id)) {
    runtime_.coverage.Hit("operator.released_lost_lease");
    (void)ledger_.Transact<bool>(0, [&]() -> absl::StatusOr<bool> {
      return shared_->store->ReleaseLostLease(nullptr, shared_->org_id, epoch).ok();
    });
  }
  const auto entries = shared_->books->Entries();
  for (const auto& [hold_id, purchase] : purchases_) {
    if (entries.contains(hold_id) || !lost_edges_.contains(purchase.edge_id)) continue;
    for (const auto& held : purchase.intent.budgets()) {
      Meter& meter = meters_[{held.budget_id(), held.period()}];
      meter.forgiven += purchase.billed;
      meter.excess += purchase.billed;
    }
  }
  RunUntil(runtime_.now() + 3 * kSecond);
  CheckRows();
  CheckLeases();
  for (const auto& [at, row] : rows_) {
    if (row.suspense != 0) {
      Violation(absl::StrCat("L1: budget ", at.first, " ", at.second, " has ", row.suspense,
                             " in suspense after all was resolved"));
    }
  }
}

// I5: the ledger is the meter, request by request and budget by budget.
void World::CheckJournal() {
  const auto entries = shared_->books->Entries();
  std::map<BudgetPeriod, int64_t> forgiven;
  for (const auto& [hold_id, purchase] : purchases_) {
    const auto entry = entries.find(hold_id);
    if (entry == entries.end()) {
      if (lost_edges_.contains(purchase.edge_id)) continue;
      Violation(absl::StrCat("I5: hold ", Hex(hold_id), " was forwarded and has no entry"));
    }
    if (entry->second.terminal != 1 || entry->second.cost != purchase.billed) {
      Violation(absl::StrCat("I5: hold ", Hex(hold_id), " billed ", purchase.billed, ", journal ",
                             entry->second.cost, " in ", entry->second.terminal, " entries"));
    }
  }
  for (const auto& [hold_id, entry] : entries) {
    if (entry.terminal != 1) Violation(absl::StrCat("I5: hold ", Hex(hold_id), " ended ", entry.terminal, " times"));
    if (entry.cost != 0 && !purchases_.contains(hold_id)) {
      Violation(absl::StrCat("I5: hold ", Hex(hold_id), " was never forwarded and costs ", entry.cost));
    }
  }
  for (const auto& [at, row] : rows_) {
    const auto meter = meters_.find(at);
    const Meter of = meter == meters_.end() ? Meter{} : meter->second;
    if (row.spent != of.opened_spent + of.billed - of.forgiven) {
      Violation(absl::StrCat("I5: budget ", at.first, " ", at.second, " spent ", row.spent, ", billed ", of.billed,
                             ", before ", of.opened_spent));
    }
  }
}

void World::CheckVerify() {
  std::string problem;
  const absl::Status verified =
      shared_->store->Verify({}, [&](const ledger::v1::VerifyLedgerProgress& progress) {
        if (progress.problems_size() > 0) problem = progress.problems(0);
        return true;
      });
  if (!verified.ok()) Violation(absl::StrCat("verify: ", verified.message()));
  if (!problem.empty()) Violation(absl::StrCat("I7: ledger verify: ", problem));
}

// Until what has arrived is answered and posted; an edge that cannot is found elsewhere.
void World::RunUntilIdle() {
  const int64_t patience = runtime_.now() + 10 * kSecond;
  do {
    RunUntil(runtime_.now() + 250 * kMilli);
  } while (runtime_.now() < patience && std::any_of(edges_.begin(), edges_.end(), [](const auto& edge) {
    return !edge->Busy().empty();
  }));
  CheckRows();
}

// What the budgets of a key leave; kRoomMax: no budget bounds it.
int64_t World::RoomOf(int key) {
  const auto rules = shared_->store->Snapshot();
  if (!rules.ok()) Violation("no snapshot");
  ledger::v1::ResolveAccountRequest resolve;
  resolve.set_account_id(shared_->keys[key]);
  const auto chain = shared_->store->ResolveAccount(resolve);
  if (!chain.ok()) Violation("no account");
  int64_t room = kRoomMax;
  const absl::Time wall = runtime_.start() + absl::Nanoseconds(runtime_.now());
  for (const auto& rule : rules->budgets()) {
    const bool on_path = std::any_of(chain->chain().begin(), chain->chain().end(), [&](const auto& account) {
      return account.account_id() == rule.account_id();
    });
    if (!on_path || !rule.match().empty() || rule.mode() != common::v1::BUDGET_MODE_ENFORCE) continue;
    auto window = ParseWindow(rule.window());
    auto zone = ParseTimeZone(rule.time_zone());
    if (!window.ok() || !zone.ok()) continue;
    const auto row = rows_.find({rule.budget_id(), PeriodAt(*window, *zone, wall).key});
    if (row != rows_.end()) {
      room = std::min(room, row->second.target - row->second.spent);
    } else if (auto next = rows_.upper_bound({rule.budget_id(), "~"}); next != rows_.begin()) {
      // Nobody has used this period: it has what the one before had at first.
      room = std::min(room, std::prev(next)->second.target);
    }
  }
  return room;
}

// L2: what is left can be spent to the last unit, and not more.
void World::Probe() {
  const Edge* serving = nullptr;
  int edge_index = 0;
  for (size_t i = 0; i < edges_.size(); ++i) {
    if (!edges_[i]->lost()) {
      serving = edges_[i].get();
      edge_index = static_cast<int>(i);
    }
  }
  if (serving == nullptr) return;
  // A first request opens the rows of periods that nobody has used yet.
  for (int key = 0; key < 2; ++key) {
    Demand demand;
    demand.probe = true;
    demand.edge = edge_index;
    demand.key = key;
    demand.model = "large";
    demand.strict_nanos = demand.tight_nanos = demand.bill_nanos = 1;
    demand.duration = kMilli;
    edges_[edge_index]->Arrive(demand);
  }
  RunUntilIdle();
  for (int round = 0; round < 3; ++round) {
    const int key = round % 2;
    const bool fits = round < 2;
    for (bool again = true; again;) {
      const int64_t room = RoomOf(key);
      if (fits ? room <= 0 : room >= kRoomMax) break;
      Demand demand;
      demand.probe = true;
      demand.edge = edge_index;
      demand.key = key;
      demand.model = "large";
      demand.strict_nanos = demand.tight_nanos = demand.bill_nanos = fits ? room : std::max<int64_t>(0, room) + 1;
      demand.duration = kMilli;
      demand.wait_ms = 3000;
      probed_.reset();
      runtime_.Trace("probe", absl::StrCat("room ", room, fits ? "" : " + 1"));
      edges_[edge_index]->Arrive(demand);
      RunUntilIdle();
      if (!probed_) Violation("L2: a request has no answer");
      const bool served = probed_->kind == Answer::Kind::kServed;
      // A raise ends when somebody looks.
      again = fits && !served && RoomOf(key) < room;
      if (served != fits && !again) {
        Violation(absl::StrCat("L2: a request of ", demand.strict_nanos, " with room ", room, " was ",
                               served ? "served" : "not served: ", probed_->reason,
                               enforcer::v1::Reason_Name(probed_->refused.reason())));
      }
      if (!again) runtime_.coverage.Hit(fits ? "probe.admitted" : "probe.refused");
    }
  }
  CheckLeases();
}

Report World::Play() {
  Report report;
  try {
    MakeBudgets();
    MakePlan();
    MakeDemands();
    report.faults = static_cast<int>(faults_.size());
    report.demands = static_cast<int>(demands_.size());
    for (const auto& enforcer : enforcers_) enforcer->Boot();
    for (const auto& edge : edges_) edge->Boot();
    const auto kept = [](const std::vector<bool>& keep, size_t i) { return i >= keep.size() || keep[i]; };
    for (size_t i = 0; i < faults_.size(); ++i) {
      if (!kept(options_.keep_faults, i)) continue;
      runtime_.At(faults_[i].at, nullptr, [this, i] { Happen(faults_[i]); });
    }
    for (size_t i = 0; i < demands_.size(); ++i) {
      if (!kept(options_.keep_demands, i)) continue;
      runtime_.At(demands_[i].at, nullptr, [this, i] { edges_[demands_[i].edge]->Arrive(demands_[i]); });
    }
    // Replication lags by a varying time.
    for (int64_t at = 100 * kMilli; at < end_; at += plan_.Between(50 * kMilli, 2 * kSecond)) {
      runtime_.At(at, nullptr, [this] { redis_->Replicate(); });
    }
    RunUntil(end_);
    Heal();
    Settle();
    Operate();
    CheckJournal();
    CheckVerify();
    std::set<std::string> periods;
    for (const auto& [at, row] : rows_) {
      if (at.second != "total" && !periods.insert(absl::StrCat(at.first)).second) {
        runtime_.coverage.Hit("period.rolled_over");
      }
    }
    Probe();
    CheckJournal();
  } catch (const Stop&) {
  }
  report.violation = violation_;
  report.fingerprint = runtime_.fingerprint();
  report.events = runtime_.events();
  report.coverage = runtime_.coverage.counts();
  return report;
}

}  // namespace

std::string_view NameOf(FaultKind kind) { return kFaultNames[static_cast<int>(kind)]; }

Template::Template(std::string where) : dir(std::move(where)) {
  // SQLite's memory database, shared by the connections of this process.
  sqlite3_vfs_register(sqlite3_vfs_find("memdb"), 1);
  const std::string path = dir + "/ledger.db";
  sql::DatabaseSettings settings;
  settings.database = "sqlite:" + path;
  auto opened = sql::OpenDatabase(settings, ledger::StoreSchema());
  if (!opened.ok()) Die("the database does not open", opened.status());
  database = std::move(opened->database);
  for (int i = 0; i < 2; ++i) {
    auto made = ledger::SqlStore::Open(database.get(), &clock);
    if (!made.ok()) Die("the ledger does not open", made.status());
    stores.push_back(*std::move(made));
  }
  store = stores[0].get();
  const auto account = [&](common::v1::AccountKind kind, const std::string& name) {
    ledger::v1::CreateAccountRequest request;
    request.set_kind(kind);
    request.set_path(name);
    int64_t version = 0;
    auto created = store->CreateAccount(nullptr, request, &version);
    if (!created.ok()) Die(name, created.status());
  };
  account(common::v1::ACCOUNT_KIND_ORG, "acme");
  account(common::v1::ACCOUNT_KIND_TEAM, "acme/red");
  account(common::v1::ACCOUNT_KIND_TEAM, "acme/blue");
  account(common::v1::ACCOUNT_KIND_USER, "acme/red/ann");
  for (const auto& [parent, name] : {std::pair<std::string, std::string>{"acme/red/ann", "laptop"},
                                     {"acme/red", "service"}, {"acme/blue", "web"}, {"acme/blue", "batch"}}) {
    ledger::v1::CreateKeyAccountRequest request;
    request.set_parent_path(parent);
    request.set_name(name);
    request.set_client_request_id(parent + name);
    int64_t version = 0;
    auto created = store->CreateKeyAccount(request, &version);
    if (!created.ok()) Die(name, created.status());
    keys.push_back(created->account_id());
    key_paths.push_back(created->path());
    org_id = created->org_id();
  }
  books = std::make_unique<Books>(path);
  std::map<BudgetPeriod, BookRow> none;
  books->ReadRows(&none);
}

// Not destroyed: the process ends with it.
Report Run(Template* shared, const RunOptions& options) { return (new World(shared, options))->Play(); }

}  // namespace tollhouse::simulator
