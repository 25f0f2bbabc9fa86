// HMAC-SHA-256 with one key, many times.
#pragma once

#include <openssl/sha.h>

#include <string_view>

#include "libs/crypto/digest.h"

namespace tollhouse::crypto {

// RFC 2104 with the key's part of the work done once: a short text costs two rounds of SHA-256.
// Immutable, thread-safe; overwritten when it goes.
class HmacKey {
 public:
  explicit HmacKey(std::string_view key);
  ~HmacKey();
  HmacKey(const HmacKey&) = delete;
  HmacKey& operator=(const HmacKey&) = delete;

  // Equal to HmacSha256(key, data).
  Sha256Digest Mac(std::string_view data) const;

 private:
  SHA256_CTX inner_;
  SHA256_CTX outer_;
};

}  // namespace tollhouse::crypto
