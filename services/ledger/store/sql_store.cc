#include "services/ledger/store/sql_store.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/obs/log.h"
#include "libs/sql/change_log.h"
#include "services/ledger/core/names.h"

namespace tollhouse::ledger {

extern const std::string_view kSqliteSchema3;    // migrations/sqlite/0003_ledger.sql
extern const std::string_view kSqliteSchema5;    // migrations/sqlite/0005_adjustments.sql
extern const std::string_view kSqliteSchema6;    // migrations/sqlite/0006_chain.sql
extern const std::string_view kSqliteSchema8;    // migrations/sqlite/0008_paging.sql
extern const std::string_view kPostgresSchema1;  // migrations/postgres/0001_ledger.sql
extern const std::string_view kPostgresSchema3;  // migrations/postgres/0003_failover.sql
extern const std::string_view kPostgresSchema4;  // migrations/postgres/0004_chain.sql
extern const std::string_view kPostgresSchema6;  // migrations/postgres/0006_paging.sql

namespace {

constexpr std::string_view kServerChanged = "SERVER_CHANGED";
constexpr int64_t kHourMicros = 3'600'000'000;
constexpr int kPartitionsAhead = 4;

// The server's history is checked with the lock, so that no transaction builds on what is missing.
const std::string& LockOrgsStatement() {
  static const std::string statement = absl::StrCat(
      "SELECT org_id, last_sequence, epoch, next_raise_end, head, unchained, (SELECT history <> ",
      Absl(sql::kServerHistory),
      " FROM failover) FROM orgs WHERE org_id = ANY (CAST(?1 AS bigint[])) ORDER BY org_id FOR "
      "UPDATE");
  return statement;
}

int64_t HourOf(int64_t micros) {
  const int64_t rest = micros % kHourMicros;
  return micros - rest - (rest < 0 ? kHourMicros : 0);
}

// Columns of numbers and texts for unnest.
struct Columns {
  explicit Columns(size_t ints, size_t texts = 0) : numbers(ints), texts(texts) {}
  sql::Array Ints(size_t column) const { return sql::Array::Ints(numbers[column]); }
  sql::Array Texts(size_t column) const { return sql::Array::Texts(texts[column]); }

