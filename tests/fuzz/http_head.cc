#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "libs/base/strings.h"
#include "services/edge/http_parser.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {
namespace {

constexpr uint64_t kBodyBytesMax = 4096;

// Where the head ends, when the bytes come in pieces.
size_t HeadEnd(std::string_view bytes, size_t piece) {
  size_t looked = 0;
  for (size_t have = std::min(piece, bytes.size());; have = std::min(have + piece, bytes.size())) {
    const size_t end = edge::FindHeadEnd(bytes.substr(0, have), looked);
    if (end != std::string_view::npos || have == bytes.size()) return end;
    looked = have;
  }
}

void CheckHead(const edge::RequestHead& head) {
  Promise(head.target.starts_with('/'), "a target is in origin form");
  Promise(!(head.chunked && head.content_length.has_value()), "a body has one length");
  Promise(head.headers.Count("content-length") <= 1, "a length is given once");
  Promise(head.headers.Count("host") <= 1, "a request is for one host");
  Promise(head.version == 10 || head.headers.Count("host") == 1, "HTTP/1.1 names its host");
  if (head.content_length) Promise(*head.content_length <= kBodyBytesMax, "a body is limited");
  for (const std::string_view text : {head.method, head.target}) {
    for (const unsigned char c : text) Promise(c > ' ' && c != 0x7f, "a start line has no blanks within");
  }
  for (const edge::HeaderField& field : head.headers.fields) {
    Promise(!field.name.empty(), "a field has a name");
    for (const unsigned char c : field.name) Promise(c > ' ' && c < 0x7f && c != ':', "names are tokens");
    for (const unsigned char c : field.value) {
      Promise(c == '\t' || (c >= ' ' && c != 0x7f), "values have no control characters");
    }
  }
}

}  // namespace

void HttpHead(std::string_view input) {
  const size_t piece = 1 + Choices(&input).Next() % 32;
  const std::string bytes(input);  // its own memory, for sanitizers
  const size_t end = HeadEnd(bytes, bytes.size() + 1);
  Promise(HeadEnd(bytes, piece) == end, "a head's end does not depend on the pieces");
  if (end == std::string_view::npos || end == edge::kBadLineEnding) return;
  Promise(end <= bytes.size(), "a head ends within the bytes");
  const std::string block = bytes.substr(0, end);
  edge::RequestParser parser;
  if (parser.ParseHead(block, kBodyBytesMax) == edge::ParseError::kNone) {
    CheckHead(parser.head());
    if (parser.head().chunked) {
      std::string rest = bytes.substr(end);
      std::string body;
      edge::ParseError error = edge::ParseError::kNone;
      const size_t used = parser.PutBody(rest, &body, &error);
      Promise(used <= rest.size() && body.size() <= rest.size(), "a body is no more than its bytes");
    }
  }
  edge::ResponseParser answer;
  if (answer.ParseHead(block) == edge::ParseError::kNone) {
    std::string rest = bytes.substr(end);
    std::vector<std::string_view> pieces;
    edge::ParseError error = edge::ParseError::kNone;
    Promise(answer.PutBody(rest, &pieces, &error) <= rest.size(), "an answer is within its bytes");
  }
}

}  // namespace tollhouse::fuzz
