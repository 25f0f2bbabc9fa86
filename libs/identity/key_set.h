// Public keys of an identity provider: a JSON Web Key Set (RFC 7517).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tollhouse::identity {

inline constexpr size_t kKeySetBytesMax = 1 << 20;
inline constexpr size_t kKeysMax = 64;

// Immutable, thread-safe.
class KeySet {
 public:
  // Takes the RSA keys (2048 to 8192 bits) and the P-256 keys that are meant for signatures, skips
  // what it cannot use. INVALID_ARGUMENT (BAD_KEY_SET) if it is no key set or none is left.
  static absl::StatusOr<KeySet> Parse(std::string_view json);

  // Whether a key named `key_id` signed `message` by `algorithm` (RS256 or ES256; RFC 7518). Without
  // a name, the only key for the algorithm is meant. UNAUTHENTICATED: UNKNOWN_SIGNER if there is no
  // such key, BAD_SIGNATURE.
  absl::Status Verify(std::string_view key_id, std::string_view algorithm, std::string_view message,
                      std::string_view signature) const;

  size_t size() const { return keys_.size(); }

 private:
  struct Key;
  std::vector<std::shared_ptr<const Key>> keys_;
};

}  // namespace tollhouse::identity
