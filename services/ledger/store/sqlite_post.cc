// Posting: settlements, voids, suspensions and their corrections (rules R3, R14; I5, I8).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/obs/log.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {
namespace {

constexpr NanoUsd kZero{0};
constexpr int kBudgetsPerEntryMax = 64;
constexpr int64_t kTokensMax = 1'000'000'000'000;

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

absl::StatusOr<common::v1::AccountKind> SqliteStore::KindOf(Txn& t, int64_t account_id,
                                                            int64_t* org_id) {
  mutex_.AssertHeld();
  const auto found = kinds_.find(account_id);
  if (found != kinds_.end()) {
    *org_id = found->second.second;
    return found->second.first;
  }
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query("SELECT kind, org_id FROM accounts WHERE id = ?1", account_id));
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    *org_id = 0;
    return common::v1::ACCOUNT_KIND_UNSPECIFIED;
  }
  const auto kind = static_cast<common::v1::AccountKind>(rows.Int(0));
  *org_id = rows.Int(1);
  kinds_[account_id] = {kind, *org_id};
  return kind;
}

absl::StatusOr<std::string> SqliteStore::WhyRejected(Txn& t, const v1::Entry& entry) {
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
    TH_ASSIGN_OR_RETURN(const common::v1::AccountKind kind, KindOf(t, id, &its_org));
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
    TH_ASSIGN_OR_RETURN(const LoadedRow* const row,
                        LoadRow(t, org, budget.budget_id(), budget.period(), StartOf(entry, t.now)));
    if (row == nullptr) {
      return absl::StrCat("no budget ", budget.budget_id(), " with a period '", budget.period(), "'");
    }
  }
  return "";
}

absl::StatusOr<std::optional<SqliteStore::Posted>> SqliteStore::FindPosted(Txn& t, int64_t org_id,
                                                                           std::string_view hold_id) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query("SELECT sequence, kind, revision, fingerprint, cost FROM journal WHERE "
                                "org_id = ?1 AND hold_id = ?2 ORDER BY revision DESC LIMIT 1",
                                org_id, sql::Blob{hold_id}));
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    return std::nullopt;
  }
  return Posted{.sequence = rows.Int(0),
                .kind = static_cast<Movement>(rows.Int(1)),
                .revision = static_cast<int>(rows.Int(2)),
                .fingerprint = rows.Text(3),
                .cost = rows.Int(4)};
}

absl::StatusOr<std::vector<SqliteStore::SuspenseRow>> SqliteStore::FindSuspense(
    Txn& t, int64_t org_id, std::string_view hold_id) {
  std::vector<SuspenseRow> out;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT epoch, origin, state, edge_id, since, entry FROM suspense "
                                  "WHERE org_id = ?1 AND hold_id = ?2",
                                  org_id, sql::Blob{hold_id}));
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
                                  org_id, sql::Blob{hold_id}, row.epoch));
    while (rows.Next()) row.amounts[rows.Int(0)] = rows.Money(1);
    TH_RETURN_IF_ERROR(rows.status());
  }
  return out;
}

