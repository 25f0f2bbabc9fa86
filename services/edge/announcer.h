// R7: when an epoch has been closed, tells the ledger what this edge still had under it. Now and then,
// which of its expired holds were never used.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/edge/announcements.h"
#include "services/edge/journal.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// Works on a thread of its own and repeats until the ledger answers. Thread-safe.
class Announcer {
 public:
  // Where the ends of holds go that were never used (Settler::Submit).
  using Submit = std::function<void(ledger::v1::Entry entry)>;

  // Looks for expired holds every `interval`.
  Announcer(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal, std::string boot_id,
            Submit submit, absl::Duration interval);
  ~Announcer();

  // Announces every closed epoch that waits for this edge. To be called before the edge is ready.
  absl::Status AnnouncePending(absl::Duration timeout);

  void Start();
  // Idempotent.
  void Stop();

  // See Announcements; what waits is announced in the background.
  void OnEpochs(bool snapshot, const std::vector<ledger::v1::Epoch>& epochs);

 private:
  struct Stub;

  void Run();
  absl::Status Announce(const ledger::v1::Epoch& closed, absl::Duration timeout);
  // Voids what was never used, too.
  absl::Status Pending(absl::Duration timeout, std::vector<ledger::v1::Epoch>* closed);

  const std::unique_ptr<Stub> stub_;
  Announcements announcements_;
  const Submit submit_;
  const absl::Duration interval_;
  std::thread thread_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tollhouse::edge
