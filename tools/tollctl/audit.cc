// audit: what was done and refused through the admin APIs, by whom, and whether the record of it is whole.
#include <algorithm>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "tollhouse/common/v1/audit.pb.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/heads_file.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

using common::v1::AuditEvent;
using common::v1::AuditQuery;
using common::v1::AuditReport;

constexpr int64_t kDefaultCount = 100;
constexpr int64_t kPageSize = 1000;

// Whether `service` is asked for, and answers in this installation: one that no address is known of is
// left out, and said so, unless it was named.
template <typename Ask>
absl::Status AskService(Invocation& in, const std::string& service, const std::string& chosen, Ask ask) {
  if (!chosen.empty() && chosen != service) return absl::OkStatus();
  const absl::Status status = ask();
  if (chosen.empty() && ReasonOf(status) == "NO_SERVER") {
    in.Tell(absl::StrCat("without the ", service, ": no address of it is known"));
    return absl::OkStatus();
  }
  return status;
}

// Calls `ask` with an empty request of each service that keeps a log.
template <typename Ledger, typename Router, typename Vault, typename Ask>
absl::Status AskAll(Invocation& in, const std::string& chosen, Ask ask) {
  TH_RETURN_IF_ERROR(AskService(in, "ledger", chosen, [&] { return ask(Ledger()); }));
  TH_RETURN_IF_ERROR(AskService(in, "router", chosen, [&] { return ask(Router()); }));
  return AskService(in, "vault", chosen, [&] { return ask(Vault()); });
}

struct LogArgs {
  AuditQuery query;
  std::string since, until, service;
  int64_t count = 0;  // 0: not given
};

absl::Status Log(Invocation& in, LogArgs& args) {
  AuditQuery& query = args.query;
  if (!args.since.empty()) {
    TH_RETURN_IF_ERROR(SetPast("--since", args.since, in.Now(), query.mutable_since()));
  }
  if (!args.until.empty()) {
    TH_RETURN_IF_ERROR(SetPast("--until", args.until, in.Now(), query.mutable_until()));
  }
  const int64_t count = args.count > 0        ? args.count
                        : args.since.empty() ? kDefaultCount
                                             : std::numeric_limits<int64_t>::max();
  std::vector<AuditEvent> events;
  TH_RETURN_IF_ERROR((AskAll<ledger::v1::ListAuditEventsRequest, router::v1::ListAuditEventsRequest,
                             vault::v1::ListAuditEventsRequest>(in, args.service, [&](auto request) {
    *request.mutable_query() = query;
    for (int64_t left = count; left > 0;) {
      request.mutable_query()->set_page_size(static_cast<int32_t>(std::min(left, kPageSize)));
      const auto response = in.api.Call(request);
      if (!response.ok()) return response.status();
      events.insert(events.end(), response->page().events().begin(), response->page().events().end());
      left -= response->page().events_size();
      request.mutable_query()->set_page_token(response->page().next_page_token());
      if (response->page().next_page_token().empty()) break;
    }
    return absl::OkStatus();
  })));
  const auto key = [](const AuditEvent& event) {
    return std::tuple(event.at().seconds(), event.at().nanos());
  };
  std::stable_sort(events.begin(), events.end(),
                   [&](const AuditEvent& a, const AuditEvent& b) { return key(a) > key(b); });
  if (static_cast<int64_t>(events.size()) > count) events.resize(static_cast<size_t>(count));
  Value rows = Value::List();
  for (const AuditEvent& event : events) rows.Add(FromProto(event));
  in.Print({Value::Object({{"events", rows}}), "events",
            {Column::Text("AT", "at"), Column::Text("ACTOR", "actor"), Column::Text("ROLE", "role"),
             Column::Text("DID", "method"), Column::Text("TO", "resource"), Column::Text("RESULT", "result"),
             Column::Text("FROM", "peer"), Column::Text("SERVICE", "service")},
            "", "nothing was done in this time"});
  return absl::OkStatus();
}

struct VerifyArgs {
  std::string service, expect, save;
};

