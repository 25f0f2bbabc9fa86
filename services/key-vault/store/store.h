// What the vault keeps. Secrets reach a store sealed or as keyed hashes only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/key-vault/key_encryption.h"
#include "tollhouse/common/v1/authorization.pb.h"

namespace tollhouse::audit {
class Call;
}

namespace tollhouse::vault {

struct StoredMac {
  std::string mac;  // 32 bytes, HMAC of the secret
  absl::Time created_at;
  std::optional<absl::Time> expires_at;  // end of a rotation's overlap
};

struct StoredKey {
  std::string key_id;
  int64_t account_id = 0;
  std::string path;  // at creation
  std::string owner;
  std::string purpose;
  absl::Time created_at;
  std::optional<absl::Time> expires_at;
  bool disabled = false;
  bool revoked = false;
  std::vector<std::string> models;     // empty: all
  std::vector<std::string> providers;  // empty: all
  std::vector<std::string> endpoints;  // empty: all
  std::vector<std::string> networks;   // empty: all
  std::vector<StoredMac> macs;
  std::optional<absl::Time> last_used_at;  // KeyByAccount and AllKeys tell it; ChangeKey leaves it
};

// A key account that the vault asked the ledger for and has no key of yet.
struct KeyIntent {
  std::string client_request_id;
  std::string parent_path;
  std::string name;
  std::string maker;  // the process
  absl::Time at;
};

struct SealedSecret {
  WrappedKey data_key;
  std::string sealed;
};

// A version of one of a provider's credentials.
struct StoredCredential {
  std::string provider;
  std::string name;
  std::string origin;
  int64_t version = 0;
  int32_t weight = 1;
  absl::Time created_at;
  std::optional<absl::Time> expires_at;  // of one that was replaced
  SealedSecret secret;
};

struct NewCredential {
  std::string provider;
  std::string name;
  std::string origin;
  int32_t weight = 0;  // 0: as it is, 1 if it is new
  absl::Time at;
  absl::Duration overlap;  // how long the version before stays
};

struct KeyUse {
  std::string key_id;
  int64_t unix_minutes = 0;
};

// A token of the admin APIs.
struct StoredToken {
  std::string name;
  std::string hash;  // SHA-256 of its text
  common::v1::Role role = common::v1::ROLE_UNSPECIFIED;
  std::string subtree;  // "": everything
  std::string created_by;
  absl::Time created_at;
  std::optional<absl::Time> expires_at;
};

struct StoredTokens {
  std::vector<StoredToken> tokens;          // by name
  std::vector<std::string> revoked_hashes;  // of first tokens
};

// An object that a provider keeps, and the account that created it.
struct StoredObject {
  std::string id;
  std::string provider;
  int64_t account_id = 0;
  absl::Time created_at;
};

// Durable when a call returns; each call is one transaction. `audit` is the call of whoever asked for it: it
// is told what was there before and after, and appended to the audit log in the same transaction if
// anything was changed; null: nobody asked. What edges
// may have cached is appended to the change log (vault.v1.WatchResponse); `version` gets the version of
// that, or the newest there is if nothing was changed. Errors: those of libs/sql/database.h.
// Thread-safe.
class Store {
 public:
  virtual ~Store() = default;

  // The sealed hash keys; nothing in a new store.
  virtual absl::StatusOr<std::optional<WrappedKey>> SealedHashKeys() = 0;
  // FailedPrecondition if there are some.
  virtual absl::Status PutSealedHashKeys(const WrappedKey& sealed) = 0;
  // The same keys sealed anew, if they still are what `old` says. Whether they were.
  virtual absl::StatusOr<bool> ReplaceSealedHashKeys(const WrappedKey& old,
                                                     const WrappedKey& sealed) = 0;

  virtual absl::Status PutIntent(const KeyIntent& intent) = 0;
  virtual absl::Status DeleteIntent(std::string_view client_request_id) = 0;
  virtual absl::StatusOr<std::vector<KeyIntent>> Intents() = 0;

  // Takes an intent away from its maker, who cannot insert its key any more. False if it is gone.
  virtual absl::StatusOr<bool> ClaimIntent(std::string_view client_request_id) = 0;

