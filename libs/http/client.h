// A small blocking HTTP client for what is not on the hot path: webhooks, key sets, key managers.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse::http {

struct Request {
  std::string method = "GET";
  std::string url;  // http or https
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

struct Limits {
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration total_timeout = absl::Seconds(10);
  size_t response_bytes_max = 1 << 20;
  // Permits loopback, private and other special addresses. They are checked when connecting, so that
  // a name that resolves to such an address, now or the second time, gets nowhere.
  bool allow_private = false;
  // Asked about once a second; true gives up (UNAVAILABLE).
  std::function<bool()> cancelled;
};

struct Response {
  int status = 0;
  std::string body;
};

// Sends one request and reads its answer, whatever its status. TLS certificates are verified;
// redirects are not followed, proxies of the environment not used. UNAVAILABLE (HTTP_FAILED) says what
// went wrong, PERMISSION_DENIED (HTTP_PRIVATE_ADDRESS) that all addresses were refused,
// DEADLINE_EXCEEDED (HTTP_TIMEOUT), RESOURCE_EXHAUSTED (HTTP_TOO_LARGE). Messages never contain the URL. Thread-safe.
absl::StatusOr<Response> Send(const Request& request, const Limits& limits);

}  // namespace tollhouse::http