  std::vector<std::vector<int64_t>> numbers;
  std::vector<std::vector<std::string_view>> texts;
};

}  // namespace

sql::Schema StoreSchema() {
  return {.sqlite = {{3, kSqliteSchema3},
                     {4, sql::ChangeLogSchema(sql::Dialect::kSqlite)},
                     {5, kSqliteSchema5},
                     {6, kSqliteSchema6},
                     {7, audit::LogSchema(sql::Dialect::kSqlite)},
                     {8, kSqliteSchema8}},
          .postgres = {{1, kPostgresSchema1},
                       {2, sql::ChangeLogSchema(sql::Dialect::kPostgres)},
                       {3, kPostgresSchema3},
                       {4, kPostgresSchema4},
                       {5, audit::LogSchema(sql::Dialect::kPostgres)},
                       {6, kPostgresSchema6}}};
}

absl::Time FromColumn(int64_t micros) {
  if (micros == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (micros == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixMicros(micros);
}

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

std::string Serialize(const google::protobuf::MessageLite& message) {
  std::string out;
  {
    google::protobuf::io::StringOutputStream stream(&out);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return out;
}

absl::StatusOr<std::unique_ptr<SqlStore>> SqlStore::Open(sql::Database* database, const Clock* clock) {
  std::unique_ptr<SqlStore> store(new SqlStore(database, clock));
  TH_RETURN_IF_ERROR(store->CheckServer());
  TH_RETURN_IF_ERROR(store->Maintain());
  return store;
}

absl::Status SqlStore::Maintain() {
  if (database_->dialect() != sql::Dialect::kPostgres) return absl::OkStatus();
  const absl::Time now = clock_->Wall();
  const absl::Duration week = absl::Hours(24 * 7);
  const absl::Time monday = absl::UnixEpoch() + absl::Hours(24 * 4);  // 1970-01-05
  const absl::Time first = monday + absl::Floor(now - monday, week) - week;
  // A UUIDv7 begins with its time in milliseconds.
  const auto bound = [](absl::Time time) {
    const std::string hex = absl::StrFormat("%012x", absl::ToUnixMillis(time));
    return absl::StrCat(hex.substr(0, 8), "-", hex.substr(8), "-0000-0000-000000000000");
  };
  const auto name_of = [](absl::Time start) {
    return absl::StrCat("journal_", absl::FormatTime("%Y%m%d", start, absl::UTCTimeZone()));
  };
  // From the catalog's rows: to_regclass() may remember what was not there before the lock was had.
  const auto missing = [&](sql::Connection& c) -> absl::StatusOr<std::vector<absl::Time>> {
    std::vector<absl::Time> weeks;
    std::vector<std::string> names;
    for (int i = 0; i <= kPartitionsAhead + 1; ++i) names.push_back(name_of(first + i * week));
    const std::vector<std::string_view> views(names.begin(), names.end());
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT n - 1 FROM unnest(CAST(?1 AS text[])) WITH ORDINALITY AS t (name, n) "
                                "WHERE NOT EXISTS (SELECT 1 FROM pg_inherits JOIN pg_class ON oid = inhrelid "
                                "WHERE inhparent = 'journal'::regclass AND relname = name) ORDER BY n",
                                sql::Array::Texts(views)));
    while (rows.Next()) weeks.push_back(first + rows.Int(0) * week);
    TH_RETURN_IF_ERROR(rows.status());
    return weeks;
  };
  std::vector<absl::Time> wanted;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(wanted, missing(c));
    return absl::OkStatus();
  }));
  for (const absl::Time start : wanted) {
    const std::string name = name_of(start);
    const absl::Status status = database_->Write([&](sql::Connection& c) -> absl::Status {
      // Of several ledgers one does it; ATTACH lets readers and writers of the journal go on.
      TH_RETURN_IF_ERROR(
          c.Query("SELECT pg_advisory_xact_lock(hashtext('tollhouse journal'))").status());
      TH_ASSIGN_OR_RETURN(const std::vector<absl::Time> still, missing(c));
      if (std::find(still.begin(), still.end(), start) == still.end()) return absl::OkStatus();
      return c.ExecuteScript(absl::StrCat(
          "CREATE TABLE ", name, " (LIKE journal INCLUDING DEFAULTS INCLUDING CONSTRAINTS); ",
          "ALTER TABLE ", name, " ADD CONSTRAINT ", name, "_range CHECK (hold_id >= '", bound(start),
          "' AND hold_id < '", bound(start + week), "'); ALTER TABLE journal ATTACH PARTITION ", name,
          " FOR VALUES FROM ('", bound(start), "') TO ('", bound(start + week), "'); ALTER TABLE ", name,
          " DROP CONSTRAINT ", name, "_range"));
    });
    // The default partition takes what has none of its own: slower reports, nothing lost.
    if (!status.ok()) {
      obs::Warning("journal_partition_not_made", {{"partition", name}, {"reason", status.ToString()}});
    }
  }
  return absl::OkStatus();
}

SqlStore::FindOrgs SqlStore::NoOrg() {
  return [](sql::Connection&) { return std::vector<int64_t>(); };
}

SqlStore::FindOrgs SqlStore::Org(int64_t org_id) {
  return [org_id](sql::Connection&) { return std::vector<int64_t>{org_id}; };
}

