#include "tools/tollctl/api.h"

#include <grpcpp/grpcpp.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/rpc/status.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"
#include "tollhouse/router/v1/router_admin.grpc.pb.h"
#include "tollhouse/vault/v1/vault_admin.grpc.pb.h"

namespace tollhouse::tollctl {
namespace {

constexpr absl::Duration kDefaultTimeout = absl::Seconds(30);
constexpr absl::Duration kVerifyTimeout = absl::Hours(1);
constexpr int kConnectMs = 2'000;  // to one of several replicas
constexpr int kMaxMessageBytes = 256 << 20;  // price books and journals are large

// gRPC's "failed to connect to all addresses; last error: ...: Connection refused" ends with what
// people need.
std::string LastClause(const std::string& message) {
  const size_t colon = message.rfind(": ");
  return colon == std::string::npos ? message : message.substr(colon + 2);
}

using ledger::v1::LedgerAdminService;
using router::v1::RouterAdminService;
using vault::v1::VaultAdminService;
using enforcer::v1::EnforcerAdminService;

}  // namespace

struct Api::Stubs {
  Target target;
  std::map<Service, std::shared_ptr<grpc::Channel>> channels;
  std::unique_ptr<LedgerAdminService::Stub> ledger;
  std::unique_ptr<RouterAdminService::Stub> router;
  std::unique_ptr<VaultAdminService::Stub> vault;
  std::unique_ptr<EnforcerAdminService::Stub> enforcer;

