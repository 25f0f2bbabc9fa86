#include "services/edge/edge_testing.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <set>
#include <utility>

#include "libs/base/error.h"
#include "libs/crypto/virtual_key.h"
#include "libs/rpc/status.h"
#include "libs/rpc/watch_hub.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/router/v1/router.grpc.pb.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"

namespace tollhouse::edge {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(10);

}  // namespace

// --- the services --------------------------------------------------------------------------------

namespace {

using enforcer::v1::Operation;
using enforcer::v1::OperationResult;

constexpr int64_t kOrg = 1;
constexpr int64_t kKeyAccount = 3;

}  // namespace

struct FakeServices::Impl {
  using LedgerHub = rpc::WatchHub<ledger::v1::WatchRequest, ledger::v1::WatchResponse>;
  using VaultHub = rpc::WatchHub<vault::v1::WatchRequest, vault::v1::WatchResponse>;
  using RouterHub = rpc::WatchHub<router::v1::WatchRequest, router::v1::WatchResponse>;

  explicit Impl(FakeServices* o)
      : owner(o),
        ledger_hub([this] { return LedgerSnapshot(); }),
        vault_hub([this] { return VaultSnapshot(); }),
        router_hub([this] {
          router::v1::WatchResponse response;
          *response.mutable_policy() = owner->policy;
          return response;
        }),
        enforcer_service(this),
        ledger_service(this),
        vault_service(this),
        router_service(this) {
    ledger::v1::AccountView* org = account.add_chain();
    org->set_account_id(kOrg);
    org->set_kind(common::v1::ACCOUNT_KIND_ORG);
    org->set_path("acme");
    ledger::v1::AccountView* team = account.add_chain();
    team->set_account_id(2);
    team->set_kind(common::v1::ACCOUNT_KIND_TEAM);
    team->set_path("acme/payments");
    ledger::v1::AccountView* key = account.add_chain();
    key->set_account_id(kKeyAccount);
    key->set_kind(common::v1::ACCOUNT_KIND_KEY);
    key->set_path("acme/payments/laptop");

    grpc::ServerBuilder builder;
    builder.RegisterService(&enforcer_service);
    builder.RegisterService(&ledger_service);
    builder.RegisterService(&vault_service);
    builder.RegisterService(&router_service);
    server = builder.BuildAndStart();
    channel = server->InProcessChannel({});
  }

  void Book(const ledger::v1::PostRequest& request, ledger::v1::PostResponse* response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (const ledger::v1::Entry& entry : request.entries()) {
      ledger::v1::PostResult* result = response->add_results();
      result->set_hold_id(entry.hold_id());
      result->set_posted_nanousd(entry.cost_nanousd());
      if (posted_holds.insert(entry.hold_id()).second) {
        result->set_outcome(ledger::v1::POST_OUTCOME_POSTED);
        entry_of_request[entry.request_id()] = entries.size();
        entries.push_back(entry);
      } else {
        result->set_outcome(ledger::v1::POST_OUTCOME_DUPLICATE);
      }
    }
  }

  ~Impl() {
    ledger_hub.Shutdown();
    vault_hub.Shutdown();
    router_hub.Shutdown();
    server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  }

  ledger::v1::WatchResponse LedgerSnapshot() {
    absl::MutexLock lock(&mutex);
    ledger::v1::WatchResponse response;
    response.set_snapshot(true);
    ledger::v1::Epoch* newest = response.add_epochs();
    newest->set_org_id(kOrg);
    newest->set_epoch(epoch);
    response.set_replay_generation(replay_generation);
    return response;
  }

  vault::v1::WatchResponse VaultSnapshot() {
    vault::v1::WatchResponse response;
    response.set_snapshot(true);
    response.mutable_hash_keys()->set_checksum_key("checksum key");
    response.mutable_hash_keys()->set_secret_key("secret key");
    return response;
  }

