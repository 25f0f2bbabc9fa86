#include "services/key-vault/vault.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/crypto/virtual_key.h"
#include "libs/http/network.h"
#include "libs/obs/log.h"
#include "libs/policy/base_url.h"

namespace tollhouse::vault {
namespace {

// Providers forget responses after 30 days; conversations stay as long as they are used.
constexpr absl::Duration kObjectRetention = absl::Hours(24 * 180);

constexpr std::string_view kFirstToken = "root";
constexpr size_t kMaxListed = 1000;
constexpr size_t kMaxNetworks = 100;
constexpr size_t kMaxUses = 4096;
constexpr size_t kAccountsAtOnce = 1024;  // that the ledger is asked for
constexpr int32_t kMaxWeight = 1000;
constexpr size_t kMaxText = 256;
constexpr size_t kMaxSecret = 16 * 1024;
constexpr absl::Duration kMaxOverlap = absl::Hours(24 * 90);
constexpr absl::Duration kMakingAtMost = absl::Minutes(1);  // far above every timeout on the way
constexpr int64_t kMaxPage = 1000;
constexpr int64_t kRewrapPage = 100;
constexpr std::string_view kDefaultCredential = "default";

absl::Status BadArgument(std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", why);
}

absl::Status KeyNotFound(const std::string& path) {
  return MakeError(absl::StatusCode::kNotFound, "KEY_NOT_FOUND",
                   absl::StrCat("there is no key '", path, "'"));
}

bool IsWord(std::string_view text) {
  return !text.empty() && text.size() <= kMaxText &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

bool IsText(std::string_view text) {
  return text.size() <= kMaxText &&
         std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 127; });
}

absl::Status CheckAllowList(const std::vector<std::string>& list, std::string_view what) {
  if (list.size() > kMaxListed || !std::all_of(list.begin(), list.end(), IsWord)) {
    return BadArgument(absl::StrCat("allowed ", Absl(what),
                                    " are at most 1000 names without spaces"));
  }
  return absl::OkStatus();
}

absl::Status CheckNetworks(const std::vector<std::string>& networks) {
  if (networks.size() > kMaxNetworks) return BadArgument("at most 100 source networks");
  for (const std::string& network : networks) {
    const auto parsed = http::Network::Parse(network);
    if (!parsed.ok()) return BadArgument(Std(parsed.status().message()));
  }
  return absl::OkStatus();
}

common::v1::Role RoleOf(std::string_view name) {
  if (name == "viewer") return common::v1::ROLE_VIEWER;
  if (name == "finance") return common::v1::ROLE_FINANCE;
  if (name == "admin") return common::v1::ROLE_ADMIN;
  if (name == "owner") return common::v1::ROLE_OWNER;
  return common::v1::ROLE_UNSPECIFIED;
}

bool IsProviderName(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") ==
             std::string_view::npos;
}

absl::StatusOr<std::string> NormalizeOrigin(const std::string& origin) {
  const auto url = policy::ParseBaseUrl(origin);
  if (!url.ok()) {
    return BadArgument("an origin is the scheme, host and port of the provider's base URL, like "
                       "https://api.example.com:443");
  }
  return url->Origin();
}

void EraseExpired(absl::Time now, std::vector<StoredCredential>* credentials) {
  std::erase_if(*credentials, [&](const StoredCredential& credential) {
    return credential.expires_at.has_value() && *credential.expires_at <= now;
  });
}

StoredMac MacOf(const VirtualKeyKeys& keys, const crypto::SecretBytes& text, absl::Time now) {
  const auto parts = crypto::ParseVirtualKey(text.view());
  const auto mac = crypto::MacOfSecret(keys.secret_key.view(), parts->secret);
  return {std::string(crypto::AsBytes(mac)), now, std::nullopt};
}

}  // namespace

Vault::Vault(std::unique_ptr<Store> store, KeyRing ring, LedgerAccounts* ledger, const Clock* clock,
             bool alone)
    : store_(std::move(store)),
      ring_(std::move(ring)),
      ledger_(ledger),
      clock_(clock),
      alone_(alone),
      maker_(NewUuid(clock->Wall()).ToString()) {}

