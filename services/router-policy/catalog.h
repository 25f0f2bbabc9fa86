// The router's logic without its wire: validates changes, stores them, keeps the compiled policy.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/policy/policy.h"
#include "services/router-policy/store/store.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tollhouse/router/v1/router_admin.pb.h"

namespace tollhouse::router {

// Thread-safe. A change is stored and then compiled; other replicas may change the store as well.
class Catalog {
 public:
  // Reads the store; fills one that never had prices from the shipped price book.
  static absl::StatusOr<std::unique_ptr<Catalog>> Open(std::unique_ptr<Store> store);

  // The policy in force.
  std::shared_ptr<const policy::Policy> policy() const;
  // The policy with the change log's entries up to `version`, or later ones; read anew if it is not
  // here yet. The store's errors.
  absl::StatusOr<std::shared_ptr<const policy::Policy>> PolicyAt(int64_t version);

  // The changes below: the version of the store after them, or the error of validation
  // (INVALID_ARGUMENT with BAD_PROVIDER, BAD_PRICE) or of the store. `audit` as the store's.

  // Normalizes the provider (base URL, catalog) and upserts it.
  struct ProviderChange {
    v1::Provider provider;
    bool created = false;
    int64_t version = 0;
  };
  absl::StatusOr<ProviderChange> SetProvider(audit::Call* audit, v1::Provider provider);
  // Idempotent.
  absl::StatusOr<int64_t> DeleteProvider(audit::Call* audit, const std::string& name);

  struct PriceChange {
    int32_t added = 0, changed = 0, unchanged = 0;
    std::string price_book_version;
    int64_t version = 0;  // 0: nothing was changed
  };
  // All rows or none. `dry_run` counts only, and names the version of the book as it is.
  absl::StatusOr<PriceChange> ImportPrices(audit::Call* audit,
                                           const std::vector<v1::ModelPrice>& prices, bool dry_run);

  absl::StatusOr<int64_t> SetAlias(audit::Call* audit, const v1::ModelAlias& alias, bool remove);
  absl::StatusOr<int64_t> SetCeiling(audit::Call* audit, const Ceiling& ceiling);

  // Reads of the policy in force.
  std::vector<v1::ListModelsResponse::Model> ListModels(const std::string& provider,
                                                        absl::Time at) const;
  std::vector<v1::ModelPrice> ListPrices(const v1::ListPricesRequest& request,
                                         absl::Time at) const;
  absl::StatusOr<v1::ExplainRouteResponse> ExplainRoute(const v1::ExplainRouteRequest& request,
                                                        absl::Time at) const;

 private:
  explicit Catalog(std::unique_ptr<Store> store) : store_(std::move(store)) {}

  absl::Status Reload() ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);

  const std::unique_ptr<Store> store_;
  absl::Mutex change_mutex_;  // held from storing to compiling
  int64_t version_ ABSL_GUARDED_BY(change_mutex_) = 0;  // of policy_
  mutable absl::Mutex policy_mutex_ ABSL_ACQUIRED_AFTER(change_mutex_);
  std::shared_ptr<const policy::Policy> policy_ ABSL_GUARDED_BY(policy_mutex_);
};

// The provider as it is kept: URL without a slash at its end, catalog filled in. BAD_PROVIDER says
// what is wrong: name [a-z0-9._-]{1,64}; a dialect; a base URL (libs/policy/base_url.h) that is https,
// or http where allow_private is set and the host is not a public address; private literal addresses
// only with allow_private.
absl::StatusOr<v1::Provider> NormalizeProvider(v1::Provider provider);

}  // namespace tollhouse::router
