#include "services/key-vault/key_ring.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/aead.h"
#include "libs/crypto/random.h"
#include "libs/obs/log.h"

namespace tollhouse::vault {
namespace {

constexpr size_t kKeySize = crypto::kAeadKeySize;
constexpr std::string_view kHashKeysContext = "tollhouse.vault/hash-keys/1";

// Unambiguous whatever the parts contain.
std::string Context(std::string_view purpose, std::string_view provider, std::string_view origin,
                    int64_t version) {
  std::string context;
  for (const std::string_view part : {purpose, provider, origin}) {
    absl::StrAppend(&context, part.size(), ":", std::string(part), "|");
  }
  absl::StrAppend(&context, version);
  return context;
}

}  // namespace

absl::StatusOr<KeyRing> KeyRing::Open(std::unique_ptr<KeyEncryption> key_encryption, Store* store) {
  KeyRing ring;
  ring.key_encryption_ = std::move(key_encryption);
  TH_ASSIGN_OR_RETURN(std::optional<WrappedKey> sealed, store->SealedHashKeys());
  if (!sealed) {
    const crypto::SecretBytes fresh = crypto::RandomSecret(2 * kKeySize);
    TH_ASSIGN_OR_RETURN(const WrappedKey fresh_sealed,
                        ring.key_encryption_->Wrap(kHashKeysContext, fresh.view()));
    const absl::Status put = store->PutSealedHashKeys(fresh_sealed);
    if (!put.ok() && !absl::IsFailedPrecondition(put)) return put;
    TH_ASSIGN_OR_RETURN(sealed, store->SealedHashKeys());  // another replica's, if it was faster
    if (!sealed) return absl::InternalError("the hash keys are not there after they were stored");
  }
  const auto keys = ring.key_encryption_->Unwrap(kHashKeysContext, *sealed);
  if (!keys.ok() || keys->size() != 2 * kKeySize) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "KEK_WRONG",
        "the key-encryption key is not the one that this vault's database was made with: start with "
        "the right key file, or with the database that belongs to this one");
  }
  ring.virtual_key_keys_.checksum_key = crypto::SecretBytes(keys->view().substr(0, kKeySize));
  ring.virtual_key_keys_.secret_key = crypto::SecretBytes(keys->view().substr(kKeySize));
  return ring;
}

absl::StatusOr<SealedSecret> KeyRing::SealCredential(std::string_view provider,
                                                     std::string_view origin, int64_t version,
                                                     std::string_view secret) const {
  const crypto::SecretBytes data_key = crypto::RandomSecret(kKeySize);
  SealedSecret sealed;
  TH_ASSIGN_OR_RETURN(sealed.data_key,
                      key_encryption_->Wrap(Context("data-key", provider, origin, version),
                                            data_key.view()));
  TH_ASSIGN_OR_RETURN(
      sealed.sealed,
      crypto::Seal(data_key.view(), Context("credential", provider, origin, version), secret));
  return sealed;
}

absl::StatusOr<crypto::SecretBytes> KeyRing::OpenDataKey(const StoredCredential& credential) const {
  auto data_key = key_encryption_->Unwrap(
      Context("data-key", credential.provider, credential.origin, credential.version),
      credential.secret.data_key);
  if (data_key.ok()) return data_key;
  obs::Error("data_key_not_opened", {{"provider", credential.provider},
                                     {"version", credential.version},
                                     {"message", Std(data_key.status().message())}});
  return MakeError(absl::StatusCode::kInternal, "CREDENTIAL_DAMAGED",
                   absl::StrCat("the stored credential of provider '", credential.provider,
                                "' does not open: its key-encryption key is not here, or it was "
                                "changed; restore the key or enter the credential again"));
}

absl::StatusOr<crypto::SecretBytes> KeyRing::OpenCredential(
    const StoredCredential& credential) const {
  TH_ASSIGN_OR_RETURN(const crypto::SecretBytes data_key, OpenDataKey(credential));
  auto secret = crypto::Open(data_key.view(),
                             Context("credential", credential.provider, credential.origin,
                                     credential.version),
                             credential.secret.sealed);
  if (secret.ok()) return secret;
  return MakeError(absl::StatusCode::kInternal, "CREDENTIAL_DAMAGED",
                   absl::StrCat("the stored credential of provider '", credential.provider,
                                "' does not open; enter it again"));
}

absl::StatusOr<WrappedKey> KeyRing::RewrapCredential(const StoredCredential& credential) const {
  TH_ASSIGN_OR_RETURN(const crypto::SecretBytes data_key, OpenDataKey(credential));
  return key_encryption_->Wrap(
      Context("data-key", credential.provider, credential.origin, credential.version),
      data_key.view());
}

absl::StatusOr<WrappedKey> KeyRing::RewrapHashKeys(const WrappedKey& sealed) const {
  TH_ASSIGN_OR_RETURN(const crypto::SecretBytes keys,
                      key_encryption_->Unwrap(kHashKeysContext, sealed));
  return key_encryption_->Wrap(kHashKeysContext, keys.view());
}

}  // namespace tollhouse::vault
