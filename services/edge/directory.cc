#include "services/edge/directory.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/util/time_util.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/hmac_key.h"
#include "libs/crypto/virtual_key.h"
#include "libs/identity/token.h"
#include "libs/rpc/watch_client.h"
#include "services/edge/key_cache.h"
#include "services/edge/unary_call.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"

namespace tollhouse::edge {
namespace {

using PrincipalOr = absl::StatusOr<PrincipalPtr>;
using AccountOr = absl::StatusOr<ledger::v1::ResolveAccountResponse>;
using CredentialsOr = absl::StatusOr<std::shared_ptr<const CredentialSet>>;

// Marks names of accounts among those of keys.
constexpr std::string_view kAccountPrefix = "account:";

constexpr int kKeysAtOnce = 1024;
constexpr size_t kUsesAtOnce = 4096;
constexpr size_t kUsesWaitingMax = 2'000'000;
constexpr int kResyncAttempts = 8;  // of a batch: what changes meanwhile makes it worthless
constexpr absl::Duration kWorkerPause = absl::Milliseconds(50);
constexpr absl::Duration kBulkTimeout = absl::Seconds(30);

absl::Status BadKey() {
  return MakeError(absl::StatusCode::kUnauthenticated, "BAD_KEY", "the API key is not valid");
}

absl::Status NoAccount() {
  return MakeError(absl::StatusCode::kPermissionDenied, "NO_ACCOUNT",
                   "the token is valid, but the account it stands for does not exist here");
}

absl::Status Unreachable(std::string_view reason, std::string_view who) {
  return MakeError(absl::StatusCode::kUnavailable, reason,
                   absl::StrCat("the ", std::string(who), " cannot be reached"));
}

// The keys that ids and secrets are checked with.
struct HashKeys {
  HashKeys(std::string_view checksum, std::string_view secret)
      : checksum_key(checksum), secret_key(secret) {}
  crypto::HmacKey checksum_key;
  crypto::HmacKey secret_key;
};

// Several coroutines of one thread that want the same look-up.
template <typename Result>
struct Flight {
  explicit Flight(asio::io_context& context) : landed(context, Timer::time_point::max()) {}
  Timer landed;
  std::optional<Result> result;
};

}  // namespace

struct Directory::Impl {
  using VaultWatch = rpc::WatchClient<vault::v1::WatchRequest, vault::v1::WatchResponse>;
  using LedgerWatch = rpc::WatchClient<ledger::v1::WatchRequest, ledger::v1::WatchResponse>;

  Impl(std::shared_ptr<grpc::ChannelInterface> vault_channel,
       std::shared_ptr<grpc::ChannelInterface> ledger_channel, std::string edge,
       const DirectoryOptions& o, identity::Issuers* i, OnLedger l, const Clock* c)
      : vault(vault::v1::VaultService::NewStub(vault_channel)),
        ledger(ledger::v1::LedgerService::NewStub(ledger_channel)),
        edge_id(std::move(edge)),
        options(o),
        issuers(i),
        on_ledger(std::move(l)),
        clock(c),
        cache(o.principals_max),
        vault_watch(
            "edge/" + edge_id,
            [this](grpc::ClientContext* context, VaultWatch::Reactor* reactor) {
              vault->async()->Watch(context, reactor);
            },
            [this](const vault::v1::WatchResponse& response) { ApplyVault(response); }, clock),
        ledger_watch(
            "edge/" + edge_id,
            [this](grpc::ClientContext* context, LedgerWatch::Reactor* reactor) {
              ledger->async()->Watch(context, reactor);
            },
            [this](const ledger::v1::WatchResponse& response) { ApplyLedger(response); }, clock) {}

  void ApplyVault(const vault::v1::WatchResponse& response) {
    absl::MutexLock lock(&mutex);
    ++generation;
    if (response.has_hash_keys()) {
      keys = std::make_shared<HashKeys>(response.hash_keys().checksum_key(),
                                        response.hash_keys().secret_key());
    }
    if (response.snapshot()) {
      Forget();
      unknown.clear();
      credentials.clear();
    }
    for (const std::string& id : response.changed_key_ids()) {
      cache.Erase(id);
      unknown.erase(id);
    }
    for (const std::string& provider : response.changed_credential_providers()) {
      credentials.erase(provider);
    }
  }

