// The admin APIs of the services: one function per unary RPC, chosen by the type of its request.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.pb.h"
#include "tollhouse/router/v1/router_admin.pb.h"
#include "tollhouse/vault/v1/vault_admin.pb.h"
#include "tools/tollctl/settings.h"

namespace tollhouse::tollctl {

// Told when a call begins (what, like "ledger at 127.0.0.1:9900") and when it is over.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void Begin(const std::string& what) = 0;
  virtual void Note(const std::string& text) = 0;  // how far the call has come
  virtual void End() = 0;
};

// Connects to each service on first use; not thread-safe. Errors carry the server's reason; one
// without an answer names the address and what to check (reason UNREACHABLE). Every call has a
// deadline.
class Api {
 public:
  // `resolve` is called once, when the first service is needed. A zero timeout means 30 s.
  Api(std::function<absl::StatusOr<Target>()> resolve, absl::Duration timeout,
      CallObserver* observer);
  ~Api();
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;

  absl::StatusOr<ledger::v1::CreateAccountResponse> Call(const ledger::v1::CreateAccountRequest& request);
  absl::StatusOr<ledger::v1::GetAccountResponse> Call(const ledger::v1::GetAccountRequest& request);
  absl::StatusOr<ledger::v1::ListAccountsResponse> Call(const ledger::v1::ListAccountsRequest& request);
  absl::StatusOr<ledger::v1::MoveAccountResponse> Call(const ledger::v1::MoveAccountRequest& request);
  absl::StatusOr<ledger::v1::DeleteAccountResponse> Call(const ledger::v1::DeleteAccountRequest& request);
  absl::StatusOr<ledger::v1::SetBudgetResponse> Call(const ledger::v1::SetBudgetRequest& request);
  absl::StatusOr<ledger::v1::ListBudgetsResponse> Call(const ledger::v1::ListBudgetsRequest& request);
  absl::StatusOr<ledger::v1::DeleteBudgetResponse> Call(const ledger::v1::DeleteBudgetRequest& request);
  absl::StatusOr<ledger::v1::RaiseBudgetResponse> Call(const ledger::v1::RaiseBudgetRequest& request);
  absl::StatusOr<ledger::v1::SetLimitsResponse> Call(const ledger::v1::SetLimitsRequest& request);
  absl::StatusOr<ledger::v1::ListLimitsResponse> Call(const ledger::v1::ListLimitsRequest& request);
  absl::StatusOr<ledger::v1::GetSpendResponse> Call(const ledger::v1::GetSpendRequest& request);
  absl::StatusOr<ledger::v1::ExplainRequestResponse> Call(const ledger::v1::ExplainRequestRequest& request);
  absl::StatusOr<ledger::v1::ListEntriesResponse> Call(const ledger::v1::ListEntriesRequest& request);
  absl::StatusOr<ledger::v1::ListSuspenseResponse> Call(const ledger::v1::ListSuspenseRequest& request);
  absl::StatusOr<ledger::v1::AdjustEntryResponse> Call(const ledger::v1::AdjustEntryRequest& request);
  absl::StatusOr<ledger::v1::ResolveSuspenseResponse> Call(const ledger::v1::ResolveSuspenseRequest& request);
  absl::StatusOr<ledger::v1::SetWebhookResponse> Call(const ledger::v1::SetWebhookRequest& request);
  absl::StatusOr<ledger::v1::ListWebhooksResponse> Call(const ledger::v1::ListWebhooksRequest& request);
  absl::StatusOr<ledger::v1::DeleteWebhookResponse> Call(const ledger::v1::DeleteWebhookRequest& request);
  absl::StatusOr<ledger::v1::ListAlertsResponse> Call(const ledger::v1::ListAlertsRequest& request);

  absl::StatusOr<router::v1::SetProviderResponse> Call(const router::v1::SetProviderRequest& request);
  absl::StatusOr<router::v1::ListProvidersResponse> Call(const router::v1::ListProvidersRequest& request);
  absl::StatusOr<router::v1::DeleteProviderResponse> Call(const router::v1::DeleteProviderRequest& request);
  absl::StatusOr<router::v1::ListModelsResponse> Call(const router::v1::ListModelsRequest& request);
  absl::StatusOr<router::v1::ListPricesResponse> Call(const router::v1::ListPricesRequest& request);
  absl::StatusOr<router::v1::ImportPricesResponse> Call(const router::v1::ImportPricesRequest& request);
  absl::StatusOr<router::v1::SetAliasResponse> Call(const router::v1::SetAliasRequest& request);
  absl::StatusOr<router::v1::ListAliasesResponse> Call(const router::v1::ListAliasesRequest& request);
  absl::StatusOr<router::v1::SetCeilingResponse> Call(const router::v1::SetCeilingRequest& request);
  absl::StatusOr<router::v1::ExplainRouteResponse> Call(const router::v1::ExplainRouteRequest& request);

