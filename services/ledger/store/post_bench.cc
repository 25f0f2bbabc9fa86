// Settlement throughput of the ledger's store behind its poster:
//     ledger_post_bench [--database sqlite|postgres|URI] [--seconds N] [--keys N] [--grow ENTRIES]
// Posts settlements with eight budgets each in requests of 512, as edges under load do, and prints
// entries per second; beside it what single postings achieve, one transaction each. --keys spreads the
// entries over so many virtual keys, each with budgets of its own. --grow goes on until the journal has
// so many entries, a line per million. `postgres` starts a server of its own (fsync on) in TMPDIR.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/uuid.h"
#include "libs/obs/log.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/poster.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kEntriesPerRequest = 512;
constexpr int kRequestsInFlight = 24;
constexpr const char* kWindows[] = {"month", "day"};

struct Arguments {
  std::string database = "postgres";
  int64_t seconds = 10;
  int64_t keys = 8;
  int64_t grow = 0;
};

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

void Require(const absl::Status& status) {
  if (!status.ok()) Fail(status);
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

// acme / team / user / key with two budgets each: an entry for each key.
std::vector<v1::Entry> MakeEntries(SqlStore& store, int64_t keys) {
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

class Bench {
 public:
  Bench(SqlStore* store, std::vector<v1::Entry> entries, int posters)
      : store_(store), entries_(std::move(entries)), poster_(store, posters) {}

  // Posts through the poster until `done`; entries per second.
  int64_t Run(const std::function<bool(int64_t posted)>& done) {
    const absl::Time start = absl::Now();
    posted_ = 0;
    while (!done(posted_)) {
      v1::PostRequest request;
      for (int i = 0; i < kEntriesPerRequest; ++i) *request.add_entries() = Next();
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Bench* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
            return self->in_flight_ < kRequestsInFlight;
          },
          this));
      ++in_flight_;
      poster_.Submit(std::move(request), [this](absl::StatusOr<v1::PostResponse> response) {
        Require(response.status());
        for (const v1::PostResult& result : response->results()) {
          if (result.outcome() != v1::POST_OUTCOME_POSTED) Fail(absl::InternalError(result.message()));
        }
        posted_ += response->results_size();
        absl::MutexLock done_lock(&mutex_);
        --in_flight_;
      });
    }
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](Bench* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) { return self->in_flight_ == 0; },
        this));
    return Rate(posted_, absl::Now() - start);
  }

  // One transaction per entry.
  int64_t RunSingle(absl::Duration time) {
    const absl::Time start = absl::Now();
    int64_t posted = 0;
    for (; absl::Now() - start < time; ++posted) {
      const v1::Entry entry = Next();
      const v1::Entry* const alone[] = {&entry};
      Require(store_->Post(alone).status());
    }
    return Rate(posted, absl::Now() - start);
  }

 private:
  static int64_t Rate(int64_t count, absl::Duration time) {
    return count * 1'000'000 / absl::ToInt64Microseconds(time);
  }

  v1::Entry Next() {
    v1::Entry entry = entries_[next_++ % entries_.size()];
    const absl::Time now = absl::Now();
    const Uuid hold = NewUuid(now);
    entry.set_hold_id(std::string(hold.raw()));
    entry.set_request_id(hold.ToString());
    entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(now));
    entry.mutable_ended_at()->set_seconds(absl::ToUnixSeconds(now));
    return entry;
  }

  SqlStore* const store_;
  const std::vector<v1::Entry> entries_;
  size_t next_ = 0;
  absl::Mutex mutex_;
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<int64_t> posted_ = 0;
  Poster poster_;
};

void Measure(const std::string& name, const std::string& database, const Arguments& arguments) {
  const sql::DatabaseSettings settings{
      .database = database, .isolation = sql::Isolation::kReadCommitted};
  Require(sql::MigrateDatabase(settings, StoreSchema()));
  const sql::OpenedDatabase opened = Require(sql::OpenDatabase(settings, StoreSchema()));
  const std::unique_ptr<SqlStore> store =
      Require(SqlStore::Open(opened.database.get(), Clock::System()));
  Bench bench(store.get(), MakeEntries(*store, arguments.keys), Poster::ThreadsFor(*opened.database));
  const int64_t single = bench.RunSingle(absl::Seconds(std::min<int64_t>(arguments.seconds, 3)));
  const auto for_seconds = [&] {
    return [end = absl::Now() + absl::Seconds(arguments.seconds)](int64_t) { return absl::Now() > end; };
  };
  bench.Run([end = absl::Now() + absl::Seconds(1)](int64_t) { return absl::Now() > end; });
  const int64_t grouped = bench.Run(for_seconds());
  std::printf("%s, 8 budgets, %lld keys: %lld entries/s grouped, %lld/s one by one\n", name.c_str(),
              static_cast<long long>(arguments.keys), static_cast<long long>(grouped),
              static_cast<long long>(single));
  for (int64_t million = 1; million * 1'000'000 <= arguments.grow; ++million) {
    const int64_t rate = bench.Run([](int64_t posted) { return posted >= 1'000'000; });
    std::printf("  million %lld: %lld entries/s\n", static_cast<long long>(million),
                static_cast<long long>(rate));
    std::fflush(stdout);
  }
}

int Main(const Arguments& arguments) {
  obs::InitLogging("ledger_post_bench", obs::Level::kError);
  if (arguments.database == "sqlite") {
    const testing::TempDir dir;
    Measure("SQLite", "sqlite:" + dir.File("ledger.db"), arguments);
  } else if (arguments.database == "postgres") {
    testing::PostgresServer server({.fsync = true,
                                    .settings = {"shared_buffers=512MB", "max_wal_size=4GB",
                                                 "checkpoint_timeout=15min", "wal_compression=lz4"}});
    Measure("PostgreSQL", server.Uri(server.CreateDatabase()), arguments);
  } else {
    Measure("PostgreSQL", arguments.database, arguments);
  }
  return 0;
}

}  // namespace
}  // namespace tollhouse::ledger

int main(int argc, char** argv) {
  tollhouse::ledger::Arguments arguments;
  bool understood = argc % 2 == 1;
  for (int i = 1; i + 1 < argc && understood; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--database") {
      arguments.database = argv[i + 1];
      continue;
    }
    int64_t* const number = name == "--seconds" ? &arguments.seconds
                            : name == "--keys"  ? &arguments.keys
                            : name == "--grow"  ? &arguments.grow
                                                : nullptr;
    understood = number != nullptr && absl::SimpleAtoi(argv[i + 1], number) && *number >= 0;
  }
  if (!understood || arguments.seconds < 1 || arguments.keys < 1) {
    std::fprintf(stderr, "usage: %s [--database sqlite|postgres|URI] [--seconds N] [--keys N] [--grow ENTRIES]\n",
                 argv[0]);
    return 2;
  }
  return tollhouse::ledger::Main(arguments);
}
