// Buffers that are filled from sockets: kept by each thread, never cleared.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace tollhouse::edge {

// kBytes at first. Belongs to the thread that made it.
class IoBuffer {
 public:
  static constexpr size_t kBytes = 32 << 10;

  IoBuffer() {
    std::vector<std::unique_ptr<char[]>>& spare = Spare();
    if (spare.empty()) {
      data_ = std::make_unique_for_overwrite<char[]>(kBytes);
    } else {
      data_ = std::move(spare.back());
      spare.pop_back();
    }
  }
  ~IoBuffer() {
    if (size_ == kBytes && Spare().size() < kSpareMax) Spare().push_back(std::move(data_));
  }
  IoBuffer(const IoBuffer&) = delete;
  IoBuffer& operator=(const IoBuffer&) = delete;

  char* data() { return data_.get(); }
  size_t size() const { return size_; }
  std::string_view view(size_t bytes) const { return {data_.get(), bytes}; }

  // Keeps the first `used` bytes; what points into the buffer does not stay valid.
  void Grow(size_t size, size_t used) {
    auto larger = std::make_unique_for_overwrite<char[]>(size);
    std::memcpy(larger.get(), data_.get(), used);
    data_ = std::move(larger);
    size_ = size;
  }
  // Drops the first `used` of `filled` bytes.
  void Drop(size_t used, size_t filled) {
    std::memmove(data_.get(), data_.get() + used, filled - used);
  }

 private:
  static constexpr size_t kSpareMax = 256;

  static std::vector<std::unique_ptr<char[]>>& Spare() {
    thread_local std::vector<std::unique_ptr<char[]>> spare;
    return spare;
  }

  std::unique_ptr<char[]> data_;
  size_t size_ = kBytes;
};

}  // namespace tollhouse::edge
