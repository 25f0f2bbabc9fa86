#include "libs/aio/termination.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace tollhouse::aio {
namespace {

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

int WaitForTermination() {
  const sigset_t set = TerminationSignals();
  int received = 0;
  sigwait(&set, &received);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return received;
}

int WaitForTermination(absl::Duration timeout) {
  const sigset_t set = TerminationSignals();
  const timespec limit = absl::ToTimespec(timeout);
  const int received = sigtimedwait(&set, nullptr, &limit);
  if (received <= 0) return 0;
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return received;
}

}  // namespace tollhouse::aio
