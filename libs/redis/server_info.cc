#include "libs/redis/server_info.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/redis/errors.h"

namespace tollhouse::redis {
namespace {

// A script that declares nothing may write: Redis refuses it up front, without running it, where a
// write would be refused (READONLY, OOM, MISCONF, NOREPLICAS). It writes nothing.
constexpr char kWriteProbe[] = "#!lua\nreturn 1";

}  // namespace

ServerInfo ParseInfo(std::string_view text) {
  std::map<absl::string_view, absl::string_view> fields;
  for (const absl::string_view line : absl::StrSplit(Absl(text), "\r\n")) {
    const size_t colon = line.find(':');
    if (colon != absl::string_view::npos) fields[line.substr(0, colon)] = line.substr(colon + 1);
  }
  const auto get = [&](absl::string_view name) { return std::string(fields[name]); };
  ServerInfo info{.run_id = get("run_id"),
                  .replid = get("master_replid"),
                  .replid2 = get("master_replid2"),
                  .maxmemory_policy = get("maxmemory_policy"),
                  .is_primary = fields["role"] == "master",
                  .is_cluster = fields["cluster_enabled"] == "1",
                  .is_loading = fields["loading"] == "1",
                  .has_aof = fields["aof_enabled"] == "1"};
  if (!info.is_primary) info.primary = get("master_host") + ":" + get("master_port");
  return info;
}

const std::vector<std::string>& InfoCommand() {
  static const std::vector<std::string> command = {"INFO",   "server",      "replication",
                                                   "memory", "persistence", "cluster"};
  return command;
}

absl::Status CheckAsked(const absl::Status& status) {
  if (MetadataOf(status)["redis_code"] != "ERR") return status;
  return Unfit(absl::StrCat("Redis 7 or newer is needed; to INFO: ", status.message()));
}

Task<absl::StatusOr<ServerInfo>> AskInfo(std::shared_ptr<Connection> connection,
                                         absl::Duration timeout) {
  Commands commands = {InfoCommand()};
  absl::StatusOr<std::vector<Reply>> replies =
      co_await connection->Ask(std::move(commands), timeout);
  if (!replies.ok()) co_return replies.status();
  const Reply& reply = replies->front();
  if (reply.type() == Value::Type::kError) {
    co_return CheckAsked(FromRedisError(reply.text()));
  }
  ServerInfo info = ParseInfo(reply.text());
  if (info.run_id.empty() || info.replid.empty()) {
    co_return Unfit("INFO shows no run_id and master_replid");
  }
  co_return info;
}

absl::Status CheckInfo(const ServerInfo& info, const Options& options, bool want_cluster) {
  if (info.is_loading) return NotExecuted("Redis is loading its data");
  if (!info.is_primary) return NotExecuted(absl::StrCat("it is a replica of ", info.primary));
  if (info.is_cluster && !want_cluster) {
    return Unfit("it is a node of a Redis Cluster; use redis+cluster:// with some of its nodes");
  }
  if (!info.is_cluster && want_cluster) {
    return Unfit("it is no node of a Redis Cluster; use redis://");
  }
  if (info.maxmemory_policy != "noeviction") {
    return Unfit(absl::StrCat("maxmemory-policy is ", info.maxmemory_policy,
                              ": it may evict leases and holds; set maxmemory-policy noeviction"));
  }
  return absl::OkStatus();
}

Task<absl::Status> CheckPrimary(std::shared_ptr<Connection> connection, const ServerInfo& info,
                                const Options& options, bool want_cluster) {
  absl::Status fit = CheckInfo(info, options, want_cluster);
  if (!fit.ok()) co_return fit;
  Commands commands = {{"SCRIPT", "LOAD", kWriteProbe}, {"EVAL", kWriteProbe, "0"}};
  const bool wants_save = options.require_persistence && !info.has_aof;
  if (wants_save) commands.push_back({"CONFIG", "GET", "save"});
  absl::StatusOr<std::vector<Reply>> replies =
      co_await connection->Ask(std::move(commands), options.connect_timeout);
  if (!replies.ok()) co_return replies.status();
  for (size_t i = 0; i < 2; ++i) {
    const Reply& reply = (*replies)[i];
    if (reply.type() != Value::Type::kError) continue;
    const std::string_view code = ErrorCode(reply.text());
    if (code == "NOPERM" || code == "ERR") {
      co_return Unfit(absl::StrCat("it runs no scripts (SCRIPT LOAD, EVAL, EVALSHA are needed): ",
                                   Absl(reply.text())));
    }
    // A Cluster that lacks slots still serves those it has.
    if (want_cluster && code == "CLUSTERDOWN") continue;
    co_return FromRedisError(reply.text());
  }
  if (wants_save) {
    const Reply& save = (*replies)[2];
    if (!save.value().is_array() || save.size() < 2 || save[1].text().empty()) {
      co_return Unfit(
          "nothing is persisted: a restart would forget every lease; set appendonly yes");
    }
  }
  co_return absl::OkStatus();
}

}  // namespace tollhouse::redis
