#include "services/edge/usage_reader.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "services/edge/unary_call.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::edge {
namespace {

// The ledger leaves to its callers to take off what is held.
void AddHolds(const enforcer::v1::GetBudgetHoldsResponse& holds, ledger::v1::GetBudgetsResponse* budgets) {
  std::map<std::pair<int64_t, std::string>, int64_t> held;
  for (const auto& part : holds.held()) held[{part.budget_id(), part.period()}] += part.held_nanousd();
  for (ledger::v1::Budget& budget : *budgets->mutable_budgets()) {
    budget.set_held_nanousd(held[{budget.budget_id(), budget.period()}]);
    budget.set_available_nanousd(
        std::max<int64_t>(0, budget.available_nanousd() - budget.held_nanousd()));
  }
}

// Account paths need no escaping in JSON.
absl::StatusOr<std::string> Render(const std::string& account, const ledger::v1::GetBudgetsResponse& budgets) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string out = absl::StrCat("{\"account\":\"", account, "\",\"budgets\":[");
  for (int i = 0; i < budgets.budgets_size(); ++i) {
    std::string budget;
    if (!google::protobuf::util::MessageToJsonString(budgets.budgets(i), &budget, options).ok()) {
      return absl::InternalError("a budget cannot be printed");
    }
    absl::StrAppend(&out, i == 0 ? "" : ",", budget);
  }
  return out + "]}\n";
}

absl::Status Unreachable(std::string_view reason, std::string_view who) {
  return MakeError(absl::StatusCode::kUnavailable, reason,
                   absl::StrCat("the ", std::string(who), " cannot be reached"));
}

}  // namespace

struct UsageReader::Stubs {
  const std::unique_ptr<ledger::v1::LedgerService::Stub> ledger;
  const std::unique_ptr<enforcer::v1::EnforcerService::Stub> enforcer;
};

UsageReader::UsageReader(std::shared_ptr<grpc::ChannelInterface> ledger,
                         std::shared_ptr<grpc::ChannelInterface> enforcer, absl::Duration timeout)
    : stubs_(new Stubs{ledger::v1::LedgerService::NewStub(ledger),
                       enforcer::v1::EnforcerService::NewStub(enforcer)}),
      timeout_(timeout) {}

UsageReader::~UsageReader() { Stop(); }

void UsageReader::Stop() { calls_.Stop(); }

Task<absl::StatusOr<std::string>> UsageReader::Read(IoLoop& loop,
                                                    PrincipalPtr principal) {
  ledger::v1::GetBudgetsRequest request;
  request.set_account_id(principal->account_id());
  auto budgets = co_await CallUnary<ledger::v1::GetBudgetsResponse>(
      loop, calls_, timeout_, std::move(request),
      [this](auto... args) { stubs_->ledger->async()->GetBudgets(args...); });
  if (!budgets.ok()) co_return Unreachable("LEDGER_UNAVAILABLE", "ledger");
  enforcer::v1::ReadBudgetHoldsRequest ask;
  for (const ledger::v1::Budget& budget : budgets->budgets()) ask.add_budget_ids(budget.budget_id());
  auto holds = co_await CallUnary<enforcer::v1::GetBudgetHoldsResponse>(
      loop, calls_, timeout_, std::move(ask),
      [this](auto... args) { stubs_->enforcer->async()->ReadBudgetHolds(args...); });
  if (!holds.ok()) co_return Unreachable("ENFORCER_UNAVAILABLE", "enforcer");
  AddHolds(*holds, &*budgets);
  co_return Render(principal->account_path(), *budgets);
}

}  // namespace tollhouse::edge