  absl::StatusOr<vault::v1::CreateKeyResponse> Call(const vault::v1::CreateKeyRequest& request);
  absl::StatusOr<vault::v1::ListKeysResponse> Call(const vault::v1::ListKeysRequest& request);
  absl::StatusOr<vault::v1::RotateKeyResponse> Call(const vault::v1::RotateKeyRequest& request);
  absl::StatusOr<vault::v1::RevokeKeyResponse> Call(const vault::v1::RevokeKeyRequest& request);
  absl::StatusOr<vault::v1::UpdateKeyResponse> Call(const vault::v1::UpdateKeyRequest& request);
  absl::StatusOr<vault::v1::SetCredentialResponse> Call(const vault::v1::SetCredentialRequest& request);
  absl::StatusOr<vault::v1::ListCredentialsResponse> Call(const vault::v1::ListCredentialsRequest& request);
  absl::StatusOr<vault::v1::DeleteCredentialResponse> Call(const vault::v1::DeleteCredentialRequest& request);
  absl::StatusOr<vault::v1::ListKeyEncryptionKeysResponse> Call(const vault::v1::ListKeyEncryptionKeysRequest& request);
  absl::StatusOr<vault::v1::RewrapSecretsResponse> Call(const vault::v1::RewrapSecretsRequest& request);
  absl::StatusOr<vault::v1::CreateTokenResponse> Call(const vault::v1::CreateTokenRequest& request);
  absl::StatusOr<vault::v1::ListTokensResponse> Call(const vault::v1::ListTokensRequest& request);
  absl::StatusOr<vault::v1::RevokeTokenResponse> Call(const vault::v1::RevokeTokenRequest& request);

  // The audit log of each service. VerifyAudit has an hour, as VerifyLedger.
  absl::StatusOr<ledger::v1::ListAuditEventsResponse> Call(const ledger::v1::ListAuditEventsRequest& request);
  absl::StatusOr<ledger::v1::VerifyAuditResponse> Call(const ledger::v1::VerifyAuditRequest& request);
  absl::StatusOr<router::v1::ListAuditEventsResponse> Call(const router::v1::ListAuditEventsRequest& request);
  absl::StatusOr<router::v1::VerifyAuditResponse> Call(const router::v1::VerifyAuditRequest& request);
  absl::StatusOr<vault::v1::ListAuditEventsResponse> Call(const vault::v1::ListAuditEventsRequest& request);
  absl::StatusOr<vault::v1::VerifyAuditResponse> Call(const vault::v1::VerifyAuditRequest& request);

  absl::StatusOr<ledger::v1::SetTagRulesResponse> Call(const ledger::v1::SetTagRulesRequest& request);
  absl::StatusOr<ledger::v1::ListTagRulesResponse> Call(const ledger::v1::ListTagRulesRequest& request);

  absl::StatusOr<enforcer::v1::ListHoldsResponse> Call(const enforcer::v1::ListHoldsRequest& request);
  absl::StatusOr<enforcer::v1::GetBudgetHoldsResponse> Call(const enforcer::v1::GetBudgetHoldsRequest& request);

  // Streams progress to the observer and answers with the last message. A zero timeout means 1 h.
  absl::StatusOr<ledger::v1::VerifyLedgerProgress> Call(const ledger::v1::VerifyLedgerRequest& request);

 private:
  struct Stubs;
  absl::Status Connect(Service service);
  template <typename Response, typename StubPointer, typename Method, typename Request>
  absl::StatusOr<Response> Unary(Service service, StubPointer stub, Method method,
                                 const Request& request, absl::Duration timeout = absl::ZeroDuration());
  // The server's error as people read it.
  absl::Status Explained(Service service, absl::Status status) const;

  const std::function<absl::StatusOr<Target>()> resolve_;
  const absl::Duration timeout_;
  CallObserver* const observer_;
  std::unique_ptr<Stubs> stubs_;
};

}  // namespace tollhouse::tollctl
