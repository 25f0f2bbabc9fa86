// Many seeds: no invariant breaks, everything that the simulation knows is reached, and a seed replays
// exactly.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
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
  int64_t given = 0, ended = 0, events = 0, failed = 0;
  const absl::Time began = absl::Now();
  runner.Run(
      [&](RunOptions* next) {
        if (given == count || failed >= 5) return false;
        next->seed = first + static_cast<uint64_t>(given++);
        return true;
      },
      [&](const Outcome& outcome) {
        events += outcome.events;
        if (++ended % 10'000 == 0) {
          std::printf("%lld seeds, %lld failed, %.0f s\n", static_cast<long long>(ended),
                      static_cast<long long>(failed), absl::ToDoubleSeconds(absl::Now() - began));
          std::fflush(stdout);
        }
        if (outcome.violation.empty()) return true;
        ++failed;
        // At once: a long run may be stopped before it ends.
        std::printf("seed %llu: %s\n", static_cast<unsigned long long>(outcome.options.seed),
                    outcome.violation.c_str());
        std::fflush(stdout);
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

}  // namespace
}  // namespace tollhouse::simulator
