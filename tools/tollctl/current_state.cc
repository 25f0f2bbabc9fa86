#include "tools/tollctl/current_state.h"

#include <utility>

#include "libs/base/status_macros.h"

namespace tollhouse::tollctl {
namespace {

void Put(CurrentState* state, Document document) {
  std::string identity = Identity(document);
  state->documents.insert_or_assign(std::move(identity), std::move(document));
}

absl::Status LoadAccounts(Api& api, const std::set<DocumentKind>& kinds, CurrentState* state) {
  TH_ASSIGN_OR_RETURN(const auto accounts, api.Call(ledger::v1::ListAccountsRequest()));
  for (const auto& account : accounts.accounts()) {
    state->account_paths.insert(account.path());
    if (account.kind() == common::v1::ACCOUNT_KIND_KEY) continue;
    Document document = FromAccount(account);
    if (kinds.contains(document.kind)) Put(state, std::move(document));
  }
  return absl::OkStatus();
}

absl::Status LoadPolicy(Api& api, const std::set<DocumentKind>& kinds, bool book_prices,
                        CurrentState* state) {
  if (kinds.contains(DocumentKind::kProvider)) {
    TH_ASSIGN_OR_RETURN(const auto providers, api.Call(router::v1::ListProvidersRequest()));
    for (const auto& provider : providers.providers()) Put(state, FromProvider(provider));
    TH_ASSIGN_OR_RETURN(const auto credentials, api.Call(vault::v1::ListCredentialsRequest()));
    for (const auto& credential : credentials.credentials()) {
      state->credential_origins[credential.provider()] = credential.origin();
    }
  }
  if (kinds.contains(DocumentKind::kModel)) {
    TH_ASSIGN_OR_RETURN(const auto aliases, api.Call(router::v1::ListAliasesRequest()));
    for (const auto& alias : aliases.aliases()) {
      if (book_prices || !alias.keep_name()) Put(state, FromAlias(alias));
    }
  }
  if (kinds.contains(DocumentKind::kPrice)) {
    router::v1::ListPricesRequest request;
    request.set_history(true);
    TH_ASSIGN_OR_RETURN(const auto prices, api.Call(request));
    for (const auto& price : prices.prices()) {
      if (book_prices || price.source() == "tollctl") Put(state, FromPrice(price));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CurrentState> LoadCurrentState(Api& api, const std::set<DocumentKind>& kinds,
                                              bool book_prices) {
  CurrentState state;
  const auto any = [&](std::initializer_list<DocumentKind> some) {
    for (const DocumentKind kind : some) {
      if (kinds.contains(kind)) return true;
    }
    return false;
  };
  TH_RETURN_IF_ERROR(LoadPolicy(api, kinds, book_prices, &state));
  if (any({DocumentKind::kOrganization, DocumentKind::kTeam, DocumentKind::kUser,
           DocumentKind::kKey, DocumentKind::kBudget, DocumentKind::kLimit, DocumentKind::kTags})) {
    TH_RETURN_IF_ERROR(LoadAccounts(api, kinds, &state));
  }
  if (kinds.contains(DocumentKind::kKey)) {
    TH_ASSIGN_OR_RETURN(const auto keys, api.Call(vault::v1::ListKeysRequest()));
    for (const auto& key : keys.keys()) {
      if (key.state() != "revoked") Put(&state, FromKey(key));
    }
  }
  if (kinds.contains(DocumentKind::kBudget)) {
    ledger::v1::ListBudgetsRequest request;
    request.set_below(true);
    TH_ASSIGN_OR_RETURN(const auto budgets, api.Call(request));
    for (const auto& budget : budgets.budgets()) {
      if (budget.from_template().empty()) Put(&state, FromBudget(budget));
    }
  }
  if (kinds.contains(DocumentKind::kLimit)) {
    ledger::v1::ListLimitsRequest request;
    request.set_below(true);
    TH_ASSIGN_OR_RETURN(const auto limits, api.Call(request));
    for (const auto& limit : limits.limits()) Put(&state, FromLimits(limit));
  }
  if (kinds.contains(DocumentKind::kTags)) {
    ledger::v1::ListTagRulesRequest request;
    request.set_below(true);
    TH_ASSIGN_OR_RETURN(const auto rules, api.Call(request));
    for (const auto& of_account : rules.rules()) Put(&state, FromTagRules(of_account));
  }
  return state;
}

}  // namespace tollhouse::tollctl
