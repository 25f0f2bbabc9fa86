// Runs seeds, each in a process of its own that is forked from one template: a crash is a violation
// like any other, and nothing of one seed reaches the next.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/simulator/world.h"

namespace tollhouse::simulator {

struct Outcome {
  RunOptions options;
  std::string violation;  // also: the process died
  uint64_t fingerprint = 0;
  int64_t events = 0;
  int faults = 0, demands = 0;
};

class Runner {
 public:
  // Makes the template; to be called by a process with one thread. `jobs` processes at a time.
  explicit Runner(int jobs);
  ~Runner();

  // Runs everything that `next` gives until it says false, or `ended` does.
  void Run(const std::function<bool(RunOptions*)>& next, const std::function<bool(const Outcome&)>& ended);
  Outcome RunOne(const RunOptions& options);
  // Fewer faults and requests that still break something.
  RunOptions Shrink(const Outcome& outcome);

  const std::vector<int64_t>& coverage() const { return coverage_; }

 private:
  struct Slot;
  const int jobs_;
  std::string dir_;
  std::unique_ptr<Template> template_;
  Slot* slots_ = nullptr;
  std::vector<int64_t> coverage_;
};

// The command that runs the same again.
std::string CommandOf(const RunOptions& options);

}  // namespace tollhouse::simulator
