// Which header fields cross the edge, in which direction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "services/edge/http_message.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

// The virtual key of a request: Authorization: Bearer, x-api-key or x-goog-api-key, whichever looks
// like one of Tollhouse's, else the first that is there; "" if none.
std::string_view KeyOf(const RequestHead& head);

// The `key` parameter of a target's query, as Google's clients may send it; "" if there is none.
std::string_view KeyInQuery(std::string_view target);

// The dialect that a path alone does not tell: an anthropic-version header says Anthropic, on the
// path of models an x-goog-api-key Gemini.
common::v1::Dialect DialectOfHead(const RequestHead& head);

// What to ask the provider for: the encodings that the caller accepts and the meter can read;
// identity for streams.
std::string AcceptEncoding(bool stream, std::string_view callers);

// Everything up to the body of the request to a provider.
struct UpstreamHead {
  std::string_view method = "POST";  // without a body for the others
  std::string_view path;  // with the caller's query
  std::string host;
  uint64_t content_length = 0;
  std::string_view accept_encoding;
  common::v1::Dialect dialect = common::v1::DIALECT_OPENAI;
  std::string_view credential;  // "" for none
  std::string_view hold_id;     // "" for none
};
// End-to-end fields of the caller pass as they are. Not passed: hop-by-hop ones and those that the
// Connection header names, everything that carries a key or a cookie, x-tollhouse-*, what says where
// the caller sits, and what is written anew here. The result contains the credential: Cleanse it.
std::string RenderUpstreamHead(const RequestHead& caller, const UpstreamHead& upstream);

// The caller's query without a `key` parameter: "" or "?beta=true".
std::string QueryOf(std::string_view target);

// The provider's answer's fields for the caller: without hop-by-hop fields, Content-Length, cookies;
// and without Content-Encoding if `decoded`.
HeaderList AnswerHeaders(const ResponseHead& head, bool decoded);

}  // namespace tollhouse::edge
