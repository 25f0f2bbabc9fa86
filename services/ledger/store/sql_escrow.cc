// Epochs, leases and what becomes of them (DESIGN section 4, rules R1, R2, R5, R6, R7).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr NanoUsd kZero{0};
constexpr int64_t kGrantsPerSweep = 1024;
constexpr int64_t kGrantsKept = 10'000;

absl::Status BadArgument(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", message);
}

}  // namespace

absl::StatusOr<int64_t> SqlStore::OpenEpoch(Txn& t, int64_t org_id) {
  const auto org = t.orgs.find(org_id);
  return org == t.orgs.end() ? 0 : org->second.epoch;
}

absl::Status SqlStore::RequireOpen(Txn& t, int64_t org_id, int64_t epoch) {
  TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org_id));
  if (epoch > 0 && epoch == open) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_CLOSED",
                   absl::StrCat("epoch ", epoch, " of org ", org_id, " is not open"),
                   {{"epoch", absl::StrCat(open)}});
}

absl::StatusOr<int64_t> SqlStore::RegisterEpoch(const v1::RegisterEpochRequest& request,
                                                   int64_t* version) {
  int64_t epoch = 0;
  TH_RETURN_IF_ERROR(Write(
      Org(request.org_id()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow org, AccountById(t.c, request.org_id()));
        if (org.kind != common::v1::ACCOUNT_KIND_ORG) return BadArgument("not the id of an org");
        if (request.incarnation().empty()) return BadArgument("an incarnation has a name");
        TH_ASSIGN_OR_RETURN(epoch, OpenEpoch(t, org.id));
        std::string incarnation;
        if (epoch > 0) {
          TH_ASSIGN_OR_RETURN(
              sql::Rows rows,
              t.c.Query("SELECT incarnation FROM epochs WHERE org_id = ?1 AND epoch = ?2", org.id,
                        epoch));
          if (rows.Next()) incarnation = rows.Text(0);
          TH_RETURN_IF_ERROR(rows.status());
          if (incarnation == request.incarnation()) return absl::OkStatus();
        }
        if (request.expected_epoch() != epoch) {
          return MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_MOVED",
                           absl::StrCat("the newest epoch of org ", org.id, " is ", epoch),
                           {{"epoch", absl::StrCat(epoch)}, {"incarnation", incarnation}});
        }
        TH_ASSIGN_OR_RETURN(epoch, NextEpoch(t, org.id, request.incarnation()));
        return absl::OkStatus();
      },
      version));
  return epoch;
}

absl::StatusOr<int64_t> SqlStore::NextEpoch(Txn& t, int64_t org_id, std::string_view incarnation) {
  OrgState& org = t.orgs.at(org_id);
  if (org.epoch > 0) TH_RETURN_IF_ERROR(CloseEpoch(t, org_id, org.epoch));
  ++org.epoch;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT epoch_floor FROM orgs WHERE org_id = ?1", org_id));
    if (rows.Next()) org.epoch = std::max(org.epoch, rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
  }
  org.dirty = true;
  TH_RETURN_IF_ERROR(t.c.Execute("INSERT INTO epochs (org_id, epoch, incarnation, opened_at) "
                                 "VALUES (?1, ?2, ?3, ?4)",
                                 org_id, org.epoch, incarnation, ToColumn(t.now))
                         .status());
  v1::Epoch& change = *t.changes.add_epochs();
  change.set_org_id(org_id);
  change.set_epoch(org.epoch);
  change.set_incarnation(std::string(incarnation));
  TH_RETURN_IF_ERROR(ReclaimWhereAnnounced(t, org_id));
  return org.epoch;
}

