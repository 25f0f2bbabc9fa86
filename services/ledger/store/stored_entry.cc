#include "services/ledger/store/stored_entry.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>

#include "absl/status/status.h"
#include "libs/base/status_macros.h"
#include "services/ledger/core/names.h"
#include "tollhouse/ledger/v1/storage.pb.h"

namespace tollhouse::ledger {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr uint64_t Bit(int field) { return uint64_t{1} << field; }

// The bytes of a message without the top-level fields in `fields` (a set of Bits below 64).
std::string WithoutFields(std::string_view bytes, uint64_t fields) {
  std::string out;
  out.reserve(bytes.size());
  CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  for (int start = 0;;) {
    const uint32_t tag = in.ReadTag();
    if (tag == 0 || !WireFormatLite::SkipField(&in, tag)) break;
    const int end = in.CurrentPosition();
    const int field = WireFormatLite::GetTagFieldNumber(tag);
    if (field >= 64 || (fields & Bit(field)) == 0) out += bytes.substr(start, end - start);
    start = end;
  }
  return out;
}

// PostgreSQL's text columns cannot hold it.
bool HasNul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

LineDelta PlainDelta(NanoUsd amount, NanoUsd cost) {
  LineDelta delta;
  delta.leased = NanoUsd() - std::min(amount, cost);
  delta.spent = cost;
  return delta;
}

void SetDelta(const LineDelta& delta, v1::StoredLine* line) {
  line->set_moves(true);
  line->set_d_cap(delta.cap.nanos());
  line->set_d_overrun(delta.overrun.nanos());
  line->set_d_avail(delta.avail.nanos());
  line->set_d_leased(delta.leased.nanos());
  line->set_d_suspense(delta.suspense.nanos());
  line->set_d_spent(delta.spent.nanos());
  line->set_d_lost(delta.lost.nanos());
}

LineDelta DeltaOf(const v1::StoredLine& line) {
  return {NanoUsd(line.d_cap()),    NanoUsd(line.d_overrun()),  NanoUsd(line.d_avail()),
          NanoUsd(line.d_leased()), NanoUsd(line.d_suspense()), NanoUsd(line.d_spent()),
          NanoUsd(line.d_lost())};
}

}  // namespace

LineDelta& LineDelta::operator+=(const LineDelta& other) {
  cap += other.cap;
  overrun += other.overrun;
  avail += other.avail;
  leased += other.leased;
  suspense += other.suspense;
  spent += other.spent;
  lost += other.lost;
  return *this;
}

std::string PackEntry(const v1::Entry& entry, std::span<const int64_t> rows,
                      std::span<const EntryLine> lines, std::span<const int64_t> rebuilt_ids,
                      std::string_view price_digest) {
  uint64_t drop = Bit(v1::Entry::kHoldIdFieldNumber) | Bit(v1::Entry::kBudgetsFieldNumber) |
                  Bit(v1::Entry::kCostNanousdFieldNumber) | Bit(v1::Entry::kPriceDetailFieldNumber) |
                  Bit(v1::Entry::kStartedAtFieldNumber);
  if (!HasNul(entry.request_id())) drop |= Bit(v1::Entry::kRequestIdFieldNumber);
  if (!HasNul(entry.provider())) drop |= Bit(v1::Entry::kProviderFieldNumber);
  if (!HasNul(entry.model())) drop |= Bit(v1::Entry::kModelFieldNumber);
  drop |= Bit(v1::Entry::kTagsFieldNumber);  // EncodeTags escapes controls
  if (std::equal(rebuilt_ids.begin(), rebuilt_ids.end(), entry.account_ids().begin(),
                 entry.account_ids().end())) {
    drop |= Bit(v1::Entry::kAccountIdsFieldNumber);
  }
  std::string bytes = WithoutFields(entry.SerializeAsString(), drop);

  v1::StoredExtra extra;
  extra.set_price_detail(price_digest.data(), price_digest.size());
  size_t next = 0;
  for (int i = 0; i < entry.budgets_size(); ++i) {
    const common::v1::HeldBudget& budget = entry.budgets(i);
    extra.add_rows(rows[i]);
    EntryLine line{.row_id = rows[i], .epoch = entry.epoch()};
    if (next < lines.size() && lines[next].row_id == rows[i]) line = lines[next++];
    const bool plain = line.epoch == entry.epoch() &&
                       line.delta == PlainDelta(NanoUsd(budget.amount_nanousd()),
                                                NanoUsd(entry.cost_nanousd()));
    if (plain && !budget.observe() && budget.amount_nanousd() == entry.hold_nanousd()) continue;
    v1::StoredLine& stored = *extra.add_lines();
    stored.set_budget(i + 1);
    stored.set_observe(budget.observe());
    stored.set_less_than_hold(entry.hold_nanousd() - budget.amount_nanousd());
    stored.set_epoch(line.epoch);
    if (!plain) SetDelta(line.delta, &stored);
  }
  for (; next < lines.size(); ++next) {
    v1::StoredLine& stored = *extra.add_lines();
    stored.set_row(lines[next].row_id);
    stored.set_epoch(lines[next].epoch);
    SetDelta(lines[next].delta, &stored);
  }
  extra.AppendToString(&bytes);
  return bytes;
}

