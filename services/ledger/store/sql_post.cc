// Posting: settlements, voids, suspensions and their corrections (rules R3, R14; I5, I8).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/obs/log.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr NanoUsd kZero{0};
constexpr int kBudgetsPerEntryMax = 64;
constexpr int64_t kTokensMax = 1'000'000'000'000;

// hold_id has 16 bytes.
std::pair<int64_t, Uuid> HoldKey(int64_t org_id, std::string_view hold_id) {
  std::pair<int64_t, Uuid> key{org_id, {}};
  std::copy_n(hold_id.begin(), std::min<size_t>(hold_id.size(), 16), key.second.bytes.begin());
  return key;
}

absl::Time StartOf(const v1::Entry& entry, absl::Time now) {
  if (!entry.has_started_at()) return now;
  return absl::FromUnixSeconds(entry.started_at().seconds()) +
         absl::Nanoseconds(entry.started_at().nanos());
}

int64_t InputTokens(const common::v1::Usage& u) {
  return u.input_tokens_uncached() + u.cache_read_tokens() + u.cache_write_5m_tokens() +
         u.cache_write_1h_tokens() + u.tool_use_input_tokens() + u.audio_input_tokens() +
         u.image_input_tokens() + u.audio_cache_read_tokens();
}

int64_t OutputTokens(const common::v1::Usage& u) {
  return u.output_tokens() + u.audio_output_tokens() + u.image_output_tokens();
}

bool SaneTokens(const common::v1::Usage& u) {
  for (const int64_t count :
       {u.input_tokens_uncached(), u.cache_read_tokens(), u.cache_write_5m_tokens(),
        u.cache_write_1h_tokens(), u.tool_use_input_tokens(), u.audio_input_tokens(),
        u.image_input_tokens(), u.audio_cache_read_tokens(), u.output_tokens(),
        u.audio_output_tokens(), u.image_output_tokens(), u.reasoning_tokens(),
        u.web_search_calls(), u.file_search_calls(), u.code_sessions()}) {
    if (count < 0 || count > kTokensMax) return false;
  }
  return true;
}

// A suspension that says what the attempt has cost so far.
bool HasEstimate(const v1::Entry& entry) {
  return entry.kind() == v1::ENTRY_KIND_SUSPEND && entry.cost_nanousd() > 0 && entry.usage_size() > 0;
}

// What a suspended hold counts for, per budget at most.
int64_t LargestAmount(const v1::Entry& entry) {
  int64_t largest = 0;
  for (const common::v1::HeldBudget& budget : entry.budgets()) {
    if (!budget.observe()) largest = std::max(largest, budget.amount_nanousd());
  }
  return largest;
}

}  // namespace

std::string FingerprintOf(const v1::Entry& entry) {
  std::string text = absl::StrCat(entry.kind(), "|", entry.epoch(), "|", entry.cost_nanousd(), "|",
                                  entry.hold_nanousd(), "|", entry.usage_source(), "|");
  // Lengths before texts, so that no two entries read the same.
  for (const std::string* const field :
       {&entry.request_id(), &entry.provider(), &entry.model(), &entry.upstream_model(),
        &entry.price_version(), &entry.price_detail()}) {
    absl::StrAppend(&text, field->size(), ":", *field);
  }
  for (const int64_t id : entry.account_ids()) absl::StrAppend(&text, "|a", id);
  for (const common::v1::HeldBudget& b : entry.budgets()) {
    absl::StrAppend(&text, "|b", b.budget_id(), ",", b.amount_nanousd(), ",", b.observe() ? 1 : 0, ",",
                    b.period());
  }
  for (const common::v1::UsageLine& line : entry.usage()) {
    absl::StrAppend(&text, "|u", line.SerializeAsString());  // no maps in it: deterministic
  }
  return std::string(crypto::AsBytes(crypto::Sha256(text)));
}

absl::StatusOr<common::v1::AccountKind> SqlStore::KindOf(sql::Connection& c, int64_t account_id,
                                                         int64_t* org_id) {
  {
    absl::MutexLock lock(&cache_mutex_);
    const auto found = kinds_.find(account_id);
    if (found != kinds_.end()) {
      *org_id = found->second.second;
      return found->second.first;
    }
  }
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT kind, org_id FROM accounts WHERE id = ?1", account_id));
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    *org_id = 0;
    return common::v1::ACCOUNT_KIND_UNSPECIFIED;
  }
  const auto kind = static_cast<common::v1::AccountKind>(rows.Int(0));
  *org_id = rows.Int(1);
  absl::MutexLock lock(&cache_mutex_);
  kinds_[account_id] = {kind, *org_id};
  return kind;
}

