// Bytes from Redis to replies: hiredis' parser, without its objects.
#pragma once

#include <hiredis/read.h>

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "libs/redis/reply.h"

namespace tollhouse::redis {

// One per connection, not thread-safe. RESP2 only: a RESP3 push, which nobody asked for, is a
// protocol error.
class ReplyReader {
 public:
  explicit ReplyReader(size_t max_reply_bytes);

  // Takes `bytes` as they come from the stream, split anywhere. Next() must be called until it has
  // nothing before the next Feed.
  void Feed(std::string_view bytes);
  // The next complete reply, nothing while its end is missing. INTERNAL (REDIS_PROTOCOL) for what is
  // no RESP2 or longer than allowed; the reader is of no use from then on.
  absl::StatusOr<std::optional<Reply>> Next();

 private:
  struct Free {
    void operator()(redisReader* reader) const { redisReaderFree(reader); }
  };

  static redisReplyObjectFunctions kFunctions;
  static ReplyReader* Self(const redisReadTask* task);
  // What hiredis wants for an object: anything but null, which means "out of memory".
  void* AddLeaf(Value::Type type, int64_t number);
  void* AddText(int type, std::string_view text);
  void* AddArray(int elements);

  const size_t max_reply_bytes_;
  std::unique_ptr<redisReader, Free> reader_;
  Reply current_;
  bool started_ = false;
  size_t arrays_ = 0;
};

}  // namespace tollhouse::redis
