// Audits the ledger: recomputes every sum from the journal.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/policy/price_detail.h"
#include "services/ledger/store/chain.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

constexpr int kProblemsMax = 1000;
constexpr int64_t kEntriesPerProgress = 10'000;
constexpr int64_t kNumbersPerWindow = 20'000;
constexpr int64_t kHourMicros = 3'600'000'000;

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

  void AddHead(v1::JournalHead head) { *progress_.add_heads() = std::move(head); }

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

struct Spend {
  int64_t requests = 0, cost = 0, input = 0, output = 0;
  friend bool operator==(const Spend&, const Spend&) = default;
};

// By budget row and epoch.
using Deltas = std::map<std::pair<int64_t, int64_t>, LineDelta>;

// One movement with what its entries come to.
struct Audited {
  int64_t at = 0;
  int64_t entries = 0;
  int64_t kind = 0;
  std::string note, hash, digests;
  bool after_gap = false;  // what came before it is missing
  struct Row {
    crypto::Sha256Digest digest;
    std::string name;
  };
  std::map<int64_t, Row> rows;  // its entries by number
  Deltas deltas;                // the sum of theirs
  std::vector<LineColumns> lines;
};

// How far the chain of an org's journal has been followed.
struct Chain {
  int64_t org_id = 0;
  int64_t last = 0;       // number of the last entry or movement
  int64_t unchained = 0;  // up to it there are no hashes
  std::string head;       // what the org's row says
  std::string previous;   // the last hash that was read
  bool known = true;      // whether `previous` is the hash before what comes next
};

// Of a row as kSelectJournal reads it; the order of columns is that in which FinishEntries writes
// them.
crypto::Sha256Digest DigestOfJournalRow(const sql::Rows& rows) {
  RowImage image;
  for (const int column : {0, 1, 2, 8, 5, 9, 10, 11, 17, 18}) image.Int(rows.Int(column));
  image.Bytes(rows.View(7));
  image.Int(rows.Int(4));
  image.Int(rows.Int(3));
  image.Text(rows.View(12));
  image.Text(rows.View(13));
  if (rows.IsNull(14)) {
    image.Null();
  } else {
    image.Text(rows.View(14));
  }
  image.Text(rows.View(15));
  image.Bytes(rows.View(6));
  image.Bytes(rows.View(16));
  image.Text(rows.View(19));
  return image.TakeDigest();
}

std::string Text(const LineDelta& d) {
  return absl::StrCat("cap ", d.cap.nanos(), ", overrun ", d.overrun.nanos(), ", avail ",
                      d.avail.nanos(), ", leased ", d.leased.nanos(), ", suspense ",
                      d.suspense.nanos(), ", spent ", d.spent.nanos(), ", lost ", d.lost.nanos());
}

}  // namespace

// Goes through the journals of all orgs, window by window, and sums them up.
class SqlStore::Verifier {
 public:
  Verifier(SqlStore* store, sql::Connection& c,
           const google::protobuf::RepeatedPtrField<v1::JournalHead>& expected, Audit& audit)
      : store_(store), c_(c), audit_(audit) {
    for (const v1::JournalHead& head : expected) expected_[{head.org_id(), head.sequence()}] = head;
  }

