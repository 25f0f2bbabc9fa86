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
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using common::v1::ACCOUNT_KIND_KEY;
using common::v1::ACCOUNT_KIND_ORG;
using common::v1::ACCOUNT_KIND_TEAM;
using common::v1::ACCOUNT_KIND_USER;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StoreTest : public ::testing::TestWithParam<sql::Dialect> {
 protected:
  StoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    home_.Reopen();
    auto opened = home_.Open(&clock_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    store_->SetChanged([this] {
      for (v1::WatchResponse& change : home_.Changes(changes_seen_)) {
        ++changes_seen_;
        changes_.push_back(std::move(change));
      }
    });
  }

  int64_t Create(const std::string& path) {
    v1::CreateAccountRequest request;
    const auto depth = 1 + std::count(path.begin(), path.end(), '/');
    request.set_kind(static_cast<common::v1::AccountKind>(depth));
    request.set_path(path);
    int64_t version = 0;
    const auto created = store_->CreateAccount(nullptr, request, &version);
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
    const auto set = store_->SetBudget(nullptr, spec, &version);
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
    request.set_request_id(absl::StrCat("request/", ++grant_));
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

  static v1::ListSuspenseRequest Below(const std::string& path) {
    v1::ListSuspenseRequest request;
    request.set_path(path);
    return request;
  }

  std::vector<std::string> Problems() {
    v1::VerifyLedgerProgress last;
    const absl::Status status = store_->Verify({}, [&](const v1::VerifyLedgerProgress& progress) {
      last = progress;
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(last.done());
    EXPECT_EQ(last.ok(), last.problems_size() == 0);
    return {last.problems().begin(), last.problems().end()};
  }

  StoreHome home_{GetParam()};
  testing::FakeClock clock_;
  std::unique_ptr<SqlStore> store_;
  std::vector<v1::WatchResponse> changes_;
  int64_t changes_seen_ = 1;  // an empty log is at version 1
  std::vector<int64_t> path_ = {0};
  int64_t epoch_ = 0;
  int64_t grant_ = 0;
};

TEST_P(StoreTest, SettleMovesLeasedToSpentAtEveryLevel) {
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

TEST_P(StoreTest, SettlementsAreExactlyOnce) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 1000);
  v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 70, {org}, 100);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);
  entry.set_boot_id("boot-2");  // an edge that starts again sends it again
  const v1::PostResult again = Post(entry);
  EXPECT_EQ(again.outcome(), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(again.posted_nanousd(), 70);
  entry.set_cost_nanousd(71);
  const v1::PostResult other = Post(entry);
  EXPECT_EQ(other.outcome(), v1::POST_OUTCOME_CONFLICT);
  EXPECT_EQ(other.posted_nanousd(), 70);
  entry.set_kind(v1::ENTRY_KIND_VOID);
  entry.set_cost_nanousd(0);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_CONFLICT);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 70);
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 930);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, DuplicatesWithinABatchArePostedOnce) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 1000);
  const v1::Entry a = Entry(v1::ENTRY_KIND_SETTLE, 70, {org}, 100);
  const v1::Entry b = Entry(v1::ENTRY_KIND_SETTLE, 5, {org}, 100);
  const v1::Entry* const entries[] = {&a, &b, &a};
  const auto results = store_->Post(entries);
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ((*results)[1].outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ((*results)[2].outcome(), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 75);
}

TEST_P(StoreTest, MalformedEntriesAreRejectedAloneAndSaySo) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 1000);
  const v1::Entry good = Entry(v1::ENTRY_KIND_SETTLE, 70, {org}, 100);
  const auto broken = [&](const std::function<void(v1::Entry&)>& change) {
    v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 70, {org}, 100);
    change(entry);
    return entry;
  };
  const std::vector<v1::Entry> bad = {
      broken([](v1::Entry& e) { e.set_hold_id("short"); }),
      broken([](v1::Entry& e) { e.set_kind(v1::ENTRY_KIND_UNSPECIFIED); }),
      broken([](v1::Entry& e) { e.clear_account_ids(); }),
      broken([](v1::Entry& e) { e.add_account_ids(4711); }),
      broken([](v1::Entry& e) { e.set_account_ids(1, 4711); }),
      broken([](v1::Entry& e) { e.set_cost_nanousd(-1); }),
      broken([](v1::Entry& e) { e.set_epoch(7); }),
      broken([](v1::Entry& e) { e.set_kind(v1::ENTRY_KIND_VOID); }),
      broken([](v1::Entry& e) { e.mutable_budgets(0)->set_budget_id(4711); }),
      broken([](v1::Entry& e) { e.mutable_budgets(0)->set_period("2019-01@UTC"); }),
      broken([](v1::Entry& e) { e.mutable_budgets(0)->set_amount_nanousd(-5); }),
      broken([](v1::Entry& e) { *e.add_budgets() = e.budgets(0); }),
      broken([](v1::Entry& e) { e.mutable_usage(0)->mutable_usage()->set_output_tokens(-1); }),
  };
  std::vector<const v1::Entry*> entries;
  for (const v1::Entry& entry : bad) entries.push_back(&entry);
  entries.push_back(&good);
  const auto results = store_->Post(entries);
  ASSERT_TRUE(results.ok()) << results.status();
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ((*results)[i].outcome(), v1::POST_OUTCOME_REJECTED) << i;
    EXPECT_NE((*results)[i].message(), "") << i;
  }
  EXPECT_EQ(results->back().outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 70);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, CostAboveTheHoldIsChargedInFullAndTheRestIsOverrun) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 950);
  Post(Entry(v1::ENTRY_KIND_SETTLE, 200, {org}, 100));  // 100 of the lease, 50 of avail, 50 over
  v1::Budget view = Budget("acme#month");
  EXPECT_EQ(view.spent_nanousd(), 200);
  EXPECT_EQ(view.leased_nanousd(), 850);
  EXPECT_EQ(view.overrun_nanousd(), 50);
  EXPECT_EQ(view.cap_nanousd(), 1000);
  // What comes back pays the overrun down first.
  v1::ReturnLeaseRequest back;
  back.set_org_id(path_[0]);
  back.set_epoch(epoch_);
  back.set_return_id(1);
  auto& amount = *back.add_amounts();
  amount.set_budget_id(org.budget_id());
  amount.set_period(org.period());
  amount.set_amount_nanousd(80);
  EXPECT_TRUE(store_->ReturnLease(back).ok());
  EXPECT_TRUE(store_->ReturnLease(back).ok());  // once
  view = Budget("acme#month");
  EXPECT_EQ(view.overrun_nanousd(), 0);
  EXPECT_EQ(view.leased_nanousd(), 770);
  EXPECT_EQ(Lease(view, 1, 1000), 30);
  EXPECT_EQ(store_->counters().entries_above_hold, 1);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, LeasesAreFencedByTheEpochAndNumberedGrantsRepeat) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  EXPECT_EQ(Lease(org, 100, 400), 400);
  --grant_;
  EXPECT_EQ(Lease(org, 1, 1), 400);  // the same grant: the same answer
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 400);
  EXPECT_EQ(Lease(org, 601, 900), 0);  // less than needed is there
  EXPECT_EQ(Lease(org, 600, 900), 600);
  v1::ListGrantsRequest list;
  list.set_org_id(path_[0]);
  list.set_epoch(epoch_);
  EXPECT_EQ(store_->ListGrants(list)->grants_size(), 3);
  v1::AcknowledgeGrantsRequest acknowledge;
  acknowledge.set_org_id(path_[0]);
  acknowledge.set_epoch(epoch_);
  acknowledge.add_grant_ids(1);
  acknowledge.add_grant_ids(2);
  EXPECT_TRUE(store_->AcknowledgeGrants(acknowledge).ok());
  const auto open = store_->ListGrants(list);
  ASSERT_EQ(open->grants_size(), 1);
  EXPECT_EQ(open->grants(0).grant_id(), 3);
  EXPECT_EQ(open->grants(0).amounts(0).amount_nanousd(), 600);

  v1::GrantLeaseRequest late;
  late.set_org_id(path_[0]);
  late.set_epoch(epoch_);
  late.set_request_id("late");
  epoch_ = RegisterEpoch("memory-2");
  EXPECT_EQ(epoch_, 2);
  EXPECT_EQ(ReasonOf(store_->GrantLease(late).status()), "EPOCH_CLOSED");
}

