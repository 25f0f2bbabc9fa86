// How fast a backlog drains after an outage of the ledger:
//     drain_bench [ENTRIES]
// Writes that many settlements (300,000), with eight budgets each, into an edge's journal, none of them
// acknowledged, as after an outage; then opens it as an edge does at its start, posts them over gRPC on
// loopback to a ledger on PostgreSQL (a server of its own, fsync on, in TMPDIR) and prints how long both
// took.
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/obs/log.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/journal.h"
#include "services/edge/settler.h"
#include "services/ledger/app.h"
#include "services/ledger/store/bench_entries.h"

namespace tollhouse {
namespace {

using ledger::Fail;
using ledger::Require;

// What the journal knows of a request when it leaves, and what it adds when that has ended.
void Write(edge::Journal& journal, const ledger::v1::Entry& entry) {
  ledger::v1::Entry intent = entry;
  ledger::v1::Entry result;
  result.set_hold_id(entry.hold_id());
  result.set_kind(entry.kind());
  result.set_cost_nanousd(entry.cost_nanousd());
  result.set_usage_source(entry.usage_source());
  result.set_http_status(entry.http_status());
  result.set_status(entry.status());
  *result.mutable_usage() = entry.usage();
  *result.mutable_ended_at() = entry.ended_at();
  for (const int field : {ledger::v1::Entry::kKindFieldNumber, ledger::v1::Entry::kCostNanousdFieldNumber,
                          ledger::v1::Entry::kUsageSourceFieldNumber, ledger::v1::Entry::kUsageFieldNumber,
                          ledger::v1::Entry::kHttpStatusFieldNumber, ledger::v1::Entry::kStatusFieldNumber}) {
    intent.GetReflection()->ClearField(&intent, intent.GetDescriptor()->FindFieldByNumber(field));
  }
  Require(journal.AppendIntent(intent));
  Require(journal.AppendResult(result).status());
}

void Run(int64_t count) {
  testing::PostgresServer postgres({.fsync = true,
                                    .settings = {"shared_buffers=512MB", "max_wal_size=4GB",
                                                 "checkpoint_timeout=15min", "wal_compression=lz4"}});
  const std::string database = postgres.Uri(postgres.CreateDatabase());
  const sql::DatabaseSettings settings{.database = database,
                                       .isolation = sql::Isolation::kReadCommitted};
  Require(sql::MigrateDatabase(settings, ledger::StoreSchema()));
  std::vector<ledger::v1::Entry> kinds;
  {
    const sql::OpenedDatabase opened = Require(sql::OpenDatabase(settings, ledger::StoreSchema()));
    const auto store = Require(ledger::SqlStore::Open(opened.database.get(), Clock::System()));
    kinds = ledger::MakeBenchEntries(*store, 8);
  }
  const auto app = Require(ledger::App::Create({.database = database}));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  app->RegisterInternal(builder);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  Require(app->Start());

  const testing::TempDir dir;
  const edge::JournalOptions options{.dir = dir.File("journal"), .max_bytes = int64_t{8} << 30};
  {
    const auto journal = Require(edge::Journal::Open(options));
    for (int64_t i = 0; i < count; ++i) {
      Write(*journal, ledger::NextBenchEntry(kinds[static_cast<size_t>(i) % kinds.size()]));
    }
    journal->Close();
  }
  const absl::Time start = absl::Now();
  const auto journal = Require(edge::Journal::Open(options));
  std::vector<ledger::v1::Entry> backlog = journal->TakeReplayed();
  const absl::Duration read = absl::Now() - start;
  if (static_cast<int64_t>(backlog.size()) != count) Fail(absl::DataLossError("the journal lost some"));
  int64_t refused = 0;
  edge::Settler settler(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()),
      journal.get(), [](std::string_view, const enforcer::v1::Operation&) {},
      [&](const ledger::v1::Entry&, const ledger::v1::PostResult&) { ++refused; });
  for (ledger::v1::Entry& entry : backlog) {
    settler.Submit(std::make_shared<const ledger::v1::Entry>(std::move(entry)));
  }
  const absl::Time posting = absl::Now();
  settler.Start();
  if (!settler.WaitIdle(absl::Minutes(5))) Fail(absl::DeadlineExceededError("not drained in 5 minutes"));
  const absl::Duration drained = absl::Now() - posting;
  settler.Stop();
  if (refused > 0 || journal->unposted() != 0) Fail(absl::InternalError("not all were posted"));
  std::printf("journal of %lld read in %.2f s; drained in %.2f s: %lld entries/s\n",
              static_cast<long long>(count), absl::ToDoubleSeconds(read), absl::ToDoubleSeconds(drained),
              static_cast<long long>(static_cast<double>(count) / absl::ToDoubleSeconds(drained)));
  app->Stop();
  server->Shutdown();
  server->Wait();
}

}  // namespace
}  // namespace tollhouse

int main(int argc, char** argv) {
  int64_t count = 300'000;
  if (argc > 2 || (argc == 2 && (!absl::SimpleAtoi(argv[1], &count) || count < 1))) {
    std::fprintf(stderr, "usage: %s [ENTRIES]\n", argv[0]);
    return 2;
  }
  tollhouse::obs::InitLogging("drain_bench", tollhouse::obs::Level::kError);
  tollhouse::Run(count);
}
