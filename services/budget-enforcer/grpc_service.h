// EnforcerService and EnforcerAdminService over an Enforcer.
#pragma once

#include <functional>
#include <memory>

#include "libs/rpc/authenticator.h"
#include "services/budget-enforcer/enforcer.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class Service;
}

namespace tollhouse::enforcer {

// Sessions and unary twins. `enforcer` must outlive the server that serves from it.
class SessionService {
 public:
  explicit SessionService(Enforcer* enforcer);
  ~SessionService();

  grpc::Service* service();
  // Ends every session with UNAVAILABLE and refuses new calls. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The read-only view for admins. A null authenticator lets everybody in (tests).
class AdminService {
 public:
  // Asks the ledger for the accounts from the org down to one.
  using Resolve = std::function<absl::StatusOr<ledger::v1::ResolveAccountResponse>(
      const ledger::v1::ResolveAccountRequest& request)>;

  AdminService(Enforcer* enforcer, std::shared_ptr<const rpc::Authenticator> authenticator,
               Resolve resolve);
  ~AdminService();

  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::enforcer
