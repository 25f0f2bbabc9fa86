// The compiled policy: which provider serves a model name, under which name, at which price.
// The edge and the router's own Explain use the same code.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/money.h"
#include "libs/policy/price.h"
#include "tollhouse/common/v1/common.pb.h"
#include "tollhouse/router/v1/router.pb.h"

namespace tollhouse::policy {

// Where a request goes. Points into the Policy that made it.
struct Route {
  const router::v1::Provider* provider = nullptr;
  std::string upstream_model;  // the provider's own name for it
  std::string catalog_model;   // the catalogue's name without vendor prefix; upstream_model if unpriced
  // nullptr: unpriced, to be refused. Where the policy has a ceiling, a price made of it.
  const router::v1::ModelPrice* price = nullptr;
  bool at_ceiling = false;
  int64_t contract_ppm = 1'000'000;  // the org's factor on this vendor's token rates
  std::string org;                   // whose own prices were looked at; "" for none
};

// One entry of GET /v1/models.
struct ListedModel {
  std::string name;  // as a caller writes it
  const router::v1::Provider* provider = nullptr;
  const router::v1::ModelPrice* price = nullptr;  // nullptr: none in force
};

// Immutable, thread-safe. Hold the shared_ptr as long as a Route of it is in use: a request is priced
// by the policy of its start.
class Policy {
 public:
  // Never fails: the router validated the snapshot; what it cannot use is ignored.
  static std::shared_ptr<const Policy> Compile(const router::v1::PolicySnapshot& snapshot);

  // CONTRACT "Models": "provider/model" goes to that provider; else the whole is a catalogue name,
  // an alias or a name that a provider lists, and goes to the first provider by priority that serves
  // it. Only providers of `dialect`. NotFound (MODEL_NOT_FOUND) says what would have been found.
  // `org`: the caller's, for prices of its own.
  absl::StatusOr<Route> Resolve(std::string_view model, common::v1::Dialect dialect, absl::Time at,
                                std::string_view org = {}) const;
  // Every provider that serves a bare name, by priority (fallbacks); empty if none.
  std::vector<Route> RoutesOfBareName(std::string_view model, common::v1::Dialect dialect,
                                      absl::Time at, std::string_view org = {}) const;

  // The price of a vendor's model in force at `at` (request START): by exact catalogue name (with or
  // without vendor prefix), then alias, then the name without date or "-latest" suffix, without
  // Bedrock's region prefix, or for fine-tuned models ("ft:BASE:org::id") of ft:BASE; else, for a
  // name without a date, of its newest dated version. nullptr: none, or it prices no tokens.
  const router::v1::ModelPrice* FindPrice(std::string_view vendor, std::string_view model,
                                          absl::Time at) const;
  // The same with the org's own prices first: vendor "ORG:VENDOR".
  const router::v1::ModelPrice* FindPriceOf(std::string_view org, std::string_view vendor,
                                            std::string_view model, absl::Time at) const;

  // BoundCost and CostOf with what the route knows: the provider's region and its meaning of
  // "auto"; lines that name another model than the route's (a fallback, an advisor) cost that
  // model's price, or the route's if it has none.
  absl::StatusOr<NanoUsd> BoundOf(const Route& route, TokenBound bound) const;
  absl::StatusOr<Cost> CostOf(const Route& route, UsageLines usage, absl::Time at) const;

  // What a caller of this dialect can ask for, by name: catalogue models of the configured providers,
  // listed names, aliases; dated duplicates included.
  std::vector<ListedModel> Models(common::v1::Dialect dialect, absl::Time at) const;

  // nullptr if not configured.
  const router::v1::Provider* FindProvider(std::string_view name) const;
  // By priority.
  const std::vector<const router::v1::Provider*>& providers() const { return providers_; }
  const router::v1::PolicySnapshot& snapshot() const { return snapshot_; }
  const std::string& price_book_version() const { return snapshot_.price_book_version(); }

 private:
  explicit Policy(const router::v1::PolicySnapshot& snapshot);

  // Newest first.
  using Versions = std::vector<const router::v1::ModelPrice*>;

  const router::v1::ModelPrice* Exact(std::string_view vendor, std::string_view model,
                                      absl::Time at) const;
  Route MakeRoute(const router::v1::Provider& provider, std::string_view upstream_model,
                  absl::Time at, std::string_view org) const;
  bool Serves(const router::v1::Provider& provider, std::string_view model, absl::Time at,
              std::string_view org) const;
  // The price in force under that very key, priced or not.
  const router::v1::ModelPrice* InForce(std::string_view vendor, std::string_view model,
                                        absl::Time at) const;

  router::v1::PolicySnapshot snapshot_;
  std::vector<const router::v1::Provider*> providers_;
  absl::flat_hash_map<std::string, const router::v1::Provider*> provider_by_name_;
  absl::flat_hash_map<std::string, Versions> prices_;         // key: vendor '\n' name
  absl::flat_hash_map<std::string, std::string> newest_dated_;  // vendor '\n' undated -> dated name
  absl::flat_hash_map<std::string, const router::v1::ModelAlias*> price_aliases_;  // vendor '\n' name
  absl::flat_hash_map<std::string, std::vector<const router::v1::ModelAlias*>> name_aliases_;
  router::v1::ModelPrice ceiling_;
  bool has_ceiling_ = false;
};

// The vendor whose catalogue prices a provider's models: `catalog`, or the dialect's own.
std::string CatalogOf(const router::v1::Provider& provider);

// A catalogue name as the vendor's API takes it: without the prefix that some catalogues put in front
// ("xai/grok-3" -> "grok-3").
std::string_view OwnName(const router::v1::ModelPrice& price);

}  // namespace tollhouse::policy
