// tollhouse-router: providers, the model catalogue and the price book, as a process.
#include <memory>
#include <string>

#include "libs/base/status_macros.h"
#include "libs/rpc/program.h"
#include "services/router-policy/app.h"

namespace tollhouse::router {
namespace {

constexpr char kExamples[] =
    "Commands:\n"
    "  tollhouse-router migrate --config router.yaml\n"
    "      brings the database to this version's schema; safe to repeat\n\n"
    "Examples:\n"
    "  tollhouse-router --config router.yaml\n"
    "  tollhouse-router --insecure --database sqlite:router.db --admin-token-file admin.token\n"
    "      for a trial on this machine\n";

int Run(int argc, char** argv) {
  Config config;
  rpc::Program program({"router", "providers, models and prices", kExamples, true, 7301});
  config::Options& options = program.options();
  options.Add("database", &config.database,
              "sqlite:PATH, or postgresql://USER@HOST:PORT/NAME without a password (required)");
  options.Add("database-password-file", &config.database_password_file,
              "of PostgreSQL; read at each connect");
  options.Add("acknowledge-timeout", &config.acknowledge_timeout,
              "how long a change waits for connected edges");
  program.SetCheck([&] {
    return config.database.empty() ? absl::InvalidArgumentError("--database is required") : absl::OkStatus();
  });
  program.AddCommand("migrate", [&] { return Migrate(config); });
  return program.Run(argc, argv, [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    config.authenticator = environment.authenticator().get();
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  });
}

}  // namespace
}  // namespace tollhouse::router

int main(int argc, char** argv) { return tollhouse::router::Run(argc, argv); }