absl::Status Verify(Invocation& in, const VerifyArgs& args) {
  AuditReport expected;
  if (!args.expect.empty()) TH_RETURN_IF_ERROR(LoadHeads(args.expect, &expected));
  AuditReport all;
  TH_RETURN_IF_ERROR((AskAll<ledger::v1::VerifyAuditRequest, router::v1::VerifyAuditRequest,
                             vault::v1::VerifyAuditRequest>(in, args.service, [&](auto request) {
    *request.mutable_expected() = expected.heads();
    const auto response = in.api.Call(request);
    if (!response.ok()) return response.status();
    all.set_events(all.events() + response->report().events());
    all.mutable_problems()->MergeFrom(response->report().problems());
    all.mutable_heads()->MergeFrom(response->report().heads());
    return absl::OkStatus();
  })));
  const bool ok = all.problems().empty();
  if (!ok) in.exit_code = 1;
  if (!args.save.empty() && ok) {
    AuditReport heads;
    *heads.mutable_heads() = all.heads();
    TH_RETURN_IF_ERROR(SaveHeads(args.save, heads));
  }
  if (!in.IsTable()) {
    Value document = FromProto(all);
    document.Set("ok", ok);
    in.Print({document, "", {}});
    return absl::OkStatus();
  }
  std::ostream& out = *in.environment.out;
  if (ok) {
    out << "The audit log is whole: " << CountText(all.events()) << " events in "
        << CountText(all.heads_size()) << " chains.\n";
  } else {
    out << "The audit log is not as it was written:\n";
    for (const std::string& problem : all.problems()) out << "  " << problem << "\n";
  }
  if (args.save.empty()) {
    in.Print({Value::Object({{"heads", FromProto(all).At("heads")}}), "heads",
              {Column::Text("SERVICE", "service"), Column::Count("CHAIN", "chain"),
               Column::Text("MONTH", "partition"), Column::Text("WRITER", "writer"),
               Column::Count("EVENTS", "sequence"), Column::Text("HASH", "hash")},
              "", "no events yet"});
  } else if (ok) {
    in.Tell(absl::StrCat("the heads are in ", args.save, ": keep it elsewhere, and compare with --expect"));
  }
  if (!ok) in.Tell("keep the database as it is, and compare it with its last backup");
  return absl::OkStatus();
}

}  // namespace

void RegisterAudit(CommandLine& commands) {
  Noun& noun = commands.AddNoun("audit", "What was done and refused, by whom, and whether the record is whole");
  auto log = std::make_shared<LogArgs>();
  noun.AddVerb("log", "Shows what was done and refused, newest first")
      .Describe("Of the ledger, the router and the vault together. JSON has the request and what was there\n"
                "before and after, without secrets.")
      .Option("--since", "WHEN", Into(&log->since), "24h, 30d, a date or an RFC 3339 time")
      .Option("--until", "WHEN", Into(&log->until), "likewise")
      .Option("--actor", "NAME", Into(log->query.mutable_actor()), "only what this token or edge did")
      .Option("--resource", "NAME", Into(log->query.mutable_resource()),
              "only this account, key, budget, provider or token, and what is below it")
      .Option("--service", "NAME", IntoChoice({"ledger", "router", "vault"}, &log->service),
              "only the log of this service")
      .Option("--count", "N", IntoCount([=](int64_t n) { log->count = n; }),
              "at most so many events; default 100, with --since all")
      .Example("tollctl audit log --since 24h")
      .Example("tollctl audit log --actor sarah --resource acme/payments --output json")
      .Run([=](Invocation& in) { return Log(in, *log); });

  auto verify = std::make_shared<VerifyArgs>();
  noun.AddVerb("verify", "Finds rows of the log that were changed, removed or added; exit 1 if there are any")
      .Describe("Every event carries a hash over itself and the event before it. The heads of the chains show\n"
                "whether an end was cut off: keep them elsewhere (--save) and compare later (--expect).")
      .Option("--expect", "FILE", Into(&verify->expect), "heads that were saved before")
      .Option("--save", "FILE", Into(&verify->save), "write the heads here, if all is well")
      .Option("--service", "NAME", IntoChoice({"ledger", "router", "vault"}, &verify->service),
              "only the log of this service")
      .Example("tollctl audit verify --expect heads.json --save heads.json")
      .Run([=](Invocation& in) { return Verify(in, *verify); });
}

}  // namespace tollhouse::tollctl