absl::StatusOr<std::string> SqlStore::WhyRejected(Txn& t, const v1::Entry& entry,
                                                  std::vector<LoadedRow*>* rows) {
  if (entry.hold_id().size() != 16) return "hold_id is not 16 bytes";
  if (entry.kind() != v1::ENTRY_KIND_SETTLE && entry.kind() != v1::ENTRY_KIND_VOID &&
      entry.kind() != v1::ENTRY_KIND_SUSPEND) {
    return "unknown kind";
  }
  if (entry.account_ids_size() == 0 || entry.account_ids_size() > 4) {
    return "account_ids is not a path of 1 to 4";
  }
  const int64_t org = entry.account_ids(0);
  for (const int64_t id : entry.account_ids()) {
    int64_t its_org = 0;
    TH_ASSIGN_OR_RETURN(const common::v1::AccountKind kind, KindOf(t.c, id, &its_org));
    if (kind == common::v1::ACCOUNT_KIND_UNSPECIFIED) return absl::StrCat("no account ", id);
    if (its_org != org) return "account_ids are not of one org";
  }
  if (entry.cost_nanousd() < 0 || entry.cost_nanousd() > kMaxHold.nanos()) return "cost out of range";
  if (entry.hold_nanousd() < 0 || entry.hold_nanousd() > kMaxHold.nanos()) return "hold out of range";
  if (entry.kind() == v1::ENTRY_KIND_VOID && entry.cost_nanousd() != 0) return "a void costs nothing";
  TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
  if (entry.epoch() < 0 || entry.epoch() > open) return "unknown epoch";
  for (const common::v1::UsageLine& line : entry.usage()) {
    if (!SaneTokens(line.usage())) return "token counts out of range";
  }
  if (entry.budgets_size() > kBudgetsPerEntryMax) return "too many budgets";
  for (int i = 0; i < entry.budgets_size(); ++i) {
    const common::v1::HeldBudget& budget = entry.budgets(i);
    if (budget.amount_nanousd() < 0 || budget.amount_nanousd() > kMaxHold.nanos()) {
      return "amount out of range";
    }
    if (budget.amount_nanousd() > 0 && entry.epoch() == 0) return "a hold without an epoch";
    for (int j = 0; j < i; ++j) {
      if (entry.budgets(j).budget_id() == budget.budget_id() &&
          entry.budgets(j).period() == budget.period()) {
        return "a budget is named twice";
      }
    }
    TH_ASSIGN_OR_RETURN(LoadedRow* const row,
                        LoadRow(t, org, budget.budget_id(), budget.period(), StartOf(entry, t.now)));
    if (row == nullptr) {
      return absl::StrCat("no budget ", budget.budget_id(), " with a period '", budget.period(), "'");
    }
    rows->push_back(row);
  }
  return "";
}

absl::StatusOr<std::optional<SqlStore::Posted>> SqlStore::FindPosted(Txn& t, int64_t org_id,
                                                                     std::string_view hold_id) {
  const auto [known, fresh] = t.posted.try_emplace(HoldKey(org_id, hold_id));
  if (!fresh) return known->second;
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query("SELECT kind, revision, fingerprint, cost FROM journal WHERE "
                                "org_id = ?1 AND hold_id = ?2 ORDER BY revision DESC LIMIT 1",
                                org_id, sql::RawUuid{hold_id}));
  if (rows.Next()) {
    known->second = Posted{.kind = static_cast<Movement>(rows.Int(0)),
                           .revision = static_cast<int>(rows.Int(1)),
                           .fingerprint = rows.Text(2),
                           .cost = rows.Int(3)};
  }
  TH_RETURN_IF_ERROR(rows.status());
  return known->second;
}

absl::StatusOr<std::vector<SqlStore::SuspenseRow>> SqlStore::FindSuspense(Txn& t, int64_t org_id,
                                                                          std::string_view hold_id) {
  const auto key = HoldKey(org_id, hold_id);
  if (const auto known = t.suspense.find(key); known != t.suspense.end()) return known->second;
  std::vector<SuspenseRow> out;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT epoch, origin, state, edge_id, since, entry FROM suspense "
                                  "WHERE org_id = ?1 AND hold_id = ?2 ORDER BY epoch",
                                  org_id, sql::RawUuid{hold_id}));
    while (rows.Next()) {
      SuspenseRow& row = out.emplace_back();
      row.epoch = rows.Int(0);
      row.origin = static_cast<Origin>(rows.Int(1));
      row.state = static_cast<SuspenseState>(rows.Int(2));
      row.edge_id = rows.Text(3);
      row.since = FromColumn(rows.Int(4));
      row.entry.ParseFromString(rows.Text(5));
    }
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (SuspenseRow& row : out) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT row_id, amount FROM suspense_amounts WHERE org_id = ?1 AND "
                                  "hold_id = ?2 AND epoch = ?3",
                                  org_id, sql::RawUuid{hold_id}, row.epoch));
    while (rows.Next()) row.amounts[rows.Int(0)] = rows.Money(1);
    TH_RETURN_IF_ERROR(rows.status());
  }
  return t.suspense[key] = std::move(out);
}

absl::Status SqlStore::WriteSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                                        const SuspenseRow& row) {
  t.suspense.erase(HoldKey(org_id, hold_id));
  TH_RETURN_IF_ERROR(
      t.c.Execute("INSERT INTO suspense (org_id, hold_id, epoch, origin, state, edge_id, since, entry) "
                  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (org_id, hold_id, epoch) DO UPDATE "
                  "SET origin = excluded.origin, state = excluded.state, edge_id = excluded.edge_id, "
                  "entry = excluded.entry",
                  org_id, sql::RawUuid{hold_id}, row.epoch, row.origin, row.state, row.edge_id,
                  ToColumn(row.since), sql::Blob{Serialize(row.entry)})
          .status());
  for (const auto& [row_id, amount] : row.amounts) {
    TH_RETURN_IF_ERROR(
        t.c.Execute("INSERT INTO suspense_amounts (org_id, hold_id, epoch, row_id, amount) "
                    "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (org_id, hold_id, epoch, row_id) DO UPDATE "
                    "SET amount = excluded.amount",
                    org_id, sql::RawUuid{hold_id}, row.epoch, row_id, amount)
            .status());
  }
  return absl::OkStatus();
}

