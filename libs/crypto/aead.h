// Authenticated encryption: AES-256-GCM (NIST SP 800-38D).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/crypto/secret_bytes.h"

namespace tollhouse::crypto {

inline constexpr size_t kAeadKeySize = 32;

// A sealed text is nonce (12 bytes) || ciphertext || tag (16 bytes); the nonce is random, so one key
// must not seal more than 2^32 texts. `aad` is authenticated, not stored: opening needs the same.
// InvalidArgument if the key is not kAeadKeySize bytes. Thread-safe.
absl::StatusOr<std::string> Seal(std::string_view key, std::string_view aad,
                                 std::string_view plaintext);

// The text that Seal got. Unauthenticated (nothing is revealed) if key, aad or a bit of `sealed`
// differ; InvalidArgument if the key is not kAeadKeySize bytes. Thread-safe.
absl::StatusOr<SecretBytes> Open(std::string_view key, std::string_view aad,
                                 std::string_view sealed);

}  // namespace tollhouse::crypto