  void ApplyLedger(const ledger::v1::WatchResponse& response) {
    {
      absl::MutexLock lock(&mutex);
      ++generation;
      std::vector<int64_t> changed(response.changed_account_ids().begin(),
                                   response.changed_account_ids().end());
      for (const ledger::v1::AccountLimits& limits : response.limits()) {
        changed.push_back(limits.account_id());
      }
      if (response.snapshot()) {
        Forget();
      } else if (!changed.empty()) {
        cache.EraseAccounts(changed);
        absl::erase_if(subjects, [&](const auto& item) {
          const std::vector<int64_t> chain = item.second->account_ids();
          return std::any_of(changed.begin(), changed.end(), [&](int64_t id) {
            return std::find(chain.begin(), chain.end(), id) != chain.end();
          });
        });
      }
    }
    on_ledger(response);
  }

  // Whatever is known of keys and accounts may be old. What was in use is asked for again at once, by
  // the worker, so that not every caller has to wait for it.
  void Forget() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Prefetch(cache.Clear());
    subjects.clear();
  }

  void Prefetch(std::vector<KeyId> ids) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (to_resync.empty()) {
      to_resync = std::move(ids);
    } else {
      to_resync.insert(to_resync.end(), ids.begin(), ids.end());
    }
  }

  static absl::StatusOr<std::unique_ptr<Standing>> StandingOf(
      const vault::v1::KeyRecord& key, const std::vector<const ledger::v1::AccountView*>& chain,
      bool require_budget) {
    auto standing = Standing::From(key, chain, require_budget);
    if (!standing.ok()) {
      obs::Error("key_record_not_understood",
                 {{"key_id", key.key_id()}, {"message", Std(standing.status().message())}});
      return BadKey();
    }
    return standing;
  }

  // Whether a key adds nothing to what the accounts above it say.
  static bool IsPlain(const vault::v1::KeyRecord& key, const ledger::v1::AccountView& own) {
    return key.models().empty() && key.providers().empty() && key.endpoints().empty() &&
           key.networks().empty() && own.tags().empty() && own.tag_rules().empty() &&
           own.limits().ByteSizeLong() == 0;
  }

  PrincipalOr MakePrincipal(const vault::v1::KeyRecord& key,
                            const ledger::v1::ResolveAccountResponse& account) {
    std::vector<const ledger::v1::AccountView*> chain;
    for (const ledger::v1::AccountView& view : account.chain()) chain.push_back(&view);
    TH_ASSIGN_OR_RETURN(auto standing, StandingOf(key, chain, account.require_budget()));
    return PrincipalPtr(new Principal(key, *chain.back(), cache.Share(std::move(standing))));
  }

  // Of many keys, from what the vault and the ledger say of them.
  std::vector<PrincipalPtr> MakePrincipals(const vault::v1::LookupKeysResponse& found,
                                           const ledger::v1::ResolveAccountsResponse& accounts) {
    absl::flat_hash_map<int64_t, const ledger::v1::ResolvedAccount*> by_id;
    for (const ledger::v1::ResolvedAccount& account : accounts.accounts()) {
      by_id[account.account().account_id()] = &account;
    }
    std::vector<PrincipalPtr> principals;
    principals.reserve(static_cast<size_t>(found.keys_size()));
    std::vector<const ledger::v1::AccountView*> chain;
    // By parent: the standing of keys that have nothing of their own.
    absl::flat_hash_map<int64_t, std::shared_ptr<const Standing>> plain;
    for (const vault::v1::KeyRecord& key : found.keys()) {
      chain.clear();
      bool require_budget = false;
      auto it = by_id.find(key.account_id());
      while (it != by_id.end()) {
        chain.insert(chain.begin(), &it->second->account());
        require_budget = it->second->require_budget();  // the org's is the last
        if (it->second->parent_id() == 0) break;
        it = by_id.find(it->second->parent_id());
      }
      if (it == by_id.end()) continue;  // its account, or one above, is gone
      std::shared_ptr<const Standing>* known = nullptr;
      if (chain.size() > 1 && IsPlain(key, *chain.back())) {
        known = &plain[chain[chain.size() - 2]->account_id()];
      }
      std::shared_ptr<const Standing> shared = known == nullptr ? nullptr : *known;
      if (shared == nullptr) {
        auto standing = StandingOf(key, chain, require_budget);
        if (!standing.ok()) continue;
        shared = cache.Share(*std::move(standing));
        if (known != nullptr) *known = shared;
      }
      principals.emplace_back(new Principal(key, *chain.back(), std::move(shared)));
    }
    return principals;
  }

  absl::Duration Staleness() const {
    return std::max(vault_watch.Staleness(), ledger_watch.Staleness());
  }

  absl::Status Check(const Principal& principal, const HashKeys& hash_keys, std::string_view secret) {
    const absl::Time now = clock->Wall();
    if (!principal.HasMac(hash_keys.secret_key.Mac(secret), now)) return BadKey();
    if (principal.revoked()) {
      return MakeError(absl::StatusCode::kUnauthenticated, "KEY_REVOKED",
                       "the API key has been revoked");
    }
    if (principal.disabled()) {
      return MakeError(absl::StatusCode::kUnauthenticated, "KEY_DISABLED",
                       "the API key has been disabled");
    }
    if (principal.ExpiredAt(now)) {
      return MakeError(absl::StatusCode::kUnauthenticated, "KEY_EXPIRED",
                       "the API key has expired");
    }
    const int64_t minutes = absl::ToUnixSeconds(now) / 60;
    if (!principal.key_id().empty() && principal.NoteUse(minutes, absl::ToInt64Minutes(options.use_resolution))) {
      absl::MutexLock lock(&uses_mutex);
      if (uses.size() < kUsesWaitingMax) uses.emplace_back(&principal, minutes);
    }
    return absl::OkStatus();
  }

  Task<AccountOr> Resolve(IoLoop& loop, ledger::v1::ResolveAccountRequest request) {
    auto account = co_await CallUnary<ledger::v1::ResolveAccountResponse>(
        loop, calls, options.lookup_timeout, std::move(request),
        [this](auto... args) { ledger->async()->ResolveAccount(args...); });
    if (account.ok() && account->chain_size() > 0) co_return account;
    if (account.ok() || absl::IsNotFound(account.status())) co_return NoAccount();
    co_return Unreachable("LEDGER_UNAVAILABLE", "ledger");
  }

  Task<PrincipalOr> ResolveKey(IoLoop& loop, std::string id) {
    vault::v1::LookupKeysRequest request;
    request.add_key_ids(id);
    auto found = co_await CallUnary<vault::v1::LookupKeysResponse>(
        loop, calls, options.lookup_timeout, std::move(request),
        [this](auto... args) { vault->async()->LookupKeys(args...); });
    if (!found.ok()) co_return Unreachable("VAULT_UNAVAILABLE", "key vault");
    if (found->keys_size() == 0) co_return BadKey();
    ledger::v1::ResolveAccountRequest resolve;
    resolve.set_account_id(found->keys(0).account_id());
    auto account = co_await Resolve(loop, std::move(resolve));
    if (account.ok()) co_return MakePrincipal(found->keys(0), *account);
    if (absl::IsPermissionDenied(account.status())) co_return BadKey();
    co_return account.status();
  }

  // Of somebody an identity provider vouches for.
  Task<PrincipalOr> ResolvePath(IoLoop& loop, std::string path) {
    ledger::v1::ResolveAccountRequest resolve;
    resolve.set_path(path);
    auto account = co_await Resolve(loop, std::move(resolve));
    if (account.ok()) co_return MakePrincipal({}, *account);
    co_return account.status();
  }

  // `name`: a key's id, or kAccountPrefix and an account's path.
  Task<PrincipalOr> LookUp(IoLoop& loop, std::string name) {
    // What changes while the look-up is under way makes it worthless: once more then.
    for (int round = 0; round < 3; ++round) {
      uint64_t before;
      {
        absl::MutexLock lock(&mutex);
        before = generation;
      }
      PrincipalOr result = BadKey();
      if (name.starts_with(kAccountPrefix)) {
        result = co_await ResolvePath(loop, name.substr(kAccountPrefix.size()));
      } else {
        result = co_await ResolveKey(loop, name);
      }
      if (absl::IsUnavailable(result.status())) co_return result;
      absl::MutexLock lock(&mutex);
      if (generation != before) continue;
      if (result.ok()) {
        if (name.starts_with(kAccountPrefix)) {
          if (subjects.size() >= options.tokens_max) subjects.clear();
          subjects[name] = *result;
        } else {
          cache.Put(*result);
        }
      } else {
        if (unknown.size() >= options.unknown_max) unknown.clear();
        unknown[name] = clock->Monotonic() + options.unknown_ttl;
      }
      co_return result;
    }
    co_return MakeError(absl::StatusCode::kUnavailable, "KEYS_STALE",
                        "the API key's record is changing");
  }

  // Whether a name was looked for in vain a moment ago.
  bool Unknown(std::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const auto it = unknown.find(Absl(name));
    return it != unknown.end() && clock->Monotonic() < it->second;
  }

  std::shared_ptr<const HashKeys> CurrentKeys() {
    absl::MutexLock lock(&mutex);
    return keys;
  }

  // The account path that a token of an identity provider stands for. Tokens are verified once.
  absl::StatusOr<std::string> VerifyToken(const std::string& text) {
    const std::string hash(crypto::AsBytes(crypto::Sha256(text)));
    const absl::Time now = clock->Wall();
    {
      absl::MutexLock lock(&mutex);
      if (const auto it = tokens.find(hash); it != tokens.end() && now < it->second.expires_at) {
        return it->second.account;
      }
    }
    TH_ASSIGN_OR_RETURN(const identity::Identity identity, issuers->Verify(text));
    absl::MutexLock lock(&mutex);
    if (tokens.size() >= options.tokens_max) tokens.clear();
    tokens[hash] = identity;
    return identity.account;
  }

  Task<PrincipalOr> AuthenticateToken(IoLoop& loop, std::string text) {
    const auto account = VerifyToken(text);
    if (!account.ok()) co_return account.status();
    const std::string name = absl::StrCat(Absl(kAccountPrefix), *account);
    {
      absl::MutexLock lock(&mutex);
      if (const auto it = subjects.find(name); it != subjects.end()) co_return it->second;
      if (Unknown(name)) co_return NoAccount();
    }
    co_return co_await Find(loop, name);
  }

  Task<PrincipalOr> Find(IoLoop& loop, std::string id) {
    auto& flights = principal_flights[&loop];
    if (const auto it = flights.find(id); it != flights.end()) {
      const std::shared_ptr<Flight<PrincipalOr>> flight = it->second;
      co_await flight->landed.async_wait(kAwait);
      co_return flight->result.value_or(Unreachable("VAULT_UNAVAILABLE", "key vault"));
    }
    auto flight = std::make_shared<Flight<PrincipalOr>>(loop.context());
    flights[id] = flight;
    flight->result = co_await LookUp(loop, id);
    flights.erase(id);
    flight->landed.cancel();
    co_return *flight->result;
  }

  // --- what the worker does

  void Work() {
    absl::Time report_at = absl::Now() + options.use_report_interval;
    for (;;) {
      {
        absl::MutexLock lock(&worker_mutex);
        worker_mutex.AwaitWithTimeout(absl::Condition(&stopping), kWorkerPause);
        if (stopping) break;
      }
      std::vector<KeyId> ids;
      {
        absl::MutexLock lock(&mutex);
        ids.swap(to_resync);
      }
      if (!ids.empty()) Resync(ids);
      if (absl::Now() >= report_at) {
        ReportUses();
        report_at = absl::Now() + options.use_report_interval;
      }
    }
    ReportUses();
  }

  void Resync(const std::vector<KeyId>& ids) {
    const absl::Time begin = absl::Now();
    for (size_t i = 0; i < ids.size(); i += kKeysAtOnce) {
      {
        absl::MutexLock lock(&worker_mutex);
        const auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_mutex) {
          return stopping || batches < options.resync_parallel;
        };
        worker_mutex.Await(absl::Condition(&room));
        if (stopping) return;
        ++batches;
      }
      auto request = std::make_shared<vault::v1::LookupKeysRequest>();
      for (size_t k = i; k < std::min(ids.size(), i + kKeysAtOnce); ++k) {
        request->add_key_ids(ids[k].data(), kKeyIdSize);
      }
      FillBatch(std::move(request), kResyncAttempts);
    }
    absl::MutexLock lock(&worker_mutex);
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_mutex) { return batches == 0; };
    worker_mutex.Await(absl::Condition(&idle));
    obs::Info("keys_resynced", {{"keys", static_cast<int64_t>(ids.size())},
                                {"duration_ms", absl::ToInt64Milliseconds(absl::Now() - begin)}});
  }

  void BatchDone() {
    absl::MutexLock lock(&worker_mutex);
    --batches;
  }

  // What cannot be had is left to the callers who need it.
  void FillBatch(std::shared_ptr<const vault::v1::LookupKeysRequest> request, int attempts) {
    uint64_t before;
    {
      absl::MutexLock lock(&mutex);
      before = generation;
    }
    using Found = vault::v1::LookupKeysResponse;
    using Accounts = ledger::v1::ResolveAccountsResponse;
    calls.Start<Found>(
        kBulkTimeout, *request,
        [this](auto... args) { vault->async()->LookupKeys(args...); },
        [this, request, before, attempts](absl::StatusOr<Found> answer) {
          if (!answer.ok()) return BatchDone();
          auto found = std::make_shared<const Found>(*std::move(answer));
          ledger::v1::ResolveAccountsRequest resolve;
          for (const vault::v1::KeyRecord& key : found->keys()) {
            resolve.add_account_ids(key.account_id());
          }
          calls.Start<Accounts>(
              kBulkTimeout, std::move(resolve),
              [this](auto... args) { ledger->async()->ResolveAccounts(args...); },
              [this, request, before, attempts, found](absl::StatusOr<Accounts> accounts) {
                if (!accounts.ok()) return BatchDone();
                std::vector<PrincipalPtr> principals = MakePrincipals(*found, *accounts);
                bool again = false;
                {
                  absl::MutexLock lock(&mutex);
                  again = generation != before;
                  if (!again) {
                    for (PrincipalPtr& principal : principals) cache.Put(std::move(principal));
                  }
                }
                if (again && attempts > 1) return FillBatch(request, attempts - 1);
                BatchDone();
              });
        });
  }

  void ReportUses() {
    std::vector<std::pair<PrincipalPtr, int64_t>> told;
    {
      absl::MutexLock lock(&uses_mutex);
      told.swap(uses);
    }
    for (size_t i = 0; i < told.size(); i += kUsesAtOnce) {
      vault::v1::ReportKeyUseRequest request;
      for (size_t k = i; k < std::min(told.size(), i + kUsesAtOnce); ++k) {
        vault::v1::KeyUse* use = request.add_uses();
        use->set_key_id(std::string(told[k].first->key_id()));
        use->set_unix_minutes(told[k].second);
      }
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() +
                           absl::ToChronoMilliseconds(options.lookup_timeout));
      vault::v1::ReportKeyUseResponse response;
      const grpc::Status status = vault->ReportKeyUse(&context, request, &response);
      if (status.ok()) continue;
      obs::Warning("key_uses_not_reported", {{"keys", static_cast<int64_t>(told.size() - i)},
                                             {"message", status.error_message()}});
      absl::MutexLock lock(&uses_mutex);
      if (uses.size() + told.size() - i <= kUsesWaitingMax) {
        uses.insert(uses.end(), told.begin() + static_cast<int64_t>(i), told.end());
      }
      return;
    }
  }

  const std::unique_ptr<vault::v1::VaultService::Stub> vault;
  const std::unique_ptr<ledger::v1::LedgerService::Stub> ledger;
  const std::string edge_id;
  const DirectoryOptions options;
  identity::Issuers* const issuers;  // null: virtual keys only
  const OnLedger on_ledger;
  const Clock* const clock;

  absl::Mutex mutex;
  uint64_t generation ABSL_GUARDED_BY(mutex) = 0;  // changes applied
  std::shared_ptr<const HashKeys> keys ABSL_GUARDED_BY(mutex);
  KeyCache cache;  // put into under `mutex`
  // By kAccountPrefix and path: those whom identity providers vouch for.
  absl::flat_hash_map<std::string, PrincipalPtr> subjects ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, absl::Duration> unknown ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, identity::Identity> tokens ABSL_GUARDED_BY(mutex);  // by hash
  struct CachedCredential {
    std::string origin;
    std::shared_ptr<const CredentialSet> set;
  };
  absl::flat_hash_map<std::string, CachedCredential> credentials ABSL_GUARDED_BY(mutex);
  std::vector<KeyId> to_resync ABSL_GUARDED_BY(mutex);  // ids of keys

  absl::Mutex uses_mutex;
  std::vector<std::pair<PrincipalPtr, int64_t>> uses ABSL_GUARDED_BY(uses_mutex);  // unix minutes

  // Fills the cache again and reports uses.
  absl::Mutex worker_mutex;
  bool stopping ABSL_GUARDED_BY(worker_mutex) = false;
  int batches ABSL_GUARDED_BY(worker_mutex) = 0;  // of a resync that are under way
  std::thread worker;

  // One map per IO thread, made before they run, each touched by its thread only.
  std::map<IoLoop*, absl::flat_hash_map<std::string, std::shared_ptr<Flight<PrincipalOr>>>>
      principal_flights;

  rpc::UnaryCalls calls;
  VaultWatch vault_watch;  // last: their callbacks use the rest
  LedgerWatch ledger_watch;
};

