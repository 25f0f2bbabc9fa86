// Errors that programs can branch on: an absl::Status with a stable reason.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tollhouse {

using ErrorMetadata = std::map<std::string, std::string>;

// `reason` is UPPER_SNAKE_CASE and stable; `message` is for people and says what to do next.
// libs/rpc carries all three across gRPC.
absl::Status MakeError(absl::StatusCode code, std::string_view reason, std::string_view message,
                       const ErrorMetadata& metadata = {});

// "" if the status carries none.
std::string ReasonOf(const absl::Status& status);
ErrorMetadata MetadataOf(const absl::Status& status);

}  // namespace tollhouse
