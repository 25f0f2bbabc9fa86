#include "services/edge/fetch.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "libs/base/error.h"
#include "services/edge/dialect/request.h"
#include "services/edge/http_parser.h"

namespace tollhouse::edge {
namespace {

absl::Status Failed(std::string_view why) {
  return MakeError(absl::StatusCode::kUnavailable, "FETCH_FAILED", why);
}

}  // namespace

Task<absl::StatusOr<Fetched>> Fetch(UpstreamPool& pool, IoLoop& loop, Origin origin,
                                    std::string_view head, std::string_view body,
                                    absl::Duration timeout, size_t bytes_max) {
  const int64_t end = loop.deadlines().NowNanos() + absl::ToInt64Nanoseconds(timeout);
  const auto left = [&] {
    return absl::Nanoseconds(std::max<int64_t>(0, end - loop.deadlines().NowNanos()));
  };
  auto acquired = co_await pool.Acquire(origin);
  if (!acquired.ok()) co_return acquired.status();
  std::unique_ptr<UpstreamConnection> connection = *std::move(acquired);
  const absl::Duration write_time = left();
  const UpstreamConnection::Io sent = co_await connection->Write(head, body, write_time);
  if (sent.error || sent.timed_out) co_return Failed("the question could not be sent");

  std::string received;
  size_t filled = 0;
  size_t head_end = std::string::npos;
  ResponseParser parser;
  Fetched fetched;
  std::vector<std::string_view> pieces;
  bool eof = false;
  for (;;) {
    head_end = FindHeadEnd(std::string_view(received).substr(0, filled), 0);
    if (head_end == kBadLineEnding) co_return Failed("the answer is not HTTP");
    if (head_end != std::string::npos) break;
    if (eof || filled > bytes_max) co_return Failed("the answer is cut or too large");
    received.resize(filled + 16'384);
    const absl::Duration wait = left();
    const UpstreamConnection::Io io =
        co_await connection->ReadSome(received.data() + filled, received.size() - filled, wait);
    if (io.error || io.timed_out) co_return Failed("the answer did not come");
    eof = io.bytes == 0;
    filled += io.bytes;
  }
  // The parser keeps views of the head: it gets a copy that stays.
  const std::string head_block = received.substr(0, head_end);
  received.erase(0, head_end);
  filled -= head_end;
  if (parser.ParseHead(head_block) != ParseError::kNone) co_return Failed("the answer is not HTTP");
  fetched.status = parser.head().status;
  while (!parser.done()) {
    ParseError error = ParseError::kNone;
    const size_t used =
        parser.PutBody(std::string_view(received).substr(0, filled), &pieces, &error);
    for (const std::string_view piece : pieces) fetched.body += piece;
    received.erase(0, used);
    filled -= used;
    if (error != ParseError::kNone) co_return Failed("the answer is malformed");
    if (parser.done()) break;
    if (fetched.body.size() > bytes_max) co_return Failed("the answer is too large");
    received.resize(filled + 16'384);
    const absl::Duration wait = left();
    const UpstreamConnection::Io io =
        co_await connection->ReadSome(received.data() + filled, received.size() - filled, wait);
    if (io.error || io.timed_out) co_return Failed("the answer did not come");
    if (io.bytes == 0 && !parser.PutEof()) co_return Failed("the answer is cut");
    filled += io.bytes;
  }
  if (parser.keep_alive() && filled == 0) pool.Release(std::move(connection));
  fetched.body.reserve(fetched.body.size() + kJsonPadding);
  co_return fetched;
}

}  // namespace tollhouse::edge
