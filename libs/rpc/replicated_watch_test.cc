// Two replicas over one database, as two processes would be.
#include "libs/rpc/replicated_watch.h"

#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libs/rpc/watch_client.h"
#include "libs/sql/open.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::rpc {
namespace {

using ledger::v1::LedgerService;
using ledger::v1::WatchRequest;
using ledger::v1::WatchResponse;
using testing::PostgresDatabase;
using testing::PostgresServer;
using Watch = ReplicatedWatch<WatchRequest, WatchResponse>;
using Client = WatchClient<WatchRequest, WatchResponse>;

constexpr absl::Duration kLong = absl::Seconds(30);

sql::Schema TestSchema() {
  return {.sqlite = {{1, sql::ChangeLogSchema(sql::Dialect::kSqlite)}},
          .postgres = {{1, sql::ChangeLogSchema(sql::Dialect::kPostgres)}}};
}

class Service final : public LedgerService::WithCallbackMethod_Watch<LedgerService::Service> {
 public:
  explicit Service(ReplicatedWatch<WatchRequest, WatchResponse>* watch) : watch_(watch) {}
  grpc::ServerBidiReactor<WatchRequest, WatchResponse>* Watch(
      grpc::CallbackServerContext* context) override {
    return watch_->Serve(context);
  }

 private:
  ReplicatedWatch<WatchRequest, WatchResponse>* const watch_;
};

struct Timing {
  absl::Duration poll = absl::Seconds(1);
  absl::Duration lease = absl::Seconds(3);
  absl::Duration max_staleness = absl::Seconds(30);
};

// One process: its connections, its watch, its server.
class Replica {
 public:
  Replica(const std::string& database, const std::string& name, Timing timing = {}) {
    auto opened = sql::OpenDatabase({.database = database}, TestSchema());
    EXPECT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    sql::ChangeFeedOptions options{.database = opened_.database.get(),
                                   .postgres = opened_.postgres,
                                   .replica = name,
                                   .poll = timing.poll,
                                   .lease = timing.lease,
                                   .max_staleness = timing.max_staleness};
    auto watch = Watch::Start(
        options,
        [] {
          WatchResponse snapshot;
          snapshot.set_snapshot(true);
          return snapshot;
        },
        Watch::Parse);
    EXPECT_TRUE(watch.ok()) << watch.status();
    watch_ = *std::move(watch);
    service_.emplace(watch_.get());
    grpc::ServerBuilder builder;
    builder.RegisterService(&*service_);
    server_ = builder.BuildAndStart();
    stub_ = LedgerService::NewStub(server_->InProcessChannel({}));
  }
  ~Replica() {
    watch_->Shutdown();
    server_->Shutdown();
  }

  absl::StatusOr<int64_t> Change(int64_t number) {
    int64_t version = 0;
    const absl::Status status =
        opened_.database->Write([&](sql::Connection& c) -> absl::Status {
          WatchResponse change;
          change.add_changed_account_ids(number);
          TH_ASSIGN_OR_RETURN(version, sql::AppendChange(c, change.SerializeAsString()));
          return absl::OkStatus();
        });
    TH_RETURN_IF_ERROR(status);
    return version;
  }

  Watch& watch() { return *watch_; }
  sql::Database& database() { return *opened_.database; }
  LedgerService::Stub* stub() { return stub_.get(); }

 private:
  sql::OpenedDatabase opened_;
  std::unique_ptr<Watch> watch_;
  std::optional<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<LedgerService::Stub> stub_;
};

// An edge: remembers what it was told.
class Edge {
 public:
  Edge(Replica& replica, const std::string& name) : Edge({replica.stub()}, name) {}
  // Subscribes at the first, then at the next one whenever it has to begin again.
  Edge(std::vector<LedgerService::Stub*> stubs, const std::string& name)
      : client_(
            name,
            [stubs, next = size_t{0}](grpc::ClientContext* context, Client::Reactor* reactor) mutable {
              stubs[next++ % stubs.size()]->async()->Watch(context, reactor);
            },
            [this](const WatchResponse& response) {
              absl::MutexLock lock(&mutex_);
              mutex_.Await(absl::Condition(&go_on_));
              if (response.snapshot()) {
                ++snapshots_;
                return;
              }
              for (const int64_t id : response.changed_account_ids()) seen_.push_back(id);
            },
            Clock::System()) {
    client_.Start();
    EXPECT_TRUE(client_.WaitSynced(kLong));
  }
  ~Edge() {
    Hold(false);
    client_.Stop();
  }

  void Hold(bool hold) {
    absl::MutexLock lock(&mutex_);
    go_on_ = !hold;
  }
  void Leave() { client_.Stop(); }
  std::vector<int64_t> seen() {
    absl::MutexLock lock(&mutex_);
    return seen_;
  }
  int snapshots() {
    absl::MutexLock lock(&mutex_);
    return snapshots_;
  }
  bool WaitFor(size_t changes) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return seen_.size() >= changes; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kLong);
  }
  bool WaitForSnapshots(int count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return snapshots_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kLong);
  }

 private:
  absl::Mutex mutex_;
  bool go_on_ = true;
  int snapshots_ = 0;
  std::vector<int64_t> seen_;
  Client client_;
};

