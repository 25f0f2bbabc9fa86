// The ledger's store in SQL, on SQLite or PostgreSQL. See store.h for what it promises.
//
// On PostgreSQL several ledgers may share a database: each transaction locks the rows of the orgs that
// it changes, in id order, before it reads anything of them (docs/adr).
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libs/audit/call.h"
#include "libs/base/clock.h"
#include "libs/base/uuid.h"
#include "libs/base/window.h"
#include "libs/sql/open.h"
#include "services/ledger/core/budget_row.h"
#include "services/ledger/store/chain.h"
#include "services/ledger/store/store.h"
#include "services/ledger/store/stored_entry.h"

namespace tollhouse::ledger {

sql::Schema StoreSchema();

// movements.kind, where kSettle stands for a batch of entries, and journal.kind
enum class Movement : int {
  kSettle = 1,
  kVoid = 2,
  kResolve = 3,
  kReverse = 4,
  kCorrect = 5,
  kEstimate = 6,  // what a hold in suspense has cost at least, as its edge reckons
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
  v1::AccountTagRules tag_rules;  // without the path
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

class SqlStore final : public Store {
 public:
  // `database` has the newest schema; PostgreSQL's isolation is READ COMMITTED (the store locks
  // itself). Both must outlive the store.
  static absl::StatusOr<std::unique_ptr<SqlStore>> Open(sql::Database* database, const Clock* clock);

  void SetChanged(std::function<void()> changed) override { changed_ = std::move(changed); }
  absl::Status CheckServer() override;
  void SetDeliveriesAdded(std::function<void()> callback) override {
    deliveries_added_ = std::move(callback);
  }
  absl::StatusOr<v1::WatchResponse> Snapshot() override;

  absl::StatusOr<v1::CreateAccountResponse> CreateAccount(audit::Call* audit,
                                                          const v1::CreateAccountRequest& request,
                                                          int64_t* version) override;
  absl::StatusOr<v1::CreateKeyAccountResponse> CreateKeyAccount(
      const v1::CreateKeyAccountRequest& request, int64_t* version) override;
  absl::Status DeleteKeyAccount(int64_t account_id, int64_t* version) override;
  absl::StatusOr<v1::Account> GetAccount(std::string_view path) override;
  absl::StatusOr<v1::ListAccountsResponse> ListAccounts(
      const v1::ListAccountsRequest& request) override;
  absl::StatusOr<v1::Account> MoveAccount(audit::Call* audit, const v1::MoveAccountRequest& request,
                                          int64_t* version) override;
  absl::StatusOr<std::vector<std::string>> DeleteAccount(audit::Call* audit, std::string_view path,
                                                         bool dry_run, int64_t* version) override;
  absl::StatusOr<v1::ResolveAccountResponse> ResolveAccount(
      const v1::ResolveAccountRequest& request) override;
  absl::StatusOr<v1::ResolveAccountsResponse> ResolveAccounts(
      const v1::ResolveAccountsRequest& request) override;
  absl::StatusOr<v1::SetLimitsResponse> SetLimits(audit::Call* audit,
                                                  const v1::SetLimitsRequest& request,
                                                  int64_t* version) override;
  absl::StatusOr<v1::AccountTagRules> SetTagRules(audit::Call* audit,
                                                  const v1::SetTagRulesRequest& request,
                                                  int64_t* version) override;
  absl::StatusOr<v1::ListTagRulesResponse> ListTagRules(
      const v1::ListTagRulesRequest& request) override;
  absl::StatusOr<v1::ListLimitsResponse> ListLimits(const v1::ListLimitsRequest& request) override;

