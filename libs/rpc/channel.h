// Channels from one service to the replicas of another.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/rpc/security.h"

namespace tollhouse::rpc {

struct ChannelOptions {
  // A connection that brings nothing for this long is asked whether its other end lives, and given up
  // when no answer comes: a peer that hangs is left after the sum, and calls on it end UNAVAILABLE.
  absl::Duration ping_interval = absl::Seconds(1);
  absl::Duration ping_timeout = absl::Seconds(1);
  // Between two attempts to connect to an address: the first pause, doubling up to the longest.
  absl::Duration first_backoff = absl::Milliseconds(50);
  absl::Duration longest_backoff = absl::Seconds(1);
  // For TCP and TLS together.
  absl::Duration connect_timeout = absl::Seconds(2);
  // Names are looked up again when a connection ends, at most this often.
  absl::Duration lookup_interval = absl::Seconds(1);
};

// A channel to `service` that spreads its calls, in turn, over every address it can reach. `addresses`
// is a name with port whose every address is one replica ("ledger:7001", as "dns:///ledger:7001"), or
// a list of addresses ("10.0.0.1:7001,10.0.0.2:7001"). INVALID_ARGUMENT (BAD_ADDRESS) if it is neither
// or if, without TLS, it leaves the machine.
//
// The channel lives as long as the process: a gRPC thread whose call is a channel's last user would
// wait for itself.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectTo(std::string_view service,
                                                         std::string_view addresses,
                                                         const Security& security,
                                                         const ChannelOptions& options = {});

}  // namespace tollhouse::rpc