absl::Status SqliteStore::WriteSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                                        const SuspenseRow& row) {
  TH_RETURN_IF_ERROR(
      t.c.Execute("INSERT INTO suspense (org_id, hold_id, epoch, origin, state, edge_id, since, entry) "
                  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET "
                  "origin = ?4, state = ?5, edge_id = ?6, entry = ?8",
                  org_id, sql::Blob{hold_id}, row.epoch, row.origin, row.state, row.edge_id,
                  ToColumn(row.since), sql::Blob{Serialize(row.entry)})
          .status());
  for (const auto& [row_id, amount] : row.amounts) {
    TH_RETURN_IF_ERROR(
        t.c.Execute("INSERT INTO suspense_amounts (org_id, hold_id, epoch, row_id, amount) "
                    "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET amount = ?5",
                    org_id, sql::Blob{hold_id}, row.epoch, row_id, amount)
            .status());
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::CloseSuspense(Txn& t, int64_t org_id, std::string_view hold_id,
                                        int64_t epoch) {
  TH_RETURN_IF_ERROR(t.c.Execute("DELETE FROM suspense_amounts WHERE org_id = ?1 AND hold_id = ?2 AND "
                                 "epoch = ?3",
                                 org_id, sql::Blob{hold_id}, epoch)
                         .status());
  return t.c
      .Execute("UPDATE suspense SET state = ?4 WHERE org_id = ?1 AND hold_id = ?2 AND epoch = ?3",
               org_id, sql::Blob{hold_id}, epoch, SuspenseState::kClosed)
      .status();
}

absl::StatusOr<int64_t> SqliteStore::WriteTerminal(Txn& t, const v1::Entry& entry, Movement kind,
                                                   int revision, std::string_view fingerprint,
                                                   std::string_view note) {
  const int64_t sequence = t.next_sequence++;
  const bool reverse = kind == Movement::kReverse;
  const int64_t started_at = ToColumn(StartOf(entry, t.now));
  int64_t input = 0;
  int64_t output = 0;
  for (const common::v1::UsageLine& line : entry.usage()) {
    input += InputTokens(line.usage());
    output += OutputTokens(line.usage());
  }
  const int64_t cost = reverse ? -entry.cost_nanousd() : entry.cost_nanousd();
  int64_t by_kind[5] = {};
  for (const int64_t id : entry.account_ids()) {
    int64_t org = 0;
    TH_ASSIGN_OR_RETURN(const common::v1::AccountKind its_kind, KindOf(t, id, &org));
    by_kind[its_kind] = id;
  }
  const std::optional<std::string_view> request_id =
      entry.request_id().empty() ? std::nullopt
                                 : std::optional<std::string_view>(entry.request_id());
  TH_RETURN_IF_ERROR(
      t.c.Execute("INSERT INTO journal (sequence, org_id, kind, at, hold_id, revision, fingerprint, "
                  "request_id, team_id, user_id, key_id, provider, model, started_at, cost, "
                  "input_tokens, output_tokens, entry, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, "
                  "?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
                  sequence, entry.account_ids(0), kind, ToColumn(t.now), sql::Blob{entry.hold_id()},
                  revision, sql::Blob{fingerprint}, request_id,
                  by_kind[common::v1::ACCOUNT_KIND_TEAM], by_kind[common::v1::ACCOUNT_KIND_USER],
                  by_kind[common::v1::ACCOUNT_KIND_KEY], entry.provider(), entry.model(), started_at,
                  cost, reverse ? -input : input, reverse ? -output : output,
                  sql::Blob{Serialize(entry)}, note)
          .status());
  for (const int64_t id : entry.account_ids()) {
    TH_RETURN_IF_ERROR(t.c.Execute("INSERT INTO account_entries (account_id, started_at, sequence, cost) "
                                   "VALUES (?1, ?2, ?3, ?4)",
                                   id, started_at, sequence, cost)
                           .status());
  }
  return sequence;
}

absl::Status SqliteStore::Settle(Txn& t, int64_t sequence, const v1::Entry& entry,
                                 std::vector<SuspenseRow> suspense, bool charge_only) {
  const int64_t org = entry.account_ids(0);
  const NanoUsd cost(entry.cost_nanousd());
  TH_ASSIGN_OR_RETURN(const int64_t open, OpenEpoch(t, org));
  SuspenseRow* own = nullptr;
  for (SuspenseRow& row : suspense) {
    if (row.epoch == entry.epoch() && row.state == SuspenseState::kOwn) own = &row;
  }
  bool above_hold = false;
  for (const common::v1::HeldBudget& budget : entry.budgets()) {
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRow(t, budget.budget_id(), budget.period()));
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
      row->row.Release(there - used);
      if (item != own->amounts.end()) own->amounts.erase(item);
    } else {
      TH_ASSIGN_OR_RETURN(LoadedRow::PerEpoch* const amounts, EpochOf(t, *row, entry.epoch()));
      if (entry.epoch() == open) {
        const NanoUsd used = std::min(wanted, amounts->leased);
        if (used < wanted) {
          ++t.counters.cover_missing;
          obs::Error("settled_hold_exceeds_lease", {{"budget", row->budget->display_id()},
                                                    {"wanted_nanousd", wanted.nanos()},
                                                    {"leased_nanousd", amounts->leased.nanos()}});
        }
        row->row.SettleLeased(used, cost);
      } else {
        const NanoUsd used = std::min(wanted, amounts->lost);
        row->row.SettleSuspense(used, cost);
        d_lost = kZero - used;
      }
    }
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, entry.epoch(), before, d_lost));
  }
  if (above_hold) {
    ++t.counters.entries_above_hold;
    obs::Warning("settled_above_hold", {{"account", entry.account_path()},
                                        {"request_id", entry.request_id()},
                                        {"model", entry.model()},
                                        {"hold_nanousd", entry.hold_nanousd()},
                                        {"cost_nanousd", entry.cost_nanousd()}});
  }
  // What is left of its own row, and other holds of the same attempt under other epochs.
  for (SuspenseRow& row : suspense) {
    if (row.state == SuspenseState::kClosed) continue;
    if (row.state == SuspenseState::kOwn) {
      for (const auto& [row_id, amount] : row.amounts) {
        TH_ASSIGN_OR_RETURN(LoadedRow* const loaded, FindRowById(t, row_id));
        const BudgetRow before = loaded->row;
        loaded->row.Release(amount);
        TH_RETURN_IF_ERROR(WriteLine(t, sequence, *loaded, row.epoch, before, kZero));
      }
    }
    TH_RETURN_IF_ERROR(CloseSuspense(t, org, entry.hold_id(), row.epoch));
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::Reverse(Txn& t, int64_t org_id, std::string_view hold_id,
                                  const Posted& posted, std::string_view note) {
  v1::Entry entry;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT entry FROM journal WHERE sequence = ?1", posted.sequence));
    if (rows.Next()) entry.ParseFromString(rows.Text(0));
    TH_RETURN_IF_ERROR(rows.status());
  }
  TH_ASSIGN_OR_RETURN(const int64_t sequence,
                      WriteTerminal(t, entry, Movement::kReverse, posted.revision + 1,
                                    posted.fingerprint, note));
  std::vector<std::pair<int64_t, NanoUsd>> spent;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT row_id, sum(d_spent) FROM lines WHERE sequence = ?1 "
                                  "GROUP BY row_id HAVING sum(d_spent) > 0",
                                  posted.sequence));
    while (rows.Next()) spent.emplace_back(rows.Int(0), rows.Money(1));
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (const auto& [row_id, amount] : spent) {
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, row_id));
    const BudgetRow before = row->row;
    row->row.Refund(amount);
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, 0, before, kZero));
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::Suspend(Txn& t, const v1::Entry& entry, Origin origin,
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
        TH_ASSIGN_OR_RETURN(LoadedRow::PerEpoch* const amounts, EpochOf(t, *loaded, entry.epoch()));
        if (amount > amounts->leased) ++t.counters.cover_missing;
        amount = std::min(amount, amounts->leased);
        loaded->row.Suspend(amount);
      }
      TH_RETURN_IF_ERROR(WriteLine(t, sequence, *loaded, entry.epoch(), before, kZero));
    }
    row.amounts[loaded->id] = amount;
  }
  return WriteSuspense(t, org, entry.hold_id(), row);
}

