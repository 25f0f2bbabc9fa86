// Drift planted in a real database, by those who may do anything there.
#include "services/ledger/auditor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "libs/obs/metrics.h"
#include "libs/testing/fake_clock.h"
#include "services/ledger/escrow_testing.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class AuditorTest : public ::testing::Test {
 protected:
  AuditorTest() {
    auto opened = home_.Open(&clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    org_.emplace(store_.get(), &clock_);
    EXPECT_TRUE(org_->OpenEpoch(*store_, "memory-1").ok());
    EXPECT_EQ(*org_->Lease(*store_, 600), 600);
    EXPECT_EQ(org_->Post(*store_, org_->Entry(v1::ENTRY_KIND_SETTLE, 70)), v1::POST_OUTCOME_POSTED);
    EXPECT_EQ(org_->Post(*store_, org_->Entry(v1::ENTRY_KIND_SUSPEND, 0)), v1::POST_OUTCOME_POSTED);
    home_.postgres().Execute("ALTER TABLE budget_rows DROP CONSTRAINT budget_rows_check, "
                             "DROP CONSTRAINT budget_rows_check1");
  }

  // What the audit says after `sql` was done to the database.
  std::vector<std::string> DriftAfter(const std::string& sql) {
    home_.postgres().Execute(sql);
    const auto report = store_->AuditBalances();
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? report->drift : std::vector<std::string>();
  }

  // The line of a metric, "" if there is none.
  static std::string Metric(const std::string& name) {
    const std::string all = obs::RenderMetrics();
    const size_t at = all.find("\n" + name);
    return at == std::string::npos ? "" : all.substr(at + 1, all.find('\n', at + 1) - at - 1);
  }

  const StoreHome home_{sql::Dialect::kPostgres};
  testing::FakeClock clock_;
  std::unique_ptr<SqlStore> store_;
  std::optional<TestOrg> org_;
};

TEST_F(AuditorTest, ASoundLedgerHasNoDriftAndItsUnprovenMoneyIsMeasured) {
  clock_.Advance(absl::Hours(2));
  Auditor auditor(store_.get(), {});
  EXPECT_EQ(*auditor.AuditBalances(), 0);
  EXPECT_EQ(*auditor.AuditJournal(), 0);
  EXPECT_EQ(Metric("tollhouse_ledger_drift{of=\"balances\"}"),
            "tollhouse_ledger_drift{of=\"balances\"} 0");
  EXPECT_EQ(Metric("tollhouse_ledger_drift{of=\"journal\"}"),
            "tollhouse_ledger_drift{of=\"journal\"} 0");
  EXPECT_EQ(Metric("tollhouse_ledger_unproven_nanousd{age=\"24h\",cause=\"suspended\"}"),
            "tollhouse_ledger_unproven_nanousd{age=\"24h\",cause=\"suspended\"} 100");
  EXPECT_EQ(Metric("tollhouse_ledger_unproven_nanousd{age=\"1h\",cause=\"suspended\"}"),
            "tollhouse_ledger_unproven_nanousd{age=\"1h\",cause=\"suspended\"} 0");
  EXPECT_EQ(Metric("tollhouse_ledger_unproven_oldest_seconds"),
            "tollhouse_ledger_unproven_oldest_seconds 7200");
  EXPECT_EQ(Metric("tollhouse_ledger_leased_nanousd"), "tollhouse_ledger_leased_nanousd 430");
  EXPECT_EQ(Metric("tollhouse_ledger_lease_age_seconds"), "tollhouse_ledger_lease_age_seconds 7200");
  EXPECT_EQ(Metric("tollhouse_ledger_synchronous_replication"),
            "tollhouse_ledger_synchronous_replication 0");
}

TEST_F(AuditorTest, ALostLeaseIsUnprovenMoney) {
  ASSERT_TRUE(org_->RegisterEdge(*store_, "edge-1").ok());
  ASSERT_TRUE(org_->OpenEpoch(*store_, "memory-2").ok());
  Auditor auditor(store_.get(), {});
  EXPECT_EQ(*auditor.AuditBalances(), 0);
  EXPECT_EQ(Metric("tollhouse_ledger_unproven_nanousd{age=\"1h\",cause=\"lost_lease\"}"),
            "tollhouse_ledger_unproven_nanousd{age=\"1h\",cause=\"lost_lease\"} 530");
}

