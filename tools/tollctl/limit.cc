// limit: rates and sizes of requests.
#include <memory>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

Column Limited(std::string title, std::string field) {
  return Column::Cell(std::move(title), [field](const Value& row) {
    const int64_t number = row.At("limits." + field).number();
    return number == 0 ? std::string("-") : CountText(number);
  });
}

std::vector<Column> LimitColumns() {
  return {Column::Text("PATH", "path"),
          Limited("REQUESTS/MIN", "requests_per_minute"),
          Limited("TOKENS/MIN", "tokens_per_minute"),
          Limited("CONCURRENT", "concurrency"),
          Limited("MAX OUTPUT TOKENS", "max_output_tokens"),
          Column::Cell("MAX COST", [](const Value& row) {
            const int64_t cost = row.At("limits.max_request_cost_nanousd").number();
            return cost == 0 ? std::string("-") : MoneyText(cost);
          })};
}

}  // namespace

void RegisterLimit(CommandLine& commands) {
  Noun& noun = commands.AddNoun("limit", "Rates, concurrency and sizes of requests").Alias("limits");
  auto set = std::make_shared<ledger::v1::SetLimitsRequest>();
  noun.AddVerb("set", "Sets limits of an account; what is not named stays, 0 removes")
      .Describe("A limit holds for the account and everything below it together.")
      .Positional("PATH", Into(set->mutable_path()), "account or key")
      .Option("--rpm", "N", IntoCount([=](int64_t n) { set->set_requests_per_minute(n); }),
              "requests per minute")
      .Option("--tpm", "N", IntoCount([=](int64_t n) { set->set_tokens_per_minute(n); }),
              "tokens per minute")
      .Option("--concurrency", "N", IntoCount([=](int64_t n) { set->set_concurrency(n); }),
              "requests at the same time")
      .Option("--max-output-tokens", "N",
              IntoCount([=](int64_t n) { set->set_max_output_tokens(n); }), "per request")
      .Option("--max-request-cost", "USD",
              IntoAmount([=](int64_t n) { set->set_max_request_cost_nanousd(n); }),
              "per request, against its bound before the call")
      .Example("tollctl limit set acme/payments --rpm 600 --concurrency 20 --max-request-cost 0.50")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = set->path();
        if (!set->has_requests_per_minute() && !set->has_tokens_per_minute() &&
            !set->has_concurrency() && !set->has_max_output_tokens() &&
            !set->has_max_request_cost_nanousd()) {
          return UsageError("nothing to set: give --rpm, --tpm, --concurrency, "
                            "--max-output-tokens or --max-request-cost");
        }
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*set));
        in.TellStragglers(response.stragglers());
        in.Print({Value::Object({{"path", response.path()}, {"limits", FromProto(response.limits())}}),
                  "", LimitColumns(), "", "", true});
        return absl::OkStatus();
      });

  auto list = std::make_shared<ledger::v1::ListLimitsRequest>();
  noun.AddVerb("list", "Lists limits of an account and below")
      .OptionalPositional("PATH", Into(list->mutable_path()), "only this account and below")
      .Example("tollctl limit list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->path();
        list->set_below(true);
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*list));
        in.Print({Value::Object({{"limits", ListFromProto(response.limits())}}), "limits",
                  LimitColumns(), "", "no limits here; set one with: tollctl limit set PATH --rpm N"});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
