// Threshold events, recorded in the transaction that crosses the threshold, and their deliveries.
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kPending = 0;
constexpr int kDelivered = 1;
constexpr int kFailed = 2;
constexpr int kAlertsPerPage = 1000;
constexpr size_t kErrorBytes = 300;

// Names, paths and periods hold nothing that JSON escapes, but for " and \ in a match.
std::string Quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out += '"';
}

v1::Webhook ToProto(const std::string& path, const std::string& url, bool has_secret,
                    bool allow_private) {
  v1::Webhook out;
  out.set_path(path);
  out.set_url(url);
  out.set_has_secret(has_secret);
  out.set_allow_private(allow_private);
  return out;
}

}  // namespace

absl::Status SqlStore::RecordAlerts(Txn& t, const LoadedRow& row) {
  const BudgetDefinition& budget = *row.budget;
  if (budget.deleted) return absl::OkStatus();
  for (const int pct : budget.spec.soft_pct) {
    if (!ThresholdReached(row.row.spent, budget.limit(), pct)) break;  // sorted
    {
      absl::MutexLock lock(&cache_mutex_);
      if (alerted_.contains({budget.id, row.period, pct})) continue;
    }
    t.alerted.emplace_back(budget.id, row.period, pct);
    int64_t alert = 0;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          t.c.Query("INSERT INTO alerts (org_id, budget_id, account_id, display_id, path, period, "
                    "threshold_pct, limit_nanos, spent, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
                    "?10) ON CONFLICT DO NOTHING RETURNING id",
                    budget.org_id, budget.id, budget.account_id, budget.display_id(), budget.spec.path, row.period,
                    pct, budget.limit(), row.row.spent, ToColumn(t.now)));
      if (rows.Next()) alert = rows.Int(0);
      TH_RETURN_IF_ERROR(rows.status());
    }
    if (alert == 0) continue;
    t.alerts.push_back({budget.display_id(), row.period, pct, row.row.spent.nanos()});
    TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> chain, ChainOf(t.c, budget.account_id));
    for (const AccountRow& account : chain) {
      TH_ASSIGN_OR_RETURN(
          const int64_t added,
          t.c.Execute("INSERT INTO deliveries (org_id, alert_id, webhook_id, state, next_at) "
                      "SELECT org_id, CAST(?1 AS BIGINT), id, CAST(?4 AS BIGINT), CAST(?3 AS BIGINT) "
                      "FROM webhooks WHERE account_id = ?2",
                      alert, account.id, ToColumn(t.now), kPending));
      t.deliveries_added |= added > 0;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Webhook> SqlStore::SetWebhook(audit::Call* audit,
                                                 const v1::SetWebhookRequest& request) {
  const v1::Webhook made =
      ToProto(request.path(), request.url(), !request.secret().empty(), request.allow_private());
  TH_RETURN_IF_ERROR(Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(t.c, request.path()));
        TH_RETURN_IF_ERROR(RecordWebhook(t, account, request.url()));
        if (audit != nullptr) audit->SetAfter(made);
        return t.c
            .Execute(
                "INSERT INTO webhooks (org_id, account_id, url, secret, allow_private) "
                "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (org_id, account_id, url) DO UPDATE SET "
                "secret = excluded.secret, allow_private = excluded.allow_private",
                account.org_id, account.id, request.url(), request.secret(),
                request.allow_private())
            .status();
      },
      nullptr, audit));
  return made;
}

absl::Status SqlStore::RecordWebhook(Txn& t, const AccountRow& account, std::string_view url) {
  if (t.audit == nullptr) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      t.c.Query("SELECT secret <> '', allow_private FROM webhooks WHERE account_id = ?1 "
                "AND url = ?2",
                account.id, url));
  if (rows.Next()) {
    t.audit->SetBefore(ToProto(account.path, std::string(url), rows.Bool(0), rows.Bool(1)));
  }
  return rows.status();
}

absl::StatusOr<v1::ListWebhooksResponse> SqlStore::ListWebhooks(std::string_view path) {
  v1::ListWebhooksResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    if (!path.empty()) TH_RETURN_IF_ERROR(AccountByPath(c, path).status());
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT a.path, w.url, w.secret <> '', w.allow_private FROM webhooks w "
                                "JOIN accounts a ON a.id = w.account_id ORDER BY a.path, w.url"));
    while (rows.Next()) {
      if (!IsAtOrBelow(rows.Text(0), path)) continue;
      *out.add_webhooks() = ToProto(rows.Text(0), rows.Text(1), rows.Bool(2), rows.Bool(3));
    }
    return rows.status();
  }));
  return out;
}

absl::Status SqlStore::DeleteWebhook(audit::Call* audit, const v1::DeleteWebhookRequest& request) {
  return Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(t.c, request.path()));
        TH_RETURN_IF_ERROR(RecordWebhook(t, account, request.url()));
        TH_RETURN_IF_ERROR(
            t.c.Execute("UPDATE deliveries SET state = ?3, last_error = 'the webhook was removed' "
                        "WHERE state = ?4 AND webhook_id IN "
                        "(SELECT id FROM webhooks WHERE account_id = ?1 AND url = ?2)",
                        account.id, request.url(), kFailed, kPending)
                .status());
        return t.c
            .Execute("DELETE FROM webhooks WHERE account_id = ?1 AND url = ?2", account.id,
                     request.url())
            .status();
      },
      nullptr, audit);
}

