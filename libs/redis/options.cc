#include "libs/redis/options.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::redis {
namespace {

constexpr uint16_t kRedisPort = 6379;
constexpr uint16_t kSentinelPort = 26379;

absl::Status Wrong(std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "REDIS_URI",
                   absl::StrCat(Absl(what),
                                "; write redis://[user@]host:port[,host:port], "
                                "redis+sentinel://host:port[,...]/NAME or "
                                "redis+cluster://host:port[,...] (rediss for TLS)"));
}

absl::StatusOr<Address> ParseAddress(std::string_view text, uint16_t port) {
  std::string_view host = text;
  std::string_view rest;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return Wrong("a bracket is not closed");
    host = text.substr(1, close - 1);
    rest = text.substr(close + 1);
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    host = text.substr(0, colon);
    rest = text.substr(colon);
  }
  if (host.empty()) return Wrong("an address has no host");
  uint32_t number = port;
  if (!rest.empty() && (rest[0] != ':' || !absl::SimpleAtoi(Absl(rest.substr(1)), &number) ||
                        number == 0 || number > 65535)) {
    return Wrong(absl::StrCat("the port of host \"", Absl(host), "\" is not 1 to 65535"));
  }
  return Address{.host = std::string(host), .port = static_cast<uint16_t>(number)};
}

}  // namespace

std::string Address::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<Endpoints> ParseUri(std::string_view uri) {
  const size_t scheme_end = uri.find("://");
  if (scheme_end == std::string_view::npos) return Wrong("no scheme");
  std::string_view scheme = uri.substr(0, scheme_end);
  std::string_view rest = uri.substr(scheme_end + 3);

  Endpoints endpoints;
  if (const size_t plus = scheme.find('+'); plus != std::string_view::npos) {
    const std::string_view kind = scheme.substr(plus + 1);
    if (kind == "sentinel") {
      endpoints.mode = Endpoints::Mode::kSentinel;
    } else if (kind == "cluster") {
      endpoints.mode = Endpoints::Mode::kCluster;
    } else {
      return Wrong("the scheme is unknown");
    }
    scheme = scheme.substr(0, plus);
  }
  if (scheme != "redis" && scheme != "rediss") return Wrong("the scheme is unknown");
  endpoints.tls = scheme == "rediss";

  if (const size_t at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view user = rest.substr(0, at);
    if (user.find(':') != std::string_view::npos) {
      return Wrong("a password has no place in the URI, name a file that holds it");
    }
    endpoints.user = std::string(user);
    rest = rest.substr(at + 1);
  }
  const bool sentinel = endpoints.mode == Endpoints::Mode::kSentinel;
  if (const size_t slash = rest.find('/'); slash != std::string_view::npos) {
    endpoints.primary_name = std::string(rest.substr(slash + 1));
    rest = rest.substr(0, slash);
    if (!sentinel && !endpoints.primary_name.empty()) {
      return Wrong("only database 0 is used, nothing follows the addresses");
    }
  }
  if (sentinel && endpoints.primary_name.empty()) return Wrong("the primary's NAME is missing");
  for (const absl::string_view part : absl::StrSplit(Absl(rest), ',')) {
    TH_ASSIGN_OR_RETURN(Address address,
                        ParseAddress(Std(part), sentinel ? kSentinelPort : kRedisPort));
    endpoints.addresses.push_back(std::move(address));
  }
  return endpoints;
}

}  // namespace tollhouse::redis
