#include "tools/tollctl/budget_view.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"

namespace tollhouse::tollctl {
namespace {

constexpr int kBudgetsPerCall = 1000;

std::string Used(const Value& row) {
  if (!row.At("for_each").text().empty()) return "";  // a template has no money of its own
  const int64_t used = row.At("spent_nanousd").number() + row.At("held_nanousd").number() +
                       row.At("suspense_nanousd").number();
  return PercentBar(used, row.At("limit_nanousd").number() + row.At("raised_nanousd").number());
}

std::string Mode(const Value& row) {
  const std::string for_each = row.At("for_each").text();
  return for_each.empty() ? row.At("mode").text()
                          : absl::StrCat(row.At("mode").text(), ", each ", for_each);
}

}  // namespace

int64_t Available(const ledger::v1::Budget& budget) {
  const __int128 limit =
      (static_cast<__int128>(budget.limit_nanousd()) + budget.raised_nanousd()) *
      budget.hard_pct() / 100;
  const __int128 available = limit - budget.spent_nanousd() - budget.held_nanousd() -
                             budget.suspense_nanousd();
  return static_cast<int64_t>(std::clamp<__int128>(available, 0, INT64_MAX));
}

absl::Status AddHolds(Api& api, google::protobuf::RepeatedPtrField<ledger::v1::Budget>* budgets) {
  std::map<std::pair<int64_t, std::string>, int64_t> held;
  for (int begin = 0; begin < budgets->size(); begin += kBudgetsPerCall) {
    enforcer::v1::GetBudgetHoldsRequest request;
    for (int i = begin; i < std::min(begin + kBudgetsPerCall, budgets->size()); ++i) {
      request.add_budget_ids(budgets->Get(i).budget_id());
    }
    TH_ASSIGN_OR_RETURN(const auto response, api.Call(request));
    for (const auto& part : response.held()) {
      held[{part.budget_id(), part.period()}] += part.held_nanousd();
    }
  }
  for (ledger::v1::Budget& budget : *budgets) {
    const auto found = held.find({budget.budget_id(), budget.period()});
    budget.set_held_nanousd(found == held.end() ? 0 : found->second);
    budget.set_available_nanousd(Available(budget));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ledger::v1::Budget>> ListBudgets(
    Api& api, const ledger::v1::ListBudgetsRequest& request) {
  TH_ASSIGN_OR_RETURN(auto response, api.Call(request));
  TH_RETURN_IF_ERROR(AddHolds(api, response.mutable_budgets()));
  return std::vector<ledger::v1::Budget>(response.budgets().begin(), response.budgets().end());
}

Value BudgetsDocument(const std::vector<ledger::v1::Budget>& budgets) {
  return Value::Object({{"budgets", ListFromProto(budgets)}});
}

std::vector<Column> BudgetColumns(absl::Time now) {
  return {Column::Text("BUDGET", "id"),
          Column::Text("NAME", "name").IfAny(),
          Column::Money("LIMIT", "limit_nanousd"),
          Column::Money("RAISED", "raised_nanousd").IfAny(),
          Column::Money("SPENT", "spent_nanousd"),
          Column::Money("HELD", "held_nanousd"),
          Column::Money("SUSPENSE", "suspense_nanousd").IfAny(),
          Column::Money("AVAILABLE", "available_nanousd"),
          Column::Cell("USED", Used),
          Column::Cell("MODE", Mode),
          Column::Text("MATCH", "match").IfAny(),
          Column::Time("RESETS", "resets_at", now)};
}

std::vector<Column> BudgetDetails(absl::Time now) {
  return {Column::Text("Budget", "id"),
          Column::Text("Name", "name").IfAny(),
          Column::Text("Account", "path"),
          Column::Text("Window", "window"),
          Column::Text("Period", "period"),
          Column::Time("Resets", "resets_at", now).IfAny(),
          Column::Text("Match", "match").IfAny(),
          Column::Cell("Mode", Mode),
          Column::Text("From template", "from_template").IfAny(),
          Column::Money("Limit", "limit_nanousd"),
          Column::Money("Raised", "raised_nanousd").IfAny(),
          Column::Money("Spent", "spent_nanousd"),
          Column::Money("Held", "held_nanousd"),
          Column::Money("Suspense", "suspense_nanousd"),
          Column::Money("Available", "available_nanousd"),
          Column::Money("Overrun", "overrun_nanousd").IfAny(),
          Column::Cell("Used", Used),
          Column::Cell("Alerts at", [](const Value& row) {
            std::string text;
            for (const Value& percent : row.At("soft_pct").items()) {
              absl::StrAppend(&text, text.empty() ? "" : ", ", percent.number(), " %");
            }
            return text;
          }).IfAny(),
          Column::Cell("Stops at", [](const Value& row) {
            return row.At("mode").text() == "observe"
                       ? std::string("never (observe)")
                       : absl::StrCat(row.At("hard_pct").number(), " %");
          }),
          Column::Text("Bound", "bound"),
          Column::Text("On outage", "on_outage")};
}

}  // namespace tollhouse::tollctl
