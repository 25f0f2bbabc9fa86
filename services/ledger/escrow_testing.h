// One org with one budget, an epoch and a lease: what tests of the store's surroundings start from.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/uuid.h"
#include "libs/testing/fake_clock.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

// Org "acme" with a monthly budget of 1000 nano-dollars.
class TestOrg {
 public:
  TestOrg(Store* store, const testing::FakeClock* clock) : clock_(clock) {
    v1::CreateAccountRequest org;
    org.set_kind(common::v1::ACCOUNT_KIND_ORG);
    org.set_path("acme");
    int64_t version = 0;
    const auto created = store->CreateAccount(nullptr, org, &version);
    EXPECT_TRUE(created.ok()) << created.status();
    id = created->account().id();
    BudgetSpec spec;
    spec.path = "acme";
    spec.limit_nanos = 1000;
    const auto set = store->SetBudget(nullptr, spec, &version);
    EXPECT_TRUE(set.ok()) << set.status();
    budget = set->budget();
  }

  absl::StatusOr<int64_t> OpenEpoch(Store& store, const std::string& incarnation) {
    v1::RegisterEpochRequest request;
    request.set_org_id(id);
    request.set_expected_epoch(epoch);
    request.set_incarnation(incarnation);
    int64_t version = 0;
    absl::StatusOr<int64_t> opened = store.RegisterEpoch(request, &version);
    if (opened.ok()) epoch = *opened;
    return opened;
  }

  absl::Status RegisterEdge(Store& store, const std::string& edge) const {
    v1::RegisterEdgeRequest request;
    request.set_org_id(id);
    request.set_epoch(epoch);
    request.set_edge_id(edge);
    return store.RegisterEdge(request);
  }

  // What was granted.
  absl::StatusOr<int64_t> Lease(Store& store, int64_t want) {
    v1::GrantLeaseRequest request;
    request.set_org_id(id);
    request.set_epoch(epoch);
    request.set_request_id(absl::StrCat("grant-", ++grants_));
    auto& item = *request.add_items();
    item.set_budget_id(budget.budget_id());
    item.set_period(budget.period());
    item.set_need_nanousd(1);
    item.set_want_nanousd(want);
    const auto granted = store.GrantLease(request);
    if (!granted.ok()) return granted.status();
    return granted->items(0).granted_nanousd();
  }

  // Of a hold of 100.
  v1::Entry Entry(v1::EntryKind kind, int64_t cost) const {
    v1::Entry entry;
    entry.set_hold_id(std::string(NewUuid(clock_->Wall()).raw()));
    entry.set_kind(kind);
    entry.add_account_ids(id);
    entry.set_epoch(epoch);
    auto& held = *entry.add_budgets();
    held.set_budget_id(budget.budget_id());
    held.set_period(budget.period());
    held.set_amount_nanousd(100);
    entry.set_hold_nanousd(100);
    entry.set_cost_nanousd(cost);
    return entry;
  }

  static v1::PostOutcome Post(Store& store, const v1::Entry& entry) {
    const v1::Entry* const entries[] = {&entry};
    const auto results = store.Post(entries);
    EXPECT_TRUE(results.ok()) << results.status();
    if (!results.ok()) return v1::POST_OUTCOME_UNSPECIFIED;
    EXPECT_EQ(results->front().message(), "");
    return results->front().outcome();
  }

  v1::Budget Now(Store& store) const {
    v1::ListBudgetsRequest request;
    request.set_id("acme#month");
    const auto list = store.ListBudgets(request);
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? list->budgets(0) : v1::Budget();
  }

  // Everything that is wrong with the ledger.
  static std::vector<std::string> Problems(Store& store) {
    std::vector<std::string> problems;
    const absl::Status read = store.Verify({}, [&](const v1::VerifyLedgerProgress& progress) {
      problems.assign(progress.problems().begin(), progress.problems().end());
      return true;
    });
    EXPECT_TRUE(read.ok()) << read;
    const auto report = store.AuditBalances();
    EXPECT_TRUE(report.ok()) << report.status();
    if (report.ok()) problems.insert(problems.end(), report->drift.begin(), report->drift.end());
    return problems;
  }

  int64_t id = 0;
  int64_t epoch = 0;
  v1::Budget budget;

 private:
  const testing::FakeClock* const clock_;
  int grants_ = 0;
};

}  // namespace tollhouse::ledger
