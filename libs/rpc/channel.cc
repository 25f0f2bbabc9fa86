#include "libs/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::rpc {
namespace {

absl::Status BadAddress(std::string_view service, std::string_view addresses, std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADDRESS",
                   absl::StrCat("the address of the ", Absl(service), ", '", Absl(addresses), "', ", Absl(why)));
}

bool HasPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  return colon != absl::string_view::npos && colon != 0 && colon + 1 < address.size() &&
         address.find_first_not_of("0123456789", colon + 1) == absl::string_view::npos;
}

absl::StatusOr<std::string> Target(std::string_view service, std::string_view addresses) {
  if (addresses.empty()) return BadAddress(service, addresses, "is missing");
  for (const absl::string_view scheme : {"dns:///", "ipv4:", "ipv6:", "unix:"}) {
    if (absl::StartsWith(Absl(addresses), scheme)) return std::string(addresses);
  }
  const std::vector<std::string> list = absl::StrSplit(Absl(addresses), ',');
  for (const std::string& one : list) {
    if (!HasPort(one)) return BadAddress(service, addresses, "is neither NAME:PORT nor a list of ADDRESS:PORT");
  }
  const bool v6 = absl::StartsWith(list[0], "[");
  if (list.size() > 1) return absl::StrCat(v6 ? "ipv6:" : "ipv4:", absl::StrJoin(list, ","));
  return absl::StrCat("dns:///", list[0]);
}

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

std::shared_ptr<grpc::Channel> Kept(std::shared_ptr<grpc::Channel> channel) {
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const kept ABSL_GUARDED_BY(mutex) = new std::vector<std::shared_ptr<grpc::Channel>>;
  absl::MutexLock lock(&mutex);
  return kept->emplace_back(std::move(channel));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectTo(std::string_view service,
                                                         std::string_view addresses,
                                                         const Security& security,
                                                         const ChannelOptions& options) {
  TH_ASSIGN_OR_RETURN(const std::string target, Target(service, addresses));
  if (security.insecure() && !IsLoopback(addresses)) {
    return BadAddress(service, addresses, "is not on this machine, so it needs TLS (no --insecure)");
  }
  grpc::ChannelArguments arguments;
  arguments.SetLoadBalancingPolicyName("round_robin");
  arguments.SetMaxReceiveMessageSize(-1);
  // A connection of its own for each channel: what breaks one breaks no other.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, std::string(service));
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.ping_interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.ping_timeout));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(options.first_backoff));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(options.longest_backoff));
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(options.connect_timeout));
  arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, Milliseconds(options.lookup_interval));
  return Kept(grpc::CreateCustomChannel(target, security.Towards(service), arguments));
}

}  // namespace tollhouse::rpc