absl::Status SqlStore::CloseSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                                        int64_t epoch) {
  t.suspense.erase(HoldKey(org_id, hold_id));
  TH_RETURN_IF_ERROR(t.c.Execute("DELETE FROM suspense_amounts WHERE org_id = ?1 AND hold_id = ?2 AND "
                                 "epoch = ?3",
                                 org_id, sql::RawUuid{hold_id}, epoch)
                         .status());
  return t.c
      .Execute("UPDATE suspense SET state = ?4 WHERE org_id = ?1 AND hold_id = ?2 AND epoch = ?3",
               org_id, sql::RawUuid{hold_id}, epoch, SuspenseState::kClosed)
      .status();
}

absl::StatusOr<SqlStore::Terminal*> SqlStore::AddTerminal(Txn& t, Terminal terminal) {
  const v1::Entry& entry = *terminal.entry;
  const int64_t org_id = entry.account_ids(0);
  const int64_t sign = terminal.kind == Movement::kReverse ? -1 : 1;
  terminal.started_at = ToColumn(StartOf(entry, t.now));
  terminal.cost = sign * entry.cost_nanousd();
  for (const common::v1::UsageLine& line : entry.usage()) {
    terminal.input_tokens += sign * InputTokens(line.usage());
    terminal.output_tokens += sign * OutputTokens(line.usage());
  }
  for (const int64_t id : entry.account_ids()) {
    int64_t org = 0;
    TH_ASSIGN_OR_RETURN(const common::v1::AccountKind kind, KindOf(t.c, id, &org));
    if (kind == common::v1::ACCOUNT_KIND_TEAM) terminal.team_id = id;
    if (kind == common::v1::ACCOUNT_KIND_USER) terminal.user_id = id;
    if (kind == common::v1::ACCOUNT_KIND_KEY) terminal.key_id = id;
  }
  if (terminal.rows.empty()) {
    for (const common::v1::HeldBudget& budget : entry.budgets()) {
      TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRow(t, budget.budget_id(), budget.period()));
      terminal.rows.push_back(row);
    }
  }
  t.posted[HoldKey(org_id, entry.hold_id())] = Posted{.kind = terminal.kind,
                                                      .revision = terminal.revision,
                                                      .fingerprint = terminal.fingerprint,
                                                      .cost = terminal.cost};
  const auto org = t.orgs.find(org_id);
  if (org == t.orgs.end()) return absl::InternalError("an entry is posted without its org's lock");
  return &org->second.terminals.emplace_back(std::move(terminal));
}

absl::Status SqlStore::Settle(Txn& t, Terminal& terminal, std::vector<SuspenseRow> suspense,
                              bool charge_only) {
  const v1::Entry& entry = *terminal.entry;
  const int64_t org = entry.account_ids(0);
  const NanoUsd cost(entry.cost_nanousd());
  TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
  const bool estimate = terminal.kind == Movement::kEstimate;
  SuspenseRow* own = nullptr;
  SuspenseRow* in_lost = nullptr;
  for (SuspenseRow& row : suspense) {
    if (row.epoch != entry.epoch()) continue;
    if (row.state == SuspenseState::kOwn) own = &row;
    if (row.state == SuspenseState::kInLost) in_lost = &row;
  }
  bool above_hold = false;
  for (int i = 0; i < entry.budgets_size(); ++i) {
    const common::v1::HeldBudget& budget = entry.budgets(i);
    LoadedRow* const row = terminal.rows[static_cast<size_t>(i)];
    const NanoUsd held(budget.observe() ? 0 : budget.amount_nanousd());
    const NanoUsd wanted = std::min(held, cost);
    above_hold |= !budget.observe() && cost > held;
    const BudgetRow before = row->row;
    NanoUsd d_lost;
    if (charge_only || entry.epoch() == 0) {
      row->row.Charge(cost);
    } else if (own != nullptr) {
      const auto item = own->amounts.find(row->id);
      const NanoUsd there = item == own->amounts.end() ? kZero : item->second;
      const NanoUsd used = std::min(there, cost);
      row->row.SettleSuspense(used, cost);
      if (estimate) {
        if (item != own->amounts.end()) item->second = there - used;
      } else {
        row->row.Release(there - used);
        if (item != own->amounts.end()) own->amounts.erase(item);
      }
    } else if (entry.epoch() == open) {
      const NanoUsd used = std::min(wanted, row->row.leased);
      if (used < wanted) {
        ++t.counters.cover_missing;
        obs::Error("settled_hold_exceeds_lease", {{"budget", row->budget->display_id()},
                                                  {"wanted_nanousd", wanted.nanos()},
                                                  {"leased_nanousd", row->row.leased.nanos()}});
      }
      row->row.SettleLeased(used, cost);
    } else {
      TH_ASSIGN_OR_RETURN(const LoadedRow::Lost* const lost, LostOf(t, *row, entry.epoch()));
      NanoUsd used = std::min(wanted, lost->amount);
      if (in_lost != nullptr) {
        // An estimate has taken its part already.
        const auto item = in_lost->amounts.find(row->id);
        if (item != in_lost->amounts.end()) {
          used = std::min(used, item->second);
          if (estimate) item->second = item->second - used;
        }
      }
      row->row.SettleSuspense(used, cost);
      d_lost = kZero - used;
    }
    TH_RETURN_IF_ERROR(WriteLine(t, 0, *row, entry.epoch(), before, d_lost, &terminal));
  }
  if (above_hold) {
    ++t.counters.entries_above_hold;
    obs::Warning("settled_above_hold", {{"account", entry.account_path()},
                                        {"request_id", entry.request_id()},
                                        {"model", entry.model()},
                                        {"hold_nanousd", entry.hold_nanousd()},
                                        {"cost_nanousd", entry.cost_nanousd()}});
  }
  if (estimate) {
    SuspenseRow* const kept = own != nullptr ? own : in_lost;
    return kept == nullptr ? absl::OkStatus() : WriteSuspense(t, org, entry.hold_id(), *kept);
  }
  // What is left of its own row, and other holds of the same attempt under other epochs.
  for (SuspenseRow& row : suspense) {
    if (row.state == SuspenseState::kClosed) continue;
    if (row.state == SuspenseState::kOwn) {
      for (const auto& [row_id, amount] : row.amounts) {
        TH_ASSIGN_OR_RETURN(LoadedRow* const loaded, FindRowById(t, row_id));
        const BudgetRow before = loaded->row;
        loaded->row.Release(amount);
        TH_RETURN_IF_ERROR(WriteLine(t, 0, *loaded, row.epoch, before, kZero, &terminal));
      }
    }
    TH_RETURN_IF_ERROR(CloseSuspense(t, org, entry.hold_id(), row.epoch));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SqlStore::WasPosted(Txn& t, int64_t org_id, std::string_view hold_id,
                                         std::string_view fingerprint) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query("SELECT 1 FROM journal WHERE org_id = ?1 AND hold_id = ?2 AND "
                                "fingerprint = ?3",
                                org_id, sql::RawUuid{hold_id}, sql::Blob{fingerprint}));
  const bool found = rows.Next();
  while (rows.Next()) {
  }
  TH_RETURN_IF_ERROR(rows.status());
  return found;
}