  OperationResult Apply(const Operation& operation) {
    absl::MutexLock lock(&mutex);
    OperationResult result;
    result.set_sequence(operation.sequence());
    if (operation.has_reserve()) {
      const enforcer::v1::Reserve& reserve = operation.reserve();
      reserves.push_back(reserve);
      if (!refusals.empty()) {
        *result.mutable_refused() = refusals.front();
        refusals.pop_front();
        return result;
      }
      const int64_t amount = reserve.strict_nanousd();
      if (spent + Held() + amount > budget) {
        enforcer::v1::Refused* refused = result.mutable_refused();
        refused->set_reason(enforcer::v1::REASON_BUDGET_EXHAUSTED);
        enforcer::v1::Violation* violation = refused->add_violations();
        violation->set_reason(enforcer::v1::REASON_BUDGET_EXHAUSTED);
        violation->set_budget("acme/payments#month");
        violation->set_limit_nanousd(budget);
        violation->set_spent_nanousd(spent);
        violation->set_needed_nanousd(amount);
        return result;
      }
      holds[reserve.hold_id()] = amount;
      if (std::exchange(lose_next_hold, false)) {
        result.mutable_failed()->set_reason("STORE_UNAVAILABLE");
        result.mutable_failed()->set_maybe_held_epoch(epoch);
        return result;
      }
      enforcer::v1::Admitted* admitted = result.mutable_admitted();
      admitted->set_epoch(epoch);
      common::v1::HeldBudget* held_budget = admitted->add_budgets();
      held_budget->set_budget_id(1);
      held_budget->set_period("2026-11@UTC");
      held_budget->set_amount_nanousd(amount);
      admitted->set_tightest_budget("acme/payments#month");
      admitted->set_tightest_remaining_nanousd(budget - spent - Held());
      return result;
    }
    if (operation.has_settle()) {
      if (holds.erase(operation.settle().hold_id()) > 0) {
        spent += operation.settle().actual_nanousd();
      }
    } else if (operation.has_void_()) {
      holds.erase(operation.void_().hold_id());
    } else if (operation.has_acknowledge()) {
      acknowledged.insert(operation.acknowledge().hold_id());
    } else if (operation.has_refresh()) {
      refreshes += holds.contains(operation.refresh().hold_id());
    }
    result.mutable_done();
    return result;
  }

