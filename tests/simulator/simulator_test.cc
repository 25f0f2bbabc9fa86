// Many seeds: no invariant breaks, everything that the simulation knows is reached, a seed replays
// exactly, and every planted bug is found.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "libs/testing/seed.h"
#include "tests/simulator/runner.h"

namespace tollhouse::simulator {
namespace {

int Cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

bool Long() { return std::getenv("TOLLHOUSE_TEST_LONG") != nullptr; }

TEST(SimulatorTest, SeedsKeepTheInvariantsAndReachEverything) {
  // The same seeds every time, so that a change is what breaks them; fresh ones where time is no matter.
  const bool fresh = Long() || std::getenv("TOLLHOUSE_TEST_SEED") != nullptr;
  const uint64_t first = fresh ? testing::TestSeed() % 1'000'000'000 : 1;
  const int64_t count = Long() ? 1'000'000 : 2'000;
  Runner runner(Cores());
  int64_t given = 0, events = 0, failed = 0;
  runner.Run(
      [&](RunOptions* next) {
        if (given == count || failed >= 5) return false;
        next->seed = first + static_cast<uint64_t>(given++);
        return true;
      },
      [&](const Outcome& outcome) {
        events += outcome.events;
        if (given % 100'000 == 0) std::printf("%lld seeds\n", static_cast<long long>(given));
        if (outcome.violation.empty()) return true;
        ++failed;
        ADD_FAILURE() << "seed " << outcome.options.seed << ": " << outcome.violation
                      << "\n  replay: " << CommandOf(outcome.options)
                      << "\n  fewer faults: simulator --seed " << outcome.options.seed << " --shrink";
        return true;
      });
  std::printf("%lld seeds from %llu, %lld events\n", static_cast<long long>(given),
              static_cast<unsigned long long>(first), static_cast<long long>(events));
  for (size_t i = 0; i < Coverage::Names().size(); ++i) {
    std::printf("%12lld  %s\n", static_cast<long long>(runner.coverage()[i]),
                std::string(Coverage::Names()[i]).c_str());
    if (failed > 0) continue;
    EXPECT_GT(runner.coverage()[i], 0) << Coverage::Names()[i] << " was never reached";
  }
}

TEST(SimulatorTest, ASeedReplaysExactly) {
  Runner first(Cores()), second(1);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    RunOptions options;
    options.seed = seed;
    EXPECT_EQ(first.RunOne(options).fingerprint, second.RunOne(options).fingerprint) << "seed " << seed;
  }
}

class SimulatorMutantTest : public ::testing::TestWithParam<MutantInfo> {};

TEST_P(SimulatorMutantTest, IsFound) {
  constexpr int64_t kSeedsMax = 3'000;
  Runner runner(Cores());
  int64_t given = 0, ended = 0;
  Outcome found;
  runner.Run(
      [&](RunOptions* next) {
        if (given == kSeedsMax) return false;
        next->seed = static_cast<uint64_t>(++given);
        next->mutant = GetParam().mutant;
        return true;
      },
      [&](const Outcome& outcome) {
        ++ended;
        if (outcome.violation.empty()) return true;
        found = outcome;
        return false;
      });
  ASSERT_FALSE(found.violation.empty()) << "not found in " << ended << " seeds";
  std::printf("found after %lld seeds: %s\n  %s\n", static_cast<long long>(ended), found.violation.c_str(),
              CommandOf(found.options).c_str());
}

INSTANTIATE_TEST_SUITE_P(All, SimulatorMutantTest, ::testing::ValuesIn(Mutants().begin(), Mutants().end()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace tollhouse::simulator
