// tollhouse-enforcer: holds against leases, and rate limits, as a process.
#include <memory>
#include <string>

#include "libs/base/status_macros.h"
#include "libs/base/uuid.h"
#include "libs/rpc/program.h"
#include "services/budget-enforcer/app.h"

namespace tollhouse::enforcer {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  tollhouse-enforcer --config enforcer.yaml\n"
    "  tollhouse-enforcer --insecure --ledger 127.0.0.1:7101 --admin-token-file admin.token\n"
    "      for a trial on this machine; holds are in memory\n"
    "  tollhouse-enforcer --config enforcer.yaml --redis redis+sentinel://10.0.0.1,10.0.0.2/main\n";

int Run(int argc, char** argv) {
  std::string ledger;
  Config config;
  config.enforcer_id = "";
  rpc::Program program({"enforcer", "holds against leases, and rate limits", kExamples, true, 7201});
  config::Options& options = program.options();
  options.Add("ledger", &ledger, "the ledger: NAME:PORT or ADDRESS:PORT,... (required)");
  options.Add("enforcer-id", &config.enforcer_id, "a name of its own, stable over restarts; default: made up");
  options.Add("ledger-timeout", &config.ledger_timeout, "of one call to the ledger");
  redis::Options& redis = config.redis;
  options.Add("redis", &redis.uri,
              "where holds are kept: redis://HOST:PORT[,..], rediss:// (TLS), redis+sentinel://HOST,../NAME, "
              "redis+cluster://HOST,..; default: memory, for a single enforcer");
  options.Add("redis-password-file", &redis.password_file, "of the user in --redis");
  options.Add("redis-sentinel-password-file", &redis.sentinel_password_file, "of the sentinels");
  options.Add("redis-tls-ca", &redis.tls_ca_file, "who signs Redis' certificates; default: the system's");
  options.Add("redis-tls-certificate", &redis.tls_certificate_file, "a client certificate for Redis");
  options.Add("redis-tls-key", &redis.tls_key_file, "its key");
  options.Add("redis-tls-server-name", &redis.tls_server_name, "what Redis' certificate must be for");
  EnforcerOptions& rules = config.options;
  options.Add("lease-horizon", &rules.lease_horizon,
              "how long requests can go on without the ledger: the size of a lease");
  options.Add("idle-return", &rules.idle_return, "free lease that nobody used this long goes back");
  options.Add("patience", &rules.patience, "how long a reservation may wait to be decided at all");
  options.Add("longest-wait", &rules.longest_wait, "how long one may wait for money that others hold");
  options.Add("default-time-to-live", &rules.default_time_to_live, "of a hold whose edge names none");
  options.Add("longest-time-to-live", &rules.longest_time_to_live, "of any hold");
  options.Add("waiting-max", &rules.waiting_max, "reservations per org that may wait for money");
  program.SetCheck([&] {
    return ledger.empty() ? absl::InvalidArgumentError("--ledger is required") : absl::OkStatus();
  });
  return program.Run(argc, argv, [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    if (config.enforcer_id.empty()) config.enforcer_id = NewUuid(config.clock->Wall()).ToString();
    config.authenticator = environment.authenticator();
    TH_ASSIGN_OR_RETURN(auto channel, environment.Channel("ledger", ledger));
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config, std::move(channel)));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  });
}

}  // namespace
}  // namespace tollhouse::enforcer

int main(int argc, char** argv) { return tollhouse::enforcer::Run(argc, argv); }
