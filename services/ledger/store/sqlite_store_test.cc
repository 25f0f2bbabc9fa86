// What only the SQLite store can be tested for: damage to its file, a full disk.
#include "services/ledger/store/sqlite_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::ledger {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SqliteStoreTest : public ::testing::Test {
 protected:
  SqliteStoreTest() {
    auto opened = SqliteStore::Open(dir_.File("ledger.db"), &clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    v1::CreateAccountRequest org;
    org.set_path("acme");
    org.set_kind(common::v1::ACCOUNT_KIND_ORG);
    int64_t version = 0;
    org_ = store_->CreateAccount(org, &version)->account().id();
    BudgetSpec spec;
    spec.path = "acme";
    spec.limit_nanos = 1000;
    budget_ = store_->SetBudget(spec, &version)->budget();
    v1::RegisterEpochRequest epoch;
    epoch.set_org_id(org_);
    epoch.set_incarnation("memory");
    EXPECT_TRUE(store_->RegisterEpoch(epoch, &version).ok());
    v1::GrantLeaseRequest lease;
    lease.set_org_id(org_);
    lease.set_epoch(1);
    lease.set_grant_id(1);
    auto& item = *lease.add_items();
    item.set_budget_id(budget_.budget_id());
    item.set_period(budget_.period());
    item.set_want_nanousd(500);
    EXPECT_TRUE(store_->GrantLease(lease).ok());
  }

  v1::Entry Entry(int64_t cost) {
    v1::Entry entry;
    entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    entry.set_kind(v1::ENTRY_KIND_SETTLE);
    entry.add_account_ids(org_);
    entry.set_epoch(1);
    auto& held = *entry.add_budgets();
    held.set_budget_id(budget_.budget_id());
    held.set_period(budget_.period());
    held.set_amount_nanousd(cost);
    entry.set_cost_nanousd(cost);
    entry.set_request_id(std::string(200, 'r'));
    return entry;
  }

  absl::StatusOr<std::vector<v1::PostResult>> Post(const v1::Entry& entry) {
    const v1::Entry* const entries[] = {&entry};
    return store_->Post(entries);
  }

  // Runs SQL behind the store's back.
  absl::Status Sql(const std::string& sql) {
    return store_->database().Write([&](sql::Connection& c) { return c.ExecuteScript(sql); });
  }

  std::vector<std::string> Problems() {
    v1::VerifyLedgerProgress last;
    EXPECT_TRUE(store_->Verify([&](const v1::VerifyLedgerProgress& progress) {
      last = progress;
      return true;
    }).ok());
    return {last.problems().begin(), last.problems().end()};
  }

  static constexpr char kUnlock[] =
      "DROP TRIGGER journal_no_update; DROP TRIGGER journal_no_delete; DROP TRIGGER lines_no_update; "
      "DROP TRIGGER lines_no_delete; DROP TRIGGER account_entries_no_update; "
      "DROP TRIGGER account_entries_no_delete; PRAGMA ignore_check_constraints = ON;";

  testing::TempDir dir_;
  testing::FakeClock clock_;
  std::unique_ptr<SqliteStore> store_;
  v1::Budget budget_;
  int64_t org_ = 0;
};