SqlStore::FindOrgs SqlStore::OrgOf(std::string_view path) {
  return [path](sql::Connection& c) -> absl::StatusOr<std::vector<int64_t>> {
    std::vector<int64_t> out;
    const std::string_view org = path.substr(0, path.find('/'));
    if (org == path) out.push_back(0);
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT org_id FROM accounts WHERE path = ?1 AND deleted_at IS NULL", org));
    if (rows.Next()) out.push_back(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
    return out;
  };
}

absl::Status SqlStore::Write(const FindOrgs& orgs, const std::function<absl::Status(Txn&)>& body,
                             int64_t* version, audit::Call* audit) {
  constexpr int kAttempts = 3;  // the server may change again meanwhile
  for (int attempt = 1;; ++attempt) {
    const absl::Status status = WriteOnce(orgs, body, version, audit);
    if (ReasonOf(status) != kServerChanged || attempt == kAttempts) return status;
    TH_RETURN_IF_ERROR(FailOver());
  }
}

absl::Status SqlStore::WriteOnce(const FindOrgs& orgs,
                                 const std::function<absl::Status(Txn&)>& body, int64_t* version,
                                 audit::Call* audit, bool failing_over) {
  int64_t appended = 0;
  std::optional<Txn> txn;
  TH_RETURN_IF_ERROR(database_->Write([&](sql::Connection& c) -> absl::Status {
    txn.reset();
    txn.emplace(Txn{.c = c, .now = clock_->Wall(), .audit = audit});
    Txn& t = *txn;
    if (audit != nullptr) audit->Begin();
    TH_ASSIGN_OR_RETURN(std::vector<int64_t> ids, orgs(c));
    TH_RETURN_IF_ERROR(LockOrgs(t, std::move(ids)));
    if (t.server_changed && !failing_over) {
      return MakeError(absl::StatusCode::kUnavailable, kServerChanged,
                       "the database has failed over; nothing was changed");
    }
    for (const auto& [id, org] : t.orgs) {
      if (t.now >= org.next_raise_end) TH_RETURN_IF_ERROR(EndRaises(t, id));
    }
    TH_RETURN_IF_ERROR(body(t));
    TH_RETURN_IF_ERROR(Finish(t));
    if (audit != nullptr) TH_RETURN_IF_ERROR(audit->Append(c));
    appended = 0;
    if (t.changes.budgets_size() == 0 && t.changes.deleted_budget_ids_size() == 0 &&
        t.changes.limits_size() == 0 && t.changes.changed_account_ids_size() == 0 &&
        t.changes.epochs_size() == 0 && t.changes.replay_generation() == 0) {
      return absl::OkStatus();
    }
    TH_ASSIGN_OR_RETURN(appended, sql::AppendChange(c, Serialize(t.changes)));
    return absl::OkStatus();
  }));
  if (version != nullptr) *version = appended;
  Txn& t = *txn;
  {
    absl::MutexLock lock(&cache_mutex_);
    alerted_.insert(t.alerted.begin(), t.alerted.end());
  }
  {
    absl::MutexLock counters_lock(&counters_mutex_);
    counters_.entries_posted += t.counters.entries_posted;
    counters_.entries_duplicate += t.counters.entries_duplicate;
    counters_.entries_conflicting += t.counters.entries_conflicting;
    counters_.entries_rejected += t.counters.entries_rejected;
    counters_.entries_above_hold += t.counters.entries_above_hold;
    counters_.suspense_resolved_auto += t.counters.suspense_resolved_auto;
    counters_.cover_missing += t.counters.cover_missing;
  }
  for (const Txn::AlertLog& alert : t.alerts) {
    obs::Warning("budget_threshold_reached", {{"budget", alert.budget},
                                              {"period", alert.period},
                                              {"threshold_pct", alert.threshold_pct},
                                              {"spent_nanousd", alert.spent}});
  }
  if (appended > 0 && changed_ != nullptr) changed_();
  if (t.deliveries_added && deliveries_added_ != nullptr) deliveries_added_();
  return absl::OkStatus();
}

absl::Status SqlStore::LockOrgs(Txn& t, std::vector<int64_t> ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  const auto take = [&t](sql::Rows& rows) {
    while (rows.Next()) {
      OrgState& org = t.orgs[rows.Int(0)];
      org.last_sequence = rows.Int(1);
      org.epoch = rows.Int(2);
      org.next_raise_end = FromColumn(rows.Int(3));
      org.head = rows.View(4).empty() ? ChainGenesis(rows.Int(0), rows.Int(5)) : rows.Text(4);
      t.server_changed |= t.c.dialect() == sql::Dialect::kPostgres && rows.Bool(6);
    }
    return rows.status();
  };
  if (t.c.dialect() == sql::Dialect::kPostgres) {
    if (ids.empty()) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query(LockOrgsStatement(), sql::Array::Ints(ids)));
    return take(rows);
  }
  for (const int64_t id : ids) {  // the transaction is the only writer
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT org_id, last_sequence, epoch, next_raise_end, head, unchained FROM orgs "
                  "WHERE org_id = ?1",
                  id));
    TH_RETURN_IF_ERROR(take(rows));
  }
  return absl::OkStatus();
}

