// The statuses that calls end with (client.h lists them).
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace tollhouse::redis {

// The first word of an error's text: "OOM", "MOVED", "ERR".
std::string_view ErrorCode(std::string_view text);
// The status of an error that Redis answered.
absl::Status FromRedisError(std::string_view text);

absl::Status NotExecuted(std::string_view message);               // REDIS_UNAVAILABLE
absl::Status Broken(std::string_view message);                    // REDIS_BROKEN
absl::Status TimedOut(std::string_view message);                  // REDIS_TIMEOUT
absl::Status Unfit(std::string_view message);                     // REDIS_UNFIT
absl::Status Overloaded();                                        // REDIS_OVERLOADED

}  // namespace tollhouse::redis