// R1: the lease goes to suspense as a whole, the single suspense rows dissolve into that.
absl::Status SqlStore::CloseEpoch(Txn& t, int64_t org_id, int64_t epoch) {
  TH_RETURN_IF_ERROR(t.c.Execute("UPDATE epochs SET closed_at = ?3 WHERE org_id = ?1 AND epoch = ?2",
                                 org_id, epoch, ToColumn(t.now))
                         .status());
  TH_ASSIGN_OR_RETURN(const int64_t sequence,
                      WriteMovement(t, org_id, Movement::kCloseEpoch, absl::StrCat(epoch)));
  // A repeated call is told that the epoch is closed, whatever is known of it.
  for (const char* const table : {"grants", "lease_returns"}) {
    TH_RETURN_IF_ERROR(t.c.Execute(absl::StrCat("DELETE FROM ", table,
                                                " WHERE org_id = ?1 AND epoch <= ?2"),
                                   org_id, epoch)
                           .status());
  }
  TH_RETURN_IF_ERROR(PreloadRows(t, "org_id = ?1 AND leased > 0", org_id));
  TH_RETURN_IF_ERROR(PreloadLost(t, org_id, epoch));
  for (auto& [id, row] : t.rows) {
    if (row->budget->org_id != org_id || row->row.leased == kZero) continue;
    const NanoUsd lease = row->row.leased;
    const BudgetRow before = row->row;
    row->row.Suspend(lease);
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, before, lease));
  }
  std::vector<std::pair<int64_t, NanoUsd>> dissolved;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT a.row_id, sum(a.amount) FROM suspense s JOIN suspense_amounts a "
                  "USING (org_id, hold_id, epoch) WHERE s.org_id = ?1 AND s.epoch = ?2 AND "
                  "s.state = ?3 GROUP BY a.row_id ORDER BY a.row_id",
                  org_id, epoch, SuspenseState::kOwn));
    while (rows.Next()) dissolved.emplace_back(rows.Int(0), rows.Money(1));
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (const auto& [id, amount] : dissolved) {
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, id));
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, row->row, amount));
  }
  return t.c
      .Execute("UPDATE suspense SET state = ?4 WHERE org_id = ?1 AND epoch = ?2 AND state = ?3",
               org_id, epoch, SuspenseState::kOwn, SuspenseState::kInLost)
      .status();
}

absl::Status SqlStore::ReclaimWhereAnnounced(Txn& t, int64_t org_id) {
  std::vector<int64_t> ready;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT epoch FROM epochs e WHERE org_id = ?1 AND closed_at IS NOT NULL AND "
                  "reclaimed_at IS NULL AND NOT EXISTS (SELECT 1 FROM epoch_edges r WHERE "
                  "r.org_id = e.org_id AND r.epoch = e.epoch AND r.announced_at IS NULL)",
                  org_id));
    while (rows.Next()) ready.push_back(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (const int64_t epoch : ready) TH_RETURN_IF_ERROR(Reclaim(t, org_id, epoch));
  return absl::OkStatus();
}

