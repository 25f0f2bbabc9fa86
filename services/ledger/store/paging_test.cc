// A journal that is long: what pages and reports read of it is theirs, and not all there is. PostgreSQL
// finds pages also while its planner knows nothing of the table (nobody has analyzed it).
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

constexpr int64_t kEntries = 120'000;
constexpr int64_t kFirst = 1'794'182'400;  // 2026-11-09 00:00 UTC, the first partition's

class LongJournal : public ::testing::Test {
 protected:
  LongJournal() {
    sql::DatabaseSettings settings = home_.settings();
    settings.connections = 1;  // whose statistics are asked for
    auto opened = sql::OpenDatabase(settings, StoreSchema());
    EXPECT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    auto store = SqlStore::Open(opened_.database.get(), &clock_);
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    v1::CreateAccountRequest request;
    int64_t version = 0;
    for (const char* const path : {"acme", "acme/red", "acme/blue"}) {
      request.set_path(path);
      request.set_kind(request.path() == "acme" ? common::v1::ACCOUNT_KIND_ORG : common::v1::ACCOUNT_KIND_TEAM);
      ids_.push_back(store_->CreateAccount(nullptr, request, &version)->account().id());
    }
    // Five weeks, an entry every 25 s; a ledger whose clock was an hour ahead wrote every seventh. Team
    // blue has one in a thousand.
    const std::string org = absl::StrCat(ids_[0]);
    home_.postgres().Execute(absl::StrCat(
        "UPDATE orgs SET last_sequence = ", kEntries, " WHERE org_id = ", org,
        "; CREATE TABLE made AS SELECT g, (", kFirst, " + g * 25) * 1000000::bigint AS at, "
        "CASE WHEN g % 1000 = 0 THEN ", ids_[2], " ELSE ", ids_[1], " END AS team, "
        "lpad(to_hex((", kFirst, " + g * 25) * 1000::bigint), 12, '0') AS ms FROM "
        "generate_series(1::bigint, ", kEntries, ") g; "
        "INSERT INTO journal (org_id, sequence, at, started_at, cost, team_id, user_id, key_id, "
        "input_tokens, output_tokens, hold_id, revision, kind, provider, model, request_id, tags, "
        "fingerprint, entry, note) SELECT ", org, ", g, at + CASE WHEN g % 7 = 0 THEN 3600000000 ELSE 0 END, "
        "at, 1, team, 0, 0, 10, 1, CAST(substr(ms, 1, 8) || '-' || substr(ms, 9) || '-7000-8000-' || "
        "lpad(to_hex(g), 12, '0') AS uuid), 0, 1, 'openai', 'gpt-5', 'r' || g, "
        "'color=' || g % 2, '\\x00', '\\x00', '' FROM made; "
        "INSERT INTO movements (org_id, sequence, kind, at, entries, note) SELECT ", org,
        ", g, 1, at, 1, '' FROM made; "
        "INSERT INTO spend_hours SELECT ", org, ", at / 3600000000 * 3600000000, team, 0, 0, 'openai', "
        "'gpt-5', count(*), count(*), 10 * count(*), count(*) FROM made GROUP BY 2, 3; DROP TABLE made"));
  }

  // Rows of the journal that were read since the last call.
  int64_t RowsRead() {
    EXPECT_TRUE(opened_.database
                    ->Read([](sql::Connection& c) {
                      return c.Query("SELECT pg_stat_force_next_flush()").status();
                    })
                    .ok());
    int64_t now = 0;
    EXPECT_TRUE(absl::SimpleAtoi(
        home_.postgres().Value("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM "
                               "pg_stat_user_tables WHERE relname LIKE 'journal%'"),
        &now));
    return now - std::exchange(read_, now);
  }

  StoreHome home_{sql::Dialect::kPostgres};
  testing::FakeClock clock_;
  sql::OpenedDatabase opened_;
  std::unique_ptr<SqlStore> store_;
  std::vector<int64_t> ids_;
  int64_t read_ = 0;
};

TEST_F(LongJournal, APageReadsItsOwnEntriesWhereverItBegins) {
  RowsRead();
  for (const int64_t after : {0L, 60'000L, 119'500L}) {
    v1::ListEntriesRequest request;
    request.set_path("acme");
    request.set_after_sequence(after);
    const auto page = store_->ListEntries(request);
    ASSERT_TRUE(page.ok()) << page.status();
    ASSERT_EQ(page->entries_size(), std::min<int64_t>(1000, kEntries - after));
    EXPECT_EQ(page->entries(0).sequence(), after + 1);
    EXPECT_EQ(page->has_next(), after < 119'000);
    EXPECT_LE(RowsRead(), 2000) << after;
  }
}

TEST_F(LongJournal, AllPagesTogetherAreTheJournalOnce) {
  RowsRead();
  v1::ListEntriesRequest request;
  int64_t seen = 0;
  for (;;) {
    const auto page = store_->ListEntries(request);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const auto& entry : page->entries()) ASSERT_EQ(entry.sequence(), ++seen);
    if (!page->has_next()) break;
    request.set_after_sequence(page->next().after_sequence());
    request.set_after_org_id(page->next().after_org_id());
  }
  EXPECT_EQ(seen, kEntries);
  EXPECT_LE(RowsRead(), 2 * kEntries);
}

TEST_F(LongJournal, EntriesOfASmallAccountAreFoundInOneGo) {
  v1::ListEntriesRequest request;
  request.set_path("acme/blue");
  const auto page = store_->ListEntries(request);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->entries_size(), kEntries / 1000);
  EXPECT_FALSE(page->has_next());
}

TEST_F(LongJournal, SpendByTagIsExactOverAnySpan) {
  v1::GetSpendRequest request;
  request.set_path("acme");
  request.mutable_since()->set_seconds(kFirst + 86'400 * 10 + 100);
  request.mutable_until()->set_seconds(kFirst + 86'400 * 11 + 100);
  EXPECT_EQ(store_->GetSpend(request)->total().cost_nanousd(), 86'400 / 25);
  request.set_path("acme/blue");
  request.add_by("tag:color");
  request.mutable_since()->set_seconds(kFirst);
  request.mutable_until()->set_seconds(kFirst + 86'400 * 11);
  const auto by_tag = store_->GetSpend(request);
  ASSERT_TRUE(by_tag.ok()) << by_tag.status();
  ASSERT_EQ(by_tag->rows_size(), 1);
  EXPECT_EQ(by_tag->rows(0).group().at("tag:color"), "0");
  EXPECT_EQ(by_tag->rows(0).requests(), 86'400 * 11 / 25'000);
}

}  // namespace
}  // namespace tollhouse::ledger
