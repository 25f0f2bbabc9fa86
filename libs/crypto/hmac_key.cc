// The states of a hash that has seen part of its text can be copied with these calls only for the price
// of their bytes; what OpenSSL recommends instead allocates for each copy.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "libs/crypto/hmac_key.h"

#include <openssl/crypto.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace tollhouse::crypto {
namespace {

constexpr size_t kBlock = 64;

void Begin(const std::array<uint8_t, kBlock>& key, uint8_t pad, SHA256_CTX* context) {
  std::array<uint8_t, kBlock> block = key;
  for (uint8_t& byte : block) byte ^= pad;
  SHA256_Init(context);
  SHA256_Update(context, block.data(), block.size());
  OPENSSL_cleanse(block.data(), block.size());
}

}  // namespace

HmacKey::HmacKey(std::string_view key) {
  std::array<uint8_t, kBlock> padded{};
  if (key.size() > kBlock) {
    const Sha256Digest digest = Sha256(key);
    std::memcpy(padded.data(), digest.data(), digest.size());
  } else {
    std::memcpy(padded.data(), key.data(), key.size());
  }
  Begin(padded, 0x36, &inner_);
  Begin(padded, 0x5c, &outer_);
  OPENSSL_cleanse(padded.data(), padded.size());
}

HmacKey::~HmacKey() {
  OPENSSL_cleanse(&inner_, sizeof inner_);
  OPENSSL_cleanse(&outer_, sizeof outer_);
}

Sha256Digest HmacKey::Mac(std::string_view data) const {
  Sha256Digest digest;
  SHA256_CTX context = inner_;
  SHA256_Update(&context, data.data(), data.size());
  SHA256_Final(digest.data(), &context);
  context = outer_;
  SHA256_Update(&context, digest.data(), digest.size());
  SHA256_Final(digest.data(), &context);
  OPENSSL_cleanse(&context, sizeof context);
  return digest;
}

}  // namespace tollhouse::crypto
