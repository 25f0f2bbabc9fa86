// What a Redis says of itself, and whether it may be used. Internal to libs/redis.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/redis/connection.h"

namespace tollhouse::redis {

// The fields of INFO that matter here.
struct ServerInfo {
  std::string run_id;
  std::string replid;   // of the history that it writes
  std::string replid2;  // of the history that it took over when it was promoted
  std::string primary;  // "host:port" a replica follows
  std::string maxmemory_policy;
  bool is_primary = false;
  bool is_cluster = false;
  bool is_loading = false;
  bool has_aof = false;

  // "run_id/replid"
  std::string Incarnation() const { return run_id + "/" + replid; }
};

ServerInfo ParseInfo(std::string_view text);

// The command that answers what ParseInfo reads.
const std::vector<std::string>& InfoCommand();
// The status of InfoCommand, made clearer: UNAVAILABLE (REDIS_UNFIT) where Redis is older than 7.
absl::Status CheckAsked(const absl::Status& status);
// Asks for it.
Task<absl::StatusOr<ServerInfo>> AskInfo(std::shared_ptr<Connection> connection,
                                         absl::Duration timeout);

// What INFO alone shows: primary, not loading, not evicting, a Cluster node or not, as wanted.
absl::Status CheckInfo(const ServerInfo& info, const Options& options, bool want_cluster);

// Everything that has to hold before the first call: CheckInfo, persistence, scripts, writes.
Task<absl::Status> CheckPrimary(std::shared_ptr<Connection> connection, const ServerInfo& info,
                                const Options& options, bool want_cluster);

}  // namespace tollhouse::redis
