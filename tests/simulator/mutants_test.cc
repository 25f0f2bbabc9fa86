// Every planted bug is found, within so many seeds.
#include <cstdio>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/simulator/runner.h"

namespace tollhouse::simulator {
namespace {

constexpr int64_t kSeedsMax = 4'000;

class SimulatorMutantTest : public ::testing::TestWithParam<MutantInfo> {};

TEST_P(SimulatorMutantTest, IsFound) {
  Runner runner(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  int64_t given = 0, ended = 0;
  Outcome found;
  runner.Run(
      [&](RunOptions* next) {
        if (given == kSeedsMax) return false;
        next->seed = GetParam().seed + static_cast<uint64_t>(given++);
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
  // Not the planted bug, but one that is there without it?
  RunOptions plain = found.options;
  plain.mutant = Mutant::kNone;
  EXPECT_EQ(runner.RunOne(plain).violation, "") << CommandOf(plain);
  std::printf("found after %lld seeds: %s\n  %s\n", static_cast<long long>(ended), found.violation.c_str(),
              CommandOf(found.options).c_str());
}

INSTANTIATE_TEST_SUITE_P(All, SimulatorMutantTest, ::testing::ValuesIn(Mutants().begin(), Mutants().end()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace tollhouse::simulator
