// All services of Tollhouse in one process, over in-process gRPC channels.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/standalone/config.h"

namespace tollhouse::standalone {

// Start order is dependency order: ledger, router, vault, enforcer, edge; each service has an
// in-process server of its own, as it would have a process, and one TCP server carries the admin
// APIs of all. Stop is the reverse and drains.
class Standalone {
 public:
  // Takes the lock of the data directory, starts everything and, when ready, writes
  // DIR/endpoints.json. FAILED_PRECONDITION if another process runs on the directory.
  static absl::StatusOr<std::unique_ptr<Standalone>> Start(const Config& config);
  ~Standalone();

  // Finishes requests in flight (bounded), flushes what must be durable, stops. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit Standalone(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace tollhouse::standalone
