// LedgerAdminService: checks, calls the store, waits for the watchers.
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libs/audit/admin_calls.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/sql/for_caller.h"
#include "services/ledger/core/names.h"
#include "services/ledger/grpc_service.h"
#include "services/ledger/validate.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse::ledger {
namespace {

absl::Status Bad(std::string_view reason, std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

template <typename ProtoMap>
std::map<std::string, std::string> ToMap(const ProtoMap& map) {
  return {map.begin(), map.end()};
}

// "epoch/ORG_ID/EPOCH"
bool ParseLostLease(const std::string& id, int64_t* org, int64_t* epoch) {
  const std::vector<std::string> parts = absl::StrSplit(id, '/');
  return parts.size() == 3 && parts[0] == "epoch" && absl::SimpleAtoi(parts[1], org) &&
         absl::SimpleAtoi(parts[2], epoch);
}

class AdminServiceImpl final : public v1::LedgerAdminService::Service {
 public:
  AdminServiceImpl(Store* store, Publisher* publisher, const rpc::Authenticator* authenticator,
                   audit::Log* log)
      : store_(store), publisher_(publisher), log_(log), calls_(authenticator, log, "ledger") {}

  grpc::Status CreateAccount(grpc::ServerContext* context, const v1::CreateAccountRequest* request,
                             v1::CreateAccountResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckTags(ToMap(request->tags())));
      if (request->kind() == common::v1::ACCOUNT_KIND_KEY) {
        return Bad("BAD_ARGUMENT", "keys are made by the vault: `tollctl key create`");
      }
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response, store_->CreateAccount(&call, *request, &version));
      publisher_->WaitAcknowledged(version);
      return absl::OkStatus();
    });
  }

  grpc::Status GetAccount(grpc::ServerContext* context, const v1::GetAccountRequest* request,
                          v1::GetAccountResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_account(), store_->GetAccount(request->path()));
      return absl::OkStatus();
    });
  }

  grpc::Status ListAccounts(grpc::ServerContext* context, const v1::ListAccountsRequest* request,
                            v1::ListAccountsResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListAccounts(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status MoveAccount(grpc::ServerContext* context, const v1::MoveAccountRequest* request,
                           v1::MoveAccountResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response->mutable_account(),
                          store_->MoveAccount(&call, *request, &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status DeleteAccount(grpc::ServerContext* context, const v1::DeleteAccountRequest* request,
                             v1::DeleteAccountResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(
          const std::vector<std::string> paths,
          store_->DeleteAccount(&call, request->path(), request->dry_run(), &version));
      response->mutable_deleted_paths()->Assign(paths.begin(), paths.end());
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status SetBudget(grpc::ServerContext* context, const v1::SetBudgetRequest* request,
                         v1::SetBudgetResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const BudgetSpec spec, ParseBudget(*request));
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response, store_->SetBudget(&call, spec, &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status ListBudgets(grpc::ServerContext* context, const v1::ListBudgetsRequest* request,
                           v1::ListBudgetsResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListBudgets(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status DeleteBudget(grpc::ServerContext* context, const v1::DeleteBudgetRequest* request,
                            v1::DeleteBudgetResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response->mutable_id(),
                          store_->DeleteBudget(&call,
                                               {.path = request->path(),
                                                .name = request->name(),
                                                .window = request->window(),
                                                .match = EncodeTags(ToMap(request->match()))},
                                               &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status RaiseBudget(grpc::ServerContext* context, const v1::RaiseBudgetRequest* request,
                           v1::RaiseBudgetResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckAmount(request->by_nanousd(), "the raise"));
      if (request->by_nanousd() == 0) return Bad("BAD_AMOUNT", "a raise is more than nothing");
      if (!request->has_until())
        return Bad("BAD_ARGUMENT", "a raise needs `until`: it ends by itself");
      const int64_t seconds = request->until().seconds();
      if (seconds < 0 || seconds > 253402300799)
        return Bad("BAD_ARGUMENT", "`until` is out of range");
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(
          *response->mutable_budget(),
          store_->RaiseBudget(
              &call,
              {.path = request->path(),
               .name = request->name(),
               .window = request->window(),
               .match = EncodeTags(ToMap(request->match()))},
              request->by_nanousd(),
              absl::FromUnixSeconds(seconds) + absl::Nanoseconds(request->until().nanos()),
              request->reason(), request->client_request_id(), &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status SetLimits(grpc::ServerContext* context, const v1::SetLimitsRequest* request,
                         v1::SetLimitsResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckLimits(*request));
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response, store_->SetLimits(&call, *request, &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status ListLimits(grpc::ServerContext* context, const v1::ListLimitsRequest* request,
                          v1::ListLimitsResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListLimits(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status SetTagRules(grpc::ServerContext* context, const v1::SetTagRulesRequest* request,
                           v1::SetTagRulesResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckTagRules(*request));
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(*response->mutable_rules(),
                          store_->SetTagRules(&call, *request, &version));
      return Await(version, response->mutable_stragglers());
    });
  }

  grpc::Status ListTagRules(grpc::ServerContext* context, const v1::ListTagRulesRequest* request,
                            v1::ListTagRulesResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListTagRules(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status GetSpend(grpc::ServerContext* context, const v1::GetSpendRequest* request,
                        v1::GetSpendResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->GetSpend(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status ExplainRequest(grpc::ServerContext* context, const v1::ExplainRequestRequest* request,
                              v1::ExplainRequestResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      if (request->request_id().empty()) return Bad("BAD_ARGUMENT", "a request id is needed");
      TH_ASSIGN_OR_RETURN(v1::ExplainRequestResponse found, store_->ExplainRequest(request->request_id()));
      for (v1::JournalEntry& attempt : *found.mutable_attempts()) {
        if (!IsAtOrBelow(attempt.entry().account_path(), call.caller().subtree)) continue;
        *response->add_attempts() = std::move(attempt);
      }
      if (response->attempts_size() > 0) return absl::OkStatus();
      return MakeError(absl::StatusCode::kNotFound, "REQUEST_NOT_FOUND",
                       absl::StrCat("no request ", request->request_id(), " in your part of the accounts"));
    });
  }

  grpc::Status ListEntries(grpc::ServerContext* context, const v1::ListEntriesRequest* request,
                           v1::ListEntriesResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListEntries(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status VerifyLedger(grpc::ServerContext* context, const v1::VerifyLedgerRequest* request,
                            grpc::ServerWriter<v1::VerifyLedgerProgress>* writer) override {
    return Call(context, *request, [&](audit::Call&) {
      return store_->Verify(request->expected(), [&](const v1::VerifyLedgerProgress& progress) {
        return !context->IsCancelled() && writer->Write(progress);
      });
    });
  }

  grpc::Status ListSuspense(grpc::ServerContext* context, const v1::ListSuspenseRequest* request,
                            v1::ListSuspenseResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListSuspense(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status ResolveSuspense(grpc::ServerContext* context,
                               const v1::ResolveSuspenseRequest* request,
                               v1::ResolveSuspenseResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckAmount(request->cost_nanousd(), "the cost"));
      if (request->cost_nanousd() > kMaxHold.nanos()) {
        return Bad("BAD_AMOUNT", "the cost of one request is at most $1,000,000");
      }
      int64_t org = 0;
      int64_t epoch = 0;
      if (ParseLostLease(request->hold_id(), &org, &epoch)) {
        if (request->cost_nanousd() != 0) {
          return Bad("BAD_AMOUNT", "a lost lease is released with cost 0; it names no request to charge");
        }
        TH_RETURN_IF_ERROR(store_->ReleaseLostLease(&call, org, epoch));
        response->mutable_entry()->set_hold_id(request->hold_id());
        response->mutable_entry()->set_state("released");
        return absl::OkStatus();
      }
      const absl::StatusOr<Uuid> hold = ParseUuid(request->hold_id());
      if (!hold.ok()) return Bad("BAD_ARGUMENT", "hold_id is not a UUID");
      TH_ASSIGN_OR_RETURN(
          *response->mutable_entry(),
          store_->ResolveSuspense(&call, hold->raw(), request->cost_nanousd(), request->reason()));
      return absl::OkStatus();
    });
  }

  grpc::Status AdjustEntry(grpc::ServerContext* context, const v1::AdjustEntryRequest* request,
                           v1::AdjustEntryResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckAmount(request->cost_nanousd(), "the cost"));
      if (request->cost_nanousd() > kMaxHold.nanos()) {
        return Bad("BAD_AMOUNT", "the cost of one request is at most $1,000,000");
      }
      const absl::StatusOr<Uuid> hold = ParseUuid(request->hold_id());
      if (!hold.ok()) return Bad("BAD_ARGUMENT", "hold_id is not a UUID");
      if (request->client_request_id().empty() || request->client_request_id().size() > 128) {
        return Bad("BAD_ARGUMENT", "client_request_id is 1 to 128 bytes");
      }
      TH_ASSIGN_OR_RETURN(*response,
                          store_->AdjustEntry(&call, hold->raw(), request->cost_nanousd(),
                                              request->reason(), request->client_request_id()));
      return absl::OkStatus();
    });
  }

  grpc::Status SetWebhook(grpc::ServerContext* context, const v1::SetWebhookRequest* request,
                          v1::SetWebhookResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(CheckWebhookUrl(request->url()));
      TH_ASSIGN_OR_RETURN(*response->mutable_webhook(), store_->SetWebhook(&call, *request));
      return absl::OkStatus();
    });
  }

  grpc::Status ListWebhooks(grpc::ServerContext* context, const v1::ListWebhooksRequest* request,
                            v1::ListWebhooksResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListWebhooks(request->path()));
      return absl::OkStatus();
    });
  }

  grpc::Status DeleteWebhook(grpc::ServerContext* context, const v1::DeleteWebhookRequest* request,
                             v1::DeleteWebhookResponse*) override {
    return Call(context, *request,
                [&](audit::Call& call) { return store_->DeleteWebhook(&call, *request); });
  }

  grpc::Status ListAlerts(grpc::ServerContext* context, const v1::ListAlertsRequest* request,
                          v1::ListAlertsResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, store_->ListAlerts(*request));
      return absl::OkStatus();
    });
  }

  grpc::Status ListAuditEvents(grpc::ServerContext* context,
                               const v1::ListAuditEventsRequest* request,
                               v1::ListAuditEventsResponse* response) override {
    return Call(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_page(),
                          log_->List(request->query(), call.caller().subtree));
      return absl::OkStatus();
    });
  }

  grpc::Status VerifyAudit(grpc::ServerContext* context, const v1::VerifyAuditRequest* request,
                           v1::VerifyAuditResponse* response) override {
    return Call(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_report(), log_->Verify(request->expected()));
      return absl::OkStatus();
    });
  }

 private:
  grpc::Status Call(grpc::ServerContext* context, const google::protobuf::Message& request,
                    audit::AdminCalls::Body body) {
    return calls_.Answer(*context, request, body);
  }

  absl::Status Await(int64_t version, google::protobuf::RepeatedPtrField<std::string>* stragglers) {
    const std::vector<std::string> names = publisher_->WaitAcknowledged(version);
    stragglers->Assign(names.begin(), names.end());
    return absl::OkStatus();
  }

  Store* const store_;
  Publisher* const publisher_;
  audit::Log* const log_;
  const audit::AdminCalls calls_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(Store* store, Publisher* publisher,
                                                const rpc::Authenticator* authenticator,
                                                audit::Log* log) {
  return std::make_unique<AdminServiceImpl>(store, publisher, authenticator, log);
}

}  // namespace tollhouse::ledger
