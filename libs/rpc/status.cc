#include "libs/rpc/status.h"

#include "libs/base/error.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::rpc {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string reason = ReasonOf(status);
  if (reason.empty()) {
    if (code == grpc::StatusCode::INTERNAL || code == grpc::StatusCode::UNKNOWN) {
      return grpc::Status(code, "internal error");
    }
    return grpc::Status(code, std::string(status.message()));
  }
  common::v1::ErrorDetail detail;
  detail.set_reason(reason);
  for (const auto& [key, value] : MetadataOf(status)) (*detail.mutable_metadata())[key] = value;
  return grpc::Status(code, std::string(status.message()), detail.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  common::v1::ErrorDetail detail;
  if (status.error_details().empty() || !detail.ParseFromString(status.error_details())) {
    return absl::Status(code, status.error_message());
  }
  return MakeError(code, detail.reason(), status.error_message(),
                   {detail.metadata().begin(), detail.metadata().end()});
}

}  // namespace tollhouse::rpc
