#include "tools/tollctl/proto_time.h"

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "tools/tollctl/parse.h"

namespace tollhouse::tollctl {
namespace {

absl::Status Set(std::string_view flag, const absl::StatusOr<absl::Time>& time,
                 google::protobuf::Timestamp* target) {
  if (!time.ok()) {
    return UsageError(absl::StrCat(Absl(flag), ": ", time.status().message()));
  }
  SetTime(*time, target);
  return absl::OkStatus();
}

}  // namespace

void SetTime(absl::Time time, google::protobuf::Timestamp* target) {
  const timespec parts = absl::ToTimespec(time);
  target->set_seconds(parts.tv_sec);
  target->set_nanos(static_cast<int32_t>(parts.tv_nsec));
}

absl::Time GetTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Status SetPast(std::string_view flag, std::string_view text, absl::Time now,
                     google::protobuf::Timestamp* target) {
  return Set(flag, ParsePast(text, now), target);
}

absl::Status SetFuture(std::string_view flag, std::string_view text, absl::Time now,
                       google::protobuf::Timestamp* target) {
  return Set(flag, ParseFuture(text, now), target);
}

}  // namespace tollhouse::tollctl