  int64_t Held() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    int64_t sum = 0;
    for (const auto& [id, amount] : holds) sum += amount;
    return sum;
  }

  struct Enforcer final : enforcer::v1::EnforcerService::Service {
    explicit Enforcer(Impl* i) : impl(i) {}
    grpc::Status Session(grpc::ServerContext* context,
                         grpc::ServerReaderWriter<enforcer::v1::SessionResponse,
                                                  enforcer::v1::SessionRequest>* stream) override {
      {
        absl::MutexLock lock(&impl->mutex);
        impl->sessions.insert(context);
      }
      const grpc::Status status = Converse(stream);
      absl::MutexLock lock(&impl->mutex);
      impl->sessions.erase(context);
      return status;
    }
    grpc::Status ReadBudgetHolds(grpc::ServerContext*, const enforcer::v1::ReadBudgetHoldsRequest* request,
                                 enforcer::v1::GetBudgetHoldsResponse* response) override {
      for (int64_t id : request->budget_ids()) {
        auto* held = response->add_held();
        held->set_budget_id(id);
        held->set_period("2026-11@UTC");
        held->set_held_nanousd(50);
      }
      return grpc::Status::OK;
    }
    grpc::Status Converse(grpc::ServerReaderWriter<enforcer::v1::SessionResponse,
                                                   enforcer::v1::SessionRequest>* stream) {
      enforcer::v1::SessionRequest request;
      bool first = true;
      while (stream->Read(&request)) {
        if (first && request.edge().edge_id().empty()) {
          return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "no edge");
        }
        first = false;
        enforcer::v1::SessionResponse response;
        for (const Operation& operation : request.operations()) {
          {
            absl::MutexLock lock(&impl->mutex);
            if (impl->mute_enforcer) {
              impl->muted.push_back(operation);
              continue;
            }
          }
          *response.add_results() = impl->Apply(operation);
        }
        if (response.results_size() > 0 && !stream->Write(response)) break;
      }
      return grpc::Status::OK;
    }
    Impl* const impl;
  };

  struct Ledger final
      : ledger::v1::LedgerService::WithCallbackMethod_Watch<ledger::v1::LedgerService::Service> {
    explicit Ledger(Impl* i) : impl(i) {}
    grpc::ServerBidiReactor<ledger::v1::WatchRequest, ledger::v1::WatchResponse>* Watch(
        grpc::CallbackServerContext* context) override {
      return impl->ledger_hub.Serve(context);
    }
    grpc::Status GetBudgets(grpc::ServerContext*, const ledger::v1::GetBudgetsRequest* request,
                            ledger::v1::GetBudgetsResponse* response) override {
      ledger::v1::Budget* budget = response->add_budgets();
      budget->set_budget_id(request->account_id());  // any: it comes back in the next question
      budget->set_id("acme#month");
      budget->set_path("acme");
      budget->set_period("2026-11@UTC");
      budget->set_limit_nanousd(1000);
      budget->set_hard_pct(100);
      budget->set_spent_nanousd(300);
      budget->set_available_nanousd(700);
      return grpc::Status::OK;
    }
    grpc::Status ResolveAccount(grpc::ServerContext*,
                                const ledger::v1::ResolveAccountRequest* request,
                                ledger::v1::ResolveAccountResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      const auto& chain = impl->account.chain();
      const bool known = request->by_case() == ledger::v1::ResolveAccountRequest::kPath
                             ? !chain.empty() && chain[chain.size() - 1].path() == request->path()
                             : request->account_id() == kKeyAccount;
      if (!known) {
        return rpc::ToGrpc(MakeError(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "none"));
      }
      *response = impl->account;
      return grpc::Status::OK;
    }
    grpc::Status ResolveAccounts(grpc::ServerContext*,
                                 const ledger::v1::ResolveAccountsRequest* request,
                                 ledger::v1::ResolveAccountsResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      if (request->account_ids_size() == 0) return grpc::Status::OK;
      int64_t parent = 0;
      for (const ledger::v1::AccountView& view : impl->account.chain()) {
        ledger::v1::ResolvedAccount* account = response->add_accounts();
        *account->mutable_account() = view;
        account->set_parent_id(parent);
        parent = view.account_id();
      }
      return grpc::Status::OK;
    }
    grpc::Status Post(
        grpc::ServerContext* context,
        grpc::ServerReaderWriter<ledger::v1::PostResponse, ledger::v1::PostRequest>* stream)
        override {
      {
        absl::MutexLock lock(&impl->mutex);
        impl->sessions.insert(context);
      }
      const grpc::Status status = Take(stream);
      absl::MutexLock lock(&impl->mutex);
      impl->sessions.erase(context);
      return status;
    }
    grpc::Status Take(
        grpc::ServerReaderWriter<ledger::v1::PostResponse, ledger::v1::PostRequest>* stream) {
      ledger::v1::PostRequest request;
      while (stream->Read(&request)) {
        ledger::v1::PostResponse response;
        {
          absl::MutexLock lock(&impl->mutex);
          if (impl->mute_post) continue;
          impl->Book(request, &response);
        }
        if (!stream->Write(response)) break;
      }
      return grpc::Status::OK;
    }
    grpc::Status PostBatch(grpc::ServerContext*, const ledger::v1::PostRequest* request,
                           ledger::v1::PostResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      impl->Book(*request, response);
      return grpc::Status::OK;
    }
    grpc::Status AnnounceHolds(grpc::ServerContext*,
                               const ledger::v1::AnnounceHoldsRequest* request,
                               ledger::v1::AnnounceHoldsResponse*) override {
      absl::MutexLock lock(&impl->mutex);
      impl->announcements.push_back(*request);
      impl->pending_epoch = 0;
      return grpc::Status::OK;
    }
    grpc::Status ListPendingAnnouncements(
        grpc::ServerContext*, const ledger::v1::ListPendingAnnouncementsRequest*,
        ledger::v1::ListPendingAnnouncementsResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      if (impl->pending_epoch > 0) {
        ledger::v1::Epoch* waiting = response->add_epochs();
        waiting->set_org_id(kOrg);
        waiting->set_epoch(impl->pending_epoch);
      }
      for (const ledger::v1::Entry& hold : impl->expired) *response->add_expired() = hold;
      return grpc::Status::OK;
    }
    Impl* const impl;
  };

  struct Vault final
      : vault::v1::VaultService::WithCallbackMethod_Watch<vault::v1::VaultService::Service> {
    explicit Vault(Impl* i) : impl(i) {}
    grpc::ServerBidiReactor<vault::v1::WatchRequest, vault::v1::WatchResponse>* Watch(
        grpc::CallbackServerContext* context) override {
      return impl->vault_hub.Serve(context);
    }
    grpc::Status LookupKeys(grpc::ServerContext*, const vault::v1::LookupKeysRequest* request,
                            vault::v1::LookupKeysResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      ++impl->lookups;
      for (const std::string& id : request->key_ids()) {
        const auto it = impl->keys.find(id);
        if (it != impl->keys.end()) *response->add_keys() = it->second;
      }
      return grpc::Status::OK;
    }
    grpc::Status ReportKeyUse(grpc::ServerContext*, const vault::v1::ReportKeyUseRequest* request,
                              vault::v1::ReportKeyUseResponse*) override {
      absl::MutexLock lock(&impl->mutex);
      for (const vault::v1::KeyUse& use : request->uses()) {
        impl->uses[use.key_id()] = use.unix_minutes();
      }
      return grpc::Status::OK;
    }
    grpc::Status GetCredential(grpc::ServerContext*, const vault::v1::GetCredentialRequest* request,
                               vault::v1::GetCredentialResponse* response) override {
      absl::MutexLock lock(&impl->mutex);
      if (impl->credentials.credentials_size() > 0) {
        *response = impl->credentials;
        return grpc::Status::OK;
      }
      vault::v1::LiveCredential* credential = response->add_credentials();
      credential->set_name("default");
      credential->set_version(1);
      credential->set_weight(1);
      credential->set_secret("provider-secret-of-" + request->provider());
      return grpc::Status::OK;
    }
    Impl* const impl;
  };

  struct Router final
      : router::v1::RouterService::WithCallbackMethod_Watch<router::v1::RouterService::Service> {
    explicit Router(Impl* i) : impl(i) {}
    grpc::ServerBidiReactor<router::v1::WatchRequest, router::v1::WatchResponse>* Watch(
        grpc::CallbackServerContext* context) override {
      return impl->router_hub.Serve(context);
    }
    Impl* const impl;
  };

  FakeServices* const owner;
  absl::Mutex mutex;
  int64_t budget ABSL_GUARDED_BY(mutex) = int64_t{1'000'000'000'000};
  int64_t spent ABSL_GUARDED_BY(mutex) = 0;
  int64_t epoch ABSL_GUARDED_BY(mutex) = 1;
  int64_t pending_epoch ABSL_GUARDED_BY(mutex) = 0;
  int64_t replay_generation ABSL_GUARDED_BY(mutex) = 0;
  bool lose_next_hold ABSL_GUARDED_BY(mutex) = false;
  std::vector<ledger::v1::Entry> expired ABSL_GUARDED_BY(mutex);
  bool mute_enforcer ABSL_GUARDED_BY(mutex) = false;
  bool mute_post ABSL_GUARDED_BY(mutex) = false;
  int lookups ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, int64_t> uses ABSL_GUARDED_BY(mutex);
  vault::v1::GetCredentialResponse credentials ABSL_GUARDED_BY(mutex);

  int refreshes ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, int64_t> holds ABSL_GUARDED_BY(mutex);
  std::set<std::string> acknowledged ABSL_GUARDED_BY(mutex);
  std::vector<Operation> muted ABSL_GUARDED_BY(mutex);
  std::set<grpc::ServerContext*> sessions ABSL_GUARDED_BY(mutex);
  std::deque<enforcer::v1::Refused> refusals ABSL_GUARDED_BY(mutex);
  std::vector<enforcer::v1::Reserve> reserves ABSL_GUARDED_BY(mutex);
  std::vector<ledger::v1::Entry> entries ABSL_GUARDED_BY(mutex);
  std::set<std::string> posted_holds ABSL_GUARDED_BY(mutex);
  std::map<std::string, size_t> entry_of_request ABSL_GUARDED_BY(mutex);  // index of the newest
  std::vector<ledger::v1::AnnounceHoldsRequest> announcements ABSL_GUARDED_BY(mutex);
  std::map<std::string, vault::v1::KeyRecord> keys ABSL_GUARDED_BY(mutex);
  ledger::v1::ResolveAccountResponse account ABSL_GUARDED_BY(mutex);

  LedgerHub ledger_hub;
  VaultHub vault_hub;
  RouterHub router_hub;
  Enforcer enforcer_service;
  Ledger ledger_service;
  Vault vault_service;
  Router router_service;
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;
};