absl::Status SqlStore::Finish(Txn& t) {
  TH_RETURN_IF_ERROR(FinishRows(t));
  TH_RETURN_IF_ERROR(FinishMovements(t));
  for (const int64_t id : std::exchange(t.changed_rules, {})) {
    TH_ASSIGN_OR_RETURN(const BudgetDefinition* const budget, LoadBudget(t, id));
    if (budget == nullptr || budget->deleted || budget->is_template()) continue;
    v1::BudgetRule rule = RuleOf(*budget);
    TH_ASSIGN_OR_RETURN(const bool recall, NeedsRecall(t.c, *budget, t.now));
    rule.set_recall(recall);
    *t.changes.add_budgets() = std::move(rule);
  }
  return absl::OkStatus();
}

absl::Status SqlStore::FinishRows(Txn& t) {
  std::vector<LoadedRow*> changed;
  for (auto& [id, row] : t.rows) {
    for (auto& [epoch, lost] : row->lost) {
      if (!std::exchange(lost.dirty, false)) continue;
      TH_RETURN_IF_ERROR(
          t.c.Execute("INSERT INTO lost_leases (org_id, row_id, epoch, lost) VALUES (?1, ?2, ?3, ?4) "
                      "ON CONFLICT (org_id, row_id, epoch) DO UPDATE SET lost = ?4",
                      row->budget->org_id, id, epoch, lost.amount)
              .status());
    }
    if (row->row != row->stored) changed.push_back(row.get());
  }
  if (changed.empty()) return absl::OkStatus();
  const auto values = [](const LoadedRow& r) {
    return std::array<int64_t, 9>{r.budget->org_id,      r.id,
                                  r.row.target.nanos(),  r.row.cap.nanos(),
                                  r.row.overrun.nanos(), r.row.avail.nanos(),
                                  r.row.leased.nanos(),  r.row.suspense.nanos(),
                                  r.row.spent.nanos()};
  };
  if (t.c.dialect() == sql::Dialect::kPostgres) {
    Columns columns(9);
    for (const LoadedRow* const row : changed) {
      const auto row_values = values(*row);
      for (size_t i = 0; i < row_values.size(); ++i) columns.numbers[i].push_back(row_values[i]);
    }
    TH_RETURN_IF_ERROR(
        t.c.Execute("UPDATE budget_rows r SET target = u.target, cap = u.cap, overrun = u.overrun, "
                    "avail = u.avail, leased = u.leased, suspense = u.suspense, spent = u.spent FROM "
                    "unnest(CAST(?1 AS bigint[]), CAST(?2 AS bigint[]), CAST(?3 AS bigint[]), "
                    "CAST(?4 AS bigint[]), CAST(?5 AS bigint[]), CAST(?6 AS bigint[]), "
                    "CAST(?7 AS bigint[]), CAST(?8 AS bigint[]), CAST(?9 AS bigint[])) AS "
                    "u (org_id, id, target, cap, overrun, avail, leased, suspense, spent) "
                    "WHERE r.org_id = u.org_id AND r.id = u.id",
                    columns.Ints(0), columns.Ints(1), columns.Ints(2), columns.Ints(3),
                    columns.Ints(4), columns.Ints(5), columns.Ints(6), columns.Ints(7),
                    columns.Ints(8))
            .status());
  } else {
    for (const LoadedRow* const row : changed) {
      const auto v = values(*row);
      TH_RETURN_IF_ERROR(
          t.c.Execute("UPDATE budget_rows SET target = ?3, cap = ?4, overrun = ?5, avail = ?6, "
                      "leased = ?7, suspense = ?8, spent = ?9 WHERE org_id = ?1 AND id = ?2",
                      v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8])
              .status());
    }
  }
  for (LoadedRow* const r : changed) {
    if (r->row.WantsLeaseBack() != r->stored.WantsLeaseBack() && r->start <= t.now && t.now < r->end) {
      t.changed_rules.insert(r->budget->id);
    }
    if (r->row.spent > r->stored.spent || r->row.target != r->stored.target) {
      TH_RETURN_IF_ERROR(RecordAlerts(t, *r));
    }
    r->stored = r->row;
  }
  return absl::OkStatus();
}

