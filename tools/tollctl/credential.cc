#include "tools/tollctl/credential.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {

absl::StatusOr<std::string> ReadSecret(const SecretSource& source, const GetEnv& env) {
  std::string text;
  std::string place;
  if (!source.file.empty()) {
    place = absl::StrCat("'", source.file, "'");
    TH_ASSIGN_OR_RETURN(text, ReadFile(source.file));
  } else {
    place = absl::StrCat("environment variable ", source.variable);
    text = env(source.variable);
    if (text.empty()) {
      return absl::NotFoundError(absl::StrCat(place, " is not set; export it, or name a file"));
    }
  }
  std::string secret(absl::StripAsciiWhitespace(text));
  if (secret.empty()) return absl::InvalidArgumentError(absl::StrCat(place, " is empty"));
  if (std::any_of(secret.begin(), secret.end(),
                  [](char c) { return std::iscntrl(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, " holds several lines or control characters; it must be one secret"));
  }
  return secret;
}

absl::StatusOr<std::string> OriginOf(std::string_view base_url) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", Absl(base_url), "' is not a base URL like https://api.openai.com/v1: ",
                     Absl(why)));
  };
  const size_t separator = base_url.find("://");
  if (separator == std::string_view::npos) return bad("it has no scheme");
  const std::string scheme = absl::AsciiStrToLower(Absl(base_url.substr(0, separator)));
  if (scheme != "http" && scheme != "https") return bad("the scheme must be http or https");
  if (base_url.find_first_of("?# \t\r\n") != std::string_view::npos) {
    return bad("it has a query, a fragment or blanks");
  }
  std::string_view rest = base_url.substr(separator + 3);
  const std::string authority =
      absl::AsciiStrToLower(Absl(rest.substr(0, std::min(rest.find('/'), rest.size()))));
  if (authority.find('@') != std::string::npos) return bad("it names a user");
  // An IPv6 address is in brackets and has colons of its own.
  const size_t bracket = authority.rfind(']');
  const size_t colon = authority.find(':', bracket == std::string::npos ? 0 : bracket);
  const std::string host = authority.substr(0, colon);
  if (host.empty()) return bad("it has no host");
  int64_t port = scheme == "https" ? 443 : 80;
  if (colon != std::string::npos &&
      (!absl::SimpleAtoi(authority.substr(colon + 1), &port) || port < 1 || port > 65535)) {
    return bad("the port is not a number from 1 to 65535");
  }
  return absl::StrCat(scheme, "://", host, ":", port);
}

}  // namespace tollhouse::tollctl
