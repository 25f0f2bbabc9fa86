#include "tools/tollctl/from_proto.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/timestamp.pb.h"
#include "google/protobuf/util/time_util.h"

namespace tollhouse::tollctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::Timestamp;

Value FromMessage(const Message& message) {
  if (message.GetDescriptor() == Timestamp::descriptor()) {
    Timestamp time;
    time.CopyFrom(message);
    return google::protobuf::util::TimeUtil::ToString(time);
  }
  return FromProto(message);
}

Value Unsigned(uint64_t number) { return std::string(absl::StrCat(number)); }

// One element (`index` >= 0) of a repeated field, or a singular field.
Value FieldValue(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* r = message.GetReflection();
  const bool many = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Value::Number(many ? r->GetRepeatedInt32(message, field, index)
                                : r->GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return Value::Number(many ? r->GetRepeatedUInt32(message, field, index)
                                : r->GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return Value::Count(many ? r->GetRepeatedInt64(message, field, index)
                               : r->GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return Unsigned(many ? r->GetRepeatedUInt64(message, field, index)
                           : r->GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return many ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return std::string(many ? r->GetRepeatedEnum(message, field, index)->name()
                              : r->GetEnum(message, field)->name());
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text = many ? r->GetRepeatedString(message, field, index)
                              : r->GetString(message, field);
      return field->type() == FieldDescriptor::TYPE_BYTES ? absl::Base64Escape(text)
                                                          : std::move(text);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return FromMessage(many ? r->GetRepeatedMessage(message, field, index)
                              : r->GetMessage(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      break;  // no API of Tollhouse has one
  }
  return Value();
}

Value MapValue(const Message& message, const FieldDescriptor* field) {
  std::vector<std::pair<std::string, Value>> entries;
  const int size = message.GetReflection()->FieldSize(message, field);
  for (int i = 0; i < size; ++i) {
    const Message& entry = message.GetReflection()->GetRepeatedMessage(message, field, i);
    entries.emplace_back(PlainText(FieldValue(entry, field->message_type()->map_key(), -1)),
                         FieldValue(entry, field->message_type()->map_value(), -1));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return Value::Object(std::move(entries));
}

}  // namespace

Value FromProto(const Message& message) {
  Value object = Value::Object();
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->is_map()) {
      object.Set(field->name(), MapValue(message, field));
    } else if (field->is_repeated()) {
      Value list = Value::List();
      const int size = message.GetReflection()->FieldSize(message, field);
      for (int k = 0; k < size; ++k) list.Add(FieldValue(message, field, k));
      object.Set(field->name(), std::move(list));
    } else if (!field->has_presence() || message.GetReflection()->HasField(message, field)) {
      object.Set(field->name(), FieldValue(message, field, -1));
    }
  }
  return object;
}

}  // namespace tollhouse::tollctl
