// What only PostgreSQL can be tested for: servers that are away, slow, read-only; unknown commits.
#include "libs/sql/postgres.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/base/error.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::sql {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr Migration kSchema[] = {{1, "CREATE TABLE t (k BIGINT PRIMARY KEY, v TEXT)"}};

// Between a client and a server; once armed it cuts a connection around the next COMMIT.
class Gate {
 public:
  enum class Cut { kBeforeCommit, kAfterCommit, kStallAtCommit };

  Gate(int port, Cut cut) : server_port_(port), cut_(cut) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = Loopback(0);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    socklen_t size = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] {
      for (;;) {
        const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (client < 0) return;
        relays_.emplace_back([this, client] { Relay(client); });
      }
    });
  }
  ~Gate() {
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (std::thread& relay : relays_) relay.join();
    close(listener_);
  }

  int port() const { return port_; }
  void Arm() { armed_ = true; }

 private:
  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return address;
  }

  void Relay(int client) {
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = Loopback(server_port_);
    if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      RelayBoth(client, server);
    }
    close(client);
    close(server);
  }

  void RelayBoth(int client, int server) {
    bool committing = false;
    while (!stopping_) {
      pollfd fds[] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
      poll(fds, 2, 20);
      char buffer[16384];
      if (fds[0].revents != 0) {
        const ssize_t n = recv(client, buffer, sizeof(buffer), 0);
        if (n <= 0) return;
        const bool commit = std::string_view(buffer, n).find("COMMIT") != std::string_view::npos;
        if (commit && armed_.exchange(false)) {
          if (cut_ == Cut::kBeforeCommit) return;
          committing = true;
        }
        if (send(server, buffer, n, MSG_NOSIGNAL) != n) return;
      }
      if (fds[1].revents != 0) {
        const ssize_t n = recv(server, buffer, sizeof(buffer), 0);
        if (n <= 0) return;
        if (committing) {  // the answer is lost
          if (cut_ == Cut::kAfterCommit) return;
          continue;
        }
        if (send(client, buffer, n, MSG_NOSIGNAL) != n) return;
      }
    }
  }

  const int server_port_;
  const Cut cut_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> armed_ = false;
  std::thread accepting_;
  std::vector<std::thread> relays_;
};

class PostgresTest : public ::testing::Test {
 protected:
  PostgresTest() { EXPECT_TRUE(MigratePostgres({.uri = postgres_.uri()}, kSchema).ok()); }

  static std::unique_ptr<Database> Open(PostgresOptions options) {
    auto opened = OpenPostgres(std::move(options), kSchema);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  std::unique_ptr<Database> Open() { return Open({.uri = postgres_.uri()}); }

  // The URI through another port.
  std::string Through(int port) const {
    return absl::StrReplaceAll(postgres_.uri(), {{absl::StrCat(":", server().port()),
                                                  absl::StrCat(":", port)}});
  }

  static testing::PostgresServer& server() { return testing::PostgresServer::Shared(); }

  static absl::Status Insert(Database& db, int64_t k) {
    return db.Write([k](Connection& c) {
      return c.Execute("INSERT INTO t VALUES (?1, 'x') ON CONFLICT (k) DO NOTHING", k).status();
    });
  }

  std::string Count() const { return postgres_.Value("SELECT count(*) FROM t"); }

  testing::PostgresDatabase postgres_;
};

TEST_F(PostgresTest, ACommitWhoseAnswerIsLostIsUnknownAndTheKeyResolvesIt) {
  for (const Gate::Cut cut : {Gate::Cut::kBeforeCommit, Gate::Cut::kAfterCommit}) {
    postgres_.Execute("TRUNCATE t");
    Gate gate(server().port(), cut);
    const auto db = Open({.uri = Through(gate.port())});
    gate.Arm();
    const absl::Status status = Insert(*db, 1);
    EXPECT_EQ(ReasonOf(status), "SQL_COMMIT_UNKNOWN") << status;
    if (cut == Gate::Cut::kBeforeCommit) {
      EXPECT_EQ(Count(), "0");
    }
    // Who does not know asks again with the same key: exactly once either way.
    EXPECT_TRUE(Insert(*db, 1).ok());
    EXPECT_EQ(Count(), "1");
  }
}

TEST_F(PostgresTest, AServerThatDoesNotAnswerLosesTheConnection) {
  Gate gate(server().port(), Gate::Cut::kStallAtCommit);
  const auto db = Open({.uri = Through(gate.port()),
                        .statement_timeout = absl::Milliseconds(100),
                        .answer_grace = absl::Milliseconds(200)});
  gate.Arm();
  EXPECT_EQ(ReasonOf(Insert(*db, 1)), "SQL_COMMIT_UNKNOWN");
}

TEST_F(PostgresTest, ALossBeforeCommitIsNoCommit) {
  const auto db = Open();
  const absl::Status status = db->Write([&](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t VALUES (1, 'x')").status());
    postgres_.Execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                      "application_name = 'tollhouse' AND datname = current_database()");
    return c.Execute("INSERT INTO t VALUES (2, 'x')").status();
  });
  EXPECT_EQ(ReasonOf(status), "SQL_UNAVAILABLE") << status;
  EXPECT_EQ(Count(), "0");
  EXPECT_TRUE(Insert(*db, 1).ok());
}

