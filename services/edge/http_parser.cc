#include "services/edge/http_parser.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <cstring>

#include "absl/strings/numbers.h"

namespace tollhouse::edge {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

// Lines are found; here is what may not be in them.
bool CleanHead(std::string_view block) {
  for (size_t i = 0; i < block.size(); ++i) {
    const auto c = static_cast<unsigned char>(block[i]);
    if (c >= 0x20 && c != 0x7f) continue;
    if (c == '\t') continue;
    if (c == '\r' && i + 1 < block.size() && block[i + 1] == '\n') continue;
    if (c == '\n' && i > 0 && block[i - 1] == '\r') {
      // A line that starts with a blank continues the one before: folding.
      if (i + 1 < block.size() && (block[i + 1] == ' ' || block[i + 1] == '\t')) return false;
      continue;
    }
    return false;
  }
  return true;
}

bool IsDigits(std::string_view text) {
  if (text.empty() || text.size() > 18) return false;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
  }
  return true;
}

ParseError ErrorOf(const boost::beast::error_code& error) {
  if (error == http::error::body_limit) return ParseError::kBodyTooLarge;
  if (error == http::error::bad_version) return ParseError::kUnsupportedVersion;
  return ParseError::kMalformed;
}

// The framing fields of either direction; false: two readers could disagree about it.
ParseError CheckFraming(const Headers& headers, int version, std::optional<uint64_t>* length,
                        bool* chunked) {
  int lengths = 0;
  int encodings = 0;
  for (const HeaderField& field : headers.fields) {
    if (absl::EqualsIgnoreCase(Absl(field.name), "content-length")) {
      if (++lengths > 1 || !IsDigits(field.value)) return ParseError::kMalformed;
      uint64_t value = 0;
      if (!absl::SimpleAtoi(Absl(field.value), &value)) return ParseError::kMalformed;
      *length = value;
    } else if (absl::EqualsIgnoreCase(Absl(field.name), "transfer-encoding")) {
      if (++encodings > 1 || version < 11) return ParseError::kMalformed;
      if (!absl::EqualsIgnoreCase(Absl(field.value), "chunked")) {
        return ParseError::kUnsupportedEncoding;
      }
      *chunked = true;
    }
  }
  return lengths > 0 && encodings > 0 ? ParseError::kMalformed : ParseError::kNone;
}

}  // namespace

size_t FindHeadEnd(std::string_view data, size_t from) {
  size_t at = from > 3 ? from - 3 : 0;
  while (at < data.size()) {
    const void* found = std::memchr(data.data() + at, '\n', data.size() - at);
    if (found == nullptr) return std::string_view::npos;
    const size_t i = static_cast<const char*>(found) - data.data();
    if (i == 0 || data[i - 1] != '\r') return kBadLineEnding;
    if (i >= 3 && data[i - 2] == '\n' && data[i - 3] == '\r') return i + 1;
    at = i + 1;
  }
  return std::string_view::npos;
}

ParseError RequestParser::ParseHead(std::string_view block, uint64_t body_bytes_max) {
  if (!CleanHead(block)) return ParseError::kMalformed;
  machine_.body_limit(body_bytes_max);
  machine_.fields.reserve(32);
  boost::beast::error_code error;
  machine_.put(asio::buffer(block.data(), block.size()), error);
  // What could be read is there also when the rest is bad: it decides the answer's dialect.
  head_.method = machine_.method;
  head_.target = machine_.target;
  head_.version = machine_.version;
  head_.headers.fields = std::move(machine_.fields);
  if (error == http::error::body_limit) {
    const ParseError framing =
        CheckFraming(head_.headers, head_.version, &head_.content_length, &head_.chunked);
    return framing != ParseError::kNone ? framing : ParseError::kBodyTooLarge;
  }
  if (error) return ErrorOf(error);
  if (!machine_.head_done) return ParseError::kMalformed;

  const ParseError framing =
      CheckFraming(head_.headers, head_.version, &head_.content_length, &head_.chunked);
  if (framing != ParseError::kNone) return framing;
  if (!head_.target.starts_with('/')) return ParseError::kMalformed;
  const int hosts = head_.headers.Count("host");
  if (hosts > 1 || (hosts == 0 && head_.version >= 11)) return ParseError::kMalformed;
  head_.keep_alive = machine_.keep_alive();
  if (const auto expect = head_.headers.Find("expect")) {
    if (!absl::EqualsIgnoreCase(Absl(*expect), "100-continue")) {
      return ParseError::kUnsupportedExpect;
    }
    head_.expect_continue = head_.version >= 11;
  }
  machine_.eager(true);
  return ParseError::kNone;
}

size_t RequestParser::PutBody(std::string_view data, std::string* body, ParseError* error) {
  *error = ParseError::kNone;
  size_t used = 0;
  while (!machine_.is_done() && used < data.size()) {
    boost::beast::error_code put_error;
    machine_.pieces.clear();
    const size_t n =
        machine_.put(asio::buffer(data.data() + used, data.size() - used), put_error);
    for (const std::string_view piece : machine_.pieces) body->append(piece);
    used += n;
    if (put_error == http::error::need_more) break;
    if (put_error) {
      *error = ErrorOf(put_error);
      break;
    }
    if (n == 0) break;
  }
  return used;
}

ParseError ResponseParser::ParseHead(std::string_view block) {
  if (!CleanHead(block)) return ParseError::kMalformed;
  machine_.body_limit(boost::none);
  machine_.fields.reserve(32);
  boost::beast::error_code error;
  machine_.put(asio::buffer(block.data(), block.size()), error);
  if (error) return ErrorOf(error);
  if (!machine_.head_done) return ParseError::kMalformed;
  head_.status = machine_.status;
  head_.reason = machine_.reason;
  head_.headers.fields = std::move(machine_.fields);
  bool chunked = false;
  const ParseError framing =
      CheckFraming(head_.headers, machine_.version, &head_.content_length, &chunked);
  if (framing != ParseError::kNone) return framing;
  head_.keep_alive = machine_.keep_alive();
  machine_.eager(true);
  return ParseError::kNone;
}

size_t ResponseParser::PutBody(std::string_view data, std::vector<std::string_view>* pieces,
                               ParseError* error) {
  *error = ParseError::kNone;
  pieces->clear();
  size_t used = 0;
  while (!machine_.is_done() && used < data.size()) {
    boost::beast::error_code put_error;
    machine_.pieces.clear();
    const size_t n =
        machine_.put(asio::buffer(data.data() + used, data.size() - used), put_error);
    pieces->insert(pieces->end(), machine_.pieces.begin(), machine_.pieces.end());
    used += n;
    if (put_error == http::error::need_more) break;
    if (put_error) {
      *error = ErrorOf(put_error);
      break;
    }
    if (n == 0) break;
  }
  return used;
}

bool ResponseParser::PutEof() {
  if (machine_.is_done()) return true;
  boost::beast::error_code error;
  machine_.put_eof(error);
  return !error && machine_.is_done();
}

}  // namespace tollhouse::edge
