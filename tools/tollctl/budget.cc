// budget: caps on spend.
#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "tools/tollctl/budget_view.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

// How a command names one budget: an id ("acme/payments#month"), or a path with what tells apart
// the budgets of that account.
struct Selector {
  std::string budget;
  std::string window;
  std::string name;
  google::protobuf::Map<std::string, std::string> match;
};

void AddSelector(Verb& verb, Selector* selector) {
  verb.Positional("BUDGET", Into(&selector->budget), "its id (acme/payments#month) or its account")
      .Option("--window", "W", Into(&selector->window), "the account's budget with this window")
      .Option("--match", "K=V", Into(&selector->match), "the one with this match, repeatable")
      .Option("--name", "N", Into(&selector->name), "the one with this name");
}

// Every budget that fits, with holds if asked.
absl::StatusOr<std::vector<ledger::v1::Budget>> Find(Invocation& in, const Selector& selector,
                                                     bool holds) {
  in.subject = selector.budget;
  const size_t hash = selector.budget.find('#');
  ledger::v1::ListBudgetsRequest request;
  request.set_path(selector.budget.substr(0, hash));
  request.set_window(selector.window);
  TH_ASSIGN_OR_RETURN(auto response, in.api.Call(request));
  google::protobuf::RepeatedPtrField<ledger::v1::Budget> fitting;
  for (const auto& budget : response.budgets()) {
    bool fits = (hash == std::string::npos || budget.id() == selector.budget ||
                 budget.name() == selector.budget.substr(hash + 1)) &&
                (selector.name.empty() || budget.name() == selector.name);
    for (const auto& [key, value] : selector.match) {
      const auto found = budget.match().find(key);
      fits = fits && found != budget.match().end() && found->second == value;
    }
    if (fits) *fitting.Add() = budget;
  }
  if (fitting.empty()) {
    return MakeError(absl::StatusCode::kNotFound, "BUDGET_NOT_FOUND",
                     absl::StrCat("no such budget at '", selector.budget, "'"));
  }
  if (holds) TH_RETURN_IF_ERROR(AddHolds(in.api, &fitting));
  return std::vector<ledger::v1::Budget>(fitting.begin(), fitting.end());
}

absl::StatusOr<ledger::v1::Budget> FindOne(Invocation& in, const Selector& selector) {
  TH_ASSIGN_OR_RETURN(const auto budgets, Find(in, selector, false));
  if (budgets.size() == 1) return budgets[0];
  std::string ids;
  for (const auto& budget : budgets) absl::StrAppend(&ids, ids.empty() ? "" : ", ", budget.id());
  return UsageError(absl::StrCat("'", selector.budget, "' has several budgets; name one: ", ids));
}

// One budget after a change. The change was made, so holds that cannot be read are no failure.
void PrintChanged(Invocation& in, const ledger::v1::Budget& budget) {
  google::protobuf::RepeatedPtrField<ledger::v1::Budget> budgets;
  *budgets.Add() = budget;
  if (const absl::Status held = AddHolds(in.api, &budgets); !held.ok()) {
    in.Tell(absl::StrCat("warning: what is held is not shown: ", held.message()));
    budgets[0].set_available_nanousd(Available(budgets[0]));
  }
  in.Print({BudgetsDocument({budgets[0]}), "budgets", BudgetDetails(in.Now()), "", "", true});
}

