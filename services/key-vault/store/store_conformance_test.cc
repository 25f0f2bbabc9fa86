// What every store of the vault promises; each implementation is one line at the end.
#include <memory>
#include <optional>

#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/key-vault/store/sql_store.h"
#include "services/key-vault/store/store.h"

namespace tollhouse::vault {
namespace {

const absl::Time kNow = absl::FromUnixMicros(1'795'262'400'123'456);

enum class Backend { kSqlite, kPostgres };

class StoreConformanceTest : public ::testing::TestWithParam<Backend> {
 protected:
  StoreConformanceTest() {
    if (GetParam() == Backend::kSqlite) {
      settings_.database = "sqlite:" + dir_.File("vault.db");
    } else {
      postgres_.emplace(testing::PostgresServer::Shared(), "vault", [](const std::string& uri) {
        EXPECT_TRUE(sql::MigrateDatabase({.database = uri}, StoreSchema()).ok());
      });
      settings_.database = postgres_->uri();
    }
    Reopen();
  }
  // The same content, opened again.
  void Reopen() {
    store_.reset();
    opened_.database.reset();
    auto opened = sql::OpenDatabase(settings_, StoreSchema());
    ASSERT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    store_ = MakeSqlStore(opened_.database.get());
  }
  static StoredKey Key(const std::string& id, int64_t account) {
    StoredKey key;
    key.key_id = id;
    key.account_id = account;
    key.path = "acme/" + id;
    key.owner = "sarah@example.com";
    key.purpose = "tests";
    key.created_at = kNow;
    key.expires_at = kNow + absl::Hours(1);
    key.models = {"gpt-4o*", "o3"};
    key.providers = {"openai"};
    key.endpoints = {"chat_completions", "embed*"};
    key.networks = {"10.0.0.0/8", "2001:db8::/32"};
    key.macs = {{std::string(32, 'm'), kNow, std::nullopt}};
    return key;
  }

  testing::TempDir dir_;
  std::optional<testing::PostgresDatabase> postgres_;
  sql::DatabaseSettings settings_;
  sql::OpenedDatabase opened_;
  std::unique_ptr<Store> store_;
  int64_t version_ = 0;
};

TEST_P(StoreConformanceTest, HashKeysAreSetOnce) {
  EXPECT_FALSE(store_->SealedHashKeys()->has_value());
  const std::string sealed("\0bytes\xff", 7);
  ASSERT_TRUE(store_->PutSealedHashKeys({"kek1", sealed}).ok());
  EXPECT_FALSE(store_->PutSealedHashKeys({"kek1", "other"}).ok());
  Reopen();
  EXPECT_EQ((*store_->SealedHashKeys())->bytes, sealed);
  EXPECT_FALSE(*store_->ReplaceSealedHashKeys({"kek1", "other"}, {"kek2", "fresh"}));
  EXPECT_TRUE(*store_->ReplaceSealedHashKeys({"kek1", sealed}, {"kek2", "fresh"}));
  EXPECT_EQ((*store_->SealedHashKeys())->key_id, "kek2");
  EXPECT_EQ((*store_->SealedHashKeys())->bytes, "fresh");
}

TEST_P(StoreConformanceTest, TokensAreKeptByNameAndGoOnce) {
  StoredToken token;
  token.name = "sarah";
  token.hash = std::string(32, '\0');
  token.role = common::v1::ROLE_ADMIN;
  token.subtree = "acme/payments";
  token.created_by = "root";
  token.created_at = kNow;
  token.expires_at = kNow + absl::Hours(1);
  ASSERT_TRUE(store_->InsertToken(token, nullptr).ok());
  EXPECT_EQ(ReasonOf(store_->InsertToken(token, nullptr)), "TOKEN_EXISTS");
  token.name = "bill";
  token.hash = std::string(32, '\xff');
  token.expires_at.reset();
  ASSERT_TRUE(store_->InsertToken(token, nullptr).ok());
  Reopen();
  const auto tokens = store_->Tokens();
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->tokens.size(), 2u);
  EXPECT_EQ(tokens->tokens[0].name, "bill");
  EXPECT_FALSE(tokens->tokens[0].expires_at.has_value());
  EXPECT_EQ(tokens->tokens[1].hash, std::string(32, '\0'));
  EXPECT_EQ(tokens->tokens[1].role, common::v1::ROLE_ADMIN);
  EXPECT_EQ(tokens->tokens[1].subtree, "acme/payments");
  EXPECT_EQ(tokens->tokens[1].created_by, "root");
  EXPECT_EQ(tokens->tokens[1].expires_at, kNow + absl::Hours(1));
  const auto any = [](const StoredTokens&) { return absl::OkStatus(); };
  const auto none = [](const StoredTokens& known) {
    return absl::AbortedError(absl::StrCat(known.tokens.size(), " tokens"));
  };
  EXPECT_EQ(store_->DeleteToken("bill", none, nullptr).status().message(), "2 tokens");
  EXPECT_EQ(store_->DeleteToken("bill", any, nullptr).value_or(false), true);
  EXPECT_EQ(store_->DeleteToken("bill", any, nullptr).value_or(true), false);
  EXPECT_EQ(store_->Tokens()->tokens.size(), 1u);
  const std::string hash(32, '\0');
  EXPECT_FALSE(store_->RevokeFirstToken(hash, kNow, none, nullptr).ok());
  EXPECT_TRUE(store_->Tokens()->revoked_hashes.empty());
  EXPECT_TRUE(store_->RevokeFirstToken(hash, kNow, any, nullptr).ok());
  EXPECT_TRUE(store_->RevokeFirstToken(hash, kNow, any, nullptr).ok());
  Reopen();
  EXPECT_EQ(store_->Tokens()->revoked_hashes, std::vector<std::string>{hash});
}

TEST_P(StoreConformanceTest, KeepsEveryFieldOfAKey) {
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "", nullptr).ok());
  Reopen();
  auto keys = store_->KeysByIds({"none", "a"});
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 1u);
  // What edges are not told may be missing there.
  const StoredKey key = **store_->KeyByAccount(1);
  EXPECT_EQ(keys->front().account_id, 1);
  EXPECT_EQ(keys->front().expires_at, key.expires_at);
  EXPECT_EQ(keys->front().models, key.models);
  EXPECT_EQ(keys->front().providers, key.providers);
  EXPECT_EQ(keys->front().endpoints, key.endpoints);
  EXPECT_EQ(keys->front().networks, key.networks);
  ASSERT_EQ(keys->front().macs.size(), 1u);
  EXPECT_EQ(keys->front().macs[0].mac, key.macs[0].mac);
  const StoredKey expected = Key("a", 1);
  EXPECT_EQ(key.account_id, 1);
  EXPECT_EQ(key.path, expected.path);
  EXPECT_EQ(key.owner, expected.owner);
  EXPECT_EQ(key.purpose, expected.purpose);
  EXPECT_EQ(key.created_at, expected.created_at);
  EXPECT_EQ(key.expires_at, expected.expires_at);
  EXPECT_EQ(key.models, expected.models);
  EXPECT_EQ(key.providers, expected.providers);
  EXPECT_EQ(key.endpoints, expected.endpoints);
  EXPECT_EQ(key.networks, expected.networks);
  ASSERT_EQ(key.macs.size(), 1u);
  EXPECT_EQ(key.macs[0].mac, expected.macs[0].mac);
  EXPECT_FALSE(key.macs[0].expires_at.has_value());
  EXPECT_EQ((*store_->KeyByAccount(1))->key_id, "a");
  EXPECT_FALSE(store_->KeyByAccount(2)->has_value());
}