  absl::Status Run() {
    TH_RETURN_IF_ERROR(audit_.Phase("entries"));
    std::vector<Chain> chains;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c_.Query("SELECT o.org_id, o.last_sequence, o.head, o.unchained, "
                                   "coalesce(a.path, '') FROM orgs o LEFT JOIN accounts a ON "
                                   "a.id = o.org_id ORDER BY o.org_id"));
      while (rows.Next()) {
        Chain& chain = chains.emplace_back();
        chain.org_id = rows.Int(0);
        chain.last = rows.Int(1);
        chain.unchained = rows.Int(3);
        chain.previous = ChainGenesis(chain.org_id, chain.unchained);
        chain.head = rows.View(2).empty() ? chain.previous : rows.Text(2);
        if (rows.View(2).empty()) continue;
        v1::JournalHead head;
        head.set_org_id(chain.org_id);
        head.set_org(rows.Text(4));
        head.set_sequence(chain.last);
        head.set_hash(crypto::Hex(chain.head));
        audit_.AddHead(std::move(head));
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (Chain& chain : chains) {
      const int64_t org = chain.org_id;
      for (int64_t after = 0;;) {
        TH_ASSIGN_OR_RETURN(const int64_t through, NextWindow(c_, org, after, kNumbersPerWindow));
        if (through == 0) {
          if (after != chain.last) {
            audit_.Problem("org ", org, ": the journal ends at ", after, ", not at ", chain.last);
          } else if (chain.known && chain.previous != chain.head) {
            audit_.Problem("org ", org, ": the head of its journal was changed");
          }
          break;
        }
        TH_RETURN_IF_ERROR(VerifyWindow(chain, after, through));
        after = through;
      }
    }
    TH_RETURN_IF_ERROR(audit_.Phase("exactly once"));
    for (const auto& [hold, standing] : corrected_) {
      if (standing != 1) audit_.Problem("hold ", HoldName(hold.second), ": ", standing, " entries that stand");
    }
    TH_ASSIGN_OR_RETURN(sql::Rows count, c_.Query("SELECT count(*) FROM journal"));
    if (count.Next() && count.Int(0) != entries_) {
      audit_.Problem("the journal has ", count.Int(0), " entries, its batches ", entries_);
      TH_RETURN_IF_ERROR(FindStrays());
    }
    TH_RETURN_IF_ERROR(count.status());
    for (const auto& [key, head] : expected_) {
      audit_.Problem("org ", key.first, head.org().empty() ? "" : " (", head.org(),
                     head.org().empty() ? "" : ")", ": its journal was cut or written anew: at ",
                     key.second, " it had the hash ", head.hash());
    }
    TH_RETURN_IF_ERROR(audit_.Phase("conservation"));
    TH_RETURN_IF_ERROR(VerifyRows());
    TH_RETURN_IF_ERROR(audit_.Phase("leases and suspense"));
    TH_RETURN_IF_ERROR(VerifyLost());
    TH_RETURN_IF_ERROR(audit_.Phase("reports"));
    return VerifySpend();
  }

 private:
  static std::string HoldName(std::string_view raw) {
    const absl::StatusOr<Uuid> hold = UuidFromRaw(raw);
    return hold.ok() ? hold->ToString() : "?";
  }

