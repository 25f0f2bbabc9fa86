// The balances against what they are made of, without the journal's entries (sql_verify.cc reads those).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr const char* kCauses[] = {"suspended", "expired", "announced", "lost_lease"};
constexpr const char* kAges[] = {"1h", "24h", "older"};

// Money in suspense, by cause and age.
class Unproven {
 public:
  explicit Unproven(absl::Time now) : now_(now) {
    for (const char* const cause : kCauses) {
      for (const char* const age : kAges) cells_.push_back({.cause = cause, .age = age});
    }
  }

  void Add(size_t cause, absl::Time since, NanoUsd amount) {
    const absl::Duration age = now_ - since;
    const size_t column = age < absl::Hours(1) ? 0 : age < absl::Hours(24) ? 1 : 2;
    AuditReport::Unproven& cell = cells_[cause * std::size(kAges) + column];
    ++cell.count;
    cell.nanos += amount.nanos();
    oldest_ = std::max(oldest_, age);
  }

  void MoveTo(AuditReport* report) {
    report->unproven = std::move(cells_);
    report->oldest_unproven = oldest_;
  }

 private:
  const absl::Time now_;
  std::vector<AuditReport::Unproven> cells_;
  absl::Duration oldest_;
};

std::string Difference(std::string_view what, NanoUsd is, NanoUsd said) {
  if (is == said) return "";
  return absl::StrCat(" ", Absl(what), " is ", is.nanos(), ", should be ", said.nanos(), ";");
}

}  // namespace

