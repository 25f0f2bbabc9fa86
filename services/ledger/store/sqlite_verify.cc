// Audits the ledger: recomputes every sum from the journal.
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/policy/price_detail.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kProblemsMax = 1000;
constexpr int64_t kEntriesPerProgress = 10'000;

// Collects problems and reports progress.
class Audit {
 public:
  explicit Audit(const std::function<bool(const v1::VerifyLedgerProgress&)>& report)
      : report_(report) {}

  template <typename... Parts>
  void Problem(const Parts&... parts) {
    ok_ = false;
    if (progress_.problems_size() < kProblemsMax) progress_.add_problems(absl::StrCat(parts...));
  }

  absl::Status Phase(const std::string& name) {
    progress_.set_phase(name);
    return Report();
  }

  absl::Status CountEntry() {
    progress_.set_entries(progress_.entries() + 1);
    return progress_.entries() % kEntriesPerProgress == 0 ? Report() : absl::OkStatus();
  }

  absl::Status Done() {
    progress_.set_done(true);
    progress_.set_ok(ok_);
    progress_.set_phase("done");
    return Report();
  }

 private:
  absl::Status Report() {
    return report_(progress_) ? absl::OkStatus() : absl::CancelledError("nobody listens");
  }

  const std::function<bool(const v1::VerifyLedgerProgress&)>& report_;
  v1::VerifyLedgerProgress progress_;
  bool ok_ = true;
};

// Every row of a query that ought to have none is a problem; its first column says which.
absl::Status ExpectNone(sql::Connection& c, std::string_view sql, Audit& audit) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query(sql));
  while (rows.Next()) audit.Problem(rows.Text(0));
  return rows.status();
}

// I9: the amount follows from the rates and the usage in the entry alone.
void VerifyPrice(const v1::Entry& entry, const std::string& name, Audit& audit) {
  if (entry.price_detail().empty() || entry.kind() != v1::ENTRY_KIND_SETTLE) return;
  const absl::StatusOr<NanoUsd> cost =
      policy::RecomputeFromDetail(entry.price_detail(), entry.usage());
  if (!cost.ok()) {
    audit.Problem(name, ": its price cannot be recomputed: ", std::string(cost.status().message()));
  } else if (cost->nanos() != entry.cost_nanousd()) {
    audit.Problem(name, ": usage and rates make ", cost->nanos(), ", it costs ",
                  entry.cost_nanousd());
  }
}

absl::Status VerifyEntries(sql::Connection& c, Audit& audit) {
  TH_RETURN_IF_ERROR(audit.Phase("entries"));
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      c.Query("SELECT j.sequence, j.kind, j.hold_id, j.fingerprint, j.cost, j.entry, j.org_id, "
              "(SELECT coalesce(sum(d_spent), 0) FROM lines l WHERE l.sequence = j.sequence), "
              "(SELECT count(*) FROM account_entries a WHERE a.sequence = j.sequence AND "
              "a.started_at = j.started_at AND a.cost = j.cost AND a.account_id IN "
              "(j.org_id, j.team_id, j.user_id, j.key_id)) "
              "FROM journal j WHERE j.hold_id IS NOT NULL ORDER BY j.sequence"));
  v1::Entry entry;
  while (rows.Next()) {
    TH_RETURN_IF_ERROR(audit.CountEntry());
    const int64_t sequence = rows.Int(0);
    const auto kind = static_cast<Movement>(rows.Int(1));
    const std::string_view bytes = rows.View(5);
    const absl::StatusOr<Uuid> hold = UuidFromRaw(rows.View(2));
    const std::string name =
        absl::StrCat("entry ", sequence, " (hold ", hold.ok() ? hold->ToString() : "?", ")");
    if (!entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
      audit.Problem(name, ": unreadable");
      continue;
    }
    if (entry.hold_id() != rows.View(2)) audit.Problem(name, ": names another hold");
    if (FingerprintOf(entry) != rows.View(3)) audit.Problem(name, ": its content was changed");
    const int64_t sign = kind == Movement::kReverse ? -1 : 1;
    if (sign * entry.cost_nanousd() != rows.Int(4)) {
      audit.Problem(name, ": cost ", rows.Int(4), " is not that of its content, ",
                    sign * entry.cost_nanousd());
    }
    // I6: once at each level, in every budget that the hold named.
    const auto expected = static_cast<__int128>(sign * entry.cost_nanousd()) * entry.budgets_size();
    if (expected != rows.Int(7)) {
      audit.Problem(name, ": its lines spend ", rows.Int(7), " in ", entry.budgets_size(),
                    " budgets at ", entry.cost_nanousd());
    }
    if (rows.Int(8) != entry.account_ids_size()) {
      audit.Problem(name, ": is counted at ", rows.Int(8), " of ", entry.account_ids_size(),
                    " accounts");
    }
    if (kind != Movement::kReverse) VerifyPrice(entry, name, audit);
  }
  return rows.status();
}

}  // namespace

