// tollhoused: the whole of Tollhouse in one process.
#include <cstdio>
#include <string>

#include "absl/synchronization/mutex.h"
#include "libs/aio/termination.h"
#include "libs/config/options.h"
#include "libs/obs/log.h"
#include "services/standalone/config.h"
#include "services/standalone/standalone.h"

namespace tollhouse::standalone {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  tollhoused --data-dir ./data\n"
    "      everything on the default ports; state and admin.token in ./data\n"
    "  tollhoused --data-dir ./data --edge-listen 127.0.0.1:0\n"
    "      a free port; ./data/endpoints.json has it when ready\n"
    "  tollctl --data-dir ./data org create acme\n"
    "      administers the running process\n";

int Run(int argc, char** argv) {
  Config config;
  config::Options options("tollhoused", "the control plane for LLM spend, in one process", kExamples);
  RegisterOptions(&config, &options);
  const auto outcome = options.Parse(argc, argv);
  if (!outcome.ok()) {
    std::fprintf(stderr, "tollhoused: %s\n", std::string(outcome.status().message()).c_str());
    return 2;
  }
  std::fputs(options.output().c_str(), stdout);
  if (*outcome == config::Options::Outcome::kExitOk) return 0;

  // Debian's Abseil looks for lock cycles at every lock; sanitizer builds do that in tests.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  aio::BlockTerminationSignals();
  obs::InitLogging("tollhoused", obs::ParseLevel(config.log_level));
  auto standalone = Standalone::Start(config);
  if (!standalone.ok()) {
    std::fprintf(stderr, "tollhoused: %s\n", std::string(standalone.status().message()).c_str());
    return 1;
  }
  const int signal = aio::WaitForTermination();
  obs::Info("stopping", {{"signal", signal}});
  (*standalone)->Stop();
  obs::Info("stopped");
  return 0;
}

}  // namespace
}  // namespace tollhouse::standalone

int main(int argc, char** argv) { return tollhouse::standalone::Run(argc, argv); }