TEST_P(StoreTest, TheLedgerNumbersGrantsOfManyEnforcers) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  v1::GrantLeaseRequest request;
  request.set_org_id(path_[0]);
  request.set_epoch(epoch_);
  auto& item = *request.add_items();
  item.set_budget_id(org.budget_id());
  item.set_period(org.period());
  item.set_need_nanousd(300);
  item.set_want_nanousd(400);
  EXPECT_EQ(ReasonOf(store_->GrantLease(request).status()), "BAD_ARGUMENT");  // no id
  request.set_request_id("enforcer-1/boot/1");
  const auto first = store_->GrantLease(request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->grant_id(), 1);
  EXPECT_EQ(first->items(0).granted_nanousd(), 400);
  request.set_request_id("enforcer-2/boot/1");
  EXPECT_EQ(store_->GrantLease(request)->grant_id(), 2);
  request.set_request_id("enforcer-1/boot/2");  // 200 are left: a grant of nothing has a number too
  EXPECT_EQ(store_->GrantLease(request)->grant_id(), 3);
  request.set_request_id("enforcer-1/boot/1");
  EXPECT_EQ(store_->GrantLease(request)->SerializeAsString(), first->SerializeAsString());
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 800);
  v1::ListGrantsRequest list;
  list.set_org_id(path_[0]);
  list.set_epoch(epoch_);
  const auto open = store_->ListGrants(list);
  ASSERT_EQ(open->grants_size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(open->grants(i).grant_id(), i + 1);
  EXPECT_EQ(open->grants(2).amounts_size(), 0);

  epoch_ = RegisterEpoch("memory-2");
  EXPECT_EQ(ReasonOf(store_->GrantLease(request).status()), "EPOCH_CLOSED");
  request.set_epoch(epoch_);  // another epoch: numbered from 1 again
  EXPECT_EQ(store_->GrantLease(request)->grant_id(), 1);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, EpochsAreComparedAndSet) {
  SetUpPath();
  EXPECT_EQ(RegisterEpoch("memory-1"), 1);  // the same incarnation: the same answer
  v1::RegisterEpochRequest stale;
  stale.set_org_id(path_[0]);
  stale.set_expected_epoch(0);
  stale.set_incarnation("memory-9");
  int64_t version = 0;
  const auto refused = store_->RegisterEpoch(stale, &version);
  EXPECT_EQ(ReasonOf(refused.status()), "EPOCH_MOVED");
  EXPECT_EQ(MetadataOf(refused.status())["epoch"], "1");
  epoch_ = RegisterEpoch("memory-2");
  EXPECT_EQ(epoch_, 2);
  ASSERT_EQ(changes_.back().epochs_size(), 1);
  EXPECT_EQ(changes_.back().epochs(0).epoch(), 2);
}

// R1, R7.
TEST_P(StoreTest, ClosedEpochsLeaseReturnsOnlyAfterEveryEdgeHasAnnounced) {
  SetUpPath();
  RegisterEdge("edge-2");
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  const v1::Entry unsettled = Entry(v1::ENTRY_KIND_SUSPEND, 0, {org}, 100);
  const v1::Entry settled = Entry(v1::ENTRY_KIND_SETTLE, 30, {org}, 100);
  epoch_ = RegisterEpoch("memory-2");
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 600);
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 0);
  EXPECT_EQ(Lease(org, 1, 1000), 400);

  EXPECT_EQ(Post(settled).outcome(), v1::POST_OUTCOME_POSTED);  // from the closed epoch's suspense
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 570);

  v1::AnnounceHoldsRequest announce;
  announce.set_org_id(path_[0]);
  announce.set_epoch(1);
  announce.set_edge_id("edge-1");
  *announce.add_unsettled() = unsettled;
  EXPECT_TRUE(store_->AnnounceHolds(announce).ok());
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 570);  // edge-2 has not
  EXPECT_EQ(store_->ListPendingAnnouncements("edge-1")->epochs_size(), 0);
  const auto waits = store_->ListPendingAnnouncements("edge-2");
  ASSERT_EQ(waits->epochs_size(), 1);
  EXPECT_EQ(waits->epochs(0).epoch(), 1);
  announce.set_edge_id("edge-2");
  announce.clear_unsettled();
  EXPECT_TRUE(store_->AnnounceHolds(announce).ok());
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 100);  // the announced hold
  EXPECT_EQ(store_->ListSuspense(Below("acme"))->rows_size(), 1);
  EXPECT_EQ(store_->ListSuspense(Below("acme"))->lost_lease_nanousd(), 0);
  EXPECT_EQ(Lease(org, 470, 1000), 470);
  EXPECT_THAT(Problems(), IsEmpty());

  v1::Entry late = unsettled;
  late.set_kind(v1::ENTRY_KIND_SETTLE);
  late.set_cost_nanousd(40);
  EXPECT_EQ(Post(late).outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 70);
  EXPECT_EQ(Lease(org, 60, 60), 60);
  EXPECT_THAT(Problems(), IsEmpty());
}

