#include "libs/http/client.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/http/address.h"

namespace tollhouse::http {
namespace {

struct Transfer {
  const Limits* limits;
  bool refused_private = false;
  bool too_large = false;
  std::string body;
};

curl_socket_t OpenSocket(void* data, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(data);
  if (!transfer.limits->allow_private && !IsPublicAddress(&address->addr)) {
    transfer.refused_private = true;
    return CURL_SOCKET_BAD;
  }
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

size_t Receive(char* bytes, size_t size, size_t count, void* data) {
  auto& transfer = *static_cast<Transfer*>(data);
  if (transfer.body.size() + size * count > transfer.limits->response_bytes_max) {
    transfer.too_large = true;
    return 0;
  }
  transfer.body.append(bytes, size * count);
  return size * count;
}

long Millis(absl::Duration duration) {  // curl's own type; 0 would mean no limit
  return std::max<long>(1, static_cast<long>(absl::ToInt64Milliseconds(duration)));
}

int Progress(void* data, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Transfer*>(data)->limits->cancelled() ? 1 : 0;
}

struct CurlDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

}  // namespace

absl::StatusOr<Response> Send(const Request& request, const Limits& limits) {
  static std::once_flag initialized;
  std::call_once(initialized, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, CurlDeleter> curl(curl_easy_init());
  if (curl == nullptr) {
    return MakeError(absl::StatusCode::kUnavailable, "HTTP_FAILED", "out of memory");
  }
  Transfer transfer{.limits = &limits};
  std::unique_ptr<curl_slist, CurlDeleter> headers;
  const auto add_header = [&](const std::string& line) {
    curl_slist* const longer = curl_slist_append(headers.get(), line.c_str());
    headers.release();
    headers.reset(longer);
  };
  add_header("Expect:");  // no round trip before the body
  for (const auto& [name, value] : request.headers) add_header(absl::StrCat(name, ": ", value));
  CURL* const c = curl.get();
  curl_easy_setopt(c, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(c, CURLOPT_PROXY, "");
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, Millis(limits.connect_timeout));
  curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, Millis(limits.total_timeout));
  curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, &OpenSocket);
  curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, &transfer);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, &Receive);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  if (!request.body.empty()) {
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, request.body.data());
  }
  if (limits.cancelled != nullptr) {
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, &Progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, &transfer);
  }
  const CURLcode code = curl_easy_perform(c);
  if (code != CURLE_OK) {
    if (transfer.refused_private) {
      return MakeError(absl::StatusCode::kPermissionDenied, "HTTP_PRIVATE_ADDRESS",
                       "the host has a private address, and these are not allowed");
    }
    if (transfer.too_large) {
      return MakeError(absl::StatusCode::kResourceExhausted, "HTTP_TOO_LARGE", "the answer is too large");
    }
    if (code == CURLE_OPERATION_TIMEDOUT) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "HTTP_TIMEOUT", "no answer in time");
    }
    return MakeError(absl::StatusCode::kUnavailable, "HTTP_FAILED", curl_easy_strerror(code));
  }
  long status = 0;
  curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
  return Response{.status = static_cast<int>(status), .body = std::move(transfer.body)};
}

}  // namespace tollhouse::http
