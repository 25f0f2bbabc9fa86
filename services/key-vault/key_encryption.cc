#include "services/key-vault/key_encryption.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/aead.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/random.h"
#include "libs/obs/log.h"

namespace tollhouse::vault {
namespace {

constexpr size_t kKeySize = crypto::kAeadKeySize;
constexpr size_t kFileSizeMax = 64 << 10;

absl::Status Unusable(std::string_view why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "KEK_UNUSABLE", why);
}

absl::Status UnusableFile(const std::string& path, const std::string& why) {
  return Unusable(absl::StrCat("the key-encryption key file ", path, " ", why));
}

// Tells nothing of the key.
std::string IdOf(const crypto::SecretBytes& key) {
  return crypto::Hex(
      crypto::AsBytes(crypto::HmacSha256(key.view(), "tollhouse.vault/kek-id")).substr(0, 8));
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

absl::StatusOr<crypto::SecretBytes> FromHex(std::string_view text) {
  if (text.size() != 2 * kKeySize) return Unusable("a key is not 64 hex digits");
  crypto::SecretBytes key(kKeySize);
  for (size_t i = 0; i < kKeySize; ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return Unusable("a key is not 64 hex digits");
    key.data()[i] = static_cast<char>(high << 4 | low);
  }
  return key;
}

// The words of `text` outside of comments.
std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, text.substr(0, end).find('#'));
    line = line.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty()) {
      const size_t begin = line.find_first_not_of(" \t\r,");
      if (begin == std::string_view::npos) break;
      line.remove_prefix(begin);
      const size_t size = std::min(line.find_first_of(" \t\r,"), line.size());
      words.push_back(line.substr(0, size));
      line.remove_prefix(size);
    }
  }
  return words;
}

