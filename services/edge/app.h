// The edge as an object: everything between its HTTP port and the four services it talks to.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/edge/config.h"

namespace grpc {
class ChannelInterface;
class ServerBuilder;
}  // namespace grpc

namespace tollhouse::edge {

// Where the other services are.
struct Channels {
  std::shared_ptr<grpc::ChannelInterface> enforcer;
  std::shared_ptr<grpc::ChannelInterface> ledger;
  std::shared_ptr<grpc::ChannelInterface> router;
  std::shared_ptr<grpc::ChannelInterface> vault;
};

class App {
 public:
  // Opens the journal and binds the port; nothing is served yet. Errors of the journal
  // (JOURNAL_LOCKED, JOURNAL_CORRUPT) and of the port (CANNOT_LISTEN).
  static absl::StatusOr<std::unique_ptr<App>> Create(const Config& config, Channels channels);
  ~App();

  // An edge has no gRPC services of its own.
  void RegisterInternal(grpc::ServerBuilder&) {}
  void RegisterAdmin(grpc::ServerBuilder&) {}

  // Takes up the journal, announces what closed epochs wait for, waits for keys and policy, then
  // serves. The other services must run. UNAVAILABLE (START_TIMEOUT) naming what did not come.
  absl::Status Start();

  // Accepts nothing new, lets requests end (at most config.shutdown_time), brings settlements to the
  // ledger, closes. Idempotent.
  void Stop();

  // "http://127.0.0.1:8080"
  std::string url() const;
  // "" when requests are served, else why not: for /readyz.
  std::string NotReady() const;
  const std::string& edge_id() const;

 private:
  struct Impl;
  explicit App(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
