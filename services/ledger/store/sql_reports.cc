// Reports from the journal.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kEntriesPerPage = 1000;
constexpr int64_t kNumbersPerStatement = 50'000;  // of an org's journal that one statement looks through
constexpr absl::Duration kPageTimeMax = absl::Seconds(2);
constexpr int64_t kEntriesPerSlice = 500'000;
constexpr int64_t kHourMicros = 3'600'000'000;
constexpr size_t kPriceDetailsKept = 10'000;
constexpr std::string_view kTagPrefix = "tag:";

int PageSize(int wanted) { return wanted > 0 ? std::min(wanted, kEntriesPerPage) : kEntriesPerPage; }

int64_t Micros(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000 + time.nanos() / 1000;
}

std::string HoldText(std::string_view raw) {
  const absl::StatusOr<Uuid> id = UuidFromRaw(raw);
  return id.ok() ? id->ToString() : "";
}

// The column of the journal and of the hourly sums that says whether an entry lies below the account.
const char* LevelColumn(const AccountRow& account) {
  switch (account.kind) {
    case common::v1::ACCOUNT_KIND_TEAM:
      return "team_id";
    case common::v1::ACCOUNT_KIND_USER:
      return "user_id";
    case common::v1::ACCOUNT_KIND_KEY:
      return "key_id";
    default:
      return "org_id";
  }
}

v1::JournalEntry InSuspense(std::string_view hold_id, v1::Entry entry, absl::Time since) {
  v1::JournalEntry out;
  out.set_hold_id(HoldText(hold_id));
  out.set_state("suspense");
  SetTime(since, out.mutable_posted_at());
  *out.mutable_entry() = std::move(entry);
  // An estimate is an entry of its own.
  out.mutable_entry()->clear_cost_nanousd();
  out.mutable_entry()->clear_usage();
  out.mutable_entry()->clear_usage_source();
  out.mutable_entry()->clear_price_detail();
  return out;
}

}  // namespace

v1::JournalEntry ToJournalEntry(int64_t org_id, int64_t sequence, absl::Time at, Movement kind,
                                const v1::Entry& entry) {
  v1::JournalEntry out;
  out.set_org_id(org_id);
  out.set_sequence(sequence);
  SetTime(at, out.mutable_posted_at());
  out.set_hold_id(HoldText(entry.hold_id()));
  *out.mutable_entry() = entry;
  out.set_reversing(kind == Movement::kReverse);
  out.set_state(kind == Movement::kEstimate             ? "estimated"
                : entry.kind() == v1::ENTRY_KIND_VOID ? "void"
                                                      : "settled");
  return out;
}

absl::StatusOr<std::pair<int64_t, std::string>> SqlStore::RowKey(sql::Connection& c, int64_t row_id) {
  {
    absl::MutexLock lock(&cache_mutex_);
    const auto found = row_keys_.find(row_id);
    if (found != row_keys_.end()) return found->second;
  }
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT budget_id, period FROM budget_rows WHERE id = ?1", row_id));
  std::pair<int64_t, std::string> key;
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    return absl::DataLossError(absl::StrCat("names budget row ", row_id, ", which is not there"));
  }
  key = {rows.Int(0), rows.Text(1)};
  absl::MutexLock lock(&cache_mutex_);
  return row_keys_[row_id] = key;
}

absl::StatusOr<std::string> SqlStore::PriceDetailOf(sql::Connection& c, int64_t org_id,
                                                    const std::string& digest) {
  {
    absl::MutexLock lock(&cache_mutex_);
    const auto found = price_details_.find({org_id, digest});
    if (found != price_details_.end()) return found->second;
  }
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT detail FROM price_details WHERE org_id = ?1 AND digest = ?2",
                              org_id, sql::Blob{digest}));
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    return absl::DataLossError("its price detail is not there");
  }
  std::string detail = rows.Text(0);
  absl::MutexLock lock(&cache_mutex_);
  if (price_details_.size() >= kPriceDetailsKept) price_details_.clear();
  return price_details_[{org_id, digest}] = std::move(detail);
}