  absl::StatusOr<v1::SetBudgetResponse> SetBudget(audit::Call* audit, const BudgetSpec& spec,
                                                  int64_t* version) override;
  absl::StatusOr<v1::ListBudgetsResponse> ListBudgets(
      const v1::ListBudgetsRequest& request) override;
  absl::StatusOr<std::string> DeleteBudget(audit::Call* audit, const BudgetKey& key,
                                           int64_t* version) override;
  absl::StatusOr<v1::Budget> RaiseBudget(audit::Call* audit, const BudgetKey& key, int64_t by_nanos,
                                         absl::Time until, std::string_view reason,
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

  absl::StatusOr<v1::ListSuspenseResponse> ListSuspense(
      const v1::ListSuspenseRequest& request) override;
  absl::StatusOr<v1::JournalEntry> ResolveSuspense(audit::Call* audit, std::string_view raw_hold_id,
                                                   int64_t cost_nanos,
                                                   std::string_view reason) override;
  absl::StatusOr<v1::AdjustEntryResponse> AdjustEntry(audit::Call* audit,
                                                      std::string_view raw_hold_id,
                                                      int64_t cost_nanos, std::string_view reason,
                                                      std::string_view client_request_id) override;
  absl::Status ReleaseLostLease(audit::Call* audit, int64_t org_id, int64_t epoch) override;
  absl::StatusOr<int64_t> ResolveOldSuspense(absl::Time before) override;

  absl::StatusOr<v1::GetSpendResponse> GetSpend(const v1::GetSpendRequest& request) override;
  absl::StatusOr<v1::ExplainRequestResponse> ExplainRequest(std::string_view request_id) override;
  absl::StatusOr<v1::ListEntriesResponse> ListEntries(const v1::ListEntriesRequest& request) override;
  absl::Status Verify(
      const google::protobuf::RepeatedPtrField<v1::JournalHead>& expected,
      const std::function<bool(const v1::VerifyLedgerProgress&)>& progress) override;

  absl::StatusOr<AuditReport> AuditBalances() override;

  absl::StatusOr<v1::Webhook> SetWebhook(audit::Call* audit,
                                         const v1::SetWebhookRequest& request) override;
  absl::StatusOr<v1::ListWebhooksResponse> ListWebhooks(std::string_view path) override;
  absl::Status DeleteWebhook(audit::Call* audit, const v1::DeleteWebhookRequest& request) override;
  absl::StatusOr<v1::ListAlertsResponse> ListAlerts(const v1::ListAlertsRequest& request) override;
  absl::StatusOr<std::vector<Delivery>> DueDeliveries(int limit) override;
  absl::StatusOr<std::optional<absl::Time>> NextDelivery() override;
  absl::Status RecordDelivery(int64_t id, std::string_view error,
                              std::optional<absl::Time> retry_at) override;

  absl::Status Maintain() override;
  StoreCounters counters() const override;

 private:
  // A budget row as one transaction sees it; written back when the transaction ends.
  struct LoadedRow {
    struct Lost {
      NanoUsd amount;
      bool dirty = false;
    };
    int64_t id = 0;
    const BudgetDefinition* budget = nullptr;
    std::string period;
    absl::Time start;
    absl::Time end;
    BudgetRow row;
    BudgetRow stored;             // as it was read
    std::map<int64_t, Lost> lost; // by closed epoch, as far as it was asked for
  };

  // A journal entry on its way into the table.
  struct Terminal {
    const v1::Entry* entry = nullptr;
    std::shared_ptr<const v1::Entry> owned;  // set where `entry` would not live long enough
    Movement kind = Movement::kSettle;
    int revision = 0;
    std::string fingerprint;
    std::string note;
    // Columns.
    int64_t started_at = 0;
    int64_t cost = 0;  // this and tokens: negative in a reversing entry
    int64_t team_id = 0, user_id = 0, key_id = 0;
    int64_t input_tokens = 0, output_tokens = 0;
    std::vector<LoadedRow*> rows;  // of the entry's budgets; AddTerminal finds them if they are not given
    std::vector<EntryLine> lines;
  };

  // An org whose row is locked.
  struct OrgState {
    struct MovementRow {
      int64_t sequence;
      Movement kind;
      std::string note;
    };
    int64_t last_sequence = 0;
    std::string head;   // hash of the movement that ends there; before the first one ChainGenesis
    int64_t epoch = 0;  // the open one
    absl::Time next_raise_end;
    bool dirty = false;
    std::vector<MovementRow> movements;
    // By sequence, row and epoch; sequence 0: of the batch of entries.
    std::map<std::tuple<int64_t, int64_t, int64_t>, LineDelta> lines;
    std::deque<Terminal> terminals;
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
    Movement kind = Movement::kSettle;
    int revision = 0;
    std::string fingerprint;
    int64_t cost = 0;
  };

  // One write transaction and everything it has read, to be written back or published at its end.
  struct Txn {
    sql::Connection& c;
    absl::Time now;
    audit::Call* audit = nullptr;      // who asked for it
    std::map<int64_t, OrgState> orgs;  // locked
    bool server_changed = false;       // what is locked may lack commits: see FailOver()
    v1::WatchResponse changes;
    std::set<int64_t> changed_rules;  // budgets whose rule is to be published
    std::map<int64_t, std::unique_ptr<BudgetDefinition>> budgets;
    std::map<int64_t, std::unique_ptr<LoadedRow>> rows;  // by id: written back in this order
    absl::flat_hash_map<int64_t, std::vector<LoadedRow*>> rows_by_budget;
    // What is known of an org's holds: absent means not asked for, nullopt and empty that there is none.
    absl::flat_hash_map<std::pair<int64_t, Uuid>, std::optional<Posted>> posted;
    absl::flat_hash_map<std::pair<int64_t, Uuid>, std::vector<SuspenseRow>> suspense;
    std::set<std::pair<int64_t, std::string>> price_details;  // written by this transaction
    bool deliveries_added = false;
    StoreCounters counters;
    struct AlertLog {
      std::string budget, period;
      int threshold_pct;
      int64_t spent;
    };
    std::vector<AlertLog> alerts;
    std::vector<std::tuple<int64_t, std::string, int>> alerted;  // budget, period, threshold
  };

  // Which orgs a transaction locks: found out within it, before anything else.
  using FindOrgs = std::function<absl::StatusOr<std::vector<int64_t>>(sql::Connection&)>;
  static FindOrgs Org(int64_t org_id);
  // The org of a path; row 0 if there is none or `path` is an org itself.
  static FindOrgs OrgOf(std::string_view path);
  static FindOrgs NoOrg();

  SqlStore(sql::Database* database, const Clock* clock) : database_(database), clock_(clock) {}

  // Runs `body` in a write transaction: locks the orgs and ends their due raises first, writes what was
  // loaded back, records alerts and appends the changes to their log. The body may run again: it
  // begins with what it returns being empty.
  absl::Status Write(const FindOrgs& orgs, const std::function<absl::Status(Txn&)>& body,
                     int64_t* version = nullptr, audit::Call* audit = nullptr);
  // The same without FailOver(): UNAVAILABLE (SERVER_CHANGED), with nothing done, where that has to
  // come first.
  absl::Status WriteOnce(const FindOrgs& orgs, const std::function<absl::Status(Txn&)>& body,
                         int64_t* version, audit::Call* audit, bool failing_over = false);
  // The server continues another history than the escrow stands on: closes every epoch, and raises the
  // replay generation. Once per history, whichever ledger comes first.
  absl::Status FailOver();
  absl::Status LockOrgs(Txn& t, std::vector<int64_t> ids);
  // Writes everything back that the transaction has changed so far.
  absl::Status Finish(Txn& t);
  absl::Status FinishRows(Txn& t);
  absl::Status FinishMovements(Txn& t);
  // The digests of their rows.
  absl::StatusOr<std::vector<crypto::Sha256Digest>> FinishEntries(Txn& t, int64_t org_id,
                                                                  OrgState& org,
                                                                  int64_t first_sequence);
  absl::Status FinishSpend(Txn& t, int64_t org_id, const OrgState& org);
  // The digest under which a price detail is kept; writes it where it is new.
  absl::StatusOr<std::string> PriceDetail(Txn& t, int64_t org_id, const std::string& detail);

  // --- accounts (sql_accounts.cc)
  template <typename... Args>
  static absl::StatusOr<std::vector<AccountRow>> QueryAccounts(sql::Connection& c,
                                                               std::string_view where,
                                                               const Args&... args) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query(SelectAccounts(where), args...));
    return ReadAccounts(rows);
  }
  static std::string SelectAccounts(std::string_view where);
  static absl::StatusOr<std::vector<AccountRow>> ReadAccounts(sql::Rows& rows);
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