TEST_F(PostgresTest, ConnectionsThatWereCutWhileTheyRestedAreReplaced) {
  const auto db = Open();
  EXPECT_TRUE(Insert(*db, 1).ok());
  postgres_.Execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "application_name = 'tollhouse' AND datname = current_database()");
  EXPECT_TRUE(Insert(*db, 2).ok());
  EXPECT_EQ(Count(), "2");
}

TEST_F(PostgresTest, AServerThatIsAwayIsUnavailableAndComesBack) {
  testing::PostgresServer own{{}};
  const std::string uri = own.Uri(own.CreateDatabase());
  ASSERT_TRUE(MigratePostgres({.uri = uri}, kSchema).ok());
  const auto db = Open({.uri = uri});
  EXPECT_TRUE(Insert(*db, 1).ok());
  own.Crash();
  EXPECT_EQ(ReasonOf(Insert(*db, 2)), "SQL_UNAVAILABLE");
  EXPECT_EQ(ReasonOf(OpenPostgres({.uri = uri}, kSchema).status()), "SQL_UNAVAILABLE");
  own.Start();
  EXPECT_TRUE(Insert(*db, 2).ok());
}

TEST_F(PostgresTest, SlowStatementsAndLocksAreGivenUp) {
  const auto db = Open({.uri = postgres_.uri(),
                        .statement_timeout = absl::Milliseconds(300),
                        .lock_timeout = absl::Milliseconds(50)});
  EXPECT_EQ(ReasonOf(db->Write([](Connection& c) { return c.Query("SELECT pg_sleep(60)").status(); })),
            "SQL_TIMEOUT");
  ASSERT_TRUE(Insert(*db, 1).ok());
  const absl::Status outer = db->Write([&](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("UPDATE t SET v = 'y'").status());
    EXPECT_EQ(ReasonOf(db->Write([](Connection& other) {
      return other.Execute("UPDATE t SET v = 'z'").status();
    })), "SQL_BUSY");
    return absl::OkStatus();
  });
  EXPECT_TRUE(outer.ok()) << outer;
}

TEST_F(PostgresTest, ThePoolIsBounded) {
  const auto db = Open({.uri = postgres_.uri(), .connections = 1, .acquire_timeout = absl::Milliseconds(20)});
  const absl::Status outer = db->Write([&](Connection&) {
    EXPECT_EQ(ReasonOf(db->Read([](Connection&) { return absl::OkStatus(); })), "SQL_BUSY");
    return absl::OkStatus();
  });
  EXPECT_TRUE(outer.ok()) << outer;
}