absl::StatusOr<SqlStore::StoredEntry> SqlStore::ReadEntry(sql::Connection& c, const sql::Rows& rows) {
  StoredEntry out;
  out.org_id = rows.Int(0);
  out.sequence = rows.Int(1);
  out.at = FromColumn(rows.Int(2));
  out.kind = static_cast<Movement>(rows.Int(3));
  out.revision = static_cast<int>(rows.Int(4));
  out.cost = rows.Int(5);
  out.fingerprint = rows.Text(6);
  StoredColumns columns;
  columns.hold_id = rows.Text(7);
  columns.started_at_micros = rows.Int(8);
  columns.account_ids.push_back(out.org_id);
  for (int column = 9; column <= 11; ++column) {
    if (rows.Int(column) != 0) columns.account_ids.push_back(rows.Int(column));
  }
  columns.provider = rows.Text(12);
  columns.model = rows.Text(13);
  columns.request_id = rows.Text(14);
  columns.tags = rows.Text(15);
  out.started_at = columns.started_at_micros;
  out.key_id = rows.Int(11);
  out.input_tokens = rows.Int(17);
  out.output_tokens = rows.Int(18);
  columns.cost_nanos = out.kind == Movement::kReverse ? -out.cost : out.cost;
  const absl::Status status = UnpackEntry(
      rows.View(16), columns, [&](int64_t row_id) { return RowKey(c, row_id); },
      [&](const std::string& digest) { return PriceDetailOf(c, out.org_id, digest); }, &out.entry,
      &out.lines);
  if (!status.ok() && !absl::IsDataLoss(status)) return status;
  out.unreadable = std::string(status.message());
  return out;
}

absl::StatusOr<std::map<SqlStore::SpendKey, SqlStore::SpendSums>> SqlStore::SumSpend(
    sql::Connection& c, const AccountRow& account, int64_t since, int64_t until,
    const SpendGroups& groups) {
  std::map<SpendKey, SpendSums> out;
  const std::string below = absl::StrCat("org_id = ?1 AND ", LevelColumn(account), " = ?2");
  // From the table of hourly sums or from the journal, whose rows are at `moment`.
  const auto add = [&](bool hours, int64_t from, int64_t to) -> absl::Status {
    if (from >= to) return absl::OkStatus();
    const char* const moment = hours ? "hour" : "started_at";
    std::vector<std::string> by;
    if (groups.team) by.push_back("team_id");
    if (groups.user) by.push_back("user_id");
    if (groups.key) by.push_back("key_id");
    if (groups.day) by.push_back(absl::StrCat(moment, " / 86400000000"));
    if (groups.provider) by.push_back("provider");
    if (groups.model) by.push_back("model");
    if (groups.tags) by.push_back("tags");
    const std::string columns = absl::StrJoin(by, ", ");
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query(absl::StrCat("SELECT coalesce(sum(",
                             hours ? "requests" : "CASE WHEN kind = 4 THEN -1 ELSE 1 END",
                             "), 0), coalesce(sum(cost), 0), coalesce(sum(input_tokens), 0), "
                             "coalesce(sum(output_tokens), 0)",
                             by.empty() ? "" : ", ", columns, " FROM ",
                             hours ? "spend_hours WHERE " : "journal WHERE kind <> 2 AND ",
                             below, " AND ", moment, " >= ?3 AND ", moment,
                             " < ?4", by.empty() ? "" : " GROUP BY ", columns),
                account.org_id, account.id, from, to));
    while (rows.Next()) {
      SpendKey key;
      int column = 3;
      if (groups.team) key.team_id = rows.Int(++column);
      if (groups.user) key.user_id = rows.Int(++column);
      if (groups.key) key.key_id = rows.Int(++column);
      if (groups.day) key.day = rows.Int(++column);
      if (groups.provider) key.provider = rows.Text(++column);
      if (groups.model) key.model = rows.Text(++column);
      if (groups.tags) key.tags = rows.Text(++column);
      SpendSums& sums = out[key];
      sums.requests += rows.Int(0);
      sums.cost += rows.Int(1);
      sums.input += rows.Int(2);
      sums.output += rows.Int(3);
    }
    return rows.status();
  };
  if (groups.tags) {
    // The hourly sums do not have them, but say which hours have anything: some at a time, so that
    // no statement takes long.
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query(absl::StrCat("SELECT hour, sum(requests) FROM spend_hours WHERE ", below,
                             " AND hour > ?3 AND hour < ?4 GROUP BY hour ORDER BY hour"),
                account.org_id, account.id, std::max(since, INT64_MIN + kHourMicros) - kHourMicros,
                until));
    int64_t from = 0, to = 0, entries = 0;
    while (rows.Next()) {
      const int64_t hour = rows.Int(0);
      if (hour != to || entries >= kEntriesPerSlice) {
        TH_RETURN_IF_ERROR(add(false, std::max(from, since), std::min(to, until)));
        from = hour;
        entries = 0;
      }
      to = hour + kHourMicros;
      entries += rows.Int(1);
    }
    TH_RETURN_IF_ERROR(rows.status());
    TH_RETURN_IF_ERROR(add(false, std::max(from, since), std::min(to, until)));
    return out;
  }
  // Whole hours from their sums, what is left at both ends from the journal.
  const int64_t low = since <= 0 ? since : (since + kHourMicros - 1) / kHourMicros * kHourMicros;
  const int64_t high = until == INT64_MAX ? until : until / kHourMicros * kHourMicros;
  if (since > INT64_MAX - kHourMicros || low >= high) {
    TH_RETURN_IF_ERROR(add(false, since, until));
    return out;
  }
  TH_RETURN_IF_ERROR(add(false, since, low));
  TH_RETURN_IF_ERROR(add(true, low, high));
  TH_RETURN_IF_ERROR(add(false, high, until));
  return out;
}