absl::Status SqliteStore::PostOne(Txn& t, const v1::Entry& entry, v1::PostResult* result) {
  result->set_hold_id(entry.hold_id());
  TH_ASSIGN_OR_RETURN(std::string rejected, WhyRejected(t, entry));
  if (!rejected.empty()) {
    ++t.counters.entries_rejected;
    result->set_outcome(v1::POST_OUTCOME_REJECTED);
    result->set_message(std::move(rejected));
    return absl::OkStatus();
  }
  const int64_t org = entry.account_ids(0);
  const bool suspend = entry.kind() == v1::ENTRY_KIND_SUSPEND;
  const std::string fingerprint = FingerprintOf(entry);
  TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, entry.hold_id()));
  const auto duplicate = [&](int64_t nanos) {
    ++t.counters.entries_duplicate;
    result->set_outcome(v1::POST_OUTCOME_DUPLICATE);
    result->set_posted_nanousd(nanos);
    return absl::OkStatus();
  };
  if (posted.has_value()) {
    // A suspension that arrives after the end it was followed by changes nothing.
    if (suspend || posted->fingerprint == fingerprint) return duplicate(posted->cost);
    if (posted->kind != Movement::kResolve) {
      ++t.counters.entries_conflicting;
      result->set_outcome(v1::POST_OUTCOME_CONFLICT);
      result->set_message("another entry of this hold stands in the journal");
      result->set_posted_nanousd(posted->cost);
      return absl::OkStatus();
    }
    // The truth after a resolution: the resolution is reversed, never changed.
    TH_RETURN_IF_ERROR(Reverse(t, org, entry.hold_id(), *posted, "the result came after all"));
    TH_ASSIGN_OR_RETURN(const int64_t sequence,
                        WriteTerminal(t, entry, Movement::kCorrect, posted->revision + 2, fingerprint,
                                      "follows a reversed resolution"));
    TH_RETURN_IF_ERROR(Settle(t, sequence, entry, {}, true));
  } else {
    TH_ASSIGN_OR_RETURN(std::vector<SuspenseRow> known, FindSuspense(t, org, entry.hold_id()));
    if (suspend) {
      const bool again = std::any_of(known.begin(), known.end(), [&](const SuspenseRow& row) {
        return row.epoch == entry.epoch() && row.origin == Origin::kSuspended;
      });
      if (again) return duplicate(LargestAmount(entry));
      TH_RETURN_IF_ERROR(Suspend(t, entry, Origin::kSuspended, std::move(known)));
    } else {
      TH_ASSIGN_OR_RETURN(
          const int64_t sequence,
          WriteTerminal(t, entry,
                        entry.kind() == v1::ENTRY_KIND_VOID ? Movement::kVoid : Movement::kSettle, 0,
                        fingerprint, ""));
      TH_RETURN_IF_ERROR(Settle(t, sequence, entry, std::move(known), false));
    }
  }
  ++t.counters.entries_posted;
  result->set_outcome(v1::POST_OUTCOME_POSTED);
  result->set_posted_nanousd(suspend ? LargestAmount(entry) : entry.cost_nanousd());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::PostResult>> SqliteStore::Post(
    std::span<const v1::Entry* const> entries) {
  std::vector<v1::PostResult> results(entries.size());
  TH_RETURN_IF_ERROR(Write([&](Txn& t) -> absl::Status {
    for (size_t i = 0; i < entries.size(); ++i) {
      TH_RETURN_IF_ERROR(PostOne(t, *entries[i], &results[i]));
    }
    return absl::OkStatus();
  }));
  return results;
}

