#include "services/budget-enforcer/app.h"

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <unistd.h>

#include <array>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/status_macros.h"
#include "libs/base/uuid.h"
#include "libs/rpc/status.h"
#include "libs/rpc/watch_client.h"
#include "services/budget-enforcer/enforcer_metrics.h"
#include "services/budget-enforcer/grpc_ledger_client.h"
#include "services/budget-enforcer/grpc_service.h"
#include "services/budget-enforcer/store/memory_store.h"
#include "services/budget-enforcer/store/redis_store.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::enforcer {

using LedgerWatch = rpc::WatchClient<ledger::v1::WatchRequest, ledger::v1::WatchResponse>;

namespace {

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data() : "enforcer";
}

}  // namespace

struct App::Impl {
  Impl(Config the_config, std::unique_ptr<HoldStore> store, std::shared_ptr<grpc::Channel> channel)
      : config(std::move(the_config)),
        own_store(std::move(store)),
        stub(ledger::v1::LedgerService::NewStub(channel)),
        ledger(channel, config.ledger_timeout),
        enforcer(config.options, config.store != nullptr ? config.store : own_store.get(), &ledger,
                 config.clock),
        sessions(&enforcer),
        admin(&enforcer, config.authenticator,
              [this](const ledger::v1::ResolveAccountRequest& request) { return Resolve(request); }),
        watch(
            absl::StrCat("enforcer/", config.enforcer_id),
            [this](grpc::ClientContext* context, LedgerWatch::Reactor* reactor) {
              stub->async()->Watch(context, reactor);
            },
            [this](const ledger::v1::WatchResponse& change, std::function<void()> applied) {
              enforcer.ApplyRules(change, std::move(applied));
            },
            config.clock) {}

  absl::StatusOr<ledger::v1::ResolveAccountResponse> Resolve(
      const ledger::v1::ResolveAccountRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + config.ledger_timeout));
    ledger::v1::ResolveAccountResponse response;
    const grpc::Status status = stub->ResolveAccount(&context, request, &response);
    if (!status.ok()) return rpc::FromGrpc(status);
    return response;
  }

  void KeepTime() {
    while (true) {
      {
        absl::MutexLock lock(&mutex);
        mutex.AwaitWithTimeout(absl::Condition(&stopping), config.tick_interval);
        if (stopping) return;
      }
      RunDue();
    }
  }

  void RunDue() {
    enforcer.Tick();
    Metrics::Get().rules_staleness_seconds.Set(absl::ToDoubleSeconds(watch.Staleness()));
  }

  const Config config;
  const std::unique_ptr<HoldStore> own_store;
  const std::unique_ptr<ledger::v1::LedgerService::Stub> stub;
  GrpcLedgerClient ledger;
  Enforcer enforcer;
  SessionService sessions;
  AdminService admin;
  LedgerWatch watch;
  std::thread timer;
  absl::Mutex mutex;
  bool started ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
};

App::App(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(Config config, std::shared_ptr<grpc::Channel> ledger) {
  if (ledger == nullptr) return absl::InvalidArgumentError("the enforcer needs a channel to the ledger");
  if (config.enforcer_id.empty()) config.enforcer_id = HostName();
  config.options.instance =
      absl::StrCat(config.enforcer_id, "/", NewUuid(config.clock->Wall()).ToString());
  std::unique_ptr<HoldStore> store;
  if (config.store == nullptr && config.redis.uri.empty()) {
    store = std::make_unique<MemoryStore>(
        absl::StrCat("memory/", NewUuid(config.clock->Wall()).ToString()), config.core);
  } else if (config.store == nullptr) {
    RedisStoreOptions options;
    options.core = config.core;
    TH_ASSIGN_OR_RETURN(store, RedisStore::Create(config.redis, std::move(options)));
  }
  return std::unique_ptr<App>(
      new App(std::make_unique<Impl>(std::move(config), std::move(store), std::move(ledger))));
}

void App::RegisterInternal(grpc::ServerBuilder& builder) {
  builder.RegisterService(impl_->sessions.service());
}

void App::RegisterAdmin(grpc::ServerBuilder& builder) {
  builder.RegisterService(impl_->admin.service());
}

absl::Status App::Start() {
  {
    absl::MutexLock lock(&impl_->mutex);
    if (impl_->started || impl_->stopping) return absl::FailedPreconditionError("started before");
    impl_->started = true;
  }
  impl_->watch.Start();
  if (impl_->config.tick_interval > absl::ZeroDuration()) {
    impl_->timer = std::thread([this] { impl_->KeepTime(); });
  }
  return absl::OkStatus();
}

void App::Stop() {
  bool started;
  {
    absl::MutexLock lock(&impl_->mutex);
    if (std::exchange(impl_->stopping, true)) return;
    started = impl_->started;
  }
  if (impl_->timer.joinable()) impl_->timer.join();
  // Sessions first: their edges go on at another enforcer at once.
  impl_->sessions.Shutdown();
  impl_->enforcer.Drain(impl_->config.drain_timeout);
  if (started) impl_->watch.Stop();
  impl_->ledger.Stop();
}

bool App::WaitReady(absl::Duration timeout) { return impl_->watch.WaitSynced(timeout); }

std::string App::NotReady() const {
  return impl_->watch.WaitSynced(absl::ZeroDuration()) ? "" : "the ledger's budgets have not come yet";
}

void App::RunDue() { impl_->RunDue(); }

}  // namespace tollhouse::enforcer