KeyView Vault::View(StoredKey key, const KeyAccount& account) const {
  KeyView view;
  view.path = account.path;
  view.tags = account.tags;
  if (key.revoked) {
    view.state = "revoked";
  } else if (key.disabled) {
    view.state = "disabled";
  } else if (key.expires_at && *key.expires_at <= clock_->Wall()) {
    view.state = "expired";
  } else {
    view.state = "active";
  }
  view.key = std::move(key);
  return view;
}

absl::StatusOr<KeyAccount> Vault::FindKeyAccount(const std::string& path) {
  auto account = ledger_->ByPath(path);
  if (account.ok() && account->is_key) return account;
  if (account.ok() || absl::IsNotFound(account.status())) return KeyNotFound(path);
  return account.status();
}

absl::StatusOr<KeyWithSecret> Vault::CreateKey(audit::Call* audit, NewKey request) {
  TH_RETURN_IF_ERROR(CheckAllowList(request.models, "models"));
  TH_RETURN_IF_ERROR(CheckAllowList(request.providers, "providers"));
  TH_RETURN_IF_ERROR(CheckAllowList(request.endpoints, "endpoints"));
  TH_RETURN_IF_ERROR(CheckNetworks(request.networks));
  if (!IsText(request.owner) || !IsText(request.purpose)) {
    return BadArgument("owner and purpose are one line of at most 256 bytes");
  }
  const absl::Time now = clock_->Wall();
  if (request.expires_at && *request.expires_at <= now) {
    return BadArgument("the key would have expired already");
  }
  absl::MutexLock lock(&create_mutex_);
  if (const absl::Status resumed = ResumeIntentsLocked(); !resumed.ok()) return resumed;
  const KeyIntent intent{NewUuid(now).ToString(), request.parent_path, request.name, maker_, now};
  TH_RETURN_IF_ERROR(store_->PutIntent(intent));
  auto account = ledger_->Create(intent, request.tags);
  if (!account.ok()) {
    // A refusal made nothing; of an unknown outcome the intent stays.
    if (ReasonOf(account.status()) != "LEDGER_UNAVAILABLE") {
      store_->DeleteIntent(intent.client_request_id).IgnoreError();
    }
    return account.status();
  }
  crypto::NewVirtualKey made = crypto::MakeVirtualKey(virtual_key_keys().checksum_key.view());
  StoredKey key;
  key.key_id = std::move(made.id);
  key.account_id = account->account_id;
  key.path = account->path;
  key.owner = std::move(request.owner);
  key.purpose = std::move(request.purpose);
  key.created_at = now;
  key.expires_at = request.expires_at;
  key.models = std::move(request.models);
  key.providers = std::move(request.providers);
  key.endpoints = std::move(request.endpoints);
  key.networks = std::move(request.networks);
  key.macs.push_back(MacOf(virtual_key_keys(), made.text, now));
  const absl::Status stored =
      store_->InsertKey(key, intent.client_request_id,
                        audit);
  if (!stored.ok()) {
    ResumeIntentsLocked().IgnoreError();
    return stored;
  }
  return KeyWithSecret{View(std::move(key), *account), std::move(made.text)};
}

absl::Status Vault::ResumeIntents() {
  absl::MutexLock lock(&create_mutex_);
  return ResumeIntentsLocked();
}

