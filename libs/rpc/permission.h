// Who may call which admin RPC. The protos declare it (common/v1/authorization.proto); handlers ask
// once, first of all, by libs/audit/admin_calls.h.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/rpc/authenticator.h"
#include "tollhouse/common/v1/authorization.pb.h"

namespace tollhouse::rpc {

// "admin" of ROLE_ADMIN.
std::string NameOf(common::v1::Role role);

// Whether `caller` may make this request: the permission is that of the one method that takes its
// type. PERMISSION_DENIED (FORBIDDEN) says what is missing. INTERNAL (NO_PERMISSION_DECLARED) for a
// method without one. Pure, thread-safe.
absl::Status CheckPermission(const Caller& caller, const google::protobuf::Message& request);

// The one method that takes a request of this type; null if there is none.
const google::protobuf::MethodDescriptor* MethodOf(const google::protobuf::Message& request);

// Who calls; errors of Authenticator::Identify. A null authenticator makes everybody owner of
// everything (in-process tests).
absl::StatusOr<Caller> Identify(const Authenticator* authenticator,
                                const grpc::ServerContextBase& context);

// Who calls, if he may: Identify, then CheckPermission. For what no audit log has.
absl::StatusOr<Caller> Authorize(const Authenticator* authenticator,
                                 const grpc::ServerContextBase& context,
                                 const google::protobuf::Message& request);

}  // namespace tollhouse::rpc
