// Reports from the journal.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kEntriesPerPage = 1000;
constexpr std::string_view kTagPrefix = "tag:";

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

int64_t Micros(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000 + time.nanos() / 1000;
}

std::string HoldText(std::string_view raw) {
  const absl::StatusOr<Uuid> id = UuidFromRaw(raw);
  return id.ok() ? id->ToString() : "";
}

v1::JournalEntry InSuspense(std::string_view hold_id, v1::Entry entry, absl::Time since) {
  v1::JournalEntry out;
  out.set_hold_id(HoldText(hold_id));
  out.set_state("suspense");
  SetTime(since, out.mutable_posted_at());
  *out.mutable_entry() = std::move(entry);
  return out;
}

}  // namespace

v1::JournalEntry ToJournalEntry(const sql::Rows& rows) {
  v1::JournalEntry out;
  out.set_sequence(rows.Int(0));
  const auto kind = static_cast<Movement>(rows.Int(1));
  SetTime(FromColumn(rows.Int(2)), out.mutable_posted_at());
  out.set_hold_id(HoldText(rows.View(3)));
  const std::string_view bytes = rows.View(4);
  out.mutable_entry()->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  out.set_reversing(kind == Movement::kReverse);
  out.set_state(out.entry().kind() == v1::ENTRY_KIND_VOID ? "void" : "settled");
  return out;
}

absl::StatusOr<v1::GetSpendResponse> SqliteStore::GetSpend(const v1::GetSpendRequest& request) {
  enum Level { kOrg, kTeam, kUser, kKey, kModel, kProvider, kDay, kTag };
  struct Column {
    Level level;
    std::string name;  // as asked for
    std::string tag;
  };
  std::vector<Column> by;
  bool needs_entry = false;
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
      needs_entry = true;
    } else {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                       absl::StrCat("cannot group by '", name,
                                    "'; use org, team, user, key, model, provider, day or tag:NAME"));
    }
  }
  struct Sums {
    int64_t requests = 0;
    int64_t input = 0;
    int64_t output = 0;
    int64_t cost = 0;
  };
  std::map<std::vector<std::string>, Sums> groups;
  Sums total;
  v1::GetSpendResponse out;
  const int64_t since = request.has_since() ? Micros(request.since()) : 0;
  const int64_t until = request.has_until() ? Micros(request.until()) : INT64_MAX;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    std::vector<int64_t> accounts;
    if (request.path().empty()) {
      TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query("SELECT id FROM accounts WHERE parent_id = 0"));
      while (rows.Next()) accounts.push_back(rows.Int(0));
      TH_RETURN_IF_ERROR(rows.status());
    } else {
      TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(c, request.path()));
      accounts.push_back(account.id);
    }
    std::map<int64_t, std::string> paths = {{0, ""}};
    const auto path_of = [&](int64_t id) -> absl::StatusOr<std::string> {
      const auto found = paths.find(id);
      if (found != paths.end()) return found->second;
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountById(c, id));
      return paths[id] = row.path;
    };
    v1::Entry entry;
    for (const int64_t account : accounts) {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c.Query(absl::StrCat("SELECT j.kind, j.org_id, j.team_id, j.user_id, j.key_id, j.model, "
                               "j.provider, j.started_at, j.cost, j.input_tokens, j.output_tokens, ",
                               needs_entry ? "j.entry" : "NULL",
                               " FROM account_entries e JOIN journal j USING (sequence) WHERE "
                               "e.account_id = ?1 AND e.started_at >= ?2 AND e.started_at < ?3"),
                  account, since, until));
      while (rows.Next()) {
        const auto kind = static_cast<Movement>(rows.Int(0));
        if (kind == Movement::kVoid) continue;
        std::vector<std::string> key;
        key.reserve(by.size());
        bool parsed = false;
        for (const Column& column : by) {
          switch (column.level) {
            case kOrg:
            case kTeam:
            case kUser:
            case kKey: {
              TH_ASSIGN_OR_RETURN(std::string path, path_of(rows.Int(1 + column.level)));
              key.push_back(std::move(path));
              break;
            }
            case kModel:
              key.push_back(rows.Text(5));
              break;
            case kProvider:
              key.push_back(rows.Text(6));
              break;
            case kDay:
              key.push_back(absl::FormatTime("%Y-%m-%d", FromColumn(rows.Int(7)), absl::UTCTimeZone()));
              break;
            case kTag: {
              if (!parsed) {
                const std::string_view bytes = rows.View(11);
                entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
                parsed = true;
              }
              const auto tag = entry.tags().find(column.tag);
              key.push_back(tag == entry.tags().end() ? "" : tag->second);
              break;
            }
          }
        }
        const int64_t requests = kind == Movement::kReverse ? -1 : 1;
        for (Sums* const sums : {&groups[key], &total}) {
          sums->requests += requests;
          sums->cost += rows.Int(8);
          sums->input += rows.Int(9);
          sums->output += rows.Int(10);
        }
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    return absl::OkStatus();
  }));
  const auto fill = [](const Sums& sums, v1::GetSpendResponse::Row* row) {
    row->set_requests(sums.requests);
    row->set_input_tokens(sums.input);
    row->set_output_tokens(sums.output);
    row->set_cost_nanousd(sums.cost);
  };
  for (const auto& [key, sums] : groups) {
    if (sums.requests == 0 && sums.cost == 0) continue;  // reversed away
    v1::GetSpendResponse::Row& row = *out.add_rows();
    for (size_t i = 0; i < by.size(); ++i) (*row.mutable_group())[by[i].name] = key[i];
    fill(sums, &row);
  }
  std::stable_sort(out.mutable_rows()->begin(), out.mutable_rows()->end(),
                   [](const auto& a, const auto& b) { return a.cost_nanousd() > b.cost_nanousd(); });
  fill(total, out.mutable_total());
  return out;
}