// It was never forwarded: it must not be resolved as if it had been, while another edge is waited for.
TEST_P(StoreTest, AnExpiredHoldThatItsEdgeDoesNotAnnounceIsDropped) {
  SetUpPath();
  RegisterEdge("edge-2");
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  const v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 0, {org}, 100);
  v1::PostExpiredRequest expired;
  expired.set_org_id(path_[0]);
  expired.set_epoch(epoch_);
  auto& hold = *expired.add_holds();
  hold.set_hold_id(entry.hold_id());
  *hold.mutable_account_ids() = entry.account_ids();
  *hold.mutable_covers() = entry.budgets();
  hold.set_edge_id("edge-1");
  EXPECT_TRUE(store_->PostExpired(expired).ok());
  epoch_ = RegisterEpoch("memory-2");
  EXPECT_EQ(store_->ListPendingAnnouncements("edge-1")->expired_size(), 0);
  v1::AnnounceHoldsRequest announce;
  announce.set_org_id(path_[0]);
  announce.set_epoch(1);
  announce.set_edge_id("edge-1");
  EXPECT_TRUE(store_->AnnounceHolds(announce).ok());
  EXPECT_EQ(*store_->ResolveOldSuspense(absl::InfiniteFuture()), 0);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 600);
  announce.set_edge_id("edge-2");
  EXPECT_TRUE(store_->AnnounceHolds(announce).ok());
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, LostLeaseOfALostEdgeWaitsForAnOperator) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  epoch_ = RegisterEpoch("memory-2");
  const auto waiting = store_->ListSuspense(Below("acme"));
  ASSERT_EQ(waiting->lost_leases_size(), 1);
  EXPECT_EQ(waiting->lost_leases(0).id(), absl::StrCat("epoch/", path_[0], "/1"));
  EXPECT_EQ(waiting->lost_leases(0).amount_nanousd(), 600);
  EXPECT_THAT(waiting->lost_leases(0).waiting_for(), ElementsAre("edge-1"));
  EXPECT_EQ(ReasonOf(store_->ReleaseLostLease(nullptr, path_[0], 2)),
            "SUSPENSE_NOT_FOUND");  // still open
  EXPECT_TRUE(store_->ReleaseLostLease(nullptr, path_[0], 1).ok());
  EXPECT_TRUE(store_->ReleaseLostLease(nullptr, path_[0], 1).ok());
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_EQ(store_->ListSuspense(Below("acme"))->lost_leases_size(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, AnnouncingAnOpenEpochIsRefused) {
  SetUpPath();
  v1::AnnounceHoldsRequest announce;
  announce.set_org_id(path_[0]);
  announce.set_epoch(1);
  announce.set_edge_id("edge-1");
  EXPECT_EQ(ReasonOf(store_->AnnounceHolds(announce)), "EPOCH_OPEN");
}

TEST_P(StoreTest, SuspensionReportedBeforeTheEpochClosedStaysUnlessItEnds) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  Post(Entry(v1::ENTRY_KIND_SUSPEND, 0, {org}, 100));
  epoch_ = RegisterEpoch("memory-2");
  v1::AnnounceHoldsRequest announce;
  announce.set_org_id(path_[0]);
  announce.set_epoch(1);
  announce.set_edge_id("edge-1");
  EXPECT_TRUE(store_->AnnounceHolds(announce).ok());
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 100);
  EXPECT_THAT(Problems(), IsEmpty());
}

// R5, second half.
TEST_P(StoreTest, ExpiredHoldWaitsInSuspenseForItsEnd) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 30, {org}, 100);
  v1::PostExpiredRequest expired;
  expired.set_org_id(path_[0]);
  expired.set_epoch(epoch_);
  auto& hold = *expired.add_holds();
  hold.set_hold_id(entry.hold_id());
  *hold.mutable_account_ids() = entry.account_ids();
  *hold.mutable_covers() = entry.budgets();
  hold.set_edge_id("edge-1");
  EXPECT_TRUE(store_->PostExpired(expired).ok());
  EXPECT_TRUE(store_->PostExpired(expired).ok());  // once
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 100);
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 500);
  const auto asked = store_->ListPendingAnnouncements("edge-1");
  ASSERT_EQ(asked->expired_size(), 1);
  EXPECT_EQ(asked->expired(0).hold_id(), entry.hold_id());
  EXPECT_EQ(store_->ListPendingAnnouncements("edge-2")->expired_size(), 0);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(store_->ListPendingAnnouncements("edge-1")->expired_size(), 0);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 30);
  EXPECT_EQ(Lease(org, 470, 470), 470);  // 400 unleased and the 70 not used
  EXPECT_THAT(Problems(), IsEmpty());
}

