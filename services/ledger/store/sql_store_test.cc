// Damage behind the store's back, a full disk, files and servers that are not as they should be.
#include "services/ledger/store/sql_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr char kPriced[] =
    R"({"v":1,"lines":[{"model":"m","tier":"standard","above":0,"factor_ppm":1000000,)"
    R"("rates":{"input":"3000000"}}]})";

// A store with an org, a budget of 1000 and a lease of 500.
class Ledger {
 public:
  explicit Ledger(sql::Dialect dialect) : home_(dialect) {
    auto opened = home_.Open(&clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    v1::CreateAccountRequest org;
    org.set_path("acme");
    org.set_kind(common::v1::ACCOUNT_KIND_ORG);
    int64_t version = 0;
    org_ = store_->CreateAccount(nullptr, org, &version)->account().id();
    BudgetSpec spec;
    spec.path = "acme";
    spec.limit_nanos = 1000;
    budget_ = store_->SetBudget(nullptr, spec, &version)->budget();
    v1::RegisterEpochRequest epoch;
    epoch.set_org_id(org_);
    epoch.set_incarnation("memory");
    EXPECT_TRUE(store_->RegisterEpoch(epoch, &version).ok());
    v1::GrantLeaseRequest lease;
    lease.set_org_id(org_);
    lease.set_epoch(1);
    lease.set_request_id("1");
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
    return home_.database().Write([&](sql::Connection& c) { return c.ExecuteScript(sql); });
  }

  v1::VerifyLedgerProgress Verify(const v1::VerifyLedgerProgress& expected = {}) {
    v1::VerifyLedgerProgress last;
    EXPECT_TRUE(store_
                    ->Verify(expected.heads(),
                             [&](const v1::VerifyLedgerProgress& progress) {
                               last = progress;
                               return true;
                             })
                    .ok());
    EXPECT_EQ(last.ok(), last.problems().empty());
    return last;
  }
  // `expected`: whose heads were kept.
  std::vector<std::string> Problems(const v1::VerifyLedgerProgress& expected = {}) {
    const v1::VerifyLedgerProgress last = Verify(expected);
    return {last.problems().begin(), last.problems().end()};
  }

  // Posts 70, and 30 that a price explains.
  void PostTwo() {
    ASSERT_TRUE(Post(Entry(70)).ok());
    v1::Entry priced = Entry(30);
    priced.set_price_detail(kPriced);
    auto& line = *priced.add_usage();
    line.set_model("m");
    line.mutable_usage()->set_input_tokens_uncached(10);
    ASSERT_TRUE(Post(priced).ok());
    ASSERT_THAT(Problems(), IsEmpty());
  }

  // Takes away what protects the tables.
  absl::Status Unlock() {
    std::string sql;
    const bool sqlite = home_.database().dialect() == sql::Dialect::kSqlite;
    for (const char* const table : {"journal", "movements", "lines"}) {
      absl::StrAppend(&sql, sqlite ? absl::StrCat("DROP TRIGGER ", table, "_no_update; DROP TRIGGER ", table,
                                                  "_no_delete; ")
                                   : absl::StrCat("ALTER TABLE ", table, " DISABLE TRIGGER USER; "));
    }
    absl::StrAppend(&sql, sqlite ? "PRAGMA ignore_check_constraints = ON;"
                                 : "ALTER TABLE budget_rows DROP CONSTRAINT budget_rows_check1; "
                                   "ALTER TABLE lines DROP CONSTRAINT lines_check;");
    return Sql(sql);
  }

  testing::FakeClock clock_;
  StoreHome home_;
  std::unique_ptr<SqlStore> store_;
  v1::Budget budget_;
  int64_t org_ = 0;
};

class SqlStoreTest : public ::testing::TestWithParam<sql::Dialect>, public Ledger {
 protected:
  SqlStoreTest() : Ledger(GetParam()) {}
};

TEST_P(SqlStoreTest, TheJournalCannotBeUpdatedOrDeletedFrom) {
  ASSERT_TRUE(Post(Entry(70)).ok());
  for (const char* sql :
       {"UPDATE journal SET cost = 1", "DELETE FROM journal", "UPDATE lines SET d_spent = 1",
        "DELETE FROM lines", "UPDATE movements SET entries = 0", "DELETE FROM movements"}) {
    const absl::Status status = Sql(sql);
    EXPECT_FALSE(status.ok()) << sql;
    EXPECT_THAT(status.ToString(), HasSubstr("append-only")) << sql;
  }
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(SqlStoreTest, TheTheoremIsAConstraintOfTheDatabase) {
  EXPECT_EQ(ReasonOf(Sql("UPDATE budget_rows SET spent = spent + 1")), "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf(Sql("UPDATE budget_rows SET avail = -1, spent = spent + avail + 1")),
            "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf(Sql("INSERT INTO lines VALUES (1, 1, 9, 0, 0, 0, 0, 0, 0, 1, 0)")),
            "SQL_CONSTRAINT");
}

TEST_P(SqlStoreTest, VerifyNamesWhatWasTamperedWith) {
  struct Tampering {
    const char* sql;
    const char* named;
  };
  const Tampering kTamperings[] = {
      {"UPDATE budget_rows SET spent = spent - 5, avail = avail + 5", "the journal says"},
      {"UPDATE budget_rows SET spent = spent - 5", "is not cap + overrun"},
      {"UPDATE journal SET cost = 60 WHERE cost = 70", "its content was changed"},
      {"UPDATE journal SET cost = 60 WHERE cost = 70", "its entries say"},
      {"UPDATE journal SET fingerprint = entry WHERE cost = 70", "its content was changed"},
      {"UPDATE journal SET entry = (SELECT entry FROM journal WHERE cost = 30) WHERE cost = 70",
       "its content was changed"},
      {"UPDATE journal SET entry = fingerprint WHERE cost = 70", "unreadable"},
      {"DELETE FROM price_details", "its price detail is not there"},
      {"DELETE FROM lines WHERE d_spent = 70", "its line says cap 0"},
      {"UPDATE lines SET d_spent = 60 WHERE d_spent = 70", "debits are not credits"},
      {"UPDATE lines SET d_spent = 60, d_leased = -60 WHERE d_spent = 70", "its line says"},
      {"UPDATE journal SET at = at + 1 WHERE cost = 30", "was removed from batch"},
      {"DELETE FROM journal WHERE cost = 70", "was removed from batch"},
      {"DELETE FROM movements WHERE kind = 12", "lacks 1 numbers"},
      {"UPDATE orgs SET last_sequence = last_sequence + 1", "the journal ends at"},
      {"UPDATE budget_rows SET leased = leased - 5, suspense = suspense + 5", "was leased"},
      {"INSERT INTO lost_leases SELECT org_id, id, 1, 5 FROM budget_rows", "lost 5"},
      {"UPDATE spend_hours SET cost = cost - 1", "spend of key"},
  };
  for (const Tampering& tampering : kTamperings) {
    Ledger ledger(GetParam());
    ledger.PostTwo();
    EXPECT_TRUE(ledger.Unlock().ok());
    const absl::Status status = ledger.Sql(tampering.sql);
    EXPECT_TRUE(status.ok()) << tampering.sql << status;
    EXPECT_THAT(ledger.Problems(), Contains(HasSubstr(tampering.named))) << tampering.sql;
  }
}

// Two batches: the entries that cost 70 and 30 by themselves, then 7, 8 and 9 together.
class ChainTest : public SqlStoreTest {
 protected:
  ChainTest() {
    PostTwo();
    const v1::Entry three[] = {Entry(7), Entry(8), Entry(9)};
    const v1::Entry* const entries[] = {&three[0], &three[1], &three[2]};
    EXPECT_TRUE(store_->Post(entries).ok());
    EXPECT_THAT(Problems(), IsEmpty());
    EXPECT_TRUE(Unlock().ok());
  }

  std::string Name(int64_t cost) {
    std::string name;
    const absl::Status status = home_.database().Read([&](sql::Connection& c) -> absl::Status {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT sequence, org_id, hold_id FROM journal WHERE cost = ?1", cost));
      if (rows.Next()) {
        name = absl::StrCat("entry ", rows.Int(0), " of org ", rows.Int(1), " (hold ",
                            UuidFromRaw(rows.View(2))->ToString(), ")");
      }
      return rows.status();
    });
    EXPECT_TRUE(status.ok()) << status;
    return name;
  }
};

TEST_P(ChainTest, AnEntryThatWasChangedAnywhereIsNamed) {
  const std::string name = Name(8);
  for (const std::string change : {"note = note || 'x'", "request_id = request_id || 'x'",
                                   "tags = tags || 'a=b'", "team_id = team_id + 1", "input_tokens = 5"}) {
    EXPECT_TRUE(Sql(absl::StrCat("UPDATE journal SET ", change, " WHERE cost = 8")).ok());
    EXPECT_THAT(Problems(), Contains(absl::StrCat(name, ": was changed or put there"))) << change;
  }
}

TEST_P(ChainTest, AChangeThatAddsUpIsFoundToo) {
  // Who can change every table makes the sums right again.
  EXPECT_TRUE(Sql("UPDATE journal SET note = 'forged' WHERE cost = 70").ok());
  EXPECT_THAT(Problems(), ElementsAre(absl::StrCat(Name(70), ": was changed or put there")));
}

TEST_P(ChainTest, TwoEntriesThatWereSwappedAreNamed) {
  const std::string seven = Name(7);
  const std::string nine = Name(9);
  EXPECT_TRUE(Sql("UPDATE journal SET sequence = -1 WHERE cost = 7;"
                  "UPDATE journal SET sequence = sequence - 2 WHERE cost = 9;"
                  "UPDATE journal SET sequence = (SELECT sequence + 2 FROM journal WHERE cost = 9) "
                  "WHERE cost = 7;")
                  .ok());
  EXPECT_THAT(Problems(), UnorderedElementsAre(absl::StrCat(Name(7), ": was changed or put there"),
                                               absl::StrCat(Name(9), ": was changed or put there")));
  EXPECT_NE(Name(7), seven);
  EXPECT_NE(Name(9), nine);
}

TEST_P(ChainTest, EntriesOfTwoBatchesThatWereSwappedAreNamed) {
  EXPECT_TRUE(Sql("UPDATE journal SET sequence = -70 WHERE cost = 70;"
                  "UPDATE journal SET sequence = -8 WHERE cost = 8;").ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr(": was removed from batch")));
}

TEST_P(ChainTest, ARemovedEntryIsNamed) {
  const std::string name = Name(8);
  EXPECT_TRUE(Sql("DELETE FROM journal WHERE cost = 8").ok());
  EXPECT_THAT(Problems(), Contains(AllOf(HasSubstr(name.substr(0, name.find(" ("))),
                                         HasSubstr(": was removed from batch"))));
}

TEST_P(ChainTest, AMovementOrLineThatWasChangedIsNamed) {
  EXPECT_TRUE(Sql("UPDATE movements SET note = note || 'x' WHERE kind = 12").ok());
  EXPECT_THAT(Problems(), ElementsAre(HasSubstr(": it, its lines or its entries were changed or put there")));
  EXPECT_TRUE(Sql("UPDATE movements SET note = substr(note, 1, length(note) - 1) WHERE kind = 12").ok());
  EXPECT_THAT(Problems(), IsEmpty());
  EXPECT_TRUE(Sql("UPDATE lines SET d_lost = d_lost + 1 WHERE d_spent = 24").ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr(": it, its lines or its entries were changed or put there")));
}

