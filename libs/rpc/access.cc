#include "libs/rpc/access.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::rpc {
namespace {

constexpr std::string_view kTrustDomain = "spiffe://tollhouse/";

// One caller of one method; "" as method: every method of the service; "*" as caller: every service.
struct Row {
  std::string_view service;
  std::string_view method;
  std::string_view caller;
};

constexpr std::string_view kLedger = "tollhouse.ledger.v1.LedgerService";
constexpr std::string_view kEnforcer = "tollhouse.enforcer.v1.EnforcerService";
constexpr std::string_view kRouter = "tollhouse.router.v1.RouterService";
constexpr std::string_view kVault = "tollhouse.vault.v1.VaultService";

constexpr Row kRows[] = {
    {kLedger, "Watch", "enforcer"},
    {kLedger, "Watch", "edge"},
    {kLedger, "ResolveAccount", "edge"},
    {kLedger, "ResolveAccount", "vault"},
    {kLedger, "ResolveAccount", "enforcer"},
    {kLedger, "ResolveAccounts", "edge"},
    {kLedger, "ResolveAccounts", "vault"},
    {kLedger, "GetBudgets", "edge"},
    {kLedger, "CreateKeyAccount", "vault"},
    {kLedger, "DeleteKeyAccount", "vault"},
    {kLedger, "RegisterEpoch", "enforcer"},
    {kLedger, "RegisterEdge", "enforcer"},
    {kLedger, "GrantLease", "enforcer"},
    {kLedger, "AcknowledgeGrants", "enforcer"},
    {kLedger, "ListGrants", "enforcer"},
    {kLedger, "ReturnLease", "enforcer"},
    {kLedger, "PostExpired", "enforcer"},
    {kLedger, "Post", "edge"},
    {kLedger, "PostBatch", "edge"},
    {kLedger, "AnnounceHolds", "edge"},
    {kLedger, "ListPendingAnnouncements", "edge"},
    {kEnforcer, "Session", "edge"},
    {kEnforcer, "Reserve", "edge"},
    {kEnforcer, "Settle", "edge"},
    {kEnforcer, "Void", "edge"},
    {kEnforcer, "ReadBudgetHolds", "edge"},
    {kRouter, "Watch", "edge"},
    {kVault, "Watch", "edge"},
    {kVault, "LookupKeys", "edge"},
    {kVault, "GetCredential", "edge"},
    {kVault, "ReportKeyUse", "edge"},
    {kVault, "ReadTokens", "ledger"},
    {kVault, "ReadTokens", "router"},
    {kVault, "ReadTokens", "enforcer"},
    {kVault, "PutObject", "edge"},
    {kVault, "FindObject", "edge"},
    {"grpc.health.v1.Health", "", "*"},
};

}  // namespace

std::string IdentityOf(std::string_view service) { return absl::StrCat(Absl(kTrustDomain), Absl(service)); }

std::string_view ServiceOfIdentity(std::string_view uri) {
  if (!absl::StartsWith(Absl(uri), Absl(kTrustDomain))) return "";
  return uri.substr(kTrustDomain.size());
}

absl::Status CheckAccess(std::string_view method, const std::vector<std::string>& identities) {
  std::string_view caller;
  for (const std::string& uri : identities) {
    if (caller.empty()) caller = ServiceOfIdentity(uri);
  }
  if (caller.empty()) {
    return MakeError(absl::StatusCode::kUnauthenticated, "NO_IDENTITY",
                     absl::StrCat("the caller's certificate names no service of Tollhouse (",
                                  absl::StrJoin(identities, ", "), ")"));
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(Absl(method), '/');  // "", service, name
  const std::string_view service = parts.size() == 3 ? Std(parts[1]) : "";
  const std::string_view name = parts.size() == 3 ? Std(parts[2]) : "";
  std::vector<std::string_view> allowed;
  for (const Row& row : kRows) {
    if (row.service != service || (!row.method.empty() && row.method != name)) continue;
    if (row.caller == caller || row.caller == "*") return absl::OkStatus();
    allowed.push_back(row.caller);
  }
  return MakeError(
      absl::StatusCode::kPermissionDenied, "NOT_ALLOWED",
      absl::StrCat(IdentityOf(caller), " may not call ", Absl(method), "; ",
                   allowed.empty() ? "nobody may" : "these services may: ",
                   absl::StrJoin(allowed, ", ", [](std::string* out, std::string_view item) {
                     absl::StrAppend(out, Absl(item));
                   })));
}

}  // namespace tollhouse::rpc
