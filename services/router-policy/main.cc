// tollhouse-router: providers, the model catalogue and the price book, as a process.
#include <memory>
#include <string>

#include "absl/strings/strip.h"
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
  std::string database;
  Config config;
  rpc::Program program({"router", "providers, models and prices", kExamples, true, 7301});
  config::Options& options = program.options();
  options.Add("database", &database, "sqlite:PATH (required)");
  options.Add("acknowledge-timeout", &config.acknowledge_timeout,
              "how long a change waits for connected edges");
  const auto prepare = [&] { config.database_path = std::string(absl::StripPrefix(database, "sqlite:")); };
  program.SetCheck([&] {
    return database.empty() ? absl::InvalidArgumentError("--database is required") : absl::OkStatus();
  });
  program.AddCommand("migrate", [&] {
    prepare();
    return App::Create(config).status();
  });
  return program.Run(argc, argv, [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    prepare();
    config.authenticator = environment.authenticator().get();
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  });
}

}  // namespace
}  // namespace tollhouse::router

int main(int argc, char** argv) { return tollhouse::router::Run(argc, argv); }