TEST_P(ChainTest, AHashOrItsDigestsThatWereChangedAreFound) {
  EXPECT_TRUE(Sql("UPDATE movements SET digests = hash WHERE entries = 3").ok());
  EXPECT_THAT(Problems(), ElementsAre(HasSubstr(": the digests of its entries were changed")));
  EXPECT_TRUE(Sql("UPDATE orgs SET head = (SELECT hash FROM movements WHERE kind = 12) WHERE last_sequence > 0").ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr("the head of its journal was changed")));
}

TEST_P(ChainTest, AnEntryOrMovementWithoutItsPlaceInTheChainIsNamed) {
  const bool sqlite = home_.database().dialect() == sql::Dialect::kSqlite;
  EXPECT_TRUE(Sql(absl::StrCat(
                      "INSERT INTO journal SELECT org_id, sequence + 1000, at, started_at, cost, team_id, user_id, "
                      "key_id, input_tokens, output_tokens, ",
                      sqlite ? "randomblob(16)" : "gen_random_uuid()",
                      ", revision, kind, provider, model, request_id, tags, fingerprint, entry, note FROM "
                      "journal WHERE cost = 8"))
                  .ok());
  EXPECT_THAT(Problems(), Contains(AllOf(HasSubstr("entry 10"), HasSubstr(": is in no batch"))));
  EXPECT_TRUE(Sql("INSERT INTO movements (org_id, sequence, kind, at, entries, note) SELECT org_id, "
                  "last_sequence + 1, 10, 0, 0, '' FROM orgs WHERE last_sequence > 0;"
                  "UPDATE orgs SET last_sequence = last_sequence + 1 WHERE last_sequence > 0;")
                  .ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr(": has no hash, but comes after what has")));
}

