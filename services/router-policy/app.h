// The router as a part of a process: object graph, registration, life cycle.
#pragma once

#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/audit/log.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"
#include "libs/sql/open.h"

namespace tollhouse::router {

class Catalog;
class Services;

struct Config {
  std::string database;  // "sqlite:PATH" (made where there is none) or postgresql://USER@HOST:PORT/NAME
  std::string database_password_file;  // of PostgreSQL
  const Clock* clock = Clock::System();
  const rpc::Authenticator* authenticator = nullptr;  // of the admin API; nullptr: off
  // How long a change waits for connected edges before it answers with their names.
  absl::Duration acknowledge_timeout = absl::Seconds(5);
};

// Brings the database's schema up to date: safe to repeat, and by two at once. A SQLite file needs no
// such step.
absl::Status Migrate(const Config& config);

// Create, register, build the server, Start; Stop before the server shuts down, and destroy after it.
class App {
 public:
  // Opens the store (loading the shipped price book at its first start) and compiles the policy.
  static absl::StatusOr<std::unique_ptr<App>> Create(Config config);
  ~App();

  void RegisterInternal(grpc::ServerBuilder& builder);
  void RegisterAdmin(grpc::ServerBuilder& builder);
  absl::Status Start();
  // Ends the watches. Idempotent.
  void Stop();

 private:
  App();

  sql::OpenedDatabase database_;
  std::unique_ptr<audit::Log> log_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Services> services_;
};

}  // namespace tollhouse::router
