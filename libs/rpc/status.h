// absl::Status <-> grpc::Status, with reason and metadata as common.v1.ErrorDetail.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tollhouse::rpc {

// The last line of a handler: `return rpc::ToGrpc(status)`. OK maps to OK. An INTERNAL or UNKNOWN
// error without a reason is sent with a generic message, so that driver texts never reach a client.
grpc::Status ToGrpc(const absl::Status& status);

absl::Status FromGrpc(const grpc::Status& status);

}  // namespace tollhouse::rpc