void AddSet(Noun& noun) {
  auto request = std::make_shared<ledger::v1::SetBudgetRequest>();
  auto no_soft = std::make_shared<bool>(false);
  noun.AddVerb("set", "Creates or changes a budget; in force when this returns")
      .Describe("A budget is identified by (path, window, match) or by its name. Options that are\n"
                "not given are at their defaults, also when the budget exists.")
      .Positional("PATH", Into(request->mutable_path()), "account, like acme/payments")
      .Required("--limit", "USD", IntoAmount([=](int64_t n) { request->set_limit_nanousd(n); }),
                "like 800 or 0.50, at most 9 decimals")
      .Option("--window", "W", Into(request->mutable_window()),
              "day, week, month (default), quarter, year, Nd (like 30d) or total")
      .Option("--timezone", "TZ", Into(request->mutable_time_zone()),
              "zone of the window's midnight, like Europe/Berlin; default UTC")
      .Option("--anchor", "DATE", Into(request->mutable_anchor()),
              "first day of an Nd window; default today")
      .Option("--soft", "P,P", Into(request->mutable_soft_pct()),
              "percents of the limit that raise an alert; default 80")
      .Flag("--no-soft", no_soft.get(), "raise no alerts")
      .Option("--hard", "P", IntoPercent([=](int32_t n) { request->set_hard_pct(n); }),
              "percent of the limit that stops requests; default 100")
      .Option("--mode", "M", IntoChoice({"enforce", "observe"}, request->mutable_mode()),
              "enforce (default) or observe: count and alert only")
      .Option("--bound", "B", IntoChoice({"strict", "tight"}, request->mutable_bound()),
              "what a hold takes: strict (default, never over) or tight (learned estimate)")
      .Option("--on-outage", "O", IntoChoice({"closed", "open"}, request->mutable_on_outage()),
              "when the ledger cannot be reached: closed (default) or open")
      .Option("--match", "K=V", Into(request->mutable_match()),
              "only requests with this model, provider or tag, repeatable")
      .Option("--for-each", "KIND", IntoChoice({"team", "user", "key"}, request->mutable_for_each()),
              "a template: every team, user or key below PATH gets its own")
      .Option("--name", "N", Into(request->mutable_name()), "identifies it instead of the window")
      .Example("tollctl budget set acme/payments --limit 800 --timezone Europe/Berlin --soft 80,110")
      .Example("tollctl budget set acme --limit 25 --window day --for-each key")
      .Example("tollctl budget set acme --limit 100 --match use_case=batch --mode observe")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = request->path();
        if (*no_soft && request->soft_pct_size() > 0) {
          return UsageError("--no-soft excludes --soft");
        }
        request->set_no_soft(*no_soft);
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*request));
        in.TellStragglers(response.stragglers());
        PrintChanged(in, response.budget());
        return absl::OkStatus();
      });
}

void AddRaise(Noun& noun) {
  struct Args {
    Selector selector;
    std::string until;
    ledger::v1::RaiseBudgetRequest request;
  };
  auto args = std::make_shared<Args>();
  Verb& verb = noun.AddVerb("raise", "Gives a budget more room until a moment; ends by itself");
  AddSelector(verb, &args->selector);
  verb.Required("--by", "USD", IntoAmount([=](int64_t n) { args->request.set_by_nanousd(n); }),
                "how much more, like 200")
      .Required("--until", "WHEN", Into(&args->until),
                "a date (midnight at its start in the budget's zone), an RFC 3339 time, or 7d")
      .Required("--reason", "TEXT", Into(args->request.mutable_reason()), "kept on record")
      .Example("tollctl budget raise acme/payments --by 200 --until 2026-12-01 --reason \"launch week\"")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto budget, FindOne(in, args->selector));
        absl::TimeZone zone;
        const bool known = absl::LoadTimeZone(
            budget.time_zone().empty() ? "UTC" : budget.time_zone(), &zone);
        absl::StatusOr<absl::Time> until = ParseFuture(args->until, in.Now());
        if (IsDate(args->until)) {
          if (!known) {
            return UsageError(absl::StrCat("--until: this machine does not know the budget's zone ",
                                           budget.time_zone(), "; write an RFC 3339 time"));
          }
          until = ParseMoment(args->until, zone);
          if (until.ok() && *until <= in.Now()) {
            until = UsageError(absl::StrCat("'", args->until, "' is not in the future"));
          }
        }
        if (!until.ok()) return UsageError(absl::StrCat("--until: ", until.status().message()));
        ledger::v1::RaiseBudgetRequest request = args->request;
        request.set_path(budget.path());
        request.set_window(budget.window());
        *request.mutable_match() = budget.match();
        request.set_name(budget.name().empty() ? budget.id() : budget.name());
        request.set_client_request_id(NewUuid(in.Now()).ToString());
        SetTime(*until, request.mutable_until());
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
        in.TellStragglers(response.stragglers());
        PrintChanged(in, response.budget());
        return absl::OkStatus();
      });
}