absl::StatusOr<v1::GetSpendResponse> SqlStore::GetSpend(const v1::GetSpendRequest& request) {
  enum Level { kOrg, kTeam, kUser, kKey, kModel, kProvider, kDay, kTag };
  struct Column {
    Level level;
    std::string name;  // as asked for
    std::string tag;
  };
  std::vector<Column> by;
  for (const std::string& name : request.by()) {
    static constexpr std::pair<std::string_view, Level> kLevels[] = {
        {"org", kOrg},     {"team", kTeam},         {"user", kUser}, {"key", kKey},
        {"model", kModel}, {"provider", kProvider}, {"day", kDay}};
    const auto* const found = std::find_if(std::begin(kLevels), std::end(kLevels),
                                           [&](const auto& level) { return level.first == name; });
    if (found != std::end(kLevels)) {
      by.push_back({found->second, name, ""});
    } else if (std::string_view(name).substr(0, kTagPrefix.size()) == kTagPrefix &&
               name.size() > kTagPrefix.size()) {
      by.push_back({kTag, name, name.substr(kTagPrefix.size())});
    } else {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                       absl::StrCat("cannot group by '", name,
                                    "'; use org, team, user, key, model, provider, day or tag:NAME"));
    }
  }
  SpendGroups groups;
  for (const Column& column : by) {
    switch (column.level) {
      case kOrg:
        break;
      case kTeam:
        groups.team = true;
        break;
      case kUser:
        groups.user = true;
        break;
      case kKey:
        groups.key = true;
        break;
      case kModel:
        groups.model = true;
        break;
      case kProvider:
        groups.provider = true;
        break;
      case kDay:
        groups.day = true;
        break;
      case kTag:
        groups.tags = true;
        break;
    }
  }
  std::map<std::vector<std::string>, SpendSums> sums_by_key;
  SpendSums total;
  v1::GetSpendResponse out;
  const int64_t since = request.has_since() ? Micros(request.since()) : 0;
  const int64_t until = request.has_until() ? Micros(request.until()) : INT64_MAX;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    std::vector<AccountRow> accounts;
    if (request.path().empty()) {
      TH_ASSIGN_OR_RETURN(accounts, QueryAccounts(c, "parent_id = 0"));
    } else {
      TH_ASSIGN_OR_RETURN(AccountRow account, AccountByPath(c, request.path()));
      accounts.push_back(std::move(account));
    }
    std::map<int64_t, std::string> paths = {{0, ""}};
    const auto path_of = [&](int64_t id) -> absl::StatusOr<std::string> {
      const auto found = paths.find(id);
      if (found != paths.end()) return found->second;
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountById(c, id));
      return paths[id] = row.path;
    };
    for (const AccountRow& account : accounts) {
      TH_ASSIGN_OR_RETURN(const auto sums, SumSpend(c, account, since, until, groups));
      for (const auto& [spend, sum] : sums) {
        const std::map<std::string, std::string> tags = DecodeTags(spend.tags);
        std::vector<std::string> key;
        key.reserve(by.size());
        for (const Column& column : by) {
          switch (column.level) {
            case kOrg:
            case kTeam:
            case kUser:
            case kKey: {
              const int64_t id = column.level == kOrg    ? account.org_id
                                 : column.level == kTeam ? spend.team_id
                                 : column.level == kUser ? spend.user_id
                                                         : spend.key_id;
              TH_ASSIGN_OR_RETURN(std::string path, path_of(id));
              key.push_back(std::move(path));
              break;
            }
            case kModel:
              key.push_back(spend.model);
              break;
            case kProvider:
              key.push_back(spend.provider);
              break;
            case kDay:
              key.push_back(absl::FormatTime("%Y-%m-%d", absl::UnixEpoch() + absl::Hours(24) * spend.day,
                                             absl::UTCTimeZone()));
              break;
            case kTag: {
              const auto tag = tags.find(column.tag);
              key.push_back(tag == tags.end() ? "" : tag->second);
              break;
            }
          }
        }
        for (SpendSums* const into : {&sums_by_key[key], &total}) {
          into->requests += sum.requests;
          into->cost += sum.cost;
          into->input += sum.input;
          into->output += sum.output;
        }
      }
    }
    return absl::OkStatus();
  }));
  const auto fill = [](const SpendSums& sums, v1::GetSpendResponse::Row* row) {
    row->set_requests(sums.requests);
    row->set_input_tokens(sums.input);
    row->set_output_tokens(sums.output);
    row->set_cost_nanousd(sums.cost);
  };
  for (const auto& [key, sums] : sums_by_key) {
    if (sums.requests == 0 && sums.cost == 0) continue;  // nothing, or reversed away
    v1::GetSpendResponse::Row& row = *out.add_rows();
    for (size_t i = 0; i < by.size(); ++i) (*row.mutable_group())[by[i].name] = key[i];
    fill(sums, &row);
  }
  std::stable_sort(out.mutable_rows()->begin(), out.mutable_rows()->end(),
                   [](const auto& a, const auto& b) { return a.cost_nanousd() > b.cost_nanousd(); });
  fill(total, out.mutable_total());
  return out;
}

