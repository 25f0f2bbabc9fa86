// Durable state of the ledger: accounts, budgets, escrow and journal.
//
// Every method is one transaction: all of it is durable when it returns OK, none of it otherwise.
// Messages of the API serve as values; requests come validated (validate.h). Errors carry the
// reasons of the protos and of libs/sql/database.h: SQL_FULL (RESOURCE_EXHAUSTED) when the disk is
// full, SQL_COMMIT_UNKNOWN when nobody can say: every change is idempotent by its key, so call
// again. Thread-safe. store/conformance_test.cc is what every implementation has to pass.
//
// Methods that carry out what somebody asked for take his call: it is told what it was about and
// appended to the audit log in the same transaction. Null: nobody asked, nothing is recorded.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tollhouse/ledger/v1/ledger.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.pb.h"

namespace tollhouse::audit {
class Call;
}

namespace tollhouse::ledger {

// What is set of a budget, validated, with defaults filled in.
struct BudgetSpec {
  std::string path;
  std::string name;
  std::string window = "month";
  std::string time_zone = "UTC";
  std::string anchor;  // YYYY-MM-DD for Nd; "": the anchor it has, else today in its zone
  std::string match;   // EncodeTags
  common::v1::AccountKind for_each = common::v1::ACCOUNT_KIND_UNSPECIFIED;  // unspecified: concrete
  int64_t limit_nanos = 0;
  int hard_pct = 100;
  std::vector<int> soft_pct = {80};
  common::v1::BudgetMode mode = common::v1::BUDGET_MODE_ENFORCE;
  common::v1::BoundPolicy bound = common::v1::BOUND_POLICY_STRICT;
  common::v1::OutagePolicy on_outage = common::v1::OUTAGE_POLICY_CLOSED;
};

// Which budget of an account is meant. Empty window: the only one it has.
struct BudgetKey {
  std::string path;
  std::string name;
  std::string window;
  std::string match;
};

// One webhook delivery that is due.
struct Delivery {
  int64_t id = 0;
  std::string url;
  std::string secret;
  bool allow_private = false;
  int attempts = 0;  // so far
  std::string body;
};

// Counts since the store was opened, for metrics.
struct StoreCounters {
  int64_t entries_posted = 0;
  int64_t entries_duplicate = 0;
  int64_t entries_conflicting = 0;
  int64_t entries_rejected = 0;
  int64_t entries_above_hold = 0;      // cost > hold: the excess was charged beyond the hold
  int64_t suspense_resolved_auto = 0;
  int64_t cover_missing = 0;           // an epoch held less than a posting named: a bug somewhere
};

// What an audit of the balances found.
struct AuditReport {
  std::vector<std::string> drift;  // what does not hold, naming the row; must be empty

  // Money whose end is unknown. Every cause and age is listed.
  struct Unproven {
    std::string cause;  // "suspended" by an edge, "expired", "announced" of a closed epoch, "lost_lease"
    std::string age;    // "1h", "24h": less than that; "older"
    int64_t count = 0;
    int64_t nanos = 0;
  };
  std::vector<Unproven> unproven;
  absl::Duration oldest_unproven;

  int64_t leased_nanos = 0;
  absl::Duration oldest_lease;      // since its epoch was opened
  std::optional<bool> synchronous;  // PostgreSQL: whether a COMMIT waits for a standby
};

class Store {
 public:
  virtual ~Store() = default;

  // What watchers know is changed through the change log (libs/sql/change_log.h), whose payloads are
  // WatchResponses; `version` parameters below receive the log's version, 0 if nothing changed.
  // `changed` is called after each COMMIT that appended to it. Set once, before the store is shared.
  virtual void SetChanged(std::function<void()> changed) = 0;
  // To be called whenever the database server may have become another one: if it continues another
  // history of commits (a promoted standby, a restored backup), everything that was leased is given up
  // and edges are told to post again. Whatever writes notices that by itself; this is for those who would
  // wait for it. Idempotent.
  virtual absl::Status CheckServer() = 0;
  // Called after a COMMIT that added deliveries. Set once, before the store is shared.
  virtual void SetDeliveriesAdded(std::function<void()> callback) = 0;

