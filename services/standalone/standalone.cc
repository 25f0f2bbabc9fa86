#include "services/standalone/standalone.h"

#include <fcntl.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/clock.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/hardening.h"
#include "libs/obs/admin_server.h"
#include "libs/obs/log.h"
#include "libs/rpc/admin_issuers.h"
#include "libs/rpc/authenticator.h"
#include "services/budget-enforcer/app.h"
#include "services/edge/app.h"
#include "services/key-vault/app.h"
#include "services/ledger/app.h"
#include "services/router-policy/app.h"
#include "tools/tollctl/invocation.h"  // lint: allow(include-service) --bootstrap is `tollctl apply`

namespace tollhouse::standalone {
namespace {

// Holds DIR/lock for as long as the process uses the directory.
class DirectoryLock {
 public:
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Take(const std::string& directory) {
    std::error_code error;
    const bool created = std::filesystem::create_directories(directory, error);
    if (error) {
      return absl::UnavailableError(absl::StrCat("cannot create ", directory, ": ", error.message()));
    }
    if (created) std::filesystem::permissions(directory, std::filesystem::perms::owner_all);
    const std::string path = directory + "/lock";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return absl::UnavailableError(absl::StrCat("cannot open ", path));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      close(fd);
      return absl::FailedPreconditionError(
          absl::StrCat("another tollhoused runs on ", directory, "; stop it or choose another --data-dir"));
    }
    return std::make_unique<DirectoryLock>(fd);
  }
  explicit DirectoryLock(int fd) : fd_(fd) {}
  ~DirectoryLock() { close(fd_); }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  const int fd_;
};

// One service with the in-process server it is reached by.
template <typename App>
class Hosted {
 public:
  ~Hosted() { Stop(); }