absl::Status SqliteStore::Verify(
    const std::function<bool(const v1::VerifyLedgerProgress&)>& progress) {
  Audit audit(progress);
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(VerifyEntries(c, audit));

    TH_RETURN_IF_ERROR(audit.Phase("exactly once"));
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'hold ' || hex(hold_id) || ': ' || count(*) || ' entries that stand' FROM journal "
        "WHERE hold_id IS NOT NULL GROUP BY org_id, hold_id "
        "HAVING sum(CASE WHEN kind = 4 THEN -1 ELSE 1 END) <> 1",
        audit));
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'the journal lacks ' || (sequence - before - 1) || ' entries before ' || sequence "
        "FROM (SELECT sequence, lag(sequence, 1, 0) OVER (ORDER BY sequence) AS before FROM journal) "
        "WHERE sequence <> before + 1",
        audit));

    TH_RETURN_IF_ERROR(audit.Phase("double entry"));
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'line of entry ' || sequence || ', row ' || row_id || ': debits are not credits' "
        "FROM lines WHERE d_avail + d_leased + d_suspense + d_spent <> d_cap + d_overrun",
        audit));
    TH_RETURN_IF_ERROR(ExpectNone(c,
                                  "SELECT 'line of entry ' || sequence || ': no such entry' FROM lines l "
                                  "WHERE NOT EXISTS (SELECT 1 FROM journal j WHERE j.sequence = l.sequence)",
                                  audit));

    TH_RETURN_IF_ERROR(audit.Phase("conservation"));
    // I1, and each column of each row against its lines.
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'budget row ' || a.path || ' ' || b.window || ' ' || r.period || ': ' || "
        "CASE WHEN r.avail + r.leased + r.suspense + r.spent <> r.cap + r.overrun "
        "THEN 'avail + leased + suspense + spent is not cap + overrun' "
        "ELSE 'spent ' || r.spent || ', the journal says ' || l.spent || '; cap ' || r.cap || '/' || "
        "l.cap || ', overrun ' || r.overrun || '/' || l.overrun || ', avail ' || r.avail || '/' || "
        "l.avail || ', leased ' || r.leased || '/' || l.leased || ', suspense ' || r.suspense || '/' || "
        "l.suspense END "
        "FROM budget_rows r JOIN budgets b ON b.id = r.budget_id JOIN accounts a ON a.id = b.account_id "
        "LEFT JOIN (SELECT row_id, sum(d_cap) AS cap, sum(d_overrun) AS overrun, sum(d_avail) AS avail, "
        "sum(d_leased) AS leased, sum(d_suspense) AS suspense, sum(d_spent) AS spent FROM lines "
        "GROUP BY row_id) l ON l.row_id = r.id "
        "WHERE r.avail + r.leased + r.suspense + r.spent <> r.cap + r.overrun OR "
        "(r.cap, r.overrun, r.avail, r.leased, r.suspense, r.spent) IS NOT "
        "(coalesce(l.cap, 0), coalesce(l.overrun, 0), coalesce(l.avail, 0), coalesce(l.leased, 0), "
        "coalesce(l.suspense, 0), coalesce(l.spent, 0))",
        audit));

    TH_RETURN_IF_ERROR(audit.Phase("leases and suspense"));
    // I2: a row's lease is that of the open epoch; what epochs hold comes from their lines.
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'row ' || coalesce(e.row_id, l.row_id) || ', epoch ' || coalesce(e.epoch, l.epoch) || "
        "': leased ' || coalesce(e.leased, 0) || '/' || coalesce(l.leased, 0) || ', lost ' || "
        "coalesce(e.lost, 0) || '/' || coalesce(l.lost, 0) FROM epoch_amounts e FULL JOIN "
        "(SELECT row_id, epoch, sum(d_leased) AS leased, sum(d_lost) AS lost FROM lines "
        "GROUP BY row_id, epoch HAVING sum(d_leased) <> 0 OR sum(d_lost) <> 0) l "
        "ON l.row_id = e.row_id AND l.epoch = e.epoch "
        "WHERE coalesce(e.leased, 0) <> coalesce(l.leased, 0) OR coalesce(e.lost, 0) <> coalesce(l.lost, 0)",
        audit));
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'row ' || r.id || ', period ' || r.period || ': leased ' || r.leased || ', open epochs hold ' "
        "|| coalesce(sum(e.leased), 0) FROM budget_rows r LEFT JOIN epoch_amounts e ON e.row_id = r.id AND "
        "e.epoch = (SELECT max(epoch) FROM epochs WHERE org_id = r.org_id) "
        "GROUP BY r.id HAVING r.leased <> coalesce(sum(e.leased), 0)",
        audit));
    TH_RETURN_IF_ERROR(ExpectNone(
        c,
        "SELECT 'row ' || r.id || ', period ' || r.period || ': suspense ' || r.suspense || ', its parts ' "
        "|| parts FROM (SELECT r.id, r.period, r.suspense, "
        "(SELECT coalesce(sum(lost), 0) FROM epoch_amounts WHERE row_id = r.id) + "
        "(SELECT coalesce(sum(a.amount), 0) FROM suspense_amounts a JOIN suspense s "
        "USING (org_id, hold_id, epoch) WHERE a.row_id = r.id AND s.state = 1) AS parts "
        "FROM budget_rows r) r WHERE suspense <> parts",
        audit));
    return absl::OkStatus();
  }));
  return audit.Done();
}

}  // namespace tollhouse::ledger
