#include "libs/testing/postgres_server.h"

#include <fcntl.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <system_error>

#include "absl/synchronization/mutex.h"
#include "libs/testing/process.h"

namespace tollhouse::testing {
namespace {

constexpr const char* kBinaries = "/usr/lib/postgresql/15/bin/";

// Postgres refuses to run as root: root becomes Debian's `postgres`, everybody else stays.
const Account& ServerAccount() {
  static const Account account = [] {
    Account out{.change = false, .uid = geteuid(), .gid = getegid()};
    if (geteuid() != 0) return out;
    const passwd* const entry = getpwnam("postgres");
    if (entry == nullptr) throw std::runtime_error("no user `postgres`: is postgresql-15 installed?");
    return Account{.change = true, .uid = entry->pw_uid, .gid = entry->pw_gid};
  }();
  return account;
}

void Run(const std::vector<std::string>& command, const std::string& log) {
  const pid_t pid = StartProcess(command, log, 0, ServerAccount());
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error(command[0] + " failed (" + std::to_string(status) + "): " + EndOfFile(log));
  }
}

void MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    throw std::system_error(errno, std::generic_category(), path);
  }
  const Account& account = ServerAccount();
  if (account.change && chown(path.c_str(), account.uid, account.gid) != 0) {
    throw std::system_error(errno, std::generic_category(), path);
  }
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0 || !S_ISDIR(found.st_mode) || found.st_uid != account.uid) {
    throw std::runtime_error(path + " belongs to somebody else");
  }
}

// What initdb made, cached for this machine. tools/clusterlib/postgres.py uses the same.
std::string InitializedData() {
  const char* const base = std::getenv("TMPDIR");
  const std::string dir = std::string(base != nullptr ? base : "/tmp") + "/tollhouse-postgres15-" +
                          std::to_string(ServerAccount().uid);
  MakeDirectory(dir);
  const std::string data = dir + "/data";
  const int lock = open((dir + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0 || flock(lock, LOCK_EX) != 0) {
    throw std::system_error(errno, std::generic_category(), dir + "/lock");
  }
  if (!std::filesystem::exists(data)) {
    const std::string fresh = dir + "/data.new";
    std::filesystem::remove_all(fresh);
    Run({std::string(kBinaries) + "initdb", "--pgdata", fresh, "--username", "tollhouse", "--auth",
         "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"},
        dir + "/initdb.log");
    std::filesystem::rename(fresh, data);
  }
  close(lock);
  return data;
}

std::string UriOf(const std::vector<int>& ports, std::string_view database) {
  std::string out = "postgresql://tollhouse@";
  for (size_t i = 0; i < ports.size(); ++i) {
    out += (i == 0 ? "127.0.0.1:" : ",127.0.0.1:") + std::to_string(ports[i]);
  }
  out += "/" + std::string(database);
  if (ports.size() > 1) out += "?target_session_attrs=read-write";
  return out;
}

}  // namespace

// One server process and its data directory.
struct PostgresServer::Instance {
  Instance(const std::string& dir, std::vector<std::string> s)
      : data(dir + "/data"), log(dir + "/server.log"), settings(std::move(s)) {
    MakeDirectory(dir);
    Run({"/bin/cp", "-r", InitializedData(), data}, log);
  }
  ~Instance() { Crash(); }

  void Start() {
    if (pid != 0) throw std::runtime_error("it is running");
    const bool first = port == 0;
    for (int attempt = 0;; ++attempt) {
      if (first) port = FreePort();
      std::vector<std::string> command = {std::string(kBinaries) + "postgres", "-D", data, "-p",
                                          std::to_string(port)};
      for (const std::string& setting : settings) {
        command.push_back("-c");
        command.push_back(setting);
      }
      pid = StartProcess(command, log, SIGQUIT, ServerAccount());
      if (AwaitProcess([this] { return Ended() || Ready(); }) && pid != 0) return;
      Crash();
      const std::string said = EndOfFile(log);
      const bool taken = said.find("Address already in use") != std::string::npos;
      if (!taken || !first || attempt == 5) {
        throw std::runtime_error("postgres does not start: " + said);
      }
    }
  }

  // Immediate: no checkpoint, the next start recovers from the WAL.
  void Crash() {
    if (pid == 0) return;
    kill(pid, SIGQUIT);
    if (!AwaitProcess([this] { return Ended(); })) {
      kill(pid, SIGKILL);
      AwaitProcess([this] { return Ended(); });
    }
  }

  bool Ended() {
    if (pid != 0 && waitpid(pid, nullptr, WNOHANG) == pid) pid = 0;
    return pid == 0;
  }

  // The last line of postmaster.pid, as pg_ctl reads it.
  bool Ready() const {
    std::ifstream file(data + "/postmaster.pid");
    std::string line;
    std::vector<std::string> lines;
    while (std::getline(file, line)) lines.push_back(line);
    if (lines.size() < 8 || lines[0] != std::to_string(pid)) return false;
    return lines[7].starts_with("ready") || lines[7].starts_with("standby");
  }

  const std::string data;
  const std::string log;
  const std::vector<std::string> settings;
  int port = 0;
  pid_t pid = 0;
};

struct PostgresServer::Templates {
  absl::Mutex mutex;
  std::set<std::string> prepared;
  std::atomic<int> databases{0};
};

