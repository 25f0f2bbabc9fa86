#include "libs/policy/base_url.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::policy {
namespace {

absl::Status Bad(std::string_view why) {
  // The URL may carry what someone mistook for a place of credentials: it is not repeated.
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_URL",
                   absl::StrCat("the base URL ", Absl(why), "; write it like ",
                                "https://api.example.com/v1"));
}

int DefaultPort(std::string_view scheme) { return scheme == "https" ? 443 : 80; }

bool IsPrivateV4(uint32_t a) {
  const auto in = [a](uint32_t net, int bits) { return (a >> (32 - bits)) == (net >> (32 - bits)); };
  return in(0x7F000000, 8) || in(0x0A000000, 8) || in(0xAC100000, 12) || in(0xC0A80000, 16) ||
         in(0xA9FE0000, 16) || in(0x64400000, 10) || in(0x00000000, 8);
}

}  // namespace

std::string BaseUrl::Origin() const { return absl::StrCat(scheme, "://", host, ":", port); }

std::string BaseUrl::ToString() const {
  const std::string suffix = port == DefaultPort(scheme) ? "" : absl::StrCat(":", port);
  return absl::StrCat(scheme, "://", host, suffix, path);
}

absl::StatusOr<BaseUrl> ParseBaseUrl(std::string_view url) {
  if (url.empty() || url.size() > 2048) return Bad("is empty or too long");
  if (std::any_of(url.begin(), url.end(), [](char c) { return c <= ' ' || c > '~' || c == '\\'; })) {
    return Bad("has a space, a backslash or a character that is not ASCII");
  }
  BaseUrl result;
  const size_t scheme_end = url.find("://");
  if (scheme_end == std::string_view::npos) return Bad("has no scheme");
  result.scheme = absl::AsciiStrToLower(Absl(url.substr(0, scheme_end)));
  if (result.scheme != "https" && result.scheme != "http") return Bad("is not http(s)");
  std::string_view rest = url.substr(scheme_end + 3);
  if (rest.find_first_of("?#") != std::string_view::npos) {
    return Bad("must not have a query or fragment");
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  std::string_view path = rest.substr(slash);
  while (!path.empty() && path.back() == '/') path.remove_suffix(1);
  if (absl::StrContains(Absl(path), "//") || absl::StrContains(absl::StrCat(Absl(path), "/"), "/../") ||
      absl::StrContains(absl::StrCat(Absl(path), "/"), "/./")) {
    return Bad("has a path that is not plain");
  }
  result.path = path;
  if (authority.find('@') != std::string_view::npos) {
    return Bad("must not carry a user or password");
  }
  size_t port_at = authority.rfind(':');
  if (!authority.empty() && authority.front() == '[') {
    const size_t close = authority.find(']');
    in6_addr ignored;
    if (close == std::string_view::npos ||
        inet_pton(AF_INET6, std::string(authority.substr(1, close - 1)).c_str(), &ignored) != 1) {
      return Bad("has a malformed IPv6 address");
    }
    if (close + 1 < authority.size() && authority[close + 1] != ':') {
      return Bad("has a malformed host");
    }
    port_at = close + 1 < authority.size() ? close + 1 : std::string_view::npos;
  }
  result.port = DefaultPort(result.scheme);
  if (port_at != std::string_view::npos) {
    const std::string_view digits = authority.substr(port_at + 1);
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos ||
        !absl::SimpleAtoi(Absl(digits), &result.port) || result.port < 1 || result.port > 65535) {
      return Bad("has a malformed port");
    }
    authority = authority.substr(0, port_at);
  }
  result.host = absl::AsciiStrToLower(Absl(authority));
  const bool plain = result.host.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyz0123456789.-_") == std::string::npos;
  if (result.host.empty() || (result.host.front() != '[' && !plain) || result.host.size() > 253) {
    return Bad("has a malformed host");
  }
  return result;
}

bool IsPrivateHost(std::string_view host) {
  if (host == "localhost" || absl::EndsWith(Absl(host), ".localhost")) return true;
  if (!host.empty() && host.front() == '[') {
    in6_addr v6;
    if (inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &v6) != 1) {
      return false;
    }
    const uint8_t* const bytes = v6.s6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
      return IsPrivateV4(uint32_t{bytes[12]} << 24 | uint32_t{bytes[13]} << 16 |
                         uint32_t{bytes[14]} << 8 | bytes[15]);
    }
    return IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) ||
           IN6_IS_ADDR_LINKLOCAL(&v6) || (bytes[0] & 0xFE) == 0xFC;
  }
  in_addr v4;
  return inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1 && IsPrivateV4(ntohl(v4.s_addr));
}

}  // namespace tollhouse::policy
