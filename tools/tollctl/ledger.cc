// ledger: the journal, and its verification.
#include <memory>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/uuid.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/heads_file.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

constexpr int32_t kPageSize = 1000;

struct VerifyArgs {
  std::string expect, save;
};

absl::Status Verify(Invocation& in, const VerifyArgs& args) {
  ledger::v1::VerifyLedgerRequest request;
  if (!args.expect.empty()) {
    ledger::v1::VerifyLedgerProgress expected;
    TH_RETURN_IF_ERROR(LoadHeads(args.expect, &expected));
    *request.mutable_expected() = expected.heads();
  }
  TH_ASSIGN_OR_RETURN(const auto result, in.api.Call(request));
  if (!result.ok()) in.exit_code = 1;
  if (!args.save.empty() && result.ok()) {
    ledger::v1::VerifyLedgerProgress heads;
    *heads.mutable_heads() = result.heads();
    TH_RETURN_IF_ERROR(SaveHeads(args.save, heads));
  }
  Value problems = Value::List();
  for (const std::string& problem : result.problems()) problems.Add(problem);
  if (!in.IsTable()) {
    in.Print({Value::Object({{"ok", result.ok()},
                             {"entries", Value::Count(result.entries())},
                             {"problems", problems},
                             {"heads", FromProto(result).At("heads")}}),
              "", {}});
    return absl::OkStatus();
  }
  std::ostream& out = *in.environment.out;
  if (result.ok()) {
    out << "The ledger is sound: " << CountText(result.entries()) << " entries recomputed.\n";
    if (!args.save.empty()) {
      in.Tell(absl::StrCat("the heads are in ", args.save, ": keep it elsewhere, and compare with --expect"));
    }
    return absl::OkStatus();
  }
  out << "The ledger has problems (" << CountText(result.entries()) << " entries read):\n";
  for (const std::string& problem : result.problems()) out << "  " << problem << "\n";
  in.Tell("keep the database as it is, and compare it with its last backup");
  return absl::OkStatus();
}

struct EntriesArgs {
  ledger::v1::ListEntriesRequest request;
  int64_t count = INT64_MAX;
};

absl::Status Entries(Invocation& in, EntriesArgs& args) {
  in.subject = args.request.path();
  args.request.set_page_size(kPageSize);
  Value entries = Value::List();
  int64_t left = args.count;
  while (left > 0) {
    TH_ASSIGN_OR_RETURN(const auto page, in.api.Call(args.request));
    for (const auto& entry : page.entries()) {
      if (left-- <= 0) break;
      entries.Add(FromProto(entry));
    }
    if (!page.has_next()) break;
    args.request.set_after_sequence(page.next().after_sequence());
    args.request.set_after_org_id(page.next().after_org_id());
  }
  in.Print({Value::Object({{"entries", entries}}), "entries",
            {Column::Count("ENTRY", "sequence"), Column::Time("POSTED", "posted_at", in.Now()),
             Column::Text("ACCOUNT", "entry.account_path"), Column::Text("REQUEST", "entry.request_id"),
             Column::Text("PROVIDER", "entry.provider"), Column::Text("MODEL", "entry.model"),
             Column::Text("STATE", "state"), Column::Money("HELD", "entry.hold_nanousd"),
             Column::Money("COST", "entry.cost_nanousd"),
             Column::Cell("", [](const Value& row) {
               return std::string(row.At("reversing").number() != 0 ? "reversing" : "");
             }).IfAny()},
            "", "no entries"});
  return absl::OkStatus();
}

absl::Status Adjust(Invocation& in, ledger::v1::AdjustEntryRequest request) {
  request.set_client_request_id(NewUuid(in.Now()).ToString());
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  Value result = FromProto(response.entry());
  result.Set("previous_nanousd", Value::Count(response.previous_nanousd()));
  in.Print({Value::Object({{"entry", result}}), "entry",
            {Column::Text("Hold", "hold_id"), Column::Text("Account", "entry.account_path"),
             Column::Money("Cost before", "previous_nanousd"), Column::Money("Cost", "entry.cost_nanousd"),
             Column::Count("Entry", "sequence")},
            "", "", true});
  return absl::OkStatus();
}

}  // namespace

void RegisterLedger(CommandLine& commands) {
  Noun& noun = commands.AddNoun("ledger", "The journal, and its verification");
  auto verify = std::make_shared<VerifyArgs>();
  noun.AddVerb("verify", "Recomputes every sum from the journal; exit 1 if anything is off")
      .Describe("Checks conservation of every budget and period, double entry, exactly one posting per\n"
                "hold, each price, and the chain of the journal: it names rows that were changed, removed or\n"
                "put elsewhere. The heads of the chains (in JSON, or by --save) show later whether an end was\n"
                "cut off: keep them elsewhere, and compare with --expect.")
      .Option("--expect", "FILE", Into(&verify->expect), "heads that were saved before")
      .Option("--save", "FILE", Into(&verify->save), "write the heads here, if all is well")
      .Example("tollctl ledger verify --output json")
      .Example("tollctl ledger verify --expect journal.json --save journal.json")
      .Run([=](Invocation& in) { return Verify(in, *verify); });

  auto adjust = std::make_shared<ledger::v1::AdjustEntryRequest>();
  noun.AddVerb("adjust", "Corrects what one request cost: a refund, or another amount on the invoice")
      .Describe("Adds a reversing entry and a corrected one; what was posted stays as it was. The budgets\n"
                "that the request counted in are charged with the difference, in the same periods.")
      .Positional("HOLD", Into(adjust->mutable_hold_id()), "hold id, from explain or ledger entries")
      .Required("--cost", "USD", IntoAmount([=](int64_t n) { adjust->set_cost_nanousd(n); }),
                "what it cost in the end")
      .Required("--reason", "TEXT", Into(adjust->mutable_reason()), "kept on record")
      .Example("tollctl ledger adjust 018f2a7c-6d1e-7cc2-98c4-dc0c0c07398f --cost 0 "
               "--reason \"refunded, case 4711\"")
      .Run([=](Invocation& in) { return Adjust(in, *adjust); });

  auto args = std::make_shared<EntriesArgs>();
  noun.AddVerb("entries", "Lists journal entries in posting order")
      .OptionalPositional("PATH", Into(args->request.mutable_path()), "only this account and below")
      .Option("--after", "SEQUENCE",
              IntoCount([=](int64_t n) { args->request.set_after_sequence(n); }),
              "only entries after this one")
      .Option("--count", "N", IntoCount([=](int64_t n) { args->count = n; }), "at most so many")
      .Example("tollctl ledger entries acme --output csv")
      .Run([=](Invocation& in) { return Entries(in, *args); });
}

}  // namespace tollhouse::tollctl
