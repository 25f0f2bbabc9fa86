// The ledger's store on one SQLite file. See store.h for what it promises.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/clock.h"
#include "libs/base/uuid.h"
#include "libs/base/window.h"
#include "libs/sql/sqlite.h"
#include "services/ledger/core/budget_row.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

extern const std::string_view kSchema1;  // migrations/0001_ledger.sql
extern const std::string_view kSchema2;  // migrations/0002_grant_requests.sql

// journal.kind
enum class Movement : int {
  kSettle = 1,
  kVoid = 2,
  kResolve = 3,
  kReverse = 4,
  kCorrect = 5,
  kOpen = 10,
  kCap = 11,
  kLease = 12,
  kReturn = 13,
  kSuspend = 14,
  kExpire = 15,
  kCloseEpoch = 16,
  kReclaim = 17,
};

// suspense.origin and suspense.state
enum class Origin : int { kSuspended = 1, kExpired = 2, kAnnounced = 3 };
enum class SuspenseState : int { kOwn = 1, kInLost = 2, kClosed = 3 };

struct AccountRow {
  int64_t id = 0;
  int64_t org_id = 0;
  int64_t parent_id = 0;
  common::v1::AccountKind kind = common::v1::ACCOUNT_KIND_UNSPECIFIED;
  std::string path;
  std::string owner;
  std::string cost_center;
  std::string tags;
  bool require_budget = false;
  common::v1::Limits limits;
  absl::Time created_at;
  bool deleted = false;
};

struct BudgetDefinition {
  int64_t id = 0;
  int64_t org_id = 0;
  int64_t account_id = 0;
  int64_t template_id = 0;
  absl::Time created_at;
  bool deleted = false;
  BudgetSpec spec;       // spec.path: where its account is now
  NanoUsd raised;        // sum of the raises that have not ended
  Window window;
  absl::TimeZone zone;

  NanoUsd limit() const { return NanoUsd(spec.limit_nanos) + raised; }
  NanoUsd target() const { return TargetCap(NanoUsd(spec.limit_nanos), raised, spec.hard_pct); }
  bool is_template() const { return spec.for_each != common::v1::ACCOUNT_KIND_UNSPECIFIED; }
  std::string display_id() const;
};

