// What every implementation of Store has to do. Money in these tests is small: 1 is one nano-dollar.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {
namespace {

using common::v1::ACCOUNT_KIND_KEY;
using common::v1::ACCOUNT_KIND_ORG;
using common::v1::ACCOUNT_KIND_TEAM;
using common::v1::ACCOUNT_KIND_USER;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    auto opened = SqliteStore::Open(dir_.File("ledger.db"), &clock_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    store_->SetPublish([this](v1::WatchResponse change) {
      changes_.push_back(std::move(change));
      return static_cast<int64_t>(changes_.size());
    });
  }

  int64_t Create(const std::string& path) {
    v1::CreateAccountRequest request;
    const auto depth = 1 + std::count(path.begin(), path.end(), '/');
    request.set_kind(static_cast<common::v1::AccountKind>(depth));
    request.set_path(path);
    int64_t version = 0;
    const auto created = store_->CreateAccount(request, &version);
    EXPECT_TRUE(created.ok()) << created.status();
    return created.ok() ? created->account().id() : 0;
  }

  int64_t CreateKey(const std::string& parent, const std::string& name) {
    v1::CreateKeyAccountRequest request;
    request.set_parent_path(parent);
    request.set_name(name);
    int64_t version = 0;
    const auto created = store_->CreateKeyAccount(request, &version);
    EXPECT_TRUE(created.ok()) << created.status();
    return created.ok() ? created->account_id() : 0;
  }

  // acme / payments / sarah / laptop, an epoch and an edge in it.
  void SetUpPath() {
    path_ = {Create("acme"), Create("acme/payments"), Create("acme/payments/sarah"),
             CreateKey("acme/payments/sarah", "laptop")};
    epoch_ = RegisterEpoch("memory-1");
    RegisterEdge("edge-1");
  }

  int64_t RegisterEpoch(const std::string& incarnation) {
    v1::RegisterEpochRequest request;
    request.set_org_id(path_[0]);
    request.set_expected_epoch(epoch_);
    request.set_incarnation(incarnation);
    int64_t version = 0;
    const auto epoch = store_->RegisterEpoch(request, &version);
    EXPECT_TRUE(epoch.ok()) << epoch.status();
    return epoch.value_or(0);
  }

  void RegisterEdge(const std::string& edge) {
    v1::RegisterEdgeRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    request.set_edge_id(edge);
    request.set_boot_id("boot-1");
    EXPECT_TRUE(store_->RegisterEdge(request).ok());
  }

  v1::Budget SetBudget(const std::string& path, int64_t limit,
                       const std::function<void(BudgetSpec&)>& change = nullptr) {
    BudgetSpec spec;
    spec.path = path;
    spec.limit_nanos = limit;
    if (change) change(spec);
    int64_t version = 0;
    const auto set = store_->SetBudget(spec, &version);
    EXPECT_TRUE(set.ok()) << set.status();
    return set.ok() ? set->budget() : v1::Budget();
  }

  v1::Budget Budget(const std::string& id) {
    v1::ListBudgetsRequest request;
    request.set_id(id);
    const auto list = store_->ListBudgets(request);
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? list->budgets(0) : v1::Budget();
  }

  // Leases exactly `amount`, or reports what was granted instead.
  int64_t Lease(const v1::Budget& budget, int64_t need, int64_t want) {
    v1::GrantLeaseRequest request;
    request.set_org_id(path_[0]);
    request.set_epoch(epoch_);
    request.set_grant_id(++grant_);
    auto& item = *request.add_items();
    item.set_budget_id(budget.budget_id());
    item.set_period(budget.period());
    item.set_need_nanousd(need);
    item.set_want_nanousd(want);
    const auto granted = store_->GrantLease(request);
    EXPECT_TRUE(granted.ok()) << granted.status();
    return granted.ok() ? granted->items(0).granted_nanousd() : -1;
  }

  v1::Entry Entry(v1::EntryKind kind, int64_t cost, const std::vector<v1::Budget>& budgets,
                  int64_t hold) {
    v1::Entry entry;
    entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    entry.set_kind(kind);
    entry.set_request_id("req-1");
    for (const int64_t id : path_) entry.add_account_ids(id);
    entry.set_account_path("acme/payments/sarah/laptop");
    entry.set_epoch(epoch_);
    entry.set_edge_id("edge-1");
    entry.set_boot_id("boot-1");
    for (const v1::Budget& budget : budgets) {
      auto& held = *entry.add_budgets();
      held.set_budget_id(budget.budget_id());
      held.set_period(budget.period());
      held.set_amount_nanousd(hold);
    }
    entry.set_provider("openai");
    entry.set_model("gpt-5");
    auto& usage = *entry.add_usage();
    usage.set_model("gpt-5");
    usage.mutable_usage()->set_input_tokens_uncached(100);
    usage.mutable_usage()->set_output_tokens(10);
    entry.set_cost_nanousd(cost);
    entry.set_hold_nanousd(hold);
    entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(clock_.Wall()));
    entry.set_status("ok");
    return entry;
  }

  v1::PostResult Post(const v1::Entry& entry) {
    const v1::Entry* const entries[] = {&entry};
    const auto results = store_->Post(entries);
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? results->front() : v1::PostResult();
  }

  std::vector<std::string> Problems() {
    v1::VerifyLedgerProgress last;
    const absl::Status status = store_->Verify([&](const v1::VerifyLedgerProgress& progress) {
      last = progress;
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(last.done());
    EXPECT_EQ(last.ok(), last.problems_size() == 0);
    return {last.problems().begin(), last.problems().end()};
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  std::unique_ptr<SqliteStore> store_;
  std::vector<v1::WatchResponse> changes_;
  std::vector<int64_t> path_ = {0};
  int64_t epoch_ = 0;
  int64_t grant_ = 0;
};

TEST_F(StoreTest, SettleMovesLeasedToSpentAtEveryLevel) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  const v1::Budget team = SetBudget("acme/payments", 500);
  EXPECT_EQ(org.id(), "acme#month");
  EXPECT_EQ(org.period(), "2026-11@UTC");
  EXPECT_EQ(Lease(org, 100, 400), 400);
  EXPECT_EQ(Lease(team, 100, 900), 500);
  EXPECT_EQ(Post(Entry(v1::ENTRY_KIND_SETTLE, 70, {org, team}, 100)).outcome(),
            v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 70);
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 330);
  EXPECT_EQ(Budget("acme/payments#month").spent_nanousd(), 70);
  EXPECT_EQ(Budget("acme/payments#month").leased_nanousd(), 430);
  EXPECT_EQ(Budget("acme/payments#month").available_nanousd(), 430);
  EXPECT_THAT(Problems(), IsEmpty());
}

}  // namespace
}  // namespace tollhouse::ledger
