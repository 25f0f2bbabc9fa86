// Virtual keys: sk-toll-<id>-<secret>, what applications send instead of a provider's key.
//
//   <id>      24 characters: 14 random ones and a checksum of 10 (50 bits of HMAC-SHA256 under the
//             checksum key). Public: it names the key in lists and logs. An invented id fails CheckId
//             (all but one of 2^50), so floods of them cost a MAC, not a look-up.
//   <secret>  52 characters of 256 random bits. Shown once; only MacOfSecret of it is kept.
//
// Both are lower-case base32 (RFC 4648 alphabet, no padding): safe in URLs, headers and shells, and
// selected as one word by a double click but for the dashes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "libs/crypto/digest.h"
#include "libs/crypto/hmac_key.h"
#include "libs/crypto/secret_bytes.h"

namespace tollhouse::crypto {

inline constexpr std::string_view kVirtualKeyPrefix = "sk-toll-";

struct NewVirtualKey {
  std::string id;
  SecretBytes text;  // the whole "sk-toll-<id>-<secret>"
};

// Views into the text that was parsed.
struct VirtualKeyParts {
  std::string_view id;
  std::string_view secret;
};

// A fresh key. Thread-safe.
NewVirtualKey MakeVirtualKey(std::string_view checksum_key);
// A fresh secret for an existing id, as whole key text: rotation.
SecretBytes MakeVirtualKeyText(std::string_view id);

// The parts of a well-formed key text; nullopt if prefix, lengths or alphabet are not those of a
// virtual key. Says nothing about whether the key exists. Thread-safe.
std::optional<VirtualKeyParts> ParseVirtualKey(std::string_view text);

// Whether this installation made the id. Thread-safe.
bool CheckId(const HmacKey& checksum_key, std::string_view id);

// What is stored and compared (with ConstantTimeEqual) in place of the secret: HMAC-SHA256 under the
// secret key. One fast MAC is enough, since the secret has 256 bits of entropy. Thread-safe.
Sha256Digest MacOfSecret(std::string_view secret_key, std::string_view secret);

}  // namespace tollhouse::crypto
