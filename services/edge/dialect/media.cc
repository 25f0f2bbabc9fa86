#include "services/edge/dialect/media.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "absl/strings/match.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

constexpr int64_t kPixelsMax = 1 << 20;  // a side longer than this is not believed

// Bytes of base64 text by index, decoded on demand.
class Base64Bytes {
 public:
  explicit Base64Bytes(std::string_view text) : text_(text) {}

  // -1 behind the end or where the text is not base64.
  int At(size_t index) const {
    const size_t first = index / 3 * 4 + index % 3;
    if (first + 1 >= text_.size()) return -1;
    const int high = Digit(text_[first]);
    const int low = Digit(text_[first + 1]);
    if (high < 0 || low < 0) return -1;
    switch (index % 3) {
      case 0:
        return (high << 2 | low >> 4) & 0xff;
      case 1:
        return (high << 4 | low >> 2) & 0xff;
      default:
        return (high << 6 | low) & 0xff;
    }
  }

  bool Is(size_t index, std::string_view bytes) const {
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (At(index + i) != static_cast<unsigned char>(bytes[i])) return false;
    }
    return true;
  }

  // -1 if a byte is missing.
  int64_t BigEndian(size_t index, int count) const {
    int64_t value = 0;
    for (int i = 0; i < count; ++i) {
      const int byte = At(index + i);
      if (byte < 0) return -1;
      value = value << 8 | byte;
    }
    return value;
  }
  int64_t LittleEndian(size_t index, int count) const {
    int64_t value = 0;
    for (int i = count - 1; i >= 0; --i) {
      const int byte = At(index + i);
      if (byte < 0) return -1;
      value = value << 8 | byte;
    }
    return value;
  }

 private:
  static int Digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    return -1;
  }

  std::string_view text_;
};

PixelSize Believed(int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > kPixelsMax || height > kPixelsMax) return {};
  return {width, height};
}

// ITU T.81 Annex B: segments until a start-of-frame marker.
PixelSize JpegSize(const Base64Bytes& bytes) {
  size_t at = 2;
  for (int segment = 0; segment < 1024; ++segment) {
    while (bytes.At(at) == 0xff && bytes.At(at + 1) == 0xff) ++at;
    if (bytes.At(at) != 0xff) return {};
    const int marker = bytes.At(at + 1);
    if (marker < 0) return {};
    if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += 2;
      continue;
    }
    const bool frame =
        marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame) return Believed(bytes.BigEndian(at + 7, 2), bytes.BigEndian(at + 5, 2));
    const int64_t length = bytes.BigEndian(at + 2, 2);
    if (length < 2) return {};
    at += 2 + static_cast<size_t>(length);
  }
  return {};
}