absl::Status SqlStore::FinishMovements(Txn& t) {
  const auto movements = t.c.Insert(
      "movements", {"org_id", "sequence", "kind", "at", "entries", "note", "hash", "digests"});
  const auto lines =
      t.c.Insert("lines", {"org_id", "sequence", "row_id", "epoch", "d_cap", "d_overrun", "d_avail",
                           "d_leased", "d_suspense", "d_spent", "d_lost"});
  // Writes a movement with its lines, and chains it to the org's last one.
  const auto add = [&](int64_t org_id, OrgState& org, const MovementColumns& movement,
                       int64_t lines_of, const std::vector<crypto::Sha256Digest>& entries) {
    std::vector<LineColumns> columns;
    for (auto line = org.lines.lower_bound({lines_of, INT64_MIN, INT64_MIN});
         line != org.lines.end() && std::get<0>(line->first) == lines_of; ++line) {
      const LineDelta& d = line->second;
      if (d == LineDelta()) continue;
      columns.push_back({std::get<1>(line->first), std::get<2>(line->first), d.cap.nanos(),
                         d.overrun.nanos(), d.avail.nanos(), d.leased.nanos(), d.suspense.nanos(),
                         d.spent.nanos(), d.lost.nanos()});
      lines->Int(org_id);
      lines->Int(movement.sequence);
      for (const int64_t value : columns.back()) lines->Int(value);
      lines->EndRow();
    }
    org.head = HashOfMovement(org.head, movement, columns, entries);
    for (const int64_t value :
         {movement.org_id, movement.sequence, movement.kind, movement.at, movement.entries}) {
      movements->Int(value);
    }
    movements->Text(movement.note);
    movements->Bytes(org.head);
    movements->Bytes(ShortDigests(entries));
    movements->EndRow();
  };
  for (auto& [id, org] : t.orgs) {
    MovementColumns columns{.org_id = id, .at = ToColumn(t.now)};
    for (const OrgState::MovementRow& movement : org.movements) {
      columns.sequence = movement.sequence;
      columns.kind = static_cast<int64_t>(movement.kind);
      columns.note = movement.note;
      add(id, org, columns, movement.sequence, {});
    }
    if (!org.terminals.empty()) {
      columns.sequence = org.last_sequence + 1;
      columns.kind = static_cast<int64_t>(Movement::kSettle);
      columns.entries = static_cast<int64_t>(org.terminals.size());
      columns.note = "";
      org.last_sequence += columns.entries;
      TH_ASSIGN_OR_RETURN(const auto digests, FinishEntries(t, id, org, columns.sequence));
      add(id, org, columns, 0, digests);
      TH_RETURN_IF_ERROR(FinishSpend(t, id, org));
    }
    if (org.dirty || !org.movements.empty() || !org.terminals.empty()) {
      TH_RETURN_IF_ERROR(t.c.Execute("UPDATE orgs SET last_sequence = ?2, epoch = ?3, "
                                     "next_raise_end = ?4, head = ?5 WHERE org_id = ?1",
                                     id, org.last_sequence, org.epoch, ToColumn(org.next_raise_end),
                                     sql::Blob{org.head})
                             .status());
    }
    org.dirty = false;
    org.movements.clear();
    org.terminals.clear();
    org.lines.clear();
  }
  TH_RETURN_IF_ERROR(movements->Finish());
  return lines->Finish();
}

absl::StatusOr<std::string> SqlStore::PriceDetail(Txn& t, int64_t org_id, const std::string& detail) {
  if (detail.empty()) return "";
  std::string digest(crypto::AsBytes(crypto::Sha256(detail)).substr(0, 16));
  {
    absl::MutexLock lock(&cache_mutex_);
    if (price_details_.contains({org_id, digest})) return digest;
  }
  if (!t.price_details.emplace(org_id, digest).second) return digest;
  TH_RETURN_IF_ERROR(t.c.Execute("INSERT INTO price_details (org_id, digest, detail) VALUES (?1, ?2, ?3) "
                                 "ON CONFLICT (org_id, digest) DO NOTHING",
                                 org_id, sql::Blob{digest}, detail)
                         .status());
  return digest;
}