TEST_P(StoreConformanceTest, OneKeyPerIdAndAccount) {
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "", nullptr).ok());
  EXPECT_FALSE(store_->InsertKey(Key("a", 2), "", nullptr).ok());
  EXPECT_FALSE(store_->InsertKey(Key("b", 1), "", nullptr).ok());
  EXPECT_EQ(store_->AllKeys()->size(), 1u);
}

TEST_P(StoreConformanceTest, IntentEndsWithItsKey) {
  ASSERT_TRUE(store_->PutIntent({"r1", "acme", "a", "me", kNow}).ok());
  ASSERT_TRUE(store_->PutIntent({"r2", "acme", "b", "me", kNow}).ok());
  Reopen();
  EXPECT_EQ(store_->Intents()->size(), 2u);
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "r1", nullptr).ok());
  ASSERT_EQ(store_->Intents()->size(), 1u);
  EXPECT_EQ(store_->Intents()->front().name, "b");
  ASSERT_TRUE(store_->DeleteIntent("r2").ok());
  EXPECT_TRUE(store_->Intents()->empty());
}

TEST_P(StoreConformanceTest, AKeyWhoseIntentWasClaimedIsNotStored) {
  ASSERT_TRUE(store_->PutIntent({"r1", "acme", "a", "me", kNow}).ok());
  EXPECT_EQ(store_->Intents()->front().maker, "me");
  EXPECT_EQ(store_->Intents()->front().at, kNow);
  EXPECT_TRUE(*store_->ClaimIntent("r1"));
  EXPECT_TRUE(*store_->ClaimIntent("r1"));
  EXPECT_EQ(ReasonOf(store_->InsertKey(Key("a", 1), "r1", nullptr)),
            "KEY_TAKEN_BACK");
  EXPECT_EQ(store_->Intents()->size(), 1u);
  ASSERT_TRUE(store_->DeleteIntent("r1").ok());
  EXPECT_FALSE(*store_->ClaimIntent("r1"));
  EXPECT_EQ(ReasonOf(store_->InsertKey(Key("a", 1), "r1", nullptr)),
            "KEY_TAKEN_BACK");
  EXPECT_TRUE(store_->AllKeys()->empty());
}