absl::StatusOr<AuditReport> SqlStore::AuditBalances() {
  AuditReport report;
  const absl::Time now = clock_->Wall();
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    // What the lines say (I7), by row, and of it what is of an epoch.
    std::map<int64_t, LineDelta> rows_said;
    std::map<std::pair<int64_t, int64_t>, LineDelta> epochs_said;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Scan("SELECT row_id, epoch, sum(d_cap), sum(d_overrun), sum(d_avail), sum(d_leased), "
                 "sum(d_suspense), sum(d_spent), sum(d_lost) FROM lines GROUP BY row_id, epoch"));
      while (rows.Next()) {
        const LineDelta delta = {rows.Money(2), rows.Money(3), rows.Money(4), rows.Money(5),
                                 rows.Money(6), rows.Money(7), rows.Money(8)};
        rows_said[rows.Int(0)] += delta;
        epochs_said[{rows.Int(0), rows.Int(1)}] = delta;
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    std::map<int64_t, NanoUsd> own;  // of single holds in suspense
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Scan("SELECT a.row_id, sum(a.amount) FROM suspense_amounts a JOIN suspense s "
                 "USING (org_id, hold_id, epoch) WHERE s.state = 1 GROUP BY a.row_id"));
      while (rows.Next()) own[rows.Int(0)] = rows.Money(1);
      TH_RETURN_IF_ERROR(rows.status());
    }
    std::map<int64_t, NanoUsd> lost;  // of closed epochs
    std::map<std::pair<int64_t, int64_t>, NanoUsd> largest_lost;  // by org and epoch
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Scan("SELECT org_id, row_id, epoch, lost FROM lost_leases WHERE lost <> 0"));
      while (rows.Next()) {
        const NanoUsd amount = rows.Money(3);
        lost[rows.Int(1)] += amount;
        NanoUsd& largest = largest_lost[{rows.Int(0), rows.Int(2)}];
        largest = std::max(largest, amount);
        const NanoUsd said = epochs_said[{rows.Int(1), rows.Int(2)}].lost;
        if (amount != said) {
          report.drift.push_back(absl::StrCat("row ", rows.Int(1), ", epoch ", rows.Int(2), ":",
                                              Difference("lost lease", amount, said)));
        }
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Scan("SELECT r.id, a.path, b.window_name, r.period, r.cap, r.overrun, r.avail, r.leased, "
                 "r.suspense, r.spent, o.epoch FROM budget_rows r JOIN budgets b ON b.id = r.budget_id "
                 "JOIN accounts a ON a.id = b.account_id JOIN orgs o ON o.org_id = r.org_id"));
      while (rows.Next()) {
        const int64_t id = rows.Int(0);
        const LineDelta is = {.cap = rows.Money(4),
                              .overrun = rows.Money(5),
                              .avail = rows.Money(6),
                              .leased = rows.Money(7),
                              .suspense = rows.Money(8),
                              .spent = rows.Money(9)};
        const LineDelta& said = rows_said[id];
        std::string wrong;
        for (const NanoUsd amount : {is.cap, is.overrun, is.avail, is.leased, is.suspense, is.spent}) {
          if (amount < NanoUsd()) absl::StrAppend(&wrong, " ", amount.nanos(), " is negative;");
        }
        // I1
        if (is.avail + is.leased + is.suspense + is.spent != is.cap + is.overrun) {
          wrong += " avail + leased + suspense + spent is not cap + overrun;";
        }
        wrong += Difference("cap", is.cap, said.cap);
        wrong += Difference("overrun", is.overrun, said.overrun);
        wrong += Difference("avail", is.avail, said.avail);
        wrong += Difference("leased", is.leased, said.leased);
        wrong += Difference("suspense", is.suspense, said.suspense);
        wrong += Difference("spent", is.spent, said.spent);
        // I2: all of it is the open epoch's.
        wrong += Difference("lease of the open epoch", epochs_said[{id, rows.Int(10)}].leased, is.leased);
        wrong += Difference("suspense of its holds and lost leases", own[id] + lost[id], is.suspense);
        if (!wrong.empty()) {
          wrong.pop_back();
          report.drift.push_back(absl::StrCat("budget row ", id, " (", rows.Text(1), " ", rows.Text(2), " ",
                                              rows.Text(3), "):", wrong));
        }
        report.leased_nanos += is.leased.nanos();
        rows_said.erase(id);
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const auto& [id, said] : rows_said) {
      if (said != LineDelta()) {
        report.drift.push_back(absl::StrCat("budget row ", id, ": its lines are there, it is not"));
      }
    }
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Query("SELECT min(e.opened_at) FROM epochs e WHERE e.closed_at IS NULL AND EXISTS (SELECT 1 "
                  "FROM budget_rows r WHERE r.org_id = e.org_id AND r.leased > 0)"));
      if (rows.Next() && !rows.IsNull(0)) report.oldest_lease = now - FromColumn(rows.Int(0));
      TH_RETURN_IF_ERROR(rows.status());
    }
    Unproven unproven(now);
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Scan("SELECT s.origin, s.since, coalesce(max(a.amount), 0) FROM suspense s LEFT JOIN "
                 "suspense_amounts a USING (org_id, hold_id, epoch) WHERE s.state < 3 "
                 "GROUP BY s.org_id, s.hold_id, s.epoch, s.origin, s.since"));
      while (rows.Next()) {
        const auto cause = static_cast<size_t>(std::clamp<int64_t>(rows.Int(0), 1, 3) - 1);
        unproven.Add(cause, FromColumn(rows.Int(1)), rows.Money(2));
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const auto& [epoch, amount] : largest_lost) {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT closed_at FROM epochs WHERE org_id = ?1 AND epoch = ?2",
                                  epoch.first, epoch.second));
      const absl::Time since = rows.Next() && !rows.IsNull(0) ? FromColumn(rows.Int(0)) : now;
      TH_RETURN_IF_ERROR(rows.status());
      unproven.Add(3, since, amount);
    }
    unproven.MoveTo(&report);
    if (c.dialect() != sql::Dialect::kPostgres) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT current_setting('synchronous_standby_names') <> '' AND "
                "current_setting('synchronous_commit') NOT IN ('off', 'local')"));
    if (rows.Next()) report.synchronous = rows.Bool(0);
    return rows.status();
  }));
  return report;
}

}  // namespace tollhouse::ledger
