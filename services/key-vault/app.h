// The vault as a part of a process: object graph, registration, life cycle.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/audit/log.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"
#include "libs/rpc/token_source.h"
#include "libs/sql/open.h"

namespace tollhouse::vault {

class LedgerAccounts;
class Services;
class Vault;

struct Config {
  std::string database;  // "sqlite:PATH" (made where there is none) or postgresql://USER@HOST:PORT/NAME
  std::string database_password_file;   // of PostgreSQL
  // What secrets are sealed under (key_encryption.h): a file, or its text; not both.
  std::string key_encryption_key_file;
  std::string key_encryption_keys;
  // Make the key file where neither it nor the database exists (the embedded default). An existing
  // database never gets a new key.
  bool create_key_encryption_key = false;
  const Clock* clock = Clock::System();
  rpc::Authenticator* authenticator = nullptr;  // of the admin API, kept informed of tokens; nullptr: off
  // How long a change waits for connected edges before it answers with their names.
  absl::Duration acknowledge_timeout = absl::Seconds(5);
};

// Brings the database's schema up to date: safe to repeat, and by two at once. A SQLite file needs no
// such step.
absl::Status Migrate(const Config& config);

// Create, register, build the server, Start; Stop before the server shuts down, and destroy after it.
class App {
 public:
  // `ledger` reaches LedgerService; it is first used by calls and by Start.
  // FailedPrecondition (KEK_MISSING, KEK_UNUSABLE, KEK_WRONG, SCHEMA_NEW, SCHEMA_OLD) says what to do.
  static absl::StatusOr<std::unique_ptr<App>> Create(
      Config config, std::shared_ptr<grpc::ChannelInterface> ledger);
  ~App();

  // VaultService hands out credentials: register it in-process or behind mTLS only.
  void RegisterInternal(grpc::ServerBuilder& builder);
  void RegisterAdmin(grpc::ServerBuilder& builder);
  // Takes back what a crash left half made; a ledger that does not answer yet does not fail it.
  absl::Status Start();
  // Ends the watches. Idempotent.
  void Stop();

 private:
  App();

  sql::OpenedDatabase database_;
  std::unique_ptr<audit::Log> log_;
  std::unique_ptr<LedgerAccounts> ledger_;
  std::unique_ptr<Vault> vault_;
  std::unique_ptr<rpc::TokenSource> tokens_;  // null without an authenticator
  std::unique_ptr<Services> services_;
};

}  // namespace tollhouse::vault
