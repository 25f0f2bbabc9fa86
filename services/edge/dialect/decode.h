// Content-Encoding of answers, undone as the bytes come.
#pragma once

#include <memory>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace tollhouse::edge {

// Not thread-safe.
class Decoder {
 public:
  virtual ~Decoder() = default;

  // Decodes what has come so far into `sink`, at most 64 KiB at a time, holding nothing back that
  // the encoder flushed. False once the input is corrupt; what was decoded before stands.
  virtual bool Decode(std::string_view encoded, absl::FunctionRef<void(std::string_view)> sink) = 0;
};

// True for "" and "identity", which need no decoder.
bool IsIdentity(std::string_view content_encoding);

// For gzip, x-gzip, deflate (with or without zlib header), br and zstd; nullptr for others, also
// for several encodings on top of each other.
std::unique_ptr<Decoder> NewDecoder(std::string_view content_encoding);

}  // namespace tollhouse::edge
