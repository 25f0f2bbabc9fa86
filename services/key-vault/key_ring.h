// What is sealed under key-encryption keys.
//
// Envelope: every credential has a data key of its own; the data key is wrapped under the newest
// key-encryption key, the credential sealed under the data key. Both texts are bound (AEAD context) to the provider, its
// origin and the row's version: moved to another row they do not open.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/crypto/secret_bytes.h"
#include "services/key-vault/key_encryption.h"
#include "services/key-vault/store/store.h"

namespace tollhouse::vault {

// The keys of libs/crypto/virtual_key.h.
struct VirtualKeyKeys {
  crypto::SecretBytes checksum_key;  // 32 bytes
  crypto::SecretBytes secret_key;    // 32 bytes
};

// Thread-safe.
class KeyRing {
 public:
  // Opens the store's hash keys, making them in a new store. FailedPrecondition (KEK_WRONG) if another
  // key sealed them.
  static absl::StatusOr<KeyRing> Open(std::unique_ptr<KeyEncryption> key_encryption, Store* store);

  const VirtualKeyKeys& virtual_key_keys() const { return virtual_key_keys_; }

  absl::StatusOr<SealedSecret> SealCredential(std::string_view provider, std::string_view origin,
                                              int64_t version, std::string_view secret) const;
  // Internal (CREDENTIAL_DAMAGED) if the row was tampered with, FailedPrecondition (KEK_WRONG).
  absl::StatusOr<crypto::SecretBytes> OpenCredential(const StoredCredential& credential) const;

  // The same secret, its data key wrapped under the newest key.
  absl::StatusOr<WrappedKey> RewrapCredential(const StoredCredential& credential) const;
  absl::StatusOr<WrappedKey> RewrapHashKeys(const WrappedKey& sealed) const;

  KeyEncryption& key_encryption() const { return *key_encryption_; }

 private:
  KeyRing() = default;

  absl::StatusOr<crypto::SecretBytes> OpenDataKey(const StoredCredential& credential) const;

  std::unique_ptr<KeyEncryption> key_encryption_;
  VirtualKeyKeys virtual_key_keys_;
};

}  // namespace tollhouse::vault
