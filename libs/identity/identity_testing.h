// A signing identity provider for tests: makes keys, key sets and tokens.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace tollhouse::identity {

// One key pair. Not thread-safe.
class TestSigner {
 public:
  // "RS256" (RSA, `bits`) or "ES256" (P-256).
  TestSigner(std::string algorithm, std::string key_id, int bits = 2048);
  ~TestSigner();

  // The public key as a JSON Web Key.
  std::string Jwk() const;
  // A compact token with this header and payload, signed whatever they say.
  std::string Sign(std::string_view header, std::string_view payload) const;
  // With the header that belongs to the key.
  std::string Sign(std::string_view payload) const;

 private:
  struct Key;
  const std::string algorithm_, key_id_;
  std::unique_ptr<Key> key_;
};

}  // namespace tollhouse::identity