absl::StatusOr<std::shared_ptr<const v1::Entry>> SqlStore::Reverse(Txn& t, int64_t org_id,
                                                                   std::string_view hold_id,
                                                                   const Posted& posted,
                                                                   std::string_view note) {
  StoredEntry resolved;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query(absl::StrCat(Absl(kSelectJournal), " WHERE org_id = ?1 AND hold_id = ?2 "
                                                                     "AND revision = ?3"),
                                  org_id, sql::RawUuid{hold_id}, posted.revision));
    if (!rows.Next()) return absl::InternalError("what is to be reversed is not in the journal");
    TH_ASSIGN_OR_RETURN(resolved, ReadEntry(t.c, rows));
  }
  const auto entry = std::make_shared<const v1::Entry>(std::move(resolved.entry));
  TH_ASSIGN_OR_RETURN(Terminal* const terminal,
                      AddTerminal(t, {.entry = entry.get(),
                                      .owned = entry,
                                      .kind = Movement::kReverse,
                                      .revision = posted.revision + 1,
                                      .fingerprint = posted.fingerprint,
                                      .note = std::string(note)}));
  std::map<int64_t, NanoUsd> spent;
  for (const EntryLine& line : resolved.lines) spent[line.row_id] += line.delta.spent;
  for (const auto& [row_id, amount] : spent) {
    if (amount <= kZero) continue;
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, row_id));
    const BudgetRow before = row->row;
    row->row.Refund(amount);
    TH_RETURN_IF_ERROR(WriteLine(t, 0, *row, 0, before, kZero, terminal));
  }
  return entry;
}

absl::Status SqlStore::Suspend(Txn& t, const v1::Entry& entry, Origin origin,
                                  std::vector<SuspenseRow> known) {
  const int64_t org = entry.account_ids(0);
  for (SuspenseRow& row : known) {
    if (row.epoch != entry.epoch()) continue;
    // The money has moved already; what the edge knows of the hold is more than an expiry knows.
    if (row.state == SuspenseState::kClosed || row.origin == Origin::kSuspended) {
      return absl::OkStatus();
    }
    row.origin = origin;
    row.edge_id = entry.edge_id();
    row.entry = entry;
    return WriteSuspense(t, org, entry.hold_id(), row);
  }
  TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
  bool reclaimed = false;
  if (entry.epoch() > 0 && entry.epoch() != open) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT reclaimed_at IS NOT NULL FROM epochs WHERE org_id = ?1 AND "
                                  "epoch = ?2",
                                  org, entry.epoch()));
    reclaimed = rows.Next() && rows.Bool(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  SuspenseRow row;
  row.epoch = entry.epoch();
  row.origin = origin;
  row.state = entry.epoch() == open || entry.epoch() == 0 || reclaimed ? SuspenseState::kOwn
                                                                       : SuspenseState::kInLost;
  row.edge_id = entry.edge_id();
  row.since = t.now;
  row.entry = entry;
  int64_t sequence = 0;
  for (const common::v1::HeldBudget& budget : entry.budgets()) {
    if (budget.observe() || budget.amount_nanousd() == 0) continue;
    TH_ASSIGN_OR_RETURN(LoadedRow* const loaded, FindRow(t, budget.budget_id(), budget.period()));
    NanoUsd amount(budget.amount_nanousd());
    if (row.state == SuspenseState::kOwn) {
      if (sequence == 0) {
        TH_ASSIGN_OR_RETURN(sequence, WriteMovement(t, org, Movement::kSuspend,
                                                    UuidFromRaw(entry.hold_id())->ToString()));
      }
      const BudgetRow before = loaded->row;
      if (reclaimed) {
        amount = loaded->row.SuspendFromAvailable(amount);
      } else {
        if (amount > loaded->row.leased) ++t.counters.cover_missing;
        amount = std::min(amount, loaded->row.leased);
        loaded->row.Suspend(amount);
      }
      TH_RETURN_IF_ERROR(WriteLine(t, sequence, *loaded, entry.epoch(), before, kZero));
    }
    row.amounts[loaded->id] = amount;
  }
  return WriteSuspense(t, org, entry.hold_id(), row);
}

