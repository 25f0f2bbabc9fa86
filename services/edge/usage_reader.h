// What the holder of a key may know: the budgets its requests count against, and what remains.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/rpc/unary_calls.h"
#include "services/edge/directory.h"
#include "services/edge/net.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// Thread-safe. Must outlive the coroutines that read.
class UsageReader {
 public:
  UsageReader(std::shared_ptr<grpc::ChannelInterface> ledger,
              std::shared_ptr<grpc::ChannelInterface> enforcer, absl::Duration timeout);
  ~UsageReader();

  // {"account":"acme/payments/laptop","budgets":[...]}: budgets as `tollctl budget list --output json`
  // shows them, org first, all amounts in nano-USD. UNAVAILABLE (LEDGER_UNAVAILABLE,
  // ENFORCER_UNAVAILABLE).
  Task<absl::StatusOr<std::string>> Read(IoLoop& loop, PrincipalPtr principal);

  // Ends the calls that are under way. Idempotent.
  void Stop();

 private:
  struct Stubs;

  const std::unique_ptr<Stubs> stubs_;
  const absl::Duration timeout_;
  rpc::UnaryCalls calls_;
};

}  // namespace tollhouse::edge