// What the store of holds had of a reservation that nobody heard of: its edge posts a void, before the
// expiry or after it, and nothing is suspended for good.
TEST_P(StoreTest, AVoidOfAnUnheardHoldReturnsItWheneverItExpires) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  for (const bool expires_first : {true, false}) {
    v1::Entry held = Entry(v1::ENTRY_KIND_VOID, 0, {org}, 100);
    v1::Entry unheard = held;  // the edge knows neither budgets nor amounts
    unheard.clear_budgets();
    v1::PostExpiredRequest expired;
    expired.set_org_id(path_[0]);
    expired.set_epoch(epoch_);
    auto& hold = *expired.add_holds();
    hold.set_hold_id(held.hold_id());
    *hold.mutable_account_ids() = held.account_ids();
    *hold.mutable_covers() = held.budgets();
    hold.set_edge_id("edge-1");
    const int64_t leased = Budget("acme#month").leased_nanousd();
    if (expires_first) {
      EXPECT_TRUE(store_->PostExpired(expired).ok());
      EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 100);
    }
    EXPECT_EQ(Post(unheard).outcome(), v1::POST_OUTCOME_POSTED);
    EXPECT_EQ(Post(unheard).outcome(), v1::POST_OUTCOME_DUPLICATE);
    EXPECT_TRUE(store_->PostExpired(expired).ok());
    EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
    EXPECT_EQ(Budget("acme#month").leased_nanousd(), leased - 100);
    EXPECT_EQ(store_->ListPendingAnnouncements("edge-1")->expired_size(), 0);
    // What the ledger asks about comes back with budgets, when the first void is there already.
    EXPECT_EQ(Post(held).outcome(), v1::POST_OUTCOME_CONFLICT);
  }
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ExpiryAfterTheEndReturnsWhatWasNotUsed) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  const v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 30, {org}, 100);
  Post(entry);
  v1::PostExpiredRequest expired;
  expired.set_org_id(path_[0]);
  expired.set_epoch(epoch_);
  auto& hold = *expired.add_holds();
  hold.set_hold_id(entry.hold_id());
  *hold.mutable_account_ids() = entry.account_ids();
  *hold.mutable_covers() = entry.budgets();
  EXPECT_TRUE(store_->PostExpired(expired).ok());
  EXPECT_TRUE(store_->PostExpired(expired).ok());
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 500);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, SuspensionIsOneRowThatTheEndClears) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  v1::Entry entry = Entry(v1::ENTRY_KIND_SUSPEND, 0, {org}, 100);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Post(entry).posted_nanousd(), 100);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 100);
  EXPECT_EQ(Budget("acme#month").available_nanousd(), 900);
  const auto explained = store_->ExplainRequest("req-1");
  ASSERT_TRUE(explained.ok());
  EXPECT_EQ(explained->attempts(0).state(), "suspense");
  v1::Entry end = entry;
  end.set_kind(v1::ENTRY_KIND_VOID);
  EXPECT_EQ(Post(end).outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_DUPLICATE);  // late: changes nothing
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_EQ(Budget("acme#month").available_nanousd(), 1000);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ResolutionIsReversedWhenTheTruthArrives) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  v1::Entry entry = Entry(v1::ENTRY_KIND_SUSPEND, 0, {org}, 100);
  Post(entry);
  const auto resolved = store_->ResolveSuspense(nullptr, entry.hold_id(), 60, "asked the provider");
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->entry().cost_nanousd(), 60);
  EXPECT_TRUE(store_->ResolveSuspense(nullptr, entry.hold_id(), 60, "again").ok());
  EXPECT_EQ(ReasonOf(store_->ResolveSuspense(nullptr, entry.hold_id(), 61, "").status()),
            "ALREADY_RESOLVED");
  EXPECT_EQ(ReasonOf(store_->ResolveSuspense(nullptr, std::string(16, 'x'), 1, "").status()),
            "SUSPENSE_NOT_FOUND");
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 60);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);

  v1::Entry truth = entry;
  truth.set_kind(v1::ENTRY_KIND_SETTLE);
  truth.set_cost_nanousd(45);
  EXPECT_EQ(Post(truth).outcome(), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(Post(truth).outcome(), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 45);
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 500);
  const auto entries = store_->ListEntries({});
  ASSERT_EQ(entries->entries_size(), 3);
  EXPECT_FALSE(entries->entries(0).reversing());
  EXPECT_TRUE(entries->entries(1).reversing());
  EXPECT_EQ(store_->GetSpend({})->total().cost_nanousd(), 45);
  EXPECT_EQ(store_->GetSpend({})->total().requests(), 1);
  EXPECT_EQ(store_->GetSpend({})->total().input_tokens(), 100);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, OldSuspenseIsBookedAtTheFullHold) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  Post(Entry(v1::ENTRY_KIND_SUSPEND, 0, {org}, 100));
  clock_.Advance(absl::Hours(23));
  EXPECT_EQ(store_->ResolveOldSuspense(clock_.Wall() - absl::Hours(24)).value(), 0);
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(store_->ResolveOldSuspense(clock_.Wall() - absl::Hours(24)).value(), 1);
  EXPECT_EQ(store_->counters().suspense_resolved_auto, 1);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 100);
  EXPECT_EQ(Budget("acme#month").suspense_nanousd(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, LowerLimitShrinksTheCapAsLeasesReturn) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 600);
  Post(Entry(v1::ENTRY_KIND_SETTLE, 100, {org}, 100));
  changes_.clear();
  SetBudget("acme", 300);
  EXPECT_EQ(Budget("acme#month").cap_nanousd(), 600);  // 100 spent, 500 leased
  ASSERT_EQ(changes_.back().budgets_size(), 1);
  EXPECT_TRUE(changes_.back().budgets(0).recall());
  EXPECT_TRUE(store_->Snapshot()->budgets(0).recall());
  v1::ReturnLeaseRequest back;
  back.set_org_id(path_[0]);
  back.set_epoch(epoch_);
  back.set_return_id(1);
  auto& amount = *back.add_amounts();
  amount.set_budget_id(org.budget_id());
  amount.set_period(org.period());
  amount.set_amount_nanousd(350);
  EXPECT_TRUE(store_->ReturnLease(back).ok());
  EXPECT_EQ(Budget("acme#month").cap_nanousd(), 300);
  EXPECT_FALSE(changes_.back().budgets(0).recall());
  EXPECT_EQ(Lease(org, 1, 1000), 50);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, AnOverrunCallsLeasesBack) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  Lease(org, 1, 1000);
  changes_.clear();
  Post(Entry(v1::ENTRY_KIND_SETTLE, 5000, {org}, 100));
  EXPECT_EQ(Budget("acme#month").overrun_nanousd(), 4900);  // 900 are still leased
  ASSERT_FALSE(changes_.empty());
  EXPECT_TRUE(changes_.back().budgets(0).recall());
  EXPECT_TRUE(store_->Snapshot()->budgets(0).recall());
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ReturnsCountOnceAndLeaveNothingBehind) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000);
  EXPECT_EQ(Lease(org, 1, 1000), 1000);
  v1::ReturnLeaseRequest back;
  back.set_org_id(path_[0]);
  back.set_epoch(epoch_);
  auto& amount = *back.add_amounts();
  amount.set_budget_id(org.budget_id());
  amount.set_period(org.period());
  const auto kept = [&] {
    int64_t rows = -1;
    EXPECT_TRUE(home_.database()
                    .Read([&](sql::Connection& c) -> absl::Status {
                      TH_ASSIGN_OR_RETURN(sql::Rows found, c.Query("SELECT count(*) FROM lease_returns"));
                      if (found.Next()) rows = found.Int(0);
                      return found.status();
                    })
                    .ok());
    return rows;
  };
  // Two enforcers bring them in any order, and again.
  constexpr std::pair<int, int> kSteps[] = {{1, 0}, {1, 0}, {3, 1}, {5, 2}, {3, 2}, {2, 1},
                                            {2, 1}, {1, 1}, {5, 1}, {4, 0}, {3, 0}, {6, 0}};
  for (const auto& [id, rows] : kSteps) {
    back.set_return_id(id);
    amount.set_amount_nanousd(10 * id);
    ASSERT_TRUE(store_->ReturnLease(back).ok());
    EXPECT_EQ(kept(), rows) << "return " << id;
  }
  EXPECT_EQ(Budget("acme#month").leased_nanousd(), 1000 - 10 * (1 + 2 + 3 + 4 + 5 + 6));
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, RaisesEndByThemselves) {
  SetUpPath();
  const v1::Budget org = SetBudget("acme", 1000, [](BudgetSpec& s) { s.hard_pct = 110; });
  int64_t version = 0;
  const absl::Time until = clock_.Wall() + absl::Hours(2);
  const auto raised =
      store_->RaiseBudget(nullptr, {.path = "acme"}, 200, until, "launch", "raise-1", &version);
  ASSERT_TRUE(raised.ok()) << raised.status();
  EXPECT_TRUE(
      store_->RaiseBudget(nullptr, {.path = "acme"}, 200, until, "launch", "raise-1", &version)
          .ok());
  EXPECT_EQ(raised->raised_nanousd(), 200);
  EXPECT_EQ(raised->limit_nanousd(), 1000);
  EXPECT_EQ(raised->available_nanousd(), 1320);
  EXPECT_EQ(Lease(org, 1, 1300), 1300);
  const auto next = store_->EndRaises();
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(*next, until);
  clock_.Advance(absl::Hours(2));
  EXPECT_EQ(Budget("acme#month").raised_nanousd(), 0);  // before anything has ended it on the books
  EXPECT_EQ(Budget("acme#month").available_nanousd(), 1100);
  changes_.clear();
  EXPECT_EQ(store_->EndRaises().value(), std::nullopt);
  EXPECT_TRUE(changes_.back().budgets(0).recall());
  EXPECT_EQ(Budget("acme#month").cap_nanousd(), 1300);
  EXPECT_EQ(
      ReasonOf(store_->RaiseBudget(nullptr, {.path = "acme"}, 1, clock_.Wall(), "", "", &version)
                   .status()),
      "BAD_ARGUMENT");
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, NewBudgetStartsWithWhatWasSpent) {
  SetUpPath();
  Post(Entry(v1::ENTRY_KIND_SETTLE, 70, {}, 0));
  clock_.Advance(absl::Hours(13));  // the 22nd in UTC and in Berlin
  v1::Entry other = Entry(v1::ENTRY_KIND_SETTLE, 20, {}, 0);
  other.set_model("gpt-5-mini");
  (*other.mutable_tags())["use_case"] = "batch";
  Post(other);
  EXPECT_EQ(SetBudget("acme", 1000).spent_nanousd(), 90);
  EXPECT_EQ(SetBudget("acme/payments", 1000, [](BudgetSpec& s) { s.window = "day"; }).spent_nanousd(), 20);
  EXPECT_EQ(SetBudget("acme/payments/sarah", 15).overrun_nanousd(), 75);
  EXPECT_EQ(SetBudget("acme", 50, [](BudgetSpec& s) { s.match = "model=gpt-5"; }).spent_nanousd(), 70);
  EXPECT_EQ(SetBudget("acme", 50, [](BudgetSpec& s) { s.match = "use_case=batch"; }).spent_nanousd(), 20);
  EXPECT_EQ(SetBudget("acme", 50, [](BudgetSpec& s) { s.match = "provider=nobody"; }).spent_nanousd(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, AnotherWindowZoneOrMatchIsAnotherBudgetOfTheSameId) {
  SetUpPath();
  Post(Entry(v1::ENTRY_KIND_SETTLE, 70, {}, 0));
  const v1::Budget first = SetBudget("acme", 1000);
  const v1::Budget same = SetBudget("acme", 900);
  EXPECT_EQ(first.budget_id(), same.budget_id());
  changes_.clear();
  const v1::Budget zoned =
      SetBudget("acme", 900, [](BudgetSpec& s) { s.time_zone = "Europe/Berlin"; });
  EXPECT_NE(zoned.budget_id(), same.budget_id());
  EXPECT_EQ(zoned.id(), "acme#month");
  EXPECT_EQ(zoned.period(), "2026-11@Europe/Berlin");
  EXPECT_EQ(zoned.spent_nanousd(), 70);
  EXPECT_THAT(changes_.back().deleted_budget_ids(), ElementsAre(same.budget_id()));
  EXPECT_EQ(store_->ListBudgets({})->budgets_size(), 1);
}

TEST_P(StoreTest, PeriodsRollOverAsNewRows) {
  SetUpPath();
  const v1::Budget day = SetBudget("acme", 1000, [](BudgetSpec& s) {
    s.window = "day";
    s.time_zone = "Europe/Berlin";
  });
  EXPECT_EQ(day.period(), "2026-11-21@Europe/Berlin");
  Lease(day, 1, 1000);
  const v1::Entry crossing = Entry(v1::ENTRY_KIND_SETTLE, 70, {day}, 100);
  clock_.Advance(absl::Hours(11));  // midnight in Berlin
  v1::Budget next = Budget("acme#day");
  EXPECT_EQ(next.period(), "2026-11-22@Europe/Berlin");
  EXPECT_EQ(next.spent_nanousd(), 0);
  EXPECT_EQ(next.available_nanousd(), 1000);
  EXPECT_EQ(Lease(next, 1000, 1000), 1000);
  EXPECT_EQ(Post(crossing).outcome(), v1::POST_OUTCOME_POSTED);  // where it was admitted
  EXPECT_EQ(Budget("acme#day").spent_nanousd(), 0);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ObservedBudgetsCountAndMayBeEnforcedLater) {
  SetUpPath();
  const v1::Budget org = SetBudget(
      "acme", 100, [](BudgetSpec& s) { s.mode = common::v1::BUDGET_MODE_OBSERVE; });
  EXPECT_EQ(Lease(org, 1, 100), 0);
  v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 130, {org}, 0);
  entry.mutable_budgets(0)->set_observe(true);
  Post(entry);
  EXPECT_EQ(Budget("acme#month").spent_nanousd(), 130);
  EXPECT_EQ(Budget("acme#month").available_nanousd(), 0);
  EXPECT_EQ(store_->counters().entries_above_hold, 0);
  const v1::Budget enforced = SetBudget("acme", 200);
  EXPECT_EQ(enforced.budget_id(), org.budget_id());
  EXPECT_EQ(enforced.overrun_nanousd(), 0);
  EXPECT_EQ(Lease(org, 1, 1000), 70);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ThresholdsAlertOncePerWindow) {
  SetUpPath();
  v1::SetWebhookRequest hook;
  hook.set_path("acme");
  hook.set_url("http://127.0.0.1:1/hook");
  hook.set_secret("s3cret");
  EXPECT_TRUE(store_->SetWebhook(nullptr, hook).ok());
  int wakes = 0;
  store_->SetDeliveriesAdded([&] { ++wakes; });
  const v1::Budget team =
      SetBudget("acme/payments", 1000, [](BudgetSpec& s) { s.soft_pct = {50, 80, 110}; });
  Post(Entry(v1::ENTRY_KIND_SETTLE, 499, {team}, 0));
  EXPECT_EQ(store_->ListAlerts({})->alerts_size(), 0);
  Post(Entry(v1::ENTRY_KIND_SETTLE, 1, {team}, 0));
  Post(Entry(v1::ENTRY_KIND_SETTLE, 1, {team}, 0));
  auto alerts = store_->ListAlerts({});
  ASSERT_EQ(alerts->alerts_size(), 1);
  EXPECT_EQ(alerts->alerts(0).threshold_pct(), 50);
  EXPECT_EQ(alerts->alerts(0).budget(), "acme/payments#month");
  EXPECT_EQ(alerts->alerts(0).spent_nanousd(), 500);
  EXPECT_EQ(alerts->alerts(0).delivery(), "pending");
  EXPECT_EQ(wakes, 1);
  Post(Entry(v1::ENTRY_KIND_SETTLE, 700, {team}, 0));  // crosses two at once
  alerts = store_->ListAlerts({});
  ASSERT_EQ(alerts->alerts_size(), 3);
  EXPECT_EQ(alerts->alerts(0).threshold_pct(), 110);  // newest first

  auto due = store_->DueDeliveries(10);
  ASSERT_EQ(due->size(), 3u);
  EXPECT_EQ((*due)[0].secret, "s3cret");
  EXPECT_THAT((*due)[0].body, HasSubstr(R"("threshold_pct":50,"limit_nanousd":"1000")"));
  EXPECT_TRUE(store_->RecordDelivery((*due)[0].id, "", std::nullopt).ok());
  EXPECT_TRUE(store_->RecordDelivery((*due)[1].id, "refused", clock_.Wall() + absl::Minutes(1)).ok());
  EXPECT_TRUE(store_->RecordDelivery((*due)[2].id, "gone", std::nullopt).ok());
  Reopen();
  EXPECT_EQ(store_->DueDeliveries(10)->size(), 0u);
  EXPECT_EQ(store_->NextDelivery().value(), clock_.Wall() + absl::Minutes(1));
  alerts = store_->ListAlerts({});
  EXPECT_EQ(alerts->alerts(0).delivery(), "failed");
  EXPECT_EQ(alerts->alerts(1).delivery(), "pending");
  EXPECT_EQ(alerts->alerts(1).last_error(), "refused");
  EXPECT_EQ(alerts->alerts(2).delivery(), "delivered");
  clock_.Advance(absl::Minutes(1));
  EXPECT_EQ(store_->DueDeliveries(10)->size(), 1u);
}

TEST_P(StoreTest, TemplatesGiveEachAccountABudgetOfItsOwn) {
  SetUpPath();
  const v1::Budget each = SetBudget("acme", 500, [](BudgetSpec& s) { s.for_each = ACCOUNT_KIND_USER; });
  EXPECT_EQ(each.id(), "acme#month*user");
  EXPECT_EQ(Budget("acme/payments/sarah#month").from_template(), "acme#month*user");
  Create("acme/payments/tom");
  EXPECT_EQ(Budget("acme/payments/tom#month").limit_nanousd(), 500);
  SetBudget("acme/payments/tom", 900);  // his own from now on
  SetBudget("acme", 600, [](BudgetSpec& s) { s.for_each = ACCOUNT_KIND_USER; });
  EXPECT_EQ(Budget("acme/payments/sarah#month").limit_nanousd(), 600);
  EXPECT_EQ(Budget("acme/payments/tom#month").limit_nanousd(), 900);
  EXPECT_EQ(Budget("acme/payments/tom#month").from_template(), "");
  // A nearer template wins.
  SetBudget("acme/payments", 50, [](BudgetSpec& s) { s.for_each = ACCOUNT_KIND_USER; });
  EXPECT_EQ(Budget("acme/payments/sarah#month").limit_nanousd(), 50);
  SetBudget("acme", 700, [](BudgetSpec& s) { s.for_each = ACCOUNT_KIND_USER; });
  EXPECT_EQ(Budget("acme/payments/sarah#month").limit_nanousd(), 50);
  int64_t version = 0;
  EXPECT_EQ(
      store_->DeleteBudget(nullptr, {.path = "acme/payments", .window = "month"}, &version).value(),
      "acme/payments#month*user");
  v1::ListBudgetsRequest sarah;
  sarah.set_path("acme/payments/sarah");
  EXPECT_EQ(store_->ListBudgets(sarah)->budgets_size(), 0);
}

TEST_P(StoreTest, AtMost32BudgetsApplyToARequest) {
  SetUpPath();
  for (int i = 0; i < 31; ++i) {
    SetBudget("acme", 1, [&](BudgetSpec& s) { s.name = absl::StrCat("b", i); });
  }
  SetBudget("acme/payments/sarah", 1);
  BudgetSpec spec;
  spec.path = "acme/payments";
  int64_t version = 0;
  EXPECT_EQ(ReasonOf(store_->SetBudget(nullptr, spec, &version).status()), "TOO_MANY_BUDGETS");
  spec.path = "acme/payments/sarah";
  EXPECT_TRUE(store_->SetBudget(nullptr, spec, &version).ok());  // an update adds none
  EXPECT_EQ(store_->ListBudgets({})->budgets_size(), 32);
}

TEST_P(StoreTest, MovingAnAccountRewritesNoPast) {
  SetUpPath();
  Create("acme/risk");
  const v1::Budget team = SetBudget("acme/payments", 1000);
  SetBudget("acme/risk", 800, [](BudgetSpec& s) { s.for_each = ACCOUNT_KIND_USER; });
  SetBudget("acme/payments/sarah", 30);
  Lease(team, 1, 1000);
  Post(Entry(v1::ENTRY_KIND_SETTLE, 70, {team}, 100));
  v1::MoveAccountRequest move;
  move.set_path("acme/payments/sarah");
  move.set_new_path("acme/risk/sara");
  int64_t version = 0;
  const auto moved = store_->MoveAccount(nullptr, move, &version);
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->id(), path_[2]);
  EXPECT_THAT(changes_.back().changed_account_ids(), ElementsAre(path_[2]));
  EXPECT_EQ(store_->GetAccount("acme/risk/sara/laptop")->id(), path_[3]);
  EXPECT_EQ(ReasonOf(store_->GetAccount("acme/payments/sarah").status()), "ACCOUNT_NOT_FOUND");
  EXPECT_EQ(Budget("acme/risk/sara#month").limit_nanousd(), 30);
  v1::GetSpendRequest spend;
  spend.set_path("acme/payments");
  spend.add_by("team");
  spend.add_by("user");
  const auto rows = store_->GetSpend(spend);
  ASSERT_EQ(rows->rows_size(), 1);
  EXPECT_EQ(rows->rows(0).group().at("team"), "acme/payments");
  EXPECT_EQ(rows->rows(0).group().at("user"), "acme/risk/sara");
  spend.set_path("acme/risk");
  EXPECT_EQ(store_->GetSpend(spend)->total().cost_nanousd(), 0);

  move.set_path("acme/risk");
  move.set_new_path("acme/risk/sara/x");
  EXPECT_FALSE(store_->MoveAccount(nullptr, move, &version).ok());
  move.set_new_path("acme/payments");
  EXPECT_EQ(ReasonOf(store_->MoveAccount(nullptr, move, &version).status()), "ACCOUNT_EXISTS");
  Create("other");
  move.set_new_path("other/risk");
  EXPECT_EQ(ReasonOf(store_->MoveAccount(nullptr, move, &version).status()), "BAD_ARGUMENT");
}

