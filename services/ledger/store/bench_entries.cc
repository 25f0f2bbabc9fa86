#include "services/ledger/store/bench_entries.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/uuid.h"

namespace tollhouse::ledger {
namespace {

constexpr const char* kWindows[] = {"month", "day"};

}  // namespace

std::vector<v1::Entry> MakeBenchEntries(SqlStore& store, int64_t keys) {
  std::map<std::string, int64_t> accounts;
  std::map<std::string, std::vector<common::v1::HeldBudget>> budgets;
  v1::GrantLeaseRequest lease;
  int64_t version = 0;
  const auto add = [&](const std::string& path, int kind) {
    if (accounts.contains(path)) return;
    v1::CreateAccountRequest account;
    account.set_path(path);
    account.set_kind(static_cast<common::v1::AccountKind>(kind));
    v1::CreateKeyAccountRequest key;
    const size_t slash = path.rfind('/');
    key.set_parent_path(path.substr(0, slash));
    key.set_name(path.substr(slash + 1));
    accounts[path] = kind < 4
                         ? Require(store.CreateAccount(nullptr, account, &version)).account().id()
                         : Require(store.CreateKeyAccount(key, &version)).account_id();
    for (const char* const window : kWindows) {
      BudgetSpec spec;
      spec.path = path;
      spec.window = window;
      spec.limit_nanos = kMaxCap.nanos();
      const auto set = Require(store.SetBudget(nullptr, spec, &version));
      v1::GrantLeaseRequest::Item& item = *lease.add_items();
      item.set_budget_id(set.budget().budget_id());
      item.set_period(set.budget().period());
      item.set_want_nanousd(kMaxCap.nanos() / 2);
      common::v1::HeldBudget& held = budgets[path].emplace_back();
      held.set_budget_id(item.budget_id());
      held.set_period(item.period());
      held.set_amount_nanousd(1'000'000);
    }
  };
  std::vector<v1::Entry> entries;
  for (int64_t i = 0; i < keys; ++i) {
    const std::string team = absl::StrCat("acme/team-", i % 4);
    const std::string user = absl::StrCat(team, "/user-", i % 64);
    const std::string path = absl::StrCat(user, "/key-", i);
    add("acme", 1);
    add(team, 2);
    add(user, 3);
    add(path, 4);
    v1::Entry& entry = entries.emplace_back();
    for (const std::string& each : {std::string("acme"), team, user, path}) {
      entry.add_account_ids(accounts[each]);
      for (const common::v1::HeldBudget& held : budgets[each]) *entry.add_budgets() = held;
    }
    entry.set_account_path(path);
    entry.set_kind(v1::ENTRY_KIND_SETTLE);
    entry.set_attempt(1);
    entry.set_epoch(1);
    entry.set_edge_id("edge-1");
    entry.set_boot_id("0193a1b2-7c3d-7e4f-8a5b-6c7d8e9fa0b1");
    entry.set_provider("openai");
    entry.set_model("gpt-5");
    entry.set_upstream_model("gpt-5");
    entry.set_usage_source(common::v1::USAGE_SOURCE_FINAL);
    entry.set_cost_nanousd(123'456);
    entry.set_hold_nanousd(1'000'000);
    entry.set_price_version("2026-11-01");
    entry.set_price_detail(R"({"v":1,"lines":[{"model":"gpt-5","tier":"standard","above":0,)"
                           R"("factor_ppm":1000000,"rates":{"input":"1250000000","output":"10000000000"}}]})");
    auto& usage = *entry.add_usage();
    usage.set_model("gpt-5");
    usage.mutable_usage()->set_input_tokens_uncached(1000);
    usage.mutable_usage()->set_output_tokens(200);
    (*entry.mutable_tags())["use_case"] = "bench";
    entry.set_http_status(200);
    entry.set_status("ok");
    entry.set_endpoint("/v1/chat/completions");
  }
  v1::RegisterEpochRequest epoch;
  epoch.set_org_id(accounts["acme"]);
  epoch.set_incarnation("bench");
  Require(store.RegisterEpoch(epoch, &version));
  lease.set_org_id(accounts["acme"]);
  lease.set_epoch(1);
  lease.set_request_id("bench");
  Require(store.GrantLease(lease));
  return entries;
}

v1::Entry NextBenchEntry(v1::Entry entry) {
  const absl::Time now = absl::Now();
  const Uuid hold = NewUuid(now);
  entry.set_hold_id(std::string(hold.raw()));
  entry.set_request_id(hold.ToString());
  entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(now));
  entry.mutable_ended_at()->set_seconds(absl::ToUnixSeconds(now));
  return entry;
}

}  // namespace tollhouse::ledger
