// tollhouse-ledger: the durable owner of accounts, budgets and the journal, as a process.
#include <memory>
#include <string>

#include "libs/base/status_macros.h"
#include "libs/rpc/program.h"
#include "services/ledger/app.h"

namespace tollhouse::ledger {
namespace {

constexpr char kExamples[] =
    "Commands:\n"
    "  tollhouse-ledger migrate --config ledger.yaml\n"
    "      brings the database to this version's schema; safe to repeat\n\n"
    "Examples:\n"
    "  tollhouse-ledger --config ledger.yaml\n"
    "  tollhouse-ledger --insecure --database sqlite:ledger.db --admin-token-file admin.token\n"
    "      for a trial on this machine\n";

int Run(int argc, char** argv) {
  Config config;
  absl::Duration resolve_suspense_after = *config.resolve_suspense_after;
  rpc::Program program({"ledger", "accounts, budgets and the journal", kExamples, true, 7101});
  config::Options& options = program.options();
  options.Add("database", &config.database,
              "sqlite:PATH, or postgresql://USER@HOST:PORT/NAME without a password (required)");
  options.Add("database-password-file", &config.database_password_file,
              "of PostgreSQL; read at each connect");
  options.Add("acknowledge-timeout", &config.acknowledge_timeout,
              "how long a change waits for connected enforcers and edges");
  options.Add("resolve-suspense-after", &resolve_suspense_after,
              "unknown ends are booked at their full amount then; inf: never");
  options.Add("audit-interval", &config.audit.interval,
              "between audits of all balances; inf: none");
  options.Add("audit-journal-interval", &config.audit.journal_interval,
              "between audits that read the whole journal; inf: none");
  const auto prepare = [&] {
    config.resolve_suspense_after.reset();
    if (resolve_suspense_after < absl::InfiniteDuration()) config.resolve_suspense_after = resolve_suspense_after;
  };
  program.SetCheck([&] {
    return config.database.empty() ? absl::InvalidArgumentError("--database is required") : absl::OkStatus();
  });
  program.AddCommand("migrate", [&] { return Migrate(config); });
  return program.Run(argc, argv, [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    prepare();
    config.authenticator = environment.authenticator().get();
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  });
}

}  // namespace
}  // namespace tollhouse::ledger

int main(int argc, char** argv) { return tollhouse::ledger::Run(argc, argv); }
