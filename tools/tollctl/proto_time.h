// Times of the command line as google.protobuf.Timestamp.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace tollhouse::tollctl {

void SetTime(absl::Time time, google::protobuf::Timestamp* target);
absl::Time GetTime(const google::protobuf::Timestamp& time);

// ParsePast / ParseFuture into a timestamp; usage errors name the flag.
absl::Status SetPast(std::string_view flag, std::string_view text, absl::Time now,
                     google::protobuf::Timestamp* target);
absl::Status SetFuture(std::string_view flag, std::string_view text, absl::Time now,
                       google::protobuf::Timestamp* target);

}  // namespace tollhouse::tollctl