TEST_P(StoreTest, NamesAreCheckedAndUniqueAmongSiblings) {
  SetUpPath();
  const auto create = [&](const std::string& path, common::v1::AccountKind kind, bool if_absent = false) {
    v1::CreateAccountRequest request;
    request.set_path(path);
    request.set_kind(kind);
    request.set_owner("sarah@acme.example");
    request.set_if_absent(if_absent);
    int64_t version = 0;
    return store_->CreateAccount(nullptr, request, &version);
  };
  for (const char* path : {"", "/", "acme/", "/acme", "acme//x", "acme/..", "acme/.", "acme/a b",
                           "acme/a\nb", "acme/\xc3\xa4", "a/b/c/d/e", "acme/#x"}) {
    const auto status = create(path, ACCOUNT_KIND_TEAM).status();
    EXPECT_EQ(ReasonOf(status), "BAD_NAME") << path << status;
  }
  EXPECT_EQ(ReasonOf(create("acme/" + std::string(65, 'x'), ACCOUNT_KIND_TEAM).status()), "BAD_NAME");
  EXPECT_TRUE(create("acme/" + std::string(64, 'x'), ACCOUNT_KIND_TEAM).ok());
  EXPECT_EQ(ReasonOf(create("acme/payments", ACCOUNT_KIND_TEAM).status()), "ACCOUNT_EXISTS");
  EXPECT_EQ(ReasonOf(create("acme/t", ACCOUNT_KIND_USER).status()), "BAD_ARGUMENT");
  EXPECT_EQ(ReasonOf(create("nobody/t", ACCOUNT_KIND_TEAM).status()), "ACCOUNT_NOT_FOUND");
  const auto upserted = create("acme/payments", ACCOUNT_KIND_TEAM, true);
  ASSERT_TRUE(upserted.ok());
  EXPECT_FALSE(upserted->created());
  EXPECT_EQ(upserted->account().owner(), "sarah@acme.example");
  CreateKey("acme", "ci");
  EXPECT_EQ(ReasonOf(create("acme/ci", ACCOUNT_KIND_TEAM).status()), "ACCOUNT_EXISTS");
}

