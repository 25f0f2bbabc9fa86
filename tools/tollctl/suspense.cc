// suspense: amounts of requests whose outcome is unknown.
#include <memory>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {

void RegisterSuspense(CommandLine& commands) {
  Noun& noun = commands.AddNoun("suspense", "Amounts of requests whose outcome is unknown");
  auto list = std::make_shared<ledger::v1::ListSuspenseRequest>();
  noun.AddVerb("list", "Lists what is in suspense; it counts as spent until it is resolved")
      .OptionalPositional("PATH", Into(list->mutable_path()), "only this account and below")
      .Example("tollctl suspense list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->path();
        TH_ASSIGN_OR_RETURN(auto response, in.api.Call(*list));
        while (!response.next().empty()) {
          list->set_after(response.next());
          TH_ASSIGN_OR_RETURN(const auto page, in.api.Call(*list));
          response.mutable_rows()->MergeFrom(page.rows());
          response.set_next(page.next());
        }
        in.Print({FromProto(response), "rows",
                  {Column::Text("HOLD", "hold_id"), Column::Text("ACCOUNT", "account"),
                   Column::Text("REQUEST", "request_id"), Column::Text("PROVIDER", "provider"),
                   Column::Text("MODEL", "model"), Column::Money("AMOUNT", "amount_nanousd"),
                   Column::Time("SINCE", "since", in.Now()), Column::Text("WHY", "why")},
                  "", "nothing is in suspense"});
        if (!in.IsTable() || response.lost_leases().empty()) return absl::OkStatus();
        *in.environment.out << "\nLeases of closed epochs; they return when every edge has announced "
                               "its holds:\n";
        in.Print({FromProto(response), "lost_leases",
                  {Column::Text("LOST LEASE", "id"), Column::Text("ACCOUNT", "account"),
                   Column::Money("AMOUNT", "amount_nanousd"),
                   Column::Time("SINCE", "since", in.Now()),
                   Column::Text("WAITING FOR", "waiting_for")}});
        in.Tell("an edge that will never come back: tollctl suspense resolve LOST_LEASE --cost 0 "
                "--reason \"edge is gone, nothing of it is open\"");
        return absl::OkStatus();
      });

  auto resolve = std::make_shared<ledger::v1::ResolveSuspenseRequest>();
  noun.AddVerb("resolve", "Settles one suspense row at what was really billed")
      .Describe("The id of a lost lease with --cost 0 releases it: say so only if nothing that its\n"
                "missing edges forwarded can still be billed.")
      .Positional("HOLD", Into(resolve->mutable_hold_id()), "hold id or lost lease, from suspense list")
      .Required("--cost", "USD", IntoAmount([=](int64_t n) { resolve->set_cost_nanousd(n); }),
                "what the provider billed; 0: nothing")
      .Required("--reason", "TEXT", Into(resolve->mutable_reason()), "kept on record")
      .Example("tollctl suspense resolve 018f2a7c-6d1e-7cc2-98c4-dc0c0c07398f --cost 0 "
               "--reason \"not on the invoice\"")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*resolve));
        in.Print({FromProto(response), "entry",
                  {Column::Text("Hold", "hold_id"), Column::Text("Account", "entry.account_path").IfAny(),
                   Column::Money("Cost", "entry.cost_nanousd"), Column::Text("State", "state"),
                   Column::Count("Entry", "sequence").IfAny()},
                  "", "", true});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
