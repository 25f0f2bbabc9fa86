// What the router keeps: providers, prices, aliases, the ceiling of unpriced models.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tollhouse/router/v1/router.pb.h"

namespace tollhouse::audit {
class Call;
}

namespace tollhouse::router {

struct Ceiling {
  int64_t input_nanousd_per_mtok = 0;
  int64_t output_nanousd_per_mtok = 0;
};

// Everything, consistent.
struct StoredPolicy {
  int64_t version = 0;  // of the change log: every change up to it is in here
  std::vector<v1::Provider> providers;  // by priority, highest first, then by name
  std::vector<v1::ModelPrice> prices;   // by vendor, model, effective_from
  std::vector<v1::ModelAlias> aliases;  // by alias, vendor
  Ceiling ceiling;
};

// Durable when a call returns; each call is one transaction. Callers have validated what they
// store. A call that changes something appends to the change log (an empty payload: the policy is
// to be loaded anew); `version` gets the version of that, or the newest there is if nothing was
// changed. Errors: those of libs/sql/database.h. `audit` is the call of whoever asked for a change:
// it is told what was there before and after, and appended to the audit log in the same
// transaction; null: nobody asked. Thread-safe.
class Store {
 public:
  virtual ~Store() = default;

  virtual absl::StatusOr<StoredPolicy> Load() = 0;

  // Puts the shipped prices into a store that never got any; false (and no change) in any other.
  virtual absl::StatusOr<bool> LoadFirstPrices(const std::vector<v1::ModelPrice>& prices,
                                               const std::vector<v1::ModelAlias>& aliases) = 0;

  // Upsert by name; whether it was new.
  virtual absl::StatusOr<bool> PutProvider(audit::Call* audit, const v1::Provider& provider,
                                           int64_t* version) = 0;
  // Whether it was there.
  virtual absl::StatusOr<bool> DeleteProvider(audit::Call* audit, std::string_view name,
                                              int64_t* version) = 0;

  // Upserts by (vendor, model, effective_from), all or none.
  virtual absl::Status PutPrices(audit::Call* audit, const std::vector<v1::ModelPrice>& prices,
                                 int64_t* version) = 0;

  // Upsert by (alias, vendor).
  virtual absl::Status PutAlias(audit::Call* audit, const v1::ModelAlias& alias,
                                int64_t* version) = 0;
  // Those of every vendor if `vendor` is "". Idempotent.
  virtual absl::Status DeleteAlias(audit::Call* audit, std::string_view alias,
                                   std::string_view vendor, int64_t* version) = 0;

  virtual absl::Status PutCeiling(audit::Call* audit, const Ceiling& ceiling, int64_t* version) = 0;
};

}  // namespace tollhouse::router