absl::Status Vault::ResumeIntentsLocked() {
  TH_ASSIGN_OR_RETURN(const std::vector<KeyIntent> intents, store_->Intents());
  for (const KeyIntent& intent : intents) {
    if (!alone_ && intent.maker != maker_ && clock_->Wall() - intent.at < kMakingAtMost) continue;
    // Its maker, if it lives after all, stores no key any more.
    TH_ASSIGN_OR_RETURN(const bool claimed, store_->ClaimIntent(intent.client_request_id));
    if (!claimed) continue;
    // The same request again tells which account it made, or makes the one that is then deleted.
    const auto account = ledger_->Create(intent, {});
    if (account.ok()) {
      TH_ASSIGN_OR_RETURN(const auto key, store_->KeyByAccount(account->account_id));
      if (!key) {
        const absl::Status deleted = ledger_->Delete(account->account_id);
        if (!deleted.ok() && !absl::IsNotFound(deleted)) return deleted;
        obs::Log(obs::Level::kWarning, "unfinished_key_taken_back",
                 {{"parent", std::string_view(intent.parent_path)},
                  {"name", std::string_view(intent.name)}});
      }
    } else if (ReasonOf(account.status()) == "LEDGER_UNAVAILABLE") {
      return account.status();
    }
    TH_RETURN_IF_ERROR(store_->DeleteIntent(intent.client_request_id));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<KeyView>> Vault::ListKeys(const std::string& path) {
  TH_ASSIGN_OR_RETURN(std::vector<StoredKey> keys, store_->AllKeys());
  std::map<int64_t, KeyAccount> accounts;
  for (size_t begin = 0; begin < keys.size(); begin += kAccountsAtOnce) {
    std::vector<int64_t> ids;
    for (size_t i = begin; i < std::min(begin + kAccountsAtOnce, keys.size()); ++i) {
      ids.push_back(keys[i].account_id);
    }
    TH_RETURN_IF_ERROR(ledger_->ByIds(ids, &accounts));
  }
  std::vector<KeyView> views;
  for (StoredKey& key : keys) {
    const auto known = accounts.find(key.account_id);
    KeyAccount account{key.account_id, key.path, true, {}};
    if (known != accounts.end()) {
      account = known->second;
    } else {
      key.disabled = true;  // its account was deleted
    }
    if (IsAtOrBelow(account.path, path)) views.push_back(View(std::move(key), account));
  }
  std::sort(views.begin(), views.end(),
            [](const KeyView& a, const KeyView& b) { return a.path < b.path; });
  return views;
}

absl::StatusOr<KeyWithSecret> Vault::RotateKey(audit::Call* audit, const std::string& path,
                                               absl::Duration overlap, int64_t* version) {
  if (overlap < absl::ZeroDuration() || overlap > kMaxOverlap) {
    return BadArgument("the overlap is 0 to 90 days");
  }
  TH_ASSIGN_OR_RETURN(const KeyAccount account, FindKeyAccount(path));
  const absl::Time now = clock_->Wall();
  crypto::SecretBytes text;
  const auto change = [&](StoredKey& key) -> absl::StatusOr<bool> {
    if (key.revoked) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "KEY_REVOKED",
                       absl::StrCat("key '", path, "' is revoked; create another one"));
    }
    text = crypto::MakeVirtualKeyText(key.key_id);
    std::vector<StoredMac> kept;
    for (StoredMac& mac : key.macs) {
      mac.expires_at = std::min(mac.expires_at.value_or(absl::InfiniteFuture()), now + overlap);
      if (*mac.expires_at > now) kept.push_back(std::move(mac));
    }
    key.macs = std::move(kept);
    key.macs.push_back(MacOf(virtual_key_keys(), text, now));
    return true;
  };
  TH_ASSIGN_OR_RETURN(
      StoredKey key,
      store_->ChangeKey(account.account_id, change,
                        audit,
                        version));
  return KeyWithSecret{View(std::move(key), account), std::move(text)};
}

absl::StatusOr<KeyView> Vault::RevokeKey(audit::Call* audit, const std::string& path,
                                         int64_t* version) {
  TH_ASSIGN_OR_RETURN(const KeyAccount account, FindKeyAccount(path));
  const auto change = [&](StoredKey& key) -> absl::StatusOr<bool> {
    const bool changed = !key.revoked;
    key.revoked = true;
    key.macs.clear();
    return changed;
  };
  TH_ASSIGN_OR_RETURN(StoredKey key,
                      store_->ChangeKey(account.account_id, change,
                                        audit, version));
  return View(std::move(key), account);
}

