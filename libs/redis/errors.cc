#include "libs/redis/errors.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/redis/client.h"

namespace tollhouse::redis {
namespace {

struct Class {
  std::string_view code;
  absl::StatusCode status;
  std::string_view reason;
};

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
// Redis answers these before a command's or a script's first write only (script.c of Redis 7 checks
// them no more once the script has written).
constexpr std::array kClasses = {
    Class{"READONLY", kUnavailable, "REDIS_NOT_PRIMARY"},
    Class{"MASTERDOWN", kUnavailable, "REDIS_NOT_PRIMARY"},
    Class{"LOADING", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"BUSY", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"NOSCRIPT", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"MOVED", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"ASK", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"TRYAGAIN", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"CLUSTERDOWN", kUnavailable, "REDIS_UNAVAILABLE"},
    Class{"OOM", kUnavailable, "REDIS_REFUSED"},
    Class{"MISCONF", kUnavailable, "REDIS_REFUSED"},
    Class{"NOREPLICAS", kUnavailable, "REDIS_REFUSED"},
    Class{"NOAUTH", absl::StatusCode::kUnauthenticated, "REDIS_DENIED"},
    Class{"WRONGPASS", absl::StatusCode::kUnauthenticated, "REDIS_DENIED"},
    Class{"NOPERM", absl::StatusCode::kUnauthenticated, "REDIS_DENIED"},
};

}  // namespace

std::string_view ErrorCode(std::string_view text) { return text.substr(0, text.find(' ')); }

absl::Status FromRedisError(std::string_view text) {
  const std::string_view code = ErrorCode(text);
  const std::string message = absl::StrCat("Redis answered: ", Absl(text));
  const ErrorMetadata metadata = {{"redis_code", std::string(code)}};
  // A permission that is missing in the middle of a script leaves what the script wrote.
  const bool within_script = code == "NOPERM" && text.find("script: ") != std::string_view::npos;
  for (const Class& known : kClasses) {
    if (known.code == code && !within_script) {
      return MakeError(known.status, known.reason, message, metadata);
    }
  }
  return MakeError(absl::StatusCode::kInternal, "REDIS_ERROR", message, metadata);
}

absl::Status NotExecuted(std::string_view message) {
  return MakeError(kUnavailable, "REDIS_UNAVAILABLE", message);
}
absl::Status Broken(std::string_view message) {
  return MakeError(kUnavailable, "REDIS_BROKEN", message);
}
absl::Status TimedOut(std::string_view message) {
  return MakeError(kUnavailable, "REDIS_TIMEOUT", message);
}
absl::Status Unfit(std::string_view message) {
  return MakeError(kUnavailable, "REDIS_UNFIT", message);
}
absl::Status Overloaded() {
  return MakeError(absl::StatusCode::kResourceExhausted, "REDIS_OVERLOADED",
                   "too many calls wait for Redis already");
}

bool MayHaveBeenExecuted(const absl::Status& status) {
  static constexpr std::string_view kNotExecuted[] = {"REDIS_UNAVAILABLE", "REDIS_NOT_PRIMARY",
                                                      "REDIS_REFUSED",     "REDIS_UNFIT",
                                                      "REDIS_DENIED",      "REDIS_OVERLOADED"};
  const std::string reason = ReasonOf(status);
  return std::find(std::begin(kNotExecuted), std::end(kNotExecuted), reason) ==
         std::end(kNotExecuted);
}

}  // namespace tollhouse::redis