// R7: what the edges call unsettled becomes rows of its own, the rest returns to avail. What an edge
// had reported as unknown before the epoch closed stays too, whether or not it says so again.
absl::Status SqlStore::Reclaim(Txn& t, int64_t org_id, int64_t epoch) {
  TH_ASSIGN_OR_RETURN(const int64_t sequence,
                      WriteMovement(t, org_id, Movement::kReclaim, absl::StrCat(epoch)));
  struct Kept {
    std::string hold_id;
    int64_t row_id;
    NanoUsd amount;
  };
  std::vector<Kept> kept;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT a.hold_id, a.row_id, a.amount FROM suspense s JOIN suspense_amounts a "
                  "USING (org_id, hold_id, epoch) WHERE s.org_id = ?1 AND s.epoch = ?2 AND "
                  "s.state = ?3 AND s.origin <> ?4 ORDER BY a.row_id, a.hold_id",
                  org_id, epoch, SuspenseState::kInLost, Origin::kExpired));
    while (rows.Next()) kept.push_back({rows.Text(0), rows.Int(1), rows.Money(2)});
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (const Kept& hold : kept) {
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, hold.row_id));
    TH_ASSIGN_OR_RETURN(const LoadedRow::Lost* const lost, LostOf(t, *row, epoch));
    const NanoUsd there = std::min(hold.amount, lost->amount);
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, row->row, kZero - there));
    TH_RETURN_IF_ERROR(
        t.c.Execute("UPDATE suspense_amounts SET amount = ?5 WHERE org_id = ?1 AND hold_id = ?2 AND "
                    "epoch = ?3 AND row_id = ?4",
                    org_id, sql::RawUuid{hold.hold_id}, epoch, hold.row_id, there)
            .status());
  }
  TH_RETURN_IF_ERROR(t.c.Execute("UPDATE suspense SET state = CASE WHEN origin = ?4 THEN "
                                 "CAST(?5 AS BIGINT) ELSE CAST(?6 AS BIGINT) END "
                                 "WHERE org_id = ?1 AND epoch = ?2 AND state = ?3",
                                 org_id, epoch, SuspenseState::kInLost, Origin::kExpired,
                                 SuspenseState::kClosed, SuspenseState::kOwn)
                         .status());
  TH_RETURN_IF_ERROR(PreloadRows(
      t, "id IN (SELECT row_id FROM lost_leases WHERE org_id = ?1 AND epoch = ?2 AND lost > 0)", org_id,
      epoch));
  TH_RETURN_IF_ERROR(PreloadLost(t, org_id, epoch));
  // All that are loaded: the epoch may have been closed in this very transaction.
  for (auto& [id, row] : t.rows) {
    if (row->budget->org_id != org_id) continue;
    TH_ASSIGN_OR_RETURN(const LoadedRow::Lost* const lost, LostOf(t, *row, epoch));
    const NanoUsd rest = lost->amount;
    if (rest == kZero) continue;
    const BudgetRow before = row->row;
    row->row.Release(rest);
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, before, kZero - rest));
  }
  return t.c
      .Execute("UPDATE epochs SET reclaimed_at = ?3 WHERE org_id = ?1 AND epoch = ?2", org_id, epoch,
               ToColumn(t.now))
      .status();
}

absl::Status SqlStore::RegisterEdge(const v1::RegisterEdgeRequest& request) {
  if (request.edge_id().empty()) return BadArgument("an edge has an id");
  return Write(Org(request.org_id()), [&](Txn& t) -> absl::Status {
    TH_RETURN_IF_ERROR(RequireOpen(t, request.org_id(), request.epoch()));
    return t.c
        .Execute("INSERT INTO epoch_edges (org_id, epoch, edge_id, boot_id) VALUES (?1, ?2, ?3, ?4) "
                 "ON CONFLICT (org_id, epoch, edge_id) DO UPDATE SET boot_id = excluded.boot_id",
                 request.org_id(), request.epoch(), request.edge_id(), request.boot_id())
        .status();
  });
}

