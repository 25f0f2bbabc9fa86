#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <type_traits>

#include "gtest/gtest.h"
#include "libs/crypto/aead.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/hardening.h"
#include "libs/crypto/hmac_key.h"
#include "libs/crypto/random.h"
#include "libs/crypto/secret_bytes.h"

namespace tollhouse::crypto {
namespace {

TEST(DigestTest, Sha256OfTheStandardsExample) {
  EXPECT_EQ(Hex(AsBytes(Sha256("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, HmacOfRfc4231Case2) {
  EXPECT_EQ(Hex(AsBytes(HmacSha256("Jefe", "what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(HmacKeyTest, IsHmacWhateverTheLengths) {
  for (const size_t key_size : {0, 1, 32, 63, 64, 65, 200}) {
    const std::string key = RandomBytes(key_size);
    const HmacKey prepared(key);
    for (const size_t size : {0, 1, 14, 52, 55, 56, 64, 500}) {
      const std::string text = RandomBytes(size);
      EXPECT_EQ(prepared.Mac(text), HmacSha256(key, text)) << key_size << " " << size;
    }
  }
}

TEST(DigestTest, ComparesLengthAndEveryByte) {
  EXPECT_TRUE(ConstantTimeEqual("abc", "abc"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "abd"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "abcd"));
  EXPECT_TRUE(ConstantTimeEqual("", ""));
}

TEST(RandomTest, NeverRepeats) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(RandomBytes(16));
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(AeadTest, OpensWhatItSealed) {
  std::string key = RandomBytes(kAeadKeySize);
  for (std::string text : {std::string(), std::string("x"), std::string(5000, 'q')}) {
    auto sealed = Seal(key, "row 1", text);
    ASSERT_TRUE(sealed.ok());
    auto opened = Open(key, "row 1", *sealed);
    ASSERT_TRUE(opened.ok());
    EXPECT_EQ(opened->view(), text);
  }
}

TEST(AeadTest, SameTextNeverSealsTheSame) {
  std::string key = RandomBytes(kAeadKeySize);
  EXPECT_NE(*Seal(key, "", "text"), *Seal(key, "", "text"));
}

TEST(AeadTest, AnyChangedBitIsRefused) {
  std::string key = RandomBytes(kAeadKeySize);
  std::string sealed = *Seal(key, "aad", "a secret");
  for (size_t bit = 0; bit < sealed.size() * 8; ++bit) {
    std::string damaged = sealed;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    ASSERT_FALSE(Open(key, "aad", damaged).ok()) << "bit " << bit;
  }
  for (size_t size = 0; size < sealed.size(); ++size) {
    ASSERT_FALSE(Open(key, "aad", sealed.substr(0, size)).ok()) << "size " << size;
  }
}

TEST(AeadTest, OtherKeyOrContextIsRefused) {
  std::string key = RandomBytes(kAeadKeySize);
  std::string sealed = *Seal(key, "row 1", "a secret");
  EXPECT_EQ(Open(key, "row 2", sealed).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(Open(RandomBytes(kAeadKeySize), "row 1", sealed).status().code(),
            absl::StatusCode::kUnauthenticated);
}

TEST(AeadTest, KeyMustHave256Bits) {
  EXPECT_EQ(Seal("short", "", "x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Open(std::string(16, 'k'), "", std::string(64, 's')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SecretBytesTest, MovesAndDoesNotCopy) {
  static_assert(!std::is_copy_constructible_v<SecretBytes>);
  static_assert(!std::is_copy_assignable_v<SecretBytes>);
  static_assert(!std::is_convertible_v<SecretBytes, std::string>);
  SecretBytes a("secret");
  SecretBytes b = std::move(a);
  EXPECT_EQ(b.view(), "secret");
  EXPECT_TRUE(a.empty());  // moved from on purpose
  b.Clear();
  EXPECT_TRUE(b.empty());
}

TEST(SecretBytesTest, CleanseEmptiesAString) {
  std::string text = "secret";
  Cleanse(&text);
  EXPECT_TRUE(text.empty());
}

TEST(HardeningTest, ForbidsCoreDumps) {
  pid_t child = fork();
  if (child == 0) {
    bool ok = HardenProcess().ok();
    rlimit limit{1, 1};
    getrlimit(RLIMIT_CORE, &limit);
    _exit(ok && prctl(PR_GET_DUMPABLE) == 0 && limit.rlim_cur == 0 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tollhouse::crypto
