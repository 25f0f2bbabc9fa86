// Settlement throughput of the SQLite store:
//     ledger_post_bench [SECONDS [BATCH]]      (TMPDIR says where)
// Posts batches of settlements with four budgets each, as an edge under load does, and prints entries
// per second.
#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/uuid.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {
namespace {

int Main(int seconds, int batch) {
  const testing::TempDir dir;
  auto opened = SqliteStore::Open(dir.File("ledger.db"), Clock::System());
  if (!opened.ok()) {
    std::fprintf(stderr, "%s\n", opened.status().ToString().c_str());
    return 1;
  }
  SqliteStore& store = **opened;
  v1::Entry entry;
  v1::GrantLeaseRequest lease;
  int64_t version = 0;
  int kind = 0;
  for (const char* path : {"acme", "acme/payments", "acme/payments/sarah"}) {
    v1::CreateAccountRequest request;
    request.set_path(path);
    request.set_kind(static_cast<common::v1::AccountKind>(++kind));
    entry.add_account_ids(store.CreateAccount(request, &version)->account().id());
  }
  v1::CreateKeyAccountRequest key;
  key.set_parent_path("acme/payments/sarah");
  key.set_name("laptop");
  entry.add_account_ids(store.CreateKeyAccount(key, &version)->account_id());
  v1::RegisterEpochRequest epoch;
  epoch.set_org_id(entry.account_ids(0));
  epoch.set_incarnation("memory");
  if (!store.RegisterEpoch(epoch, &version).ok()) return 1;
  lease.set_org_id(entry.account_ids(0));
  lease.set_epoch(1);
  lease.set_grant_id(1);
  for (const char* path :
       {"acme", "acme/payments", "acme/payments/sarah", "acme/payments/sarah/laptop"}) {
    BudgetSpec spec;
    spec.path = path;
    spec.limit_nanos = kMaxCap.nanos();
    const auto budget = store.SetBudget(spec, &version);
    auto& item = *lease.add_items();
    item.set_budget_id(budget->budget().budget_id());
    item.set_period(budget->budget().period());
    item.set_want_nanousd(kMaxCap.nanos() / 2);
    auto& held = *entry.add_budgets();
    held.set_budget_id(item.budget_id());
    held.set_period(item.period());
    held.set_amount_nanousd(1'000'000);
  }
  if (!store.GrantLease(lease).ok()) return 1;
  entry.set_kind(v1::ENTRY_KIND_SETTLE);
  entry.set_epoch(1);
  entry.set_edge_id("edge-1");
  entry.set_boot_id("boot-1");
  entry.set_account_path("acme/payments/sarah/laptop");
  entry.set_provider("openai");
  entry.set_model("gpt-5");
  entry.set_cost_nanousd(123'456);
  entry.set_hold_nanousd(1'000'000);
  entry.set_price_detail(R"({"v":1,"lines":[{"model":"gpt-5","tier":"standard","above":0,)"
                         R"("factor_ppm":1000000,"rates":{"input":"1250000000","output":"10000000000"}}]})");
  auto& usage = *entry.add_usage();
  usage.set_model("gpt-5");
  usage.mutable_usage()->set_input_tokens_uncached(1000);
  usage.mutable_usage()->set_output_tokens(200);
  (*entry.mutable_tags())["use_case"] = "bench";

  const absl::Time start = absl::Now();
  int64_t posted = 0;
  absl::Duration slowest;
  while (absl::Now() - start < absl::Seconds(seconds)) {
    std::vector<v1::Entry> entries(static_cast<size_t>(batch), entry);
    std::vector<const v1::Entry*> pointers;
    for (v1::Entry& each : entries) {
      const absl::Time now = absl::Now();
      const Uuid hold = NewUuid(now);
      each.set_hold_id(std::string(hold.raw()));
      each.set_request_id(hold.ToString());
      each.mutable_started_at()->set_seconds(absl::ToUnixSeconds(now));
      pointers.push_back(&each);
    }
    const absl::Time before = absl::Now();
    const auto results = store.Post(pointers);
    slowest = std::max(slowest, absl::Now() - before);
    if (!results.ok() || results->front().outcome() != v1::POST_OUTCOME_POSTED) return 1;
    posted += batch;
  }
  const absl::Duration took = absl::Now() - start;
  std::printf("%lld entries with 4 budgets in batches of %d: %lld entries/s, slowest batch %s\n",
              static_cast<long long>(posted), batch,
              static_cast<long long>(posted * 1000 / absl::ToInt64Milliseconds(took)),
              absl::FormatDuration(slowest).c_str());
  return 0;
}

}  // namespace
}  // namespace tollhouse::ledger

int main(int argc, char** argv) {
  int seconds = 5;
  int batch = 512;
  if ((argc > 1 && !absl::SimpleAtoi(argv[1], &seconds)) ||
      (argc > 2 && !absl::SimpleAtoi(argv[2], &batch)) || seconds < 1 || batch < 1) {
    std::fprintf(stderr, "usage: %s [SECONDS [BATCH]]\n", argv[0]);
    return 2;
  }
  return tollhouse::ledger::Main(seconds, batch);
}
