#include "libs/audit/admin_calls.h"

#include <google/protobuf/descriptor.h>

#include <string>

#include "absl/status/statusor.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/rpc/permission.h"
#include "libs/rpc/status.h"
#include "libs/sql/for_caller.h"

namespace tollhouse::audit {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The text of a string field like "path" or "provider.name"; "" if there is none.
std::string FieldText(const Message& message, std::string_view name) {
  const size_t dot = name.find('.');
  const FieldDescriptor* const field =
      message.GetDescriptor()->FindFieldByName(std::string(name.substr(0, dot)));
  if (field == nullptr || field->is_repeated()) return "";
  if (dot != std::string_view::npos) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return "";
    return FieldText(message.GetReflection()->GetMessage(message, field), name.substr(dot + 1));
  }
  if (field->type() != FieldDescriptor::TYPE_STRING) return "";
  return message.GetReflection()->GetString(message, field);
}

// "provider/{provider.name}" with the request's fields put in.
std::string Fill(std::string_view text, const Message& request) {
  std::string out;
  for (;;) {
    const size_t open = text.find('{');
    const size_t close = text.find('}', open);
    out += text.substr(0, open);
    if (open == std::string_view::npos || close == std::string_view::npos) return out;
    out += FieldText(request, text.substr(open + 1, close - open - 1));
    text.remove_prefix(close + 1);
  }
}

common::v1::AuditEvent EventOf(const rpc::Caller& caller, const grpc::ServerContextBase& context,
                               const Message& request) {
  common::v1::AuditEvent event;
  event.set_actor(caller.actor);
  event.set_role(rpc::NameOf(caller.role));
  event.set_subtree(caller.subtree);
  event.set_peer(context.peer());
  if (const auto* const method = rpc::MethodOf(request); method != nullptr) {
    const auto& permission = method->options().GetExtension(common::v1::permission);
    event.set_method(method->name());
    if (permission.account_size() > 0) event.set_account(FieldText(request, permission.account(0)));
    event.set_resource(permission.resource().empty() ? event.account()
                                                     : Fill(permission.resource(), request));
  }
  event.set_request(ToText(request));
  return event;
}

bool IsReadOnly(const Message& request) {
  const auto* const method = rpc::MethodOf(request);
  return method != nullptr && method->options().GetExtension(common::v1::permission).read_only();
}

}  // namespace

grpc::Status AdminCalls::Answer(const grpc::ServerContextBase& context, const Message& request,
                                Body body) const {
  const absl::StatusOr<rpc::Caller> caller = rpc::Identify(authenticator_, context);
  if (!caller.ok()) return rpc::ToGrpc(caller.status());
  absl::Status status = rpc::CheckPermission(*caller, request);
  const bool allowed = status.ok();
  const bool recorded = log_ != nullptr && !(allowed && IsReadOnly(request));
  Call call(recorded ? log_ : nullptr, *caller,
            recorded ? EventOf(*caller, context, request) : common::v1::AuditEvent());
  if (allowed) status = sql::ForCaller(body(call), service_);
  const absl::Status finished = call.Finish(status);
  if (!finished.ok()) {
    obs::Error("audit_event_not_written",
               {{"actor", caller->actor}, {"reason", ReasonOf(finished)}});
    if (status.ok())
      status = sql::ForCaller(finished,
                              service_);  // nothing was changed, or the change's transaction had it
  }
  return rpc::ToGrpc(status);
}

}  // namespace tollhouse::audit