absl::StatusOr<KeyView> Vault::UpdateKey(audit::Call* audit, const std::string& path,
                                         KeyChange request, int64_t* version) {
  if (request.models) TH_RETURN_IF_ERROR(CheckAllowList(*request.models, "models"));
  if (request.providers) TH_RETURN_IF_ERROR(CheckAllowList(*request.providers, "providers"));
  if (request.endpoints) TH_RETURN_IF_ERROR(CheckAllowList(*request.endpoints, "endpoints"));
  if (request.networks) TH_RETURN_IF_ERROR(CheckNetworks(*request.networks));
  if (!IsText(request.owner.value_or("")) || !IsText(request.purpose.value_or(""))) {
    return BadArgument("owner and purpose are one line of at most 256 bytes");
  }
  TH_ASSIGN_OR_RETURN(const KeyAccount account, FindKeyAccount(path));
  const auto change = [&](StoredKey& key) -> absl::StatusOr<bool> {
    if (key.revoked) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "KEY_REVOKED",
                       absl::StrCat("key '", path, "' is revoked; create another one"));
    }
    if (request.disabled) key.disabled = *request.disabled;
    if (request.models) key.models = *request.models;
    if (request.providers) key.providers = *request.providers;
    if (request.endpoints) key.endpoints = *request.endpoints;
    if (request.networks) key.networks = *request.networks;
    if (request.owner) key.owner = *request.owner;
    if (request.purpose) key.purpose = *request.purpose;
    if (request.set_expires_at) key.expires_at = request.expires_at;
    return true;
  };
  TH_ASSIGN_OR_RETURN(StoredKey key,
                      store_->ChangeKey(account.account_id, change,
                                        audit,
                                        version));
  return View(std::move(key), account);
}

absl::Status Vault::RecordUse(std::vector<KeyUse> uses) {
  if (uses.size() > kMaxUses) return BadArgument("at most 4096 keys at once");
  return store_->RecordUse(std::move(uses));
}

absl::Status Vault::PutObject(std::string_view id, std::string_view provider,
                              int64_t account_id) {
  if (id.empty() || id.size() > 256 || provider.empty() || account_id <= 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_OBJECT",
                     "an object has an id of at most 256 bytes, a provider and an account");
  }
  const absl::Time now = clock_->Wall();
  return store_->PutObject({std::string(id), std::string(provider), account_id, now},
                           now - kObjectRetention);
}

absl::Status Vault::DeleteObject(std::string_view id, int64_t account_id) {
  return store_->DeleteObject(id, account_id);
}

absl::StatusOr<StoredObject> Vault::FindObject(std::string_view id) {
  TH_ASSIGN_OR_RETURN(std::optional<StoredObject> object, store_->ObjectById(id));
  if (!object.has_value()) {
    return MakeError(absl::StatusCode::kNotFound, "OBJECT_NOT_FOUND", "no account made this object");
  }
  return *std::move(object);
}

absl::StatusOr<std::vector<StoredKey>> Vault::LookupKeys(const std::vector<std::string>& key_ids) {
  if (key_ids.size() > 1024) return BadArgument("at most 1024 key ids at once");
  TH_ASSIGN_OR_RETURN(std::vector<StoredKey> keys, store_->KeysByIds(key_ids));
  const absl::Time now = clock_->Wall();
  for (StoredKey& key : keys) {
    std::erase_if(key.macs, [&](const StoredMac& mac) {
      return mac.expires_at.has_value() && *mac.expires_at <= now;
    });
  }
  return keys;
}

absl::StatusOr<StoredCredential> Vault::SetCredential(audit::Call* audit,
                                                      CredentialRequest request,
                                                      std::string_view secret, int64_t* version) {
  if (request.name.empty()) request.name = kDefaultCredential;
  if (!IsProviderName(request.provider) || !IsProviderName(request.name)) {
    return BadArgument("names of providers and credentials are 1 to 64 of a-z, 0-9, '.', '_' and '-'");
  }
  if (request.weight < 0 || request.weight > kMaxWeight) {
    return BadArgument("the weight of a credential is 1 to 1000");
  }
  if (request.overlap < absl::ZeroDuration() || request.overlap > kMaxOverlap) {
    return BadArgument("the overlap is 0 to 90 days");
  }
  TH_ASSIGN_OR_RETURN(request.origin, NormalizeOrigin(request.origin));
  // It becomes a header: no line breaks, no other control characters.
  if (secret.empty() || secret.size() > kMaxSecret ||
      !std::all_of(secret.begin(), secret.end(), [](char c) { return c > ' ' && c < 127; })) {
    return BadArgument("a credential is 1 to 16384 printable ASCII characters without spaces");
  }
  const auto seal = [&](int64_t credential_version) {
    return ring_.SealCredential(request.provider, request.origin, credential_version, secret);
  };
  return store_->PutCredential({request.provider, request.name, request.origin, request.weight,
                                clock_->Wall(), request.overlap},
                               seal,
                               audit,
                               version);
}