// --- resolution

absl::StatusOr<int64_t> SqliteStore::Resolve(Txn& t, int64_t org_id, const SuspenseRow& row,
                                             std::vector<SuspenseRow> known, NanoUsd cost,
                                             std::string_view reason, std::string_view status) {
  v1::Entry entry = row.entry;
  entry.set_kind(v1::ENTRY_KIND_SETTLE);
  entry.set_cost_nanousd(cost.nanos());
  entry.set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
  entry.set_status(std::string(status));
  entry.clear_price_detail();  // the amount is not the product of rates and usage
  TH_ASSIGN_OR_RETURN(const int64_t sequence,
                      WriteTerminal(t, entry, Movement::kResolve, 0, FingerprintOf(entry), reason));
  TH_RETURN_IF_ERROR(Settle(t, sequence, entry, std::move(known), false));
  return sequence;
}

absl::StatusOr<v1::JournalEntry> SqliteStore::ResolveSuspense(std::string_view raw_hold_id,
                                                              int64_t cost_nanos,
                                                              std::string_view reason) {
  v1::JournalEntry out;
  TH_RETURN_IF_ERROR(Write([&](Txn& t) -> absl::Status {
    int64_t org = 0;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows, t.c.Query("SELECT org_id FROM suspense WHERE org_id IN "
                                                    "(SELECT id FROM accounts WHERE parent_id = 0) "
                                                    "AND hold_id = ?1 ORDER BY state LIMIT 1",
                                                    sql::Blob{raw_hold_id}));
      if (rows.Next()) org = rows.Int(0);
      TH_RETURN_IF_ERROR(rows.status());
    }
    const auto not_found = [] {
      return MakeError(absl::StatusCode::kNotFound, "SUSPENSE_NOT_FOUND",
                       "no such hold in suspense; `suspense list` names them");
    };
    if (org == 0) return not_found();
    int64_t sequence = 0;
    TH_ASSIGN_OR_RETURN(const std::optional<Posted> posted, FindPosted(t, org, raw_hold_id));
    if (posted.has_value()) {
      if (posted->kind != Movement::kResolve || posted->cost != cost_nanos) {
        return MakeError(absl::StatusCode::kFailedPrecondition, "ALREADY_RESOLVED",
                         absl::StrCat("the hold has ended at ", posted->cost, " nano-USD"));
      }
      sequence = posted->sequence;
    } else {
      TH_ASSIGN_OR_RETURN(const std::vector<SuspenseRow> known, FindSuspense(t, org, raw_hold_id));
      const SuspenseRow* newest = nullptr;
      for (const SuspenseRow& row : known) {
        if (row.state != SuspenseState::kClosed && (newest == nullptr || row.epoch > newest->epoch)) {
          newest = &row;
        }
      }
      if (newest == nullptr) return not_found();
      TH_ASSIGN_OR_RETURN(sequence,
                          Resolve(t, org, *newest, known, NanoUsd(cost_nanos), reason, "resolved"));
    }
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query(std::string(kSelectJournal) + " WHERE sequence = ?1", sequence));
    if (rows.Next()) out = ToJournalEntry(rows);
    return rows.status();
  }));
  return out;
}