absl::StatusOr<v1::ExplainRequestResponse> SqlStore::ExplainRequest(std::string_view request_id) {
  v1::ExplainRequestResponse out;
  const absl::StatusOr<Uuid> hold = ParseUuid(request_id);
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    std::string label(request_id);
    for (int round = 0; round < 2 && out.attempts_size() == 0; ++round) {
      if (round == 1 && !hold.ok()) break;
      const std::string_view raw = round == 1 ? hold->raw() : std::string_view();
      {
        TH_ASSIGN_OR_RETURN(
            sql::Rows rows,
            round == 0
                ? c.Query(absl::StrCat(Absl(kSelectJournal),
                                       " WHERE request_id = ?1 ORDER BY org_id, sequence"),
                          label)
                : c.Query(absl::StrCat(Absl(kSelectJournal),
                                       " WHERE org_id IN (SELECT org_id FROM orgs) AND hold_id = ?1 "
                                       "ORDER BY org_id, sequence"),
                          sql::RawUuid{raw}));
        while (rows.Next()) {
          TH_ASSIGN_OR_RETURN(const StoredEntry stored, ReadEntry(c, rows));
          *out.add_attempts() = ToJournalEntry(stored.org_id, stored.sequence, stored.at, stored.kind,
                                               stored.entry);
        }
        TH_RETURN_IF_ERROR(rows.status());
      }
      // What is in suspense has no journal entry yet. Its label is only in its bytes.
      constexpr std::string_view kOpen = "SELECT hold_id, entry, since FROM suspense WHERE state < 3";
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          round == 0 ? c.Scan(kOpen)
                     : c.Query(absl::StrCat(Absl(kOpen), " AND org_id IN (SELECT org_id FROM orgs) AND "
                                                         "hold_id = ?1"),
                               sql::RawUuid{raw}));
      while (rows.Next()) {
        const std::string_view bytes = rows.View(1);
        if (round == 0 && (label.empty() || bytes.find(label) == std::string_view::npos)) continue;
        v1::Entry entry;
        entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
        if (round == 0 && entry.request_id() != label) continue;
        *out.add_attempts() = InSuspense(rows.View(0), std::move(entry), FromColumn(rows.Int(2)));
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    return absl::OkStatus();
  }));
  if (out.attempts_size() == 0) {
    return MakeError(absl::StatusCode::kNotFound, "REQUEST_NOT_FOUND",
                     "the journal has no request with this id; it may still be running");
  }
  return out;
}