  void Prepare(grpc::ClientContext* context, absl::Duration timeout) const {
    if (!target.token.empty()) context->AddMetadata("authorization", "Bearer " + target.token);
    context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
};

Api::Api(std::function<absl::StatusOr<Target>()> resolve, absl::Duration timeout,
         CallObserver* observer)
    : resolve_(std::move(resolve)), timeout_(timeout), observer_(observer) {}

Api::~Api() = default;

absl::Status Api::Connect(Service service) {
  if (stubs_ == nullptr) {
    TH_ASSIGN_OR_RETURN(Target target, resolve_());
    stubs_ = std::make_unique<Stubs>();
    stubs_->target = std::move(target);
  }
  if (stubs_->channels.contains(service)) return absl::OkStatus();
  const auto address = stubs_->target.addresses.find(service);
  if (address == stubs_->target.addresses.end()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_SERVER",
                     absl::StrCat("this needs the ", ServiceName(service), ", but ",
                                  stubs_->target.origin, " does not name it; add ",
                                  ServiceName(service), "=HOST:PORT"));
  }
  const bool tls = absl::StartsWith(address->second, "https://");
  std::vector<std::string> hosts;
  for (absl::string_view host : absl::StrSplit(address->second, ',')) {
    if (!absl::ConsumePrefix(&host, "https://")) absl::ConsumePrefix(&host, "http://");
    hosts.emplace_back(absl::StripSuffix(host, "/"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  std::string target = hosts[0];
  if (hosts.size() > 1) {
    target = absl::StrCat(hosts[0][0] == '[' ? "ipv6:" : "ipv4:", absl::StrJoin(hosts, ","));
    arguments.SetLoadBalancingPolicyName("round_robin");
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
    const std::string first = hosts[0].substr(0, hosts[0].rfind(':'));
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, first);
    if (tls) arguments.SetSslTargetNameOverride(first);
  }
  const auto credentials = tls ? grpc::SslCredentials({stubs_->target.server_ca, "", ""})
                               : grpc::InsecureChannelCredentials();
  auto channel = grpc::CreateCustomChannel(target, credentials, arguments);
  switch (service) {
    case Service::kLedger: stubs_->ledger = LedgerAdminService::NewStub(channel); break;
    case Service::kRouter: stubs_->router = RouterAdminService::NewStub(channel); break;
    case Service::kVault: stubs_->vault = VaultAdminService::NewStub(channel); break;
    case Service::kEnforcer: stubs_->enforcer = EnforcerAdminService::NewStub(channel); break;
  }
  stubs_->channels[service] = std::move(channel);
  return absl::OkStatus();
}

absl::Status Api::Explained(Service service, absl::Status status) const {
  const std::string where =
      absl::StrCat("the ", ServiceName(service), " at ", stubs_->target.addresses.at(service), " (",
                   stubs_->target.origin, ")");
  const std::string reason = ReasonOf(status);
  const std::string message(Std(status.message()));
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return MakeError(status.code(), "DEADLINE", absl::StrCat(
        where, " did not answer in time; it may have done what was asked, so look before repeating. "
        "A longer wait: --timeout 5m"));
  }
  if (status.code() == absl::StatusCode::kUnavailable && reason.empty()) {
    return MakeError(status.code(), "UNREACHABLE", absl::StrCat(
        "cannot reach ", where, ": ", LastClause(message), "; check that it runs, that the address is its admin port, and whether it speaks TLS "
        "(https://...)"));
  }
  if (status.code() == absl::StatusCode::kUnauthenticated) {
    return MakeError(status.code(), "BAD_TOKEN", absl::StrCat(
        where, " refused the admin token",
        " (", stubs_->target.token.empty() ? "none was given" : message, ")",
        "; name its file with --token-file or TOLLHOUSE_TOKEN_FILE (tollhoused writes it to "
        "admin.token in its data directory)"));
  }
  if (status.code() == absl::StatusCode::kUnimplemented) {
    return MakeError(status.code(), "UNIMPLEMENTED", absl::StrCat(
        where, " does not know this operation; its version is older than this tollctl, or the "
        "address is not its admin port"));
  }
  if (message.empty()) {
    return MakeError(status.code(), reason, absl::StrCat(
        where, " failed without saying why (", absl::StatusCodeToString(status.code()), ")"));
  }
  return status;
}

template <typename Response, typename StubPointer, typename Method, typename Request>
absl::StatusOr<Response> Api::Unary(Service service, StubPointer stub, Method method,
                                    const Request& request, absl::Duration timeout) {
  TH_RETURN_IF_ERROR(Connect(service));
  if (timeout == absl::ZeroDuration()) timeout = kDefaultTimeout;
  grpc::ClientContext context;
  stubs_->Prepare(&context, timeout_ == absl::ZeroDuration() ? timeout : timeout_);
  observer_->Begin(absl::StrCat("waiting for the ", ServiceName(service)));
  Response response;
  const grpc::Status status = ((*stubs_.*stub).get()->*method)(&context, request, &response);
  observer_->End();
  if (!status.ok()) return Explained(service, rpc::FromGrpc(status));
  return response;
}

absl::StatusOr<ledger::v1::CreateAccountResponse> Api::Call(const ledger::v1::CreateAccountRequest& request) {
  return Unary<ledger::v1::CreateAccountResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::CreateAccount, request);
}
absl::StatusOr<ledger::v1::GetAccountResponse> Api::Call(const ledger::v1::GetAccountRequest& request) {
  return Unary<ledger::v1::GetAccountResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::GetAccount, request);
}
absl::StatusOr<ledger::v1::ListAccountsResponse> Api::Call(const ledger::v1::ListAccountsRequest& request) {
  return Unary<ledger::v1::ListAccountsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListAccounts, request);
}
absl::StatusOr<ledger::v1::MoveAccountResponse> Api::Call(const ledger::v1::MoveAccountRequest& request) {
  return Unary<ledger::v1::MoveAccountResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::MoveAccount, request);
}
absl::StatusOr<ledger::v1::DeleteAccountResponse> Api::Call(const ledger::v1::DeleteAccountRequest& request) {
  return Unary<ledger::v1::DeleteAccountResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::DeleteAccount, request);
}
absl::StatusOr<ledger::v1::SetBudgetResponse> Api::Call(const ledger::v1::SetBudgetRequest& request) {
  return Unary<ledger::v1::SetBudgetResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::SetBudget, request);
}
absl::StatusOr<ledger::v1::ListBudgetsResponse> Api::Call(const ledger::v1::ListBudgetsRequest& request) {
  return Unary<ledger::v1::ListBudgetsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListBudgets, request);
}
absl::StatusOr<ledger::v1::DeleteBudgetResponse> Api::Call(const ledger::v1::DeleteBudgetRequest& request) {
  return Unary<ledger::v1::DeleteBudgetResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::DeleteBudget, request);
}
absl::StatusOr<ledger::v1::RaiseBudgetResponse> Api::Call(const ledger::v1::RaiseBudgetRequest& request) {
  return Unary<ledger::v1::RaiseBudgetResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::RaiseBudget, request);
}
absl::StatusOr<ledger::v1::SetLimitsResponse> Api::Call(const ledger::v1::SetLimitsRequest& request) {
  return Unary<ledger::v1::SetLimitsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::SetLimits, request);
}
absl::StatusOr<ledger::v1::ListLimitsResponse> Api::Call(const ledger::v1::ListLimitsRequest& request) {
  return Unary<ledger::v1::ListLimitsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListLimits, request);
}
absl::StatusOr<ledger::v1::GetSpendResponse> Api::Call(const ledger::v1::GetSpendRequest& request) {
  return Unary<ledger::v1::GetSpendResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::GetSpend, request);
}
absl::StatusOr<ledger::v1::ExplainRequestResponse> Api::Call(const ledger::v1::ExplainRequestRequest& request) {
  return Unary<ledger::v1::ExplainRequestResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ExplainRequest, request);
}
absl::StatusOr<ledger::v1::ListEntriesResponse> Api::Call(const ledger::v1::ListEntriesRequest& request) {
  return Unary<ledger::v1::ListEntriesResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListEntries, request);
}
absl::StatusOr<ledger::v1::ListSuspenseResponse> Api::Call(const ledger::v1::ListSuspenseRequest& request) {
  return Unary<ledger::v1::ListSuspenseResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListSuspense, request);
}
absl::StatusOr<ledger::v1::AdjustEntryResponse> Api::Call(const ledger::v1::AdjustEntryRequest& request) {
  return Unary<ledger::v1::AdjustEntryResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::AdjustEntry, request);
}

