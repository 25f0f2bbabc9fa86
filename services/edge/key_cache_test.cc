#include "services/edge/key_cache.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libs/crypto/virtual_key.h"

namespace tollhouse::edge {
namespace {

constexpr int64_t kOrg = 1;
constexpr int64_t kTeam = 2;

class KeyCacheTest : public ::testing::Test {
 protected:
  // A key of acme/TEAM with its account's id.
  PrincipalPtr Make(int64_t account_id, int64_t team = kTeam,
                    const std::function<void(vault::v1::KeyRecord*)>& edit = [](auto*) {}) {
    vault::v1::KeyRecord key;
    key.set_key_id(crypto::MakeVirtualKey("checksum key").id);
    key.set_account_id(account_id);
    edit(&key);
    ledger::v1::AccountView views[3];
    views[0].set_account_id(kOrg);
    views[0].set_path("acme");
    views[1].set_account_id(team);
    views[1].set_path(absl::StrCat("acme/t", team));
    views[2].set_account_id(account_id);
    views[2].set_path(absl::StrCat("acme/t", team, "/k", account_id));
    auto standing = Standing::From(key, {&views[0], &views[1], &views[2]}, false);
    EXPECT_TRUE(standing.ok()) << standing.status();
    return PrincipalPtr(new Principal(key, views[2], cache_.Share(*std::move(standing))));
  }
  PrincipalPtr Put(int64_t account_id, int64_t team = kTeam) {
    PrincipalPtr principal = Make(account_id, team);
    cache_.Put(principal);
    return principal;
  }

  KeyCache cache_{64 * 100};
};

TEST_F(KeyCacheTest, KeepsWhatItWasGiven) {
  const PrincipalPtr a = Put(10);
  Put(11);
  EXPECT_EQ(cache_.Find(a->key_id()), a);
  EXPECT_EQ(a->account_path(), "acme/t2/k10");
  EXPECT_EQ(a->account_ids(), (std::vector<int64_t>{kOrg, kTeam, 10}));
  EXPECT_EQ(cache_.Find(crypto::MakeVirtualKey("checksum key").id), nullptr);
  cache_.Put(a);
  EXPECT_EQ(cache_.size(), 2u);
  cache_.Erase(a->key_id());
  EXPECT_EQ(cache_.Find(a->key_id()), nullptr);
}

TEST_F(KeyCacheTest, KeysOfOneTeamWithTheSamePermissionsShareThem) {
  const PrincipalPtr a = Make(10);
  EXPECT_EQ(&a->standing(), &Make(11)->standing());
  EXPECT_NE(&a->standing(), &Make(12, 3)->standing());
  const PrincipalPtr limited = Make(13, kTeam, [](auto* key) { key->add_networks("10.0.0.0/8"); });
  EXPECT_NE(&a->standing(), &limited->standing());
  const PrincipalPtr other = Make(14, kTeam, [](auto* key) { key->add_networks("10.0.0.0/9"); });
  EXPECT_NE(&limited->standing(), &other->standing());
  // What stands in one list is not what stands in another.
  const PrincipalPtr model = Make(15, kTeam, [](auto* key) { key->add_models("x"); });
  const PrincipalPtr provider = Make(16, kTeam, [](auto* key) { key->add_providers("x"); });
  EXPECT_NE(&model->standing(), &provider->standing());
}

TEST_F(KeyCacheTest, AChangedAccountForgetsItselfAndWhatIsBelow) {
  const PrincipalPtr a = Put(10);
  const PrincipalPtr b = Put(11);
  const PrincipalPtr c = Put(12, 3);
  const int64_t own[] = {10};
  cache_.EraseAccounts(own);
  EXPECT_EQ(cache_.Find(a->key_id()), nullptr);
  EXPECT_NE(cache_.Find(b->key_id()), nullptr);
  const int64_t team[] = {kTeam, 99};
  cache_.EraseAccounts(team);
  EXPECT_EQ(cache_.Find(b->key_id()), nullptr);
  EXPECT_NE(cache_.Find(c->key_id()), nullptr);
  // What is learned afterwards is not stale.
  const PrincipalPtr again = Put(11);
  EXPECT_NE(cache_.Find(again->key_id()), nullptr);
  const int64_t org[] = {kOrg};
  cache_.EraseAccounts(org);
  EXPECT_EQ(cache_.Find(c->key_id()), nullptr);
  EXPECT_EQ(cache_.Find(again->key_id()), nullptr);
}

TEST_F(KeyCacheTest, ANewKeyOfAnAccountTakesItsPlace) {
  const PrincipalPtr old = Put(10);
  const PrincipalPtr fresh = Put(10);
  cache_.Erase(old->key_id());
  const int64_t own[] = {10};
  cache_.EraseAccounts(own);
  EXPECT_EQ(cache_.Find(fresh->key_id()), nullptr);
}

TEST_F(KeyCacheTest, ClearTellsWhomItForgot) {
  const PrincipalPtr a = Put(10);
  const std::vector<KeyId> forgotten = cache_.Clear();
  ASSERT_EQ(forgotten.size(), 1u);
  EXPECT_EQ(std::string_view(forgotten[0].data(), kKeyIdSize), a->key_id());
  EXPECT_EQ(cache_.size(), 0u);
  EXPECT_TRUE(cache_.Clear().empty());
}

TEST_F(KeyCacheTest, AFullCacheForgetsAPart) {
  for (int64_t id = 10; id < 10 + 64 * 400; ++id) Put(id);
  EXPECT_LE(cache_.size(), size_t{64 * 100});
  EXPECT_GT(cache_.size(), size_t{64 * 20});
}

TEST_F(KeyCacheTest, SecretsCountUntilTheyEnd) {
  const absl::Time now = absl::FromUnixSeconds(1'795'262'400);
  const PrincipalPtr key = Make(10, kTeam, [&](vault::v1::KeyRecord* record) {
    record->add_macs()->set_mac(std::string(32, 'n'));
    vault::v1::SecretMac* old = record->add_macs();
    old->set_mac(std::string(32, 'o'));
    old->mutable_expires_at()->set_seconds(absl::ToUnixSeconds(now));
    record->add_macs()->set_mac("too short");
  });
  std::array<uint8_t, 32> mac;
  mac.fill('n');
  EXPECT_TRUE(key->HasMac(mac, now));
  mac.fill('o');
  EXPECT_TRUE(key->HasMac(mac, now - absl::Seconds(1)));
  EXPECT_FALSE(key->HasMac(mac, now));
  mac.fill(0);
  EXPECT_FALSE(key->HasMac(mac, now));
  EXPECT_FALSE(Make(11)->HasMac(mac, now));  // a key without a secret has none of zeros
}

TEST_F(KeyCacheTest, UsesAreToldNowAndThen) {
  const PrincipalPtr key = Make(10);
  EXPECT_TRUE(key->NoteUse(1000, 10));
  EXPECT_FALSE(key->NoteUse(1000, 10));
  EXPECT_FALSE(key->NoteUse(1009, 10));
  EXPECT_TRUE(key->NoteUse(1010, 10));
}

}  // namespace
}  // namespace tollhouse::edge
