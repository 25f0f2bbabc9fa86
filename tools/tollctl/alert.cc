// alerts: thresholds that budgets crossed.
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {

void RegisterAlert(CommandLine& commands) {
  Noun& noun = commands.AddNoun("alerts", "Thresholds that budgets crossed").Alias("alert");
  auto request = std::make_shared<ledger::v1::ListAlertsRequest>();
  noun.AddVerb("list", "Lists alerts with their delivery, newest first")
      .OptionalPositional("PATH", Into(request->mutable_path()), "only this account and below")
      .Option("--count", "N", IntoCount([=](int64_t n) {
                request->set_page_size(static_cast<int32_t>(std::min<int64_t>(n, 1'000'000)));
              }),
              "at most so many alerts")
      .Example("tollctl alerts list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = request->path();
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*request));
        in.Print({FromProto(response), "alerts",
                  {Column::Time("WHEN", "at", in.Now()), Column::Text("BUDGET", "budget"),
                   Column::Text("PERIOD", "period"),
                   Column::Cell("THRESHOLD", [](const Value& row) {
                     return absl::StrCat(row.At("threshold_pct").number(), " %");
                   }),
                   Column::Money("LIMIT", "limit_nanousd"), Column::Money("SPENT", "spent_nanousd"),
                   Column::Text("WEBHOOK", "delivery"), Column::Count("TRIES", "attempts"),
                   Column::Text("LAST ERROR", "last_error").IfAny()},
                  "", "no alerts: no budget crossed a threshold"});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