FakeServices::FakeServices() : impl_(std::make_unique<Impl>(this)) {}
FakeServices::~FakeServices() = default;

Channels FakeServices::channels() {
  return {impl_->channel, impl_->channel, impl_->channel, impl_->channel};
}

void FakeServices::SetBudget(int64_t nanousd) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->budget = nanousd;
}

int64_t FakeServices::spent() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->spent;
}

int64_t FakeServices::held() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->Held();
}

void FakeServices::SetEpoch(int64_t epoch) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->epoch = epoch;
}

void FakeServices::RefuseNext(enforcer::v1::Refused refused) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->refusals.push_back(std::move(refused));
}

void FakeServices::LoseNextHold() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->lose_next_hold = true;
}

void FakeServices::SetExpired(std::vector<ledger::v1::Entry> holds) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->expired = std::move(holds);
}

void FakeServices::MuteEnforcer(bool mute) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->mute_enforcer = mute;
}

void FakeServices::SetCredentials(vault::v1::GetCredentialResponse credentials) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->credentials = std::move(credentials);
}

void FakeServices::WaitLookups(int count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->lookups >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&enough), kTimeout);
}

int64_t FakeServices::WaitUse(const std::string& key_text) {
  const std::string id(crypto::ParseVirtualKey(key_text)->id);
  absl::MutexLock lock(&impl_->mutex);
  const auto told = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->uses.contains(id);
  };
  return impl_->mutex.AwaitWithTimeout(absl::Condition(&told), kTimeout) ? impl_->uses[id] : -1;
}