Directory::Directory(std::shared_ptr<grpc::ChannelInterface> vault,
                     std::shared_ptr<grpc::ChannelInterface> ledger, std::string edge_id,
                     const std::vector<std::unique_ptr<IoLoop>>& loops,
                     const DirectoryOptions& options, identity::Issuers* issuers,
                     OnLedger on_ledger, const Clock* clock)
    : impl_(std::make_unique<Impl>(std::move(vault), std::move(ledger), std::move(edge_id), options,
                                   issuers, std::move(on_ledger), clock)) {
  for (const auto& loop : loops) impl_->principal_flights[loop.get()];
}

Directory::~Directory() { Stop(); }

void Directory::Start() {
  impl_->vault_watch.Start();
  impl_->ledger_watch.Start();
  impl_->worker = std::thread([impl = impl_.get()] { impl->Work(); });
}

void Directory::Stop() {
  impl_->vault_watch.Stop();
  impl_->ledger_watch.Stop();
  {
    absl::MutexLock lock(&impl_->worker_mutex);
    impl_->stopping = true;
  }
  impl_->calls.Stop();
  if (impl_->worker.joinable()) impl_->worker.join();
}

void Directory::Prefetch(std::vector<KeyId> key_ids) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->Prefetch(std::move(key_ids));
}

