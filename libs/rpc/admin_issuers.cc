#include "libs/rpc/admin_issuers.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/identity/token.h"

namespace tollhouse::rpc {
namespace {

common::v1::Role RoleOf(std::string_view name) {
  if (name == "viewer") return common::v1::ROLE_VIEWER;
  if (name == "finance") return common::v1::ROLE_FINANCE;
  if (name == "admin") return common::v1::ROLE_ADMIN;
  if (name == "owner") return common::v1::ROLE_OWNER;
  return common::v1::ROLE_UNSPECIFIED;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdminIssuers>> AdminIssuers::Open(const std::string& path,
                                                                 Authenticator* authenticator,
                                                                 identity::IssuersOptions options) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  auto list = identity::ParseIssuers(text.str(), identity::IssuerUse::kAdministration);
  if (!list.ok()) {
    return absl::Status(list.status().code(), absl::StrCat(path, ": ", list.status().message()));
  }
  std::unique_ptr<AdminIssuers> issuers(new AdminIssuers(*std::move(list), std::move(options)));
  TH_RETURN_IF_ERROR(issuers->issuers_.Start());
  authenticator->SetVerifier(
      {.is_mine = identity::LooksLikeToken,
       .verify = [known = &issuers->issuers_](std::string_view token) -> absl::StatusOr<Caller> {
         TH_ASSIGN_OR_RETURN(identity::Identity identity, known->Verify(token));
         Caller caller;
         caller.actor = absl::StrCat("oidc/", identity.actor);
         caller.role = RoleOf(identity.role);
         caller.subtree = std::move(identity.subtree);
         return caller;
       }});
  return issuers;
}

}  // namespace tollhouse::rpc