absl::Status SqlStore::PostEstimate(Txn& t, const v1::Entry& entry) {
  const int64_t org = entry.account_ids(0);
  TH_ASSIGN_OR_RETURN(std::vector<SuspenseRow> known, FindSuspense(t, org, entry.hold_id()));
  const bool open = std::any_of(known.begin(), known.end(), [&](const SuspenseRow& row) {
    return row.epoch == entry.epoch() && row.state != SuspenseState::kClosed;
  });
  if (!open) return absl::OkStatus();
  const auto settled = std::make_shared<v1::Entry>(entry);
  settled->set_kind(v1::ENTRY_KIND_SETTLE);
  TH_ASSIGN_OR_RETURN(Terminal* const terminal,
                      AddTerminal(t, {.entry = settled.get(),
                                      .owned = settled,
                                      .kind = Movement::kEstimate,
                                      .revision = 0,
                                      .fingerprint = FingerprintOf(*settled),
                                      .note = "estimated; the rest of the hold is in suspense"}));
  return Settle(t, *terminal, std::move(known), false);
}

absl::StatusOr<int> SqlStore::ReverseEstimate(Txn& t, int64_t org_id, std::string_view hold_id,
                                              std::string_view note) {
  TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org_id, hold_id));
  if (!posted.has_value() || posted->kind != Movement::kEstimate) return 0;
  TH_RETURN_IF_ERROR(Reverse(t, org_id, hold_id, *posted, note).status());
  return posted->revision + 2;
}

absl::Status SqlStore::PostOne(Txn& t, const v1::Entry& entry, const std::string& fingerprint,
                               v1::PostResult* result) {
  result->set_hold_id(entry.hold_id());
  std::vector<LoadedRow*> rows;
  rows.reserve(static_cast<size_t>(entry.budgets_size()));
  TH_ASSIGN_OR_RETURN(std::string rejected, WhyRejected(t, entry, &rows));
  if (!rejected.empty()) {
    ++t.counters.entries_rejected;
    result->set_outcome(v1::POST_OUTCOME_REJECTED);
    result->set_message(std::move(rejected));
    return absl::OkStatus();
  }
  const int64_t org = entry.account_ids(0);
  const bool suspend = entry.kind() == v1::ENTRY_KIND_SUSPEND;
  TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, entry.hold_id()));
  const auto duplicate = [&](int64_t nanos) {
    ++t.counters.entries_duplicate;
    result->set_outcome(v1::POST_OUTCOME_DUPLICATE);
    result->set_posted_nanousd(nanos);
    return absl::OkStatus();
  };
  if (posted.has_value() && posted->kind == Movement::kEstimate) {
    if (suspend) return duplicate(LargestAmount(entry));
    // The truth after an estimate.
    TH_ASSIGN_OR_RETURN(std::vector<SuspenseRow> known, FindSuspense(t, org, entry.hold_id()));
    TH_ASSIGN_OR_RETURN(const int revision,
                        ReverseEstimate(t, org, entry.hold_id(), "the result came after all"));
    TH_ASSIGN_OR_RETURN(Terminal* const terminal,
                        AddTerminal(t, {.entry = &entry,
                                        .kind = Movement::kCorrect,
                                        .revision = revision,
                                        .fingerprint = fingerprint,
                                        .note = "follows a reversed estimate",
                                        .rows = std::move(rows)}));
    TH_RETURN_IF_ERROR(Settle(t, *terminal, std::move(known), false));
  } else if (posted.has_value()) {
    // A suspension that arrives after the end it was followed by changes nothing.
    if (suspend || posted->fingerprint == fingerprint) return duplicate(posted->cost);
    if (posted->kind != Movement::kResolve) {
      if (posted->revision > 0) {  // it may have been adjusted since
        TH_ASSIGN_OR_RETURN(const bool known, WasPosted(t, org, entry.hold_id(), fingerprint));
        if (known) return duplicate(posted->cost);
      }
      ++t.counters.entries_conflicting;
      result->set_outcome(v1::POST_OUTCOME_CONFLICT);
      result->set_message("another entry of this hold stands in the journal");
      result->set_posted_nanousd(posted->cost);
      return absl::OkStatus();
    }
    // The truth after a resolution: the resolution is reversed, never changed.
    TH_RETURN_IF_ERROR(
        Reverse(t, org, entry.hold_id(), *posted, "the result came after all").status());
    TH_ASSIGN_OR_RETURN(Terminal* const terminal,
                        AddTerminal(t, {.entry = &entry,
                                        .kind = Movement::kCorrect,
                                        .revision = posted->revision + 2,
                                        .fingerprint = fingerprint,
                                        .note = "follows a reversed resolution",
                                        .rows = std::move(rows)}));
    TH_RETURN_IF_ERROR(Settle(t, *terminal, {}, true));
  } else {
    TH_ASSIGN_OR_RETURN(std::vector<SuspenseRow> known, FindSuspense(t, org, entry.hold_id()));
    if (suspend) {
      const bool again = std::any_of(known.begin(), known.end(), [&](const SuspenseRow& row) {
        return row.epoch == entry.epoch() && row.origin == Origin::kSuspended;
      });
      if (again) return duplicate(LargestAmount(entry));
      TH_RETURN_IF_ERROR(Suspend(t, entry, Origin::kSuspended, std::move(known)));
      if (HasEstimate(entry)) TH_RETURN_IF_ERROR(PostEstimate(t, entry));
    } else {
      const Movement kind =
          entry.kind() == v1::ENTRY_KIND_VOID ? Movement::kVoid : Movement::kSettle;
      TH_ASSIGN_OR_RETURN(
          Terminal* const terminal,
          AddTerminal(t, {.entry = &entry,
                          .kind = kind,
                          .revision = 0,
                          .fingerprint = fingerprint,
                          .rows = std::move(rows)}));
      TH_RETURN_IF_ERROR(Settle(t, *terminal, std::move(known), false));
    }
  }
  ++t.counters.entries_posted;
  result->set_outcome(v1::POST_OUTCOME_POSTED);
  result->set_posted_nanousd(suspend ? LargestAmount(entry) : entry.cost_nanousd());
  return absl::OkStatus();
}

