// VaultService and VaultAdminService over the vault.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/audit/log.h"
#include "libs/rpc/authenticator.h"
#include "libs/sql/change_feed.h"

namespace tollhouse::vault {

class Vault;

// The two services of one vault.
class Services {
 public:
  virtual ~Services() = default;
  virtual grpc::Service* vault() = 0;
  virtual grpc::Service* admin() = 0;
  // Ends the watches, so that the server can shut down.
  virtual void Shutdown() = 0;
};

// `acknowledge_timeout`: how long a change waits for the edges before it names the stragglers.
// `changes`: of the vault's database. All arguments outlive the services; they outlive the server they
// are registered with. Errors of reading the change log.
// `tokens_changed` is called before a change of admin tokens is answered.
absl::StatusOr<std::unique_ptr<Services>> MakeServices(Vault* vault,
                                                       const rpc::Authenticator* authenticator,
                                                       audit::Log* log,
                                                       std::function<void()> tokens_changed,
                                                       absl::Duration acknowledge_timeout,
                                                       sql::ChangeFeedOptions changes);

}  // namespace tollhouse::vault