absl::StatusOr<std::vector<StoredCredential>> Vault::ListCredentials() {
  TH_ASSIGN_OR_RETURN(std::vector<StoredCredential> credentials, store_->Credentials(""));
  EraseExpired(clock_->Wall(), &credentials);
  return credentials;
}

absl::Status Vault::DeleteCredential(audit::Call* audit, const std::string& provider,
                                     const std::string& name, int64_t* version) {
  return store_
      ->DeleteCredential(provider, name,
                         audit,
                         version)
      .status();
}

absl::StatusOr<std::vector<Vault::OpenedCredential>> Vault::GetCredentials(
    const std::string& provider, const std::string& origin) {
  TH_ASSIGN_OR_RETURN(const std::string normalized, NormalizeOrigin(origin));
  TH_ASSIGN_OR_RETURN(std::vector<StoredCredential> stored,
                      provider.empty() ? std::vector<StoredCredential>()
                                       : store_->Credentials(provider));
  EraseExpired(clock_->Wall(), &stored);
  if (stored.empty()) {
    return MakeError(absl::StatusCode::kNotFound, "CREDENTIAL_NOT_FOUND",
                     absl::StrCat("provider '", provider, "' has no credential; give it one with "
                                  "tollctl provider set"));
  }
  std::vector<OpenedCredential> opened;
  for (StoredCredential& credential : stored) {
    if (credential.origin != normalized) continue;
    TH_ASSIGN_OR_RETURN(crypto::SecretBytes secret, ring_.OpenCredential(credential));
    opened.push_back({std::move(credential), std::move(secret)});
  }
  if (opened.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "ORIGIN_CHANGED",
                     absl::StrCat("the credential of provider '", provider, "' was entered for ",
                                  stored.front().origin, " and is not sent to ", normalized,
                                  "; enter it again with tollctl provider set"));
  }
  return opened;
}

absl::StatusOr<std::vector<Vault::KekUse>> Vault::ListKeyEncryptionKeys() {
  TH_ASSIGN_OR_RETURN(auto counts, store_->CountWrapped());
  const std::vector<std::string> ids = ring_.key_encryption().ids();
  std::vector<KekUse> uses;
  for (const auto& [id, secrets] : counts) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) uses.push_back({id, false, false, secrets});
  }
  for (const std::string& id : ids) uses.push_back({id, id == ids.back(), true, counts[id]});
  return uses;
}

absl::StatusOr<Vault::Rewrapped> Vault::RewrapSecrets(int64_t limit) {
  if (limit < 0) return BadArgument("the limit is negative");
  limit = limit == 0 ? kRewrapPage : std::min(limit, kMaxPage);
  TH_RETURN_IF_ERROR(ring_.key_encryption().Reload());
  Rewrapped result;
  result.kek_id = ring_.key_encryption().ids().back();
  TH_ASSIGN_OR_RETURN(const std::optional<WrappedKey> hash_keys, store_->SealedHashKeys());
  if (hash_keys && hash_keys->key_id != result.kek_id) {
    TH_ASSIGN_OR_RETURN(const WrappedKey fresh, ring_.RewrapHashKeys(*hash_keys));
    TH_ASSIGN_OR_RETURN(const bool replaced, store_->ReplaceSealedHashKeys(*hash_keys, fresh));
    result.rewrapped += replaced;
  }
  if (result.rewrapped < limit) {
    TH_ASSIGN_OR_RETURN(
        const std::vector<StoredCredential> credentials,
        store_->CredentialsNotWrappedBy(result.kek_id, limit - result.rewrapped));
    for (const StoredCredential& credential : credentials) {
      TH_ASSIGN_OR_RETURN(const WrappedKey fresh, ring_.RewrapCredential(credential));
      TH_ASSIGN_OR_RETURN(const bool replaced,
                          store_->ReplaceDataKey(credential.version, credential.secret.data_key,
                                                 fresh));
      result.rewrapped += replaced;
    }
  }
  TH_ASSIGN_OR_RETURN(const auto counts, store_->CountWrapped());
  for (const auto& [id, secrets] : counts) {
    if (id != result.kek_id) result.remaining += secrets;
  }
  return result;
}

