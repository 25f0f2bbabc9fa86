// Journal entries as bytes. What the journal's columns and the budget rows say is left out, a usual
// entry's lines take a few bytes per budget; reading puts everything together again.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/money.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::ledger {

// What a movement does to one budget row; `lost` is the part of `suspense` that belongs to the epoch.
struct LineDelta {
  NanoUsd cap, overrun, avail, leased, suspense, spent, lost;

  friend bool operator==(const LineDelta&, const LineDelta&) = default;
  LineDelta& operator+=(const LineDelta& other);
};

// One line of a journal entry.
struct EntryLine {
  int64_t row_id = 0;
  int64_t epoch = 0;
  LineDelta delta;
};

// `rows` are those of the entry's budgets, in their order; `rebuilt_ids` is what reading will make of
// the account columns; `price_digest` stands for the entry's price_detail.
std::string PackEntry(const v1::Entry& entry, std::span<const int64_t> rows,
                      std::span<const EntryLine> lines, std::span<const int64_t> rebuilt_ids,
                      std::string_view price_digest);

// What a row's columns say.
struct StoredColumns {
  std::string hold_id, request_id, provider, model, tags;
  std::vector<int64_t> account_ids;
  int64_t cost_nanos = 0;  // of the entry, not negative
  int64_t started_at_micros = 0;
};

// The other direction. `row_key` gives (budget id, period) of a budget row, `price_detail` the text of
// a digest; their errors are returned. DATA_LOSS if the bytes are not what PackEntry wrote.
absl::Status UnpackEntry(
    std::string_view bytes, const StoredColumns& columns,
    const std::function<absl::StatusOr<std::pair<int64_t, std::string>>(int64_t)>& row_key,
    const std::function<absl::StatusOr<std::string>(const std::string&)>& price_detail,
    v1::Entry* entry, std::vector<EntryLine>* lines);

}  // namespace tollhouse::ledger
