#include "libs/crypto/virtual_key.h"

#include <set>

#include "gtest/gtest.h"
#include "libs/crypto/random.h"

namespace tollhouse::crypto {
namespace {

TEST(VirtualKeyTest, TextParsesIntoItsParts) {
  std::string checksum_key = RandomBytes(32);
  NewVirtualKey key = MakeVirtualKey(checksum_key);
  auto parts = ParseVirtualKey(key.text.view());
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(parts->id, key.id);
  EXPECT_EQ(parts->secret.size(), 52u);
  EXPECT_TRUE(CheckId(HmacKey(checksum_key), parts->id));
}

TEST(VirtualKeyTest, KeysAreDistinctInIdAndSecret) {
  std::set<std::string> ids, secrets;
  for (int i = 0; i < 500; ++i) {
    NewVirtualKey key = MakeVirtualKey("k");
    ids.insert(key.id);
    secrets.emplace(ParseVirtualKey(key.text.view())->secret);
  }
  EXPECT_EQ(ids.size(), 500u);
  EXPECT_EQ(secrets.size(), 500u);
}

TEST(VirtualKeyTest, IdOfAnotherInstallationOrAnyChangedCharacterFailsTheCheck) {
  NewVirtualKey key = MakeVirtualKey("this installation");
  EXPECT_FALSE(CheckId(HmacKey("another installation"), key.id));
  for (size_t i = 0; i < key.id.size(); ++i) {
    std::string id = key.id;
    id[i] = id[i] == 'a' ? 'b' : 'a';
    EXPECT_FALSE(CheckId(HmacKey("this installation"), id)) << i;
  }
  EXPECT_FALSE(CheckId(HmacKey("this installation"), ""));
  EXPECT_FALSE(CheckId(HmacKey("this installation"), key.id + "a"));
}

TEST(VirtualKeyTest, MalformedTextsAreRefused) {
  NewVirtualKey key = MakeVirtualKey("k");
  std::string text(key.text.view());
  EXPECT_FALSE(ParseVirtualKey(""));
  EXPECT_FALSE(ParseVirtualKey("sk-toll-"));
  EXPECT_FALSE(ParseVirtualKey(text.substr(1)));
  EXPECT_FALSE(ParseVirtualKey(text + "a"));
  EXPECT_FALSE(ParseVirtualKey("sk-live-" + text.substr(8)));
  for (char bad : {'A', '1', '-', ' ', '\0', '/'}) {
    std::string damaged = text;
    damaged.back() = bad;
    EXPECT_FALSE(ParseVirtualKey(damaged)) << bad;
  }
}

TEST(VirtualKeyTest, RotationKeepsTheIdAndChangesTheSecret) {
  NewVirtualKey key = MakeVirtualKey("k");
  SecretBytes next = MakeVirtualKeyText(key.id);
  auto before = ParseVirtualKey(key.text.view());
  auto after = ParseVirtualKey(next.view());
  ASSERT_TRUE(before && after);
  EXPECT_EQ(before->id, after->id);
  EXPECT_NE(before->secret, after->secret);
  EXPECT_NE(MacOfSecret("s", before->secret), MacOfSecret("s", after->secret));
  EXPECT_EQ(MacOfSecret("s", before->secret), MacOfSecret("s", before->secret));
  EXPECT_NE(MacOfSecret("s", before->secret), MacOfSecret("t", before->secret));
}

}  // namespace
}  // namespace tollhouse::crypto