absl::StatusOr<int64_t> SqliteStore::ResolveOldSuspense(absl::Time before) {
  constexpr int kPerTransaction = 256;
  int64_t total = 0;
  for (int64_t done = kPerTransaction; done == kPerTransaction;) {
    TH_RETURN_IF_ERROR(Write([&](Txn& t) -> absl::Status {
      std::vector<std::pair<int64_t, std::string>> old;
      {
        TH_ASSIGN_OR_RETURN(sql::Rows rows,
                            t.c.Query("SELECT org_id, hold_id FROM suspense WHERE state < 3 AND "
                                      "since <= ?1 ORDER BY since LIMIT ?2",
                                      ToColumn(before), kPerTransaction));
        while (rows.Next()) old.emplace_back(rows.Int(0), rows.Text(1));
        TH_RETURN_IF_ERROR(rows.status());
      }
      done = static_cast<int64_t>(old.size());
      for (const auto& [org, hold_id] : old) {
        TH_ASSIGN_OR_RETURN(const std::vector<SuspenseRow> known, FindSuspense(t, org, hold_id));
        const SuspenseRow* newest = nullptr;
        for (const SuspenseRow& row : known) {
          if (row.state != SuspenseState::kClosed) newest = &row;
        }
        if (newest == nullptr) continue;  // the same hold under another epoch, just resolved
        int64_t hold = LargestAmount(newest->entry);
        if (hold == 0) hold = newest->entry.hold_nanousd();
        TH_RETURN_IF_ERROR(Resolve(t, org, *newest, known, NanoUsd(hold),
                                   "unknown for too long: the full hold", "estimated")
                               .status());
        ++t.counters.suspense_resolved_auto;
        ++total;
      }
      return absl::OkStatus();
    }));
  }
  return total;
}

}  // namespace tollhouse::ledger