absl::StatusOr<v1::ExplainRequestResponse> SqliteStore::ExplainRequest(std::string_view request_id) {
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
                ? c.Query(absl::StrCat(Absl(kSelectJournal), " WHERE request_id = ?1 ORDER BY sequence"),
                          label)
                : c.Query(absl::StrCat(Absl(kSelectJournal),
                                       " WHERE org_id IN (SELECT id FROM accounts WHERE parent_id = 0) "
                                       "AND hold_id = ?1 ORDER BY sequence"),
                          sql::Blob{raw}));
        while (rows.Next()) *out.add_attempts() = ToJournalEntry(rows);
        TH_RETURN_IF_ERROR(rows.status());
      }
      // What is in suspense has no journal entry yet; there are few of them.
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT hold_id, entry, since FROM suspense WHERE state < 3"));
      while (rows.Next()) {
        v1::Entry entry;
        const std::string_view bytes = rows.View(1);
        entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
        if (round == 0 ? entry.request_id() == label && !label.empty() : rows.View(0) == raw) {
          *out.add_attempts() = InSuspense(rows.View(0), std::move(entry), FromColumn(rows.Int(2)));
        }
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

absl::StatusOr<v1::ListEntriesResponse> SqliteStore::ListEntries(const v1::ListEntriesRequest& request) {
  v1::ListEntriesResponse out;
  const int limit = request.page_size() > 0 ? std::min(request.page_size(), kEntriesPerPage)
                                            : kEntriesPerPage;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    int64_t account = 0;
    if (!request.path().empty()) {
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(c, request.path()));
      account = row.id;
    }
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query(absl::StrCat(Absl(kSelectJournal), " j WHERE sequence > ?1 AND hold_id IS NOT NULL ",
                             account == 0 ? ""
                                          : "AND EXISTS (SELECT 1 FROM account_entries e WHERE "
                                            "e.account_id = ?3 AND e.started_at = j.started_at AND "
                                            "e.sequence = j.sequence) ",
                             "ORDER BY sequence LIMIT ?2"),
                request.after_sequence(), limit, account));
    while (rows.Next()) *out.add_entries() = ToJournalEntry(rows);
    return rows.status();
  }));
  return out;
}

absl::StatusOr<v1::ListSuspenseResponse> SqliteStore::ListSuspense(std::string_view path) {
  v1::ListSuspenseResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    int64_t account = 0;
    int64_t org = 0;
    if (!path.empty()) {
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(c, path));
      account = row.id;
      org = row.org_id;
    }
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT hold_id, entry, since, origin, state FROM suspense WHERE "
                                  "state < 3 ORDER BY since, hold_id"));
      while (rows.Next()) {
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
        for (const common::v1::HeldBudget& budget : entry.budgets()) {
          row.set_amount_nanousd(std::max(row.amount_nanousd(), budget.amount_nanousd()));
        }
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
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT sum(largest) FROM (SELECT max(lost) AS largest FROM (SELECT "
                                "org_id, sum(lost) AS lost FROM epoch_amounts WHERE lost > 0 AND "
                                "(?1 = 0 OR org_id = ?1) GROUP BY row_id) GROUP BY org_id)",
                                org));
    if (rows.Next()) out.set_lost_lease_nanousd(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
    TH_ASSIGN_OR_RETURN(
        sql::Rows epochs,
        c.Query("SELECT e.org_id, e.epoch, e.closed_at, a.path, (SELECT coalesce(max(x.lost), 0) FROM "
                "epoch_amounts x WHERE x.org_id = e.org_id AND x.epoch = e.epoch) AS lost, (SELECT coalesce(group_concat(edge_id, char(10)), '') "
                "FROM epoch_edges w WHERE w.org_id = e.org_id AND w.epoch = e.epoch AND "
                "w.announced_at IS NULL) FROM epochs e JOIN accounts a ON a.id = e.org_id WHERE "
                "e.closed_at IS NOT NULL AND e.reclaimed_at IS NULL AND (?1 = 0 OR e.org_id = ?1) "
                "AND lost > 0 ORDER BY e.org_id, e.epoch",
                org));
    while (epochs.Next()) {
      v1::ListSuspenseResponse::LostLease& lease = *out.add_lost_leases();
      lease.set_id(absl::StrCat("epoch/", epochs.Int(0), "/", epochs.Int(1)));
      SetTime(FromColumn(epochs.Int(2)), lease.mutable_since());
      lease.set_account(epochs.Text(3));
      lease.set_amount_nanousd(epochs.Int(4));
      const std::string edges = epochs.Text(5);
      for (const absl::string_view edge : absl::StrSplit(edges, '\n', absl::SkipEmpty())) {
        lease.add_waiting_for(std::string(edge));
      }
    }
    return epochs.status();
  }));
  return out;
}

}  // namespace tollhouse::ledger
