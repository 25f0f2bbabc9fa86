// A gRPC server of a service: one port, its health, its end.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse::rpc {

struct ServerOptions {
  std::string listen;  // "0.0.0.0:7001"; port 0: any free one
  std::shared_ptr<grpc::ServerCredentials> credentials;
  int max_message_bytes = 64 << 20;
  // Connections are asked to end after about this long, so that clients spread over new replicas
  // too; calls that still run get `connection_grace`. Infinite: never.
  absl::Duration connection_age = absl::InfiniteDuration();
  absl::Duration connection_grace = absl::Seconds(5);
};

// Has grpc.health.v1 beside what is registered. Thread-safe.
class Server {
 public:
  // UNAVAILABLE (CANNOT_LISTEN) naming the address.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options, const std::function<void(grpc::ServerBuilder&)>& register_services);
  ~Server();

  // "0.0.0.0:7001", with the port that was bound.
  const std::string& address() const { return address_; }
  // What health checks are told.
  void SetServing(bool serving);
  // Takes no more calls, lets running ones end for at most `timeout`, ends the rest. Idempotent.
  void Shutdown(absl::Duration timeout);

 private:
  Server(std::unique_ptr<grpc::Server> server, std::string address);

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
};

}  // namespace tollhouse::rpc