absl::StatusOr<ledger::v1::ResolveSuspenseResponse> Api::Call(const ledger::v1::ResolveSuspenseRequest& request) {
  return Unary<ledger::v1::ResolveSuspenseResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ResolveSuspense, request);
}
absl::StatusOr<ledger::v1::SetWebhookResponse> Api::Call(const ledger::v1::SetWebhookRequest& request) {
  return Unary<ledger::v1::SetWebhookResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::SetWebhook, request);
}
absl::StatusOr<ledger::v1::ListWebhooksResponse> Api::Call(const ledger::v1::ListWebhooksRequest& request) {
  return Unary<ledger::v1::ListWebhooksResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListWebhooks, request);
}
absl::StatusOr<ledger::v1::DeleteWebhookResponse> Api::Call(const ledger::v1::DeleteWebhookRequest& request) {
  return Unary<ledger::v1::DeleteWebhookResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::DeleteWebhook, request);
}
absl::StatusOr<ledger::v1::ListAlertsResponse> Api::Call(const ledger::v1::ListAlertsRequest& request) {
  return Unary<ledger::v1::ListAlertsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListAlerts, request);
}

absl::StatusOr<router::v1::SetProviderResponse> Api::Call(const router::v1::SetProviderRequest& request) {
  return Unary<router::v1::SetProviderResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::SetProvider, request);
}
absl::StatusOr<router::v1::ListProvidersResponse> Api::Call(const router::v1::ListProvidersRequest& request) {
  return Unary<router::v1::ListProvidersResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ListProviders, request);
}
absl::StatusOr<router::v1::DeleteProviderResponse> Api::Call(const router::v1::DeleteProviderRequest& request) {
  return Unary<router::v1::DeleteProviderResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::DeleteProvider, request);
}
absl::StatusOr<router::v1::ListModelsResponse> Api::Call(const router::v1::ListModelsRequest& request) {
  return Unary<router::v1::ListModelsResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ListModels, request);
}
absl::StatusOr<router::v1::ListPricesResponse> Api::Call(const router::v1::ListPricesRequest& request) {
  return Unary<router::v1::ListPricesResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ListPrices, request);
}
absl::StatusOr<router::v1::ImportPricesResponse> Api::Call(const router::v1::ImportPricesRequest& request) {
  return Unary<router::v1::ImportPricesResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ImportPrices, request);
}
absl::StatusOr<router::v1::SetAliasResponse> Api::Call(const router::v1::SetAliasRequest& request) {
  return Unary<router::v1::SetAliasResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::SetAlias, request);
}
absl::StatusOr<router::v1::ListAliasesResponse> Api::Call(const router::v1::ListAliasesRequest& request) {
  return Unary<router::v1::ListAliasesResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ListAliases, request);
}
absl::StatusOr<router::v1::SetCeilingResponse> Api::Call(const router::v1::SetCeilingRequest& request) {
  return Unary<router::v1::SetCeilingResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::SetCeiling, request);
}
absl::StatusOr<router::v1::ExplainRouteResponse> Api::Call(const router::v1::ExplainRouteRequest& request) {
  return Unary<router::v1::ExplainRouteResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ExplainRoute, request);
}

