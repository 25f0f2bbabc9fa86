// Visits every reachable world of small configurations, breadth first: the shortest trace to a
// violation of I1 to I6 is printed. Then liveness (L1): from every world, a drained one is reachable
// without new faults.
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "gtest/gtest.h"
#include "tests/model/escrow_world.h"

namespace tollhouse::model {
namespace {

struct Exploration {
  std::string found;  // empty: every world visited, nothing wrong
  std::vector<std::string> trace;
  size_t worlds = 0, transitions = 0;
};

// "E0 adds grant 1 in store 0" -> "E adds grant in store"
std::string ActionOf(const std::string& name) {
  std::string action;
  for (const char c : name) {
    if (c >= '0' && c <= '9') continue;
    if (c == ' ' && !action.empty() && action.back() == ' ') continue;
    action.push_back(c);
  }
  return action;
}

// What happened in the configurations that were explored, and how many were.
std::set<std::string>& SeenActions() {
  static auto& seen = *new std::set<std::string>;
  return seen;
}
int explored = 0;

class Search {
 public:
  explicit Search(const Config& config) : config_(config) {}

  const std::set<std::string>& actions() const { return actions_; }

  Exploration Run(size_t worlds_max) {
    Visit(Initial(config_), -1, "");
    std::vector<std::pair<int, World>> frontier;
    frontier.swap(next_);
    while (!frontier.empty() && found_at_ < 0) {
      for (const auto& [id, world] : frontier) {
        from_ = id;
        Successors(config_, world, [&](Kind kind, std::string name, World to) {
          if (found_at_ >= 0) return;
          ++out_.transitions;
          actions_.insert(ActionOf(name));
          const int target = Visit(std::move(to), from_, std::move(name));
          if (kind != Kind::kFault && target != from_) edges_.push_back({from_, target, kind});
        });
        if (found_at_ >= 0) break;
      }
      frontier.clear();
      frontier.swap(next_);
      if (parent_.size() > worlds_max) {
        out_.found = "too many worlds: not exhausted";
        break;
      }
    }
    if (found_at_ >= 0) Trace(found_at_);
    for (bool with_operator : {false, true}) {
      if (!out_.found.empty()) break;
      const int stuck = Stuck(with_operator);
      if (stuck < 0) continue;
      out_.found = with_operator ? "LIVENESS (L1): cannot drain, even with an operator"
                                 : "LIVENESS (L1): cannot drain";
      Trace(stuck);
    }
    out_.worlds = parent_.size();
    return out_;
  }

 private:
  struct Edge {
    int from, to;
    Kind kind;
  };

  int Visit(World world, int from, std::string name) {
    const std::string key = KeyOf(config_, world);
    const auto hash = std::pair(absl::HashOf(key), absl::HashOf(key, 1));
    const int next_id = static_cast<int>(parent_.size());
    auto [it, made] = ids_.try_emplace(hash, next_id);
    if (!made) return it->second;
    parent_.push_back(from);
    how_.push_back(std::move(name));
    drained_.push_back(static_cast<uint8_t>(Drained(config_, world, false)) |
                       static_cast<uint8_t>(Drained(config_, world, true) << 1));
    out_.found = Violation(config_, world);
    if (!out_.found.empty()) found_at_ = next_id;
    next_.emplace_back(next_id, std::move(world));
    return next_id;
  }

  void Trace(int id) {
    for (; id > 0; id = parent_[id]) out_.trace.insert(out_.trace.begin(), how_[id]);
  }

  // A world from which no drained one can be reached; -1 if there is none.
  int Stuck(bool with_operator) {
    std::vector<std::vector<int>> back(parent_.size());
    for (const Edge& edge : edges_) {
      if (edge.kind == Kind::kStep || with_operator) back[edge.to].push_back(edge.from);
    }
    std::vector<uint8_t> good(parent_.size());
    std::vector<int> todo;
    for (size_t i = 0; i < parent_.size(); ++i) {
      if (drained_[i] >> (with_operator ? 1 : 0) & 1) {
        good[i] = 1;
        todo.push_back(static_cast<int>(i));
      }
    }
    while (!todo.empty()) {
      const int at = todo.back();
      todo.pop_back();
      for (int from : back[at]) {
        if (!good[from]) {
          good[from] = 1;
          todo.push_back(from);
        }
      }
    }
    for (size_t i = 0; i < good.size(); ++i) {
      if (!good[i]) return static_cast<int>(i);
    }
    return -1;
  }