absl::Status SqlStore::PreloadPost(Txn& t, std::span<const v1::Entry* const> entries) {
  if (t.c.dialect() == sql::Dialect::kSqlite) return absl::OkStatus();  // look-ups cost no round trips
  absl::flat_hash_set<std::pair<int64_t, std::string_view>> names;
  std::map<int64_t, std::vector<std::string_view>> holds;
  for (const v1::Entry* const entry : entries) {
    if (entry->account_ids().empty() || entry->hold_id().size() != 16) continue;
    holds[entry->account_ids(0)].push_back(entry->hold_id());
    for (const common::v1::HeldBudget& budget : entry->budgets()) {
      names.emplace(budget.budget_id(), budget.period());
    }
  }
  TH_RETURN_IF_ERROR(PreloadRowsOf(t, names));
  for (auto& [org, ids] : holds) {
    for (const std::string_view id : ids) {
      t.posted.try_emplace(HoldKey(org, id));
      t.suspense.try_emplace(HoldKey(org, id));
    }
    const auto [first, last] = std::minmax_element(ids.begin(), ids.end());
    const sql::RawUuid lowest{*first};
    const sql::RawUuid highest{*last};
    const sql::Array array = sql::Array::Uuids(ids);
    {
      // The bounds choose the partitions.
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          t.c.Query("SELECT hold_id, kind, revision, fingerprint, cost FROM journal WHERE org_id = ?1 AND "
                    "hold_id = ANY (CAST(?2 AS uuid[])) AND hold_id >= ?3 AND hold_id <= ?4",
                    org, array, lowest, highest));
      while (rows.Next()) {
        std::optional<Posted>& posted = t.posted[HoldKey(org, rows.View(0))];
        const auto revision = static_cast<int>(rows.Int(2));
        if (posted.has_value() && posted->revision > revision) continue;
        posted = Posted{.kind = static_cast<Movement>(rows.Int(1)),
                        .revision = revision,
                        .fingerprint = rows.Text(3),
                        .cost = rows.Int(4)};
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT hold_id FROM suspense WHERE org_id = ?1 AND "
                                  "hold_id = ANY (CAST(?2 AS uuid[]))",
                                  org, array));
    while (rows.Next()) t.suspense.erase(HoldKey(org, rows.View(0)));  // asked for one by one
    TH_RETURN_IF_ERROR(rows.status());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::PostResult>> SqlStore::Post(std::span<const v1::Entry* const> entries) {
  // Before any lock is held.
  std::vector<std::string> fingerprints;
  fingerprints.reserve(entries.size());
  std::vector<int64_t> orgs;
  for (const v1::Entry* const entry : entries) {
    fingerprints.push_back(FingerprintOf(*entry));
    if (entry->account_ids_size() > 0) orgs.push_back(entry->account_ids(0));
  }
  std::vector<v1::PostResult> results;
  TH_RETURN_IF_ERROR(Write(
      [&](sql::Connection&) { return orgs; },
      [&](Txn& t) -> absl::Status {
        results.assign(entries.size(), v1::PostResult());
        TH_RETURN_IF_ERROR(PreloadPost(t, entries));
        for (size_t i = 0; i < entries.size(); ++i) {
          TH_RETURN_IF_ERROR(PostOne(t, *entries[i], fingerprints[i], &results[i]));
        }
        return absl::OkStatus();
      }));
  return results;
}

// --- resolution
namespace {

void RecordEntry(audit::Call* audit, const v1::Entry* before, const v1::JournalEntry& after) {
  if (audit == nullptr) return;
  audit->SetResource(absl::StrCat("hold/", after.hold_id()), after.entry().account_path());
  if (before != nullptr) audit->SetBefore(*before);
  audit->SetAfter(after);
}

}  // namespace

absl::StatusOr<v1::JournalEntry> SqlStore::Resolve(Txn& t, int64_t org_id, const SuspenseRow& row,
                                                   std::vector<SuspenseRow> known, NanoUsd cost,
                                                   std::string_view reason, std::string_view status) {
  const auto entry = std::make_shared<v1::Entry>(row.entry);
  entry->set_kind(v1::ENTRY_KIND_SETTLE);
  entry->set_cost_nanousd(cost.nanos());
  entry->set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
  entry->set_status(std::string(status));
  // Where the amount is not the product of rates and usage.
  if (cost.nanos() != row.entry.cost_nanousd()) entry->clear_price_detail();
  TH_ASSIGN_OR_RETURN(const int revision, ReverseEstimate(t, org_id, row.entry.hold_id(), reason));
  TH_ASSIGN_OR_RETURN(Terminal* const terminal, AddTerminal(t, {.entry = entry.get(),
                                                                .owned = entry,
                                                                .kind = Movement::kResolve,
                                                                .revision = revision,
                                                                .fingerprint = FingerprintOf(*entry),
                                                                .note = std::string(reason)}));
  TH_RETURN_IF_ERROR(Settle(t, *terminal, std::move(known), false));
  const OrgState& org = t.orgs.at(org_id);
  return ToJournalEntry(org_id, org.last_sequence + static_cast<int64_t>(org.terminals.size()), t.now,
                        Movement::kResolve, *entry);
}

absl::StatusOr<v1::JournalEntry> SqlStore::ResolveSuspense(audit::Call* audit,
                                                           std::string_view raw_hold_id,
                                                           int64_t cost_nanos,
                                                           std::string_view reason) {
  v1::JournalEntry out;
  const auto not_found = [] {
    return MakeError(absl::StatusCode::kNotFound, "SUSPENSE_NOT_FOUND",
                     "no such hold in suspense; `suspense list` names them");
  };
  const auto find_org = [&](sql::Connection& c) -> absl::StatusOr<std::vector<int64_t>> {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query("SELECT org_id FROM suspense WHERE org_id IN "
                                                "(SELECT org_id FROM orgs) AND hold_id = ?1 "
                                                "ORDER BY state LIMIT 1",
                                                sql::RawUuid{raw_hold_id}));
    if (rows.Next()) return std::vector<int64_t>{rows.Int(0)};
    TH_RETURN_IF_ERROR(rows.status());
    return not_found();
  };
  TH_RETURN_IF_ERROR(Write(
      find_org,
      [&](Txn& t) -> absl::Status {
        const int64_t org = t.orgs.begin()->first;
        TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, raw_hold_id));
        if (posted.has_value() && posted->kind != Movement::kEstimate) {
          if (posted->kind != Movement::kResolve || posted->cost != cost_nanos) {
            return MakeError(absl::StatusCode::kFailedPrecondition, "ALREADY_RESOLVED",
                             absl::StrCat("the hold has ended at ", posted->cost, " nano-USD"));
          }
          TH_ASSIGN_OR_RETURN(
              sql::Rows rows,
              t.c.Query(absl::StrCat(Absl(kSelectJournal),
                                     " WHERE org_id = ?1 AND hold_id = ?2 AND revision = ?3"),
                        org, sql::RawUuid{raw_hold_id}, posted->revision));
          if (rows.Next()) {
            TH_ASSIGN_OR_RETURN(const StoredEntry stored, ReadEntry(t.c, rows));
            out = ToJournalEntry(org, stored.sequence, stored.at, stored.kind, stored.entry);
          }
          return rows.status();
        }
        TH_ASSIGN_OR_RETURN(const std::vector<SuspenseRow> known,
                            FindSuspense(t, org, raw_hold_id));
        const SuspenseRow* newest = nullptr;
        for (const SuspenseRow& row : known) {
          if (row.state != SuspenseState::kClosed &&
              (newest == nullptr || row.epoch > newest->epoch)) {
            newest = &row;
          }
        }
        if (newest == nullptr) return not_found();
        TH_ASSIGN_OR_RETURN(
            out, Resolve(t, org, *newest, known, NanoUsd(cost_nanos), reason, "resolved"));
        RecordEntry(audit, nullptr, out);
        return absl::OkStatus();
      },
      nullptr, audit));
  return out;
}

