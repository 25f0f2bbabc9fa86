#include "services/edge/app.h"

#include <boost/asio/post.hpp>

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/uuid.h"
#include "libs/obs/log.h"
#include "services/edge/announcer.h"
#include "services/edge/gateway.h"
#include "services/edge/replayer.h"

namespace tollhouse::edge {
namespace {

constexpr int64_t kMaintenanceTicks = 50;  // of 100 ms

// Made anew by the kernel at each start of the machine; "" if it cannot be read.
std::string BootOfMachine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace

struct App::Impl {
  explicit Impl(const Config& c)
      : config(c), boot_id(NewUuid(c.clock->Wall()).ToString()), objects(c.objects_max) {}
  ~Impl() { Stop(); }

  absl::Status Create(Channels channels);
  absl::Status ReadIssuers();
  absl::Status Start();
  void Stop();
  void Tick();

  Config config;
  const std::string boot_id;
  Metrics metrics;
  ObjectOwners objects;
  TightRatioBook tight_ratios;
  std::unique_ptr<Journal> journal;
  // Loops go after lanes: connections belong to their contexts.
  std::vector<std::unique_ptr<IoLoop>> loops;
  std::unique_ptr<identity::Issuers> issuers;  // null: none are configured
  std::unique_ptr<Directory> directory;
  std::unique_ptr<PolicySource> policies;
  std::unique_ptr<Announcer> announcer;
  std::unique_ptr<Replayer> replayer;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::unique_ptr<Settler> settler;
  std::unique_ptr<UsageReader> usage;
  CallerAddresses callers;
  std::unique_ptr<AddressLimiter> limiter;
  std::unique_ptr<Gateway> gateway;
  std::unique_ptr<ServerTls> tls;  // null: plain HTTP
  std::unique_ptr<HttpServer> server;

  int64_t ticks = 0;
  bool was_full = false;
  std::atomic<bool> serving = false;
  std::atomic<bool> stopped = false;
};

absl::Status App::Impl::ReadIssuers() {
  if (config.issuers_file.empty()) return absl::OkStatus();
  std::ifstream file(config.issuers_file);
  std::ostringstream yaml;
  if (!file || !(yaml << file.rdbuf())) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ISSUERS",
                     absl::StrCat("cannot read ", config.issuers_file));
  }
  TH_ASSIGN_OR_RETURN(std::vector<identity::Issuer> list, identity::ParseIssuers(yaml.str(), identity::IssuerUse::kCalls));
  identity::IssuersOptions options;
  options.clock = config.clock;
  issuers = std::make_unique<identity::Issuers>(std::move(list), std::move(options));
  return issuers->Start();
}

absl::Status App::Impl::Create(Channels channels) {
  if (config.proxy_from_environment) ApplyProxyEnvironment(&config.upstream);
  if (mkdir(config.data_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return MakeError(absl::StatusCode::kUnavailable, "NO_DATA_DIR",
                     absl::StrCat("cannot create ", config.data_dir, ": ", std::strerror(errno)));
  }
  JournalOptions journal_options;
  journal_options.dir = config.data_dir + "/journal";
  journal_options.segment_bytes = config.journal_segment_bytes;
  journal_options.max_bytes = config.journal_bytes_max;
  journal_options.retention = config.journal_retention;
  journal_options.machine = BootOfMachine();
  journal_options.clock = config.clock;
  TH_ASSIGN_OR_RETURN(journal, Journal::Open(journal_options));

  const int threads =
      config.threads > 0 ? config.threads
                         : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int i = 0; i < threads; ++i) loops.push_back(std::make_unique<IoLoop>(config.clock));

  TH_RETURN_IF_ERROR(ReadIssuers());
  announcer = std::make_unique<Announcer>(
      channels.ledger, journal.get(), boot_id,
      [this](ledger::v1::Entry entry) {
        settler->Submit(std::make_shared<const ledger::v1::Entry>(std::move(entry)));
      },
      config.expired_interval);
  replayer = std::make_unique<Replayer>(
      channels.ledger, journal.get(),
      [this](const ledger::v1::Entry&, const ledger::v1::PostResult&) {
        metrics.ledger_refusals.Increment();
      });
  directory = std::make_unique<Directory>(
      channels.vault, channels.ledger, journal->edge_id(), loops, config.directory, issuers.get(),
      [this](const ledger::v1::WatchResponse& change) {
        if (change.snapshot() || change.epochs_size() > 0) {
          announcer->OnEpochs(change.snapshot(), {change.epochs().begin(), change.epochs().end()});
        }
        replayer->OnGeneration(change.replay_generation());
      },
      config.clock);
  policies = std::make_unique<PolicySource>(channels.router, journal->edge_id(), config.clock);
  settler = std::make_unique<Settler>(
      channels.ledger, journal.get(),
      [this](std::string_view hold_id, enforcer::v1::Operation operation) {
        // The last byte of a UUID is random.
        const size_t lane = static_cast<uint8_t>(hold_id.back()) % lanes.size();
        lanes[lane]->session->Send(std::move(operation));
      },
      [this](const ledger::v1::Entry&, const ledger::v1::PostResult&) {
        metrics.ledger_refusals.Increment();
      });
  usage = std::make_unique<UsageReader>(channels.ledger, channels.enforcer, config.directory.lookup_timeout);
  TH_ASSIGN_OR_RETURN(callers, CallerAddresses::Parse(config.trusted_proxies, config.address_header));
  limiter = std::make_unique<AddressLimiter>(config.requests_per_address_per_minute,
                                             static_cast<size_t>(std::max<int64_t>(1, config.addresses_max)));
  gateway = std::make_unique<Gateway>(Gateway::Parts{
      &config, &lanes, journal.get(), settler.get(), directory.get(), policies.get(), &metrics,
      &objects, &tight_ratios, usage.get(), &callers, limiter.get(), boot_id});
  for (const auto& loop : loops) {
    auto lane = std::make_unique<Lane>();
    lane->loop = loop.get();
    lane->pool = std::make_unique<UpstreamPool>(*loop, config.upstream);
    lane->session = std::make_unique<EnforcerSession>(
        *loop, channels.enforcer, journal->edge_id(), boot_id,
        [this](const enforcer::v1::Reserve& asked, const enforcer::v1::OperationResult& result) {
          gateway->VoidOrphan(asked, result);
        });
    loop->deadlines().OnTick([this, l = lane.get()] { gateway->RefreshHolds(*l); });
    lanes.push_back(std::move(lane));
  }
  loops[0]->deadlines().OnTick([this] { Tick(); });
  if (!config.tls_certificate_file.empty()) {
    TH_ASSIGN_OR_RETURN(
        tls, ServerTls::Load(config.tls_certificate_file, config.tls_key_file, config.clock));
  }
  TH_ASSIGN_OR_RETURN(server,
                      HttpServer::Listen(config.listen, config.http, loops, gateway.get(), tls.get()));
  return absl::OkStatus();
}