  // A new key; its intent ("": none) is done. ABORTED (KEY_TAKEN_BACK) if that was claimed or is gone.
  virtual absl::Status InsertKey(const StoredKey& key, std::string_view client_request_id,
                                 audit::Call* audit) = 0;
  // Reads, changes and writes one key in one transaction. `change` answers whether there is anything
  // to write and audit; its error rolls back and is returned. Id, account, path and creation stay.
  // NotFound (KEY_NOT_FOUND) without a key of that account. The key as it is then.
  using Change = std::function<absl::StatusOr<bool>(StoredKey& key)>;
  virtual absl::StatusOr<StoredKey> ChangeKey(int64_t account_id, const Change& change,
                                              audit::Call* audit, int64_t* version) = 0;
  // Unknown ids are absent from the answer; paths, owners and purposes may be, too.
  virtual absl::StatusOr<std::vector<StoredKey>> KeysByIds(
      const std::vector<std::string>& key_ids) = 0;
  virtual absl::StatusOr<std::optional<StoredKey>> KeyByAccount(int64_t account_id) = 0;
  // By creation.
  virtual absl::StatusOr<std::vector<StoredKey>> AllKeys() = 0;
  // Later uses than those known; unknown keys are passed over.
  virtual absl::Status RecordUse(std::vector<KeyUse> uses) = 0;

  // Upsert by provider and name under a version that was never used; `seal` gets that version. The
  // version before stays for the overlap if its origin is the same; what is older goes.
  using Seal = std::function<absl::StatusOr<SealedSecret>(int64_t version)>;
  virtual absl::StatusOr<StoredCredential> PutCredential(const NewCredential& credential,
                                                         const Seal& seal,
                                                         audit::Call* audit,
                                                         int64_t* version) = 0;
  // Those of a provider, all if "", also expired ones: by provider and name, newest version first.
  virtual absl::StatusOr<std::vector<StoredCredential>> Credentials(std::string_view provider) = 0;
  // `name` "": all of the provider's. Whether there was any; audited if so.
  virtual absl::StatusOr<bool> DeleteCredential(std::string_view provider, std::string_view name,
                                                audit::Call* audit, int64_t* version) = 0;
  // How many data keys each key-encryption key wraps, by its id.
  virtual absl::StatusOr<std::map<std::string, int64_t>> CountWrapped() = 0;
  // Some of those that another key than `kek_id` wraps.
  virtual absl::StatusOr<std::vector<StoredCredential>> CredentialsNotWrappedBy(
      std::string_view kek_id, int64_t limit) = 0;
  // The data key of a version wrapped anew, if it still is what `old` says. Whether it was.
  virtual absl::StatusOr<bool> ReplaceDataKey(int64_t credential_version, const WrappedKey& old,
                                              const WrappedKey& fresh) = 0;

  // ALREADY_EXISTS (TOKEN_EXISTS).
  virtual absl::Status InsertToken(const StoredToken& token, audit::Call* audit) = 0;
  virtual absl::StatusOr<StoredTokens> Tokens() = 0;
  // Asked within the transaction whether the tokens that there are permit it; its error is returned.
  using CheckTokens = std::function<absl::Status(const StoredTokens& tokens)>;
  // Whether it was there.
  virtual absl::StatusOr<bool> DeleteToken(std::string_view name, const CheckTokens& check,
                                           audit::Call* audit) = 0;
  // A first token, by the hash of its text, counts no more. Idempotent.
  virtual absl::Status RevokeFirstToken(std::string_view hash, absl::Time at, const CheckTokens& check,
                                        audit::Call* audit) = 0;

  // The first to tell of an id keeps it. Objects made before `keep_after` are forgotten.
  virtual absl::Status PutObject(const StoredObject& object, absl::Time keep_after) = 0;
  // Of that account alone. Idempotent.
  virtual absl::Status DeleteObject(std::string_view id, int64_t account_id) = 0;
  virtual absl::StatusOr<std::optional<StoredObject>> ObjectById(std::string_view id) = 0;
};

}  // namespace tollhouse::vault