absl::StatusOr<vault::v1::CreateKeyResponse> Api::Call(const vault::v1::CreateKeyRequest& request) {
  return Unary<vault::v1::CreateKeyResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::CreateKey, request);
}
absl::StatusOr<vault::v1::ListKeysResponse> Api::Call(const vault::v1::ListKeysRequest& request) {
  return Unary<vault::v1::ListKeysResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::ListKeys, request);
}
absl::StatusOr<vault::v1::RotateKeyResponse> Api::Call(const vault::v1::RotateKeyRequest& request) {
  return Unary<vault::v1::RotateKeyResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::RotateKey, request);
}
absl::StatusOr<vault::v1::RevokeKeyResponse> Api::Call(const vault::v1::RevokeKeyRequest& request) {
  return Unary<vault::v1::RevokeKeyResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::RevokeKey, request);
}
absl::StatusOr<vault::v1::UpdateKeyResponse> Api::Call(const vault::v1::UpdateKeyRequest& request) {
  return Unary<vault::v1::UpdateKeyResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::UpdateKey, request);
}
absl::StatusOr<vault::v1::SetCredentialResponse> Api::Call(const vault::v1::SetCredentialRequest& request) {
  return Unary<vault::v1::SetCredentialResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::SetCredential, request);
}
absl::StatusOr<vault::v1::ListCredentialsResponse> Api::Call(const vault::v1::ListCredentialsRequest& request) {
  return Unary<vault::v1::ListCredentialsResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::ListCredentials, request);
}
absl::StatusOr<vault::v1::DeleteCredentialResponse> Api::Call(const vault::v1::DeleteCredentialRequest& request) {
  return Unary<vault::v1::DeleteCredentialResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::DeleteCredential, request);
}
absl::StatusOr<vault::v1::ListKeyEncryptionKeysResponse> Api::Call(const vault::v1::ListKeyEncryptionKeysRequest& request) {
  return Unary<vault::v1::ListKeyEncryptionKeysResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::ListKeyEncryptionKeys, request);
}
absl::StatusOr<vault::v1::RewrapSecretsResponse> Api::Call(const vault::v1::RewrapSecretsRequest& request) {
  return Unary<vault::v1::RewrapSecretsResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::RewrapSecrets, request);
}
absl::StatusOr<vault::v1::CreateTokenResponse> Api::Call(const vault::v1::CreateTokenRequest& request) {
  return Unary<vault::v1::CreateTokenResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::CreateToken, request);
}
absl::StatusOr<vault::v1::ListTokensResponse> Api::Call(const vault::v1::ListTokensRequest& request) {
  return Unary<vault::v1::ListTokensResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::ListTokens, request);
}
absl::StatusOr<vault::v1::RevokeTokenResponse> Api::Call(const vault::v1::RevokeTokenRequest& request) {
  return Unary<vault::v1::RevokeTokenResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::RevokeToken, request);
}
absl::StatusOr<vault::v1::ListAuditEventsResponse> Api::Call(const vault::v1::ListAuditEventsRequest& request) {
  return Unary<vault::v1::ListAuditEventsResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::ListAuditEvents, request);
}