class SqliteStore final : public Store {
 public:
  // Opens or creates the file. `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& path,
                                                           const Clock* clock);

  void SetPublish(Publish publish) override { publish_ = std::move(publish); }
  void SetDeliveriesAdded(std::function<void()> callback) override {
    deliveries_added_ = std::move(callback);
  }
  absl::StatusOr<v1::WatchResponse> Snapshot() override;

  absl::StatusOr<v1::CreateAccountResponse> CreateAccount(const v1::CreateAccountRequest& request,
                                                          int64_t* version) override;
  absl::StatusOr<v1::CreateKeyAccountResponse> CreateKeyAccount(
      const v1::CreateKeyAccountRequest& request, int64_t* version) override;
  absl::Status DeleteKeyAccount(int64_t account_id, int64_t* version) override;
  absl::StatusOr<v1::Account> GetAccount(std::string_view path) override;
  absl::StatusOr<v1::ListAccountsResponse> ListAccounts(
      const v1::ListAccountsRequest& request) override;
  absl::StatusOr<v1::Account> MoveAccount(const v1::MoveAccountRequest& request,
                                          int64_t* version) override;
  absl::StatusOr<std::vector<std::string>> DeleteAccount(std::string_view path, bool dry_run,
                                                         int64_t* version) override;
  absl::StatusOr<v1::ResolveAccountResponse> ResolveAccount(
      const v1::ResolveAccountRequest& request) override;
  absl::StatusOr<v1::SetLimitsResponse> SetLimits(const v1::SetLimitsRequest& request,
                                                  int64_t* version) override;
  absl::StatusOr<v1::ListLimitsResponse> ListLimits(const v1::ListLimitsRequest& request) override;

  absl::StatusOr<v1::SetBudgetResponse> SetBudget(const BudgetSpec& spec,
                                                  int64_t* version) override;
  absl::StatusOr<v1::ListBudgetsResponse> ListBudgets(
      const v1::ListBudgetsRequest& request) override;
  absl::StatusOr<std::string> DeleteBudget(const BudgetKey& key, int64_t* version) override;
  absl::StatusOr<v1::Budget> RaiseBudget(const BudgetKey& key, int64_t by_nanos, absl::Time until,
                                         std::string_view reason,
                                         std::string_view client_request_id,
                                         int64_t* version) override;
  absl::StatusOr<std::optional<absl::Time>> EndRaises() override;

  absl::StatusOr<int64_t> RegisterEpoch(const v1::RegisterEpochRequest& request,
                                        int64_t* version) override;
  absl::Status RegisterEdge(const v1::RegisterEdgeRequest& request) override;
  absl::StatusOr<v1::GrantLeaseResponse> GrantLease(const v1::GrantLeaseRequest& request) override;
  absl::Status AcknowledgeGrants(const v1::AcknowledgeGrantsRequest& request) override;
  absl::StatusOr<v1::ListGrantsResponse> ListGrants(const v1::ListGrantsRequest& request) override;
  absl::Status ReturnLease(const v1::ReturnLeaseRequest& request) override;
  absl::Status PostExpired(const v1::PostExpiredRequest& request) override;
  absl::Status AnnounceHolds(const v1::AnnounceHoldsRequest& request) override;
  absl::StatusOr<v1::ListPendingAnnouncementsResponse> ListPendingAnnouncements(
      std::string_view edge_id) override;
  absl::StatusOr<std::vector<v1::PostResult>> Post(
      std::span<const v1::Entry* const> entries) override;

  absl::StatusOr<v1::ListSuspenseResponse> ListSuspense(std::string_view path) override;
  absl::StatusOr<v1::JournalEntry> ResolveSuspense(std::string_view raw_hold_id, int64_t cost_nanos,
                                                   std::string_view reason) override;
  absl::Status ReleaseLostLease(int64_t org_id, int64_t epoch) override;
  absl::StatusOr<int64_t> ResolveOldSuspense(absl::Time before) override;

  absl::StatusOr<v1::GetSpendResponse> GetSpend(const v1::GetSpendRequest& request) override;
  absl::StatusOr<v1::ExplainRequestResponse> ExplainRequest(std::string_view request_id) override;
  absl::StatusOr<v1::ListEntriesResponse> ListEntries(const v1::ListEntriesRequest& request) override;
  absl::Status Verify(const std::function<bool(const v1::VerifyLedgerProgress&)>& progress) override;

  absl::StatusOr<v1::Webhook> SetWebhook(const v1::SetWebhookRequest& request) override;
  absl::StatusOr<v1::ListWebhooksResponse> ListWebhooks(std::string_view path) override;
  absl::Status DeleteWebhook(const v1::DeleteWebhookRequest& request) override;
  absl::StatusOr<v1::ListAlertsResponse> ListAlerts(const v1::ListAlertsRequest& request) override;
  absl::StatusOr<std::vector<Delivery>> DueDeliveries(int limit) override;
  absl::StatusOr<std::optional<absl::Time>> NextDelivery() override;
  absl::Status RecordDelivery(int64_t id, std::string_view error,
                              std::optional<absl::Time> retry_at) override;

  StoreCounters counters() const override;

  // The database itself, for tests that damage it.
  sql::Database& database() { return *database_; }

 private:
  // A budget row as one transaction sees it; written back when the transaction ends.
  struct LoadedRow {
    struct PerEpoch {
      NanoUsd leased;
      NanoUsd lost;
      bool dirty = false;
    };
    int64_t id = 0;
    const BudgetDefinition* budget = nullptr;
    std::string period;
    absl::Time start;
    absl::Time end;
    BudgetRow row;
    BudgetRow stored;  // as it was read
    std::map<int64_t, PerEpoch> epochs;
    int64_t line_sequence = 0;  // of the last line written
    int line_ordinal = 0;
  };

  // One write transaction and everything it has read, to be written back or published at its end.
  struct Txn {
    sql::Connection& c;
    absl::Time now;
    int64_t next_sequence = 0;
    v1::WatchResponse changes;
    std::set<int64_t> changed_rules;  // budgets whose rule is to be published
    std::map<int64_t, std::unique_ptr<BudgetDefinition>> budgets;
    std::map<std::pair<int64_t, std::string>, std::unique_ptr<LoadedRow>> rows;
    std::map<int64_t, LoadedRow*> rows_by_id;
    std::map<int64_t, int64_t> open_epochs;  // org -> open epoch, 0: none
    bool deliveries_added = false;
    bool raises_changed = false;
    StoreCounters counters;
    struct AlertLog {
      std::string budget, period;
      int threshold_pct;
      int64_t spent;
    };
    std::vector<AlertLog> alerts;
  };

  // One suspense row with its amounts by budget row.
  struct SuspenseRow {
    int64_t epoch = 0;
    Origin origin = Origin::kSuspended;
    SuspenseState state = SuspenseState::kOwn;
    std::string edge_id;
    v1::Entry entry;
    absl::Time since;
    std::map<int64_t, NanoUsd> amounts;
  };

  // The newest terminal posting of a hold.
  struct Posted {
    int64_t sequence = 0;
    Movement kind = Movement::kSettle;
    int revision = 0;
    std::string fingerprint;
    int64_t cost = 0;
  };

  struct MatchedBudget;

  SqliteStore(std::unique_ptr<sql::Database> database, const Clock* clock)
      : database_(std::move(database)), clock_(clock) {}

  // Runs `body` in a write transaction: ends due raises first, writes the loaded rows back, records
  // alerts and publishes the changes after the COMMIT.
  absl::Status Write(const std::function<absl::Status(Txn&)>& body, int64_t* version = nullptr);
  absl::Status Finish(Txn& t);

  // --- accounts (sqlite_accounts.cc)
  static absl::StatusOr<std::vector<AccountRow>> QueryAccounts(sql::Connection& c,
                                                               std::string_view where,
                                                               std::string_view text, int64_t id);
  static absl::StatusOr<AccountRow> AccountByPath(sql::Connection& c, std::string_view path);
  static absl::StatusOr<AccountRow> AccountById(sql::Connection& c, int64_t id);
  // Org first, the account itself last.
  static absl::StatusOr<std::vector<AccountRow>> ChainOf(sql::Connection& c, int64_t account_id);
  // The account and everything below it, by path order. "": everything.
  static absl::StatusOr<std::vector<AccountRow>> Subtree(sql::Connection& c, std::string_view path);
  absl::StatusOr<AccountRow> InsertAccount(Txn& t, const AccountRow& account,
                                           std::string_view client_request_id);
  absl::Status TombstoneSubtree(Txn& t, const AccountRow& top, std::vector<std::string>* paths);
  absl::Status PublishSubtree(Txn& t, std::string_view path);

  // --- budgets (sqlite_budgets.cc)
  static absl::StatusOr<std::vector<BudgetDefinition>> QueryBudgets(sql::Connection& c,
                                                                    std::string_view where,
                                                                    int64_t id,
                                                                    std::string_view text = "");
  static absl::StatusOr<std::vector<BudgetDefinition>> QueryAllBudgets(sql::Connection& c,
                                                                       std::string_view where,
                                                                       int64_t id,
                                                                       std::string_view text);
  static absl::StatusOr<std::optional<BudgetDefinition>> FindBudget(sql::Connection& c,
                                                                    int64_t account_id,
                                                                    const BudgetSpec& spec);
  static absl::StatusOr<BudgetDefinition> BudgetByKey(sql::Connection& c, const BudgetKey& key);
  absl::StatusOr<BudgetDefinition> UpsertBudget(Txn& t, const AccountRow& account,
                                                const BudgetSpec& spec, int64_t template_id,
                                                bool* created);
  // Gives the account the budgets of every template above it that fit.
  absl::Status Materialize(Txn& t, const AccountRow& account);
  absl::Status TombstoneBudget(Txn& t, const BudgetDefinition& budget);
  // TOO_MANY_BUDGETS if more than 32 could match a request of one of the accounts.
  absl::Status CheckBudgetCount(Txn& t, const std::vector<AccountRow>& accounts);
  absl::Status RefreshTargets(Txn& t, int64_t budget_id);
  absl::Status EndRaises(Txn& t);
  absl::Status ForgetBudget(Txn& t, int64_t budget_id);
  static v1::BudgetRule RuleOf(const BudgetDefinition& budget);
  static absl::StatusOr<bool> NeedsRecall(sql::Connection& c, const BudgetDefinition& budget,
                                          absl::Time now);
  static absl::StatusOr<v1::Budget> ViewOf(sql::Connection& c, const BudgetDefinition& budget,
                                           absl::Time now);

  // --- rows (sqlite_rows.cc)
  absl::StatusOr<const BudgetDefinition*> LoadBudget(Txn& t, int64_t budget_id);
  // The next row of a query for rows, nullptr at its end.
  absl::StatusOr<LoadedRow*> AddRow(Txn& t, sql::Rows& rows);
  // nullptr if there is no such row.
  absl::StatusOr<LoadedRow*> FindRow(Txn& t, int64_t budget_id, std::string_view period);
  absl::StatusOr<LoadedRow*> FindRowById(Txn& t, int64_t row_id);
  // Opens the row where there is none. nullptr: the budget is unknown or the period is not one of
  // its periods around `at` or now.
  absl::StatusOr<LoadedRow*> LoadRow(Txn& t, int64_t org_id, int64_t budget_id,
                                     std::string_view period, absl::Time at);
  absl::StatusOr<LoadedRow*> OpenRow(Txn& t, const BudgetDefinition& budget, const Period& period,
                                     NanoUsd spent_before);
  absl::StatusOr<LoadedRow::PerEpoch*> EpochOf(Txn& t, LoadedRow& row, int64_t epoch);
  // What the journal says was spent on the budget's account and match within [start, end).
  absl::StatusOr<NanoUsd> SpentBefore(Txn& t, const BudgetDefinition& budget, const Period& period);

  // Writes a journal row that is not a terminal posting; returns its sequence.
  absl::StatusOr<int64_t> WriteMovement(Txn& t, int64_t org_id, Movement kind,
                                        std::string_view note = {});
  // Writes the line that says what became of the row since `before`, and books d_leased and d_lost
  // with the epoch. Nothing where nothing changed.
  absl::Status WriteLine(Txn& t, int64_t sequence, LoadedRow& row, int64_t epoch,
                         const BudgetRow& before, NanoUsd d_lost);

  // --- escrow (sqlite_escrow.cc)
  absl::StatusOr<int64_t> OpenEpoch(Txn& t, int64_t org_id);
  absl::Status RequireOpen(Txn& t, int64_t org_id, int64_t epoch);
  absl::Status CloseEpoch(Txn& t, int64_t org_id, int64_t epoch);
  absl::Status ReclaimWhereAnnounced(Txn& t, int64_t org_id);
  absl::Status Reclaim(Txn& t, int64_t org_id, int64_t epoch);

  // --- posting (sqlite_post.cc)
  absl::Status PostOne(Txn& t, const v1::Entry& entry, v1::PostResult* result);
  absl::StatusOr<std::string> WhyRejected(Txn& t, const v1::Entry& entry);
  absl::StatusOr<std::optional<Posted>> FindPosted(Txn& t, int64_t org_id, std::string_view hold_id);
  absl::StatusOr<std::vector<SuspenseRow>> FindSuspense(Txn& t, int64_t org_id,
                                                        std::string_view hold_id);
  absl::Status WriteSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                             const SuspenseRow& row);
  absl::Status CloseSuspense(Txn& t, int64_t org_id, std::string_view hold_id, int64_t epoch);
  absl::StatusOr<int64_t> WriteTerminal(Txn& t, const v1::Entry& entry, Movement kind, int revision,
                                        std::string_view fingerprint, std::string_view note);
  // The money of a terminal posting: from wherever the hold's epoch keeps it now (R3).
  // charge_only: from avail, because the hold's own money has been dealt with before.
  absl::Status Settle(Txn& t, int64_t sequence, const v1::Entry& entry,
                      std::vector<SuspenseRow> suspense, bool charge_only);
  absl::Status Reverse(Txn& t, int64_t org_id, std::string_view hold_id, const Posted& posted,
                       std::string_view note);
  absl::Status Suspend(Txn& t, const v1::Entry& entry, Origin origin,
                       std::vector<SuspenseRow> known);
  absl::StatusOr<common::v1::AccountKind> KindOf(Txn& t, int64_t account_id, int64_t* org_id);
  // Ends a hold in suspense at `cost`; the sequence of the entry.
  absl::StatusOr<int64_t> Resolve(Txn& t, int64_t org_id, const SuspenseRow& row,
                                  std::vector<SuspenseRow> known, NanoUsd cost,
                                  std::string_view reason, std::string_view status);

  // --- alerts (sqlite_alerts.cc)
  absl::Status RecordAlerts(Txn& t, const LoadedRow& row);

  const std::unique_ptr<sql::Database> database_;
  const Clock* const clock_;
  Publish publish_;
  std::function<void()> deliveries_added_;

  absl::Mutex mutex_;  // held through a write transaction and its publication
  absl::Time next_raise_end_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  // Never changes for an id, so that it survives transactions.
  absl::flat_hash_map<int64_t, std::pair<common::v1::AccountKind, int64_t>> kinds_
      ABSL_GUARDED_BY(mutex_);

  mutable absl::Mutex counters_mutex_;
  StoreCounters counters_ ABSL_GUARDED_BY(counters_mutex_);
};

// Times in columns.
inline int64_t ToColumn(absl::Time time) { return absl::ToUnixMicros(time); }
absl::Time FromColumn(int64_t micros);

// The bytes that a fingerprint is taken of: everything that decides about money.
std::string FingerprintOf(const v1::Entry& entry);
// Deterministic serialization.
std::string Serialize(const google::protobuf::MessageLite& message);
// What ToJournalEntry reads, to be followed by a WHERE clause.
inline constexpr std::string_view kSelectJournal =
    "SELECT sequence, kind, at, hold_id, entry FROM journal";
v1::JournalEntry ToJournalEntry(const sql::Rows& rows);

}  // namespace tollhouse::ledger
