// holds: money set aside for requests in flight.
#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

absl::Status List(Invocation& in, const std::string& path) {
  in.subject = path;
  ledger::v1::ListAccountsRequest request;
  request.set_below(path);
  TH_ASSIGN_OR_RETURN(auto accounts, in.api.Call(request));
  std::map<int64_t, std::string> paths;
  std::vector<int64_t> roots;  // what to ask the enforcer for
  if (!path.empty()) {
    ledger::v1::GetAccountRequest get;
    get.set_path(path);
    TH_ASSIGN_OR_RETURN(const auto account, in.api.Call(get));
    paths[account.account().id()] = path;
    roots.push_back(account.account().id());
  }
  for (const auto& account : accounts.accounts()) {
    paths[account.id()] = account.path();
    if (path.empty() && account.kind() == common::v1::ACCOUNT_KIND_ORG) roots.push_back(account.id());
  }
  Value holds = Value::List();
  for (const int64_t root : roots) {
    enforcer::v1::ListHoldsRequest list;
    list.set_account_id(root);
    TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(list));
    for (const auto& hold : response.holds()) {
      Value row = FromProto(hold);
      const auto found = paths.find(hold.account_id());
      row.Set("account", found == paths.end() ? absl::StrCat("account ", hold.account_id())
                                              : found->second);
      holds.Add(std::move(row));
    }
  }
  in.Print({Value::Object({{"holds", holds}}), "holds",
            {Column::Text("HOLD", "hold_id"), Column::Text("ACCOUNT", "account"),
             Column::Text("STATE", "state"), Column::Money("AMOUNT", "amount_nanousd"),
             Column::Time("ADMITTED", "admitted_at", in.Now()),
             Column::Time("EXPIRES", "expires_at", in.Now()), Column::Text("EDGE", "edge_id")},
            "", "no holds: no request is in flight"});
  return absl::OkStatus();
}

}  // namespace

void RegisterHolds(CommandLine& commands) {
  Noun& noun = commands.AddNoun("holds", "Money set aside for requests in flight").Alias("hold");
  auto path = std::make_shared<std::string>();
  noun.AddVerb("list", "Lists open holds, and settled ones that the ledger does not have yet")
      .OptionalPositional("PATH", Into(path.get()), "only this account and below")
      .Example("tollctl holds list acme/payments")
      .Run([=](Invocation& in) { return List(in, *path); });
}

}  // namespace tollhouse::tollctl
