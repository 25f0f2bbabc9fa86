// RouterService and RouterAdminService over the catalog.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"

namespace tollhouse::router {

class Catalog;

// The two services of one catalog. The catalog's changes are published to the watchers from
// construction on. All arguments outlive it; it outlives the server it is registered with.
class Services {
 public:
  // `acknowledge_timeout`: how long a change waits for the edges before it names the stragglers.
  virtual ~Services() = default;
  virtual grpc::Service* router() = 0;
  virtual grpc::Service* admin() = 0;
  // Ends the watches, so that the server can shut down.
  virtual void Shutdown() = 0;
};

std::unique_ptr<Services> MakeServices(Catalog* catalog, const rpc::Authenticator* authenticator,
                                       const Clock* clock, absl::Duration acknowledge_timeout);

}  // namespace tollhouse::router
