// A real PostgreSQL 15 for tests: in a temporary directory, on a free loopback port, as a user
// without rights, gone with the test's process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libs/testing/temp_dir.h"

namespace tollhouse::testing {

// The first one on a machine runs initdb into TMPDIR (seconds); every other one copies that (well
// below a second). Throws std::runtime_error, with the end of the server's log, when something
// fails. Thread-safe but for Crash, Start, Promote and the standby's; those are called on a thread
// that lives as long as the server (the kernel ends servers whose starting thread has ended).
class PostgresServer {
 public:
  enum class Standby { kNone, kSynchronous, kAsynchronous };
  struct Options {
    bool fsync = false;  // true where what survives a crash of the machine is measured
    Standby standby = Standby::kNone;
    std::vector<std::string> settings;  // "name=value", as in postgresql.conf
  };

  // Returns when it accepts connections, and a standby follows it.
  PostgresServer() : PostgresServer(Options{}) {}
  explicit PostgresServer(Options options);
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // The one that the stores' suites of a process share; started at first use.
  static PostgresServer& Shared();

  // A libpq URI of the superuser `tollhouse`, without password. Where there is a standby it names
  // both addresses and asks for the one that accepts writes.
  std::string Uri(std::string_view database) const;
  // Of one server alone.
  std::string PrimaryUri(std::string_view database) const;
  std::string StandbyUri(std::string_view database) const;
  int port() const;

  // A new, empty database.
  std::string CreateDatabase();
  // A copy of the database that `prepare` filled, which is called once per server and name (with
  // the URI of an empty database, to which no connection may remain).
  std::string CreateDatabase(const std::string& template_name,
                             const std::function<void(const std::string& uri)>& prepare);
  void DropDatabase(const std::string& name);

  // Ends every process of the primary at once, without a checkpoint. Connections break.
  void Crash();
  // Starts the primary again, on the same port.
  void Start();
  // The same for the standby, which has first got what was committed until then. What is committed
  // while it is down is lost by a Promote, if asynchronous.
  void CrashStandby();
  void StartStandby();
  // Makes a primary of the standby, on the next timeline. The old one keeps running unless it was
  // ended before: a zombie.
  void Promote();

 private:
  struct Instance;
  struct Templates;

  const Options options_;
  TempDir dir_;
  const std::unique_ptr<Templates> templates_;
  std::unique_ptr<Instance> primary_;
  std::unique_ptr<Instance> standby_;
};

// A database as long as a test lives.
class PostgresDatabase {
 public:
  explicit PostgresDatabase(PostgresServer& server = PostgresServer::Shared());
  // A copy, see PostgresServer::CreateDatabase.
  PostgresDatabase(PostgresServer& server, const std::string& template_name,
                   const std::function<void(const std::string& uri)>& prepare);
  // Drops it, and whoever is connected.
  ~PostgresDatabase();
  PostgresDatabase(const PostgresDatabase&) = delete;
  PostgresDatabase& operator=(const PostgresDatabase&) = delete;

  const std::string& name() const { return name_; }
  std::string uri() const { return server_.Uri(name_); }
  // Runs statements; throws what the server says if it refuses.
  void Execute(const std::string& sql) const;
  // The first column of the first row as text, "" if there is none.
  std::string Value(const std::string& sql) const;

 private:
  PostgresServer& server_;
  const std::string name_;
};

// The same on any server. `uri` as libpq takes it.
void PostgresExecute(const std::string& uri, const std::string& sql);
std::string PostgresValue(const std::string& uri, const std::string& sql);

}  // namespace tollhouse::testing
