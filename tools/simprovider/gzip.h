// Compressing an answer, whole or event by event.
#pragma once

#include <zlib.h>

#include <string>
#include <string_view>

namespace tollhouse::simprovider {

class GzipStream {
 public:
  GzipStream();
  ~GzipStream();
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  // The compressed bytes of `text`, flushed so that a reader can decode all of it; `last` ends the
  // stream.
  std::string Add(std::string_view text, bool last);

 private:
  z_stream stream_{};
};

}  // namespace tollhouse::simprovider
