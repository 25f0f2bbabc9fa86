#include "services/edge/directory.h"

#include <algorithm>
#include <map>
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
#include "libs/crypto/virtual_key.h"
#include "libs/identity/token.h"
#include "libs/rpc/watch_client.h"
#include "services/edge/unary_call.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"

namespace tollhouse::edge {
namespace {

using PrincipalOr = absl::StatusOr<std::shared_ptr<const Principal>>;
using AccountOr = absl::StatusOr<ledger::v1::ResolveAccountResponse>;
using CredentialOr = absl::StatusOr<std::shared_ptr<const Credential>>;

// Marks names of accounts among those of keys.
constexpr std::string_view kAccountPrefix = "account:";

absl::Time TimeOf(const google::protobuf::Timestamp& at) {
  return absl::FromUnixSeconds(at.seconds()) + absl::Nanoseconds(at.nanos());
}

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

void Tighten(int64_t value, const std::string& path, Principal::Limit* limit) {
  if (value > 0 && (limit->value == 0 || value < limit->value)) *limit = {value, path};
}

std::shared_ptr<Principal> MakePrincipal(const vault::v1::KeyRecord& key,
                                         const ledger::v1::ResolveAccountResponse& account) {
  auto principal = std::make_shared<Principal>();
  principal->key_id = key.key_id();
  principal->disabled = key.disabled();
  if (key.has_expires_at()) principal->expires_at = TimeOf(key.expires_at());
  for (const vault::v1::SecretMac& mac : key.macs()) {
    if (mac.mac().size() != 32) continue;
    Principal::Mac& own = principal->macs.emplace_back();
    std::copy(mac.mac().begin(), mac.mac().end(), own.mac.begin());
    own.expires_at = mac.has_expires_at() ? TimeOf(mac.expires_at()) : absl::InfiniteFuture();
  }
  principal->models.assign(key.models().begin(), key.models().end());
  principal->providers.assign(key.providers().begin(), key.providers().end());
  principal->require_budget = account.require_budget();
  for (const ledger::v1::AccountView& view : account.chain()) {
    principal->account_ids.push_back(view.account_id());
    principal->account_path = view.path();
    for (const auto& [name, value] : view.tags()) principal->pinned_tags[name] = value;
    Tighten(view.limits().max_output_tokens(), view.path(), &principal->max_output_tokens);
    Tighten(view.limits().max_request_cost_nanousd(), view.path(),
            &principal->max_request_cost_nanousd);
  }
  return principal;
}

// The keys that ids and secrets are checked with.
struct HashKeys {
  crypto::SecretBytes checksum_key;
  crypto::SecretBytes secret_key;
};

// Several coroutines of one thread that want the same look-up.
template <typename Result>
struct Flight {
  explicit Flight(asio::io_context& context) : landed(context, Timer::time_point::max()) {}
  Timer landed;
  std::optional<Result> result;
};

}  // namespace

bool Principal::AllowsProvider(std::string_view provider) const {
  return providers.empty() ||
         std::find(providers.begin(), providers.end(), provider) != providers.end();
}

bool Principal::AllowsModel(std::string_view model) const {
  return models.empty() || std::any_of(models.begin(), models.end(), [&](const std::string& m) {
           return m.ends_with('*') ? model.starts_with(std::string_view(m).substr(0, m.size() - 1))
                                   : model == m;
         });
}

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
      auto fresh = std::make_shared<HashKeys>();
      fresh->checksum_key = crypto::SecretBytes(response.hash_keys().checksum_key());
      fresh->secret_key = crypto::SecretBytes(response.hash_keys().secret_key());
      keys = std::move(fresh);
    }
    if (response.snapshot()) {
      principals.clear();
      unknown.clear();
      credentials.clear();
    }
    for (const std::string& id : response.changed_key_ids()) {
      principals.erase(id);
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
        principals.clear();
      } else if (!changed.empty()) {
        absl::erase_if(principals, [&](const auto& item) {
          const std::vector<int64_t>& chain = item.second->account_ids;
          return std::any_of(changed.begin(), changed.end(), [&](int64_t id) {
            return std::find(chain.begin(), chain.end(), id) != chain.end();
          });
        });
      }
    }
    on_ledger(response);
  }

  absl::Duration Staleness() const {
    return std::max(vault_watch.Staleness(), ledger_watch.Staleness());
  }

  absl::Status Check(const Principal& principal, const HashKeys& hash_keys,
                     std::string_view secret) const {
    const absl::Time now = clock->Wall();
    const crypto::Sha256Digest mac = crypto::MacOfSecret(hash_keys.secret_key.view(), secret);
    bool known = false;
    for (const Principal::Mac& own : principal.macs) {
      if (crypto::ConstantTimeEqual(crypto::AsBytes(own.mac), crypto::AsBytes(mac)) &&
          now < own.expires_at) {
        known = true;
      }
    }
    if (!known) return BadKey();
    if (principal.disabled) {
      return MakeError(absl::StatusCode::kUnauthenticated, "KEY_REVOKED",
                       "the API key has been revoked");
    }
    if (now >= principal.expires_at) {
      return MakeError(absl::StatusCode::kUnauthenticated, "KEY_EXPIRED",
                       "the API key has expired");
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
        if (principals.size() >= options.principals_max) principals.clear();
        principals[name] = *result;
      } else {
        if (unknown.size() >= options.unknown_max) unknown.clear();
        unknown[name] = clock->Monotonic() + options.unknown_ttl;
      }
      co_return result;
    }
    co_return MakeError(absl::StatusCode::kUnavailable, "KEYS_STALE",
                        "the API key's record is changing");
  }

  // What is cached of a name.
  struct Cached {
    std::shared_ptr<const HashKeys> keys;
    std::shared_ptr<const Principal> principal;
    bool unknown = false;  // looked for in vain a moment ago
  };
  Cached Look(std::string_view name) {
    Cached cached;
    absl::MutexLock lock(&mutex);
    cached.keys = keys;
    if (const auto it = principals.find(Absl(name)); it != principals.end()) {
      cached.principal = it->second;
    } else if (const auto no = unknown.find(Absl(name)); no != unknown.end()) {
      cached.unknown = clock->Monotonic() < no->second;
    }
    return cached;
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
    const Cached cached = Look(name);
    if (cached.principal != nullptr) co_return cached.principal;
    if (cached.unknown) co_return NoAccount();
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
  absl::flat_hash_map<std::string, std::shared_ptr<const Principal>> principals
      ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, absl::Duration> unknown ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, identity::Identity> tokens ABSL_GUARDED_BY(mutex);  // by hash
  struct CachedCredential {
    std::string origin;
    std::shared_ptr<const Credential> credential;
  };
  absl::flat_hash_map<std::string, CachedCredential> credentials ABSL_GUARDED_BY(mutex);

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
}

