#include "libs/rpc/permission.h"

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::rpc {
namespace {

using common::v1::Permission;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

absl::Status Denied(const std::string& message) {
  return MakeError(absl::StatusCode::kPermissionDenied, "FORBIDDEN", message);
}

std::string Describe(const Caller& caller) {
  return absl::StrCat("token \"", caller.actor, "\" (", NameOf(caller.role),
                      caller.subtree.empty() ? "" : " of ", caller.subtree, ")");
}

absl::Status CheckAccounts(const Caller& caller, const Permission& permission, const Message& request) {
  for (const std::string& name : permission.account()) {
    const FieldDescriptor* field = request.GetDescriptor()->FindFieldByName(name);
    if (field == nullptr || field->type() != FieldDescriptor::TYPE_STRING || field->is_repeated()) {
      return MakeError(absl::StatusCode::kInternal, "NO_PERMISSION_DECLARED",
                       absl::StrCat(request.GetTypeName(), " has no text field ", name));
    }
    const std::string path = request.GetReflection()->GetString(request, field);
    if (path.empty()) {
      return Denied(absl::StrCat(Describe(caller), " sees a part only; name an account in it: ",
                                 caller.subtree));
    }
    if (!IsAtOrBelow(path, caller.subtree)) {
      return Denied(absl::StrCat(Describe(caller), " does not reach ", path));
    }
    if (permission.reach() == common::v1::REACH_BELOW && path == caller.subtree) {
      return Denied(absl::StrCat(Describe(caller), " may change what is below ", path,
                                 ", not the account itself: that takes a token from above"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string NameOf(common::v1::Role role) {
  return absl::AsciiStrToLower(absl::StripPrefix(common::v1::Role_Name(role), "ROLE_"));
}

// Request types are a method's own, and declared in its file.
const MethodDescriptor* MethodOf(const Message& request) {
  const google::protobuf::FileDescriptor* const file = request.GetDescriptor()->file();
  for (int i = 0; i < file->service_count(); ++i) {
    for (int j = 0; j < file->service(i)->method_count(); ++j) {
      const MethodDescriptor* const method = file->service(i)->method(j);
      if (method->input_type() == request.GetDescriptor()) return method;
    }
  }
  return nullptr;
}

absl::Status CheckPermission(const Caller& caller, const Message& request) {
  const MethodDescriptor* const method = MethodOf(request);
  if (method == nullptr || !method->options().HasExtension(common::v1::permission)) {
    return MakeError(absl::StatusCode::kInternal, "NO_PERMISSION_DECLARED",
                     absl::StrCat("nobody may call a method of ", request.GetTypeName()));
  }
  const Permission& permission = method->options().GetExtension(common::v1::permission);
  if (permission.role() == common::v1::ROLE_UNSPECIFIED || caller.role < permission.role()) {
    return Denied(absl::StrCat(method->name(), " needs the role ", NameOf(permission.role()), "; this is ",
                               Describe(caller)));
  }
  switch (permission.reach()) {
    case common::v1::REACH_ANY:
    case common::v1::REACH_FILTERED:
      return absl::OkStatus();
    case common::v1::REACH_ACCOUNT:
    case common::v1::REACH_BELOW:
      return caller.subtree.empty() ? absl::OkStatus() : CheckAccounts(caller, permission, request);
    case common::v1::REACH_INSTALLATION:
      if (caller.subtree.empty()) return absl::OkStatus();
      return Denied(absl::StrCat(method->name(), " touches the whole installation; this is ",
                                 Describe(caller)));
    default:
      return Denied(absl::StrCat("nobody may call ", method->name()));
  }
}

absl::StatusOr<Caller> Identify(const Authenticator* authenticator,
                                const grpc::ServerContextBase& context) {
  if (authenticator != nullptr) return authenticator->Identify(context);
  Caller caller;
  caller.role = common::v1::ROLE_OWNER;
  caller.actor = "test";
  return caller;
}

absl::StatusOr<Caller> Authorize(const Authenticator* authenticator,
                                 const grpc::ServerContextBase& context, const Message& request) {
  absl::StatusOr<Caller> caller = Identify(authenticator, context);
  if (!caller.ok()) return caller;
  const absl::Status allowed = CheckPermission(*caller, request);
  if (!allowed.ok()) return allowed;
  return caller;
}

}  // namespace tollhouse::rpc
