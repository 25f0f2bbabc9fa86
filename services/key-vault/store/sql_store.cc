#include "services/key-vault/store/sql_store.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/audit/call.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/sql/change_log.h"
#include "services/key-vault/store/to_proto.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::vault {

extern const std::string_view kSqliteSchema1;
extern const std::string_view kSqliteSchema2;
extern const std::string_view kSqliteSchema4;
extern const std::string_view kSqliteSchema6;
extern const std::string_view kSqliteSchema7;
extern const std::string_view kPostgresSchema1;
extern const std::string_view kPostgresSchema3;
extern const std::string_view kPostgresSchema5;
extern const std::string_view kPostgresSchema6;
extern const std::string_view kObjectsSchema;

namespace {

constexpr std::string_view kKeyColumns =
    "SELECT key_id, account_id, path, owner, purpose, created_at, expires_at, disabled, revoked, "
    "models, providers, endpoints, networks FROM virtual_key ";
constexpr std::string_view kMacColumns = "SELECT key_id, mac, created_at, expires_at FROM key_secret ";
constexpr std::string_view kCredentialColumns =
    "SELECT provider, name, origin, version, weight, created_at, expires_at, kek_id, wrapped_key, "
    "sealed FROM credential ";

std::optional<int64_t> Micros(const std::optional<absl::Time>& time) {
  return time ? std::optional<int64_t>(absl::ToUnixMicros(*time)) : std::nullopt;
}

std::optional<absl::Time> TimeAt(const sql::Rows& rows, int column) {
  if (rows.IsNull(column)) return std::nullopt;
  return absl::FromUnixMicros(rows.Int(column));
}

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

absl::Status Append(sql::Connection& connection, audit::Call* audit) {
  return audit == nullptr ? absl::OkStatus() : audit->Append(connection);
}

void Begin(audit::Call* audit) {
  if (audit != nullptr) audit->Begin();
}

template <typename Stored>
void SetBefore(audit::Call* audit, const Stored& stored) {
  if (audit != nullptr) audit->SetBefore(ToProto(stored));
}

template <typename Stored>
void SetAfter(audit::Call* audit, const Stored& stored) {
  if (audit != nullptr) audit->SetAfter(ToProto(stored));
}

absl::Status InsertMacs(sql::Connection& connection, const StoredKey& key) {
  for (const StoredMac& mac : key.macs) {
    TH_RETURN_IF_ERROR(
        connection
            .Execute("INSERT INTO key_secret (key_id, mac, created_at, expires_at) "
                     "VALUES (?1, ?2, ?3, ?4)",
                     key.key_id, sql::Blob{mac.mac}, absl::ToUnixMicros(mac.created_at),
                     Micros(mac.expires_at))
            .status());
  }
  return absl::OkStatus();
}

StoredKey KeyFrom(const sql::Rows& rows) {
  StoredKey key;
  key.key_id = rows.Text(0);
  key.account_id = rows.Int(1);
  key.path = rows.Text(2);
  key.owner = rows.Text(3);
  key.purpose = rows.Text(4);
  key.created_at = absl::FromUnixMicros(rows.Int(5));
  key.expires_at = TimeAt(rows, 6);
  key.disabled = rows.Bool(7);
  key.revoked = rows.Bool(8);
  key.models = Lines(rows.Text(9));
  key.providers = Lines(rows.Text(10));
  key.endpoints = Lines(rows.Text(11));
  key.networks = Lines(rows.Text(12));
  return key;
}

StoredMac MacFrom(const sql::Rows& rows) {
  return {rows.Text(1), absl::FromUnixMicros(rows.Int(2)), TimeAt(rows, 3)};
}

// Of all keys that `where` finds.
template <typename... Parameters>
absl::Status ReadMacs(sql::Connection& connection, std::vector<StoredKey>* keys,
                      std::string_view where, const Parameters&... parameters) {
  std::unordered_map<std::string_view, StoredKey*> by_id;
  for (StoredKey& key : *keys) by_id.emplace(key.key_id, &key);
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      connection.Query(std::string(kMacColumns) + std::string(where) +
                                           "ORDER BY created_at DESC, mac",
                                       parameters...));
  while (rows.Next()) {
    const auto it = by_id.find(rows.View(0));
    if (it != by_id.end()) it->second->macs.push_back(MacFrom(rows));
  }
  return rows.status();
}