PostgresServer::PostgresServer(Options options)
    : options_(std::move(options)), templates_(std::make_unique<Templates>()) {
  MakeDirectory(dir_.path());
  std::vector<std::string> common = {
      "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200",
      "shared_buffers=64MB", "timezone=UTC", "log_timezone=UTC", "jit=off", "wal_keep_size=256MB"};
  common.push_back(options_.fsync ? "fsync=on" : "fsync=off");
  if (!options_.fsync) common.push_back("full_page_writes=off");
  common.insert(common.end(), options_.settings.begin(), options_.settings.end());
  std::vector<std::string> primary = common;
  if (options_.standby == Standby::kSynchronous) {
    primary.push_back("synchronous_standby_names=standby");
  }
  primary_ = std::make_unique<Instance>(dir_.path() + "/primary", primary);
  primary_->Start();
  if (options_.standby == Standby::kNone) return;
  // Both start from the same copy, so the standby has what a base backup would have brought.
  common.push_back("primary_conninfo=host=127.0.0.1 port=" + std::to_string(primary_->port) +
                   " user=tollhouse application_name=standby");
  common.push_back("wal_retrieve_retry_interval=100ms");
  common.push_back("recovery_target_timeline=latest");
  standby_ = std::make_unique<Instance>(dir_.path() + "/standby", common);
  std::ofstream(standby_->data + "/standby.signal").close();
  StartStandby();
}

PostgresServer::~PostgresServer() = default;

PostgresServer& PostgresServer::Shared() {
  static PostgresServer server;
  return server;
}

std::string PostgresServer::Uri(std::string_view database) const {
  if (standby_ == nullptr) return PrimaryUri(database);
  return UriOf({primary_->port, standby_->port}, database);
}

std::string PostgresServer::PrimaryUri(std::string_view database) const {
  return UriOf({primary_->port}, database);
}

std::string PostgresServer::StandbyUri(std::string_view database) const {
  return UriOf({standby_->port}, database);
}

int PostgresServer::port() const { return primary_->port; }

std::string PostgresServer::CreateDatabase() {
  const std::string name = "test_" + std::to_string(++templates_->databases);
  PostgresExecute(Uri("postgres"), "CREATE DATABASE " + name);
  return name;
}

std::string PostgresServer::CreateDatabase(
    const std::string& template_name, const std::function<void(const std::string& uri)>& prepare) {
  const std::string source = "template_" + template_name;
  absl::MutexLock lock(&templates_->mutex);  // no two may copy one database at once
  if (!templates_->prepared.contains(source)) {
    PostgresExecute(Uri("postgres"), "CREATE DATABASE " + source);
    prepare(Uri(source));
    templates_->prepared.insert(source);
  }
  const std::string name = "test_" + std::to_string(++templates_->databases);
  // A connection that `prepare` closed may still be ending.
  PostgresExecute(Uri("postgres"),
                  "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '" +
                      source + "'");
  PostgresExecute(Uri("postgres"), "CREATE DATABASE " + name + " TEMPLATE " + source);
  return name;
}

void PostgresServer::DropDatabase(const std::string& name) {
  PostgresExecute(Uri("postgres"), "DROP DATABASE IF EXISTS " + name + " WITH (FORCE)");
}

void PostgresServer::Crash() { primary_->Crash(); }

void PostgresServer::Start() { primary_->Start(); }

void PostgresServer::CrashStandby() {
  if (primary_->pid != 0 && !AwaitProcess([&] {
        return PostgresValue(PrimaryUri("postgres"),
                             "SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication") == "t";
      })) {
    throw std::runtime_error("the standby does not catch up: " + EndOfFile(standby_->log));
  }
  standby_->Crash();
}

void PostgresServer::StartStandby() {
  standby_->Start();
  if (primary_->pid == 0) return;
  const std::string wanted = options_.standby == Standby::kSynchronous ? "sync" : "async";
  if (!AwaitProcess([&] {
        return PostgresValue(PrimaryUri("postgres"),
                             "SELECT sync_state FROM pg_stat_replication "
                             "WHERE state = 'streaming'") == wanted;
      })) {
    throw std::runtime_error("the standby does not follow: " + EndOfFile(standby_->log));
  }
}

void PostgresServer::Promote() {
  PostgresExecute(StandbyUri("postgres"), "SELECT pg_promote(true, 60)");
  if (PostgresValue(StandbyUri("postgres"), "SELECT pg_is_in_recovery()") != "f") {
    throw std::runtime_error("the standby was not promoted: " + EndOfFile(standby_->log));
  }
}

PostgresDatabase::PostgresDatabase(PostgresServer& server)
    : server_(server), name_(server.CreateDatabase()) {}

PostgresDatabase::PostgresDatabase(PostgresServer& server, const std::string& template_name,
                                   const std::function<void(const std::string& uri)>& prepare)
    : server_(server), name_(server.CreateDatabase(template_name, prepare)) {}

PostgresDatabase::~PostgresDatabase() {
  try {
    server_.DropDatabase(name_);
  } catch (const std::exception&) {  // the test has ended the server
  }
}

void PostgresDatabase::Execute(const std::string& sql) const { PostgresExecute(uri(), sql); }

std::string PostgresDatabase::Value(const std::string& sql) const {
  return PostgresValue(uri(), sql);
}

void PostgresExecute(const std::string& uri, const std::string& sql) { PostgresValue(uri, sql); }

std::string PostgresValue(const std::string& uri, const std::string& sql) {
  const std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(uri.c_str()), &PQfinish);
  if (PQstatus(connection.get()) != CONNECTION_OK) {
    throw std::runtime_error(PQerrorMessage(connection.get()));
  }
  PQsetNoticeProcessor(connection.get(), [](void*, const char*) {}, nullptr);
  const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(connection.get(), sql.c_str()),
                                                             &PQclear);
  const ExecStatusType status = PQresultStatus(result.get());
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY) {
    throw std::runtime_error(PQresultErrorMessage(result.get()));
  }
  return PQntuples(result.get()) > 0 ? PQgetvalue(result.get(), 0, 0) : "";
}

}  // namespace tollhouse::testing