absl::StatusOr<std::vector<crypto::Sha256Digest>> SqlStore::FinishEntries(Txn& t, int64_t org_id,
                                                                          OrgState& org,
                                                                          int64_t first_sequence) {
  // Columns in the order of DigestOfJournalRow (sql_verify.cc).
  DigestingInsert journal(t.c.Insert(
      "journal", {"org_id",     "sequence", "at",          "started_at",   "cost",
                  "team_id",    "user_id",  "key_id",      "input_tokens", "output_tokens",
                  "hold_id",    "revision", "kind",        "provider",     "model",
                  "request_id", "tags",     "fingerprint", "entry",        "note"}));
  const std::string* last_detail = nullptr;
  std::string digest;
  std::vector<int64_t> rows;
  int64_t sequence = first_sequence;
  for (Terminal& terminal : org.terminals) {
    const v1::Entry& entry = *terminal.entry;
    if (last_detail == nullptr || entry.price_detail() != *last_detail) {
      TH_ASSIGN_OR_RETURN(digest, PriceDetail(t, org_id, entry.price_detail()));
      last_detail = &entry.price_detail();
    }
    journal.Int(org_id);
    journal.Int(sequence++);
    journal.Int(ToColumn(t.now));
    journal.Int(terminal.started_at);
    journal.Int(terminal.cost);
    for (const int64_t id : {terminal.team_id, terminal.user_id, terminal.key_id}) journal.Int(id);
    journal.Int(terminal.input_tokens);
    journal.Int(terminal.output_tokens);
    journal.Uuid(entry.hold_id());
    journal.Int(terminal.revision);
    journal.Int(static_cast<int64_t>(terminal.kind));
    journal.Text(entry.provider());
    journal.Text(entry.model());
    if (entry.request_id().empty()) {
      journal.Null();
    } else {
      journal.Text(entry.request_id());
    }
    journal.Text(entry.tags().empty() ? ""
                                      : EncodeTags({entry.tags().begin(), entry.tags().end()}));
    journal.Bytes(terminal.fingerprint);
    std::array<int64_t, 4> ids;
    size_t count = 0;
    for (const int64_t id : {org_id, terminal.team_id, terminal.user_id, terminal.key_id}) {
      if (id != 0) ids[count++] = id;
    }
    rows.clear();
    for (const LoadedRow* const row : terminal.rows) rows.push_back(row->id);
    journal.Bytes(PackEntry(entry, rows, terminal.lines, {ids.data(), count}, digest));
    journal.Text(terminal.note);
    journal.EndRow();
  }
  TH_RETURN_IF_ERROR(journal.Finish());
  return journal.TakeDigests();
}