// When each of some keys was last used.
absl::StatusOr<std::optional<absl::Time>> ReadUse(sql::Connection& connection,
                                                  const std::string& key_id) {
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      connection.Query("SELECT unix_minutes FROM key_use WHERE key_id = ?1", key_id));
  std::optional<absl::Time> used;
  if (rows.Next()) used = absl::FromUnixSeconds(rows.Int(0) * 60);
  TH_RETURN_IF_ERROR(rows.status());
  return used;
}

// Many keys with what edges need of them, in one go.
absl::Status ReadForEdges(sql::Connection& connection, const sql::Array& key_ids,
                          std::vector<StoredKey>* keys) {
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      connection.Query("SELECT k.key_id, k.account_id, k.expires_at, k.disabled, k.revoked, k.models, "
                       "k.providers, k.endpoints, k.networks, s.mac, s.created_at, s.expires_at "
                       "FROM virtual_key k LEFT JOIN key_secret s ON s.key_id = k.key_id "
                       "WHERE k.key_id = ANY (?1) ORDER BY k.key_id, s.created_at DESC",
                       key_ids));
  while (rows.Next()) {
    if (keys->empty() || keys->back().key_id != rows.View(0)) {
      StoredKey& key = keys->emplace_back();
      key.key_id = rows.Text(0);
      key.account_id = rows.Int(1);
      key.expires_at = TimeAt(rows, 2);
      key.disabled = rows.Bool(3);
      key.revoked = rows.Bool(4);
      if (!rows.View(5).empty()) key.models = Lines(rows.Text(5));
      if (!rows.View(6).empty()) key.providers = Lines(rows.Text(6));
      if (!rows.View(7).empty()) key.endpoints = Lines(rows.Text(7));
      if (!rows.View(8).empty()) key.networks = Lines(rows.Text(8));
    }
    if (!rows.IsNull(9)) {
      keys->back().macs.push_back(
          {rows.Text(9), absl::FromUnixMicros(rows.Int(10)), TimeAt(rows, 11)});
    }
  }
  return rows.status();
}

// The one key that `where` with one parameter finds.
template <typename Parameter>
absl::StatusOr<std::optional<StoredKey>> ReadKey(sql::Connection& connection,
                                                 std::string_view where,
                                                 const Parameter& parameter) {
  std::vector<StoredKey> keys;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        connection.Query(std::string(kKeyColumns) + std::string(where), parameter));
    if (rows.Next()) keys.push_back(KeyFrom(rows));
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (keys.empty()) return std::optional<StoredKey>();
  TH_RETURN_IF_ERROR(ReadMacs(connection, &keys, "WHERE key_id = ?1 ", keys.front().key_id));
  return std::optional<StoredKey>(std::move(keys.front()));
}

StoredCredential CredentialFrom(const sql::Rows& rows) {
  return {.provider = rows.Text(0),
          .name = rows.Text(1),
          .origin = rows.Text(2),
          .version = rows.Int(3),
          .weight = static_cast<int32_t>(rows.Int(4)),
          .created_at = absl::FromUnixMicros(rows.Int(5)),
          .expires_at = TimeAt(rows, 6),
          .secret = {{rows.Text(7), rows.Text(8)}, rows.Text(9)}};
}

template <typename... Parameters>
absl::StatusOr<std::vector<StoredCredential>> ReadCredentials(sql::Connection& connection,
                                                              std::string_view where,
                                                              const Parameters&... parameters) {
  std::vector<StoredCredential> credentials;
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      connection.Query(std::string(kCredentialColumns) + std::string(where), parameters...));
  while (rows.Next()) credentials.push_back(CredentialFrom(rows));
  TH_RETURN_IF_ERROR(rows.status());
  return credentials;
}

absl::Status AppendKeyChange(sql::Connection& connection, const std::string& key_id,
                             int64_t* version) {
  v1::WatchResponse change;
  change.add_changed_key_ids(key_id);
  TH_ASSIGN_OR_RETURN(*version, sql::AppendChange(connection, change.SerializeAsString()));
  return absl::OkStatus();
}