TEST_F(AuditorTest, MoneyFromNowhereIsNamed) {
  EXPECT_THAT(DriftAfter("UPDATE budget_rows SET avail = avail + 1"),
              ElementsAre(HasSubstr("(acme month 2026-11@UTC): avail + leased + suspense + spent is not "
                                    "cap + overrun; avail is 401, should be 400")));
}

TEST_F(AuditorTest, ANegativeColumnIsNamed) {
  EXPECT_THAT(DriftAfter("UPDATE budget_rows SET avail = avail - 401, spent = spent + 401"),
              ElementsAre(HasSubstr("-1 is negative")));
}

TEST_F(AuditorTest, SpendThatNoEntrySaysIsNamed) {
  EXPECT_THAT(DriftAfter("UPDATE budget_rows SET avail = avail - 5, spent = spent + 5"),
              ElementsAre(HasSubstr("avail is 395, should be 400; spent is 75, should be 70")));
}

TEST_F(AuditorTest, ALeaseOfNoOpenEpochIsNamed) {
  EXPECT_THAT(DriftAfter("UPDATE orgs SET epoch = epoch + 1"),
              ElementsAre(HasSubstr("lease of the open epoch is 0, should be 430")));
}

TEST_F(AuditorTest, SuspenseWithoutItsHoldIsNamed) {
  EXPECT_THAT(DriftAfter("DELETE FROM suspense_amounts"),
              ElementsAre(HasSubstr("suspense of its holds and lost leases is 0, should be 100")));
}

TEST_F(AuditorTest, ALostLeaseThatNothingSaysIsNamed) {
  EXPECT_THAT(DriftAfter(absl::StrCat("INSERT INTO lost_leases SELECT org_id, id, 1, 3 FROM budget_rows")),
              ElementsAre(HasSubstr("lost lease is 3, should be 0"),
                          HasSubstr("suspense of its holds and lost leases is 103, should be 100")));
}

TEST_F(AuditorTest, ALineThatWasChangedIsNamed) {
  EXPECT_THAT(DriftAfter("ALTER TABLE lines DISABLE TRIGGER ALL; UPDATE lines SET d_spent = d_spent + 9, "
                         "d_avail = d_avail - 9 WHERE d_spent > 0"),
              ElementsAre(HasSubstr("spent is 70, should be 79")));
}

TEST_F(AuditorTest, AJournalEntryThatIsGoneOrTwiceIsNamedByTheReadingOfTheJournal) {
  Auditor auditor(store_.get(), {});
  home_.postgres().Execute("ALTER TABLE journal DISABLE TRIGGER ALL; UPDATE journal SET cost = cost + 1");
  EXPECT_GT(*auditor.AuditJournal(), 0);
  EXPECT_THAT(Metric("tollhouse_ledger_drift{of=\"journal\"}"), Not(HasSubstr(" 0")));
  home_.postgres().Execute("UPDATE journal SET cost = cost - 1");
  EXPECT_EQ(*auditor.AuditJournal(), 0);
  home_.postgres().Execute(
      "INSERT INTO journal SELECT org_id, sequence + 100, at, started_at, cost, team_id, user_id, key_id, "
      "input_tokens, output_tokens, hold_id, 1, kind, provider, model, request_id, tags, fingerprint, "
      "entry, note FROM journal");
  EXPECT_GT(*auditor.AuditJournal(), 0);
}

TEST_F(AuditorTest, AuditsRunBySelf) {
  Auditor auditor(store_.get(), {.interval = absl::Milliseconds(1), .journal_interval = absl::Milliseconds(1)});
  const std::string before = Metric("tollhouse_ledger_audits_total{of=\"journal\",outcome=\"sound\"}");
  auditor.Start();
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (Metric("tollhouse_ledger_audits_total{of=\"journal\",outcome=\"sound\"}") == before &&
         absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(1));  // lint: allow(sleep-in-test) the metric is all there is to see
  }
  auditor.Stop();
  EXPECT_NE(Metric("tollhouse_ledger_audits_total{of=\"journal\",outcome=\"sound\"}"), before);
}

}  // namespace
}  // namespace tollhouse::ledger
