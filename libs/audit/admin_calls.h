// How the handlers of an admin API answer.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>

#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "libs/audit/call.h"
#include "libs/audit/log.h"
#include "libs/rpc/authenticator.h"

namespace tollhouse::audit {

// Thread-safe.
class AdminCalls {
 public:
  using Body = absl::FunctionRef<absl::Status(Call& call)>;

  // A null authenticator lets everybody do everything (in-process tests), a null log keeps nothing.
  // Both must outlive it. `service` is "ledger", "router" or "vault".
  AdminCalls(const rpc::Authenticator* authenticator, Log* log, std::string_view service)
      : authenticator_(authenticator), log_(log), service_(service) {}

  // Asks who calls and whether he may, as the request's method declares, lets `body` do it, and
  // sees to the record: of every call that changes something, whatever became of it, and of every
  // known caller who was refused. A change that the log does not take is not made. Of a database's
  // error callers see what sql::ForCaller lets through.
  grpc::Status Answer(const grpc::ServerContextBase& context,
                      const google::protobuf::Message& request, Body body) const;

 private:
  const rpc::Authenticator* const authenticator_;
  Log* const log_;
  const std::string_view service_;
};

}  // namespace tollhouse::audit