size_t Directory::cached_keys() const { return impl_->cache.size(); }

bool Directory::WaitSynced(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  return impl_->vault_watch.WaitSynced(timeout) && impl_->ledger_watch.WaitSynced(end - absl::Now());
}

absl::Duration Directory::Staleness() const { return impl_->Staleness(); }

std::optional<PrincipalOr> Directory::AuthenticateCached(std::string_view key_text) {
  Impl& impl = *impl_;
  const auto parts = crypto::ParseVirtualKey(key_text);
  if (!parts && (impl.issuers == nullptr || !identity::LooksLikeToken(key_text))) return BadKey();
  if (impl.Staleness() > impl.options.max_staleness) {
    return MakeError(absl::StatusCode::kUnavailable, "KEYS_STALE",
                     "the edge has lost touch with the key vault or the ledger");
  }
  if (!parts) return std::nullopt;
  const std::shared_ptr<const HashKeys> keys = impl.CurrentKeys();
  if (keys == nullptr) return Unreachable("VAULT_UNAVAILABLE", "key vault");
  if (const PrincipalPtr principal = impl.cache.Find(parts->id)) {
    const absl::Status checked = impl.Check(*principal, *keys, parts->secret);
    if (!checked.ok()) return checked;
    return principal;
  }
  // An id that this installation did not make costs one MAC and no look-up.
  if (!crypto::CheckId(keys->checksum_key, parts->id)) return BadKey();
  absl::MutexLock lock(&impl.mutex);
  if (impl.Unknown(parts->id)) return BadKey();
  return std::nullopt;
}

