// spend: what was spent, from the journal.
#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

// One column per grouping key; "tag:use_case" is titled USE_CASE.
std::vector<Column> SpendColumns(const ledger::v1::GetSpendRequest& request) {
  std::vector<Column> columns;
  for (const std::string& by : request.by()) {
    const std::string name = absl::StartsWith(by, "tag:") ? by.substr(4) : by;
    columns.push_back(Column::Cell(absl::AsciiStrToUpper(name), [by](const Value& row) {
      const Value& group = row.At("group");
      if (group.is_null() || group.fields().empty()) return std::string("total");
      const std::string text = PlainText(group.At(by));
      return text.empty() ? std::string("-") : text;
    }));
    columns.back().path = absl::StrCat("group.", by);
  }
  if (request.by().empty()) {
    columns.push_back(Column::Cell("", [](const Value&) { return std::string("total"); }));
  }
  columns.push_back(Column::Count("REQUESTS", "requests"));
  columns.push_back(Column::Count("INPUT TOKENS", "input_tokens"));
  columns.push_back(Column::Count("OUTPUT TOKENS", "output_tokens"));
  columns.push_back(Column::Money("COST", "cost_nanousd"));
  return columns;
}

absl::Status CheckKeys(const ledger::v1::GetSpendRequest& request) {
  static const std::vector<std::string> kKeys = {"org",   "team",     "user", "key",
                                                 "model", "provider", "day"};
  for (const std::string& by : request.by()) {
    if (absl::StartsWith(by, "tag:") && by.size() > 4) continue;
    if (std::find(kKeys.begin(), kKeys.end(), by) == kKeys.end()) {
      return UsageError(absl::StrCat("--by: '", by, "' is not one of org, team, user, key, model, ",
                                     "provider, day, tag:NAME"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void RegisterSpend(CommandLine& commands) {
  auto request = std::make_shared<ledger::v1::GetSpendRequest>();
  auto since = std::make_shared<std::string>("30d");
  auto until = std::make_shared<std::string>();
  commands.AddNoun("spend", "What was spent, by team, model, tag and more")
      .AddVerb("", "Shows what was spent, from the journal")
      .OptionalPositional("PATH", Into(request->mutable_path()), "only this account and below")
      .Option("--by", "A,B", Into(request->mutable_by()),
              "org, team, user, key, model, provider, day, tag:NAME")
      .Option("--since", "WHEN", Into(since.get()), "30d (default), 24h, a date or RFC 3339 time")
      .Option("--until", "WHEN", Into(until.get()), "default now")
      .Example("tollctl spend acme --by team,model --since 30d")
      .Example("tollctl spend acme/payments --by tag:use_case --since 2026-11-01 --until 2026-12-01")
      .Example("tollctl spend --by day --output csv")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = request->path();
        TH_RETURN_IF_ERROR(CheckKeys(*request));
        TH_RETURN_IF_ERROR(SetPast("--since", *since, in.Now(), request->mutable_since()));
        if (!until->empty()) {
          TH_RETURN_IF_ERROR(SetPast("--until", *until, in.Now(), request->mutable_until()));
        }
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*request));
        in.Print({Value::Object({{"rows", ListFromProto(response.rows())},
                                 {"total", FromProto(response.total())}}),
                  "rows", SpendColumns(*request), "total",
                  absl::StrCat("nothing was spent",
                               request->path().empty() ? "" : absl::StrCat(" by ", request->path()),
                               " (--since ", *since, ")")});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
