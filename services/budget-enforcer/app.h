// The enforcer as a whole: store, ledger connection, services, and the thread that keeps time.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/redis/options.h"
#include "services/budget-enforcer/core/core.h"
#include "services/budget-enforcer/enforcer.h"

namespace grpc {
class Channel;
class ServerBuilder;
}  // namespace grpc

namespace tollhouse::rpc {
class Authenticator;
}

namespace tollhouse::enforcer {

struct Config {
  // Names this enforcer at the ledger; no two have the same one. "": the machine's host name.
  std::string enforcer_id;
  CoreOptions core;
  EnforcerOptions options;
  absl::Duration ledger_timeout = absl::Seconds(5);
  // How often what is due gets done. Zero: never by itself, the owner calls RunDue (tests).
  absl::Duration tick_interval = absl::Milliseconds(20);
  absl::Duration drain_timeout = absl::Seconds(2);
  const Clock* clock = Clock::System();                       // must outlive the App
  std::shared_ptr<const rpc::Authenticator> authenticator;    // of the admin API; null: off
  // Where holds are kept: `redis.uri` "" for this process's memory. Every enforcer on one Redis has
  // the same `core`.
  redis::Options redis;
  HoldStore* store = nullptr;  // a store of the caller's, which must outlive the App; null: the App's own
};

class App {
 public:
  // `ledger` leads to a LedgerService.
  static absl::StatusOr<std::unique_ptr<App>> Create(Config config, std::shared_ptr<grpc::Channel> ledger);
  ~App();  // Stop()

  void RegisterInternal(grpc::ServerBuilder& builder);
  void RegisterAdmin(grpc::ServerBuilder& builder);

  // After the server runs: subscribes to the ledger. Reservations wait until its rules are there.
  absl::Status Start();
  // Ends the sessions (UNAVAILABLE), gives free lease back to the ledger if it would be lost, ends every
  // call. Idempotent. The server must be shut down after this and before the App is destroyed.
  void Stop();

  // True once the ledger's rules are in force.
  bool WaitReady(absl::Duration timeout);
  // Why it cannot decide anything yet, "" if it can. Once it could, an outage of the ledger or of the
  // store does not count: what can be decided without them is, and the rest is refused honestly.
  std::string NotReady() const;
  // Does what is due; only with tick_interval zero.
  void RunDue();

 private:
  struct Impl;
  explicit App(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::enforcer
