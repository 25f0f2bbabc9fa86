// One call of an API on its way into the audit log.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "libs/audit/log.h"
#include "libs/rpc/authenticator.h"
#include "libs/sql/database.h"
#include "tollhouse/common/v1/audit.pb.h"

namespace tollhouse::audit {

// The message as one line of JSON with the API's field names; fields that have the option `secret`
// read "[secret]" or, where they are bytes, are left out like default values.
std::string ToText(const google::protobuf::Message& message);

// What is known of a call when it begins is filled in by who makes it (AdminCalls); the store that
// carries it out adds what it was about and appends it to the log in the transaction of the change.
// Used by one thread at a time.
class Call {
 public:
  // A null log keeps nothing.
  Call(Log* log, rpc::Caller caller, common::v1::AuditEvent event);

  const rpc::Caller& caller() const { return caller_; }

  // What was touched, where the store knows better than the request; `account` is the path that it
  // belongs to, "" for none.
  void SetResource(std::string_view resource, std::string_view account);
  // The resource before and after; not called: there was none, or there is none any more.
  void SetBefore(const google::protobuf::Message& resource);
  void SetAfter(const google::protobuf::Message& resource);

  // A transaction begins (anew): nothing is known of the resource yet.
  void Begin();
  // Appends the call as a successful one, in the transaction of its change. That transaction must
  // fail if this does.
  absl::Status Append(sql::Connection& connection);
  // Appends what became of the call, unless Append has said so in a transaction that went through:
  // `status` is the call's, OK only if what was begun was committed. For who made it; call once,
  // last.
  absl::Status Finish(const absl::Status& status);

 private:
  Log* const log_;
  const rpc::Caller caller_;
  common::v1::AuditEvent event_;
  bool appended_ = false;
};

}  // namespace tollhouse::audit
