// Posts again what the journal retained, when the ledger's database may have lost what it had
// acknowledged (a failover to a standby that was behind). What it has not lost is a duplicate there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/edge/journal.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
class ClientContext;
}  // namespace grpc

namespace tollhouse::edge {

// Works on a thread of its own, beside the settlements, and repeats until the ledger has answered for
// everything; then the generation is noted in the journal, so that it happens once, also when the edge
// is started anew meanwhile. Thread-safe.
class Replayer {
 public:
  // An outcome that cannot be (CONFLICT of a result, REJECTED); for metrics.
  using Refused = std::function<void(const ledger::v1::Entry& entry,
                                     const ledger::v1::PostResult& result)>;

  Replayer(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal, Refused refused);
  ~Replayer();

  void Start();
  // Idempotent.
  void Stop();

  // The ledger's watch: its replay generation now.
  void OnGeneration(int64_t generation);

  // Waits until the journal has been replayed for the newest generation; false after `timeout`.
  bool WaitIdle(absl::Duration timeout) const;

 private:
  struct Stub;

  void Run();
  absl::Status Replay(int64_t generation);
  // One batch, once it is answered for.
  absl::Status Post(const std::vector<ledger::v1::Entry>& entries);

  const std::unique_ptr<Stub> stub_;
  Journal* const journal_;
  const Refused refused_;
  std::thread thread_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t replayed_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the one under way
};

}  // namespace tollhouse::edge
