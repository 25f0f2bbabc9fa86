// simulator: runs seeds, replays one with its trace, shrinks a failing one, says what was reached.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/simulator/runner.h"

namespace {

using tollhouse::simulator::CommandOf;
using tollhouse::simulator::Coverage;
using tollhouse::simulator::Mutant;
using tollhouse::simulator::Outcome;
using tollhouse::simulator::Runner;
using tollhouse::simulator::RunOptions;

constexpr char kUsage[] =
    "Usage: simulator [--seed N] [--count N] [--jobs N] [--mutant NAME] [--trace] [--shrink]\n"
    "                 [--coverage] [--twice] [--drop-faults 0,3] [--drop-requests 1,2]\n"
    "Runs seeds N, N+1, ... Exit status 1 if one of them breaks an invariant.\n"
    "  --trace    prints what happens (one seed)        --shrink  finds fewer faults and requests\n"
    "  --coverage prints what was reached how often     --twice   runs each seed twice and compares\n"
    "  --mutants  lists the planted bugs\n";

[[noreturn]] void Usage(int status) {
  std::fputs(kUsage, status == 0 ? stdout : stderr);
  std::exit(status);
}

std::vector<bool> KeepAllBut(const std::string& dropped) {
  std::vector<bool> keep;
  for (const auto& text : absl::StrSplit(dropped, ',')) {
    size_t index = 0;
    if (!absl::SimpleAtoi(text, &index) || index > 10'000) Usage(2);
    if (keep.size() <= index) keep.resize(index + 1, true);
    keep[index] = false;
  }
  return keep;
}

}  // namespace

int main(int argc, char** argv) {
  RunOptions options;
  int64_t count = 1;
  int jobs = static_cast<int>(std::thread::hardware_concurrency());
  bool shrink = false, coverage = false, twice = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) Usage(2);
      return argv[++i];
    };
    if (flag == "--seed") {
      if (!absl::SimpleAtoi(value(), &options.seed)) Usage(2);
    } else if (flag == "--count") {
      if (!absl::SimpleAtoi(value(), &count)) Usage(2);
    } else if (flag == "--jobs") {
      if (!absl::SimpleAtoi(value(), &jobs) || jobs < 1) Usage(2);
    } else if (flag == "--mutant") {
      options.mutant = tollhouse::simulator::MutantByName(value());
      if (options.mutant == Mutant::kNone) Usage(2);
    } else if (flag == "--drop-faults") {
      options.keep_faults = KeepAllBut(value());
    } else if (flag == "--drop-requests") {
      options.keep_demands = KeepAllBut(value());
    } else if (flag == "--mutants") {
      for (const auto& info : tollhouse::simulator::Mutants()) {
        std::printf("%.*s\n", static_cast<int>(info.name.size()), info.name.data());
      }
      return 0;
    } else if (flag == "--trace") {
      options.trace = true;
    } else if (flag == "--shrink") {
      shrink = true;
    } else if (flag == "--coverage") {
      coverage = true;
    } else if (flag == "--twice") {
      twice = true;
    } else {
      Usage(flag == "--help" ? 0 : 2);
    }
  }
  setvbuf(stdout, nullptr, _IOLBF, 0);
  Runner runner(jobs);
  const auto started = std::chrono::steady_clock::now();
  int64_t given = 0, ended = 0, events = 0, failed = 0;
  std::vector<Outcome> failures;
  uint64_t all = 0;
  runner.Run(
      [&](RunOptions* next) {
        if (given == count) return false;
        *next = options;
        next->seed = options.seed + static_cast<uint64_t>(given++);
        return true;
      },
      [&](const Outcome& outcome) {
        if (++ended % 10'000 == 0) {
          std::printf("%lld seeds, %lld failed\n", static_cast<long long>(ended), static_cast<long long>(failed));
        }
        events += outcome.events;
        all += outcome.fingerprint;
        if (!outcome.violation.empty()) {
          ++failed;
          if (failures.size() < 20) {
            failures.push_back(outcome);
            std::printf("seed %llu: %s\n  %s\n", static_cast<unsigned long long>(outcome.options.seed),
                        outcome.violation.c_str(), CommandOf(outcome.options).c_str());
          }
        }
        return true;
      });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  std::printf("%lld seeds, %lld failed, %lld events, %.1f s (%.2f ms a seed on %d cores), fingerprint %016llx\n",
              static_cast<long long>(count), static_cast<long long>(failed), static_cast<long long>(events),
              seconds, seconds * 1000 / static_cast<double>(count), jobs, static_cast<unsigned long long>(all));
  if (twice) {
    for (int64_t i = 0; i < count; ++i) {
      RunOptions again = options;
      again.seed = options.seed + static_cast<uint64_t>(i);
      all -= runner.RunOne(again).fingerprint;
    }
    std::printf("again: %s\n", all == 0 ? "the same" : "DIFFERENT");
    if (all != 0) ++failed;
  }
  if (coverage) {
    for (size_t i = 0; i < Coverage::Names().size(); ++i) {
      std::printf("%12lld  %.*s\n", static_cast<long long>(runner.coverage()[i]),
                  static_cast<int>(Coverage::Names()[i].size()), Coverage::Names()[i].data());
    }
  }
  if (shrink && !failures.empty()) {
    const RunOptions small = runner.Shrink(failures.front());
    std::printf("shrunk: %s\n", CommandOf(small).c_str());
  }
  return failed > 0 ? 1 : 0;
}
