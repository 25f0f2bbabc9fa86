// Base URLs of providers and their origins.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tollhouse::policy {

struct BaseUrl {
  std::string scheme;  // "https" or "http"
  std::string host;    // lower case; IPv6 literals with their brackets
  int port = 0;        // explicit, or the scheme's
  std::string path;    // "" or "/v1": without the slash at its end

  // "https://api.openai.com:443": what a credential is bound to.
  std::string Origin() const;
  // As written by people: the port only where it is not the scheme's.
  std::string ToString() const;
};

// Absolute http(s) URLs without userinfo, query, fragment, spaces and control characters, at most
// 2048 characters. InvalidArgument (BAD_URL) says what is wrong.
absl::StatusOr<BaseUrl> ParseBaseUrl(std::string_view url);

// Whether the host is a literal loopback, private (RFC 1918, RFC 4193), shared (RFC 6598) or
// link-local address, or "localhost". Names are not looked up.
bool IsPrivateHost(std::string_view host);

}  // namespace tollhouse::policy
