// EnforcerService and EnforcerAdminService over an Enforcer.
#pragma once

#include <memory>

#include "libs/rpc/authenticator.h"
#include "services/budget-enforcer/enforcer.h"

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
  AdminService(Enforcer* enforcer, std::shared_ptr<const rpc::Authenticator> authenticator);
  ~AdminService();

  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::enforcer
