// Delivers threshold alerts from the store's outbox.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

// POSTs each delivery until it is answered with 2xx, at least once: what was sent while the program
// died is sent again. Signed with `x-tollhouse-signature: sha256=HEX(HMAC-SHA256(secret, body))` where
// the webhook has a secret. Between attempts it waits 2 s, doubling up to 15 min; after 100 attempts
// (about a day) it gives up. Thread-safe.
class WebhookSender {
 public:
  static constexpr int kAttemptsMax = 100;

  // Both must outlive it.
  WebhookSender(Store* store, const Clock* clock) : store_(store), clock_(clock) {}
  ~WebhookSender() { Stop(); }

  // Starts the thread that delivers what falls due.
  void Start();
  // There may be something to deliver now.
  void Wake();
  // Ends the thread after the attempt under way. Idempotent.
  void Stop();

  // One attempt at everything that is due now; how many attempts it made. What the thread does.
  absl::StatusOr<int> DeliverDue();

  // How long to wait after the given number of failed attempts.
  static absl::Duration Backoff(int attempts);

 private:
  void Run();

  Store* const store_;
  const Clock* const clock_;
  absl::Mutex mutex_;
  bool awake_ ABSL_GUARDED_BY(mutex_) = true;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tollhouse::ledger
