// LedgerService and LedgerAdminService over the store.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/audit/log.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"
#include "libs/sql/change_feed.h"
#include "services/ledger/poster.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

// Pushes the store's changes to watchers.
class Publisher {
 public:
  virtual ~Publisher() = default;
  // The names of those that have not acknowledged `version` (0: nothing to wait for) in time.
  virtual std::vector<std::string> WaitAcknowledged(int64_t version) = 0;
};

// The internal service. What any ledger on this database changes reaches its watchers. All arguments
// outlive it; it outlives the server it is registered with.
class InternalService : public Publisher {
 public:
  virtual grpc::Service* service() = 0;
  // Ends the watches and streams, so that the server can shut down.
  virtual void Shutdown() = 0;
};

absl::StatusOr<std::unique_ptr<InternalService>> MakeInternalService(
    Store* store, Poster* poster, absl::Duration acknowledge_timeout, sql::ChangeFeedOptions changes);

std::unique_ptr<grpc::Service> MakeAdminService(Store* store, Publisher* publisher,
                                                const rpc::Authenticator* authenticator,
                                                audit::Log* log);

}  // namespace tollhouse::ledger