TEST_P(StoreConformanceTest, ChangeIsWrittenWithItsAuditOrNotAtAll) {
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "", nullptr).ok());
  auto changed = store_->ChangeKey(
      1,
      [](StoredKey& key) -> absl::StatusOr<bool> {
        key.disabled = key.revoked = true;
        key.expires_at.reset();
        key.models.clear();
        key.macs.push_back({std::string(32, 'n'), kNow, kNow + absl::Minutes(1)});
        return true;
      },
      nullptr, &version_);
  ASSERT_TRUE(changed.ok()) << changed.status();
  const int64_t version = version_;
  EXPECT_GT(version, 1);
  Reopen();
  const StoredKey key = **store_->KeyByAccount(1);
  EXPECT_TRUE(key.disabled && key.revoked);
  EXPECT_FALSE(key.expires_at.has_value());
  EXPECT_TRUE(key.models.empty());
  EXPECT_EQ(key.macs.size(), 2u);

  const auto refused = store_->ChangeKey(
      1,
      [](StoredKey& k) -> absl::StatusOr<bool> {
        k.disabled = false;
        return absl::FailedPreconditionError("no");
      },
      nullptr, &version_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(store_
                  ->ChangeKey(1, [](StoredKey&) -> absl::StatusOr<bool> { return false; },
                              nullptr, &version_)
                  .ok());
  EXPECT_EQ(version_, version);
  EXPECT_TRUE((*store_->KeyByAccount(1))->disabled);
  EXPECT_EQ(ReasonOf(store_
                         ->ChangeKey(2, [](StoredKey&) -> absl::StatusOr<bool> { return true; },
                                     nullptr, &version_)
                         .status()),
            "KEY_NOT_FOUND");
}

TEST_P(StoreConformanceTest, ManyKeysAreFoundWithTheirOwnSecrets) {
  StoredKey rotated = Key("b", 2);
  rotated.macs.push_back({std::string(32, 'n'), kNow + absl::Seconds(1), std::nullopt});
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "", nullptr).ok());
  ASSERT_TRUE(store_->InsertKey(rotated, "", nullptr).ok());
  auto keys = store_->KeysByIds({"b", "none", "a"});
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  for (const StoredKey& key : *keys) {
    EXPECT_EQ(key.macs.size(), key.key_id == "a" ? 1u : 2u) << key.key_id;
    EXPECT_EQ(key.account_id, key.key_id == "a" ? 1 : 2);
  }
}