TEST_P(ChainTest, ATailCutWithEverySumIsFoundByHeadsThatWereKept) {
  const v1::VerifyLedgerProgress kept = Verify();
  ASSERT_EQ(kept.heads_size(), 1);
  EXPECT_EQ(kept.heads(0).org(), "acme");
  EXPECT_EQ(kept.heads(0).hash().size(), 64u);
  EXPECT_TRUE(
      Sql("DELETE FROM journal WHERE cost < 10;"
          "UPDATE orgs SET last_sequence = last_sequence - 3, head = (SELECT m.hash FROM movements m WHERE "
          "m.entries = 1 ORDER BY m.sequence DESC LIMIT 1) WHERE last_sequence > 0;"
          "DELETE FROM lines WHERE sequence = (SELECT sequence FROM movements WHERE entries = 3);"
          "DELETE FROM movements WHERE entries = 3;"
          "UPDATE budget_rows SET leased = leased + 24, spent = spent - 24;"
          "UPDATE spend_hours SET cost = cost - 24, requests = requests - 3;")
          .ok());
  EXPECT_THAT(Problems(), IsEmpty());
  EXPECT_THAT(Problems(kept), ElementsAre(HasSubstr("(acme): its journal was cut or written anew")));
}

TEST_P(ChainTest, HeadsThatWereKeptHoldWhileTheJournalGrows) {
  const v1::VerifyLedgerProgress kept = Verify();
  ASSERT_TRUE(Post(Entry(11)).ok());
  EXPECT_THAT(Problems(kept), IsEmpty());
}