  // Entries that are in no batch, wherever they are.
  absl::Status FindStrays() {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c_.Query("SELECT j.org_id, j.sequence, j.hold_id FROM "
                                                 "journal j WHERE coalesce((SELECT CASE WHEN "
                                                 "m.sequence + m.entries > j.sequence AND m.at = "
                                                 "j.at THEN 1 ELSE 0 END FROM movements m WHERE "
                                                 "m.org_id = j.org_id AND m.sequence <= j.sequence "
                                                 "ORDER BY m.sequence DESC LIMIT 1), 0) = 0 "
                                                 "ORDER BY j.org_id, j.sequence LIMIT 1000"));
    while (rows.Next()) {
      audit_.Problem(EntryName(rows.Int(0), rows.Int(1), rows.View(2)), ": is in no batch");
    }
    return rows.status();
  }

  static std::string EntryName(int64_t org, int64_t sequence, std::string_view hold) {
    return absl::StrCat("entry ", sequence, " of org ", org, " (hold ", HoldName(hold), ")");
  }

  absl::Status VerifyWindow(Chain& chain, int64_t after, int64_t through) {
    const int64_t org = chain.org_id;
    std::map<int64_t, Audited> movements;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c_.Scan("SELECT sequence, at, entries, kind, note, hash, digests FROM "
                                  "movements WHERE org_id = ?1 AND sequence > ?2 AND "
                                  "sequence <= ?3 ORDER BY sequence",
                                  org, after, through));
      int64_t next = after + 1;
      while (rows.Next()) {
        const int64_t sequence = rows.Int(0);
        if (sequence != next) {
          audit_.Problem("org ", org, ": the journal lacks ", sequence - next, " numbers before ",
                         sequence, ": what stood there was removed");
        }
        movements[sequence] = {.at = rows.Int(1),
                               .entries = rows.Int(2),
                               .kind = rows.Int(3),
                               .note = rows.Text(4),
                               .hash = rows.Text(5),
                               .digests = rows.Text(6),
                               .after_gap = sequence != next};
        next = sequence + std::max<int64_t>(rows.Int(2), 1);
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c_.Scan(absl::StrCat(Absl(kSelectJournal),
                               " WHERE org_id = ?1 AND sequence > ?2 AND sequence <= ?3"),
                  org, after, through));
      while (rows.Next()) {
        TH_RETURN_IF_ERROR(audit_.CountEntry());
        TH_ASSIGN_OR_RETURN(const StoredEntry entry, store_->ReadEntry(c_, rows));
        VerifyEntry(entry, DigestOfJournalRow(rows), movements);
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const auto& [sequence, movement] : movements) {
      for (int64_t number = sequence; number < sequence + movement.entries; ++number) {
        if (movement.rows.contains(number)) continue;
        audit_.Problem("entry ", number, " of org ", org, ": was removed from batch ", sequence);
      }
    }
    TH_RETURN_IF_ERROR(VerifyLines(org, after, through, movements));
    VerifyChain(chain, movements);
    return absl::OkStatus();
  }

  // Each movement is judged by what stands before it, so that one bad row is one problem.
  void VerifyChain(Chain& chain, std::map<int64_t, Audited>& movements) {
    for (auto& [sequence, movement] : movements) {
      const int64_t end = sequence + std::max<int64_t>(movement.entries, 1) - 1;
      if (end <= chain.unchained) continue;
      const std::string name = absl::StrCat("movement ", sequence, " of org ", chain.org_id);
      if (movement.hash.empty()) {
        audit_.Problem(name, ": has no hash, but comes after what has");
        chain.known = false;
        continue;
      }
      if (movement.after_gap) chain.known = false;
      VerifyMovement(chain, sequence, name, movement);
      chain.previous = movement.hash;
      chain.known = true;
      const auto expected = expected_.find({chain.org_id, end});
      if (expected != expected_.end() && expected->second.hash() == crypto::Hex(movement.hash)) {
        expected_.erase(expected);
      }
    }
  }

  void VerifyMovement(const Chain& chain, int64_t sequence, const std::string& name,
                      Audited& movement) {
    bool named = false;  // what is wrong has been said
    std::vector<crypto::Sha256Digest> digests;
    const bool digested = static_cast<int64_t>(movement.digests.size()) ==
                          movement.entries * static_cast<int64_t>(kShortDigest);
    for (const auto& [number, row] : movement.rows) {
      digests.push_back(row.digest);
      const size_t at = static_cast<size_t>(number - sequence) * kShortDigest;
      if (!digested || ShortDigests({row.digest}) == movement.digests.substr(at, kShortDigest))
        continue;
      audit_.Problem(row.name, ": was changed or put there");
      named = true;
    }
    named |= static_cast<int64_t>(movement.rows.size()) != movement.entries;
    if (named || !chain.known) return;
    std::sort(movement.lines.begin(), movement.lines.end());
    const MovementColumns columns{chain.org_id, sequence,         movement.kind,
                                  movement.at,  movement.entries, movement.note};
    if (HashOfMovement(chain.previous, columns, movement.lines, digests) != movement.hash) {
      audit_.Problem(name, ": it, its lines or its entries were changed or put there");
    } else if (ShortDigests(digests) != movement.digests) {
      audit_.Problem(name, ": the digests of its entries were changed");
    }
  }

  void VerifyEntry(const StoredEntry& stored, const crypto::Sha256Digest& digest,
                   std::map<int64_t, Audited>& movements) {
    ++entries_;
    const v1::Entry& entry = stored.entry;
    const std::string name = EntryName(stored.org_id, stored.sequence, entry.hold_id());
    auto batch = movements.upper_bound(stored.sequence);
    if (batch == movements.begin() || stored.sequence >= std::prev(batch)->first + std::prev(batch)->second.entries ||
        ToColumn(stored.at) != std::prev(batch)->second.at) {
      audit_.Problem(name, ": is in no batch");
    } else if (Audited& audited = (--batch)->second;
               !audited.rows.try_emplace(stored.sequence, Audited::Row{digest, name}).second) {
      audit_.Problem(name, ": has another's number");
    } else {
      for (const EntryLine& line : stored.lines) {
        audited.deltas[{line.row_id, line.epoch}] += line.delta;
      }
    }
    if (stored.revision > 0) {
      int64_t& standing = corrected_.try_emplace({stored.org_id, entry.hold_id()}, 1).first->second;
      standing += stored.kind == Movement::kReverse ? -1 : 1;
    }
    if (stored.kind != Movement::kVoid) {
      Spend& spend = spends_[{stored.org_id, stored.started_at - stored.started_at % kHourMicros, stored.key_id}];
      spend.requests += stored.kind == Movement::kReverse ? -1 : 1;
      spend.cost += stored.cost;
      spend.input += stored.input_tokens;
      spend.output += stored.output_tokens;
    }
    if (!stored.unreadable.empty()) {
      audit_.Problem(name, ": ", stored.unreadable);
      return;
    }
    if (FingerprintOf(entry) != stored.fingerprint) audit_.Problem(name, ": its content was changed");
    // I6: once at each level, in every budget that the hold named.
    __int128 spent = 0;
    for (const EntryLine& line : stored.lines) spent += line.delta.spent.nanos();
    if (spent != static_cast<__int128>(stored.cost) * entry.budgets_size()) {
      audit_.Problem(name, ": its lines spend ", static_cast<int64_t>(spent), " in ", entry.budgets_size(),
                     " budgets at ", stored.cost);
    }
    if (stored.kind != Movement::kReverse) VerifyPrice(entry, name, audit_);
  }

  absl::Status VerifyLines(int64_t org, int64_t after, int64_t last,
                           std::map<int64_t, Audited>& movements) {
    std::map<int64_t, Deltas> of_batches;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          c_.Scan("SELECT sequence, row_id, epoch, d_cap, d_overrun, d_avail, d_leased, d_suspense, "
                  "d_spent, d_lost FROM lines WHERE org_id = ?1 AND sequence > ?2 AND sequence <= ?3",
                  org, after, last));
      while (rows.Next()) {
        const int64_t sequence = rows.Int(0);
        const LineDelta d = {rows.Money(3), rows.Money(4), rows.Money(5), rows.Money(6),
                             rows.Money(7), rows.Money(8), rows.Money(9)};
        const std::string name = absl::StrCat("line of movement ", sequence, " of org ", org, ", row ",
                                              rows.Int(1));
        if (d.avail + d.leased + d.suspense + d.spent != d.cap + d.overrun) {
          audit_.Problem(name, ": debits are not credits");
        }
        const auto movement = movements.find(sequence);
        if (movement == movements.end()) {
          audit_.Problem(name, ": no such movement");
        } else {
          movement->second.lines.push_back({rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4),
                                            rows.Int(5), rows.Int(6), rows.Int(7), rows.Int(8),
                                            rows.Int(9)});
          if (movement->second.entries > 0) of_batches[sequence][{rows.Int(1), rows.Int(2)}] = d;
        }
        rows_[rows.Int(1)] += d;
        epochs_[{rows.Int(1), rows.Int(2)}] += d;
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    for (const auto& [sequence, movement] : movements) {
      Deltas entries = movement.deltas;
      std::erase_if(entries, [](const auto& item) { return item.second == LineDelta(); });
      Deltas& booked = of_batches[sequence];
      for (const auto& [key, d] : entries) {
        if (booked[key] != d) {
          audit_.Problem("batch ", sequence, " of org ", org, ", row ", key.first, ": its entries say ",
                         Text(d), "; its line says ", Text(booked[key]));
        }
        booked.erase(key);
      }
      for (const auto& [key, d] : booked) {
        audit_.Problem("batch ", sequence, " of org ", org, ", row ", key.first,
                       ": its entries say nothing; its line says ", Text(d));
      }
    }
    return absl::OkStatus();
  }

  // I1, and each column of each row against its lines. I2 with it: all of a row's lease is that of
  // the open epoch.
  absl::Status VerifyRows() {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c_.Scan("SELECT r.id, a.path, b.window_name, r.period, r.cap, r.overrun, r.avail, r.leased, "
                "r.suspense, r.spent, (SELECT coalesce(sum(x.lost), 0) FROM lost_leases x WHERE "
                "x.org_id = r.org_id AND x.row_id = r.id), o.epoch, r.org_id FROM budget_rows r "
                "JOIN budgets b ON b.id = r.budget_id JOIN accounts a ON a.id = b.account_id "
                "JOIN orgs o ON o.org_id = r.org_id ORDER BY r.id"));
    std::map<int64_t, NanoUsd> own;
    {
      TH_ASSIGN_OR_RETURN(
          sql::Rows amounts,
          c_.Query("SELECT a.row_id, sum(a.amount) FROM suspense_amounts a JOIN suspense s "
                   "USING (org_id, hold_id, epoch) WHERE s.state = 1 GROUP BY a.row_id"));
      while (amounts.Next()) own[amounts.Int(0)] = amounts.Money(1);
      TH_RETURN_IF_ERROR(amounts.status());
    }
    while (rows.Next()) {
      const int64_t id = rows.Int(0);
      const LineDelta said = rows_[id];
      const LineDelta is = {.cap = rows.Money(4),
                            .overrun = rows.Money(5),
                            .avail = rows.Money(6),
                            .leased = rows.Money(7),
                            .suspense = rows.Money(8),
                            .spent = rows.Money(9),
                            .lost = rows.Money(10)};
      const std::string name =
          absl::StrCat("budget row ", rows.Text(1), " ", rows.Text(2), " ", rows.Text(3));
      if (is.avail + is.leased + is.suspense + is.spent != is.cap + is.overrun) {
        audit_.Problem(name, ": avail + leased + suspense + spent is not cap + overrun");
      } else if (said != is) {
        audit_.Problem(name, ": it has ", Text(is), "; the journal says ", Text(said));
      }
      const NanoUsd open = epochs_[{id, rows.Int(11)}].leased;
      if (is.leased != open) {
        audit_.Problem(name, ": leased ", is.leased.nanos(), ", its open epoch was leased ", open.nanos());
      }
      if (is.suspense != is.lost + own[id]) {
        audit_.Problem(name, ": suspense ", is.suspense.nanos(), ", its parts ",
                       (is.lost + own[id]).nanos());
      }
      rows_.erase(id);
    }
    TH_RETURN_IF_ERROR(rows.status());
    for (const auto& [id, said] : rows_) {
      if (said != LineDelta()) audit_.Problem("budget row ", id, ": is gone; the journal says ", Text(said));
    }
    return absl::OkStatus();
  }

  absl::Status VerifyLost() {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c_.Scan("SELECT row_id, epoch, lost FROM lost_leases"));
    while (rows.Next()) {
      NanoUsd& said = epochs_[{rows.Int(0), rows.Int(1)}].lost;
      if (said != rows.Money(2)) {
        audit_.Problem("row ", rows.Int(0), ", epoch ", rows.Int(1), ": lost ", rows.Int(2),
                       ", the journal says ", said.nanos());
      }
      said = NanoUsd();
    }
    TH_RETURN_IF_ERROR(rows.status());
    for (const auto& [key, delta] : epochs_) {
      if (delta.lost != NanoUsd()) {
        audit_.Problem("row ", key.first, ", epoch ", key.second, ": lost 0, the journal says ",
                       delta.lost.nanos());
      }
    }
    return absl::OkStatus();
  }

  absl::Status VerifySpend() {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c_.Scan("SELECT org_id, hour, key_id, sum(requests), sum(cost), sum(input_tokens), "
                "sum(output_tokens) FROM spend_hours GROUP BY org_id, hour, key_id"));
    while (rows.Next()) {
      const auto key = std::tuple(rows.Int(0), rows.Int(1), rows.Int(2));
      const Spend is = {rows.Int(3), rows.Int(4), rows.Int(5), rows.Int(6)};
      const Spend said = spends_[key];
      spends_.erase(key);
      if (is != said) {
        audit_.Problem("spend of key ", rows.Int(2), " in the hour of ",
                       absl::FormatTime(FromColumn(rows.Int(1)), absl::UTCTimeZone()), ": ", is.cost,
                       " in ", is.requests, " requests, the journal says ", said.cost, " in ",
                       said.requests);
      }
    }
    TH_RETURN_IF_ERROR(rows.status());
    for (const auto& [key, said] : spends_) {
      if (said != Spend()) {
        audit_.Problem("spend of key ", std::get<2>(key), ": nothing, the journal says ", said.cost);
      }
    }
    return absl::OkStatus();
  }

  SqlStore* const store_;
  sql::Connection& c_;
  Audit& audit_;
  std::map<std::pair<int64_t, int64_t>, v1::JournalHead>
      expected_;  // by org and number, not found yet
  int64_t entries_ = 0;
  std::map<int64_t, LineDelta> rows_;
  Deltas epochs_;
  std::map<std::pair<int64_t, std::string>, int64_t> corrected_;          // entries that stand, by hold
  std::map<std::tuple<int64_t, int64_t, int64_t>, Spend> spends_;         // by org, hour, key
};

absl::Status SqlStore::Verify(
    const google::protobuf::RepeatedPtrField<v1::JournalHead>& expected,
    const std::function<bool(const v1::VerifyLedgerProgress&)>& progress) {
  {
    absl::MutexLock lock(&cache_mutex_);  // an audit believes the tables only
    price_details_.clear();
    row_keys_.clear();
  }
  Audit audit(progress);
  TH_RETURN_IF_ERROR(database_->Read(
      [&](sql::Connection& c) { return Verifier(this, c, expected, audit).Run(); }));
  return audit.Done();
}

}  // namespace tollhouse::ledger
