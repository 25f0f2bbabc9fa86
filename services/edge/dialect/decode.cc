#include "services/edge/dialect/decode.h"

#include <brotli/decode.h>
#include <zlib.h>
#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

constexpr size_t kBuffer = size_t{64} << 10;

class ZlibDecoder final : public Decoder {
 public:
  // gzip, or deflate whose first two bytes tell whether a zlib header stands before it.
  explicit ZlibDecoder(bool gzip) : buffer_(kBuffer, '\0'), gzip_(gzip) {
    if (gzip) Start(15 + 16);
  }
  ~ZlibDecoder() override {
    if (started_) inflateEnd(&stream_);
  }

  bool Decode(std::string_view encoded, absl::FunctionRef<void(std::string_view)> sink) override {
    if (!started_) {
      while (header_.size() < 2 && !encoded.empty()) {
        header_ += encoded.front();
        encoded.remove_prefix(1);
      }
      if (header_.size() < 2) return true;
      const unsigned first = static_cast<unsigned char>(header_[0]);
      const unsigned second = static_cast<unsigned char>(header_[1]);
      const bool zlib = (first & 0x0f) == 8 && (first * 256 + second) % 31 == 0;
      Start(zlib ? 15 : -15);
      if (!Inflate(header_, sink)) return false;
    }
    return Inflate(encoded, sink);
  }

 private:
  void Start(int window_bits) {
    started_ = inflateInit2(&stream_, window_bits) == Z_OK;
    broken_ = !started_;
  }

  bool Inflate(std::string_view encoded, absl::FunctionRef<void(std::string_view)> sink) {
    if (broken_) return false;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(encoded.data()));
    stream_.avail_in = static_cast<uInt>(encoded.size());
    bool full = false;
    while (stream_.avail_in > 0 || full) {
      if (ended_) {
        // A gzip file may have several members; anything else behind the end is ignored.
        if (!gzip_ || inflateReset(&stream_) != Z_OK) return true;
        ended_ = false;
      }
      stream_.next_out = reinterpret_cast<Bytef*>(buffer_.data());
      stream_.avail_out = static_cast<uInt>(kBuffer);
      const int result = inflate(&stream_, Z_SYNC_FLUSH);
      const size_t produced = kBuffer - stream_.avail_out;
      if (produced > 0) sink({buffer_.data(), produced});
      if (result == Z_STREAM_END) {
        ended_ = true;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        broken_ = true;
        return false;
      }
      full = stream_.avail_out == 0 && !ended_;
      if (produced == 0 && result == Z_BUF_ERROR) break;
    }
    return true;
  }

  std::string buffer_;
  std::string header_;
  z_stream stream_{};
  bool gzip_;
  bool started_ = false;
  bool ended_ = false;
  bool broken_ = false;
};

class BrotliDecoder final : public Decoder {
 public:
  BrotliDecoder()
      : buffer_(kBuffer, '\0'), state_(BrotliDecoderCreateInstance(nullptr, nullptr, nullptr)) {}
  ~BrotliDecoder() override { BrotliDecoderDestroyInstance(state_); }

  bool Decode(std::string_view encoded, absl::FunctionRef<void(std::string_view)> sink) override {
    size_t available = encoded.size();
    auto* next = reinterpret_cast<const uint8_t*>(encoded.data());
    while (true) {
      size_t room = kBuffer;
      auto* out = reinterpret_cast<uint8_t*>(buffer_.data());
      const BrotliDecoderResult result =
          BrotliDecoderDecompressStream(state_, &available, &next, &room, &out, nullptr);
      if (room < kBuffer) sink({buffer_.data(), kBuffer - room});
      if (result == BROTLI_DECODER_RESULT_ERROR) return false;
      if (result != BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT) return true;
    }
  }

 private:
  std::string buffer_;
  BrotliDecoderState* state_;
};

class ZstdDecoder final : public Decoder {
 public:
  ZstdDecoder() : buffer_(kBuffer, '\0'), stream_(ZSTD_createDStream()) {
    // Providers use small windows; a frame that wants more than 8 MiB is not metered.
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, 23);
  }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }

  bool Decode(std::string_view encoded, absl::FunctionRef<void(std::string_view)> sink) override {
    ZSTD_inBuffer in{encoded.data(), encoded.size(), 0};
    while (true) {
      ZSTD_outBuffer out{buffer_.data(), kBuffer, 0};
      if (ZSTD_isError(ZSTD_decompressStream(stream_, &out, &in))) return false;
      if (out.pos > 0) sink({buffer_.data(), out.pos});
      if (in.pos == in.size && out.pos < kBuffer) return true;
    }
  }

 private:
  std::string buffer_;
  ZSTD_DStream* stream_;
};

std::string_view Trimmed(std::string_view text) {
  return Std(absl::StripAsciiWhitespace(Absl(text)));
}

}  // namespace

bool IsIdentity(std::string_view content_encoding) {
  content_encoding = Trimmed(content_encoding);
  return content_encoding.empty() || absl::EqualsIgnoreCase(Absl(content_encoding), "identity");
}

std::unique_ptr<Decoder> NewDecoder(std::string_view content_encoding) {
  const absl::string_view name = Absl(Trimmed(content_encoding));
  if (absl::EqualsIgnoreCase(name, "gzip") || absl::EqualsIgnoreCase(name, "x-gzip")) {
    return std::make_unique<ZlibDecoder>(true);
  }
  if (absl::EqualsIgnoreCase(name, "deflate")) return std::make_unique<ZlibDecoder>(false);
  if (absl::EqualsIgnoreCase(name, "br")) return std::make_unique<BrotliDecoder>();
  if (absl::EqualsIgnoreCase(name, "zstd")) return std::make_unique<ZstdDecoder>();
  return nullptr;
}

}  // namespace tollhouse::edge
