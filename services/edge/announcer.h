// R7: when an epoch has been closed, tells the ledger what this edge still had under it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/edge/journal.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// The order is what makes a report final: the journal refuses the epoch first, then lists its holds,
// then the ledger hears of them. Works on a thread of its own and repeats until the ledger answers.
// Thread-safe.
class Announcer {
 public:
  Announcer(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal, std::string boot_id);
  ~Announcer();

  // Announces every closed epoch that waits for this edge. To be called before the edge is ready.
  absl::Status AnnouncePending(absl::Duration timeout);

  void Start();
  // Idempotent.
  void Stop();

  // The ledger's watch: fences older epochs at once, announces them in the background.
  void OnEpochs(bool snapshot, const std::vector<ledger::v1::Epoch>& epochs);

 private:
  struct Stub;

  void Run();
  absl::Status Announce(const ledger::v1::Epoch& closed, absl::Duration timeout);
  absl::Status Pending(absl::Duration timeout, std::vector<ledger::v1::Epoch>* closed);

  const std::unique_ptr<Stub> stub_;
  Journal* const journal_;
  const std::string boot_id_;
  std::thread thread_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool look_ ABSL_GUARDED_BY(mutex_) = false;  // ask the ledger what it waits for
  std::deque<ledger::v1::Epoch> queue_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
