// An IO thread's stream to the enforcer: holds are asked for, settled, voided and refreshed on it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/edge/net.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

class EnforcerSession {
 public:
  // A hold exists, or may exist, that nobody will use: admitted after its caller had left, or failed
  // with maybe_held_epoch. It has to be voided. On the IO thread.
  using Orphaned = std::function<void(const enforcer::v1::Reserve& asked,
                                      const enforcer::v1::OperationResult& result)>;

  // Stays connected from Start() on. `loop` must outlive it.
  EnforcerSession(IoLoop& loop, std::shared_ptr<grpc::ChannelInterface> channel,
                  std::string edge_id, std::string boot_id, Orphaned orphaned);
  ~EnforcerSession();

  void Start();
  // Idempotent. Operations without an answer are forgotten: a journal has what matters.
  void Stop();

  // On the IO thread. UNAVAILABLE (ENFORCER_UNAVAILABLE) if no answer came in time; it is asked for
  // on, and `orphaned` is told should the hold have been made.
  Task<absl::StatusOr<enforcer::v1::OperationResult>> Reserve(enforcer::v1::Reserve reserve,
                                                              absl::Duration timeout);

  // Settle, Void, Acknowledge or Refresh: repeated on every new stream until it is answered. From
  // any thread.
  void Send(enforcer::v1::Operation operation);

  // Operations without an answer.
  int64_t pending() const;
  // Waits until there are none; false after `timeout`.
  bool WaitIdle(absl::Duration timeout) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
