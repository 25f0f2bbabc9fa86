#include "services/ledger/app.h"

#include <algorithm>
#include <thread>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/obs/log.h"
#include "libs/obs/metrics.h"
#include "services/ledger/grpc_service.h"
#include "services/ledger/poster.h"
#include "services/ledger/store/sql_store.h"
#include "services/ledger/webhooks.h"

namespace tollhouse::ledger {
namespace {

// The longest the timer sleeps: a clock that jumps is noticed within it.
constexpr absl::Duration kTick = absl::Seconds(1);
constexpr absl::Duration kMaintainEvery = absl::Hours(1);

prometheus::Counter& EntryCounter(const char* outcome) {
  return obs::Counter("tollhouse_ledger_entries_total", "Journal entries by what became of them.",
                      {{"outcome", outcome}});
}

// Enough for posters, leases, reports and the timer at once.
constexpr int kConnections = 12;

sql::DatabaseSettings SettingsOf(const Config& config) {
  return {.database = config.database,
          .password_file = config.database_password_file,
          .application_name = "tollhouse-ledger",
          .connections = kConnections,
          .isolation = sql::Isolation::kReadCommitted};
}

void CheckServer(Store* store) {
  const absl::Status status = store->CheckServer();
  if (!status.ok()) obs::Warning("server_not_checked", {{"reason", ReasonOf(status)}});
}

}  // namespace

struct App::Parts {
  Parts(Config c, sql::OpenedDatabase d, std::unique_ptr<SqlStore> s,
        std::unique_ptr<InternalService> i, std::unique_ptr<Poster> p)
      : config(std::move(c)),
        database(std::move(d)),
        store(std::move(s)),
        poster(std::move(p)),
        internal(std::move(i)),
        log(database.database.get(), "ledger", config.clock),
        admin(MakeAdminService(store.get(), internal.get(), config.authenticator, &log)),
        webhooks(std::make_unique<WebhookSender>(store.get(), config.clock)),
        auditor(std::make_unique<Auditor>(store.get(), config.audit)) {
    store->SetDeliveriesAdded([this] { webhooks->Wake(); });
  }

  static void CountOn(prometheus::Counter& counter, int64_t& counted, int64_t now) {
    if (now > counted) counter.Increment(now - counted);
    counted = now;
  }

  // What has happened in the store since the last time.
  void UpdateMetrics() {
    const StoreCounters now = store->counters();
    CountOn(posted, counted.entries_posted, now.entries_posted);
    CountOn(duplicate, counted.entries_duplicate, now.entries_duplicate);
    CountOn(conflicting, counted.entries_conflicting, now.entries_conflicting);
    CountOn(rejected, counted.entries_rejected, now.entries_rejected);
    CountOn(above_hold, counted.entries_above_hold, now.entries_above_hold);
    CountOn(resolved_auto, counted.suspense_resolved_auto, now.suspense_resolved_auto);
    CountOn(cover_missing, counted.cover_missing, now.cover_missing);
  }

  // Ends raises and resolves old suspense when their time comes.
  void RunTimer() {
    absl::Time maintain_at = absl::Now() + kMaintainEvery;
    for (;;) {
      const absl::StatusOr<std::optional<absl::Time>> next = store->EndRaises();
      absl::Duration sleep = kTick;
      if (!next.ok()) {
        obs::Error("raises_not_ended", {{"reason", next.status().ToString()}});
      } else if (next->has_value()) {
        sleep = std::clamp(**next - config.clock->Wall(), absl::ZeroDuration(), kTick);
      }
      if (config.resolve_suspense_after.has_value()) {
        const absl::StatusOr<int64_t> resolved =
            store->ResolveOldSuspense(config.clock->Wall() - *config.resolve_suspense_after);
        if (resolved.ok() && *resolved > 0) {
          obs::Warning("suspense_resolved_as_estimate", {{"holds", *resolved}});
        }
      }
      if (absl::Now() >= maintain_at) {
        maintain_at = absl::Now() + kMaintainEvery;
        const absl::Status maintained = store->Maintain();
        if (!maintained.ok()) obs::Error("store_not_maintained", {{"reason", maintained.ToString()}});
      }
      UpdateMetrics();
      absl::MutexLock lock(&mutex);
      if (mutex.AwaitWithTimeout(absl::Condition(&stopping), sleep)) return;
    }
  }

  const Config config;
  const sql::OpenedDatabase database;
  const std::unique_ptr<SqlStore> store;
  const std::unique_ptr<Poster> poster;
  const std::unique_ptr<InternalService> internal;
  audit::Log log;
  const std::unique_ptr<grpc::Service> admin;
  const std::unique_ptr<WebhookSender> webhooks;
  const std::unique_ptr<Auditor> auditor;
  prometheus::Counter& posted = EntryCounter("posted");
  prometheus::Counter& duplicate = EntryCounter("duplicate");
  prometheus::Counter& conflicting = EntryCounter("conflict");
  prometheus::Counter& rejected = EntryCounter("rejected");
  prometheus::Counter& above_hold =
      obs::Counter("tollhouse_ledger_entries_above_hold_total",
                   "Settlements that cost more than their hold.");
  prometheus::Counter& resolved_auto =
      obs::Counter("tollhouse_ledger_suspense_estimated_total",
                   "Holds in suspense that were booked at their full amount because nobody knew better.");
  prometheus::Counter& cover_missing =
      obs::Counter("tollhouse_ledger_cover_missing_total",
                   "Postings that named more than their epoch held: a bug somewhere.");
  StoreCounters counted;  // what the metrics have; timer thread only
  absl::Mutex mutex;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::thread timer;
};

absl::Status Migrate(const Config& config) {
  return sql::MigrateDatabase(SettingsOf(config), StoreSchema());
}

App::App(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(Config config) {
  TH_ASSIGN_OR_RETURN(sql::OpenedDatabase database,
                      sql::OpenDatabase(SettingsOf(config), StoreSchema()));
  TH_ASSIGN_OR_RETURN(std::unique_ptr<SqlStore> store,
                      SqlStore::Open(database.database.get(), config.clock));
  auto poster = std::make_unique<Poster>(store.get(), Poster::ThreadsFor(*database.database));
  TH_ASSIGN_OR_RETURN(
      std::unique_ptr<InternalService> internal,
      MakeInternalService(store.get(), poster.get(), config.acknowledge_timeout,
                          {.database = database.database.get(),
                           .postgres = database.postgres,
                           .connected = [s = store.get()] { CheckServer(s); }}));
  return std::unique_ptr<App>(
      new App(std::make_unique<Parts>(std::move(config), std::move(database), std::move(store),
                                      std::move(internal), std::move(poster))));
}

void App::RegisterInternal(grpc::ServerBuilder& builder) {
  builder.RegisterService(parts_->internal->service());
}

void App::RegisterAdmin(grpc::ServerBuilder& builder) {
  builder.RegisterService(parts_->admin.get());
}

absl::Status App::Start() {
  parts_->timer = std::thread([parts = parts_.get()] { parts->RunTimer(); });
  parts_->webhooks->Start();
  parts_->auditor->Start();
  return absl::OkStatus();
}

void App::Stop() {
  {
    absl::MutexLock lock(&parts_->mutex);
    parts_->stopping = true;
  }
  if (parts_->timer.joinable()) parts_->timer.join();
  parts_->webhooks->Stop();
  parts_->auditor->Stop();
  parts_->internal->Shutdown();
  parts_->poster->Stop();
}

}  // namespace tollhouse::ledger