absl::StatusOr<v1::GrantLeaseResponse> SqlStore::GrantLease(const v1::GrantLeaseRequest& request) {
  v1::GrantLeaseResponse out;
  TH_RETURN_IF_ERROR(Write(Org(request.org_id()), [&](Txn& t) -> absl::Status {
    out.Clear();
    const int64_t org = request.org_id();
    const int64_t epoch = request.epoch();
    if (request.request_id().empty()) return BadArgument("a grant has a request_id");
    TH_RETURN_IF_ERROR(RequireOpen(t, org, epoch));
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          t.c.Query("SELECT answer FROM grants WHERE org_id = ?1 AND epoch = ?2 AND request_id = ?3",
                    org, epoch, request.request_id()));
      if (rows.Next()) {
        out.ParseFromString(rows.Text(0));
        return absl::OkStatus();
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    int64_t grant_id = 0;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          t.c.Query("SELECT coalesce(max(grant_id), 0) + 1 FROM grants WHERE "
                                    "org_id = ?1 AND epoch = ?2",
                                    org, epoch));
      if (rows.Next()) grant_id = rows.Int(0);
      TH_RETURN_IF_ERROR(rows.status());
    }
    out.set_grant_id(grant_id);
    absl::flat_hash_set<std::pair<int64_t, std::string_view>> names;
    for (const v1::GrantLeaseRequest::Item& item : request.items()) {
      names.emplace(item.budget_id(), item.period());
    }
    TH_RETURN_IF_ERROR(PreloadRowsOf(t, names));
    int64_t sequence = 0;
    for (const v1::GrantLeaseRequest::Item& item : request.items()) {
      if (item.need_nanousd() < 0 || item.want_nanousd() < 0 || item.leased_max_nanousd() < 0) {
        return MakeError(absl::StatusCode::kInvalidArgument, "BAD_AMOUNT", "a lease is not negative");
      }
      v1::GrantLeaseResponse::Item& answer = *out.add_items();
      answer.set_budget_id(item.budget_id());
      answer.set_period(item.period());
      TH_ASSIGN_OR_RETURN(LoadedRow* const row,
                          LoadRow(t, org, item.budget_id(), item.period(), t.now));
      if (row == nullptr) continue;  // deleted by now, or a period far away
      if (!row->budget->deleted && row->budget->spec.mode == common::v1::BUDGET_MODE_ENFORCE) {
        const BudgetRow before = row->row;
        NanoUsd need(item.need_nanousd());
        NanoUsd want = std::max(need, NanoUsd(item.want_nanousd()));
        if (item.leased_max_nanousd() > 0) {
          want = std::clamp(NanoUsd(item.leased_max_nanousd()) - row->row.leased, kZero, want);
        }
        const NanoUsd granted = want < need ? kZero : row->row.Lease(need, want);
        if (granted > kZero && sequence == 0) {
          TH_ASSIGN_OR_RETURN(sequence, WriteMovement(t, org, Movement::kLease,
                                                      absl::StrCat(grant_id)));
        }
        TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, before, kZero));
        answer.set_granted_nanousd(granted.nanos());
      }
      v1::BudgetState& state = *answer.mutable_state();
      state.set_cap_nanousd(row->row.cap.nanos());
      state.set_overrun_nanousd(row->row.overrun.nanos());
      state.set_avail_nanousd(row->row.avail.nanos());
      state.set_leased_nanousd(row->row.leased.nanos());
      state.set_suspense_nanousd(row->row.suspense.nanos());
      state.set_spent_nanousd(row->row.spent.nanos());
      if (row->end != absl::InfiniteFuture()) SetTime(row->end, state.mutable_resets_at());
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          t.c.Query("SELECT coalesce(sum(lost), 0) FROM lost_leases WHERE org_id = ?1 AND row_id = ?2",
                    org, row->id));
      if (rows.Next()) state.set_lost_lease_nanousd(rows.Int(0));
      TH_RETURN_IF_ERROR(rows.status());
    }
    if (grant_id % kGrantsPerSweep == 0) {  // nobody retries what so many others have overtaken
      TH_RETURN_IF_ERROR(t.c.Execute("DELETE FROM grants WHERE org_id = ?1 AND epoch = ?2 AND "
                                     "grant_id < ?3 AND acknowledged = 1",
                                     org, epoch, grant_id - kGrantsKept)
                             .status());
    }
    return t.c
        .Execute("INSERT INTO grants (org_id, epoch, grant_id, request_id, answer) "
                 "VALUES (?1, ?2, ?3, ?4, ?5)",
                 org, epoch, grant_id, request.request_id(), sql::Blob{out.SerializeAsString()})
        .status();
  }));
  return out;
}

absl::Status SqlStore::AcknowledgeGrants(const v1::AcknowledgeGrantsRequest& request) {
  return Write(NoOrg(), [&](Txn& t) -> absl::Status {
    for (const int64_t id : request.grant_ids()) {
      TH_RETURN_IF_ERROR(t.c.Execute("UPDATE grants SET acknowledged = 1 WHERE org_id = ?1 AND "
                                     "epoch = ?2 AND grant_id = ?3 AND acknowledged = 0",
                                     request.org_id(), request.epoch(), id)
                             .status());
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<v1::ListGrantsResponse> SqlStore::ListGrants(const v1::ListGrantsRequest& request) {
  v1::ListGrantsResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT g.grant_id, g.answer FROM grants g JOIN epochs e USING (org_id, epoch) "
                "WHERE g.org_id = ?1 AND g.epoch = ?2 AND g.acknowledged = 0 AND e.closed_at IS NULL "
                "ORDER BY g.grant_id",
                request.org_id(), request.epoch()));
    while (rows.Next()) {
      v1::ListGrantsResponse::Grant& grant = *out.add_grants();
      grant.set_grant_id(rows.Int(0));
      v1::GrantLeaseResponse answer;
      answer.ParseFromString(rows.Text(1));
      for (const v1::GrantLeaseResponse::Item& item : answer.items()) {
        if (item.granted_nanousd() == 0) continue;
        common::v1::HeldBudget& amount = *grant.add_amounts();
        amount.set_budget_id(item.budget_id());
        amount.set_period(item.period());
        amount.set_amount_nanousd(item.granted_nanousd());
      }
    }
    return rows.status();
  }));
  return out;
}

