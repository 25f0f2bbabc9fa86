// The life of a service program, the same for all: configuration, ports, readiness, drain, exit code.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/config/options.h"
#include "libs/rpc/authenticator.h"
#include "libs/rpc/security.h"

namespace tollhouse::rpc {

struct ProgramInfo {
  std::string service;  // "ledger": the program is tollhouse-ledger, its identity that of the ledger
  std::string summary;
  std::string examples;
  bool has_grpc = true;  // an edge serves HTTP only
  int first_port = 0;    // defaults: services at it, admin at +1, metrics at +2; 0: there are none
};

// What every service program can be told.
struct ProgramConfig {
  std::string listen;          // for other services: mTLS
  std::string admin_listen;    // for tollctl: TLS and a token
  std::string metrics_listen;  // /healthz /readyz /metrics
  TlsFiles tls;
  bool insecure = false;
  std::string admin_token_file;  // the first token
  std::string vault;             // where the other tokens come from; "": there are none
  std::string admin_issuers_file;  // identity providers whose tokens administer too; "": none
  std::string log_level = "info";
  absl::Duration drain_time = absl::Seconds(5);
  absl::Duration connection_age = absl::Minutes(30);
};

// Given to the function that makes the App; lives until it is destroyed.
class Environment {
 public:
  Environment(const ProgramConfig& config, std::unique_ptr<Security> security,
              std::shared_ptr<Authenticator> authenticator)
      : config_(config), security_(std::move(security)), authenticator_(std::move(authenticator)) {}

  const ProgramConfig& config() const { return config_; }
  const Security& security() const { return *security_; }
  const std::shared_ptr<Authenticator>& authenticator() const { return authenticator_; }
  // As ConnectTo.
  absl::StatusOr<std::shared_ptr<grpc::Channel>> Channel(std::string_view service,
                                                         std::string_view addresses) const;

 private:
  const ProgramConfig& config_;
  const std::unique_ptr<Security> security_;
  const std::shared_ptr<Authenticator> authenticator_;
};

// An App of a service: what a Program hosts. Stop ends streams and background work; servers are shut
// down after it, and the App is destroyed after them.
class Hosted {
 public:
  virtual ~Hosted() = default;
  virtual void RegisterInternal(grpc::ServerBuilder& builder) = 0;
  virtual void RegisterAdmin(grpc::ServerBuilder& builder) = 0;
  virtual absl::Status Start() = 0;
  virtual std::string NotReady() const = 0;  // "" when ready
  virtual void Stop() = 0;
};

// Hosts any App. One without NotReady() is ready once it has started.
template <typename App>
class HostedApp final : public Hosted {
 public:
  explicit HostedApp(std::unique_ptr<App> app) : app_(std::move(app)) {}
  void RegisterInternal(grpc::ServerBuilder& builder) override { app_->RegisterInternal(builder); }
  void RegisterAdmin(grpc::ServerBuilder& builder) override { app_->RegisterAdmin(builder); }
  absl::Status Start() override { return app_->Start(); }
  std::string NotReady() const override {
    if constexpr (requires(const App& app) { app.NotReady(); }) {
      return app_->NotReady();
    } else {
      return "";
    }
  }
  void Stop() override { app_->Stop(); }

 private:
  const std::unique_ptr<App> app_;
};

class Program {
 public:
  explicit Program(ProgramInfo info);

  // For the service's own options; they must outlive Run.
  config::Options& options() { return options_; }
  // Also for --check-config. Not for what needs the network.
  void SetCheck(std::function<absl::Status()> check) { check_ = std::move(check); }
  // `tollhouse-ledger migrate --config F`: does that instead of serving.
  void AddCommand(std::string name, std::function<absl::Status()> command);

  using Make = std::function<absl::StatusOr<std::unique_ptr<Hosted>>(const Environment&)>;
  // main(): 0 after SIGTERM or a command that succeeded, 1 for what failed, 2 for a wrong
  // configuration. Failures are one line on standard error. No core dumps (libs/crypto/hardening.h).
  int Run(int argc, char** argv, const Make& make);

 private:
  absl::Status Check() const;
  absl::Status Serve(const Make& make);
  absl::StatusOr<std::unique_ptr<Environment>> MakeEnvironment() const;

  const ProgramInfo info_;
  const std::string name_;
  ProgramConfig config_;
  config::Options options_;
  std::function<absl::Status()> check_;
  std::vector<std::pair<std::string, std::function<absl::Status()>>> commands_;
};

}  // namespace tollhouse::rpc