TEST_F(PostgresTest, DeadlocksAreTriedAgain) {
  const auto db = Open({.uri = postgres_.uri(), .isolation = Isolation::kReadCommitted});
  ASSERT_TRUE(Insert(*db, 1).ok());
  ASSERT_TRUE(Insert(*db, 2).ok());
  postgres_.Execute("ALTER DATABASE " + postgres_.name() + " SET deadlock_timeout = '10ms'");
  const auto again = Open({.uri = postgres_.uri(), .isolation = Isolation::kReadCommitted});
  std::atomic<int> runs = 0;
  std::atomic<int> first_locks = 0;
  const auto both = [&](int64_t first, int64_t second) {
    return again->Write([&, first, second](Connection& c) -> absl::Status {
      ++runs;
      TH_RETURN_IF_ERROR(c.Execute("UPDATE t SET v = v || 'y' WHERE k = ?1", first).status());
      for (++first_locks; first_locks < 2;) std::this_thread::yield();
      return c.Execute("UPDATE t SET v = v || 'y' WHERE k = ?1", second).status();
    });
  };
  std::thread other([&] { EXPECT_TRUE(both(2, 1).ok()); });
  EXPECT_TRUE(both(1, 2).ok());
  other.join();
  EXPECT_GE(runs, 3);
  EXPECT_EQ(postgres_.Value("SELECT count(*) FROM t WHERE v = 'xyy'"), "2");
}

TEST_F(PostgresTest, AnErrorThatTheBodySwallowedIsNotACommit) {
  const auto db = Open();
  EXPECT_EQ(ReasonOf(db->Write([](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t VALUES (1, 'x')").status());
    c.Execute("INSERT INTO t VALUES (1, 'x')").IgnoreError();
    return absl::OkStatus();
  })), "SQL_CONSTRAINT_UNIQUE");
  EXPECT_EQ(Count(), "0");
}

TEST_F(PostgresTest, ReadOnlyServersAreRefused) {
  const auto db = Open();
  EXPECT_TRUE(Insert(*db, 1).ok());
  postgres_.Execute("ALTER DATABASE " + postgres_.name() + " SET default_transaction_read_only = on");
  EXPECT_EQ(ReasonOf(OpenPostgres({.uri = postgres_.uri()}, kSchema).status()), "SQL_READ_ONLY");
  EXPECT_EQ(ReasonOf(db->Write([](Connection& c) {  // as on a primary that was demoted under it
    TH_RETURN_IF_ERROR(c.ExecuteScript("SET TRANSACTION READ ONLY"));
    return c.Execute("INSERT INTO t VALUES (2, 'x')").status();
  })), "SQL_READ_ONLY");
}

TEST_F(PostgresTest, MigrationsAreAppliedOnceByTwoAtOnceAndDemanded) {
  const testing::PostgresDatabase fresh;
  const Migration steps[] = {{1, "CREATE TABLE a (n BIGINT)"}, {2, "INSERT INTO a VALUES (1)"}};
  const PostgresOptions options{.uri = fresh.uri()};
  EXPECT_EQ(ReasonOf(OpenPostgres(options, steps).status()), "SCHEMA_OLD");
  std::thread other([&] { EXPECT_TRUE(MigratePostgres(options, steps).ok()); });
  EXPECT_TRUE(MigratePostgres(options, steps).ok());
  other.join();
  EXPECT_TRUE(MigratePostgres(options, steps).ok());
  EXPECT_EQ(fresh.Value("SELECT count(*) FROM a"), "1");
  EXPECT_TRUE(OpenPostgres(options, steps).ok());
  EXPECT_EQ(ReasonOf(MigratePostgres(options, std::span(steps).first(1))), "SCHEMA_NEW");
  const Migration broken[] = {steps[0], steps[1], {3, "INSERT INTO a VALUES (2); nonsense"}};
  EXPECT_FALSE(MigratePostgres(options, broken).ok());
  EXPECT_EQ(fresh.Value("SELECT count(*) FROM a"), "1");
}

