#include "libs/base/error.h"

#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"

namespace tollhouse {
namespace {

constexpr char kPayload[] = "tollhouse/error";
constexpr char kSeparator = '\0';  // reason \0 key \0 value \0 key \0 value ...

std::vector<std::string> Fields(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload) return {};
  return absl::StrSplit(std::string(*payload), kSeparator);
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string_view reason, std::string_view message,
                       const ErrorMetadata& metadata) {
  absl::Status status(code, Absl(message));
  std::string payload(reason);
  for (const auto& [key, value] : metadata) {
    payload += kSeparator + key;
    payload += kSeparator + value;
  }
  status.SetPayload(kPayload, absl::Cord(payload));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const auto fields = Fields(status);
  return fields.empty() ? "" : fields[0];
}

ErrorMetadata MetadataOf(const absl::Status& status) {
  const auto fields = Fields(status);
  ErrorMetadata metadata;
  for (size_t i = 1; i + 1 < fields.size(); i += 2) metadata[fields[i]] = fields[i + 1];
  return metadata;
}

}  // namespace tollhouse