// Durable, under its name or not at all.
absl::Status WriteKeyFile(const std::string& path, const std::string& name, std::string_view bytes,
                          int flags) {
  const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
  if (fd < 0) return UnusableFile(path, absl::StrCat("cannot be written: ", std::strerror(errno)));
  const bool written =
      write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) && fsync(fd) == 0;
  const int error = errno;
  if (close(fd) == 0 && written) return absl::OkStatus();
  unlink(name.c_str());
  return UnusableFile(path, absl::StrCat("cannot be written: ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalKeyEncryption>> LocalKeyEncryption::Open(Read read) {
  std::unique_ptr<LocalKeyEncryption> keys(new LocalKeyEncryption(std::move(read)));
  TH_RETURN_IF_ERROR(keys->Reload());
  return keys;
}

absl::StatusOr<LocalKeyEncryption::Keys> LocalKeyEncryption::Parse(
    const crypto::SecretBytes& text) {
  auto keys = std::make_shared<std::vector<Key>>();
  if (text.size() == kKeySize) {
    keys->push_back({IdOf(text), text.Clone()});
    return keys;
  }
  for (const std::string_view word : Words(text.view())) {
    TH_ASSIGN_OR_RETURN(crypto::SecretBytes key, FromHex(word));
    std::string id = IdOf(key);
    if (std::any_of(keys->begin(), keys->end(), [&](const Key& k) { return k.id == id; })) {
      return Unusable(absl::StrCat("key ", id, " stands twice among the key-encryption keys"));
    }
    keys->push_back({std::move(id), std::move(key)});
  }
  if (keys->empty()) {
    return Unusable("the key-encryption keys are neither 32 bytes nor lines of 64 hex digits");
  }
  return keys;
}

absl::Status LocalKeyEncryption::Reload() {
  TH_ASSIGN_OR_RETURN(const crypto::SecretBytes text, read_());
  TH_ASSIGN_OR_RETURN(Keys fresh, Parse(text));
  absl::MutexLock lock(&mutex_);
  keys_ = std::move(fresh);
  return absl::OkStatus();
}

LocalKeyEncryption::Keys LocalKeyEncryption::keys() {
  absl::MutexLock lock(&mutex_);
  return keys_;
}

std::vector<std::string> LocalKeyEncryption::ids() {
  std::vector<std::string> ids;
  for (const Key& key : *keys()) ids.push_back(key.id);
  return ids;
}

absl::StatusOr<WrappedKey> LocalKeyEncryption::Wrap(std::string_view context,
                                                    std::string_view plain) {
  const Keys keys = this->keys();
  TH_ASSIGN_OR_RETURN(std::string bytes, crypto::Seal(keys->back().bytes.view(), context, plain));
  return WrappedKey{keys->back().id, std::move(bytes)};
}

absl::StatusOr<crypto::SecretBytes> LocalKeyEncryption::Try(const std::vector<Key>& keys,
                                                            std::string_view context,
                                                            const WrappedKey& wrapped) {
  for (const Key& key : keys) {
    if (!wrapped.key_id.empty() && wrapped.key_id != key.id) continue;
    auto plain = crypto::Open(key.bytes.view(), context, wrapped.bytes);
    if (plain.ok()) return plain;
  }
  return MakeError(absl::StatusCode::kFailedPrecondition, "KEK_WRONG",
                   wrapped.key_id.empty()
                       ? std::string("none of the key-encryption keys opens what is stored")
                       : absl::StrCat("key-encryption key ", wrapped.key_id,
                                      " is not here, or what it wrapped was changed"));
}

absl::StatusOr<crypto::SecretBytes> LocalKeyEncryption::Unwrap(std::string_view context,
                                                               const WrappedKey& wrapped) {
  const Keys known = keys();
  auto plain = Try(*known, context, wrapped);
  if (plain.ok()) return plain;
  // Another replica may wrap under a key that was added meanwhile.
  if (std::any_of(known->begin(), known->end(),
                  [&](const Key& key) { return key.id == wrapped.key_id; })) {
    return plain;
  }
  if (const absl::Status reloaded = Reload(); !reloaded.ok()) {
    obs::Warning("key_encryption_keys_not_read", {{"message", Std(reloaded.message())}});
    return plain;
  }
  return Try(*keys(), context, wrapped);
}

absl::StatusOr<crypto::SecretBytes> ReadKeyFile(const std::string& path, bool create_if_absent) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno != ENOENT) {
      return UnusableFile(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
    }
    if (create_if_absent) {
      crypto::SecretBytes key = crypto::RandomSecret(kKeySize);
      TH_RETURN_IF_ERROR(WriteKeyFile(path, path, key.view(), O_EXCL));
      return key;
    }
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "KEK_MISSING",
        absl::StrCat("the key-encryption key file ", path,
                     " is missing. If this vault's database exists already, restore the file from "
                     "your backup: without it stored credentials and virtual keys cannot be used. "
                     "For a new vault make one: (umask 077; head -c 32 /dev/urandom > ", path, ")"));
  }
  struct stat info {};
  crypto::SecretBytes text(kFileSizeMax);
  const bool stated = fstat(fd, &info) == 0;
  const ssize_t size = read(fd, text.data(), text.size());
  close(fd);
  if (!stated || size < 0) return UnusableFile(path, "cannot be read");
  if (!S_ISREG(info.st_mode)) return UnusableFile(path, "is not a file");
  if ((info.st_mode & 0027) != 0) {
    return UnusableFile(path, "can be read or changed by other users of this machine; chmod 600 it");
  }
  return crypto::SecretBytes(text.view().substr(0, static_cast<size_t>(size)));
}

absl::StatusOr<std::string> AddKeyToFile(const std::string& path) {
  TH_ASSIGN_OR_RETURN(const crypto::SecretBytes old, ReadKeyFile(path, false));
  TH_RETURN_IF_ERROR(
      LocalKeyEncryption::Open([&]() -> absl::StatusOr<crypto::SecretBytes> { return old.Clone(); })
          .status());
  const crypto::SecretBytes fresh = crypto::RandomSecret(kKeySize);
  std::string text(old.size() == kKeySize ? crypto::Hex(old.view()) : std::string(old.view()));
  if (!text.ends_with('\n')) text += '\n';
  std::string line = crypto::Hex(fresh.view());
  absl::StrAppend(&text, line, "\n");
  crypto::Cleanse(&line);
  const std::string beside = path + ".new";
  unlink(beside.c_str());
  const absl::Status written = WriteKeyFile(path, beside, text, O_EXCL);
  crypto::Cleanse(&text);
  TH_RETURN_IF_ERROR(written);
  if (rename(beside.c_str(), path.c_str()) != 0) {
    return UnusableFile(path, absl::StrCat("cannot be replaced: ", std::strerror(errno)));
  }
  return IdOf(fresh);
}

}  // namespace tollhouse::vault
