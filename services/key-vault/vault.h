// The vault's logic without its wire: virtual keys, provider credentials, the audit log.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/audit/call.h"
#include "services/key-vault/key_ring.h"
#include "services/key-vault/ledger_accounts.h"
#include "services/key-vault/store/store.h"

namespace tollhouse::vault {

// A key as it is shown: where its account is now, without secrets.
struct KeyView {
  StoredKey key;
  std::string path;  // of the account now; where it was at creation if it is deleted
  std::map<std::string, std::string> tags;
  std::string state;  // "active", "disabled", "revoked", "expired"
};

struct NewKey {
  std::string parent_path;
  std::string name;
  std::optional<absl::Time> expires_at;
  std::vector<std::string> models;
  std::vector<std::string> providers;
  std::vector<std::string> endpoints;
  std::vector<std::string> networks;
  std::map<std::string, std::string> tags;
  std::string owner;
  std::string purpose;
};

struct KeyChange {
  std::optional<bool> disabled;
  std::optional<std::vector<std::string>> models;
  std::optional<std::vector<std::string>> providers;
  std::optional<std::vector<std::string>> endpoints;
  std::optional<std::vector<std::string>> networks;
  std::optional<std::string> owner;
  std::optional<std::string> purpose;
  bool set_expires_at = false;
  std::optional<absl::Time> expires_at;  // nothing: never
};

// A key with its text, which exists nowhere else.
struct KeyWithSecret {
  KeyView view;
  crypto::SecretBytes text;
};

// Thread-safe. Errors have the reasons of vault_admin.proto and vault.proto, KEY_REVOKED
// (FAILED_PRECONDITION) for changes of a revoked key, and those of the store. `audit` is as the store's. `version` gets the change log's version that edges must have acknowledged to know of the change.
class Vault {
 public:
  // `alone`: no other process uses the store, so that whatever it has of unfinished keys is left over.
  Vault(std::unique_ptr<Store> store, KeyRing ring, LedgerAccounts* ledger, const Clock* clock,
        bool alone);

  const VirtualKeyKeys& virtual_key_keys() const { return ring_.virtual_key_keys(); }

  // Makes the account in the ledger, then the key; if the key cannot be stored, the account goes again
  // (at the latest with the next ResumeIntents).
  absl::StatusOr<KeyWithSecret> CreateKey(audit::Call* audit, NewKey request);
  // Keys at or below a path, all if "".
  absl::StatusOr<std::vector<KeyView>> ListKeys(const std::string& path);
  absl::StatusOr<KeyWithSecret> RotateKey(audit::Call* audit, const std::string& path,
                                          absl::Duration overlap, int64_t* version);
  absl::StatusOr<KeyView> RevokeKey(audit::Call* audit, const std::string& path,
                                    int64_t* version);
  absl::StatusOr<KeyView> UpdateKey(audit::Call* audit, const std::string& path,
                                    KeyChange change, int64_t* version);
  // By public id, with the secrets valid now; unknown ids are absent.
  absl::StatusOr<std::vector<StoredKey>> LookupKeys(const std::vector<std::string>& key_ids);

  // At most 4096 at once. InvalidArgument (BAD_ARGUMENT).
  absl::Status RecordUse(std::vector<KeyUse> uses);

  // Objects that providers keep belong to the account that created them, for half a year. The first
  // to tell of an id owns it. InvalidArgument (BAD_OBJECT).
  absl::Status PutObject(std::string_view id, std::string_view provider, int64_t account_id);
  // Of that account alone. Idempotent.
  absl::Status DeleteObject(std::string_view id, int64_t account_id);
  // NotFound (OBJECT_NOT_FOUND).
  absl::StatusOr<StoredObject> FindObject(std::string_view id);

  struct CredentialRequest {
    std::string provider;
    std::string name;    // "": "default"
    std::string origin;  // normalized (libs/policy/base_url.h), a path is ignored
    int32_t weight = 0;  // 0: as it is, 1 if it is new
    absl::Duration overlap;
  };
  absl::StatusOr<StoredCredential> SetCredential(audit::Call* audit, CredentialRequest request,
                                                 std::string_view secret, int64_t* version);
  // Those that are usable, by provider and name.
  absl::StatusOr<std::vector<StoredCredential>> ListCredentials();
  // `name` "": all of the provider's. Idempotent.
  absl::Status DeleteCredential(audit::Call* audit, const std::string& provider,
                                const std::string& name, int64_t* version);
  struct OpenedCredential {
    StoredCredential stored;
    crypto::SecretBytes secret;
  };
  // The usable ones of a provider that were stored for `origin`; not empty.
  absl::StatusOr<std::vector<OpenedCredential>> GetCredentials(const std::string& provider,
                                                               const std::string& origin);

  struct KekUse {
    std::string id;
    bool newest = false;
    bool available = false;
    int64_t secrets = 0;
  };
  // The key-encryption keys that are here or that wrap something, the newest last.
  absl::StatusOr<std::vector<KekUse>> ListKeyEncryptionKeys();
  struct Rewrapped {
    std::string kek_id;
    int64_t rewrapped = 0;
    int64_t remaining = 0;
  };
  // Wraps at most `limit` (0: 100) data keys anew under the newest key-encryption key, after looking
  // for new ones. Secrets stay readable meanwhile, also by other replicas.
  absl::StatusOr<Rewrapped> RewrapSecrets(int64_t limit);

  struct NewToken {
    std::string name;
    std::string role;     // "viewer", "finance", "admin", "owner"
    std::string subtree;  // "": everything
    std::optional<absl::Time> expires_at;
  };
  struct TokenWithText {
    StoredToken token;
    crypto::SecretBytes text;
  };
  // PERMISSION_DENIED (FORBIDDEN) for more than the caller may do himself.
  absl::StatusOr<TokenWithText> CreateToken(audit::Call* audit, const NewToken& request);
  // Those within `subtree`, by name.
  absl::StatusOr<std::vector<StoredToken>> ListTokens(std::string_view subtree);
  // All that the services have to know.
  absl::StatusOr<StoredTokens> KnownTokens();
  // NOT_FOUND (TOKEN_NOT_FOUND), also for one beyond the caller's reach. "root" is the first token, whose
  // hash is `first_hash`. FAILED_PRECONDITION (LAST_OWNER) where nobody would be owner of everything.
  absl::Status RevokeToken(audit::Call* audit, const std::string& name, std::string_view first_hash);

  // Takes back key accounts whose keys were never stored (a crash between the two): this process'
  // own, and those of others once they are too old to be still in the making. What the ledger does not
  // answer for stays for the next time.
  absl::Status ResumeIntents();

 private:
  absl::StatusOr<KeyAccount> FindKeyAccount(const std::string& path);
  KeyView View(StoredKey key, const KeyAccount& account) const;
  absl::Status ResumeIntentsLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(create_mutex_);

  const std::unique_ptr<Store> store_;
  const KeyRing ring_;
  LedgerAccounts* const ledger_;
  const Clock* const clock_;
  const bool alone_;
  const std::string maker_;   // this process, in intents
  absl::Mutex create_mutex_;  // one key account is made or taken back at a time
};

}  // namespace tollhouse::vault