void FakeServices::RestartVaultWatches() {
  impl_->vault_hub.Restart(impl_->vault_hub.version() + 1);
}

void FakeServices::CutWatches() {
  impl_->ledger_hub.Shutdown();
  impl_->vault_hub.Shutdown();
}

int FakeServices::refreshes() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->refreshes;
}

void FakeServices::WaitRefreshes(int count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->refreshes >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout);
}

void FakeServices::BreakStreams() {
  absl::MutexLock lock(&impl_->mutex);
  for (grpc::ServerContext* session : impl_->sessions) session->TryCancel();
}

void FakeServices::MutePost(bool mute) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->mute_post = mute;
}

std::vector<enforcer::v1::Reserve> FakeServices::reserves() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->reserves;
}

std::vector<ledger::v1::Entry> FakeServices::WaitEntries(size_t count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->entries.size() >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout);
  return impl_->entries;
}

std::optional<ledger::v1::Entry> FakeServices::WaitEntry(const std::string& request_id) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->entry_of_request.contains(request_id);
  };
  if (!impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout)) return std::nullopt;
  return impl_->entries[impl_->entry_of_request[request_id]];
}

std::vector<ledger::v1::AnnounceHoldsRequest> FakeServices::WaitAnnouncements(size_t count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->announcements.size() >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout);
  return impl_->announcements;
}

void FakeServices::WaitReserves(size_t count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->reserves.size() + impl_->muted.size() >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout);
}

bool FakeServices::WaitAcknowledged(size_t count) {
  absl::MutexLock lock(&impl_->mutex);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->acknowledged.size() >= count;
  };
  impl_->mutex.AwaitWithTimeout(absl::Condition(&there), kTimeout);
  return impl_->acknowledged.size() == count;
}

void FakeServices::PublishEpoch(int64_t epoch) {
  ledger::v1::WatchResponse change;
  ledger::v1::Epoch* newest = change.add_epochs();
  newest->set_org_id(kOrg);
  newest->set_epoch(epoch);
  const int64_t version = impl_->ledger_hub.Publish(std::move(change));
  impl_->ledger_hub.WaitAcknowledged(version, kTimeout);
}

void FakeServices::SetPendingAnnouncement(int64_t epoch) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->pending_epoch = epoch;
}

void FakeServices::LoseEntries(int64_t replay_generation, bool tell) {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->entries.clear();
    impl_->posted_holds.clear();
    impl_->entry_of_request.clear();
    impl_->replay_generation = replay_generation;
  }
  if (!tell) return;
  ledger::v1::WatchResponse change;
  change.set_replay_generation(replay_generation);
  impl_->ledger_hub.Publish(std::move(change));
}

std::string FakeServices::AddKey(const std::function<void(vault::v1::KeyRecord*)>& edit) {
  crypto::NewVirtualKey made = crypto::MakeVirtualKey("checksum key");
  const auto parts = crypto::ParseVirtualKey(made.text.view());
  vault::v1::KeyRecord record;
  record.set_key_id(made.id);
  record.set_account_id(kKeyAccount);
  record.add_macs()->set_mac(
      std::string(crypto::AsBytes(crypto::MacOfSecret("secret key", parts->secret))));
  edit(&record);
  absl::MutexLock lock(&impl_->mutex);
  impl_->keys[made.id] = record;
  return std::string(made.text.view());
}

void FakeServices::RevokeKey(const std::string& key_text) {
  const std::string id(crypto::ParseVirtualKey(key_text)->id);
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->keys[id].set_disabled(true);
  }
  vault::v1::WatchResponse change;
  change.add_changed_key_ids(id);
  const int64_t version = impl_->vault_hub.Publish(std::move(change));
  impl_->vault_hub.WaitAcknowledged(version, kTimeout);
}

void FakeServices::SetAccount(
    const std::function<void(ledger::v1::ResolveAccountResponse*)>& edit) {
  {
    absl::MutexLock lock(&impl_->mutex);
    edit(&impl_->account);
  }
  ledger::v1::WatchResponse change;
  change.add_changed_account_ids(kOrg);
  const int64_t version = impl_->ledger_hub.Publish(std::move(change));
  impl_->ledger_hub.WaitAcknowledged(version, kTimeout);
}

int FakeServices::lookups() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->lookups;
}

}  // namespace tollhouse::edge
