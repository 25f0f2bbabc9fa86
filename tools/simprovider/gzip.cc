#include "tools/simprovider/gzip.h"

#include <cstdlib>

namespace tollhouse::simprovider {

GzipStream::GzipStream() {
  constexpr int kGzipFormat = 15 + 16;
  if (deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, kGzipFormat, 8, Z_DEFAULT_STRATEGY) !=
      Z_OK) {
    std::abort();
  }
}

GzipStream::~GzipStream() { deflateEnd(&stream_); }

std::string GzipStream::Add(std::string_view text, bool last) {
  std::string out;
  stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream_.avail_in = static_cast<uInt>(text.size());
  char block[16384];
  do {
    stream_.next_out = reinterpret_cast<Bytef*>(block);
    stream_.avail_out = sizeof(block);
    deflate(&stream_, last ? Z_FINISH : Z_SYNC_FLUSH);
    out.append(block, sizeof(block) - stream_.avail_out);
  } while (stream_.avail_out == 0);
  return out;
}

}  // namespace tollhouse::simprovider