void Directory::Stop() {
  impl_->vault_watch.Stop();
  impl_->ledger_watch.Stop();
  impl_->calls.Stop();
}

bool Directory::WaitSynced(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  return impl_->vault_watch.WaitSynced(timeout) && impl_->ledger_watch.WaitSynced(end - absl::Now());
}

absl::Duration Directory::Staleness() const { return impl_->Staleness(); }

Task<PrincipalOr> Directory::Authenticate(IoLoop& loop, std::string key_text) {
  Impl& impl = *impl_;
  const auto parts = crypto::ParseVirtualKey(key_text);
  const bool token = !parts && impl.issuers != nullptr && identity::LooksLikeToken(key_text);
  if (!parts && !token) co_return BadKey();
  if (impl.Staleness() > impl.options.max_staleness) {
    co_return MakeError(absl::StatusCode::kUnavailable, "KEYS_STALE",
                        "the edge has lost touch with the key vault or the ledger");
  }
  if (token) co_return co_await impl.AuthenticateToken(loop, std::move(key_text));
  const Impl::Cached cached = impl.Look(parts->id);
  if (cached.keys == nullptr) co_return Unreachable("VAULT_UNAVAILABLE", "key vault");
  std::shared_ptr<const Principal> principal = cached.principal;
  if (principal == nullptr) {
    if (cached.unknown || !crypto::CheckId(cached.keys->checksum_key.view(), parts->id)) {
      co_return BadKey();
    }
    auto found = co_await impl.Find(loop, std::string(parts->id));
    if (!found.ok()) co_return found.status();
    principal = *std::move(found);
  }
  const absl::Status checked = impl.Check(*principal, *cached.keys, parts->secret);
  crypto::Cleanse(&key_text);
  if (!checked.ok()) co_return checked;
  co_return principal;
}

Task<CredentialOr> Directory::CredentialOf(IoLoop& loop, std::string provider, std::string origin) {
  Impl& impl = *impl_;
  for (int round = 0; round < 3; ++round) {
    uint64_t before;
    {
      absl::MutexLock lock(&impl.mutex);
      const auto it = impl.credentials.find(provider);
      if (it != impl.credentials.end() && it->second.origin == origin) co_return it->second.credential;
      before = impl.generation;
    }
    vault::v1::GetCredentialRequest request;
    request.set_provider(provider);
    request.set_origin(origin);
    request.set_edge_id(impl.edge_id);
    auto answer = co_await CallUnary<vault::v1::GetCredentialResponse>(
        loop, impl.calls, impl.options.lookup_timeout, std::move(request),
        [&impl](auto... args) { impl.vault->async()->GetCredential(args...); });
    auto credential = std::make_shared<Credential>();
    if (answer.ok()) {
      if (answer->credentials_size() > 0) {
        credential->secret = crypto::SecretBytes(answer->credentials(0).secret());
      }
      for (auto& live : *answer->mutable_credentials()) crypto::Cleanse(live.mutable_secret());
    } else if (!absl::IsNotFound(answer.status())) {
      if (absl::IsFailedPrecondition(answer.status())) co_return answer.status();
      co_return Unreachable("VAULT_UNAVAILABLE", "key vault");
    }
    absl::MutexLock lock(&impl.mutex);
    if (impl.generation != before) continue;
    impl.credentials[provider] = {origin, credential};
    co_return credential;
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