void AddDelete(Noun& noun) {
  struct Args {
    Selector selector;
    bool dry_run = false;
    bool yes = false;
  };
  auto args = std::make_shared<Args>();
  Verb& verb = noun.AddVerb("delete", "Removes a budget: no longer enforced, history stays");
  AddSelector(verb, &args->selector);
  verb.Flag("--dry-run", &args->dry_run, "only say what would be deleted")
      .Flag("--yes", &args->yes, "do not ask")
      .Example("tollctl budget delete acme/payments#month --yes")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto budget, FindOne(in, args->selector));
        if (!args->dry_run) {
          TH_RETURN_IF_ERROR(in.Confirm(
              args->yes, Invocation::Scope::kNamed, absl::StrCat("this removes ", budget.id(), " with its limit of ",
                                      MoneyText(budget.limit_nanousd()))));
          ledger::v1::DeleteBudgetRequest request;
          request.set_path(budget.path());
          request.set_window(budget.window());
          *request.mutable_match() = budget.match();
          request.set_name(budget.name().empty() ? budget.id() : budget.name());
          TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
          in.TellStragglers(response.stragglers());
        }
        in.Print({Value::Object({{"id", budget.id()}, {"deleted", !args->dry_run}}), "",
                  {Column::Text("BUDGET", "id"), Column::Cell("RESULT", [=](const Value&) {
                     return std::string(args->dry_run ? "would be deleted" : "deleted");
                   })}});
        return absl::OkStatus();
      });
}

}  // namespace

void RegisterBudget(CommandLine& commands) {
  Noun& noun = commands.AddNoun("budget", "Caps on spend, by account and window").Alias("budgets");
  AddSet(noun);

  struct ListArgs {
    ledger::v1::ListBudgetsRequest request;
    bool no_holds = false;
  };
  auto list = std::make_shared<ListArgs>();
  noun.AddVerb("list", "Lists budgets with what is spent, held and available")
      .OptionalPositional("PATH", Into(list->request.mutable_path()), "this account and all below")
      .Option("--window", "W", Into(list->request.mutable_window()), "only this window")
      .Flag("--no-holds", &list->no_holds, "do not ask the enforcer; `held` shows as 0")
      .Example("tollctl budget list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->request.path();
        list->request.set_below(true);
        std::vector<ledger::v1::Budget> budgets;
        if (list->no_holds) {
          TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(list->request));
          budgets.assign(response.budgets().begin(), response.budgets().end());
        } else {
          TH_ASSIGN_OR_RETURN(budgets, ListBudgets(in.api, list->request));
        }
        in.Print({BudgetsDocument(budgets), "budgets", BudgetColumns(in.Now()), "",
                  "no budgets here; set one with: tollctl budget set PATH --limit USD"});
        return absl::OkStatus();
      });

  struct ShowArgs {
    Selector selector;
    bool no_holds = false;
  };
  auto show = std::make_shared<ShowArgs>();
  Verb& verb = noun.AddVerb("show", "Shows the budgets of one account, or one budget");
  AddSelector(verb, &show->selector);
  verb.Flag("--no-holds", &show->no_holds, "do not ask the enforcer; `held` shows as 0")
      .Example("tollctl budget show acme/payments --window month --output json")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto budgets, Find(in, show->selector, !show->no_holds));
        in.Print({BudgetsDocument(budgets), "budgets",
                  budgets.size() == 1 ? BudgetDetails(in.Now()) : BudgetColumns(in.Now()), "", "",
                  true});
        return absl::OkStatus();
      });
  AddRaise(noun);
  AddDelete(noun);
}

}  // namespace tollhouse::tollctl
