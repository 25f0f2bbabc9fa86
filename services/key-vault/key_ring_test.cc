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

TEST_F(KeyRingTest, MakesAKeyFileThatOthersCannotRead) {
  const std::string path = dir_.File("new");
  auto made = LoadKeyEncryptionKey(path, true);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->size(), 32u);
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  auto again = LoadKeyEncryptionKey(path, true);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->view(), made->view());
}

TEST_F(KeyRingTest, RefusesUnusableKeyFiles) {
  EXPECT_EQ(ReasonOf(LoadKeyEncryptionKey(dir_.File("none"), false).status()), "KEK_MISSING");
  EXPECT_EQ(ReasonOf(LoadKeyEncryptionKey(dir_.File("no/such/dir"), true).status()),
            "KEK_UNUSABLE");
  EXPECT_EQ(ReasonOf(LoadKeyEncryptionKey(dir_.path(), false).status()), "KEK_UNUSABLE");
  const std::string good(32, 'k');
  EXPECT_TRUE(LoadKeyEncryptionKey(WriteKey(good), false).ok());
  EXPECT_TRUE(LoadKeyEncryptionKey(WriteKey(good, 0640), false).ok());
  for (const std::string& bad : {std::string(), std::string(31, 'k'), std::string(33, 'k')}) {
    EXPECT_EQ(ReasonOf(LoadKeyEncryptionKey(WriteKey(bad), false).status()), "KEK_UNUSABLE");
  }
  for (const mode_t mode : {0644, 0660, 0604}) {
    EXPECT_EQ(ReasonOf(LoadKeyEncryptionKey(WriteKey(good, mode), false).status()), "KEK_UNUSABLE");
  }
}

TEST_F(KeyRingTest, HashKeysStayTheSameAndNeedTheirKey) {
  auto store = OpenStore();
  auto first = KeyRing::Open(crypto::SecretBytes(std::string(32, 'a')), store.get());
  ASSERT_TRUE(first.ok()) << first.status();
  store = OpenStore();
  auto second = KeyRing::Open(crypto::SecretBytes(std::string(32, 'a')), store.get());
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->virtual_key_keys().secret_key.view(),
            second->virtual_key_keys().secret_key.view());
  EXPECT_NE(first->virtual_key_keys().secret_key.view(),
            first->virtual_key_keys().checksum_key.view());
  EXPECT_EQ(ReasonOf(KeyRing::Open(crypto::SecretBytes(std::string(32, 'b')), store.get()).status()),
            "KEK_WRONG");
}

TEST_F(KeyRingTest, CredentialOpensOnlyInItsOwnRow) {
  auto store = OpenStore();
  auto ring = KeyRing::Open(crypto::SecretBytes(std::string(32, 'a')), store.get());
  ASSERT_TRUE(ring.ok());
  auto sealed = ring->SealCredential("openai", "https://api.openai.com:443", 7, "sk-real");
  ASSERT_TRUE(sealed.ok());
  const StoredCredential row{"openai", "https://api.openai.com:443", 7, absl::Now(), *sealed};
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
  other.secret.wrapped_key = ring->SealCredential("openai", row.origin, 7, "x")->wrapped_key;
  EXPECT_TRUE(damaged(other));
}

}  // namespace
}  // namespace tollhouse::vault
