// What happens when the database server continues another history: a standby was promoted, or a backup
// restored. Commits that enforcers and edges rely on may be missing then (DESIGN section 4, verb 8).
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/sql/change_log.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

// Numbers of epochs after a failover begin here, times the generation: above all that may have been
// given out by commits that are missing, and exact in Lua.
constexpr int64_t kEpochsPerGeneration = int64_t{1} << 32;

}  // namespace

absl::Status SqlStore::CheckServer() {
  if (database_->dialect() != sql::Dialect::kPostgres) return absl::OkStatus();
  TH_RETURN_IF_ERROR(database_->Write([&](sql::Connection& c) {
    return c
        .Execute(absl::StrCat("UPDATE failover SET history = ", Absl(sql::kServerHistory),
                              " WHERE history IS NULL"))
        .status();
  }));
  bool changed = false;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query(absl::StrCat("SELECT history <> ",
                                                             Absl(sql::kServerHistory),
                                                             " FROM failover")));
    changed = rows.Next() && rows.Bool(0);
    return rows.status();
  }));
  return changed ? FailOver() : absl::OkStatus();
}

absl::Status SqlStore::FailOver() {
  int64_t generation = 0;
  size_t orgs = 0;
  const auto all = [](sql::Connection& c) -> absl::StatusOr<std::vector<int64_t>> {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query("SELECT org_id FROM orgs"));
    std::vector<int64_t> ids;
    while (rows.Next()) ids.push_back(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
    return ids;
  };
  const auto body = [&](Txn& t) -> absl::Status {
    generation = 0;
    std::string history;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          t.c.Query(absl::StrCat("SELECT generation, ", Absl(sql::kServerHistory),
                                                 ", history FROM failover FOR UPDATE")));
      if (!rows.Next()) return absl::InternalError("the failover row is missing");
      if (rows.View(1) == rows.View(2)) return absl::OkStatus();  // another ledger was faster
      generation = rows.Int(0) + 1;
      history = rows.Text(1);
    }
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE failover SET history = ?1, generation = ?2", history,
                                   generation)
                           .status());
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE orgs SET epoch_floor = ?1",
                                   generation * kEpochsPerGeneration)
                           .status());
    orgs = t.orgs.size();
    for (const auto& [id, org] : t.orgs) {
      if (id == 0) continue;  // of no org
      // A store of nobody's: enforcers and edges drop what they have under older epochs, also under
      // those that nothing is known of here.
      TH_RETURN_IF_ERROR(NextEpoch(t, id, absl::StrCat("failover/", history)).status());
    }
    t.changes.set_replay_generation(generation);
    return absl::OkStatus();
  };
  TH_RETURN_IF_ERROR(WriteOnce(all, body, nullptr, nullptr, true));
  if (generation > 0) {
    obs::Warning("database_failed_over", {{"generation", generation},
                                          {"orgs", orgs - 1},
                                          {"consequence",
                                           "all epochs are closed, edges post again what they kept"}});
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::ledger
