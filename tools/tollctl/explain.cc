// explain: how a request was charged, or how one would be.
#include <algorithm>
#include <map>
#include <memory>
#include <ostream>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/budget_view.h"
#include "tools/tollctl/dialect.h"
#include "tools/tollctl/explain_view.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/price_view.h"

namespace tollhouse::tollctl {
namespace {

struct Args {
  std::string request_id;
  std::string key;
  std::string dialect = "openai";
  router::v1::ExplainRouteRequest route;
};

std::vector<Column> AttemptColumns(absl::Time now) {
  return {Column::Text("Request", "request_id"),
          Column::Text("Account", "account"),
          Column::Text("Provider", "provider"),
          Column::Text("Model", "model"),
          Column::Text("Endpoint", "endpoint"),
          Column::Count("Input tokens", "usage.input_tokens"),
          Column::Count("  of these cached", "usage.cached_input_tokens").IfAny(),
          Column::Count("  of these written to a cache", "usage.cache_write_tokens").IfAny(),
          Column::Count("Output tokens", "usage.output_tokens"),
          Column::Count("  of these reasoning", "usage.reasoning_tokens").IfAny(),
          Column::Text("Usage is", "usage_source"),
          Column::Text("Price", "price_version"),
          Column::Money("Held", "hold_nanousd"),
          Column::Money("Cost", "cost_nanousd"),
          Column::Cell("Cost of what was held", [](const Value& row) {
            return PercentBar(row.At("cost_nanousd").number(), row.At("hold_nanousd").number());
          }),
          Column::Text("Status", "status"),
          Column::Text("State", "state"),
          Column::Text("Tags", "tags").IfAny(),
          Column::Time("Started", "started_at", now)};
}

absl::Status Explain(Invocation& in, const std::string& request_id) {
  ledger::v1::ExplainRequestRequest request;
  request.set_request_id(request_id);
  auto response = in.api.Call(request);
  if (!response.ok() || response->attempts().empty()) {
    if (!response.ok() && ReasonOf(response.status()) != "REQUEST_NOT_FOUND") return response.status();
    return MakeError(absl::StatusCode::kNotFound, "REQUEST_NOT_FOUND",
                     absl::StrCat("the journal has no request '", request_id,
                                  "'; it may still be in flight (tollctl holds list) or was refused. "
                                  "The id is what the answer's x-tollhouse-request-id says"));
  }
  const Value document = ExplainDocument(*response);
  in.Print({document, "", AttemptColumns(in.Now()), "", "", true});
  if (in.IsTable() && !document.At("sum").items().empty()) {
    *in.environment.out << "\n";
    const auto right = [](Column column) {
      column.right = true;
      return column;
    };
    in.Print({document, "sum",
              {Column::Text("MODEL", "model"), Column::Text("ITEM", "item"),
               Column::Count("QUANTITY", "quantity"), right(Column::Text("USD EACH", "unit_price")),
               right(Column::Text("FACTOR", "factor")), right(Column::Text("USD", "amount"))}});
  }
  if (in.IsTable() && !document.At("attempts").is_null()) {
    *in.environment.out << "\n";
    in.Print({document, "attempts",
              {Column::Count("ATTEMPT", "attempt"), Column::Text("PROVIDER", "provider"),
               Column::Text("MODEL", "model"), Column::Count("HTTP", "http_status"),
               Column::Text("STATUS", "status"), Column::Text("STATE", "state"),
               Column::Money("HELD", "hold_nanousd"), Column::Money("COST", "cost_nanousd")}});
  }
  return absl::OkStatus();
}

absl::StatusOr<vault::v1::Key> FindKey(Invocation& in, const std::string& path_or_id) {
  in.subject = path_or_id;
  TH_ASSIGN_OR_RETURN(const auto keys, in.api.Call(vault::v1::ListKeysRequest()));
  for (const auto& key : keys.keys()) {
    if (key.path() == path_or_id || key.id() == path_or_id) return key;
  }
  return MakeError(absl::StatusCode::kNotFound, "KEY_NOT_FOUND",
                   absl::StrCat("key '", path_or_id, "' does not exist"));
}

bool Allowed(const google::protobuf::RepeatedPtrField<std::string>& list, const std::string& name) {
  return list.empty() || std::any_of(list.begin(), list.end(), [&](const std::string& allowed) {
           return allowed == name || (absl::EndsWith(allowed, "*") &&
                                      absl::StartsWith(name, allowed.substr(0, allowed.size() - 1)));
         });
}

// Whether a budget would count a request of the key: all of its match fits what is known here.
bool Applies(const ledger::v1::Budget& budget, const vault::v1::Key& key,
             const std::map<std::string, std::string>& tags,
             const router::v1::ExplainRouteResponse& route) {
  if (!budget.for_each().empty()) return false;
  if (budget.path() != key.path() && !absl::StartsWith(key.path(), budget.path() + "/")) return false;
  return std::all_of(budget.match().begin(), budget.match().end(), [&](const auto& entry) {
    if (entry.first == "provider") return entry.second == route.provider();
    if (entry.first == "model") return entry.second == route.price().model();
    const auto tag = tags.find(entry.first);
    return tag != tags.end() && tag->second == entry.second;
  });
}

// What a request by this key would run into. Limits of rate are not looked at: they pass.
absl::Status WhatIf(Invocation& in, const Args& args) {
  std::optional<vault::v1::Key> key;
  if (!args.key.empty()) {
    TH_ASSIGN_OR_RETURN(key, FindKey(in, args.key));
  }
  in.subject = args.route.model();
  router::v1::ExplainRouteRequest request = args.route;
  request.set_dialect(DialectFromName(args.dialect));
  TH_ASSIGN_OR_RETURN(const auto route, in.api.Call(request));

  Value document = FromProto(route);
  document.Set("input_tokens", Value::Count(request.input_tokens()));
  document.Set("max_output_tokens",
               Value::Count(request.max_output_tokens() > 0 ? request.max_output_tokens()
                                                            : route.price().max_output_tokens()));
  std::vector<std::string> refusals;
  if (key.has_value()) {
    document.Set("account", key->path());
    if (key->state() != "active") refusals.push_back(absl::StrCat("the key is ", key->state()));
    if (!Allowed(key->models(), route.price().model())) refusals.emplace_back("the key may not use this model");
    if (!Allowed(key->providers(), route.provider())) {
      refusals.emplace_back("the key may not use this provider");
    }
    const std::string org = key->path().substr(0, key->path().find('/'));
    std::map<std::string, std::string> tags(key->tags().begin(), key->tags().end());
    ledger::v1::ListAccountsRequest accounts;
    accounts.set_below(org);
    TH_ASSIGN_OR_RETURN(const auto known, in.api.Call(accounts));
    std::vector<ledger::v1::Account> chain;
    for (const auto& account : known.accounts()) {
      if (absl::StartsWith(key->path() + "/", account.path() + "/")) chain.push_back(account);
    }
    ledger::v1::GetAccountRequest get;
    get.set_path(org);
    TH_ASSIGN_OR_RETURN(const auto top, in.api.Call(get));
    chain.push_back(top.account());
    // The lower account's pinned tag wins.
    std::sort(chain.begin(), chain.end(),
              [](const auto& a, const auto& b) { return a.path().size() > b.path().size(); });
    for (const auto& account : chain) tags.insert(account.tags().begin(), account.tags().end());

    ledger::v1::ListBudgetsRequest list;
    list.set_path(org);
    list.set_below(true);
    TH_ASSIGN_OR_RETURN(const auto budgets, ListBudgets(in.api, list));
    Value rows = Value::List();
    for (const auto& budget : budgets) {
      if (!Applies(budget, *key, tags, route)) continue;
      const bool fits = budget.mode() == "observe" ||
                        budget.available_nanousd() >= route.bound_nanousd();
      Value row = FromProto(budget);
      row.Set("fits", fits);
      rows.Add(std::move(row));
      if (!fits) {
        refusals.push_back(absl::StrCat(budget.id(), " has ", MoneyText(budget.available_nanousd()),
                                        " left, the request needs ",
                                        MoneyText(route.bound_nanousd())));
      }
    }
    if (rows.items().empty() && top.account().require_budget()) {
      refusals.push_back(absl::StrCat(org, " requires a budget and none covers this request"));
    }
    document.Set("budgets", std::move(rows));
  }
  document.Set("admitted", refusals.empty());
  Value reasons = Value::List();
  for (const std::string& refusal : refusals) reasons.Add(refusal);
  document.Set("refusals", std::move(reasons));

  in.Print({document, "",
            {Column::Text("Account", "account").IfAny(), Column::Text("Provider", "provider"),
             Column::Text("Sent as", "upstream_model"), Column::Text("Priced as", "price.model"),
             Column::Count("Input tokens", "input_tokens"),
             Column::Count("Output tokens, at most", "max_output_tokens"),
             Column::Money("Bound", "bound_nanousd"),
             Column::Text("Price book", "price_book_version")},
            "", "", true});
  if (!in.IsTable()) return absl::OkStatus();
  if (!document.At("budgets").items().empty()) {
    *in.environment.out << "\n";
    std::vector<Column> columns = BudgetColumns(in.Now());
    columns.push_back(Column::Cell("FITS", [](const Value& row) {
      return std::string(row.At("fits").number() != 0 ? "yes" : "no");
    }));
    in.Print({document, "budgets", columns});
  }
  if (!key.has_value()) return absl::OkStatus();
  *in.environment.out << (refusals.empty() ? "\nIt would be admitted.\n" : "\nIt would be refused:\n");
  for (const std::string& refusal : refusals) *in.environment.out << "  " << refusal << "\n";
  return absl::OkStatus();
}

}  // namespace

void RegisterExplain(CommandLine& commands) {
  auto args = std::make_shared<Args>();
  commands.AddNoun("explain", "How a request was charged, or how one would be")
      .AddVerb("", "Explains one request, or what a request would run into")
      .Describe("With REQUEST_ID: its attempts, tokens, price and cost. With --model (and --key): the\n"
                "route, the bound and the budgets that a request with these numbers would meet.")
      .OptionalPositional("REQUEST_ID", Into(&args->request_id),
                          "x-tollhouse-request-id of the answer, or a hold id")
      .Option("--key", "KEY", Into(&args->key), "path or id of the key that would ask")
      .Option("--model", "M", Into(args->route.mutable_model()), "as the request would name it")
      .Option("--max-tokens", "N", IntoCount([=](int64_t n) { args->route.set_max_output_tokens(n); }),
              "output tokens it would allow; default: the model's maximum")
      .Option("--input-tokens", "N", IntoCount([=](int64_t n) { args->route.set_input_tokens(n); }),
              "input tokens it would have; default 0")
      .Option("--dialect", "D", IntoChoice({"openai", "anthropic", "gemini"}, &args->dialect),
              "API it would use; default openai")
      .Example("tollctl explain 018f2a7c-6d1e-7cc2-98c4-dc0c0c07398f")
      .Example("tollctl explain --key acme/payments/sarah/laptop --model gpt-4o --max-tokens 500 "
               "--input-tokens 2000")
      .Run([=](Invocation& in) -> absl::Status {
        const bool what_if = !args->route.model().empty();
        if (what_if == !args->request_id.empty() || (!what_if && !args->key.empty())) {
          return UsageError("give either a REQUEST_ID, or --model with what the request would be");
        }
        return what_if ? WhatIf(in, *args) : Explain(in, args->request_id);
      });
}

}  // namespace tollhouse::tollctl
