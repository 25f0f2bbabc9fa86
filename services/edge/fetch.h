// A small question to a provider that no caller waits on byte by byte: request and whole answer.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/edge/upstream.h"

namespace tollhouse::edge {

struct Fetched {
  int status = 0;
  std::string body;  // with room for kJsonPadding behind it
};

// UNAVAILABLE: not connected, cut, too slow, or larger than `bytes_max`; nothing that costs anything
// may be asked this way. `connection` goes back to the pool if it can serve again.
Task<absl::StatusOr<Fetched>> Fetch(UpstreamPool& pool, IoLoop& loop, Origin origin,
                                    std::string_view head, std::string_view body,
                                    absl::Duration timeout, size_t bytes_max);

}  // namespace tollhouse::edge