  const Config config_;
  Exploration out_;
  absl::flat_hash_map<std::pair<size_t, size_t>, int> ids_;
  std::vector<int> parent_;
  std::vector<std::string> how_;
  std::vector<uint8_t> drained_;
  std::vector<Edge> edges_;
  std::vector<std::pair<int, World>> next_;
  std::set<std::string> actions_;
  int from_ = -1;
  int found_at_ = -1;
};

Config Core() {
  return {.name = "Core", .crash = true, .lost = true, .returns = true, .enforcers = 1};
}
Config Tree(Config config, std::string name) {
  config.name = std::move(name);
  config.paths = {{0, 1}, {0, 2}};
  config.caps = {3, 2, 2};
  return config;
}
Config CoreTree() { return Tree({.crash = true, .lost = true, .enforcers = 1}, "CoreTree"); }
Config CoreInflight() {
  return {.name = "CoreInflight", .crash = true, .lost = true, .returns = true, .late = true,
          .enforcers = 1, .inflight = 2};
}
Config CoreThree() {
  return {.name = "CoreThree", .enforcers = 1, .grants = 2, .paths = {{0}, {0}, {0}}, .caps = {4}};
}
Config Flush() { return {.name = "Flush", .crash = true, .lost = true, .flush = true, .epochs = 2}; }
Config FlushThreeEpochs() {
  return {.name = "FlushThreeEpochs", .flush = true, .epochs = 3};
}
Config Failover() {
  return {.name = "Failover", .crash = true, .lost = true, .failover = true, .incarnations = 2, .epochs = 2};
}
Config FailoverReturn() {
  return {.name = "FailoverReturn", .returns = true, .failover = true, .restart = true,
          .incarnations = 2, .epochs = 2};
}
Config Promise() {
  return {.name = "Promise", .late = true, .failover = true, .enforcers = 1, .incarnations = 2,
          .epochs = 2, .promise = true};
}
Config FailoverTree() {
  return Tree({.failover = true, .incarnations = 2, .epochs = 2}, "FailoverTree");
}
Config FailoverInflight() {
  return {.name = "FailoverInflight", .late = true, .failover = true, .incarnations = 2, .epochs = 2};
}
Config FailoverUnreduced() {
  return {.name = "FailoverUnreduced", .failover = true, .incarnations = 2, .epochs = 2, .reduce = false};
}
Config FailoverThreeIncarnations() {
  return {.name = "FailoverThreeIncarnations", .failover = true, .enforcers = 1, .incarnations = 3,
          .epochs = 3};
}
Config Failback() {
  return {.name = "Failback", .failover = true, .failback = true, .incarnations = 3, .epochs = 2,
          .process = {1, 2, 1}};
}
// Grants of two enforcers, any of which adds any of them.
Config TwoEnforcers() {
  return {.name = "TwoEnforcers", .lost = true, .enforcers = 2, .grants = 2, .caps = {4}};
}
Config LoweredCap() {
  return {.name = "LoweredCap", .crash = true, .lowered = 2, .enforcers = 1, .caps = {4}};
}
Config LoweredCapFailover() {
  return {.name = "LoweredCapFailover", .failover = true, .lowered = 1, .enforcers = 1,
          .incarnations = 2, .epochs = 2};
}
Config LoweredCapLost() {
  return {.name = "LoweredCapLost", .crash = true, .lost = true, .lowered = 2, .enforcers = 1, .caps = {4}};
}
Config LoweredCapTree() {
  Config config = Tree({.enforcers = 1}, "LoweredCapTree");
  config.lowered = 2;
  return config;
}
Config PromiseCrash() {
  return {.name = "PromiseCrash", .crash = true, .late = true, .failover = true, .incarnations = 2,
          .epochs = 2, .promise = true};
}
Config RestartThree() {
  return {.name = "RestartThree", .restart = true, .incarnations = 2, .epochs = 2,
          .paths = {{0}, {0}, {0}}, .caps = {3}};
}

class EscrowModelTest : public ::testing::TestWithParam<Config> {};

void ExploreAll(const Config& config, size_t worlds_max) {
  Search search(config);
  const Exploration result = search.Run(worlds_max);
  std::printf("%s: %zu worlds, %zu transitions\n", config.name.c_str(), result.worlds, result.transitions);
  std::string trace;
  for (const std::string& step : result.trace) trace += "\n  " + step;
  EXPECT_EQ(result.found, "") << trace;
  EXPECT_GT(result.worlds, 1000u);
  SeenActions().insert(search.actions().begin(), search.actions().end());
  ++explored;
}

TEST_P(EscrowModelTest, EveryReachableWorldKeepsTheInvariants) { ExploreAll(GetParam(), 20'000'000); }

// With TOLLHOUSE_TEST_LONG also the larger ones.
const std::vector<Config>& Configurations() {
  static const auto& all = *new std::vector<Config>([] {
    std::vector<Config> some = {
        Core(),     CoreTree(),     CoreInflight(), CoreThree(),          TwoEnforcers(),   Flush(),
        Failover(), RestartThree(), LoweredCap(),   LoweredCapFailover(), LoweredCapTree(), FlushThreeEpochs(),
        Failback()};
    if (std::getenv("TOLLHOUSE_TEST_LONG") != nullptr) {
      for (Config config : {FailoverReturn(), LoweredCapLost(), FailoverTree(), FailoverInflight(), FailoverUnreduced(),
                            FailoverThreeIncarnations(), Promise(), PromiseCrash()}) {
        some.push_back(std::move(config));
      }
    }
    return some;
  }());
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, EscrowModelTest, ::testing::ValuesIn(Configurations()),
                         [](const auto& test) { return test.param.name; });

// After all of them: what the model can do was done.
class EveryActionIsCovered : public ::testing::Environment {
 public:
  void TearDown() override {
    if (explored < static_cast<int>(Configurations().size())) return;  // a filter left some out
    for (const char* action : kActions) EXPECT_TRUE(SeenActions().contains(action)) << action;
    for (const std::string& action : SeenActions()) {
      EXPECT_TRUE(std::find(std::begin(kActions), std::end(kActions), action) != std::end(kActions))
          << "not in the list: " << action;
    }
  }

