// Heads of hash chains, kept in a file away from the databases that they are about.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"

namespace tollhouse::tollctl {

// The JSON that SaveHeads wrote. INVALID_ARGUMENT naming the file if it is something else.
absl::Status LoadHeads(const std::string& path, google::protobuf::Message* heads);

// Replaces the file, atomically.
absl::Status SaveHeads(const std::string& path, const google::protobuf::Message& heads);

}  // namespace tollhouse::tollctl