TEST_P(StoreConformanceTest, TheLatestUseOfAKeyIsKept) {
  ASSERT_TRUE(store_->InsertKey(Key("a", 1), "", nullptr).ok());
  EXPECT_FALSE((*store_->KeyByAccount(1))->last_used_at.has_value());
  ASSERT_TRUE(store_->RecordUse({{"none", 5}, {"a", 100}}).ok());
  ASSERT_TRUE(store_->RecordUse({{"a", 99}}).ok());
  Reopen();
  EXPECT_EQ((*store_->KeyByAccount(1))->last_used_at, absl::FromUnixSeconds(6000));
  EXPECT_EQ(store_->AllKeys()->front().last_used_at, absl::FromUnixSeconds(6000));
  ASSERT_TRUE(store_->RecordUse({{"a", 101}}).ok());
  EXPECT_EQ((*store_->KeyByAccount(1))->last_used_at, absl::FromUnixSeconds(6060));
  // Neither a change nor a report undoes the other.
  ASSERT_TRUE(store_
                  ->ChangeKey(1,
                              [](StoredKey& key) -> absl::StatusOr<bool> {
                                key.disabled = true;
                                return true;
                              },
                              nullptr, &version_)
                  .ok());
  EXPECT_EQ((*store_->KeyByAccount(1))->last_used_at, absl::FromUnixSeconds(6060));
}

// Puts a credential whose sealed parts say which version it is.
class CredentialStoreTest : public StoreConformanceTest {
 protected:
  StoredCredential Put(NewCredential credential) {
    if (credential.name.empty()) credential.name = "default";
    if (credential.origin.empty()) credential.origin = "https://h:443";
    credential.at = kNow;
    auto stored = store_->PutCredential(
        credential,
        [](int64_t version) -> absl::StatusOr<SealedSecret> {
          return SealedSecret{{"kek1", "wrapped" + std::to_string(version)}, "sealed"};
        },
        nullptr, &version_);
    EXPECT_TRUE(stored.ok()) << stored.status();
    return *stored;
  }
};

TEST_P(CredentialStoreTest, VersionsNeverReturn) {
  EXPECT_EQ(Put({.provider = "openai"}).version, 1);
  EXPECT_EQ(Put({.provider = "openai"}).version, 2);
  EXPECT_TRUE(*store_->DeleteCredential("openai", "", nullptr, &version_));
  const int64_t version = version_;
  EXPECT_FALSE(*store_->DeleteCredential("openai", "", nullptr, &version_));
  EXPECT_EQ(version_, version);
  Reopen();
  EXPECT_TRUE(store_->Credentials("openai")->empty());
  EXPECT_EQ(Put({.provider = "openai"}).version, 3);
  EXPECT_EQ(Put({.provider = "anthropic"}).version, 4);
  const auto all = store_->Credentials("");
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ(all->front().provider, "anthropic");
  EXPECT_EQ(store_->Credentials("openai")->front().origin, "https://h:443");
  EXPECT_EQ(store_->Credentials("openai")->front().created_at, kNow);
  EXPECT_EQ(store_->Credentials("openai")->front().secret.data_key.bytes, "wrapped3");
}

TEST_P(CredentialStoreTest, TheVersionBeforeStaysForTheOverlapAndNoOther) {
  EXPECT_EQ(Put({.provider = "openai", .weight = 7}).weight, 7);
  EXPECT_EQ(Put({.provider = "openai", .overlap = absl::Hours(1)}).weight, 7);  // as it was
  auto both = store_->Credentials("openai");
  ASSERT_EQ(both->size(), 2u);
  EXPECT_EQ(both->front().version, 2);
  EXPECT_FALSE(both->front().expires_at.has_value());
  EXPECT_EQ(both->back().version, 1);
  EXPECT_EQ(both->back().expires_at, kNow + absl::Hours(1));
  Put({.provider = "openai", .weight = 3, .overlap = absl::Hours(2)});
  both = store_->Credentials("openai");
  ASSERT_EQ(both->size(), 2u);
  EXPECT_EQ(both->back().version, 2);
  EXPECT_EQ(both->back().weight, 3);
  Put({.provider = "openai", .origin = "https://other:443", .overlap = absl::Hours(2)});
  EXPECT_EQ(store_->Credentials("openai")->size(), 1u);  // the old one was for another origin
}

