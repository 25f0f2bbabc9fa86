#include "libs/rpc/program.h"

#include <grpc/support/log.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/aio/termination.h"
#include "libs/base/clock.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/hardening.h"
#include "libs/obs/admin_server.h"
#include "libs/obs/log.h"
#include "libs/rpc/admin_issuers.h"
#include "libs/rpc/channel.h"
#include "libs/rpc/server.h"
#include "libs/rpc/token_source.h"

namespace tollhouse::rpc {
namespace {

constexpr absl::Duration kHealthInterval = absl::Milliseconds(250);
constexpr absl::Duration kStartPoll = absl::Milliseconds(10);

// What gRPC itself complains about: connections of peers without a certificate that we trust, mostly.
void LogOfGrpc(gpr_log_func_args* args) {
  if (args->severity != GPR_LOG_SEVERITY_ERROR) return;
  // A server that has one certificate for all names says so of every other name.
  if (absl::StrContains(args->message, "No match found for server name")) return;
  if (!absl::StrContains(args->file, "ssl_transport_security")) {
    obs::Warning("grpc_error", {{"message", args->message}});
    return;
  }
  const bool refused = absl::StrContains(args->message, "certificate verify failed");
  obs::Warning("tls_handshake_failed",
               {{"message", args->message},
                {"hint", refused ? "the other end's certificate has expired or is of another authority" : ""}});
}

void IgnoreGrpc(gpr_log_func_args*) {}

std::string Loopback(int port) { return port == 0 ? "" : absl::StrCat("127.0.0.1:", port); }

absl::Status Missing(std::string_view option, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", Absl(option), " is required: ", Absl(what)));
}

// Starts the App; SIGTERM meanwhile just ends the process, as nothing has been served yet.
absl::Status StartOrExit(Hosted& app) {
  std::future<absl::Status> started = std::async(std::launch::async, [&] { return app.Start(); });
  while (started.wait_for(std::chrono::milliseconds(0)) != std::future_status::ready) {
    if (aio::WaitForTermination(kStartPoll) != 0) std::_Exit(0);
  }
  absl::Status status = started.get();
  if (!status.ok()) app.Stop();
  return status;
}

// What /readyz and health checks say. Thread-safe.
class Readiness {
 public:
  void Set(std::string reason) {
    absl::MutexLock lock(&mutex_);
    reason_ = std::move(reason);
  }
  std::string Get() const {
    absl::MutexLock lock(&mutex_);
    return reason_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::string reason_ ABSL_GUARDED_BY(mutex_) = "starting";
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> Environment::Channel(std::string_view service,
                                                                    std::string_view addresses) const {
  return ConnectTo(service, addresses, *security_);
}

Program::Program(ProgramInfo info)
    : info_(std::move(info)),
      name_(absl::StrCat("tollhouse-", info_.service)),
      options_(name_, info_.summary, info_.examples) {
  if (info_.has_grpc) {
    config_.listen = Loopback(info_.first_port);
    config_.admin_listen = Loopback(info_.first_port + 1);
    config_.metrics_listen = Loopback(info_.first_port + 2);
    options_.Add("listen", &config_.listen, "gRPC for the other services, with mTLS");
    options_.Add("admin-listen", &config_.admin_listen, "gRPC for tollctl, with TLS and a token");
    options_.Add("admin-token-file", &config_.admin_token_file, "the first token: owner of everything (required)");
    options_.Add("admin-issuers-file", &config_.admin_issuers_file,
                 "YAML list of identity providers whose tokens administer, by roles in their claims");
    options_.Add("connection-age", &config_.connection_age,
                 "connections are renewed after this long, so that clients spread over new replicas");
  } else {
    config_.metrics_listen = Loopback(info_.first_port);
  }
  options_.Add("metrics-listen", &config_.metrics_listen, "HTTP: /healthz, /readyz, /metrics");
  options_.Add("tls-cert", &config_.tls.certificate,
               absl::StrCat("PEM with the URI name spiffe://tollhouse/", info_.service, " (required)"));
  options_.Add("tls-key", &config_.tls.key, "PEM with its private key (required)");
  options_.Add("tls-ca", &config_.tls.ca, "PEM of the authority of all services (required)");
  options_.Add("insecure", &config_.insecure, "no TLS at all; loopback addresses only");
  options_.Add("drain-time", &config_.drain_time, "how long calls may take to end after SIGTERM");
  options_.Add("log-level", &config_.log_level, "debug, info, warning or error");
  if (info_.has_grpc && info_.service != "vault") {
    options_.Add("vault", &config_.vault, "the vault, for tokens besides the first: NAME:PORT or ADDRESS:PORT,...");
  }
  options_.SetCheck([this] { return Check(); });
}

void Program::AddCommand(std::string name, std::function<absl::Status()> command) {
  commands_.emplace_back(std::move(name), std::move(command));
}

absl::Status Program::Check() const {
  if (config_.insecure) {
    for (const std::string* address : {&config_.listen, &config_.admin_listen}) {
      if (!address->empty() && !IsLoopback(*address)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--insecure is for loopback addresses only, not ", *address));
      }
    }
  } else if (config_.tls.certificate.empty() || config_.tls.key.empty() || config_.tls.ca.empty()) {
    return Missing(config_.tls.certificate.empty() ? "tls-cert" : config_.tls.key.empty() ? "tls-key" : "tls-ca",
                   "services speak mTLS (tools/certs makes certificates for a trial)");
  }
  if (info_.has_grpc && config_.admin_token_file.empty()) {
    return Missing("admin-token-file", "the file with the token of tollctl");
  }
  return check_ == nullptr ? absl::OkStatus() : check_();
}

absl::StatusOr<std::unique_ptr<Environment>> Program::MakeEnvironment() const {
  std::unique_ptr<Security> security = Security::Insecure();
  if (!config_.insecure) {
    TH_ASSIGN_OR_RETURN(security, Security::FromFiles(info_.service, config_.tls));
  }
  std::shared_ptr<Authenticator> authenticator;
  if (info_.has_grpc) {
    TH_ASSIGN_OR_RETURN(authenticator, Authenticator::FromFile(config_.admin_token_file, false));
  }
  return std::make_unique<Environment>(config_, std::move(security), std::move(authenticator));
}

absl::Status Program::Serve(const Make& make) {
  const absl::Duration begin = Clock::System()->Monotonic();
  Readiness readiness;
  TH_ASSIGN_OR_RETURN(const std::unique_ptr<Environment> environment, MakeEnvironment());
  std::unique_ptr<AdminIssuers> issuers;  // ends after the servers
  if (!config_.admin_issuers_file.empty()) {
    TH_ASSIGN_OR_RETURN(issuers, AdminIssuers::Open(config_.admin_issuers_file,
                                                    environment->authenticator().get()));
  }
  TH_ASSIGN_OR_RETURN(const std::unique_ptr<obs::AdminServer> metrics,
                      obs::AdminServer::Start(config_.metrics_listen, [&] { return readiness.Get(); }));
  TH_ASSIGN_OR_RETURN(const std::unique_ptr<Hosted> app, make(*environment));
  std::vector<std::unique_ptr<Server>> servers;  // ended before the App is destroyed
  if (info_.has_grpc) {
    ServerOptions options;
    options.listen = config_.listen;
    options.credentials = environment->security().ForServices();
    options.connection_age = config_.connection_age;
    TH_ASSIGN_OR_RETURN(servers.emplace_back(),
                        Server::Start(options, [&](auto& builder) { app->RegisterInternal(builder); }));
    options.listen = config_.admin_listen;
    options.credentials = environment->security().ForAdmin();
    TH_ASSIGN_OR_RETURN(servers.emplace_back(),
                        Server::Start(options, [&](auto& builder) { app->RegisterAdmin(builder); }));
  }
  TH_RETURN_IF_ERROR(StartOrExit(*app));
  std::optional<TokenSource> tokens;
  if (!config_.vault.empty()) {
    TH_ASSIGN_OR_RETURN(auto vault, environment->Channel("vault", config_.vault));
    tokens.emplace(ReadTokensOf(std::move(vault)), environment->authenticator().get());
    tokens->Start();
  }
  obs::Info("started", {{"listen", servers.empty() ? "" : servers[0]->address()},
                        {"admin", servers.empty() ? "" : servers[1]->address()},
                        {"metrics", metrics->address()},
                        {"tls", !config_.insecure},
                        {"start_ms", absl::ToInt64Milliseconds(Clock::System()->Monotonic() - begin)}});
  int signal = 0;
  for (std::string before = "starting"; signal == 0; signal = aio::WaitForTermination(kHealthInterval)) {
    const std::string reason = app->NotReady();
    if (reason == before) continue;
    if (reason.empty()) {
      obs::Info("ready");
    } else {
      obs::Warning("not_ready", {{"reason", reason}});
    }
    readiness.Set(reason);
    for (const auto& server : servers) server->SetServing(reason.empty());
    before = reason;
  }
  obs::Info("stopping", {{"signal", signal}});
  readiness.Set("stopping");
  gpr_set_log_function(IgnoreGrpc);  // it complains of watched certificates that end with it
  for (const auto& server : servers) server->SetServing(false);
  app->Stop();
  for (const auto& server : servers) server->Shutdown(config_.drain_time);
  obs::Info("stopped");
  return absl::OkStatus();
}

int Program::Run(int argc, char** argv, const Make& make) {
  const std::function<absl::Status()>* command = nullptr;
  if (argc > 1 && argv[1][0] != '-') {
    for (const auto& [name, run] : commands_) {
      if (name == argv[1]) command = &run;
    }
    if (command == nullptr) {
      std::fprintf(stderr, "%s: unknown command %s; see %s --help\n", name_.c_str(), argv[1], name_.c_str());
      return 2;
    }
    ++argv;
    --argc;
  }
  const auto outcome = options_.Parse(argc, argv);
  if (!outcome.ok()) {
    std::fprintf(stderr, "%s: %s\n", name_.c_str(), std::string(outcome.status().message()).c_str());
    return 2;
  }
  std::fputs(options_.output().c_str(), stdout);
  if (*outcome == config::Options::Outcome::kExitOk) return 0;

  // Debian's Abseil looks for lock cycles at every lock; sanitizer builds do that in tests.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  aio::BlockTerminationSignals();
  obs::InitLogging(name_, obs::ParseLevel(config_.log_level));
  gpr_set_log_function(LogOfGrpc);
  absl::Status status = crypto::HardenProcess();
  if (status.ok()) status = command != nullptr ? (*command)() : Serve(make);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", name_.c_str(), std::string(status.message()).c_str());
  return 1;
}

}  // namespace tollhouse::rpc