  // Everything a watcher has to know (snapshot = true).
  virtual absl::StatusOr<v1::WatchResponse> Snapshot() = 0;

  // --- accounts
  virtual absl::StatusOr<v1::CreateAccountResponse> CreateAccount(
      audit::Call* audit, const v1::CreateAccountRequest& request, int64_t* version) = 0;
  virtual absl::StatusOr<v1::CreateKeyAccountResponse> CreateKeyAccount(
      const v1::CreateKeyAccountRequest& request, int64_t* version) = 0;
  virtual absl::Status DeleteKeyAccount(int64_t account_id, int64_t* version) = 0;
  virtual absl::StatusOr<v1::Account> GetAccount(std::string_view path) = 0;
  virtual absl::StatusOr<v1::ListAccountsResponse> ListAccounts(
      const v1::ListAccountsRequest& request) = 0;
  virtual absl::StatusOr<v1::Account> MoveAccount(audit::Call* audit,
                                                  const v1::MoveAccountRequest& request,
                                                  int64_t* version) = 0;
  // The paths deleted (or that would be).
  virtual absl::StatusOr<std::vector<std::string>> DeleteAccount(audit::Call* audit,
                                                                 std::string_view path,
                                                                 bool dry_run,
                                                                 int64_t* version) = 0;
  virtual absl::StatusOr<v1::ResolveAccountResponse> ResolveAccount(
      const v1::ResolveAccountRequest& request) = 0;
  virtual absl::StatusOr<v1::ResolveAccountsResponse> ResolveAccounts(
      const v1::ResolveAccountsRequest& request) = 0;
  virtual absl::StatusOr<v1::SetLimitsResponse> SetLimits(audit::Call* audit,
                                                          const v1::SetLimitsRequest& request,
                                                          int64_t* version) = 0;
  virtual absl::StatusOr<v1::ListLimitsResponse> ListLimits(const v1::ListLimitsRequest& request) = 0;
  // Replaces the account's rules; tags are different ones.
  virtual absl::StatusOr<v1::AccountTagRules> SetTagRules(audit::Call* audit,
                                                          const v1::SetTagRulesRequest& request,
                                                          int64_t* version) = 0;
  virtual absl::StatusOr<v1::ListTagRulesResponse> ListTagRules(
      const v1::ListTagRulesRequest& request) = 0;

  // --- budgets
  // FAILED_PRECONDITION (TOO_MANY_BUDGETS) if more than 32 could match one request.
  virtual absl::StatusOr<v1::SetBudgetResponse> SetBudget(audit::Call* audit,
                                                          const BudgetSpec& spec,
                                                          int64_t* version) = 0;
  virtual absl::StatusOr<v1::ListBudgetsResponse> ListBudgets(
      const v1::ListBudgetsRequest& request) = 0;
  virtual absl::StatusOr<std::string> DeleteBudget(audit::Call* audit, const BudgetKey& key,
                                                   int64_t* version) = 0;
  virtual absl::StatusOr<v1::Budget> RaiseBudget(audit::Call* audit, const BudgetKey& key,
                                                 int64_t by_nanos, absl::Time until,
                                                 std::string_view reason,
                                                 std::string_view client_request_id,
                                                 int64_t* version) = 0;
  // Ends the raises whose time has come. The moment of the next one, if there is one.
  virtual absl::StatusOr<std::optional<absl::Time>> EndRaises() = 0;

  // --- escrow
  virtual absl::StatusOr<int64_t> RegisterEpoch(const v1::RegisterEpochRequest& request,
                                                int64_t* version) = 0;
  virtual absl::Status RegisterEdge(const v1::RegisterEdgeRequest& request) = 0;
  virtual absl::StatusOr<v1::GrantLeaseResponse> GrantLease(const v1::GrantLeaseRequest& request) = 0;
  virtual absl::Status AcknowledgeGrants(const v1::AcknowledgeGrantsRequest& request) = 0;
  virtual absl::StatusOr<v1::ListGrantsResponse> ListGrants(const v1::ListGrantsRequest& request) = 0;
  virtual absl::Status ReturnLease(const v1::ReturnLeaseRequest& request) = 0;
  virtual absl::Status PostExpired(const v1::PostExpiredRequest& request) = 0;
  virtual absl::Status AnnounceHolds(const v1::AnnounceHoldsRequest& request) = 0;
  virtual absl::StatusOr<v1::ListPendingAnnouncementsResponse> ListPendingAnnouncements(
      std::string_view edge_id) = 0;
  // One result per entry, in order. Entries fail alone: only infrastructure fails the whole call.
  virtual absl::StatusOr<std::vector<v1::PostResult>> Post(
      std::span<const v1::Entry* const> entries) = 0;

