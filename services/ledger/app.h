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
#include "services/ledger/auditor.h"

namespace tollhouse::ledger {

struct Config {
  std::string database;  // "sqlite:PATH" (made where there is none) or postgresql://USER@HOST:PORT/NAME
  std::string database_password_file;  // of PostgreSQL
  const Clock* clock = Clock::System();
  const rpc::Authenticator* authenticator = nullptr;  // of the admin API; nullptr: off
  // How long a change waits for connected enforcers and edges before it answers with their names.
  absl::Duration acknowledge_timeout = absl::Seconds(2);
  // How long the end of a hold may be unknown before it is booked at its full amount; unset: never.
  std::optional<absl::Duration> resolve_suspense_after = absl::Hours(24);
  AuditorOptions audit;
};

// Brings the database's schema up to date: safe to repeat, and by two at once. A SQLite file needs no
// such step.
absl::Status Migrate(const Config& config);

// Create, register, build the server, Start; Stop before the server shuts down, and destroy after it.
class App {
 public:
  // Opens the store: BAD_CONFIG, SCHEMA_OLD (FAILED_PRECONDITION: migrate first), SCHEMA_NEW, SQL_READ_ONLY
  // or SQL_UNAVAILABLE (UNAVAILABLE).
  static absl::StatusOr<std::unique_ptr<App>> Create(Config config);
  ~App();

  void RegisterInternal(grpc::ServerBuilder& builder);
  void RegisterAdmin(grpc::ServerBuilder& builder);
  // Starts what happens by itself: ends of raises, old suspense, webhook deliveries, audits.
  absl::Status Start();
  // Posts what was accepted, ends watches and background work. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit App(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace tollhouse::ledger
