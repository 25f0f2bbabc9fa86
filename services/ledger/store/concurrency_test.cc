// Two ledgers on one PostgreSQL database, several threads each, on the same orgs, budgets and holds.
// Nothing may fail but what the API says, every hold is posted once, and the audit agrees afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/seed.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::IsEmpty;

constexpr int kThreads = 6;
constexpr int kStepsPerThread = 60;
constexpr int kHolds = 400;
constexpr int64_t kHold = 100;

class World {
 public:
  explicit World(uint64_t seed) : seed_(seed), home_(sql::Dialect::kPostgres) {
    for (auto& replica : replicas_) {
      auto opened = sql::OpenDatabase(home_.settings(), StoreSchema());
      EXPECT_TRUE(opened.ok()) << opened.status();
      replica.database = *std::move(opened);
      auto store = SqlStore::Open(replica.database.database.get(), &clock_);
      EXPECT_TRUE(store.ok()) << store.status();
      replica.store = *std::move(store);
    }
    for (const std::string org : {"acme", "bolt"}) {
      Org& made = orgs_.emplace_back();
      for (const std::string& path : {org, org + "/team", org + "/team/user"}) {
        v1::CreateAccountRequest request;
        request.set_path(path);
        request.set_kind(static_cast<common::v1::AccountKind>(made.path.size() + 1));
        int64_t version = 0;
        made.path.push_back(store(0).CreateAccount(nullptr, request, &version)->account().id());
        BudgetSpec spec;
        spec.path = path;
        spec.limit_nanos = 50'000;
        made.budgets.push_back(store(0).SetBudget(nullptr, spec, &version)->budget());
      }
      NewEpoch(store(0), made, 0);
    }
    std::mt19937_64 random(seed);
    for (int i = 0; i < kHolds; ++i) {
      const Org& org = orgs_[random() % 2];
      v1::Entry& entry = entries_.emplace_back();
      entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
      entry.set_kind(v1::ENTRY_KIND_SETTLE);
      for (const int64_t id : org.path) entry.add_account_ids(id);
      entry.set_epoch(1);
      entry.set_edge_id(absl::StrCat("edge-", random() % 2));
      entry.set_hold_nanousd(kHold);
      entry.set_cost_nanousd(static_cast<int64_t>(random() % (kHold + 1)));
      entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(clock_.Wall()));
      for (const v1::Budget& budget : org.budgets) {
        common::v1::HeldBudget& held = *entry.add_budgets();
        held.set_budget_id(budget.budget_id());
        held.set_period(budget.period());
        held.set_amount_nanousd(kHold);
      }
    }
  }

  void Run() {
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { RunThread(i); });
    for (std::thread& thread : threads) thread.join();
    // Whatever nobody happened to post.
    for (const v1::Entry& entry : entries_) Post(store(0), {&entry});
  }

  void Check() {
    int64_t expected = 0;
    for (const v1::Entry& entry : entries_) {
      EXPECT_EQ(posted_[entry.hold_id()], 1);
      expected += entry.cost_nanousd();
    }
    EXPECT_EQ(store(1).GetSpend({})->total().cost_nanousd(), expected);
    v1::VerifyLedgerProgress last;
    EXPECT_TRUE(store(1)
                    .Verify({},
                            [&](const v1::VerifyLedgerProgress& progress) {
                              last = progress;
                              return true;
                            })
                    .ok());
    EXPECT_THAT(last.problems(), IsEmpty());
    // I1 and I2 in the database's own words.
    EXPECT_EQ(home_.postgres().Value("SELECT count(*) FROM budget_rows WHERE avail + leased + suspense + "
                                     "spent <> cap + overrun OR least(avail, leased, suspense, spent, "
                                     "overrun) < 0"),
              "0");
    EXPECT_EQ(home_.postgres().Value("SELECT count(*) FROM (SELECT 1 FROM grants GROUP BY org_id, epoch "
                                     "HAVING count(*) <> max(grant_id)) x"),
              "0");
  }

 private:
  struct Replica {
    sql::OpenedDatabase database;
    std::unique_ptr<SqlStore> store;
  };
  struct Org {
    std::vector<int64_t> path;
    std::vector<v1::Budget> budgets;
  };
  using Random = std::mt19937_64;

  SqlStore& store(int replica) { return *replicas_[replica].store; }

  // An error that the API promises, or none.
  static void Expect(const absl::Status& status, std::initializer_list<std::string_view> reasons) {
    if (status.ok()) return;
    for (const std::string_view reason : reasons) {
      if (ReasonOf(status) == reason) return;
    }
    ADD_FAILURE() << status;
  }

  void RunThread(int thread) {
    Random random(seed_ * 1000 + thread);
    SqlStore& mine = store(thread % 2);
    for (int step = 0; step < kStepsPerThread && !::testing::Test::HasFailure(); ++step) {
      Org& org = orgs_[random() % orgs_.size()];
      switch (random() % 14) {
        case 0:
        case 1:
        case 2:
        case 3:
          PostSome(mine, random);
          break;
        case 4:
        case 5:
          Lease(mine, org, random);
          break;
        case 6:
          Return(mine, org, random);
          break;
        case 7:
          Expire(mine, org, random);
          break;
        case 8:
          if (random() % 4 == 0) NewEpoch(mine, org, epoch(org));
          break;
        case 9:
          Announce(mine, org, random);
          break;
        case 10:
          SetBudget(mine, org, random);
          break;
        case 11:
          SuspendOne(mine, random);
          break;
        case 12:
          Expect(mine.ResolveOldSuspense(clock_.Wall() - absl::Seconds(random() % 2)).status(), {});
          break;
        default:
          CreateSomething(mine, random);
      }
    }
  }

  int64_t epoch(const Org& org) {
    absl::MutexLock lock(&mutex_);
    return epochs_[org.path[0]];
  }

  void NewEpoch(SqlStore& s, const Org& org, int64_t expected) {
    v1::RegisterEpochRequest request;
    request.set_org_id(org.path[0]);
    request.set_expected_epoch(expected);
    request.set_incarnation(absl::StrCat("memory-", expected + 1));
    int64_t version = 0;
    const auto registered = s.RegisterEpoch(request, &version);
    Expect(registered.status(), {"EPOCH_MOVED"});
    if (!registered.ok()) return;
    {
      absl::MutexLock lock(&mutex_);
      epochs_[org.path[0]] = std::max(epochs_[org.path[0]], *registered);
    }
    for (const char* edge : {"edge-0", "edge-1"}) {
      v1::RegisterEdgeRequest join;
      join.set_org_id(org.path[0]);
      join.set_epoch(*registered);
      join.set_edge_id(edge);
      Expect(s.RegisterEdge(join), {"EPOCH_CLOSED"});
    }
  }

  void Post(SqlStore& s, std::vector<const v1::Entry*> entries) {
    const auto results = s.Post(entries);
    Expect(results.status(), {});
    if (!results.ok()) return;
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < entries.size(); ++i) {
      const v1::PostResult& result = (*results)[i];
      if (result.outcome() == v1::POST_OUTCOME_POSTED) {
        ++posted_[entries[i]->hold_id()];
      } else {
        EXPECT_EQ(result.outcome(), v1::POST_OUTCOME_DUPLICATE) << result.message();
      }
    }
  }

  void PostSome(SqlStore& s, Random& random) {
    std::vector<const v1::Entry*> batch;
    for (int i = 0, count = 1 + static_cast<int>(random() % 30); i < count; ++i) {
      batch.push_back(&entries_[random() % entries_.size()]);
    }
    Post(s, batch);
  }

  void SuspendOne(SqlStore& s, Random& random) {
    v1::Entry entry = entries_[random() % entries_.size()];
    entry.set_kind(v1::ENTRY_KIND_SUSPEND);
    const v1::Entry* const alone[] = {&entry};
    Expect(s.Post(alone).status(), {});
  }

  void Lease(SqlStore& s, const Org& org, Random& random) {
    v1::GrantLeaseRequest request;
    request.set_org_id(org.path[0]);
    request.set_epoch(epoch(org));
    request.set_request_id(absl::StrCat("r", random() % 20));
    for (const v1::Budget& budget : org.budgets) {
      auto& item = *request.add_items();
      item.set_budget_id(budget.budget_id());
      item.set_period(budget.period());
      item.set_need_nanousd(1);
      item.set_want_nanousd(3000);
    }
    const auto granted = s.GrantLease(request);
    Expect(granted.status(), {"EPOCH_CLOSED"});
    if (!granted.ok()) return;
    absl::MutexLock lock(&mutex_);
    const auto [known, fresh] = grants_.try_emplace(
        absl::StrCat(request.org_id(), "/", request.epoch(), "/", request.request_id()),
        granted->SerializeAsString());
    EXPECT_EQ(known->second, granted->SerializeAsString());
  }

  void Return(SqlStore& s, const Org& org, Random& random) {
    v1::ReturnLeaseRequest request;
    request.set_org_id(org.path[0]);
    request.set_epoch(epoch(org));
    request.set_return_id(static_cast<int64_t>(random() % 30));
    for (const v1::Budget& budget : org.budgets) {
      auto& back = *request.add_amounts();
      back.set_budget_id(budget.budget_id());
      back.set_period(budget.period());
      back.set_amount_nanousd(static_cast<int64_t>(random() % 50));
    }
    Expect(s.ReturnLease(request), {"EPOCH_CLOSED", "BAD_AMOUNT"});
  }

  void Expire(SqlStore& s, const Org& org, Random& random) {
    v1::PostExpiredRequest request;
    request.set_org_id(org.path[0]);
    request.set_epoch(epoch(org));
    for (int i = 0; i < 3; ++i) {
      const v1::Entry& entry = entries_[random() % entries_.size()];
      if (entry.account_ids(0) != org.path[0]) continue;
      auto& hold = *request.add_holds();
      hold.set_hold_id(entry.hold_id());
      *hold.mutable_account_ids() = entry.account_ids();
      *hold.mutable_covers() = entry.budgets();
      hold.set_edge_id(entry.edge_id());
    }
    Expect(s.PostExpired(request), {});
  }

  void Announce(SqlStore& s, const Org& org, Random& random) {
    v1::AnnounceHoldsRequest request;
    request.set_org_id(org.path[0]);
    request.set_epoch(epoch(org) - 1);
    request.set_edge_id(absl::StrCat("edge-", random() % 2));
    if (request.epoch() == 0) return;
    for (const v1::Entry& entry : entries_) {
      if (entry.account_ids(0) != org.path[0] || entry.edge_id() != request.edge_id()) continue;
      if (random() % 4 != 0) continue;
      v1::Entry& hold = *request.add_unsettled() = entry;
      hold.set_kind(v1::ENTRY_KIND_SUSPEND);
    }
    Expect(s.AnnounceHolds(request), {});
  }

  void SetBudget(SqlStore& s, const Org& org, Random& random) {
    BudgetSpec spec;
    spec.path = org.budgets[random() % org.budgets.size()].path();
    spec.limit_nanos = static_cast<int64_t>(random() % 60'000);
    int64_t version = 0;
    Expect(s.SetBudget(nullptr, spec, &version).status(), {});
  }

  void CreateSomething(SqlStore& s, Random& random) {
    int64_t version = 0;
    v1::CreateAccountRequest org;  // the same by several at once
    org.set_path(absl::StrCat("org-", random() % 8));
    org.set_kind(common::v1::ACCOUNT_KIND_ORG);
    org.set_if_absent(true);
    Expect(s.CreateAccount(nullptr, org, &version).status(), {});
    v1::CreateKeyAccountRequest key;
    key.set_parent_path("acme/team");
    key.set_name(absl::StrCat("key-", random() % 10));
    key.set_client_request_id(key.name());
    Expect(s.CreateKeyAccount(key, &version).status(), {});
  }

  const uint64_t seed_;
  testing::FakeClock clock_;
  StoreHome home_;
  Replica replicas_[2];
  std::vector<Org> orgs_;
  std::vector<v1::Entry> entries_;
  absl::Mutex mutex_;
  std::map<int64_t, int64_t> epochs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> posted_;            // POSTED answers by hold; mutex_ while threads run
  std::map<std::string, std::string> grants_ ABSL_GUARDED_BY(mutex_);
};

TEST(StoreConcurrencyTest, TwoLedgersOnOneDatabaseAreAsOne) {
  World world(testing::TestSeed());
  world.Run();
  world.Check();
}

}  // namespace
}  // namespace tollhouse::ledger