absl::Status UnpackEntry(
    std::string_view bytes, const StoredColumns& columns,
    const std::function<absl::StatusOr<std::pair<int64_t, std::string>>(int64_t)>& row_key,
    const std::function<absl::StatusOr<std::string>(const std::string&)>& price_detail,
    v1::Entry* entry, std::vector<EntryLine>* lines) {
  v1::StoredExtra extra;
  lines->clear();
  if (!entry->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      !extra.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("unreadable");
  }
  entry->DiscardUnknownFields();
  entry->set_hold_id(columns.hold_id);
  if (entry->request_id().empty()) entry->set_request_id(columns.request_id);
  if (entry->provider().empty()) entry->set_provider(columns.provider);
  if (entry->model().empty()) entry->set_model(columns.model);
  if (entry->account_ids().empty()) {
    entry->mutable_account_ids()->Assign(columns.account_ids.begin(), columns.account_ids.end());
  }
  for (auto& [key, value] : DecodeTags(columns.tags)) (*entry->mutable_tags())[key] = value;
  entry->set_cost_nanousd(columns.cost_nanos);
  entry->mutable_started_at()->set_seconds(columns.started_at_micros / 1'000'000);
  entry->mutable_started_at()->set_nanos(
      static_cast<int32_t>(columns.started_at_micros % 1'000'000 * 1000));
  if (!extra.price_detail().empty()) {
    TH_ASSIGN_OR_RETURN(*entry->mutable_price_detail(), price_detail(extra.price_detail()));
  }

  const NanoUsd cost(columns.cost_nanos);
  auto stored = extra.lines().begin();
  for (int i = 0; i < extra.rows_size(); ++i) {
    const bool special = stored != extra.lines().end() && stored->budget() == i + 1;
    common::v1::HeldBudget& budget = *entry->add_budgets();
    TH_ASSIGN_OR_RETURN(const auto key, row_key(extra.rows(i)));
    budget.set_budget_id(key.first);
    budget.set_period(key.second);
    budget.set_observe(special && stored->observe());
    budget.set_amount_nanousd(entry->hold_nanousd() - (special ? stored->less_than_hold() : 0));
    EntryLine line{.row_id = extra.rows(i), .epoch = special ? stored->epoch() : entry->epoch()};
    line.delta = special && stored->moves() ? DeltaOf(*stored)
                                            : PlainDelta(NanoUsd(budget.amount_nanousd()), cost);
    if (line.delta != LineDelta()) lines->push_back(line);
    if (special) ++stored;
  }
  for (; stored != extra.lines().end(); ++stored) {
    if (stored->budget() != 0) return absl::DataLossError("unreadable");
    lines->push_back({.row_id = stored->row(), .epoch = stored->epoch(), .delta = DeltaOf(*stored)});
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::ledger