absl::StatusOr<v1::ListEntriesResponse> SqlStore::ListEntries(const v1::ListEntriesRequest& request) {
  v1::ListEntriesResponse out;
  const int limit = PageSize(request.page_size());
  const absl::Duration enough = clock_->Monotonic() + kPageTimeMax;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    out.Clear();
    std::string filter;
    std::vector<std::pair<int64_t, int64_t>> orgs;  // and the last number of each
    {
      int64_t only = 0;
      if (!request.path().empty()) {
        TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(c, request.path()));
        only = account.org_id;
        if (account.kind != common::v1::ACCOUNT_KIND_ORG) {
          filter = absl::StrCat(" AND ", LevelColumn(account), " = ", account.id);
        }
      }
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT org_id, last_sequence FROM orgs WHERE org_id > 0 AND "
                                  "(CAST(?1 AS BIGINT) = 0 OR org_id = ?1) AND org_id >= ?2 "
                                  "ORDER BY org_id",
                                  only, only == 0 ? request.after_org_id() : 0));
      while (rows.Next()) orgs.emplace_back(rows.Int(0), rows.Int(1));
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const auto& [org, last] : orgs) {
      const bool here = request.after_org_id() == 0 || org == request.after_org_id();
      for (int64_t after = here ? std::max<int64_t>(request.after_sequence(), 0) : 0; after < last;) {
        if (out.entries_size() == limit || clock_->Monotonic() >= enough) {
          out.mutable_next()->set_after_org_id(org);
          out.mutable_next()->set_after_sequence(after);
          return absl::OkStatus();
        }
        const int64_t through = std::min(after + kNumbersPerStatement, last);
        const int wanted = limit - out.entries_size();
        TH_ASSIGN_OR_RETURN(
            sql::Rows rows,
            c.Query(absl::StrCat(Absl(kSelectJournal), " WHERE org_id = ?1 AND sequence > ?2 AND "
                                                       "sequence <= ?3", filter,
                                 " ORDER BY sequence LIMIT ?4"),
                    org, after, through, wanted));
        int found = 0;
        for (after = through; rows.Next(); ++found) {
          TH_ASSIGN_OR_RETURN(const StoredEntry stored, ReadEntry(c, rows));
          *out.add_entries() = ToJournalEntry(org, stored.sequence, stored.at, stored.kind, stored.entry);
        }
        TH_RETURN_IF_ERROR(rows.status());
        if (found == wanted) after = out.entries(limit - 1).sequence();
      }
    }
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<int64_t> SqlStore::NextWindow(sql::Connection& c, int64_t org_id, int64_t after,
                                             int64_t numbers) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT max(sequence + CASE WHEN entries > 1 THEN entries - 1 ELSE 0 END) "
                              "FROM movements WHERE org_id = ?1 AND sequence > ?2 AND sequence <= ?3",
                              org_id, after, after + numbers));
  const int64_t last = rows.Next() && !rows.IsNull(0) ? rows.Int(0) : 0;
  TH_RETURN_IF_ERROR(rows.status());
  return last;
}

