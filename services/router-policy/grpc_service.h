// RouterService and RouterAdminService over the catalog.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/audit/log.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"
#include "libs/sql/change_feed.h"

namespace tollhouse::router {

class Catalog;

// The two services of one catalog.
class Services {
 public:
  virtual ~Services() = default;
  virtual grpc::Service* router() = 0;
  virtual grpc::Service* admin() = 0;
  // Ends the watches, so that the server can shut down.
  virtual void Shutdown() = 0;
};

// `acknowledge_timeout`: how long a change waits for the edges before it names the stragglers.
// `changes`: of the catalog's database. All arguments outlive the services; they outlive the server
// they are registered with. Errors of reading the change log.
absl::StatusOr<std::unique_ptr<Services>> MakeServices(Catalog* catalog,
                                                       const rpc::Authenticator* authenticator,
                                                       audit::Log* log, const Clock* clock,
                                                       absl::Duration acknowledge_timeout,
                                                       sql::ChangeFeedOptions changes);

}  // namespace tollhouse::router
