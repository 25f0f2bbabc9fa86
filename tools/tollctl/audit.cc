// audit: what was done with keys and credentials.
#include <algorithm>
#include <memory>

#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {

void RegisterAudit(CommandLine& commands) {
  Noun& noun = commands.AddNoun("audit", "What was done with keys and credentials, by whom");
  auto request = std::make_shared<vault::v1::ListAuditEventsRequest>();
  auto since = std::make_shared<std::string>();
  noun.AddVerb("log", "Shows what was done, newest first")
      .Option("--since", "WHEN", Into(since.get()), "24h, 30d, a date or an RFC 3339 time")
      .Option("--resource", "NAME", Into(request->mutable_query()->mutable_resource()),
              "only this key or provider")
      .Option("--count", "N", IntoCount([=](int64_t n) {
                request->mutable_query()->set_page_size(
                    static_cast<int32_t>(std::min<int64_t>(n, 1'000'000)));
              }),
              "at most so many events")
      .Example("tollctl audit log --since 24h")
      .Run([=](Invocation& in) -> absl::Status {
        if (!since->empty()) {
          TH_RETURN_IF_ERROR(
              SetPast("--since", *since, in.Now(), request->mutable_query()->mutable_since()));
        }
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*request));
        in.Print({FromProto(response.page()),
                  "events",
                  {Column::Text("AT", "at"), Column::Text("ACTOR", "actor"),
                   Column::Text("ACTION", "method"), Column::Text("RESOURCE", "resource"),
                   Column::Text("DETAIL", "message")},
                  "",
                  "nothing was done in this time"});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