absl::StatusOr<ledger::v1::ListAuditEventsResponse> Api::Call(const ledger::v1::ListAuditEventsRequest& request) {
  return Unary<ledger::v1::ListAuditEventsResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListAuditEvents, request);
}
absl::StatusOr<ledger::v1::VerifyAuditResponse> Api::Call(const ledger::v1::VerifyAuditRequest& request) {
  return Unary<ledger::v1::VerifyAuditResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::VerifyAudit, request, kVerifyTimeout);
}
absl::StatusOr<router::v1::ListAuditEventsResponse> Api::Call(const router::v1::ListAuditEventsRequest& request) {
  return Unary<router::v1::ListAuditEventsResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::ListAuditEvents, request);
}
absl::StatusOr<router::v1::VerifyAuditResponse> Api::Call(const router::v1::VerifyAuditRequest& request) {
  return Unary<router::v1::VerifyAuditResponse>(Service::kRouter, &Stubs::router, &RouterAdminService::Stub::VerifyAudit, request, kVerifyTimeout);
}
absl::StatusOr<vault::v1::VerifyAuditResponse> Api::Call(const vault::v1::VerifyAuditRequest& request) {
  return Unary<vault::v1::VerifyAuditResponse>(Service::kVault, &Stubs::vault, &VaultAdminService::Stub::VerifyAudit, request, kVerifyTimeout);
}
absl::StatusOr<ledger::v1::SetTagRulesResponse> Api::Call(const ledger::v1::SetTagRulesRequest& request) {
  return Unary<ledger::v1::SetTagRulesResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::SetTagRules, request);
}
absl::StatusOr<ledger::v1::ListTagRulesResponse> Api::Call(const ledger::v1::ListTagRulesRequest& request) {
  return Unary<ledger::v1::ListTagRulesResponse>(Service::kLedger, &Stubs::ledger, &LedgerAdminService::Stub::ListTagRules, request);
}

absl::StatusOr<enforcer::v1::ListHoldsResponse> Api::Call(const enforcer::v1::ListHoldsRequest& request) {
  return Unary<enforcer::v1::ListHoldsResponse>(Service::kEnforcer, &Stubs::enforcer, &EnforcerAdminService::Stub::ListHolds, request);
}
absl::StatusOr<enforcer::v1::GetBudgetHoldsResponse> Api::Call(const enforcer::v1::GetBudgetHoldsRequest& request) {
  return Unary<enforcer::v1::GetBudgetHoldsResponse>(Service::kEnforcer, &Stubs::enforcer, &EnforcerAdminService::Stub::GetBudgetHolds, request);
}

absl::StatusOr<ledger::v1::VerifyLedgerProgress> Api::Call(
    const ledger::v1::VerifyLedgerRequest& request) {
  TH_RETURN_IF_ERROR(Connect(Service::kLedger));
  grpc::ClientContext context;
  stubs_->Prepare(&context, timeout_ == absl::ZeroDuration() ? kVerifyTimeout : timeout_);
  observer_->Begin("verifying the ledger");
  const auto reader = stubs_->ledger->VerifyLedger(&context, request);
  ledger::v1::VerifyLedgerProgress progress, last;
  while (reader->Read(&progress)) {
    last = progress;
    observer_->Note(absl::StrCat(progress.phase(), progress.phase().empty() ? "" : ", ",
                                 progress.entries(), " entries"));
  }
  const grpc::Status status = reader->Finish();
  observer_->End();
  if (!status.ok()) return Explained(Service::kLedger, rpc::FromGrpc(status));
  if (!last.done()) {
    return MakeError(absl::StatusCode::kUnavailable, "UNFINISHED",
                     "the ledger ended the verification early; run it again");
  }
  return last;
}

}  // namespace tollhouse::tollctl