class ReplicatedWatchTest : public ::testing::Test {
 protected:
  std::string uri() const { return database_.uri(); }

  PostgresDatabase database_{PostgresServer::Shared(), "watch", [](const std::string& uri) {
                               EXPECT_TRUE(
                                   sql::MigrateDatabase({.database = uri}, TestSchema()).ok());
                             }};
};

TEST_F(ReplicatedWatchTest, AChangeIsAtTheWatchersOfEveryReplicaWhenTheCallReturns) {
  Replica a(uri(), "a"), b(uri(), "b");
  Edge one(a, "edge/1"), two(b, "edge/2");
  const absl::Time start = absl::Now();
  for (int i = 0; i < 20; ++i) {
    const auto version = (i % 2 == 0 ? a : b).Change(i);
    ASSERT_TRUE(version.ok()) << version.status();
    const auto stragglers = (i % 2 == 0 ? a : b).watch().WaitAcknowledged(*version, kLong);
    EXPECT_TRUE(stragglers.empty()) << stragglers.front();
    EXPECT_EQ(one.seen().size(), i + 1u);
    EXPECT_EQ(two.seen().size(), i + 1u);
  }
  RecordProperty("ms_per_change", absl::ToInt64Milliseconds((absl::Now() - start) / 20));
  EXPECT_LT(absl::Now() - start, absl::Seconds(15));  // far below 20 polls
}

TEST_F(ReplicatedWatchTest, EveryWatcherSeesTheOrderOfCommits) {
  constexpr int kEach = 50;
  Replica a(uri(), "a"), b(uri(), "b");
  Edge one(a, "edge/1"), two(b, "edge/2");
  const auto write = [](Replica& replica, int first) {
    for (int i = 0; i < kEach; ++i) EXPECT_TRUE(replica.Change(first + i).ok());
  };
  std::thread other(write, std::ref(b), 1000);
  write(a, 0);
  other.join();
  ASSERT_TRUE(one.WaitFor(2 * kEach));
  ASSERT_TRUE(two.WaitFor(2 * kEach));
  EXPECT_EQ(one.seen(), two.seen());
  EXPECT_EQ(one.snapshots(), 1);
}

TEST_F(ReplicatedWatchTest, AStragglerAtAnotherReplicaIsNamed) {
  Replica a(uri(), "a"), b(uri(), "b");
  Edge one(a, "edge/1"), two(b, "edge/2");
  two.Hold(true);
  const auto version = a.Change(1);
  ASSERT_TRUE(version.ok());
  EXPECT_EQ(a.watch().WaitAcknowledged(*version, absl::Milliseconds(500)),
            std::vector<std::string>{"edge/2"});
  two.Hold(false);
  EXPECT_TRUE(a.watch().WaitAcknowledged(*version, kLong).empty());
}

TEST_F(ReplicatedWatchTest, AWatcherThatLeavesIsNoLongerWaitedFor) {
  Replica a(uri(), "a"), b(uri(), "b");
  {
    Edge two(b, "edge/2");
    two.Leave();
  }
  EXPECT_TRUE(a.watch().WaitAcknowledged(*a.Change(1), kLong).empty());
}

TEST_F(ReplicatedWatchTest, AReplicaThatEndsIsNoLongerWaitedFor) {
  Replica a(uri(), "a");
  std::optional<Replica> b(std::in_place, uri(), "b");
  EXPECT_TRUE(a.watch().WaitAcknowledged(*a.Change(1), kLong).empty());
  b.reset();
  EXPECT_TRUE(a.watch().WaitAcknowledged(*a.Change(2), kLong).empty());
  EXPECT_EQ(database_.Value("SELECT string_agg(name, ',') FROM change_replica"), "a");
}

// What a killed process leaves behind: its row, no longer refreshed.
TEST_F(ReplicatedWatchTest, AReplicaThatIsKilledBlocksNobodyForLongerThanItsLease) {
  Replica a(uri(), "a", {.lease = absl::Seconds(1)});
  Edge one(a, "edge/1");
  database_.Execute(
      "INSERT INTO change_replica VALUES ('b', 1, 'edge/2', "
      "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint)");
  const auto version = a.Change(1);
  ASSERT_TRUE(version.ok());
  const absl::Time start = absl::Now();
  const auto stragglers = a.watch().WaitAcknowledged(*version, absl::Seconds(60));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
  ASSERT_EQ(stragglers.size(), 1u);
  EXPECT_EQ(stragglers[0].substr(0, 20), "replica b (silent fo");
  // It may be there again, with its watchers.
  Replica b(uri(), "b", {.lease = absl::Seconds(1)});
  EXPECT_TRUE(a.watch().WaitAcknowledged(*version, kLong).empty());
}

