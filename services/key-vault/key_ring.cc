#include "services/key-vault/key_ring.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/aead.h"
#include "libs/crypto/random.h"

namespace tollhouse::vault {
namespace {

constexpr size_t kKeySize = crypto::kAeadKeySize;
constexpr std::string_view kHashKeysContext = "tollhouse.vault/hash-keys/1";

absl::Status Unusable(const std::string& path, const std::string& why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "KEK_UNUSABLE",
                   absl::StrCat("the key-encryption key file ", path, " ", why));
}

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

absl::StatusOr<crypto::SecretBytes> CreateKeyFile(const std::string& path) {
  crypto::SecretBytes key = crypto::RandomSecret(kKeySize);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return Unusable(path, absl::StrCat("cannot be created: ", std::strerror(errno)));
  const bool written = write(fd, key.data(), key.size()) == static_cast<ssize_t>(key.size()) &&
                       fsync(fd) == 0;
  const int error = errno;
  const bool closed = close(fd) == 0;
  if (!written || !closed) {
    unlink(path.c_str());
    return Unusable(path, absl::StrCat("cannot be written: ", std::strerror(error)));
  }
  return key;
}

}  // namespace

absl::StatusOr<crypto::SecretBytes> LoadKeyEncryptionKey(const std::string& path,
                                                         bool create_if_absent) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno != ENOENT) {
      return Unusable(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
    }
    if (create_if_absent) return CreateKeyFile(path);
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "KEK_MISSING",
        absl::StrCat("the key-encryption key file ", path,
                     " is missing. If this vault's database exists already, restore the file from "
                     "your backup: without it stored credentials and virtual keys cannot be used. "
                     "For a new vault make one: (umask 077; head -c 32 /dev/urandom > ", path, ")"));
  }
  struct stat info {};
  crypto::SecretBytes key(kKeySize + 1);
  const bool stated = fstat(fd, &info) == 0;
  const ssize_t size = read(fd, key.data(), key.size());
  close(fd);
  if (!stated || size < 0) return Unusable(path, "cannot be read");
  if (!S_ISREG(info.st_mode)) return Unusable(path, "is not a file");
  if ((info.st_mode & 0027) != 0) {
    return Unusable(path, "can be read or changed by other users of this machine; chmod 600 it");
  }
  if (size != static_cast<ssize_t>(kKeySize)) {
    return Unusable(path, "must hold exactly 32 bytes");
  }
  return crypto::SecretBytes(key.view().substr(0, kKeySize));
}

absl::StatusOr<KeyRing> KeyRing::Open(crypto::SecretBytes key_encryption_key, Store* store) {
  KeyRing ring;
  ring.key_encryption_key_ = std::move(key_encryption_key);
  TH_ASSIGN_OR_RETURN(std::optional<std::string> sealed, store->SealedHashKeys());
  if (!sealed) {
    const crypto::SecretBytes fresh = crypto::RandomSecret(2 * kKeySize);
    TH_ASSIGN_OR_RETURN(const std::string fresh_sealed,
                        crypto::Seal(ring.key_encryption_key_.view(), kHashKeysContext,
                                     fresh.view()));
    const absl::Status put = store->PutSealedHashKeys(fresh_sealed);
    if (!put.ok() && !absl::IsFailedPrecondition(put)) return put;
    TH_ASSIGN_OR_RETURN(sealed, store->SealedHashKeys());  // another replica's, if it was faster
    if (!sealed) return absl::InternalError("the hash keys are not there after they were stored");
  }
  const auto keys = crypto::Open(ring.key_encryption_key_.view(), kHashKeysContext, *sealed);
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
  TH_ASSIGN_OR_RETURN(sealed.wrapped_key,
                      crypto::Seal(key_encryption_key_.view(),
                                   Context("data-key", provider, origin, version),
                                   data_key.view()));
  TH_ASSIGN_OR_RETURN(
      sealed.sealed,
      crypto::Seal(data_key.view(), Context("credential", provider, origin, version), secret));
  return sealed;
}

absl::StatusOr<crypto::SecretBytes> KeyRing::OpenCredential(
    const StoredCredential& credential) const {
  const auto context = [&](std::string_view purpose) {
    return Context(purpose, credential.provider, credential.origin, credential.version);
  };
  const auto data_key = crypto::Open(key_encryption_key_.view(), context("data-key"),
                                     credential.secret.wrapped_key);
  if (data_key.ok()) {
    auto secret = crypto::Open(data_key->view(), context("credential"), credential.secret.sealed);
    if (secret.ok()) return secret;
  }
  return MakeError(absl::StatusCode::kInternal, "CREDENTIAL_DAMAGED",
                   absl::StrCat("the stored credential of provider '", credential.provider,
                                "' does not open; enter it again"));
}

}  // namespace tollhouse::vault