TEST_P(StoreTest, KeyAccountsAreIdempotentByRequest) {
  SetUpPath();
  v1::CreateKeyAccountRequest request;
  request.set_parent_path("acme/payments");
  request.set_name("ci");
  request.set_client_request_id("r1");
  int64_t version = 0;
  const auto first = store_->CreateKeyAccount(request, &version);
  const auto again = store_->CreateKeyAccount(request, &version);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(first->account_id(), again->account_id());
  EXPECT_EQ(first->org_id(), path_[0]);
  request.set_client_request_id("r2");
  EXPECT_EQ(ReasonOf(store_->CreateKeyAccount(request, &version).status()), "ACCOUNT_EXISTS");
  EXPECT_TRUE(store_->DeleteKeyAccount(first->account_id(), &version).ok());
  EXPECT_TRUE(store_->DeleteKeyAccount(first->account_id(), &version).ok());
  EXPECT_EQ(ReasonOf(store_->DeleteKeyAccount(path_[1], &version)), "ACCOUNT_NOT_FOUND");
  v1::ResolveAccountRequest resolve;
  resolve.set_account_id(first->account_id());
  EXPECT_EQ(ReasonOf(store_->ResolveAccount(resolve).status()), "ACCOUNT_NOT_FOUND");
}

TEST_P(StoreTest, DeletingIsATombstone) {
  SetUpPath();
  const v1::Budget team = SetBudget("acme/payments", 1000);
  Lease(team, 1, 1000);
  const v1::Entry entry = Entry(v1::ENTRY_KIND_SETTLE, 70, {team}, 100);
  int64_t version = 0;
  EXPECT_THAT(store_->DeleteAccount(nullptr, "acme/payments", true, &version).value(),
              ElementsAre("acme/payments", "acme/payments/sarah", "acme/payments/sarah/laptop"));
  EXPECT_EQ(store_->ListBudgets({})->budgets_size(), 1);
  EXPECT_EQ(store_->DeleteAccount(nullptr, "acme/payments", false, &version)->size(), 3u);
  EXPECT_THAT(changes_.back().deleted_budget_ids(), ElementsAre(team.budget_id()));
  EXPECT_EQ(store_->DeleteAccount(nullptr, "acme/payments", false, &version)->size(), 0u);
  EXPECT_EQ(ReasonOf(store_->DeleteAccount(nullptr, "nobody", false, &version).status()),
            "ACCOUNT_NOT_FOUND");
  EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);  // what was in flight still counts
  v1::GetSpendRequest spend;
  spend.add_by("team");
  EXPECT_EQ(store_->GetSpend(spend)->rows(0).group().at("team"), "acme/payments");
  const int64_t id = Create("acme/payments");  // the name is free again, the id is new
  EXPECT_NE(id, path_[1]);
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(StoreTest, ResolveGivesTheChainWithTagsAndLimits) {
  SetUpPath();
  v1::SetLimitsRequest limits;
  limits.set_path("acme/payments");
  limits.set_requests_per_minute(60);
  limits.set_max_output_tokens(4096);
  int64_t version = 0;
  EXPECT_TRUE(store_->SetLimits(nullptr, limits, &version).ok());
  limits.clear_max_output_tokens();
  limits.set_requests_per_minute(0);
  EXPECT_EQ(store_->SetLimits(nullptr, limits, &version)->limits().max_output_tokens(), 4096);
  v1::ResolveAccountRequest resolve;
  resolve.set_account_id(path_[3]);
  const auto chain = store_->ResolveAccount(resolve);
  ASSERT_EQ(chain->chain_size(), 4);
  EXPECT_EQ(chain->chain(0).kind(), ACCOUNT_KIND_ORG);
  EXPECT_EQ(chain->chain(1).limits().max_output_tokens(), 4096);
  EXPECT_EQ(chain->chain(1).limits().requests_per_minute(), 0);
  EXPECT_EQ(chain->chain(3).path(), "acme/payments/sarah/laptop");

  v1::ResolveAccountsRequest several;
  several.add_account_ids(path_[3]);
  several.add_account_ids(path_[1]);
  several.add_account_ids(path_[3] + 1000);
  const auto accounts = store_->ResolveAccounts(several);
  ASSERT_TRUE(accounts.ok()) << accounts.status();
  ASSERT_EQ(accounts->accounts_size(), 4);
  EXPECT_EQ(accounts->accounts(0).parent_id(), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(accounts->accounts(i).account().ShortDebugString(), chain->chain(i).ShortDebugString());
    if (i > 0) {
      EXPECT_EQ(accounts->accounts(i).parent_id(), path_[i - 1]);
    }
  }
  EXPECT_EQ(store_->Snapshot()->limits_size(), 1);
}

