// HTTP/1.1 parsing: Boost.Beast's state machine, made strict, without copies.
//
// Beyond RFC 9112's MUSTs, what two parsers could read differently is refused: line folding, bare CR
// or LF, control characters, Content-Length twice or beside Transfer-Encoding, any transfer coding
// but a single "chunked", a target that is not in origin form, a missing or second Host.
#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "services/edge/http_message.h"

namespace tollhouse::edge {

// Where the header block that starts at data[0] ends (behind its empty line); npos: not yet;
// kBadLineEnding: never, a line ends without CR. `from`: bytes that were looked at before.
inline constexpr size_t kBadLineEnding = static_cast<size_t>(-2);
size_t FindHeadEnd(std::string_view data, size_t from);

enum class ParseError {
  kNone,
  kMalformed,            // 400
  kBodyTooLarge,         // 413
  kUnsupportedEncoding,  // 501
  kUnsupportedVersion,   // 505
  kUnsupportedExpect,    // 417
};

namespace internal {

template <bool kIsRequest>
class Machine final : public boost::beast::http::basic_parser<kIsRequest> {
 public:
  using string_view = boost::beast::string_view;
  using error_code = boost::beast::error_code;

  Machine() { this->header_limit(UINT32_MAX); }

  std::string_view method, target, reason;
  int version = 11;
  int status = 0;
  std::vector<HeaderField> fields;
  std::vector<std::string_view> pieces;  // body found by the last put
  bool head_done = false;

 private:
  static std::string_view Own(string_view text) { return {text.data(), text.size()}; }

  void on_request_impl(boost::beast::http::verb, string_view m, string_view t, int v,
                       error_code&) override {
    method = Own(m);
    target = Own(t);
    version = v;
  }
  void on_response_impl(int s, string_view r, int v, error_code&) override {
    status = s;
    reason = Own(r);
    version = v;
  }
  void on_field_impl(boost::beast::http::field, string_view name, string_view value,
                     error_code&) override {
    if (!head_done) fields.push_back({Own(name), Own(value)});  // trailers are dropped
  }
  void on_header_impl(error_code&) override { head_done = true; }
  void on_body_init_impl(boost::optional<std::uint64_t> const&, error_code&) override {}
  std::size_t on_body_impl(string_view body, error_code&) override {
    pieces.push_back(Own(body));
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, error_code&) override {
    pieces.push_back(Own(body));
    return body.size();
  }
  void on_finish_impl(error_code&) override {}
};

}  // namespace internal

// One request. Give it the whole header block, then, if chunked, the body as it comes.
class RequestParser {
 public:
  // `block` as FindHeadEnd measured it; it must stay where it is as long as head() is used.
  ParseError ParseHead(std::string_view block, uint64_t body_bytes_max);
  const RequestHead& head() const { return head_; }

  // Decodes chunked body bytes and appends them to `body`. Returns how many bytes were used; what is
  // left must be given again together with more.
  size_t PutBody(std::string_view data, std::string* body, ParseError* error);
  bool body_done() { return machine_.is_done(); }

 private:
  internal::Machine<true> machine_;
  RequestHead head_;
};

// One answer of a provider.
class ResponseParser {
 public:
  ParseError ParseHead(std::string_view block);
  const ResponseHead& head() const { return head_; }

  // The body in `data`, as views into it. Returns how many bytes were used.
  size_t PutBody(std::string_view data, std::vector<std::string_view>* pieces, ParseError* error);
  // The connection ended: true if that completes the answer.
  bool PutEof();
  bool done() { return machine_.is_done(); }
  // Whether the connection can serve another request after this answer.
  bool keep_alive() { return machine_.is_done() && head_.keep_alive; }

 private:
  internal::Machine<false> machine_;
  ResponseHead head_;
};

}  // namespace tollhouse::edge