absl::Status AppendCredentialChange(sql::Connection& connection, std::string_view provider,
                                    int64_t* version) {
  v1::WatchResponse change;
  change.add_changed_credential_providers(std::string(provider));
  TH_ASSIGN_OR_RETURN(*version, sql::AppendChange(connection, change.SerializeAsString()));
  return absl::OkStatus();
}

absl::Status NewestVersion(sql::Connection& connection, int64_t* version) {
  TH_ASSIGN_OR_RETURN(const sql::ChangeLogHead head, sql::ReadChangeLogHead(connection));
  *version = head.version;
  return absl::OkStatus();
}

class SqlStore final : public Store {
 public:
  explicit SqlStore(sql::Database* database) : database_(database) {}

  absl::StatusOr<std::optional<WrappedKey>> SealedHashKeys() override {
    std::optional<WrappedKey> sealed;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          connection.Query("SELECT kek_id, sealed FROM hash_keys"));
      if (rows.Next()) sealed = WrappedKey{rows.Text(0), rows.Text(1)};
      return rows.status();
    });
    TH_RETURN_IF_ERROR(status);
    return sealed;
  }

  absl::Status PutSealedHashKeys(const WrappedKey& sealed) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          const int64_t inserted,
          connection.Execute("INSERT INTO hash_keys (id, kek_id, sealed) VALUES (1, ?1, ?2) "
                             "ON CONFLICT (id) DO NOTHING",
                             sealed.key_id, sql::Blob{sealed.bytes}));
      if (inserted == 0) return absl::FailedPreconditionError("the store has hash keys already");
      return absl::OkStatus();
    });
  }

  absl::StatusOr<bool> ReplaceSealedHashKeys(const WrappedKey& old,
                                             const WrappedKey& sealed) override {
    bool replaced = false;
    TH_RETURN_IF_ERROR(database_->Write([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          const int64_t rows,
          connection.Execute("UPDATE hash_keys SET kek_id = ?1, sealed = ?2 WHERE sealed = ?3",
                             sealed.key_id, sql::Blob{sealed.bytes}, sql::Blob{old.bytes}));
      replaced = rows > 0;
      return absl::OkStatus();
    }));
    return replaced;
  }

  absl::Status PutIntent(const KeyIntent& intent) override {
    return database_->Write([&](sql::Connection& connection) {
      return connection
          .Execute("INSERT INTO key_intent (client_request_id, parent_path, name, maker, at, "
                   "claimed) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
                   intent.client_request_id, intent.parent_path, intent.name, intent.maker,
                   absl::ToUnixMicros(intent.at))
          .status();
    });
  }

  absl::Status DeleteIntent(std::string_view client_request_id) override {
    return database_->Write([&](sql::Connection& connection) {
      return connection
          .Execute("DELETE FROM key_intent WHERE client_request_id = ?1", client_request_id)
          .status();
    });
  }

  absl::StatusOr<std::vector<KeyIntent>> Intents() override {
    std::vector<KeyIntent> intents;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          connection.Query("SELECT client_request_id, parent_path, name, maker, at FROM key_intent"));
      while (rows.Next()) {
        intents.push_back({rows.Text(0), rows.Text(1), rows.Text(2), rows.Text(3),
                           absl::FromUnixMicros(rows.Int(4))});
      }
      return rows.status();
    });
    TH_RETURN_IF_ERROR(status);
    return intents;
  }

  absl::StatusOr<bool> ClaimIntent(std::string_view client_request_id) override {
    bool claimed = false;
    const absl::Status status = database_->Write([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          const int64_t rows,
          connection.Execute("UPDATE key_intent SET claimed = 1 WHERE client_request_id = ?1",
                             client_request_id));
      claimed = rows > 0;
      return absl::OkStatus();
    });
    TH_RETURN_IF_ERROR(status);
    return claimed;
  }

  absl::Status InsertKey(const StoredKey& key, std::string_view client_request_id,
                         audit::Call* audit) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      SetAfter(audit, key);
      if (!client_request_id.empty()) {
        TH_ASSIGN_OR_RETURN(const int64_t mine,
                            connection.Execute("DELETE FROM key_intent WHERE "
                                               "client_request_id = ?1 AND claimed = 0",
                                               client_request_id));
        if (mine == 0) {
          return MakeError(absl::StatusCode::kAborted, "KEY_TAKEN_BACK",
                           "making the key took too long; create it again");
        }
      }
      TH_RETURN_IF_ERROR(
          connection
              .Execute("INSERT INTO virtual_key (key_id, account_id, path, owner, purpose, "
                       "created_at, expires_at, disabled, revoked, models, providers, endpoints, "
                       "networks) "
                       "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                       key.key_id, key.account_id, key.path, key.owner, key.purpose,
                       absl::ToUnixMicros(key.created_at), Micros(key.expires_at), key.disabled,
                       key.revoked, absl::StrJoin(key.models, "\n"),
                       absl::StrJoin(key.providers, "\n"), absl::StrJoin(key.endpoints, "\n"),
                       absl::StrJoin(key.networks, "\n"))
              .status());
      TH_RETURN_IF_ERROR(InsertMacs(connection, key));
      return Append(connection, audit);
    });
  }

  absl::StatusOr<StoredKey> ChangeKey(int64_t account_id, const Change& change,
                                      audit::Call* audit, int64_t* version) override {
    StoredKey result;
    const absl::Status status = database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      TH_ASSIGN_OR_RETURN(std::optional<StoredKey> key,
                          ReadKey(connection, "WHERE account_id = ?1", account_id));
      if (!key) {
        return MakeError(absl::StatusCode::kNotFound, "KEY_NOT_FOUND",
                         "no virtual key belongs to this account");
      }
      SetBefore(audit, *key);
      TH_ASSIGN_OR_RETURN(const bool changed, change(*key));
      SetAfter(audit, *key);
      result = *key;
      if (!changed) return NewestVersion(connection, version);
      TH_RETURN_IF_ERROR(
          connection
              .Execute("UPDATE virtual_key SET owner = ?2, purpose = ?3, expires_at = ?4, "
                       "disabled = ?5, revoked = ?6, models = ?7, providers = ?8, endpoints = ?9, "
                       "networks = ?10 WHERE key_id = ?1",
                       key->key_id, key->owner, key->purpose, Micros(key->expires_at),
                       key->disabled, key->revoked, absl::StrJoin(key->models, "\n"),
                       absl::StrJoin(key->providers, "\n"), absl::StrJoin(key->endpoints, "\n"),
                       absl::StrJoin(key->networks, "\n"))
              .status());
      TH_RETURN_IF_ERROR(
          connection.Execute("DELETE FROM key_secret WHERE key_id = ?1", key->key_id).status());
      TH_RETURN_IF_ERROR(InsertMacs(connection, *key));
      TH_RETURN_IF_ERROR(Append(connection, audit));
      return AppendKeyChange(connection, key->key_id, version);
    });
    TH_RETURN_IF_ERROR(status);
    return result;
  }

  absl::StatusOr<std::vector<StoredKey>> KeysByIds(
      const std::vector<std::string>& key_ids) override {
    std::vector<StoredKey> keys;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      keys.clear();
      if (connection.dialect() == sql::Dialect::kPostgres && key_ids.size() > 1) {
        const std::vector<std::string_view> ids(key_ids.begin(), key_ids.end());
        return ReadForEdges(connection, sql::Array::Texts(ids), &keys);
      }
      for (const std::string& key_id : key_ids) {
        TH_ASSIGN_OR_RETURN(std::optional<StoredKey> key,
                            ReadKey(connection, "WHERE key_id = ?1", key_id));
        if (key) keys.push_back(*std::move(key));
      }
      return absl::OkStatus();
    });
    TH_RETURN_IF_ERROR(status);
    return keys;
  }

  absl::StatusOr<std::optional<StoredKey>> KeyByAccount(int64_t account_id) override {
    std::optional<StoredKey> key;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(key, ReadKey(connection, "WHERE account_id = ?1", account_id));
      if (key) {
        TH_ASSIGN_OR_RETURN(key->last_used_at, ReadUse(connection, key->key_id));
      }
      return absl::OkStatus();
    });
    TH_RETURN_IF_ERROR(status);
    return key;
  }

  absl::StatusOr<std::vector<StoredKey>> AllKeys() override {
    std::vector<StoredKey> keys;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      keys.clear();
      {
        TH_ASSIGN_OR_RETURN(
            sql::Rows rows,
            connection.Query(std::string(kKeyColumns) + "ORDER BY created_at, key_id"));
        while (rows.Next()) keys.push_back(KeyFrom(rows));
        TH_RETURN_IF_ERROR(rows.status());
      }
      TH_RETURN_IF_ERROR(ReadMacs(connection, &keys, ""));
      std::unordered_map<std::string_view, StoredKey*> by_id;
      for (StoredKey& key : keys) by_id.emplace(key.key_id, &key);
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          connection.Query("SELECT key_id, unix_minutes FROM key_use"));
      while (rows.Next()) {
        const auto it = by_id.find(rows.View(0));
        if (it != by_id.end()) it->second->last_used_at = absl::FromUnixSeconds(rows.Int(1) * 60);
      }
      return rows.status();
    });
    TH_RETURN_IF_ERROR(status);
    return keys;
  }

  absl::Status RecordUse(std::vector<KeyUse> uses) override {
    // In one order, so that two edges' reports never wait for each other's rows in a circle.
    std::sort(uses.begin(), uses.end(),
              [](const KeyUse& a, const KeyUse& b) { return a.key_id < b.key_id; });
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      for (const KeyUse& use : uses) {
        TH_RETURN_IF_ERROR(
            connection
                .Execute("INSERT INTO key_use (key_id, unix_minutes) "
                         "SELECT key_id, CAST(?2 AS bigint) FROM virtual_key WHERE key_id = ?1 "
                         "ON CONFLICT (key_id) DO UPDATE SET unix_minutes = excluded.unix_minutes "
                         "WHERE key_use.unix_minutes < excluded.unix_minutes",
                         use.key_id, use.unix_minutes)
                .status());
      }
      return absl::OkStatus();
    });
  }

  absl::StatusOr<StoredCredential> PutCredential(const NewCredential& fresh, const Seal& seal,
                                                 audit::Call* audit,
                                                 int64_t* version) override {
    StoredCredential credential;
    const absl::Status status = database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      credential = {.provider = fresh.provider,
                    .name = fresh.name,
                    .origin = fresh.origin,
                    .weight = fresh.weight == 0 ? 1 : fresh.weight,
                    .created_at = fresh.at};
      TH_RETURN_IF_ERROR(
          connection.Execute("UPDATE credential_version SET last = last + 1").status());
      {
        TH_ASSIGN_OR_RETURN(sql::Rows rows,
                            connection.Query("SELECT last FROM credential_version"));
        if (!rows.Next()) return absl::InternalError("the credential version is missing");
        credential.version = rows.Int(0);
      }
      TH_ASSIGN_OR_RETURN(
          const std::vector<StoredCredential> before,
          ReadCredentials(connection, "WHERE provider = ?1 AND name = ?2 ORDER BY version DESC",
                          fresh.provider, fresh.name));
      if (fresh.weight == 0 && !before.empty()) credential.weight = before.front().weight;
      if (!before.empty()) SetBefore(audit, before.front());
      const bool kept = !before.empty() && before.front().origin == fresh.origin &&
                        fresh.overlap > absl::ZeroDuration();
      for (size_t i = 0; i < before.size(); ++i) {
        if (i == 0 && kept) {
          TH_RETURN_IF_ERROR(
              connection
                  .Execute("UPDATE credential SET expires_at = ?2, weight = ?3 WHERE version = ?1",
                           before[i].version, absl::ToUnixMicros(fresh.at + fresh.overlap),
                           credential.weight)
                  .status());
        } else {
          TH_RETURN_IF_ERROR(
              connection.Execute("DELETE FROM credential WHERE version = ?1", before[i].version)
                  .status());
        }
      }
      TH_ASSIGN_OR_RETURN(credential.secret, seal(credential.version));
      TH_RETURN_IF_ERROR(
          connection
              .Execute("INSERT INTO credential (version, provider, name, origin, weight, created_at, "
                       "kek_id, wrapped_key, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                       credential.version, credential.provider, credential.name, credential.origin,
                       credential.weight, absl::ToUnixMicros(credential.created_at),
                       credential.secret.data_key.key_id,
                       sql::Blob{credential.secret.data_key.bytes},
                       sql::Blob{credential.secret.sealed})
              .status());
      SetAfter(audit, credential);
      TH_RETURN_IF_ERROR(Append(connection, audit));
      return AppendCredentialChange(connection, fresh.provider, version);
    });
    TH_RETURN_IF_ERROR(status);
    return credential;
  }

  absl::StatusOr<std::vector<StoredCredential>> Credentials(std::string_view provider) override {
    std::vector<StoredCredential> credentials;
    TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          credentials,
          ReadCredentials(connection,
                          "WHERE provider = ?1 OR ?1 = '' ORDER BY provider, name, version DESC",
                          provider));
      return absl::OkStatus();
    }));
    return credentials;
  }

  absl::StatusOr<bool> DeleteCredential(std::string_view provider, std::string_view name,
                                        audit::Call* audit, int64_t* version) override {
    bool deleted = false;
    const absl::Status status = database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      TH_ASSIGN_OR_RETURN(
          const std::vector<StoredCredential> before,
          ReadCredentials(connection, "WHERE provider = ?1 AND (name = ?2 OR ?2 = '') ORDER BY version",
                          provider, name));
      SetBefore(audit, before);
      TH_ASSIGN_OR_RETURN(
          const int64_t rows,
          connection.Execute("DELETE FROM credential WHERE provider = ?1 AND (name = ?2 OR ?2 = '')",
                             provider, name));
      deleted = rows > 0;
      if (!deleted) return NewestVersion(connection, version);
      TH_RETURN_IF_ERROR(Append(connection, audit));
      return AppendCredentialChange(connection, provider, version);
    });
    TH_RETURN_IF_ERROR(status);
    return deleted;
  }

  absl::StatusOr<std::map<std::string, int64_t>> CountWrapped() override {
    std::map<std::string, int64_t> counts;
    TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& connection) -> absl::Status {
      counts.clear();
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          connection.Query("SELECT kek_id FROM credential UNION ALL "
                                           "SELECT kek_id FROM hash_keys"));
      while (rows.Next()) ++counts[rows.Text(0)];
      return rows.status();
    }));
    return counts;
  }

  absl::StatusOr<std::vector<StoredCredential>> CredentialsNotWrappedBy(std::string_view kek_id,
                                                                        int64_t limit) override {
    std::vector<StoredCredential> credentials;
    TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          credentials, ReadCredentials(connection, "WHERE kek_id <> ?1 ORDER BY version LIMIT ?2",
                                       kek_id, limit));
      return absl::OkStatus();
    }));
    return credentials;
  }

  absl::StatusOr<bool> ReplaceDataKey(int64_t credential_version, const WrappedKey& old,
                                      const WrappedKey& fresh) override {
    bool replaced = false;
    TH_RETURN_IF_ERROR(database_->Write([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          const int64_t rows,
          connection.Execute("UPDATE credential SET kek_id = ?2, wrapped_key = ?3 "
                             "WHERE version = ?1 AND wrapped_key = ?4",
                             credential_version, fresh.key_id, sql::Blob{fresh.bytes},
                             sql::Blob{old.bytes}));
      replaced = rows > 0;
      return absl::OkStatus();
    }));
    return replaced;
  }

  absl::Status InsertToken(const StoredToken& token, audit::Call* audit) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      SetAfter(audit, token);
      TH_ASSIGN_OR_RETURN(
          const int64_t rows,
          connection.Execute(
              "INSERT INTO admin_token (name, hash, role, subtree, created_by, created_at, expires_at) "
              "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name) DO NOTHING",
              token.name, sql::Blob{token.hash}, static_cast<int64_t>(token.role), token.subtree,
              token.created_by, absl::ToUnixMicros(token.created_at), Micros(token.expires_at)));
      if (rows == 0) {
        return MakeError(absl::StatusCode::kAlreadyExists, "TOKEN_EXISTS",
                         "there is a token of this name; revoke it first or take another name");
      }
      return Append(connection, audit);
    });
  }

  absl::StatusOr<StoredTokens> Tokens() override {
    StoredTokens tokens;
    TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(tokens, ReadTokens(connection));
      return absl::OkStatus();
    }));
    return tokens;
  }

  absl::StatusOr<bool> DeleteToken(std::string_view name, const CheckTokens& check,
                                   audit::Call* audit) override {
    bool deleted = false;
    TH_RETURN_IF_ERROR(database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      TH_ASSIGN_OR_RETURN(const StoredTokens known, ReadTokens(connection));
      TH_RETURN_IF_ERROR(check(known));
      for (const StoredToken& token : known.tokens) {
        if (token.name != name || audit == nullptr) continue;
        audit->SetResource(absl::StrCat("token/", token.name), token.subtree);
        audit->SetBefore(ToProto(token));
      }
      TH_ASSIGN_OR_RETURN(const int64_t rows,
                          connection.Execute("DELETE FROM admin_token WHERE name = ?1", name));
      deleted = rows > 0;
      return deleted ? Append(connection, audit) : absl::OkStatus();
    }));
    return deleted;
  }

  absl::Status RevokeFirstToken(std::string_view hash, absl::Time at, const CheckTokens& check,
                                audit::Call* audit) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      Begin(audit);
      TH_ASSIGN_OR_RETURN(const StoredTokens known, ReadTokens(connection));
      TH_RETURN_IF_ERROR(check(known));
      TH_RETURN_IF_ERROR(connection
                             .Execute("INSERT INTO revoked_first_token (hash, at) VALUES (?1, ?2) "
                                      "ON CONFLICT (hash) DO NOTHING",
                                      sql::Blob{hash}, absl::ToUnixMicros(at))
                             .status());
      return Append(connection, audit);
    });
  }

  absl::Status PutObject(const StoredObject& object, absl::Time keep_after) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      TH_RETURN_IF_ERROR(connection
                             .Execute("DELETE FROM stored_object WHERE created_at < ?1",
                                      absl::ToUnixMicros(keep_after))
                             .status());
      return connection
          .Execute("INSERT INTO stored_object (id, provider, account_id, created_at) "
                   "VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING",
                   object.id, object.provider, object.account_id,
                   absl::ToUnixMicros(object.created_at))
          .status();
    });
  }

  absl::Status DeleteObject(std::string_view id, int64_t account_id) override {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      return connection
          .Execute("DELETE FROM stored_object WHERE id = ?1 AND account_id = ?2", id, account_id)
          .status();
    });
  }

  absl::StatusOr<std::optional<StoredObject>> ObjectById(std::string_view id) override {
    std::optional<StoredObject> object;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          connection.Query("SELECT id, provider, account_id, created_at FROM stored_object "
                           "WHERE id = ?1",
                           id));
      if (rows.Next()) {
        object = StoredObject{std::string(rows.Text(0)), std::string(rows.Text(1)), rows.Int(2),
                              absl::FromUnixMicros(rows.Int(3))};
      }
      return rows.status();
    });
    TH_RETURN_IF_ERROR(status);
    return object;
  }

 private:
  static absl::StatusOr<StoredTokens> ReadTokens(sql::Connection& connection) {
    StoredTokens known;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          connection.Query("SELECT name, hash, role, subtree, created_by, created_at, expires_at "
                           "FROM admin_token ORDER BY name"));
      while (rows.Next()) {
        known.tokens.push_back({rows.Text(0), rows.Text(1), static_cast<common::v1::Role>(rows.Int(2)),
                                rows.Text(3), rows.Text(4), absl::FromUnixMicros(rows.Int(5)),
                                TimeAt(rows, 6)});
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    TH_ASSIGN_OR_RETURN(sql::Rows rows, connection.Query("SELECT hash FROM revoked_first_token"));
    while (rows.Next()) known.revoked_hashes.push_back(rows.Text(0));
    TH_RETURN_IF_ERROR(rows.status());
    return known;
  }

  sql::Database* const database_;
};

}  // namespace

sql::Schema StoreSchema() {
  return {.sqlite = {{1, kSqliteSchema1},
                     {2, kSqliteSchema2},
                     {3, sql::ChangeLogSchema(sql::Dialect::kSqlite)},
                     {4, kSqliteSchema4},
                     {5, kObjectsSchema},
                     {6, kSqliteSchema6},
                     {7, kSqliteSchema7},
                     {8, audit::LogSchema(sql::Dialect::kSqlite)}},
          .postgres = {{1, kPostgresSchema1},
                       {2, sql::ChangeLogSchema(sql::Dialect::kPostgres)},
                       {3, kPostgresSchema3},
                       {4, kObjectsSchema},
                       {5, kPostgresSchema5},
                       {6, kPostgresSchema6},
                       {7, audit::LogSchema(sql::Dialect::kPostgres)}}};
}

std::unique_ptr<Store> MakeSqlStore(sql::Database* database) {
  return std::make_unique<SqlStore>(database);
}

}  // namespace tollhouse::vault
