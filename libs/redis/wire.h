// Calls on their way to Redis. Internal to libs/redis.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libs/redis/client.h"

namespace tollhouse::redis {

// One call within a batch's bytes. What it may need before it on the same connection (SCRIPT LOAD,
// ASKING) belongs to it: the replies to that are skipped.
struct Call {
  Client::Done done;  // empty once the call is answered
  const Script* script = nullptr;
  int64_t deadline = 0;
  uint32_t begin = 0;    // of everything
  uint32_t command = 0;  // of the command itself
  uint32_t end = 0;
  int16_t slot = -1;  // of a Cluster; -1: any
  uint32_t load = 0;  // which sending of the script it relies on
  uint8_t skip = 0;   // replies before the command's own
  uint8_t redirections = 0;
  uint8_t reloads = 0;  // of its script
  bool raw = false;     // errors are a Reply too: the client's own calls
  bool asking = false;  // sent to where its slot is being moved to
};

// Calls that are written together and answered in order. Kept until the last one is answered, so
// that a call can be sent again without a copy made for the purpose; then its memory is used again.
struct Batch {
  std::string bytes;
  std::vector<Call> calls;
  size_t next = 0;         // first call without an answer
  bool secret = false;     // overwritten once sent
  bool has_dead = false;   // some calls ended before they were sent

  std::string_view Command(const Call& call) const {
    return std::string_view(bytes).substr(call.command, call.end - call.command);
  }
};
using BatchPtr = std::unique_ptr<Batch>;

}  // namespace tollhouse::redis
