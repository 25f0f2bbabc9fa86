#include "services/key-vault/key_ring.h"

#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/testing/temp_dir.h"
#include "services/key-vault/store/sql_store.h"

namespace tollhouse::vault {
namespace {

class KeyRingTest : public ::testing::Test {
 protected:
  std::string WriteKey(const std::string& content, mode_t mode = 0600) {
    const std::string path = dir_.File("kek");
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  std::unique_ptr<Store> OpenStore() {
    auto opened = sql::OpenDatabase({.database = "sqlite:" + dir_.File("vault.db")}, StoreSchema());
    EXPECT_TRUE(opened.ok()) << opened.status();
    opened_.push_back(*std::move(opened));
    return MakeSqlStore(opened_.back().database.get());
  }

  testing::TempDir dir_;
  std::vector<sql::OpenedDatabase> opened_;
};

absl::StatusOr<std::unique_ptr<KeyEncryption>> Keys(const std::string& text) {
  return LocalKeyEncryption::Open(
      [text]() -> absl::StatusOr<crypto::SecretBytes> { return crypto::SecretBytes(text); });
}

// 64 hex digits.
std::string Line(char digit) { return std::string(64, digit) + "\n"; }

TEST_F(KeyRingTest, MakesAKeyFileThatOthersCannotRead) {
  const std::string path = dir_.File("new");
  auto made = ReadKeyFile(path, true);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->size(), 32u);
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  auto again = ReadKeyFile(path, true);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->view(), made->view());
}

TEST_F(KeyRingTest, RefusesUnusableKeyFiles) {
  EXPECT_EQ(ReasonOf(ReadKeyFile(dir_.File("none"), false).status()), "KEK_MISSING");
  EXPECT_EQ(ReasonOf(ReadKeyFile(dir_.File("no/such/dir"), true).status()), "KEK_UNUSABLE");
  EXPECT_EQ(ReasonOf(ReadKeyFile(dir_.path(), false).status()), "KEK_UNUSABLE");
  const std::string good(32, 'k');
  EXPECT_TRUE(ReadKeyFile(WriteKey(good), false).ok());
  EXPECT_TRUE(ReadKeyFile(WriteKey(good, 0640), false).ok());
  for (const mode_t mode : {0644, 0660, 0604}) {
    EXPECT_EQ(ReasonOf(ReadKeyFile(WriteKey(good, mode), false).status()), "KEK_UNUSABLE");
  }
}

TEST_F(KeyRingTest, RefusesTextsThatAreNoKeys) {
  for (const std::string& bad :
       {std::string(), std::string(31, 'k'), std::string(33, 'k'), std::string(64, 'g'),
        std::string(63, 'a'), "# nothing\n" + std::string(10, ' '), Line('a') + Line('a')}) {
    EXPECT_EQ(ReasonOf(Keys(bad).status()), "KEK_UNUSABLE") << bad;
  }
  const auto two = Keys("# old\n" + Line('a') + "\n" + std::string(64, 'B') + " # new");
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ((*two)->ids().size(), 2u);
}

TEST_F(KeyRingTest, AnAddedKeyIsTheNewestAndTheOldOneStays) {
  const std::string path = WriteKey(std::string(32, 'k'));
  const auto keys = LocalKeyEncryption::Open([&] { return ReadKeyFile(path, false); });
  ASSERT_TRUE(keys.ok()) << keys.status();
  const std::string first = (*keys)->ids().front();
  const auto wrapped = (*keys)->Wrap("context", "plain");
  ASSERT_TRUE(wrapped.ok());
  EXPECT_EQ(wrapped->key_id, first);
  for (int round = 2; round < 4; ++round) {
    const auto added = AddKeyToFile(path);
    ASSERT_TRUE(added.ok()) << added.status();
    struct stat info {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    ASSERT_TRUE((*keys)->Reload().ok());
    ASSERT_EQ((*keys)->ids().size(), static_cast<size_t>(round));
    EXPECT_EQ((*keys)->ids().front(), first);
    EXPECT_EQ((*keys)->ids().back(), *added);
    EXPECT_EQ((*keys)->Wrap("context", "plain")->key_id, *added);
  }
  EXPECT_EQ((*keys)->Unwrap("context", *wrapped)->view(), "plain");
  EXPECT_EQ((*keys)->Unwrap("context", {"", wrapped->bytes})->view(), "plain");
  EXPECT_EQ(ReasonOf((*keys)->Unwrap("other", *wrapped).status()), "KEK_WRONG");
}

TEST_F(KeyRingTest, AKeyThatAnotherReplicaAlreadyUsesIsLookedFor) {
  std::string text = Line('a');
  const auto behind = LocalKeyEncryption::Open(
      [&text]() -> absl::StatusOr<crypto::SecretBytes> { return crypto::SecretBytes(text); });
  const auto ahead = Keys(Line('a') + Line('b'));
  const auto wrapped = (*ahead)->Wrap("context", "plain");
  EXPECT_EQ(ReasonOf((*behind)->Unwrap("context", *wrapped).status()), "KEK_WRONG");
  text += Line('b');
  EXPECT_EQ((*behind)->Unwrap("context", *wrapped)->view(), "plain");
  text = "broken";  // what is known stays
  EXPECT_EQ(ReasonOf((*behind)->Reload()), "KEK_UNUSABLE");
  EXPECT_EQ((*behind)->Unwrap("context", *wrapped)->view(), "plain");
}

TEST_F(KeyRingTest, HashKeysStayTheSameAndNeedTheirKey) {
  auto store = OpenStore();
  auto first = KeyRing::Open(*Keys(std::string(32, 'a')), store.get());
  ASSERT_TRUE(first.ok()) << first.status();
  store = OpenStore();
  auto second = KeyRing::Open(*Keys(std::string(32, 'a')), store.get());
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->virtual_key_keys().secret_key.view(),
            second->virtual_key_keys().secret_key.view());
  EXPECT_NE(first->virtual_key_keys().secret_key.view(),
            first->virtual_key_keys().checksum_key.view());
  EXPECT_EQ(ReasonOf(KeyRing::Open(*Keys(std::string(32, 'b')), store.get()).status()),
            "KEK_WRONG");
}

TEST_F(KeyRingTest, CredentialOpensOnlyInItsOwnRow) {
  auto store = OpenStore();
  auto ring = KeyRing::Open(*Keys(std::string(32, 'a')), store.get());
  ASSERT_TRUE(ring.ok());
  auto sealed = ring->SealCredential("openai", "https://api.openai.com:443", 7, "sk-real");
  ASSERT_TRUE(sealed.ok());
  const StoredCredential row{.provider = "openai",
                             .name = "default",
                             .origin = "https://api.openai.com:443",
                             .version = 7,
                             .created_at = absl::Now(),
                             .secret = *sealed};
  ASSERT_TRUE(ring->OpenCredential(row).ok());
  EXPECT_EQ(ring->OpenCredential(row)->view(), "sk-real");
  const auto damaged = [&](const StoredCredential& other) {
    return ReasonOf(ring->OpenCredential(other).status()) == "CREDENTIAL_DAMAGED";
  };
  StoredCredential other = row;
  other.provider = "evil";
  EXPECT_TRUE(damaged(other));
  other = row;
  other.origin = "https://evil.example.com:443";
  EXPECT_TRUE(damaged(other));
  other = row;
  other.version = 6;
  EXPECT_TRUE(damaged(other));
  other = row;
  other.secret.data_key = ring->SealCredential("openai", row.origin, 7, "x")->data_key;
  EXPECT_TRUE(damaged(other));
}

}  // namespace
}  // namespace tollhouse::vault
