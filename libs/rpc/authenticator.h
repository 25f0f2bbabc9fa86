// Bearer tokens of the admin APIs.
#pragma once

#include <grpcpp/server_context.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tollhouse::rpc {

// Checks `authorization: Bearer TOKEN` of a call against the token of a file. Keeps only a hash of
// the token; compares in constant time. Thread-safe.
class Authenticator {
 public:
  explicit Authenticator(std::string_view token);

  // Reads the token from a file; where there is none, makes one (256 random bits) with mode 0600.
  static absl::StatusOr<Authenticator> FromFile(const std::string& path, bool create_if_absent);

  // UNAUTHENTICATED (BAD_TOKEN) unless the call carries the token.
  absl::Status Check(const grpc::ServerContextBase& context) const;

 private:
  std::string hash_;
};

// Check, where a null authenticator lets everything pass (in-process tests).
absl::Status CheckCaller(const Authenticator* authenticator, const grpc::ServerContextBase& context);

}  // namespace tollhouse::rpc
