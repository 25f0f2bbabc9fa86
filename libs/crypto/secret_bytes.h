// Memory for secrets.
#pragma once

#include <openssl/crypto.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace tollhouse::crypto {

// Bytes that are overwritten before their memory is released. Moves, never copies by accident
// (Clone says so aloud), has no operator<< and no conversion to a string. Not thread-safe.
class SecretBytes {
 public:
  SecretBytes() = default;
  // `size` zero bytes.
  explicit SecretBytes(size_t size) : data_(size ? new char[size]() : nullptr), size_(size) {}
  // A copy of `bytes`; whoever owns the original still has to cleanse it.
  explicit SecretBytes(std::string_view bytes) : SecretBytes(bytes.size()) {
    bytes.copy(data_.get(), bytes.size());
  }
  ~SecretBytes() { Clear(); }

  SecretBytes(SecretBytes&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  SecretBytes& operator=(SecretBytes&& other) noexcept {
    if (this != &other) {
      Clear();
      data_ = std::move(other.data_);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;

  SecretBytes Clone() const { return SecretBytes(view()); }

  // Valid until this object is moved from, assigned or destroyed. Not for logs and errors.
  std::string_view view() const { return {data_.get(), size_}; }
  char* data() { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Overwrites and releases.
  void Clear() {
    if (data_) OPENSSL_cleanse(data_.get(), size_);
    data_.reset();
    size_ = 0;
  }

 private:
  std::unique_ptr<char[]> data_;
  size_t size_ = 0;
};

// Overwrites a string that held a secret (a protobuf field, a file's content) and empties it.
inline void Cleanse(std::string* text) {
  if (!text->empty()) OPENSSL_cleanse(text->data(), text->size());
  text->clear();
}

}  // namespace tollhouse::crypto
