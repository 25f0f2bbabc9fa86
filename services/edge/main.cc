// tollhouse-edge: HTTP for applications, as a process.
#include <memory>
#include <string>

#include "libs/base/status_macros.h"
#include "libs/rpc/program.h"
#include "services/edge/app.h"
#include "services/edge/options.h"

namespace tollhouse::edge {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  tollhouse-edge --config edge.yaml\n"
    "  tollhouse-edge --insecure --data-dir edge --ledger 127.0.0.1:7101 --enforcer 127.0.0.1:7201\n"
    "      --router 127.0.0.1:7301 --vault 127.0.0.1:7401\n"
    "      for a trial on this machine; applications use http://127.0.0.1:8080/v1\n";

int Run(int argc, char** argv) {
  std::string ledger, enforcer, router, vault;
  Config config;
  rpc::Program program({"edge", "HTTP for applications, between them and their providers", kExamples, false, 9901});
  config::Options& options = program.options();
  options.Add("ledger", &ledger, "the ledger: NAME:PORT or ADDRESS:PORT,... (required)");
  options.Add("enforcer", &enforcer, "the enforcer, likewise (required)");
  options.Add("router", &router, "the router, likewise (required)");
  options.Add("vault", &vault, "the vault, likewise (required)");
  RegisterOptions(&config, &options);
  program.SetCheck([&] {
    for (const std::string* address : {&ledger, &enforcer, &router, &vault}) {
      if (address->empty()) {
        return absl::InvalidArgumentError("--ledger, --enforcer, --router and --vault are required");
      }
    }
    return CheckConfig(config);
  });
  return program.Run(argc, argv, [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    Channels channels;
    TH_ASSIGN_OR_RETURN(channels.ledger, environment.Channel("ledger", ledger));
    TH_ASSIGN_OR_RETURN(channels.enforcer, environment.Channel("enforcer", enforcer));
    TH_ASSIGN_OR_RETURN(channels.router, environment.Channel("router", router));
    TH_ASSIGN_OR_RETURN(channels.vault, environment.Channel("vault", vault));
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config, std::move(channels)));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  });
}

}  // namespace
}  // namespace tollhouse::edge

int main(int argc, char** argv) { return tollhouse::edge::Run(argc, argv); }