TEST_P(StoreTest, SpendIsGroupedAndSorted) {
  SetUpPath();
  Post(Entry(v1::ENTRY_KIND_SETTLE, 70, {}, 0));
  v1::Entry other = Entry(v1::ENTRY_KIND_SETTLE, 100, {}, 0);
  other.set_model("gpt-5-mini");
  (*other.mutable_tags())["use_case"] = "batch";
  Post(other);
  Post(Entry(v1::ENTRY_KIND_VOID, 0, {}, 0));
  v1::GetSpendRequest request;
  request.add_by("model");
  request.add_by("tag:use_case");
  const auto spend = store_->GetSpend(request);
  ASSERT_EQ(spend->rows_size(), 2);
  EXPECT_EQ(spend->rows(0).group().at("model"), "gpt-5-mini");
  EXPECT_EQ(spend->rows(0).group().at("tag:use_case"), "batch");
  EXPECT_EQ(spend->rows(1).group().at("tag:use_case"), "");
  EXPECT_EQ(spend->total().requests(), 2);
  EXPECT_EQ(spend->total().input_tokens(), 200);
  EXPECT_EQ(spend->total().cost_nanousd(), 170);
  request.mutable_since()->set_seconds(absl::ToUnixSeconds(clock_.Wall()) + 1);
  EXPECT_EQ(store_->GetSpend(request)->rows_size(), 0);
  request.add_by("colour");
  EXPECT_EQ(ReasonOf(store_->GetSpend(request).status()), "BAD_ARGUMENT");
}