absl::StatusOr<bool> SqlStore::NoteReturn(Txn& t, const v1::ReturnLeaseRequest& request) {
  int64_t through = 0;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT returned FROM epochs WHERE org_id = ?1 AND epoch = ?2",
                                  request.org_id(), request.epoch()));
    if (rows.Next()) through = rows.Int(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (request.return_id() <= through) return false;
  TH_ASSIGN_OR_RETURN(
      const int64_t fresh,
      t.c.Execute("INSERT INTO lease_returns (org_id, epoch, return_id) VALUES (?1, ?2, ?3) "
                  "ON CONFLICT DO NOTHING",
                  request.org_id(), request.epoch(), request.return_id()));
  if (fresh == 0) return false;
  const int64_t before = through;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT return_id FROM lease_returns WHERE org_id = ?1 AND epoch = ?2 "
                                  "ORDER BY return_id LIMIT 256",
                                  request.org_id(), request.epoch()));
    while (rows.Next() && rows.Int(0) == through + 1) ++through;
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (through == before) return true;
  TH_RETURN_IF_ERROR(t.c.Execute("DELETE FROM lease_returns WHERE org_id = ?1 AND epoch = ?2 AND "
                                 "return_id <= ?3",
                                 request.org_id(), request.epoch(), through)
                         .status());
  TH_RETURN_IF_ERROR(t.c.Execute("UPDATE epochs SET returned = ?3 WHERE org_id = ?1 AND epoch = ?2",
                                 request.org_id(), request.epoch(), through)
                         .status());
  return true;
}

absl::Status SqlStore::ReturnLease(const v1::ReturnLeaseRequest& request) {
  return Write(Org(request.org_id()), [&](Txn& t) -> absl::Status {
    TH_RETURN_IF_ERROR(RequireOpen(t, request.org_id(), request.epoch()));
    TH_ASSIGN_OR_RETURN(const bool fresh, NoteReturn(t, request));
    if (!fresh) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(const int64_t sequence,
                        WriteMovement(t, request.org_id(), Movement::kReturn,
                                      absl::StrCat(request.return_id())));
    for (const common::v1::HeldBudget& amount : request.amounts()) {
      if (amount.amount_nanousd() == 0) continue;
      TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRow(t, amount.budget_id(), amount.period()));
      if (row == nullptr || row->budget->org_id != request.org_id()) {
        return BadArgument("no such budget and period");
      }
      const NanoUsd back(amount.amount_nanousd());
      // More than was leased: taking less would free money that holds stand on.
      if (back < kZero || back > row->row.leased) {
        return MakeError(absl::StatusCode::kInvalidArgument, "BAD_AMOUNT",
                         absl::StrCat("more is returned than is leased of ",
                                      row->budget->display_id()));
      }
      const BudgetRow before = row->row;
      row->row.ReturnLease(back);
      TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, request.epoch(), before, kZero));
    }
    return absl::OkStatus();
  });
}