TEST_F(ReplicatedWatchTest, WhatNobodyWasNotifiedOfIsFoundByLooking) {
  Replica a(uri(), "a", {.poll = absl::Milliseconds(50)});
  Edge one(a, "edge/1");
  // The second replica's notifications go nowhere.
  database_.Execute(
      "CREATE SCHEMA quiet; CREATE FUNCTION quiet.pg_notify(text, text) RETURNS void LANGUAGE sql "
      "AS ''; ALTER ROLE tollhouse IN DATABASE " +
      database_.name() + " SET search_path = quiet, pg_catalog, public");
  Replica b(uri(), "b");
  ASSERT_TRUE(b.Change(7).ok());
  ASSERT_TRUE(one.WaitFor(1));
  EXPECT_EQ(one.seen(), std::vector<int64_t>{7});
}

TEST_F(ReplicatedWatchTest, AfterALostConnectionNothingIsMissing) {
  Replica a(uri(), "a"), b(uri(), "b");
  Edge one(a, "edge/1");
  ASSERT_TRUE(b.Change(1).ok());
  ASSERT_TRUE(one.WaitFor(1));
  database_.Execute(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
      "AND pid <> pg_backend_pid()");
  for (int i = 2; i <= 5; ++i) {
    absl::StatusOr<int64_t> version = b.Change(i);
    while (!version.ok()) version = b.Change(i);  // connections of the pool that have died
  }
  ASSERT_TRUE(one.WaitFor(5));
  EXPECT_EQ(one.seen(), (std::vector<int64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(one.snapshots(), 1);
}

TEST_F(ReplicatedWatchTest, AReplicaThatIsCutOffAloneGivesItsWatchersToOthers) {
  const std::string role = database_.name() + "_cut";
  database_.Execute("CREATE ROLE " + role + " SUPERUSER LOGIN");
  std::string its_uri = uri();
  its_uri.replace(its_uri.find("tollhouse@"), 9, role);
  Replica a(its_uri, "a", {.poll = absl::Milliseconds(20), .max_staleness = absl::Milliseconds(200)});
  Replica b(uri(), "b");
  Edge one({a.stub(), b.stub()}, "edge/1");
  Edge two({a.stub(), a.stub()}, "edge/2");
  database_.Execute("ALTER ROLE " + role + " NOLOGIN");
  database_.Execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + role + "'");
  ASSERT_TRUE(one.WaitForSnapshots(2));  // at the other
  ASSERT_TRUE(b.Change(7).ok());
  ASSERT_TRUE(one.WaitFor(1));
  EXPECT_EQ(two.snapshots(), 1);
  database_.Execute("ALTER ROLE " + role + " LOGIN");
  ASSERT_TRUE(two.WaitForSnapshots(2));  // with the change in it, or before it
  EXPECT_TRUE(b.watch().WaitAcknowledged(*b.Change(8), kLong).empty());
  for (Edge* const edge : {&one, &two}) EXPECT_EQ(edge->seen().back(), 8);
  database_.Execute("ALTER ROLE " + role + " NOLOGIN");
}

TEST_F(ReplicatedWatchTest, WhereChangesWereDroppedEverybodyStartsAgain) {
  Replica a(uri(), "a", {.poll = absl::Milliseconds(50)});
  Edge one(a, "edge/1");
  // Unheard of for long: what it lacks is no longer in the log.
  database_.Execute("UPDATE change_head SET version = version + 100");
  ASSERT_TRUE(one.WaitForSnapshots(2));
  EXPECT_TRUE(a.watch().WaitAcknowledged(*a.Change(1), kLong).empty());
  ASSERT_TRUE(one.WaitFor(1));
}

TEST(ReplicatedWatchFailover, WhateverThePromotedServerLostEverybodyStartsAgain) {
  PostgresServer server({.standby = PostgresServer::Standby::kAsynchronous});
  const PostgresDatabase database(server);
  ASSERT_TRUE(sql::MigrateDatabase({.database = database.uri()}, TestSchema()).ok());
  Replica a(database.uri(), "a", {.poll = absl::Milliseconds(50)});
  Edge one(a, "edge/1");
  ASSERT_TRUE(a.watch().WaitAcknowledged(*a.Change(1), kLong).empty());
  server.CrashStandby();
  ASSERT_TRUE(a.watch().WaitAcknowledged(*a.Change(2), kLong).empty());  // this one will be lost
  server.Crash();
  server.StartStandby();
  server.Promote();
  absl::StatusOr<int64_t> version = a.Change(3);  // gets the number of the lost one
  for (int i = 0; i < 100 && !version.ok(); ++i) version = a.Change(3);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_TRUE(a.watch().WaitAcknowledged(*version, kLong).empty());
  ASSERT_TRUE(one.WaitForSnapshots(2));
  EXPECT_THAT(one.seen(), ::testing::AnyOf(std::vector<int64_t>{1, 2}, std::vector<int64_t>{1, 2, 3}));
}

TEST(ReplicatedWatchAlone, SqliteNeedsNobodyElse) {
  const testing::TempDir dir;
  Replica a("sqlite:" + dir.File("a.db"), "");
  Edge one(a, "edge/1");
  const auto version = a.Change(1);
  ASSERT_TRUE(version.ok());
  EXPECT_TRUE(a.watch().WaitAcknowledged(*version, kLong).empty());
  EXPECT_EQ(one.seen(), std::vector<int64_t>{1});
}

}  // namespace
}  // namespace tollhouse::rpc