absl::StatusOr<Vault::TokenWithText> Vault::CreateToken(audit::Call* audit,
                                                        const NewToken& request) {
  const rpc::Caller& caller = audit->caller();
  TokenWithText made;
  made.token.name = request.name;
  made.token.role = RoleOf(request.role);
  made.token.subtree = request.subtree;
  made.token.created_by = caller.actor;
  made.token.created_at = clock_->Wall();
  made.token.expires_at = request.expires_at;
  if (!IsAccountName(request.name) || request.name == kFirstToken) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_NAME",
                     "a token's name is 1 to 64 of letters, digits, '.', '_', '@', '-', and not \"root\"");
  }
  if (made.token.role == common::v1::ROLE_UNSPECIFIED) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                     "a role is viewer, finance, admin or owner");
  }
  if (request.expires_at && *request.expires_at <= made.token.created_at) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", "that has expired already");
  }
  if (made.token.role > caller.role || !IsAtOrBelow(request.subtree, caller.subtree)) {
    return MakeError(absl::StatusCode::kPermissionDenied, "FORBIDDEN",
                     "nobody gives away more than he has himself");
  }
  std::string text = rpc::MakeToken();
  made.token.hash = rpc::HashOfToken(text);
  made.text = crypto::SecretBytes(text);
  crypto::Cleanse(&text);
  TH_RETURN_IF_ERROR(store_->InsertToken(made.token, audit));
  return made;
}

absl::StatusOr<StoredTokens> Vault::KnownTokens() { return store_->Tokens(); }

absl::StatusOr<std::vector<StoredToken>> Vault::ListTokens(std::string_view subtree) {
  TH_ASSIGN_OR_RETURN(StoredTokens known, store_->Tokens());
  std::erase_if(known.tokens,
                [&](const StoredToken& token) { return !IsAtOrBelow(token.subtree, subtree); });
  return std::move(known.tokens);
}

absl::Status Vault::RevokeToken(audit::Call* audit, const std::string& name,
                                std::string_view first_hash) {
  const std::string& subtree = audit->caller().subtree;
  const absl::Time now = clock_->Wall();
  const auto not_found = [&] {
    return MakeError(absl::StatusCode::kNotFound, "TOKEN_NOT_FOUND",
                     absl::StrCat("there is no token ", name, "; `tollctl token list` shows them"));
  };
  const auto rules_all = [&](const StoredToken& token) {
    return token.role == common::v1::ROLE_OWNER && token.subtree.empty() &&
           (!token.expires_at || *token.expires_at > now);
  };
  // Somebody has to be owner of everything: another token, or the first one.
  const auto check = [&](const StoredTokens& known) -> absl::Status {
    const auto found = std::find_if(known.tokens.begin(), known.tokens.end(),
                                    [&](const StoredToken& token) { return token.name == name; });
    const bool first = name == kFirstToken;
    if (!first && (found == known.tokens.end() || !IsAtOrBelow(found->subtree, subtree))) {
      return not_found();
    }
    if (!first && !rules_all(*found)) return absl::OkStatus();
    const auto others = std::count_if(
        known.tokens.begin(), known.tokens.end(),
        [&](const StoredToken& token) { return token.name != name && rules_all(token); });
    const bool first_counts =
        !first && std::find(known.revoked_hashes.begin(), known.revoked_hashes.end(), first_hash) ==
                      known.revoked_hashes.end();
    if (others > 0 || first_counts) return absl::OkStatus();
    return MakeError(absl::StatusCode::kFailedPrecondition, "LAST_OWNER",
                     "nobody else is owner of everything; first make a token with: tollctl token "
                     "create NAME --role owner");
  };
  if (name == kFirstToken) {
    if (!subtree.empty() || first_hash.empty()) return not_found();
    return store_->RevokeFirstToken(first_hash, now, check, audit);
  }
  TH_ASSIGN_OR_RETURN(const bool deleted, store_->DeleteToken(name, check, audit));
  return deleted ? absl::OkStatus() : not_found();
}

}  // namespace tollhouse::vault