  absl::Status Host(absl::StatusOr<std::unique_ptr<App>> app) {
    TH_ASSIGN_OR_RETURN(app_, std::move(app));
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(-1);
    app_->RegisterInternal(builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("cannot start an in-process server");
    return absl::OkStatus();
  }

  std::shared_ptr<grpc::Channel> Channel() const {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    // Kept until the process ends: a gRPC thread whose call is a channel's last user would wait for itself.
    static auto* const kept = new std::vector<std::shared_ptr<grpc::Channel>>;
    return kept->emplace_back(server_->InProcessChannel(arguments));
  }

  void Stop() {
    if (app_ == nullptr) return;
    app_->Stop();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_.reset();
    app_.reset();
  }

  App* operator->() const { return app_.get(); }

 private:
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> server_;
};

// Appends to a file that only its owner can read.
absl::Status AppendPrivate(const std::string& path, std::string_view text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (fd >= 0) close(fd);
  return written ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
}

// What `tollctl apply -f FILE` does, with this process's own environment for `env:` references. The
// secrets of keys that it makes are shown once, so they go to DIR/bootstrap-keys.
absl::Status ApplyBootstrap(const std::string& file, const std::string& admin,
                            const std::string& directory) {
  std::istringstream in;
  std::ostringstream out, err;
  tollctl::Environment environment;
  environment.env = [](const std::string& name) -> std::string {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? "" : value;
  };
  environment.in = &in;
  environment.out = &out;
  environment.err = &err;
  environment.clock = Clock::System();
  const int code = tollctl::RunTollctl(
      {"--server", admin, "--token-file", directory + "/admin.token", "apply", "-f", file}, environment);
  if (out.str().find("sk-toll-") != std::string::npos) {
    TH_RETURN_IF_ERROR(AppendPrivate(directory + "/bootstrap-keys", out.str()));
    obs::Info("bootstrap_made_keys", {{"secrets_in", directory + "/bootstrap-keys"}});
  }
  if (code != 0) {
    return absl::FailedPreconditionError(absl::StrCat("--bootstrap ", file, ": ", err.str()));
  }
  obs::Info("bootstrap_applied", {{"file", file}});
  return absl::OkStatus();
}

absl::Status WriteEndpoints(const std::string& directory, std::string_view edge, std::string_view admin,
                            std::string_view metrics) {
  const std::string path = directory + "/endpoints.json";
  const std::string text = absl::StrCat(
      "{\"edge\":\"", Absl(edge), "\",\"admin\":\"", Absl(admin), "\",\"metrics\":\"http://",
      Absl(metrics), "\",\"pid\":", getpid(), "}\n");
  std::FILE* const file = std::fopen((path + ".new").c_str(), "we");
  if (file == nullptr) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  const bool written = std::fputs(text.c_str(), file) >= 0;
  if (std::fclose(file) != 0 || !written || std::rename((path + ".new").c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace

struct Standalone::Parts {
  ~Parts() { Stop(); }

  void Stop() {
    stopping = true;
    if (edge != nullptr) edge->Stop();
    if (admin_server != nullptr) {
      admin_server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
    }
    enforcer.Stop();
    vault.Stop();
    router.Stop();
    ledger.Stop();
    metrics.reset();
    if (lock != nullptr) unlink((directory + "/endpoints.json").c_str());
    lock.reset();
  }

  std::string directory;
  std::atomic<bool> stopping = false;
  std::unique_ptr<DirectoryLock> lock;
  std::shared_ptr<rpc::Authenticator> authenticator;
  std::unique_ptr<rpc::AdminIssuers> issuers;  // null: none are configured
  // The admin server outlives what it serves from; members are destroyed in reverse order.
  Hosted<ledger::App> ledger;
  Hosted<router::App> router;
  Hosted<vault::App> vault;
  Hosted<enforcer::App> enforcer;
  std::unique_ptr<edge::App> edge;  // serves HTTP, no gRPC
  std::unique_ptr<grpc::Server> admin_server;
  std::unique_ptr<obs::AdminServer> metrics;
};

Standalone::Standalone(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Standalone::~Standalone() = default;

void Standalone::Stop() { parts_->Stop(); }

absl::StatusOr<std::unique_ptr<Standalone>> Standalone::Start(const Config& config) {
  if (config.data_dir.empty()) {
    return absl::InvalidArgumentError("--data-dir is required, for example: tollhoused --data-dir ./data");
  }
  if (config.tls_certificate_file.empty() != config.tls_key_file.empty()) {
    return absl::InvalidArgumentError("--tls-certificate-file and --tls-key-file belong together");
  }
  TH_RETURN_IF_ERROR(crypto::HardenProcess());
  const absl::Duration begin = Clock::System()->Monotonic();
  auto parts = std::make_unique<Parts>();
  parts->directory = config.data_dir;
  const auto file = [&](std::string_view name) { return absl::StrCat(config.data_dir, "/", Absl(name)); };
  TH_ASSIGN_OR_RETURN(parts->lock, DirectoryLock::Take(config.data_dir));
  unlink(file("endpoints.json").c_str());  // of a process that was killed
  TH_ASSIGN_OR_RETURN(parts->authenticator, rpc::Authenticator::FromFile(file("admin.token"), true));

  if (!config.admin_issuers_file.empty()) {
    TH_ASSIGN_OR_RETURN(parts->issuers,
                        rpc::AdminIssuers::Open(config.admin_issuers_file, parts->authenticator.get()));
  }
  TH_RETURN_IF_ERROR(parts->ledger.Host(ledger::App::Create(
      {.database = "sqlite:" + file("ledger.db"), .authenticator = parts->authenticator.get()})));
  TH_RETURN_IF_ERROR(parts->router.Host(router::App::Create(
      {.database = "sqlite:" + file("router.db"), .authenticator = parts->authenticator.get()})));
  TH_RETURN_IF_ERROR(parts->vault.Host(vault::App::Create(
      {.database = "sqlite:" + file("vault.db"),
       .key_encryption_key_file = file("kek"),
       .create_key_encryption_key = true,
       .authenticator = parts->authenticator.get()},
      parts->ledger.Channel())));
  TH_RETURN_IF_ERROR(parts->enforcer.Host(
      enforcer::App::Create({.authenticator = parts->authenticator}, parts->ledger.Channel())));
  edge::Config edge_config;
  edge_config.data_dir = file("edge");
  edge_config.listen = config.edge_listen;
  edge_config.tls_certificate_file = config.tls_certificate_file;
  edge_config.tls_key_file = config.tls_key_file;
  edge_config.issuers_file = config.issuers_file;
  edge_config.threads = static_cast<int>(config.edge_threads);
  edge_config.clamp_output = config.edge_clamp_output;
  TH_ASSIGN_OR_RETURN(parts->edge,
                      edge::App::Create(edge_config, {.enforcer = parts->enforcer.Channel(),
                                                      .ledger = parts->ledger.Channel(),
                                                      .router = parts->router.Channel(),
                                                      .vault = parts->vault.Channel()}));

  TH_RETURN_IF_ERROR(parts->ledger->Start());
  TH_RETURN_IF_ERROR(parts->router->Start());
  TH_RETURN_IF_ERROR(parts->vault->Start());
  TH_RETURN_IF_ERROR(parts->enforcer->Start());

  grpc::ServerBuilder builder;
  int admin_port = 0;
  builder.AddListeningPort(config.admin_listen, grpc::InsecureServerCredentials(), &admin_port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(16 << 20);
  parts->ledger->RegisterAdmin(builder);
  parts->router->RegisterAdmin(builder);
  parts->vault->RegisterAdmin(builder);
  parts->enforcer->RegisterAdmin(builder);
  parts->admin_server = builder.BuildAndStart();
  if (parts->admin_server == nullptr || admin_port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", config.admin_listen, " (--admin-listen)"));
  }

  TH_RETURN_IF_ERROR(parts->edge->Start());
  TH_ASSIGN_OR_RETURN(parts->metrics,
                      obs::AdminServer::Start(config.metrics_listen, [parts = parts.get()] {
                        return parts->stopping ? std::string("stopping") : parts->edge->NotReady();
                      }));

  const std::string admin =
      absl::StrCat(config.admin_listen.substr(0, config.admin_listen.rfind(':')), ":", admin_port);
  if (!config.bootstrap.empty()) {
    TH_RETURN_IF_ERROR(ApplyBootstrap(config.bootstrap, admin, config.data_dir));
  }
  const std::string edge = parts->edge->url();
  TH_RETURN_IF_ERROR(WriteEndpoints(config.data_dir, edge, admin, parts->metrics->address()));
  obs::Info("ready", {{"edge", edge},
                      {"admin", admin},
                      {"metrics", parts->metrics->address()},
                      {"start_ms", absl::ToInt64Milliseconds(Clock::System()->Monotonic() - begin)}});
  return std::unique_ptr<Standalone>(new Standalone(std::move(parts)));
}

}  // namespace tollhouse::standalone
