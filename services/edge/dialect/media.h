// Inline and referenced media of a request, and what they can cost in tokens.
#pragma once

#include <cstdint>
#include <string_view>

#include "services/edge/dialect/endpoint.h"

namespace tollhouse::edge {

struct MediaItem {
  enum class Kind { kImage, kAudio };
  enum class Detail { kAuto, kLow, kOriginal };  // OpenAI's image_url.detail; high counts as auto

  Kind kind = Kind::kImage;
  int64_t width = 0;  // pixels; 0: unknown (remote, or no header that could be read)
  int64_t height = 0;
  int64_t bytes = 0;  // decoded size of inline data; 0: remote
  Detail detail = Detail::kAuto;
};

// Pixel size from the header of a base64-encoded PNG, JPEG, WebP or GIF; {0, 0} if it has none of
// these headers or is cut before the size. Decodes no more than it needs, allocates nothing.
struct PixelSize {
  int64_t width = 0;
  int64_t height = 0;
};
PixelSize ImageSizeOfBase64(std::string_view base64);

// An upper bound of the input tokens of one item: the per-family rules of media.cc, and the
// family's per-image maximum where the size is unknown. `model` is the provider's name; unknown
// families of the OpenAI dialect get the dearest rule known.
int64_t MediaTokensBound(Endpoint endpoint, std::string_view model, const MediaItem& item);

}  // namespace tollhouse::edge