TEST_F(PostgresTest, AnAsynchronousServerIsWarnedOfOnce) {
  ::testing::internal::CaptureStderr();
  {
    const auto db = Open();
    EXPECT_TRUE(db->Write([&](Connection&) { return Insert(*db, 1); }).ok());  // two connections
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  const size_t first = log.find("postgres_asynchronous");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(log.find("postgres_asynchronous", first + 1), std::string::npos);
}

TEST_F(PostgresTest, PasswordsComeFromAFileAndAppearNowhere) {
  const testing::TempDir dir;
  std::ofstream(dir.File("password")) << "s3cret\n";
  const std::string with = absl::StrReplaceAll(postgres_.uri(), {{"tollhouse@", "tollhouse:s3cret@"}});
  const absl::Status refused = OpenPostgres({.uri = with}, kSchema).status();
  EXPECT_EQ(ReasonOf(refused), "BAD_CONFIG");
  EXPECT_THAT(refused.ToString(), Not(HasSubstr("s3cret")));
  EXPECT_TRUE(OpenPostgres({.uri = postgres_.uri(), .password_file = dir.File("password")}, kSchema).ok());
  const absl::Status missing =
      OpenPostgres({.uri = postgres_.uri(), .password_file = dir.File("none")}, kSchema).status();
  EXPECT_THAT(missing.ToString(), HasSubstr("cannot read the database's password"));
  const std::string nobody = absl::StrReplaceAll(postgres_.uri(), {{"tollhouse@", "nobody@"}});
  const absl::Status wrong =
      OpenPostgres({.uri = nobody, .password_file = dir.File("password")}, kSchema).status();
  EXPECT_EQ(ReasonOf(wrong), "SQL_UNAVAILABLE");
  EXPECT_THAT(wrong.ToString(), Not(HasSubstr("s3cret")));
}

TEST_F(PostgresTest, EachConnectionIsCheckedBeforeItsFirstUse) {
  bool fits = true;
  int checks = 0;
  const auto db = Open({.uri = postgres_.uri(), .on_connect = [&](Connection& c) -> absl::Status {
                          ++checks;
                          TH_RETURN_IF_ERROR(c.Query("SELECT 1 FROM t").status());
                          return fits ? absl::OkStatus() : absl::AbortedError("another timeline");
                        }});
  EXPECT_TRUE(Insert(*db, 1).ok());
  EXPECT_EQ(checks, 1);
  fits = false;
  EXPECT_TRUE(Insert(*db, 2).ok());
  const absl::Status outer = db->Write([&](Connection&) { return Insert(*db, 3); });
  EXPECT_EQ(outer.code(), absl::StatusCode::kAborted) << outer;
  EXPECT_EQ(Count(), "2");
}

TEST_F(PostgresTest, TheUrisOptionsReachTheServer) {
  const std::string joint = postgres_.uri().find('?') == std::string::npos ? "?" : "&";
  // The test's server has no TLS.
  const absl::Status tls =
      OpenPostgres({.uri = postgres_.uri() + joint + "sslmode=require"}, kSchema).status();
  EXPECT_EQ(ReasonOf(tls), "SQL_UNAVAILABLE");
  EXPECT_THAT(tls.ToString(), HasSubstr("SSL"));
  for (const char* bad : {"", "sqlite:x", "postgresql://[", "host=localhost", "postgresql://a/b?colour=red"}) {
    EXPECT_EQ(ReasonOf(OpenPostgres({.uri = bad}, kSchema).status()), "BAD_CONFIG") << bad;
  }
  EXPECT_EQ(PostgresAddress("postgresql://u@db.example:5432/ledger?sslmode=require"),
            "db.example:5432/ledger");
}

TEST_F(PostgresTest, NulInTextIsReplacedTheSameWayEachTime) {
  const auto db = Open();
  const std::string_view text("a\0b", 3);
  ASSERT_TRUE(db->Write([&](Connection& c) -> absl::Status {
                  TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t VALUES (1, ?1)", text).status());
                  const auto rows = c.Insert("t", {"k", "v"});
                  rows->Int(2);
                  rows->Text(text);
                  rows->EndRow();
                  return rows->Finish();
                }).ok());
  EXPECT_EQ(postgres_.Value("SELECT count(*) FROM t WHERE v = E'a\\uFFFDb'"), "2");
}

}  // namespace
}  // namespace tollhouse::sql