Task<PrincipalOr> Directory::Authenticate(IoLoop& loop, std::string key_text) {
  Impl& impl = *impl_;
  auto cached = AuthenticateCached(key_text);
  if (cached.has_value()) {
    crypto::Cleanse(&key_text);
    co_return *std::move(cached);
  }
  const auto parts = crypto::ParseVirtualKey(key_text);
  if (!parts) co_return co_await impl.AuthenticateToken(loop, std::move(key_text));
  auto found = co_await impl.Find(loop, std::string(parts->id));
  if (!found.ok()) co_return found.status();
  const std::shared_ptr<const HashKeys> keys = impl.CurrentKeys();
  const absl::Status checked = impl.Check(**found, *keys, parts->secret);
  crypto::Cleanse(&key_text);
  if (!checked.ok()) co_return checked;
  co_return *std::move(found);
}

Task<CredentialsOr> Directory::CredentialsOf(IoLoop& loop, std::string provider,
                                             std::string origin) {
  Impl& impl = *impl_;
  for (int round = 0; round < 3; ++round) {
    uint64_t before;
    {
      absl::MutexLock lock(&impl.mutex);
      const auto it = impl.credentials.find(provider);
      if (it != impl.credentials.end() && it->second.origin == origin) co_return it->second.set;
      before = impl.generation;
    }
    vault::v1::GetCredentialRequest request;
    request.set_provider(provider);
    request.set_origin(origin);
    request.set_edge_id(impl.edge_id);
    auto answer = co_await CallUnary<vault::v1::GetCredentialResponse>(
        loop, impl.calls, impl.options.lookup_timeout, std::move(request),
        [&impl](auto... args) { impl.vault->async()->GetCredential(args...); });
    auto set = std::make_shared<const CredentialSet>();
    if (answer.ok()) {
      set = std::make_shared<const CredentialSet>(*std::move(answer));
    } else if (!absl::IsNotFound(answer.status())) {
      if (absl::IsFailedPrecondition(answer.status())) co_return answer.status();
      co_return Unreachable("VAULT_UNAVAILABLE", "key vault");
    }
    absl::MutexLock lock(&impl.mutex);
    if (impl.generation != before) continue;
    impl.credentials[provider] = {origin, set};
    co_return set;
  }
  co_return Unreachable("VAULT_UNAVAILABLE", "key vault");
}