absl::Status SqlStore::PostExpired(const v1::PostExpiredRequest& request) {
  return Write(Org(request.org_id()), [&](Txn& t) -> absl::Status {
    const int64_t org = request.org_id();
    const int64_t epoch = request.epoch();
    TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
    if (epoch != open || epoch == 0) return absl::OkStatus();  // all of it is in suspense already
    for (const v1::PostExpiredRequest::Expired& hold : request.holds()) {
      if (hold.hold_id().size() != 16) return BadArgument("a hold id has 16 bytes");
      TH_ASSIGN_OR_RETURN(const std::vector<SuspenseRow> known, FindSuspense(t, org, hold.hold_id()));
      if (std::any_of(known.begin(), known.end(),
                      [&](const SuspenseRow& row) { return row.epoch == epoch; })) {
        continue;
      }
      TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, hold.hold_id()));
      std::map<int64_t, NanoUsd> settled;  // what the end has taken of the lease, by row
      if (posted.has_value()) {
        TH_ASSIGN_OR_RETURN(sql::Rows rows,
                            t.c.Query(absl::StrCat(Absl(kSelectJournal),
                                                   " WHERE org_id = ?1 AND hold_id = ?2"),
                                      org, sql::RawUuid{hold.hold_id()}));
        while (rows.Next()) {
          TH_ASSIGN_OR_RETURN(const StoredEntry entry, ReadEntry(t.c, rows));
          for (const EntryLine& line : entry.lines) {
            if (line.epoch == epoch) settled[line.row_id] -= line.delta.leased;
          }
        }
        TH_RETURN_IF_ERROR(rows.status());
      }
      TH_ASSIGN_OR_RETURN(const int64_t sequence,
                          WriteMovement(t, org, Movement::kExpire,
                                        UuidFromRaw(hold.hold_id())->ToString()));
      SuspenseRow suspended;
      suspended.epoch = epoch;
      suspended.origin = Origin::kExpired;
      suspended.state = posted.has_value() ? SuspenseState::kClosed : SuspenseState::kOwn;
      suspended.edge_id = hold.edge_id();
      suspended.since = t.now;
      v1::Entry& entry = suspended.entry;
      entry.set_hold_id(hold.hold_id());
      entry.set_kind(v1::ENTRY_KIND_SUSPEND);
      *entry.mutable_account_ids() = hold.account_ids();
      entry.set_epoch(epoch);
      entry.set_edge_id(hold.edge_id());
      entry.set_boot_id(hold.boot_id());
      entry.set_status("expired");
      *entry.mutable_budgets() = hold.covers();
      for (const common::v1::HeldBudget& cover : hold.covers()) {
        if (cover.observe() || cover.amount_nanousd() <= 0) continue;
        entry.set_hold_nanousd(std::max(entry.hold_nanousd(), cover.amount_nanousd()));
        TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRow(t, cover.budget_id(), cover.period()));
        if (row == nullptr || row->budget->org_id != org) {
          return BadArgument("no such budget and period");
        }
        NanoUsd covers(cover.amount_nanousd());
        // Where the end came first the rest is known to be unused.
        if (posted.has_value()) covers = std::max(kZero, covers - settled[row->id]);
        if (covers > row->row.leased) {
          ++t.counters.cover_missing;
          obs::Error("expired_hold_exceeds_lease", {{"budget", row->budget->display_id()},
                                                    {"covers_nanousd", covers.nanos()},
                                                    {"leased_nanousd", row->row.leased.nanos()}});
          covers = row->row.leased;
        }
        const BudgetRow before = row->row;
        if (posted.has_value()) {
          row->row.ReturnLease(covers);
        } else {
          row->row.Suspend(covers);
          suspended.amounts[row->id] = covers;
        }
        TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, epoch, before, kZero));
      }
      TH_RETURN_IF_ERROR(WriteSuspense(t, org, hold.hold_id(), suspended));
    }
    return absl::OkStatus();
  });
}