TEST_P(CredentialStoreTest, NamesAreApart) {
  Put({.provider = "openai", .name = "b", .weight = 2});
  Put({.provider = "openai", .name = "a"});
  Put({.provider = "openai", .name = "a"});
  const auto all = store_->Credentials("openai");
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ(all->front().name, "a");
  EXPECT_EQ(all->front().version, 3);
  EXPECT_EQ(all->back().weight, 2);
  EXPECT_TRUE(*store_->DeleteCredential("openai", "a", nullptr, &version_));
  EXPECT_EQ(store_->Credentials("openai")->front().name, "b");
}

TEST_P(CredentialStoreTest, DataKeysAreReplacedOnlyAsTheyWere) {
  const StoredCredential stored = Put({.provider = "openai"});
  Put({.provider = "openai", .name = "b"});
  ASSERT_TRUE(store_->PutSealedHashKeys({"", "bytes"}).ok());
  EXPECT_EQ((*store_->CountWrapped())["kek1"], 2);
  EXPECT_EQ((*store_->CountWrapped())[""], 1);
  EXPECT_EQ(store_->CredentialsNotWrappedBy("kek2", 10)->size(), 2u);
  EXPECT_EQ(store_->CredentialsNotWrappedBy("kek2", 1)->size(), 1u);
  EXPECT_TRUE(store_->CredentialsNotWrappedBy("kek1", 10)->empty());
  const WrappedKey fresh{"kek2", "fresh"};
  EXPECT_FALSE(*store_->ReplaceDataKey(stored.version, {"kek1", "other"}, fresh));
  EXPECT_TRUE(*store_->ReplaceDataKey(stored.version, stored.secret.data_key, fresh));
  EXPECT_FALSE(*store_->ReplaceDataKey(stored.version, stored.secret.data_key, fresh));
  EXPECT_EQ((*store_->CountWrapped())["kek2"], 1);
  EXPECT_EQ(store_->Credentials("openai")->back().secret.sealed, "sealed");
}

TEST_P(CredentialStoreTest, UnsealableCredentialChangesNothing) {
  Put({.provider = "openai"});
  EXPECT_FALSE(store_
                   ->PutCredential({.provider = "openai", .name = "default"},
                                   [](int64_t) -> absl::StatusOr<SealedSecret> {
                                     return absl::InternalError("no");
                                   },
                                   nullptr, &version_)
                   .ok());
  EXPECT_EQ(store_->Credentials("")->size(), 1u);
}

TEST_P(StoreConformanceTest, ObjectsBelongToWhoeverToldOfThemFirst) {
  const absl::Time keep = kNow - absl::Hours(1);
  ASSERT_TRUE(store_->PutObject({"resp_1", "openai", 7, kNow}, keep).ok());
  ASSERT_TRUE(store_->PutObject({"resp_1", "openai", 8, kNow}, keep).ok());
  Reopen();
  auto object = store_->ObjectById("resp_1");
  ASSERT_TRUE(object.ok() && object->has_value()) << object.status();
  EXPECT_EQ((*object)->account_id, 7);
  EXPECT_EQ((*object)->provider, "openai");
  EXPECT_FALSE(store_->ObjectById("resp_2")->has_value());
  ASSERT_TRUE(store_->DeleteObject("resp_1", 8).ok());
  EXPECT_TRUE(store_->ObjectById("resp_1")->has_value());
  ASSERT_TRUE(store_->DeleteObject("resp_1", 7).ok());
  EXPECT_FALSE(store_->ObjectById("resp_1")->has_value());
  ASSERT_TRUE(store_->PutObject({"old", "openai", 7, keep - absl::Seconds(1)}, keep).ok());
  ASSERT_TRUE(store_->PutObject({"new", "openai", 7, kNow}, keep).ok());
  EXPECT_FALSE(store_->ObjectById("old")->has_value());
  EXPECT_TRUE(store_->ObjectById("new")->has_value());
}

INSTANTIATE_TEST_SUITE_P(Backends, StoreConformanceTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgres),
                         [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgres";
                         });
INSTANTIATE_TEST_SUITE_P(Backends, CredentialStoreTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgres),
                         [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgres";
                         });

}  // namespace
}  // namespace tollhouse::vault