absl::StatusOr<v1::ListAlertsResponse> SqlStore::ListAlerts(const v1::ListAlertsRequest& request) {
  v1::ListAlertsResponse out;
  const int limit = request.page_size() > 0 ? std::min(request.page_size(), kAlertsPerPage)
                                            : kAlertsPerPage;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    if (!request.path().empty()) TH_RETURN_IF_ERROR(AccountByPath(c, request.path()).status());
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT l.id, l.display_id, a.path, l.period, l.threshold_pct, l.limit_nanos, l.spent, "
                "l.at, count(d.id), count(*) FILTER (WHERE d.state = 0), "
                "count(*) FILTER (WHERE d.state = 2), coalesce(max(d.attempts), 0), "
                "coalesce(max(d.last_error), '') FROM alerts l JOIN accounts a ON a.id = l.account_id "
                "LEFT JOIN deliveries d ON d.alert_id = l.id GROUP BY l.org_id, l.id, a.path ORDER BY l.id DESC"));
    while (out.alerts_size() < limit && rows.Next()) {
      if (!IsAtOrBelow(rows.Text(2), request.path())) continue;
      v1::Alert& alert = *out.add_alerts();
      alert.set_id(rows.Int(0));
      alert.set_budget(rows.Text(1));
      alert.set_path(rows.Text(2));
      alert.set_period(rows.Text(3));
      alert.set_threshold_pct(static_cast<int>(rows.Int(4)));
      alert.set_limit_nanousd(rows.Int(5));
      alert.set_spent_nanousd(rows.Int(6));
      SetTime(FromColumn(rows.Int(7)), alert.mutable_at());
      alert.set_delivery(rows.Int(8) == 0   ? "none"
                         : rows.Int(9) > 0  ? "pending"
                         : rows.Int(10) > 0 ? "failed"
                                            : "delivered");
      alert.set_attempts(static_cast<int>(rows.Int(11)));
      alert.set_last_error(rows.Text(12));
    }
    return rows.status();
  }));
  return out;
}

absl::StatusOr<std::vector<Delivery>> SqlStore::DueDeliveries(int limit) {
  std::vector<Delivery> out;
  const int64_t now = ToColumn(clock_->Wall());
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT d.id, coalesce(w.url, ''), coalesce(w.secret, ''), "
                "coalesce(w.allow_private, 0), d.attempts, l.id, l.display_id, l.path, l.period, "
                "l.threshold_pct, l.limit_nanos, l.spent, l.at FROM deliveries d "
                "JOIN alerts l ON l.id = d.alert_id LEFT JOIN webhooks w ON w.id = d.webhook_id "
                "WHERE d.state = 0 AND d.next_at <= ?1 ORDER BY d.next_at, d.id LIMIT ?2",
                now, limit));
    while (rows.Next()) {
      Delivery& d = out.emplace_back();
      d.id = rows.Int(0);
      d.url = rows.Text(1);
      d.secret = rows.Text(2);
      d.allow_private = rows.Bool(3);
      d.attempts = static_cast<int>(rows.Int(4));
      d.body = absl::StrCat(
          "{\"type\":\"budget.threshold\",\"alert_id\":\"", rows.Int(5),
          "\",\"budget\":", Quote(rows.View(6)), ",\"path\":", Quote(rows.View(7)),
          ",\"period\":", Quote(rows.View(8)), ",\"threshold_pct\":", rows.Int(9),
          ",\"limit_nanousd\":\"", rows.Int(10), "\",\"spent_nanousd\":\"", rows.Int(11),
          "\",\"at\":\"",
          absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", FromColumn(rows.Int(12)), absl::UTCTimeZone()),
          "\"}");
    }
    return rows.status();
  }));
  return out;
}

absl::StatusOr<std::optional<absl::Time>> SqlStore::NextDelivery() {
  std::optional<absl::Time> out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT min(next_at) FROM deliveries WHERE state = 0"));
    if (rows.Next() && !rows.IsNull(0)) out = FromColumn(rows.Int(0));
    return rows.status();
  }));
  return out;
}

absl::Status SqlStore::RecordDelivery(int64_t id, std::string_view error,
                                         std::optional<absl::Time> retry_at) {
  return Write(NoOrg(), [&](Txn& t) -> absl::Status {
    const int state = error.empty() ? kDelivered : retry_at.has_value() ? kPending : kFailed;
    return t.c
        .Execute("UPDATE deliveries SET state = ?2, attempts = attempts + 1, next_at = ?3, "
                 "last_error = ?4 WHERE id = ?1 AND state = 0",
                 id, state, ToColumn(retry_at.value_or(t.now)), error.substr(0, kErrorBytes))
        .status();
  });
}

}  // namespace tollhouse::ledger