absl::StatusOr<v1::AdjustEntryResponse> SqlStore::AdjustEntry(audit::Call* audit,
                                                              std::string_view raw_hold_id,
                                                              int64_t cost_nanos,
                                                              std::string_view reason,
                                                              std::string_view client_request_id) {
  v1::AdjustEntryResponse out;
  const auto find_org = [&](sql::Connection& c) -> absl::StatusOr<std::vector<int64_t>> {
    for (const char* const table : {"journal", "suspense"}) {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query(absl::StrCat("SELECT org_id FROM ", table,
                                               " WHERE org_id IN (SELECT org_id FROM orgs) AND "
                                               "hold_id = ?1 LIMIT 1"),
                                  sql::RawUuid{raw_hold_id}));
      if (rows.Next()) return std::vector<int64_t>{rows.Int(0)};
      TH_RETURN_IF_ERROR(rows.status());
    }
    return MakeError(absl::StatusCode::kNotFound, "HOLD_NOT_FOUND",
                     "no entry of this hold; `ledger entries` and `explain` name them");
  };
  TH_RETURN_IF_ERROR(Write(
      find_org,
      [&](Txn& t) -> absl::Status {
        out.Clear();
        const int64_t org = t.orgs.begin()->first;
        TH_ASSIGN_OR_RETURN(std::optional<Posted> posted, FindPosted(t, org, raw_hold_id));
        {
          TH_ASSIGN_OR_RETURN(sql::Rows rows,
                              t.c.Query("SELECT hold_id, revision, previous FROM adjustments WHERE "
                                        "org_id = ?1 AND client_request_id = ?2",
                                        org, client_request_id));
          if (rows.Next()) {
            const bool same = rows.View(0) == raw_hold_id && posted.has_value();
            const int64_t revision = rows.Int(1);
            out.set_previous_nanousd(rows.Int(2));
            TH_ASSIGN_OR_RETURN(
                sql::Rows entries,
                t.c.Query(absl::StrCat(Absl(kSelectJournal),
                                       " WHERE org_id = ?1 AND hold_id = ?2 AND revision = ?3"),
                          org, sql::RawUuid{raw_hold_id}, revision));
            if (same && entries.Next()) {
              TH_ASSIGN_OR_RETURN(const StoredEntry stored, ReadEntry(t.c, entries));
              if (stored.cost == cost_nanos) {
                *out.mutable_entry() =
                    ToJournalEntry(org, stored.sequence, stored.at, stored.kind, stored.entry);
                return absl::OkStatus();
              }
            }
            TH_RETURN_IF_ERROR(entries.status());
            return MakeError(absl::StatusCode::kAlreadyExists, "REQUEST_REUSED",
                             "this client_request_id was used for another adjustment");
          }
          TH_RETURN_IF_ERROR(rows.status());
        }
        if (!posted.has_value()) {
          return MakeError(absl::StatusCode::kFailedPrecondition, "STILL_OPEN",
                           "the hold is in suspense; end it with `suspense resolve`");
        }
        // What an estimate has left in suspense ends with it.
        std::vector<SuspenseRow> known;
        if (posted->kind == Movement::kEstimate) {
          TH_ASSIGN_OR_RETURN(known, FindSuspense(t, org, raw_hold_id));
        }
        const bool held = !known.empty();
        if (posted->cost == cost_nanos && !held) {
          return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_CHANGED",
                           absl::StrCat("the hold costs ", cost_nanos, " nano-USD already"));
        }
        out.set_previous_nanousd(posted->cost);
        TH_ASSIGN_OR_RETURN(const std::shared_ptr<const v1::Entry> before,
                            Reverse(t, org, raw_hold_id, *posted, reason));
        const auto entry = std::make_shared<v1::Entry>(*before);
        entry->set_kind(v1::ENTRY_KIND_SETTLE);
        entry->set_cost_nanousd(cost_nanos);
        entry->clear_price_detail();  // the amount is not the product of rates and usage
        const int revision = posted->revision + 2;
        TH_ASSIGN_OR_RETURN(Terminal* const terminal,
                            AddTerminal(t, {.entry = entry.get(),
                                            .owned = entry,
                                            .kind = Movement::kCorrect,
                                            .revision = revision,
                                            .fingerprint = FingerprintOf(*entry),
                                            .note = std::string(reason)}));
        TH_RETURN_IF_ERROR(Settle(t, *terminal, std::move(known), !held));
        TH_RETURN_IF_ERROR(
            t.c.Execute("INSERT INTO adjustments (org_id, client_request_id, hold_id, "
                        "revision, previous) VALUES (?1, ?2, ?3, ?4, ?5)",
                        org, client_request_id, sql::RawUuid{raw_hold_id}, revision,
                        out.previous_nanousd())
                .status());
        const OrgState& state = t.orgs.at(org);
        *out.mutable_entry() =
            ToJournalEntry(org, state.last_sequence + static_cast<int64_t>(state.terminals.size()),
                           t.now, Movement::kCorrect, *entry);
        RecordEntry(audit, before.get(), out.entry());
        return absl::OkStatus();
      },
      nullptr, audit));
  return out;
}

