// What benchmarks settle: requests with eight budgets each.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {

// Ends the program with the error.
[[noreturn]] inline void Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

inline void Require(const absl::Status& status) {
  if (!status.ok()) Fail(status);
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

// Makes org acme with teams, users and `keys` keys, two budgets each, and leases all they have: a
// settlement for each key, without its hold. `store` is new.
std::vector<v1::Entry> MakeBenchEntries(SqlStore& store, int64_t keys);

// The same as a hold of its own that ends now.
v1::Entry NextBenchEntry(v1::Entry entry);

}  // namespace tollhouse::ledger
