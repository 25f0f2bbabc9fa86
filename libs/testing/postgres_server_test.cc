#include "libs/testing/postgres_server.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace tollhouse::testing {
namespace {

TEST(PostgresServer, EachDatabaseIsItsOwnAndGoesAway) {
  PostgresDatabase one;
  std::string name;
  {
    const PostgresDatabase two;
    name = two.name();
    one.Execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)");
    EXPECT_EQ(one.Value("SELECT x FROM t"), "7");
    EXPECT_EQ(two.Value("SELECT to_regclass('t')"), "");
  }
  EXPECT_EQ(one.Value("SELECT count(*) FROM pg_database WHERE datname = '" + name + "'"), "0");
}

TEST(PostgresServer, ATemplateIsPreparedOnce) {
  int prepared = 0;
  const auto prepare = [&](const std::string& uri) {
    ++prepared;
    PostgresExecute(uri, "CREATE TABLE seeds (x int); INSERT INTO seeds VALUES (1)");
  };
  PostgresServer& server = PostgresServer::Shared();
  const PostgresDatabase one(server, "seeds", prepare);
  const PostgresDatabase two(server, "seeds", prepare);
  EXPECT_EQ(prepared, 1);
  one.Execute("DELETE FROM seeds");
  EXPECT_EQ(two.Value("SELECT count(*) FROM seeds"), "1");
}

TEST(PostgresServer, ACrashLosesNoCommitAndKeepsThePort) {
  PostgresServer server;
  const PostgresDatabase database(server);
  database.Execute("CREATE TABLE t AS SELECT 1 AS x");
  const int port = server.port();
  server.Crash();
  EXPECT_THROW(database.Value("SELECT 1"), std::runtime_error);
  server.Start();
  EXPECT_EQ(server.port(), port);
  EXPECT_EQ(database.Value("SELECT x FROM t"), "1");
}

TEST(PostgresServer, APromotedSynchronousStandbyHasEverything) {
  PostgresServer server({.standby = PostgresServer::Standby::kSynchronous});
  const PostgresDatabase database(server);
  database.Execute("CREATE TABLE t AS SELECT 1 AS x");
  server.Crash();
  server.Promote();
  EXPECT_EQ(database.Value("SELECT x FROM t"), "1");
  EXPECT_EQ(database.Value("SELECT timeline_id FROM pg_control_checkpoint()"), "1");
  database.Execute("CHECKPOINT");
  EXPECT_EQ(database.Value("SELECT timeline_id FROM pg_control_checkpoint()"), "2");
}

TEST(PostgresServer, APromotedAsynchronousStandbyHasLostWhatItDidNotGet) {
  PostgresServer server({.standby = PostgresServer::Standby::kAsynchronous});
  const PostgresDatabase database(server);
  server.CrashStandby();
  PostgresExecute(server.PrimaryUri(database.name()), "CREATE TABLE t AS SELECT 1 AS x");
  server.Crash();
  server.StartStandby();
  server.Promote();
  EXPECT_EQ(database.Value("SELECT to_regclass('t')"), "");
}

}  // namespace
}  // namespace tollhouse::testing