  // --- suspense
  virtual absl::StatusOr<v1::ListSuspenseResponse> ListSuspense(
      const v1::ListSuspenseRequest& request) = 0;
  virtual absl::StatusOr<v1::JournalEntry> ResolveSuspense(audit::Call* audit,
                                                           std::string_view raw_hold_id,
                                                           int64_t cost_nanos,
                                                           std::string_view reason) = 0;
  // A reversing entry and a corrected one for a hold that has ended. Idempotent by client_request_id.
  virtual absl::StatusOr<v1::AdjustEntryResponse> AdjustEntry(
      audit::Call* audit, std::string_view raw_hold_id, int64_t cost_nanos, std::string_view reason,
      std::string_view client_request_id) = 0;
  // Gives up waiting for the announcements of a closed epoch: as if its missing edges had announced
  // nothing. Idempotent. NOT_FOUND (SUSPENSE_NOT_FOUND) if there is no such closed epoch.
  virtual absl::Status ReleaseLostLease(audit::Call* audit, int64_t org_id, int64_t epoch) = 0;
  // Resolves what has been in suspense since `before` or earlier at its full hold. How many.
  virtual absl::StatusOr<int64_t> ResolveOldSuspense(absl::Time before) = 0;

  // --- reports
  virtual absl::StatusOr<v1::GetSpendResponse> GetSpend(const v1::GetSpendRequest& request) = 0;
  virtual absl::StatusOr<v1::ExplainRequestResponse> ExplainRequest(std::string_view request_id) = 0;
  virtual absl::StatusOr<v1::ListEntriesResponse> ListEntries(const v1::ListEntriesRequest& request) = 0;
  // Calls `progress` now and then and once with `done`; false from it stops early (CANCELLED).
  // `expected` are heads of an earlier verification.
  virtual absl::Status Verify(
      const google::protobuf::RepeatedPtrField<v1::JournalHead>& expected,
      const std::function<bool(const v1::VerifyLedgerProgress&)>& progress) = 0;

  // Compares every balance with its lines, its leases and its suspense (I1, I2, I7), over one snapshot
  // and without reading journal entries.
  virtual absl::StatusOr<AuditReport> AuditBalances() = 0;

  // --- alerts
  virtual absl::StatusOr<v1::Webhook> SetWebhook(audit::Call* audit,
                                                 const v1::SetWebhookRequest& request) = 0;
  virtual absl::StatusOr<v1::ListWebhooksResponse> ListWebhooks(std::string_view path) = 0;
  virtual absl::Status DeleteWebhook(audit::Call* audit,
                                     const v1::DeleteWebhookRequest& request) = 0;
  virtual absl::StatusOr<v1::ListAlertsResponse> ListAlerts(const v1::ListAlertsRequest& request) = 0;
  // At most `limit` deliveries that are due, the longest due first.
  virtual absl::StatusOr<std::vector<Delivery>> DueDeliveries(int limit) = 0;
  // When the next delivery falls due.
  virtual absl::StatusOr<std::optional<absl::Time>> NextDelivery() = 0;
  // error "": delivered. retry_at unset: given up.
  virtual absl::Status RecordDelivery(int64_t id, std::string_view error,
                                      std::optional<absl::Time> retry_at) = 0;

  // What has to be done now and then, once an hour is enough: makes room ahead for the journal.
  virtual absl::Status Maintain() = 0;

  virtual StoreCounters counters() const = 0;
};

}  // namespace tollhouse::ledger
