// The key-encryption key and what is sealed under it.
//
// Envelope: every credential has a data key of its own; the data key is sealed under the key-encryption
// key, the credential under the data key. Both texts are bound (AEAD context) to the provider, its
// origin and the row's version: moved to another row they do not open.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/crypto/secret_bytes.h"
#include "services/key-vault/store/store.h"

namespace tollhouse::vault {

// The keys of libs/crypto/virtual_key.h.
struct VirtualKeyKeys {
  crypto::SecretBytes checksum_key;  // 32 bytes
  crypto::SecretBytes secret_key;    // 32 bytes
};

// The key-encryption key of a file: exactly 32 bytes, not accessible by others than owner and group,
// not writable by the group. FailedPrecondition (KEK_UNUSABLE) says what is wrong with it. Where there is no file: makes one with
// mode 0600 if `create_if_absent`, else FailedPrecondition (KEK_MISSING).
absl::StatusOr<crypto::SecretBytes> LoadKeyEncryptionKey(const std::string& path,
                                                         bool create_if_absent);

// Immutable, thread-safe.
class KeyRing {
 public:
  // Opens the store's hash keys with the key-encryption key, making them in a new store.
  // FailedPrecondition (KEK_WRONG) if another key sealed them.
  static absl::StatusOr<KeyRing> Open(crypto::SecretBytes key_encryption_key, Store* store);

  const VirtualKeyKeys& virtual_key_keys() const { return virtual_key_keys_; }

  absl::StatusOr<SealedSecret> SealCredential(std::string_view provider, std::string_view origin,
                                              int64_t version, std::string_view secret) const;
  // Internal (CREDENTIAL_DAMAGED) if the row was tampered with.
  absl::StatusOr<crypto::SecretBytes> OpenCredential(const StoredCredential& credential) const;

 private:
  KeyRing() = default;

  crypto::SecretBytes key_encryption_key_;
  VirtualKeyKeys virtual_key_keys_;
};

}  // namespace tollhouse::vault