// Ten times a second on the first IO thread.
void App::Impl::Tick() {
  const bool full = journal->Full();
  if (full != was_full) {
    was_full = full;
    if (full) {
      obs::Error("journal_full", {{"bytes", journal->bytes()}});
    } else {
      obs::Info("journal_has_room_again", {{"bytes", journal->bytes()}});
    }
  }
  if (++ticks % kMaintenanceTicks != 0) return;
  journal->Maintain();
  for (ledger::v1::Entry& entry : journal->TakeDoubtful()) {
    settler->Submit(std::make_shared<const ledger::v1::Entry>(std::move(entry)));
  }
  metrics.journal_full.Set(full ? 1 : 0);
  metrics.journal_bytes.Set(static_cast<double>(journal->bytes()));
  metrics.unposted.Set(static_cast<double>(journal->unposted()));
  metrics.connections.Set(static_cast<double>(server->connections()));
  metrics.staleness_seconds.Set(absl::ToDoubleSeconds(directory->Staleness()));
}

absl::Status App::Impl::Start() {
  const absl::Time end = absl::Now() + config.start_timeout;
  for (const auto& loop : loops) loop->Start();
  for (const auto& lane : lanes) lane->session->Start();
  settler->Start();
  directory->Start();
  policies->Start();
  announcer->Start();
  replayer->Start();

  std::vector<ledger::v1::Entry> replayed = journal->TakeReplayed();
  if (!replayed.empty()) {
    obs::Info("journal_replayed", {{"unposted", static_cast<int64_t>(replayed.size())}});
  }
  for (ledger::v1::Entry& entry : replayed) {
    settler->Submit(std::make_shared<const ledger::v1::Entry>(std::move(entry)));
  }

  const auto missing = [](std::string_view what) {
    return MakeError(absl::StatusCode::kUnavailable, "START_TIMEOUT",
                     absl::StrCat("the edge did not get ", std::string(what), " in time"));
  };
  if (!directory->WaitSynced(end - absl::Now())) return missing("keys and accounts");
  if (!policies->WaitSynced(end - absl::Now())) return missing("a policy");
  absl::Status announced;
  do {
    announced = announcer->AnnouncePending(std::max(absl::Seconds(1), end - absl::Now()));
  } while (absl::IsUnavailable(announced) && absl::Now() < end);
  TH_RETURN_IF_ERROR(announced);
  server->Start();
  serving = true;
  obs::Info("edge_serving", {{"address", server->address()}, {"edge_id", journal->edge_id()}});
  return absl::OkStatus();
}

void App::Impl::Stop() {
  if (stopped.exchange(true) || server == nullptr) return;
  if (serving.exchange(false)) {
    if (!server->Drain(config.shutdown_time)) {
      obs::Warning("requests_cut_off", {{"connections", server->connections()}});
    }
    if (!settler->WaitIdle(std::min(config.shutdown_time, absl::Seconds(5)))) {
      obs::Warning("settlements_wait_in_journal", {{"entries", settler->backlog()}});
    }
    for (const auto& lane : lanes) lane->session->WaitIdle(absl::Seconds(1));
  } else {
    server->Drain(absl::ZeroDuration());
  }
  directory->Stop();
  usage->Stop();
  if (issuers != nullptr) issuers->Stop();
  policies->Stop();
  announcer->Stop();
  replayer->Stop();
  settler->Stop();
  for (const auto& lane : lanes) lane->session->Stop();
  for (const auto& loop : loops) loop->Stop();
  journal->Close();
}

App::App(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(const Config& config, Channels channels) {
  auto impl = std::make_unique<Impl>(config);
  TH_RETURN_IF_ERROR(impl->Create(std::move(channels)));
  return std::unique_ptr<App>(new App(std::move(impl)));
}

absl::Status App::Start() { return impl_->Start(); }
void App::Stop() { impl_->Stop(); }
std::string App::url() const {
  return absl::StrCat(impl_->tls == nullptr ? "http://" : "https://", impl_->server->address());
}
const std::string& App::edge_id() const { return impl_->journal->edge_id(); }

std::string App::NotReady() const {
  if (!impl_->serving) return "not serving";
  if (impl_->policies->Current() == nullptr) return "no policy";
  if (impl_->journal->Full()) return "journal full";
  if (impl_->directory->Staleness() > impl_->config.directory.max_staleness) {
    return "cut off from vault or ledger";
  }
  return "";
}

}  // namespace tollhouse::edge