// RIFF container, developers.google.com/speed/webp/docs/riff_container.
PixelSize WebpSize(const Base64Bytes& bytes) {
  if (bytes.Is(12, "VP8X")) {
    const int64_t width = bytes.LittleEndian(24, 3);
    const int64_t height = bytes.LittleEndian(27, 3);
    return width < 0 || height < 0 ? PixelSize{} : Believed(width + 1, height + 1);
  }
  if (bytes.Is(12, "VP8L") && bytes.At(20) == 0x2f) {
    const int64_t bits = bytes.LittleEndian(21, 4);
    return bits < 0 ? PixelSize{} : Believed((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
  }
  if (bytes.Is(12, "VP8 ") && bytes.At(23) == 0x9d) {
    const int64_t width = bytes.LittleEndian(26, 2);
    const int64_t height = bytes.LittleEndian(28, 2);
    return width < 0 || height < 0 ? PixelSize{} : Believed(width & 0x3fff, height & 0x3fff);
  }
  return {};
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 28-pixel patches, or pixels/750 by the older rule, whichever is more; the newest models look at
// up to 2,576 pixels a side, 4,784 tokens.
int64_t AnthropicImage(const MediaItem& item) {
  constexpr int64_t kMax = 4'784 + 16;
  if (item.width == 0) return kMax;
  const int64_t patches = CeilDiv(item.width, 28) * CeilDiv(item.height, 28);
  const int64_t pixels = CeilDiv(item.width * item.height, 750);
  return std::min(std::max(patches, pixels) + 16, kMax);
}

// Tiles of 512 pixels after scaling into 2048 x 2048 and the short side to 768: at most 8.
int64_t OpenAiTiles(const MediaItem& item) {
  if (item.detail == MediaItem::Detail::kLow) return 0;
  if (item.width == 0) return 8;
  int64_t width = item.width;
  int64_t height = item.height;
  const int64_t longer = std::max(width, height);
  if (longer > 2048) {
    width = CeilDiv(width * 2048, longer);
    height = CeilDiv(height * 2048, longer);
  }
  const int64_t shorter = std::min(width, height);
  if (shorter > 768) {
    width = CeilDiv(width * 768, shorter);
    height = CeilDiv(height * 768, shorter);
  }
  return std::min<int64_t>(CeilDiv(width, 512) * CeilDiv(height, 512), 8);
}

// Patches of 32 pixels times the dearest documented multiplier 2.46 (1.2 was measured).
int64_t OpenAiPatches(const MediaItem& item) {
  const int64_t max = item.detail == MediaItem::Detail::kOriginal ? 10'000
                      : item.detail == MediaItem::Detail::kLow    ? 256
                                                                  : 2'500;
  const int64_t patches =
      item.width == 0 ? max : std::min(CeilDiv(item.width, 32) * CeilDiv(item.height, 32), max);
  return CeilDiv(patches * 246, 100);
}

int64_t OpenAiImage(std::string_view model, const MediaItem& item) {
  const int64_t tiles = OpenAiTiles(item);
  if (absl::StrContains(Absl(model), "4o-mini")) return 2'833 + 5'667 * tiles;
  return std::max(85 + 170 * tiles, OpenAiPatches(item));
}

// Gemini 2.x: 258 tokens for each tile; tiles are a 1.5th of the shorter side, from 256 to 768 pixels.
// Gemini 3: at most 2,240 tokens an image. Images are scaled into 3,072 pixels a side at most, so that
// 25 tiles are the most that one can have.
int64_t GeminiImage(const MediaItem& item) {
  constexpr int64_t kTile = 258;
  constexpr int64_t kMax = 25 * kTile;
  if (item.width == 0) return kMax;
  const int64_t unit =
      std::clamp<int64_t>(std::min(item.width, item.height) * 2 / 3, 256, 768);
  const int64_t tiles = CeilDiv(item.width, unit) * CeilDiv(item.height, unit);
  return std::clamp<int64_t>(tiles * kTile, 2'240, kMax);
}

// Other vendors behind the OpenAI dialect: patches of 14 pixels without merging are the dearest
// rule known, 16,384 tokens the largest per-image maximum.
int64_t OtherImage(const MediaItem& item) {
  constexpr int64_t kMax = 16'384;
  if (item.width == 0) return kMax;
  return std::min((CeilDiv(item.width, 14) + 1) * CeilDiv(item.height, 14) + 2'240, kMax);
}

bool IsOpenAiModel(std::string_view model) {
  const size_t slash = model.rfind('/');
  if (slash != std::string_view::npos) model.remove_prefix(slash + 1);
  static constexpr std::string_view kFamilies[] = {
      "gpt-3", "gpt-4", "gpt-5", "gpt-6", "o1", "o3", "o4", "chatgpt", "codex", "computer-use"};
  return std::any_of(std::begin(kFamilies), std::end(kFamilies), [&](std::string_view family) {
    return model.substr(0, family.size()) == family;
  });
}

}  // namespace

PixelSize ImageSizeOfBase64(std::string_view base64) {
  const Base64Bytes bytes(base64);
  if (bytes.Is(0, "\x89PNG\r\n\x1a\n")) {
    if (!bytes.Is(12, "IHDR")) return {};
    return Believed(bytes.BigEndian(16, 4), bytes.BigEndian(20, 4));
  }
  if (bytes.Is(0, "GIF8")) return Believed(bytes.LittleEndian(6, 2), bytes.LittleEndian(8, 2));
  if (bytes.At(0) == 0xff && bytes.At(1) == 0xd8) return JpegSize(bytes);
  if (bytes.Is(0, "RIFF") && bytes.Is(8, "WEBP")) return WebpSize(bytes);
  return {};
}

int64_t MediaTokensBound(Endpoint endpoint, std::string_view model, const MediaItem& item) {
  if (item.kind == MediaItem::Kind::kAudio) {
    // 32 tokens a second is the dearest rule known, 512 bytes a second the thinnest speech codec.
    return item.bytes / 16 + 256;
  }
  if (DialectOf(endpoint) == common::v1::DIALECT_ANTHROPIC) return AnthropicImage(item);
  if (DialectOf(endpoint) == common::v1::DIALECT_GEMINI) return GeminiImage(item);
  return IsOpenAiModel(model) ? OpenAiImage(model, item) : OtherImage(item);
}

}  // namespace tollhouse::edge
