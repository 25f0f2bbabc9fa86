// Settlement throughput of the ledger's store behind its poster:
//     ledger_post_bench [--database sqlite|postgres|URI] [--seconds N] [--keys N] [--grow ENTRIES]
// Posts settlements with eight budgets each in requests of 512, as edges under load do, and prints
// entries per second; beside it what single postings achieve, one transaction each. --keys spreads the
// entries over so many virtual keys, each with budgets of its own. --grow goes on until the journal has
// so many entries, a line per million. `postgres` starts a server of its own (fsync on) in TMPDIR.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/obs/log.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/poster.h"
#include "services/ledger/store/bench_entries.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kEntriesPerRequest = 512;
constexpr int kRequestsInFlight = 24;

struct Arguments {
  std::string database = "postgres";
  int64_t seconds = 10;
  int64_t keys = 8;
  int64_t grow = 0;
};

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

  v1::Entry Next() { return NextBenchEntry(entries_[next_++ % entries_.size()]); }

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
  Bench bench(store.get(), MakeBenchEntries(*store, arguments.keys), Poster::ThreadsFor(*opened.database));
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