  // --- budgets (sql_budgets.cc)
  // Of those that are not deleted. Columns of budgets are b's, of their accounts a's.
  template <typename... Args>
  static absl::StatusOr<std::vector<BudgetDefinition>> QueryBudgets(sql::Connection& c,
                                                                    std::string_view where,
                                                                    const Args&... args) {
    return QueryAllBudgets(c, "b.deleted_at IS NULL AND " + std::string(where), args...);
  }
  template <typename... Args>
  static absl::StatusOr<std::vector<BudgetDefinition>> QueryAllBudgets(sql::Connection& c,
                                                                       std::string_view where,
                                                                       const Args&... args) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query(SelectBudgets(where), args...));
    return ReadBudgets(rows);
  }
  static std::string SelectBudgets(std::string_view where);
  static absl::StatusOr<std::vector<BudgetDefinition>> ReadBudgets(sql::Rows& rows);
  static absl::StatusOr<std::optional<BudgetDefinition>> FindBudget(sql::Connection& c,
                                                                    int64_t account_id,
                                                                    const BudgetSpec& spec);
  static absl::StatusOr<BudgetDefinition> BudgetByKey(sql::Connection& c, const BudgetKey& key);
  absl::StatusOr<BudgetDefinition> UpsertBudget(Txn& t, const AccountRow& account,
                                                const BudgetSpec& spec, int64_t template_id,
                                                bool* created);
  // Gives the account the budgets of every template above it that fit.
  absl::Status Materialize(Txn& t, const AccountRow& account);
  // Tells who asked what the budget was like, if there was one.
  static absl::Status RecordBefore(Txn& t, const std::optional<BudgetDefinition>& budget);
  absl::Status TombstoneBudget(Txn& t, const BudgetDefinition& budget);
  // TOO_MANY_BUDGETS if more than 32 could match a request of one of the accounts.
  absl::Status CheckBudgetCount(Txn& t, const std::vector<AccountRow>& accounts);
  absl::Status RefreshTargets(Txn& t, int64_t budget_id);
  absl::Status EndRaises(Txn& t, int64_t org_id);
  absl::Status RefreshNextRaiseEnd(Txn& t, int64_t org_id);
  absl::Status ForgetBudget(Txn& t, int64_t budget_id);
  static v1::BudgetRule RuleOf(const BudgetDefinition& budget);
  static absl::StatusOr<bool> NeedsRecall(sql::Connection& c, const BudgetDefinition& budget,
                                          absl::Time now);
  static absl::StatusOr<v1::Budget> ViewOf(sql::Connection& c, const BudgetDefinition& budget,
                                           absl::Time now);

  // --- rows (sql_rows.cc)
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
  // Loads rows and their budgets at once; `where` says which, of columns of budget_rows.
  template <typename... Args>
  absl::Status PreloadRows(Txn& t, std::string_view where, const Args&... args) {
    {
      TH_ASSIGN_OR_RETURN(sql::Rows budgets, t.c.Query(SelectBudgetsOfRows(where), args...));
      TH_RETURN_IF_ERROR(AddBudgets(t, budgets));
    }
    TH_ASSIGN_OR_RETURN(sql::Rows rows, t.c.Query(SelectRows(where), args...));
    return AddRows(t, rows);
  }
  static std::string SelectBudgetsOfRows(std::string_view where);
  static std::string SelectRows(std::string_view where);
  absl::Status AddBudgets(Txn& t, sql::Rows& rows);
  absl::Status AddRows(Txn& t, sql::Rows& rows);
  // PreloadRows of those named; nothing on SQLite, where single look-ups cost no round trips.
  absl::Status PreloadRowsOf(Txn& t, const absl::flat_hash_set<std::pair<int64_t, std::string_view>>& names);
  absl::StatusOr<LoadedRow::Lost*> LostOf(Txn& t, LoadedRow& row, int64_t epoch);
  // LostOf, for all of the org's rows that are loaded.
  absl::Status PreloadLost(Txn& t, int64_t org_id, int64_t epoch);
  // What the journal says was spent on the budget's account and match within [start, end).
  absl::StatusOr<NanoUsd> SpentBefore(Txn& t, const BudgetDefinition& budget, const Period& period);

  // Writes a movement that is not a batch of entries; returns its sequence.
  absl::StatusOr<int64_t> WriteMovement(Txn& t, int64_t org_id, Movement kind,
                                        std::string_view note = {});
  // Writes the line that says what became of the row since `before`, and books d_lost with the
  // epoch. Nothing where nothing changed. Of a terminal: into its lines and the batch's.
  absl::Status WriteLine(Txn& t, int64_t sequence, LoadedRow& row, int64_t epoch,
                         const BudgetRow& before, NanoUsd d_lost, Terminal* terminal = nullptr);

  // --- escrow (sql_escrow.cc)
  absl::StatusOr<int64_t> OpenEpoch(Txn& t, int64_t org_id);
  absl::Status RequireOpen(Txn& t, int64_t org_id, int64_t epoch);
  // R1: closes the open epoch and opens the next one.
  absl::StatusOr<int64_t> NextEpoch(Txn& t, int64_t org_id, std::string_view incarnation);
  absl::Status CloseEpoch(Txn& t, int64_t org_id, int64_t epoch);
  // Whether this return has not come before. Nothing is kept of those that all others before them have
  // joined but how far that is: a return is asked for again for as long as its enforcer does not know.
  absl::StatusOr<bool> NoteReturn(Txn& t, const v1::ReturnLeaseRequest& request);
  absl::Status ReclaimWhereAnnounced(Txn& t, int64_t org_id);
  absl::Status Reclaim(Txn& t, int64_t org_id, int64_t epoch);

  // --- posting (sql_post.cc)
  absl::Status PostOne(Txn& t, const v1::Entry& entry, const std::string& fingerprint,
                       v1::PostResult* result);
  // "" for an entry that can be posted; `rows` are then those of its budgets.
  absl::StatusOr<std::string> WhyRejected(Txn& t, const v1::Entry& entry, std::vector<LoadedRow*>* rows);
  absl::StatusOr<std::optional<Posted>> FindPosted(Txn& t, int64_t org_id, std::string_view hold_id);
  absl::StatusOr<std::vector<SuspenseRow>> FindSuspense(Txn& t, int64_t org_id,
                                                        std::string_view hold_id);
  absl::Status WriteSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                             const SuspenseRow& row);
  absl::Status CloseSuspense(Txn& t, int64_t org_id, std::string_view hold_id, int64_t epoch);
  // Loads at once what PostOne will ask for.
  absl::Status PreloadPost(Txn& t, std::span<const v1::Entry* const> entries);
  absl::StatusOr<Terminal*> AddTerminal(Txn& t, Terminal terminal);
  // The money of a terminal posting: from wherever the hold's epoch keeps it now (R3).
  // charge_only: from avail, because the hold's own money has been dealt with before.
  // `charge_only`: nothing is held for it any more. An estimate (terminal.kind) leaves what it does
  // not take of the hold in suspense.
  absl::Status Settle(Txn& t, Terminal& terminal, std::vector<SuspenseRow> suspense,
                      bool charge_only);
  // What a suspended hold is known to have cost is spent at once.
  absl::Status PostEstimate(Txn& t, const v1::Entry& entry);
  // Returns the entry that it reverses.
  absl::StatusOr<std::shared_ptr<const v1::Entry>> Reverse(Txn& t, int64_t org_id,
                                                           std::string_view hold_id,
                                                           const Posted& posted,
                                                           std::string_view note);
  // Whether any revision of the hold's entry has this fingerprint.
  absl::StatusOr<bool> WasPosted(Txn& t, int64_t org_id, std::string_view hold_id,
                                 std::string_view fingerprint);
  absl::Status Suspend(Txn& t, const v1::Entry& entry, Origin origin,
                       std::vector<SuspenseRow> known);
  absl::StatusOr<common::v1::AccountKind> KindOf(sql::Connection& c, int64_t account_id,
                                                 int64_t* org_id);
  // Ends a hold in suspense at `cost`.
  absl::StatusOr<v1::JournalEntry> Resolve(Txn& t, int64_t org_id, const SuspenseRow& row,
                                           std::vector<SuspenseRow> known, NanoUsd cost,
                                           std::string_view reason, std::string_view status);
  // An estimate of the hold, if that is what stands in the journal, is reversed. Returns the revision
  // of the entry that follows.
  absl::StatusOr<int> ReverseEstimate(Txn& t, int64_t org_id, std::string_view hold_id,
                                      std::string_view note);

  // --- alerts (sql_alerts.cc)
  // Tells who asked what the webhook was like, if there was one.
  static absl::Status RecordWebhook(Txn& t, const AccountRow& account, std::string_view url);
  absl::Status RecordAlerts(Txn& t, const LoadedRow& row);

  class Verifier;  // sql_verify.cc

  // --- journal (sql_reports.cc)
  // A journal row as kSelectJournal reads it.
  struct StoredEntry {
    int64_t org_id = 0;
    int64_t sequence = 0;
    absl::Time at;
    Movement kind = Movement::kSettle;
    int revision = 0;
    int64_t cost = 0;  // this and tokens as in the columns: negative in a reversing entry
    int64_t input_tokens = 0, output_tokens = 0;
    int64_t started_at = 0;
    int64_t key_id = 0;
    std::string fingerprint;
    v1::Entry entry;              // whole again
    std::vector<EntryLine> lines;
    std::string unreadable;  // why `entry` and `lines` are not to be relied on; "": they are
  };
  // The last number of the movements that begin within `numbers` after a number, and of their entries; 0:
  // there are none.
  static absl::StatusOr<int64_t> NextWindow(sql::Connection& c, int64_t org_id, int64_t after,
                                            int64_t numbers);
  absl::StatusOr<StoredEntry> ReadEntry(sql::Connection& c, const sql::Rows& rows);
  absl::StatusOr<std::pair<int64_t, std::string>> RowKey(sql::Connection& c, int64_t row_id);
  absl::StatusOr<std::string> PriceDetailOf(sql::Connection& c, int64_t org_id,
                                            const std::string& digest);
  // Sums of the journal, grouped.
  struct SpendKey {
    int64_t team_id = 0, user_id = 0, key_id = 0;
    int64_t day = 0;  // since 1970, UTC
    std::string provider, model, tags;
    friend auto operator<=>(const SpendKey&, const SpendKey&) = default;
  };
  struct SpendSums {
    int64_t requests = 0, cost = 0, input = 0, output = 0;
  };
  // What a sum is grouped by; what is not asked for is 0 or "" in its keys.
  struct SpendGroups {
    bool team = false, user = false, key = false, day = false, provider = false, model = false,
         tags = false;
  };
  // Of the account's entries that started within [since, until), columns as in the table.
  static absl::StatusOr<std::map<SpendKey, SpendSums>> SumSpend(sql::Connection& c,
                                                                const AccountRow& account,
                                                                int64_t since, int64_t until,
                                                                const SpendGroups& groups);

  class Verifier;  // sql_verify.cc

  sql::Database* const database_;
  const Clock* const clock_;
  std::function<void()> changed_;
  std::function<void()> deliveries_added_;

  absl::Mutex cache_mutex_;
  // What never changes for its key.
  absl::flat_hash_map<int64_t, std::pair<common::v1::AccountKind, int64_t>> kinds_
      ABSL_GUARDED_BY(cache_mutex_);
  absl::flat_hash_map<int64_t, std::pair<int64_t, std::string>> row_keys_
      ABSL_GUARDED_BY(cache_mutex_);
  std::map<std::pair<int64_t, std::string>, std::string> price_details_
      ABSL_GUARDED_BY(cache_mutex_);  // by org and digest
  std::set<std::tuple<int64_t, std::string, int>> alerted_ ABSL_GUARDED_BY(cache_mutex_);

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
void SetTime(absl::Time time, google::protobuf::Timestamp* out);

// What ReadEntry reads, to be followed by a WHERE clause.
inline constexpr std::string_view kSelectJournal =
    "SELECT org_id, sequence, at, kind, revision, cost, fingerprint, hold_id, started_at, team_id, "
    "user_id, key_id, provider, model, request_id, tags, entry, input_tokens, output_tokens, note "
    "FROM journal";
v1::JournalEntry ToJournalEntry(int64_t org_id, int64_t sequence, absl::Time at, Movement kind,
                                const v1::Entry& entry);

}  // namespace tollhouse::ledger
