#include "tests/simulator/runner.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "libs/obs/log.h"

namespace tollhouse::simulator {
namespace {

constexpr size_t kCoverageMax = 256;

std::string_view MutantName(Mutant mutant) {
  for (const MutantInfo& info : Mutants()) {
    if (info.mutant == mutant) return info.name;
  }
  return "";
}

std::string Dropped(const std::vector<bool>& keep) {
  std::string out;
  for (size_t i = 0; i < keep.size(); ++i) {
    if (!keep[i]) absl::StrAppend(&out, out.empty() ? "" : ",", i);
  }
  return out;
}

}  // namespace

// What a child leaves behind, in shared memory.
struct Runner::Slot {
  bool done;
  char violation[1024];
  uint64_t fingerprint;
  int64_t events;
  int faults, demands;
  int64_t coverage[kCoverageMax];
};

Runner::Runner(int jobs) : jobs_(jobs), coverage_(Coverage::Names().size()) {
  obs::InitLogging("simulator", obs::Level::kError);
  char name[] = "/dev/shm/tollhouse-simulator-XXXXXX";
  if (mkdtemp(name) == nullptr) {
    std::perror("mkdtemp in /dev/shm");
    std::abort();
  }
  dir_ = name;
  template_ = std::make_unique<Template>(dir_);
  slots_ = static_cast<Slot*>(mmap(nullptr, sizeof(Slot) * jobs_, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (slots_ == MAP_FAILED || coverage_.size() > kCoverageMax) std::abort();
}

Runner::~Runner() {
  template_.reset();
  munmap(slots_, sizeof(Slot) * jobs_);
  std::filesystem::remove_all(dir_);
}

void Runner::Run(const std::function<bool(RunOptions*)>& next,
                 const std::function<bool(const Outcome&)>& ended) {
  std::map<pid_t, std::pair<int, RunOptions>> running;
  std::vector<int> idle;
  for (int i = 0; i < jobs_; ++i) idle.push_back(i);
  bool more = true;
  while (more || !running.empty()) {
    RunOptions options;
    if (more && !idle.empty()) {
      more = next(&options);
      if (!more) continue;
      const int index = idle.back();
      idle.pop_back();
      Slot& slot = slots_[index];
      std::memset(&slot, 0, offsetof(Slot, coverage));
      std::fflush(nullptr);
      const pid_t child = fork();
      if (child == 0) {
        if (!options.trace) {
          const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
          dup2(null, STDERR_FILENO);
        }
        alarm(60);  // a deadlock is a violation, too
        const Report report = simulator::Run(template_.get(), options);
        std::strncpy(slot.violation, report.violation.c_str(), sizeof slot.violation - 1);
        slot.fingerprint = report.fingerprint;
        slot.events = report.events;
        slot.faults = report.faults;
        slot.demands = report.demands;
        std::copy(report.coverage.begin(), report.coverage.end(), slot.coverage);
        slot.done = true;
        std::fflush(nullptr);
        _exit(0);
      }
      if (child < 0) {
        std::perror("fork");
        std::abort();
      }
      running[child] = {index, options};
      continue;
    }
    int status = 0;
    const pid_t child = waitpid(-1, &status, 0);
    const auto it = running.find(child);
    if (it == running.end()) continue;
    const auto [index, started] = it->second;
    running.erase(it);
    idle.push_back(index);
    const Slot& slot = slots_[index];
    Outcome outcome{started, slot.violation, slot.fingerprint, slot.events, slot.faults, slot.demands};
    std::filesystem::remove_all(absl::StrCat(dir_, "/", started.seed));
    if (!slot.done) {
      outcome.violation = WIFSIGNALED(status)
                              ? absl::StrCat("the process died: ", strsignal(WTERMSIG(status)))
                              : "the process ended early";
    } else {
      for (size_t i = 0; i < coverage_.size(); ++i) coverage_[i] += slot.coverage[i];
    }
    if (!ended(outcome)) more = false;
  }
}

Outcome Runner::RunOne(const RunOptions& options) {
  Outcome result;
  bool given = false;
  Run(
      [&](RunOptions* next) {
        if (given) return false;
        given = true;
        *next = options;
        return true;
      },
      [&](const Outcome& outcome) {
        result = outcome;
        return true;
      });
  return result;
}

RunOptions Runner::Shrink(const Outcome& outcome) {
  RunOptions best = outcome.options;
  const std::string kind = outcome.violation.substr(0, 3);
  best.keep_faults.resize(outcome.faults, true);
  best.keep_demands.resize(outcome.demands, true);
  // Drops runs of half, a quarter, ... one, while the same kind of violation stays.
  for (const bool faults : {true, false, true}) {
    const size_t size = faults ? best.keep_faults.size() : best.keep_demands.size();
    for (size_t run = std::max<size_t>(1, size / 2); size > 0; run /= 2) {
      for (size_t from = 0; from < size; from += run) {
        RunOptions tried = best;
        std::vector<bool>& keep = faults ? tried.keep_faults : tried.keep_demands;
        bool drops = false;
        for (size_t i = from; i < std::min(size, from + run); ++i) {
          drops |= keep[i];
          keep[i] = false;
        }
        if (!drops) continue;
        if (RunOne(tried).violation.substr(0, 3) == kind) best = std::move(tried);
      }
      if (run == 1) break;
    }
  }
  return best;
}

std::string CommandOf(const RunOptions& options) {
  std::string command = absl::StrCat("simulator --seed ", options.seed);
  if (options.mutant != Mutant::kNone) {
    const std::string_view name = MutantName(options.mutant);
    absl::StrAppend(&command, " --mutant ", absl::string_view(name.data(), name.size()));
  }
  const std::string faults = Dropped(options.keep_faults), demands = Dropped(options.keep_demands);
  if (!faults.empty()) absl::StrAppend(&command, " --drop-faults ", faults);
  if (!demands.empty()) absl::StrAppend(&command, " --drop-requests ", demands);
  return command + " --trace";
}

}  // namespace tollhouse::simulator
