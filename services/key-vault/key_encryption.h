// Key-encryption keys: what data keys are wrapped under. Behind an interface, because they may live in
// a key management service instead of this process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/crypto/secret_bytes.h"

namespace tollhouse::vault {

struct WrappedKey {
  std::string key_id;  // of the key-encryption key; "": not recorded, any may be it
  std::string bytes;
};

// Thread-safe.
class KeyEncryption {
 public:
  virtual ~KeyEncryption() = default;

  // Under the newest key. `context` must be the same at Unwrap.
  virtual absl::StatusOr<WrappedKey> Wrap(std::string_view context, std::string_view plain) = 0;
  // FailedPrecondition (KEK_WRONG) without the key that wrapped it, or if text and context do not
  // belong together.
  virtual absl::StatusOr<crypto::SecretBytes> Unwrap(std::string_view context,
                                                     const WrappedKey& wrapped) = 0;
  // Oldest first; never empty. The last one wraps.
  virtual std::vector<std::string> ids() = 0;
  // Looks for new keys. After an error (KEK_UNUSABLE, KEK_MISSING) the known ones stay.
  virtual absl::Status Reload() = 0;
};

// Keys in this process' memory. Their text is either exactly 32 bytes, one key, or lines of 64 hex
// digits, one key each, the newest last; '#' begins a comment. A key's id is derived from it.
class LocalKeyEncryption final : public KeyEncryption {
 public:
  using Read = std::function<absl::StatusOr<crypto::SecretBytes>()>;

  // FailedPrecondition (KEK_UNUSABLE) or what `read` answers.
  static absl::StatusOr<std::unique_ptr<LocalKeyEncryption>> Open(Read read);

  absl::StatusOr<WrappedKey> Wrap(std::string_view context, std::string_view plain) override;
  absl::StatusOr<crypto::SecretBytes> Unwrap(std::string_view context,
                                             const WrappedKey& wrapped) override;
  std::vector<std::string> ids() override;
  absl::Status Reload() override;

 private:
  struct Key {
    std::string id;
    crypto::SecretBytes bytes;
  };
  using Keys = std::shared_ptr<const std::vector<Key>>;

  explicit LocalKeyEncryption(Read read) : read_(std::move(read)) {}
  static absl::StatusOr<Keys> Parse(const crypto::SecretBytes& text);
  Keys keys();
  static absl::StatusOr<crypto::SecretBytes> Try(const std::vector<Key>& keys,
                                                 std::string_view context,
                                                 const WrappedKey& wrapped);

  const Read read_;
  absl::Mutex mutex_;
  Keys keys_ ABSL_GUARDED_BY(mutex_);
};

// The text of a key file, not accessible by others than owner and group, not writable by the group.
// FailedPrecondition (KEK_UNUSABLE) says what is wrong with it, (KEK_MISSING) that there is none; then
// one with a new key is made, mode 0600, if `create_if_absent`.
absl::StatusOr<crypto::SecretBytes> ReadKeyFile(const std::string& path, bool create_if_absent);

// Adds a new key, which will be the newest, to a key file. The file is replaced as a whole. The new
// key's id.
absl::StatusOr<std::string> AddKeyToFile(const std::string& path);

}  // namespace tollhouse::vault
