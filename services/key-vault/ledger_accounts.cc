#include "services/key-vault/ledger_accounts.h"

#include <grpcpp/client_context.h>

#include <chrono>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/rpc/status.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::vault {
namespace {

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
}

absl::Status FromLedger(const grpc::Status& answer) {
  absl::Status status = rpc::FromGrpc(answer);
  const std::string reason = ReasonOf(status);
  const bool of_its_store = reason.substr(0, 4) == "SQL_";  // which the vault has, too
  if (status.ok() || (!reason.empty() && !of_its_store)) return status;
  return MakeError(absl::StatusCode::kUnavailable, "LEDGER_UNAVAILABLE",
                   of_its_store
                       ? Std(status.message())
                       : "the ledger, which owns the accounts of keys, does not answer; try again");
}

KeyAccount FromView(const ledger::v1::AccountView& view) {
  return {view.account_id(),
          view.path(),
          view.kind() == common::v1::ACCOUNT_KIND_KEY,
          {view.tags().begin(), view.tags().end()}};
}

absl::StatusOr<KeyAccount> LastOf(const ledger::v1::ResolveAccountResponse& response) {
  if (response.chain().empty()) {
    return MakeError(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "no such account");
  }
  return FromView(*response.chain().rbegin());
}

}  // namespace

struct LedgerAccounts::Stub {
  std::unique_ptr<ledger::v1::LedgerService::Stub> service;
};

LedgerAccounts::LedgerAccounts(std::shared_ptr<grpc::ChannelInterface> channel)
    : stub_(std::make_unique<Stub>(Stub{ledger::v1::LedgerService::NewStub(channel)})) {}
LedgerAccounts::~LedgerAccounts() = default;

absl::StatusOr<KeyAccount> LedgerAccounts::Create(const KeyIntent& intent,
                                                  const std::map<std::string, std::string>& tags) {
  grpc::ClientContext context;
  SetDeadline(&context);
  ledger::v1::CreateKeyAccountRequest request;
  request.set_parent_path(intent.parent_path);
  request.set_name(intent.name);
  request.mutable_tags()->insert(tags.begin(), tags.end());
  request.set_client_request_id(intent.client_request_id);
  ledger::v1::CreateKeyAccountResponse response;
  TH_RETURN_IF_ERROR(FromLedger(stub_->service->CreateKeyAccount(&context, request, &response)));
  return KeyAccount{response.account_id(), response.path(), true, tags};
}

absl::Status LedgerAccounts::Delete(int64_t account_id) {
  grpc::ClientContext context;
  SetDeadline(&context);
  ledger::v1::DeleteKeyAccountRequest request;
  request.set_account_id(account_id);
  ledger::v1::DeleteKeyAccountResponse response;
  return FromLedger(stub_->service->DeleteKeyAccount(&context, request, &response));
}

absl::Status LedgerAccounts::ByIds(const std::vector<int64_t>& account_ids,
                                   std::map<int64_t, KeyAccount>* accounts) {
  grpc::ClientContext context;
  SetDeadline(&context);
  ledger::v1::ResolveAccountsRequest request;
  request.mutable_account_ids()->Add(account_ids.begin(), account_ids.end());
  ledger::v1::ResolveAccountsResponse response;
  TH_RETURN_IF_ERROR(FromLedger(stub_->service->ResolveAccounts(&context, request, &response)));
  for (const ledger::v1::ResolvedAccount& account : response.accounts()) {
    (*accounts)[account.account().account_id()] = FromView(account.account());
  }
  return absl::OkStatus();
}

absl::StatusOr<KeyAccount> LedgerAccounts::ByPath(const std::string& path) {
  grpc::ClientContext context;
  SetDeadline(&context);
  ledger::v1::ResolveAccountRequest request;
  request.set_path(path);
  ledger::v1::ResolveAccountResponse response;
  TH_RETURN_IF_ERROR(FromLedger(stub_->service->ResolveAccount(&context, request, &response)));
  return LastOf(response);
}

}  // namespace tollhouse::vault