TEST_P(StoreTest, EntriesAreListedInPostingOrderAfterACursor) {
  SetUpPath();
  for (int i = 1; i <= 5; ++i) Post(Entry(v1::ENTRY_KIND_SETTLE, i, {}, 0));
  v1::ListEntriesRequest request;
  request.set_path("acme/payments");
  request.set_page_size(2);
  std::vector<int64_t> costs;
  for (;;) {
    const auto page = store_->ListEntries(request);
    for (const auto& entry : page->entries()) costs.push_back(entry.entry().cost_nanousd());
    if (!page->has_next()) break;
    request.set_after_sequence(page->next().after_sequence());
    request.set_after_org_id(page->next().after_org_id());
  }
  EXPECT_THAT(costs, ElementsAre(1, 2, 3, 4, 5));
  const auto by_hold = store_->ExplainRequest(
      UuidFromRaw(store_->ListEntries({})->entries(2).entry().hold_id())->ToString());
  EXPECT_EQ(by_hold->attempts(0).entry().cost_nanousd(), 3);
  EXPECT_EQ(ReasonOf(store_->ExplainRequest("nothing").status()), "REQUEST_NOT_FOUND");
}

TEST_P(StoreTest, SuspenseIsListedInPagesOldestFirst) {
  SetUpPath();
  SetBudget("acme", 100'000);
  std::vector<std::string> expected;
  for (int i = 1; i <= 5; ++i) {
    if (i != 3) clock_.Advance(absl::Seconds(1));  // two at the same time
    v1::Entry entry = Entry(v1::ENTRY_KIND_SUSPEND, 0, {}, 0);
    entry.set_hold_nanousd(i);
    entry.set_request_id(absl::StrCat("request ", i));
    EXPECT_EQ(Post(entry).outcome(), v1::POST_OUTCOME_POSTED);
    expected.push_back(entry.request_id());
  }
  v1::ListSuspenseRequest request = Below("acme/payments");
  request.set_page_size(2);
  std::vector<std::string> seen;
  std::vector<int> pages;
  for (;;) {
    const auto page = store_->ListSuspense(request);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const auto& row : page->rows()) seen.push_back(row.request_id());
    pages.push_back(page->rows_size());
    if (page->next().empty()) break;
    request.set_after(page->next());
  }
  EXPECT_THAT(seen, ::testing::UnorderedElementsAreArray(expected));
  EXPECT_EQ(seen.front(), "request 1");
  EXPECT_EQ(seen.back(), "request 5");
  EXPECT_THAT(pages, ElementsAre(2, 2, 1));
  EXPECT_EQ(store_->ExplainRequest("request 4")->attempts_size(), 1);
  for (const char* const bad : {"x", "1/2/3", "1/018f2a7c-6d1e-7cc2-98c4-dc0c0c07398f"}) {
    request.set_after(bad);
    EXPECT_EQ(ReasonOf(store_->ListSuspense(request).status()), "BAD_ARGUMENT") << bad;
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);

}  // namespace
}  // namespace tollhouse::ledger