TEST_F(SqliteStoreTest, TheJournalCannotBeUpdatedOrDeletedFrom) {
  ASSERT_TRUE(Post(Entry(70)).ok());
  for (const char* sql :
       {"UPDATE journal SET cost = 1", "DELETE FROM journal", "UPDATE lines SET d_spent = 1",
        "DELETE FROM lines", "UPDATE account_entries SET cost = 1", "DELETE FROM account_entries"}) {
    const absl::Status status = Sql(sql);
    EXPECT_FALSE(status.ok()) << sql;
    EXPECT_THAT(status.ToString(), HasSubstr("append-only")) << sql;
  }
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_F(SqliteStoreTest, TheTheoremIsAConstraintOfTheDatabase) {
  EXPECT_EQ(ReasonOf(Sql("UPDATE budget_rows SET spent = spent + 1")), "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf(Sql("UPDATE budget_rows SET avail = -1, spent = spent + avail + 1")),
            "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf(Sql("INSERT INTO lines VALUES (1, 1, 9, 0, 0, 0, 0, 0, 0, 1, 0)")),
            "SQL_CONSTRAINT");
}

TEST_F(SqliteStoreTest, VerifyNamesWhatWasTamperedWith) {
  ASSERT_TRUE(Post(Entry(70)).ok());
  v1::Entry priced = Entry(30);
  priced.set_price_detail(
      R"({"v":1,"lines":[{"model":"m","tier":"standard","above":0,"factor_ppm":1000000,)"
      R"("rates":{"input":"3000000"}}]})");
  auto& line = *priced.add_usage();
  line.set_model("m");
  line.mutable_usage()->set_input_tokens_uncached(10);
  ASSERT_TRUE(Post(priced).ok());
  ASSERT_THAT(Problems(), IsEmpty());
  struct Tampering {
    const char* sql;
    const char* named;
  };
  const Tampering kTamperings[] = {
      {"UPDATE budget_rows SET spent = spent - 5, avail = avail + 5", "the journal says 100"},
      {"UPDATE budget_rows SET spent = spent - 5", "is not cap + overrun"},
      {"UPDATE journal SET cost = 60 WHERE cost = 70", "cost 60 is not that of its content, 70"},
      {"UPDATE journal SET fingerprint = x'00' WHERE cost = 70", "its content was changed"},
      {"UPDATE journal SET entry = (SELECT entry FROM journal WHERE cost = 30) WHERE cost = 70",
       "names another hold"},
      {"DELETE FROM lines WHERE d_spent = 70", "its lines spend 0"},
      {"UPDATE lines SET d_spent = 60 WHERE d_spent = 70", "debits are not credits"},
      {"DELETE FROM account_entries WHERE cost = 70", "is counted at 0 of 1 accounts"},
      {"DELETE FROM lines WHERE sequence = (SELECT sequence FROM journal WHERE cost = 70);"
       "DELETE FROM account_entries WHERE cost = 70; DELETE FROM journal WHERE cost = 70",
       "the journal lacks 1 entries"},
      {"INSERT INTO journal SELECT (SELECT max(sequence) + 1 FROM journal), org_id, kind, at, hold_id, 7, fingerprint, "
       "request_id, team_id, user_id, key_id, provider, model, started_at, cost, input_tokens, "
       "output_tokens, entry, note FROM journal WHERE cost = 70",
       "2 entries that stand"},
      {"UPDATE epoch_amounts SET leased = leased + 1", "leased 401/400"},
      {"UPDATE budget_rows SET leased = leased - 5, suspense = suspense + 5", "open epochs hold"},
  };
  int copies = 0;
  for (const Tampering& tampering : kTamperings) {
    // Each works on a copy of its own.
    const std::string copy = dir_.File(absl::StrCat("copy-", ++copies, ".db"));
    for (const char* suffix : {"", "-wal"}) {
      std::filesystem::copy_file(dir_.File("ledger.db") + suffix, copy + suffix);
    }
    auto opened = SqliteStore::Open(copy, &clock_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    std::swap(store_, *opened);
    const absl::Status status = Sql(std::string(kUnlock) + tampering.sql);
    EXPECT_TRUE(status.ok()) << tampering.sql << status;
    EXPECT_THAT(Problems(), Contains(HasSubstr(tampering.named))) << tampering.sql;
    std::swap(store_, *opened);
  }
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_F(SqliteStoreTest, VerifyRecomputesPrices) {
  v1::Entry priced = Entry(31);  // 10 tokens at 3,000,000 per million are 30
  priced.set_price_detail(
      R"({"v":1,"lines":[{"model":"m","tier":"standard","above":0,"factor_ppm":1000000,)"
      R"("rates":{"input":"3000000"}}]})");
  auto& line = *priced.add_usage();
  line.set_model("m");
  line.mutable_usage()->set_input_tokens_uncached(10);
  ASSERT_TRUE(Post(priced).ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr("usage and rates make 30, it costs 31")));
}

TEST_F(SqliteStoreTest, AFullDiskRefusesAndRecovers) {
  ASSERT_TRUE(Post(Entry(1)).ok());
  ASSERT_TRUE(Sql("PRAGMA max_page_count = 1;").ok());  // no further page than there are
  int64_t posted = 1;
  absl::Status status;
  while (status.ok() && posted < 400) {
    status = Post(Entry(1)).status();
    if (status.ok()) ++posted;
  }
  EXPECT_EQ(ReasonOf(status), "SQL_FULL") << status;
  const auto spent = [&] { return store_->ListBudgets({})->budgets(0).spent_nanousd(); };
  EXPECT_EQ(spent(), posted);  // nothing half-applied
  EXPECT_THAT(Problems(), IsEmpty());
  ASSERT_TRUE(Sql("PRAGMA max_page_count = 1073741823;").ok());
  EXPECT_TRUE(Post(Entry(1)).ok());
  EXPECT_EQ(spent(), posted + 1);
  EXPECT_THAT(Problems(), IsEmpty());
}

}  // namespace
}  // namespace tollhouse::ledger