absl::Status SqlStore::FinishSpend(Txn& t, int64_t org_id, const OrgState& org) {
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, std::string_view, std::string_view>;
  std::map<Key, SpendSums> sums;
  for (const Terminal& terminal : org.terminals) {
    if (terminal.kind == Movement::kVoid) continue;
    SpendSums& sum = sums[{HourOf(terminal.started_at), terminal.key_id, terminal.user_id,
                           terminal.team_id, terminal.entry->provider(), terminal.entry->model()}];
    sum.requests += terminal.kind == Movement::kReverse ? -1 : 1;
    sum.cost += terminal.cost;
    sum.input += terminal.input_tokens;
    sum.output += terminal.output_tokens;
  }
  constexpr std::string_view kAdd =
      " ON CONFLICT (org_id, hour, key_id, user_id, team_id, provider, model) DO UPDATE SET "
      "requests = spend_hours.requests + excluded.requests, cost = spend_hours.cost + excluded.cost, "
      "input_tokens = spend_hours.input_tokens + excluded.input_tokens, "
      "output_tokens = spend_hours.output_tokens + excluded.output_tokens";
  constexpr std::string_view kInsert =
      "INSERT INTO spend_hours (org_id, hour, key_id, user_id, team_id, provider, model, requests, "
      "cost, input_tokens, output_tokens) ";
  if (t.c.dialect() == sql::Dialect::kSqlite) {
    for (const auto& [key, sum] : sums) {
      const auto& [hour, key_id, user, team, provider, model] = key;
      TH_RETURN_IF_ERROR(
          t.c.Execute(absl::StrCat(Absl(kInsert), "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                                   Absl(kAdd)),
                      org_id, hour, key_id, user, team, provider, model, sum.requests, sum.cost,
                      sum.input, sum.output)
              .status());
    }
    return absl::OkStatus();
  }
  if (sums.empty()) return absl::OkStatus();
  Columns columns(8, 2);
  for (const auto& [key, sum] : sums) {
    const auto& [hour, key_id, user, team, provider, model] = key;
    size_t column = 0;
    for (const int64_t value :
         {hour, key_id, user, team, sum.requests, sum.cost, sum.input, sum.output}) {
      columns.numbers[column++].push_back(value);
    }
    columns.texts[0].push_back(provider);
    columns.texts[1].push_back(model);
  }
  return t.c
      .Execute(absl::StrCat(
                   Absl(kInsert),
                   "SELECT CAST(?1 AS bigint), u.* FROM unnest(CAST(?2 AS bigint[]), CAST(?3 AS bigint[]), "
                   "CAST(?4 AS bigint[]), CAST(?5 AS bigint[]), CAST(?6 AS text[]), CAST(?7 AS text[]), "
                   "CAST(?8 AS bigint[]), CAST(?9 AS bigint[]), CAST(?10 AS bigint[]), "
                   "CAST(?11 AS bigint[])) AS u",
                   Absl(kAdd)),
               org_id, columns.Ints(0), columns.Ints(1), columns.Ints(2), columns.Ints(3),
               columns.Texts(0), columns.Texts(1), columns.Ints(4), columns.Ints(5), columns.Ints(6),
               columns.Ints(7))
      .status();
}

absl::StatusOr<v1::WatchResponse> SqlStore::Snapshot() {
  v1::WatchResponse out;
  out.set_snapshot(true);
  const absl::Time now = clock_->Wall();
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> budgets,
                        QueryBudgets(c, "b.for_each = 0"));
    std::set<int64_t> recalled;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT budget_id FROM budget_rows WHERE leased > 0 AND "
                                  "(cap > target OR overrun > 0) AND period_end > ?1",
                                  ToColumn(now)));
      while (rows.Next()) recalled.insert(rows.Int(0));
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const BudgetDefinition& budget : budgets) {
      v1::BudgetRule& rule = *out.add_budgets() = RuleOf(budget);
      rule.set_recall(recalled.contains(budget.id));
    }
    TH_ASSIGN_OR_RETURN(
        const std::vector<AccountRow> limited,
        QueryAccounts(c,
                      "deleted_at IS NULL AND (requests_per_minute > 0 OR tokens_per_minute > 0 OR "
                      "concurrency > 0 OR max_output_tokens > 0 OR max_request_cost > 0)"));
    for (const AccountRow& account : limited) {
      v1::AccountLimits& limits = *out.add_limits();
      limits.set_org_id(account.org_id);
      limits.set_account_id(account.id);
      limits.set_path(account.path);
      *limits.mutable_limits() = account.limits;
    }
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT org_id, epoch, incarnation FROM epochs WHERE closed_at IS NULL"));
    while (rows.Next()) {
      v1::Epoch& epoch = *out.add_epochs();
      epoch.set_org_id(rows.Int(0));
      epoch.set_epoch(rows.Int(1));
      epoch.set_incarnation(rows.Text(2));
    }
    TH_RETURN_IF_ERROR(rows.status());
    if (c.dialect() != sql::Dialect::kPostgres) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(sql::Rows failover, c.Query("SELECT generation FROM failover"));
    if (failover.Next()) out.set_replay_generation(failover.Int(0));
    return failover.status();
  }));
  return out;
}

StoreCounters SqlStore::counters() const {
  absl::MutexLock lock(&counters_mutex_);
  return counters_;
}

}  // namespace tollhouse::ledger
