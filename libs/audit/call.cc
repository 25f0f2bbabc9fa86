#include "libs/audit/call.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::audit {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void HideSecrets(Message* message) {
  const google::protobuf::Reflection* const reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  for (const FieldDescriptor* const field : fields) {
    if (field->options().GetExtension(common::v1::secret)) {
      reflection->ClearField(message, field);
      if (field->type() == FieldDescriptor::TYPE_STRING && !field->is_repeated()) {
        reflection->SetString(message, field, "[secret]");
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->is_repeated()) {
        HideSecrets(reflection->MutableMessage(message, field));
      } else {
        for (int i = 0; i < reflection->FieldSize(*message, field); ++i) {
          HideSecrets(reflection->MutableRepeatedMessage(message, field, i));
        }
      }
    }
  }
}

// "PERMISSION_DENIED FORBIDDEN"
std::string ResultOf(const absl::Status& status) {
  if (status.ok()) return "OK";
  const std::string reason = ReasonOf(status);
  return absl::StrCat(absl::StatusCodeToString(status.code()), reason.empty() ? "" : " ", reason);
}

}  // namespace

std::string ToText(const Message& message) {
  const std::unique_ptr<Message> copy(message.New());
  copy->CopyFrom(message);
  HideSecrets(copy.get());
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(*copy, &text, options).ok())
    return "(unreadable)";
  return text;
}

Call::Call(Log* log, rpc::Caller caller, common::v1::AuditEvent event)
    : log_(log), caller_(std::move(caller)), event_(std::move(event)) {}

void Call::SetResource(std::string_view resource, std::string_view account) {
  event_.set_resource(std::string(resource));
  event_.set_account(std::string(account));
}

void Call::SetBefore(const Message& resource) { event_.set_before(ToText(resource)); }

void Call::SetAfter(const Message& resource) { event_.set_after(ToText(resource)); }

void Call::Begin() {
  event_.clear_before();
  event_.clear_after();
}

absl::Status Call::Append(sql::Connection& connection) {
  if (log_ == nullptr) return absl::OkStatus();
  event_.set_result("OK");
  appended_ = true;
  return log_->Append(connection, &event_);
}

absl::Status Call::Finish(const absl::Status& status) {
  if (log_ == nullptr || (status.ok() && appended_)) return absl::OkStatus();
  if (!status.ok()) Begin();
  event_.set_result(ResultOf(status));
  event_.set_message(std::string(Std(status.message())));
  return log_->Append(&event_);
}

}  // namespace tollhouse::audit