 private:
  static constexpr const char* kActions[] = {
      "E acknowledges grant ",
      "E adds grant in store ",
      "E credits r, used ",
      "E expires r in store ",
      "E finds store , registers epoch ",
      "E inits store for epoch ",
      "E leases in epoch ",
      "E reserves r in store epoch ",
      "E sends Reserve r to store epoch ",
      "E serves epoch from store ",
      "E stops",
      "E takes lease out of store ",
      "FLUSHALL store ",
      "edge forwards r epoch , billed ",
      "edge gives r up",
      "edge journals the result of r",
      "edge of r crashes",
      "edge of r dies after its intent, epoch ",
      "edge of r is lost",
      "edge of r reports, unsettled ",
      "edge of r restarts",
      "failback to the process of store as store ",
      "failover to store ",
      "ledger learns that r expired, epoch ",
      "ledger posts r (, )",
      "ledger reclaims epoch ",
      "ledger takes lease back, epoch ",
      "operator resolves r",
      "replica of store stops following",
      "restart of store as store ",
      "store drops expired r",
      "store drops its outbox",
      "store learns that r is posted",
      "store runs Reserve r epoch : granted",
      "store runs Reserve r epoch : refused",
      "the limit is lowered",
      "the limit is set back",
      "token of r epoch late",
      "zombie store dies",
  };
};

const ::testing::Environment* const kCovered =
    ::testing::AddGlobalTestEnvironment(new EveryActionIsCovered);

struct Mutant {
  std::string name;
  Mutation mutation;
  Config config;
};

class EscrowMutantTest : public ::testing::TestWithParam<Mutant> {};

TEST_P(EscrowMutantTest, IsCaught) {
  Config config = GetParam().config;
  config.mutation = GetParam().mutation;
  config.reduce = false;  // a mutant may read what the protocol never reads
  const Exploration result = Search(config).Run(400'000);
  std::printf("%s: %s after %zu steps, %zu worlds\n", GetParam().name.c_str(), result.found.c_str(),
              result.trace.size(), result.worlds);
  ASSERT_NE(result.found, "") << "the mutant lives";
  EXPECT_FALSE(result.trace.empty()) << result.found;
}

Config Costly(bool late) {
  return {.name = "Two", .late = late, .failover = true, .incarnations = 2, .epochs = 2};
}

INSTANTIATE_TEST_SUITE_P(
    All, EscrowMutantTest,
    ::testing::Values(
        Mutant{"CheckThenDecrement", Mutation::kCheckThenDecrement, CoreInflight()},
        Mutant{"ParentUnchecked", Mutation::kParentUnchecked, CoreTree()},
        Mutant{"ForgetFinishedHolds", Mutation::kForgetFinishedHolds, CoreInflight()},
        Mutant{"SkipEpochCheck", Mutation::kSkipEpochCheck, Flush()},
        Mutant{"InitKeepsState", Mutation::kInitKeepsState, Failover()},
        Mutant{"InitDownwards", Mutation::kInitDownwards, FlushThreeEpochs()},
        Mutant{"GrantAddedTwice", Mutation::kGrantAddedTwice, Core()},
        Mutant{"ReleaseOnExpiry", Mutation::kReleaseOnExpiry, Core()},
        Mutant{"ExpireInLedgerFirst", Mutation::kExpireInLedgerFirst, Core()},
        Mutant{"CreditTwice", Mutation::kCreditTwice, Core()},
        Mutant{"CreditAnyIncarnation", Mutation::kCreditAnyIncarnation, Failover()},
        Mutant{"ForgetSettled", Mutation::kForgetSettled, Core()},
        Mutant{"ReturnStaysFree", Mutation::kReturnStaysFree, Core()},
        Mutant{"FlushUndetected", Mutation::kFlushUndetected, Flush()},
        Mutant{"TrustPromotedSnapshot", Mutation::kTrustPromotedSnapshot, Failover()},
        Mutant{"IdentityRunIdOnly", Mutation::kIdentityRunIdOnly, Failback()},
        Mutant{"IdentityAtConnectOnly", Mutation::kIdentityAtConnectOnly, Failback()},
        Mutant{"GrantOutOfOrder", Mutation::kGrantOutOfOrder, TwoEnforcers()},
        Mutant{"CapBelowLease", Mutation::kCapBelowLease, LoweredCap()},
        Mutant{"RecallInLedgerOnly", Mutation::kRecallInLedgerOnly, LoweredCap()},
        Mutant{"RecallStaysFree", Mutation::kRecallStaysFree, LoweredCap()},
        Mutant{"CloseReleasesLease", Mutation::kCloseReleasesLease, Failover()},
        Mutant{"UnfencedLease", Mutation::kUnfencedLease, Failover()},
        Mutant{"UnlistedGrant", Mutation::kUnlistedGrant, Core()},
        Mutant{"PostTwice", Mutation::kPostTwice, Core()},
        Mutant{"PostIgnoresEpoch", Mutation::kPostIgnoresEpoch, Failover()},
        Mutant{"ExpireTwice", Mutation::kExpireTwice, Core()},
        Mutant{"ExpireUnfenced", Mutation::kExpireUnfenced, Failover()},
        Mutant{"UnfencedReturn", Mutation::kUnfencedReturn, FailoverReturn()},
        Mutant{"ReturnTwice", Mutation::kReturnTwice, Core()},
        Mutant{"ReclaimWithoutReports", Mutation::kReclaimWithoutReports, Costly(false)},
        Mutant{"ReclaimUnsettled", Mutation::kReclaimUnsettled, Costly(false)},
        Mutant{"ReclaimWithLiveZombie", Mutation::kReclaimWithLiveZombie, Costly(false)},
        Mutant{"ReclaimWithLiveTokens", Mutation::kReclaimWithLiveTokens, Costly(false)},
        Mutant{"DeadlineFromReply", Mutation::kDeadlineFromReply, Costly(true)},
        Mutant{"IntentAfterForward", Mutation::kIntentAfterForward, Flush()},
        Mutant{"CreditBeforeJournal", Mutation::kCreditBeforeJournal, Core()},
        Mutant{"VoidWhenUnsure", Mutation::kVoidWhenUnsure, Core()},
        Mutant{"PostPartialUsage", Mutation::kPostPartialUsage, Core()},
        Mutant{"PromiseBroken", Mutation::kPromiseBroken, Promise()}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tollhouse::model