absl::StatusOr<v1::ListSuspenseResponse> SqlStore::ListSuspense(
    const v1::ListSuspenseRequest& request) {
  v1::ListSuspenseResponse out;
  const int limit = PageSize(request.page_size());
  // SINCE/HOLD/EPOCH of the last row seen.
  int64_t after_since = INT64_MIN, after_epoch = 0;
  Uuid after_hold;
  if (!request.after().empty()) {
    const std::vector<std::string> parts = absl::StrSplit(request.after(), '/');
    const absl::StatusOr<Uuid> hold = ParseUuid(parts.size() == 3 ? parts[1] : "");
    if (!hold.ok() || !absl::SimpleAtoi(parts[0], &after_since) ||
        !absl::SimpleAtoi(parts[2], &after_epoch)) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                       "after is not the `next` of a page");
    }
    after_hold = *hold;
  }
  const absl::Duration enough = clock_->Monotonic() + kPageTimeMax;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    out.Clear();
    int64_t account = 0;
    int64_t org = 0;
    if (!request.path().empty()) {
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(c, request.path()));
      account = row.id;
      org = row.org_id;
    }
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Scan("SELECT hold_id, entry, since, origin, state, epoch, (SELECT coalesce(max(a.amount), 0) "
                 "FROM suspense_amounts a WHERE a.org_id = s.org_id AND a.hold_id = s.hold_id AND "
                 "a.epoch = s.epoch) FROM suspense s WHERE state < 3 AND "
                 "(CAST(?1 AS BIGINT) = 0 OR org_id = ?1) AND since >= ?2 AND "
                 "(since, hold_id, epoch) > (?2, ?3, ?4) ORDER BY since, hold_id, epoch",
                 org, after_since, sql::RawUuid{after_hold.raw()}, after_epoch));
      std::string last;
      while (rows.Next()) {
        if (out.rows_size() == limit || (out.rows_size() > 0 && clock_->Monotonic() >= enough)) {
          out.set_next(last);
          break;
        }
        last = absl::StrCat(rows.Int(2), "/", HoldText(rows.View(0)), "/", rows.Int(5));
        v1::Entry entry;
        const std::string_view bytes = rows.View(1);
        entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
        const auto& ids = entry.account_ids();
        if (account != 0 && std::find(ids.begin(), ids.end(), account) == ids.end()) continue;
        v1::ListSuspenseResponse::Row& row = *out.add_rows();
        row.set_hold_id(HoldText(rows.View(0)));
        row.set_request_id(entry.request_id());
        row.set_provider(entry.provider());
        row.set_model(entry.model());
        row.set_amount_nanousd(rows.Int(6));
        SetTime(FromColumn(rows.Int(2)), row.mutable_since());
        switch (static_cast<Origin>(rows.Int(3))) {
          case Origin::kSuspended:
            row.set_why(entry.status().empty() ? "the edge does not know the result" : entry.status());
            break;
          case Origin::kExpired:
            row.set_why("the hold expired without a result");
            break;
          case Origin::kAnnounced:
            row.set_why("unsettled when its epoch closed");
            break;
        }
        row.set_account(entry.account_path());
        if (row.account().empty() && !ids.empty()) {
          TH_ASSIGN_OR_RETURN(const AccountRow key, AccountById(c, ids[ids.size() - 1]));
          row.set_account(key.path);
        }
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    // A lost lease lies under every budget of a path at once: the largest one of an org is its size.
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT coalesce(sum(largest), 0) FROM (SELECT max(lost) AS largest FROM (SELECT org_id, "
                "sum(lost) AS lost FROM lost_leases WHERE lost > 0 AND (CAST(?1 AS BIGINT) = 0 OR "
                "org_id = ?1) GROUP BY org_id, row_id) AS by_row GROUP BY org_id) AS by_org",
                org));
    if (rows.Next()) out.set_lost_lease_nanousd(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
    std::map<std::pair<int64_t, int64_t>, std::vector<std::string>> waiting;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows edges,
          c.Query("SELECT org_id, epoch, edge_id FROM epoch_edges WHERE announced_at IS NULL AND "
                  "(CAST(?1 AS BIGINT) = 0 OR org_id = ?1) ORDER BY edge_id",
                  org));
      while (edges.Next()) waiting[{edges.Int(0), edges.Int(1)}].push_back(edges.Text(2));
      TH_RETURN_IF_ERROR(edges.status());
    }
    TH_ASSIGN_OR_RETURN(
        sql::Rows epochs,
        c.Query("SELECT e.org_id, e.epoch, e.closed_at, a.path, max(x.lost) FROM epochs e JOIN accounts a "
                "ON a.id = e.org_id JOIN lost_leases x ON x.org_id = e.org_id AND x.epoch = e.epoch "
                "WHERE e.closed_at IS NOT NULL AND e.reclaimed_at IS NULL AND x.lost > 0 AND "
                "(CAST(?1 AS BIGINT) = 0 OR e.org_id = ?1) "
                "GROUP BY e.org_id, e.epoch, e.closed_at, a.path ORDER BY e.org_id, e.epoch",
                org));
    while (epochs.Next()) {
      v1::ListSuspenseResponse::LostLease& lease = *out.add_lost_leases();
      lease.set_id(absl::StrCat("epoch/", epochs.Int(0), "/", epochs.Int(1)));
      SetTime(FromColumn(epochs.Int(2)), lease.mutable_since());
      lease.set_account(epochs.Text(3));
      lease.set_amount_nanousd(epochs.Int(4));
      for (std::string& edge : waiting[{epochs.Int(0), epochs.Int(1)}]) {
        lease.add_waiting_for(std::move(edge));
      }
    }
    return epochs.status();
  }));
  return out;
}

}  // namespace tollhouse::ledger
