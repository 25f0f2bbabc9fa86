// Identity providers whose tokens administer, beside the tokens of the vault.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libs/identity/issuers.h"
#include "libs/rpc/authenticator.h"

namespace tollhouse::rpc {

class AdminIssuers {
 public:
  // Reads the file (libs/identity/issuers.h, IssuerUse::kAdministration), begins to fetch key sets, and
  // makes `authenticator` ask for these tokens too; their callers are "oidc/ACTOR" in the audit log. It must
  // outlive the authenticator's last call. NOT_FOUND and INVALID_ARGUMENT naming the file.
  static absl::StatusOr<std::unique_ptr<AdminIssuers>> Open(const std::string& path,
                                                            Authenticator* authenticator,
                                                            identity::IssuersOptions options = {});
  ~AdminIssuers() { issuers_.Stop(); }

 private:
  AdminIssuers(std::vector<identity::Issuer> issuers, identity::IssuersOptions options)
      : issuers_(std::move(issuers), std::move(options)) {}

  identity::Issuers issuers_;
};

}  // namespace tollhouse::rpc