absl::Status SqlStore::AnnounceHolds(const v1::AnnounceHoldsRequest& request) {
  return Write(Org(request.org_id()), [&](Txn& t) -> absl::Status {
    const int64_t org = request.org_id();
    TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
    if (request.epoch() >= open) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_OPEN",
                       absl::StrCat("epoch ", request.epoch(), " of org ", org, " is not closed"));
    }
    TH_RETURN_IF_ERROR(
        t.c.Execute("UPDATE epoch_edges SET announced_at = ?4 WHERE org_id = ?1 AND edge_id = ?2 AND "
                    "epoch <= ?3 AND announced_at IS NULL",
                    org, request.edge_id(), request.epoch(), ToColumn(t.now))
            .status());
    // An earlier announcement that has not been acted on is replaced, and expired holds that are not
    // announced were never forwarded.
    for (const std::string_view table : {"suspense_amounts", "suspense"}) {
      TH_RETURN_IF_ERROR(
          t.c.Execute(absl::StrCat("DELETE FROM ", Absl(table),
                                   " WHERE (org_id, hold_id, epoch) IN (SELECT org_id, hold_id, epoch "
                                   "FROM suspense WHERE org_id = ?1 AND edge_id = ?2 AND epoch <= ?3 "
                                   "AND origin IN (?4, ?5) AND state = ?6)"),
                      org, request.edge_id(), request.epoch(), Origin::kAnnounced, Origin::kExpired,
                      SuspenseState::kInLost)
              .status());
    }
    for (const v1::Entry& entry : request.unsettled()) {
      std::vector<LoadedRow*> rows;
      TH_ASSIGN_OR_RETURN(const std::string rejected, WhyRejected(t, entry, &rows));
      if (!rejected.empty() || entry.kind() != v1::ENTRY_KIND_SUSPEND ||
          entry.epoch() > request.epoch() || entry.account_ids(0) != org) {
        return BadArgument(absl::StrCat("bad announced hold: ", rejected));
      }
      TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, entry.hold_id()));
      if (posted.has_value() && posted->kind != Movement::kEstimate) continue;
      TH_ASSIGN_OR_RETURN(std::vector<SuspenseRow> known, FindSuspense(t, org, entry.hold_id()));
      TH_RETURN_IF_ERROR(Suspend(t, entry, Origin::kAnnounced, std::move(known)));
    }
    return ReclaimWhereAnnounced(t, org);
  });
}

absl::Status SqlStore::ReleaseLostLease(audit::Call* audit, int64_t org_id, int64_t epoch) {
  return Write(
      Org(org_id),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org_id));
        if (epoch <= 0 || epoch >= open) {
          return MakeError(absl::StatusCode::kNotFound, "SUSPENSE_NOT_FOUND",
                           absl::StrCat("org ", org_id, " has no closed epoch ", epoch));
        }
        TH_RETURN_IF_ERROR(
            t.c.Execute(
                   "UPDATE epoch_edges SET announced_at = ?3 WHERE org_id = ?1 AND epoch = ?2 AND "
                   "announced_at IS NULL",
                   org_id, epoch, ToColumn(t.now))
                .status());
        return ReclaimWhereAnnounced(t, org_id);
      },
      nullptr, audit);
}

absl::StatusOr<v1::ListPendingAnnouncementsResponse> SqlStore::ListPendingAnnouncements(
    std::string_view edge_id) {
  v1::ListPendingAnnouncementsResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT e.org_id, e.epoch, e.incarnation FROM epochs e WHERE (e.org_id, e.epoch) IN "
                "(SELECT r.org_id, max(r.epoch) FROM epoch_edges r JOIN epochs x ON x.org_id = r.org_id "
                "AND x.epoch = r.epoch WHERE r.edge_id = ?1 AND r.announced_at IS NULL AND "
                "x.closed_at IS NOT NULL GROUP BY r.org_id) ORDER BY e.org_id",
                edge_id));
    while (rows.Next()) {
      v1::Epoch& epoch = *out.add_epochs();
      epoch.set_org_id(rows.Int(0));
      epoch.set_epoch(rows.Int(1));
      epoch.set_incarnation(rows.Text(2));
    }
    TH_RETURN_IF_ERROR(rows.status());
    TH_ASSIGN_OR_RETURN(
        sql::Rows expired,
        c.Query("SELECT s.entry FROM suspense s JOIN epochs e ON e.org_id = s.org_id AND e.epoch = s.epoch "
                "WHERE s.state < 3 AND s.state = ?2 AND s.origin = ?3 AND s.edge_id = ?1 AND "
                "e.closed_at IS NULL ORDER BY s.since LIMIT 1000",
                edge_id, SuspenseState::kOwn, Origin::kExpired));
    while (expired.Next()) out.add_expired()->ParseFromString(expired.Text(0));
    return expired.status();
  }));
  return out;
}

}  // namespace tollhouse::ledger