Task<absl::StatusOr<std::optional<ObjectOwner>>> Directory::OwnerOf(IoLoop& loop, std::string id) {
  Impl& impl = *impl_;
  vault::v1::FindObjectRequest request;
  request.set_id(std::move(id));
  auto answer = co_await CallUnary<vault::v1::FindObjectResponse>(
      loop, impl.calls, impl.options.lookup_timeout, std::move(request),
      [&impl](auto... args) { impl.vault->async()->FindObject(args...); });
  if (absl::IsNotFound(answer.status())) co_return std::nullopt;
  if (!answer.ok()) {
    co_return MakeError(absl::StatusCode::kUnavailable, "VAULT_UNAVAILABLE",
                        "the key vault cannot be asked whose this object is");
  }
  co_return ObjectOwner{answer->object().provider(), answer->object().account_id()};
}

Task<> Directory::PutObject(IoLoop& loop, std::string id, ObjectOwner owner, bool remove) {
  Impl& impl = *impl_;
  vault::v1::PutObjectRequest request;
  request.mutable_object()->set_id(std::move(id));
  request.mutable_object()->set_provider(owner.provider);
  request.mutable_object()->set_account_id(owner.account_id);
  request.set_remove(remove);
  const auto answer = co_await CallUnary<vault::v1::PutObjectResponse>(
      loop, impl.calls, impl.options.lookup_timeout, std::move(request),
      [&impl](auto... args) { impl.vault->async()->PutObject(args...); });
  if (!answer.ok()) {
    obs::Warning("object_not_registered", {{"message", std::string(answer.status().message())}});
  }
}

}  // namespace tollhouse::edge