absl::StatusOr<int64_t> SqlStore::ResolveOldSuspense(absl::Time before) {
  constexpr int kPerTransaction = 256;
  std::vector<int64_t> orgs;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT DISTINCT org_id FROM suspense WHERE state < 3 AND since <= ?1", ToColumn(before)));
    while (rows.Next()) orgs.push_back(rows.Int(0));
    return rows.status();
  }));
  int64_t total = 0;
  for (const int64_t org : orgs) {
    for (int64_t done = kPerTransaction; done == kPerTransaction;) {
      int64_t resolved = 0;
      TH_RETURN_IF_ERROR(Write(Org(org), [&](Txn& t) -> absl::Status {
        resolved = 0;
        std::vector<std::string> old;
        {
          TH_ASSIGN_OR_RETURN(sql::Rows rows,
                              t.c.Query("SELECT hold_id FROM suspense WHERE org_id = ?1 AND state < 3 "
                                        "AND since <= ?2 ORDER BY since LIMIT ?3",
                                        org, ToColumn(before), kPerTransaction));
          while (rows.Next()) old.push_back(rows.Text(0));
          TH_RETURN_IF_ERROR(rows.status());
        }
        done = static_cast<int64_t>(old.size());
        for (const std::string& hold_id : old) {
          TH_ASSIGN_OR_RETURN(const std::vector<SuspenseRow> known, FindSuspense(t, org, hold_id));
          const SuspenseRow* newest = nullptr;
          for (const SuspenseRow& row : known) {
            if (row.state != SuspenseState::kClosed) newest = &row;
          }
          if (newest == nullptr) continue;  // the same hold under another epoch, just resolved
          int64_t cost = LargestAmount(newest->entry);
          if (cost == 0) cost = newest->entry.hold_nanousd();
          const bool estimated = HasEstimate(newest->entry);
          if (estimated) cost = newest->entry.cost_nanousd();
          TH_RETURN_IF_ERROR(Resolve(t, org, *newest, known, NanoUsd(cost),
                                     estimated ? "unknown for too long: the estimate"
                                               : "unknown for too long: the full hold",
                                     "estimated")
                                 .status());
          ++t.counters.suspense_resolved_auto;
          ++resolved;
        }
        return absl::OkStatus();
      }));
      total += resolved;
    }
  }
  return total;
}

}  // namespace tollhouse::ledger