TEST_P(ChainTest, AJournalFromBeforeTheChainIsContinued) {
  const char* const none = home_.database().dialect() == sql::Dialect::kSqlite ? "x''" : "''";
  EXPECT_TRUE(Sql(absl::StrCat("UPDATE movements SET hash = ", none, ", digests = ", none,
                               "; UPDATE orgs SET unchained = last_sequence, head = ", none))
                  .ok());
  EXPECT_THAT(Problems(), IsEmpty());
  ASSERT_TRUE(Post(Entry(11)).ok());
  EXPECT_THAT(Problems(), IsEmpty());
  EXPECT_TRUE(Sql("UPDATE journal SET note = 'x' WHERE cost = 11").ok());
  EXPECT_THAT(Problems(), ElementsAre(absl::StrCat(Name(11), ": was changed or put there")));
  EXPECT_TRUE(Sql("UPDATE journal SET note = '' WHERE cost = 11;"
                  "UPDATE orgs SET unchained = unchained - 1 WHERE unchained > 0").ok());
  EXPECT_THAT(Problems(), Not(IsEmpty()));
}

TEST_P(SqlStoreTest, EntriesComeBackWhole) {
  v1::Entry entry = Entry(70);
  entry.set_hold_nanousd(100);
  entry.mutable_budgets(0)->set_amount_nanousd(90);  // less than the whole hold
  entry.set_attempt(2);
  entry.set_account_path("acme");
  entry.set_edge_id("edge-1");
  entry.set_boot_id("boot-1");
  entry.set_provider("openai");
  entry.set_model(std::string("a\0b", 3));  // PostgreSQL's text has no NUL
  entry.set_upstream_model("gpt-5-2026");
  entry.set_usage_source(common::v1::USAGE_SOURCE_FINAL);
  entry.set_price_version("v7");
  entry.set_price_detail(R"({"rates":"\"})");
  (*entry.mutable_tags())["use_case"] = "a&b=c\td";
  (*entry.mutable_tags())["empty"] = "";
  entry.mutable_started_at()->set_seconds(1'795'262'400);
  entry.mutable_started_at()->set_nanos(123'456'000);
  entry.mutable_ended_at()->set_seconds(1'795'262'401);
  entry.set_http_status(200);
  entry.set_status("ok");
  entry.set_endpoint("/v1/chat/completions");
  entry.set_streamed(true);
  ASSERT_TRUE(Post(entry).ok());
  const auto explained = store_->ExplainRequest(entry.request_id());
  ASSERT_TRUE(explained.ok()) << explained.status();
  EXPECT_EQ(Serialize(explained->attempts(0).entry()), Serialize(entry))
      << explained->attempts(0).entry().DebugString();
}

TEST_P(SqlStoreTest, VerifyRecomputesPrices) {
  v1::Entry priced = Entry(31);  // 10 tokens at 3,000,000 per million are 30
  priced.set_price_detail(kPriced);
  auto& line = *priced.add_usage();
  line.set_model("m");
  line.mutable_usage()->set_input_tokens_uncached(10);
  ASSERT_TRUE(Post(priced).ok());
  EXPECT_THAT(Problems(), Contains(HasSubstr("usage and rates make 30, it costs 31")));
}

// Sums of whole hours and what is left at both ends agree with the journal.
TEST_P(SqlStoreTest, SpendOfAnySpanIsExact) {
  const int64_t start = 1'795'262'400;  // 2026-11-21 12:00 UTC
  for (int i = 0; i < 40; ++i) {
    v1::Entry entry = Entry(1 << (i % 8));
    entry.clear_budgets();
    entry.mutable_started_at()->set_seconds(start + i * 1000);
    ASSERT_TRUE(Post(entry).ok());
  }
  for (const int from : {-5000, 0, 1, 999, 3600, 7201, 30'000}) {
    for (const int until : {-1, 1, 3600, 5000, 10'800, 39'001, 90'000}) {
      int64_t expected = 0;
      for (int i = 0; i < 40; ++i) {
        if (i * 1000 >= from && i * 1000 < until) expected += 1 << (i % 8);
      }
      v1::GetSpendRequest request;
      request.set_path("acme");
      request.mutable_since()->set_seconds(start + from);
      request.mutable_until()->set_seconds(start + until);
      EXPECT_EQ(store_->GetSpend(request)->total().cost_nanousd(), expected) << from << " " << until;
      request.add_by("day");
      int64_t by_day = 0;
      const auto days = store_->GetSpend(request);
      for (const auto& row : days->rows()) by_day += row.cost_nanousd();
      EXPECT_EQ(by_day, expected);
    }
  }
}

class SqliteStoreTest : public ::testing::Test, public Ledger {
 protected:
  SqliteStoreTest() : Ledger(sql::Dialect::kSqlite) {}
};

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

TEST_F(SqliteStoreTest, AFileFromBeforeTheFirstReleaseIsRefused) {
  ASSERT_TRUE(Sql("DELETE FROM schema_version; INSERT INTO schema_version VALUES (2)").ok());
  store_.reset();
  EXPECT_EQ(ReasonOf(sql::OpenDatabase(home_.settings(), StoreSchema()).status()), "SCHEMA_OLD");
}

class PostgresStoreTest : public ::testing::Test, public Ledger {
 protected:
  PostgresStoreTest() : Ledger(sql::Dialect::kPostgres) {}
};

TEST_F(PostgresStoreTest, EntriesLieInTheirWeeksPartitionsAndNoneIsLost) {
  const auto partition_of = [&](absl::Time time) {
    v1::Entry entry = Entry(1);
    entry.set_hold_id(std::string(NewUuid(time).raw()));
    EXPECT_TRUE(Post(entry).ok());
    return home_.postgres().Value(
        absl::StrCat("SELECT tableoid::regclass FROM journal WHERE hold_id = '",
                     UuidFromRaw(entry.hold_id())->ToString(), "'"));
  };
  EXPECT_EQ(partition_of(clock_.Wall()), "journal_20261116");
  EXPECT_EQ(partition_of(clock_.Wall() + absl::Hours(24 * 28)), "journal_20261214");
  clock_.Advance(absl::Hours(24 * 14));
  EXPECT_TRUE(store_->Maintain().ok());
  EXPECT_TRUE(store_->Maintain().ok());
  EXPECT_EQ(partition_of(clock_.Wall() + absl::Hours(24 * 28)), "journal_20261228");
  EXPECT_EQ(partition_of(clock_.Wall() + absl::Hours(24 * 70)), "journal_default");
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_F(PostgresStoreTest, AnOlderSchemaAndAReadOnlyServerAreRefusedWithTheirReasons) {
  ASSERT_TRUE(Sql("DELETE FROM schema_version WHERE version = (SELECT max(version) FROM "
                  "schema_version)")
                  .ok());
  EXPECT_EQ(ReasonOf(sql::OpenDatabase(home_.settings(), StoreSchema()).status()), "SCHEMA_OLD");
  ASSERT_TRUE(Sql("INSERT INTO schema_version VALUES (99)").ok());
  EXPECT_EQ(ReasonOf(sql::OpenDatabase(home_.settings(), StoreSchema()).status()), "SCHEMA_NEW");
  EXPECT_EQ(ReasonOf(sql::MigrateDatabase(home_.settings(), StoreSchema())), "SCHEMA_NEW");
  home_.postgres().Execute("ALTER DATABASE " + home_.postgres().name() +
                           " SET default_transaction_read_only = on");
  EXPECT_EQ(ReasonOf(sql::OpenDatabase(home_.settings(), StoreSchema()).status()), "SQL_READ_ONLY");
}

INSTANTIATE_TEST_SUITE_P(Stores, ChainTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);
INSTANTIATE_TEST_SUITE_P(Stores, SqlStoreTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);

}  // namespace
}  // namespace tollhouse::ledger
