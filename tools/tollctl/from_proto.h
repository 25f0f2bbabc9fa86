// Messages as values, by the rules of proto3 JSON with original field names and zero values printed.
#pragma once

#include "google/protobuf/message.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// 64-bit integers become counts, enums their names, timestamps RFC 3339 in UTC, bytes base64; maps
// are sorted by key. Unset messages and unset `optional` fields are left out.
Value FromProto(const google::protobuf::Message& message);

// A repeated field as a list.
template <typename Repeated>
Value ListFromProto(const Repeated& messages) {
  Value list = Value::List();
  for (const auto& message : messages) list.Add(FromProto(message));
  return list;
}

}  // namespace tollhouse::tollctl
