// The ledger as a part of a process: object graph, registration, life cycle.
#pragma once

#include <grpcpp/server_builder.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"

namespace tollhouse::ledger {

struct Config {
  std::string database_path;  // SQLite file, created where there is none
  const Clock* clock = Clock::System();
  const rpc::Authenticator* authenticator = nullptr;  // of the admin API; nullptr: off
  // How long a change waits for connected enforcers and edges before it answers with their names.
  absl::Duration acknowledge_timeout = absl::Seconds(2);
  // How long the end of a hold may be unknown before it is booked at its full amount; unset: never.
  std::optional<absl::Duration> resolve_suspense_after = absl::Hours(24);
};

// Create, register, build the server, Start; Stop before the server shuts down, and destroy after it.
class App {
 public:
  // Opens the store.
  static absl::StatusOr<std::unique_ptr<App>> Create(Config config);
  ~App();

  void RegisterInternal(grpc::ServerBuilder& builder);
  void RegisterAdmin(grpc::ServerBuilder& builder);
  // Starts what happens by itself: ends of raises, old suspense, webhook deliveries.
  absl::Status Start();
  // Posts what was accepted, ends watches and background work. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit App(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace tollhouse::ledger
