#include "services/router-policy/catalog.h"

#include <arpa/inet.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/policy/base_url.h"
#include "libs/policy/price_book.h"
#include "services/router-policy/prices/shipped_price_book.h"

namespace tollhouse::router {
namespace {

constexpr size_t kMaxRowsPerImport = 100'000;

absl::Status BadProvider(std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PROVIDER", why);
}

absl::Status BadPrice(std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PRICE", why);
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") ==
             std::string_view::npos;
}

// A model name or pattern as it can stand in a line: no spaces or control characters.
bool IsModelName(std::string_view name) {
  return !name.empty() && name.size() <= 256 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
}

bool IsPublicAddress(const std::string& host) {
  in_addr v4;
  const bool literal = host.front() == '[' || inet_pton(AF_INET, host.c_str(), &v4) == 1;
  return literal && !policy::IsPrivateHost(host);
}

// Hash of everything that prices follow from.
std::string PriceBookVersion(const StoredPolicy& stored) {
  std::string text;
  for (const v1::ModelPrice& price : stored.prices) {
    absl::StrAppend(&text, policy::FormatPrice(price), "\n");
  }
  for (const v1::ModelAlias& alias : stored.aliases) {
    if (alias.keep_name()) absl::StrAppend(&text, policy::FormatAlias(alias), "\n");
  }
  absl::StrAppend(&text, "ceiling ", stored.ceiling.input_nanousd_per_mtok, " ",
                  stored.ceiling.output_nanousd_per_mtok, "\n");
  return absl::StrCat("pb-", crypto::Hex(crypto::AsBytes(crypto::Sha256(text))).substr(0, 16));
}

v1::PolicySnapshot ToSnapshot(StoredPolicy stored) {
  v1::PolicySnapshot snapshot;
  snapshot.set_price_book_version(PriceBookVersion(stored));
  for (v1::Provider& provider : stored.providers) *snapshot.add_providers() = std::move(provider);
  for (v1::ModelPrice& price : stored.prices) *snapshot.add_prices() = std::move(price);
  for (v1::ModelAlias& alias : stored.aliases) *snapshot.add_aliases() = std::move(alias);
  snapshot.set_ceiling_input_nanousd_per_mtok(stored.ceiling.input_nanousd_per_mtok);
  snapshot.set_ceiling_output_nanousd_per_mtok(stored.ceiling.output_nanousd_per_mtok);
  return snapshot;
}

using PriceKey = std::tuple<std::string, std::string, int64_t>;

PriceKey KeyOf(const v1::ModelPrice& price) {
  return {price.vendor(), price.model(),
          price.has_effective_from() ? price.effective_from().seconds()
                                     : std::numeric_limits<int64_t>::min()};
}

bool MatchesModel(std::string_view pattern, std::string_view model) {
  if (pattern.empty()) return true;
  if (pattern.back() != '*') return pattern == model;
  return absl::StartsWith(Absl(model), Absl(pattern.substr(0, pattern.size() - 1)));
}

}  // namespace

absl::StatusOr<v1::Provider> NormalizeProvider(v1::Provider provider) {
  if (!IsName(provider.name())) {
    return BadProvider("a provider's name is 1 to 64 of a-z, 0-9, '.', '_' and '-'");
  }
  if (provider.dialect() == common::v1::DIALECT_UNSPECIFIED ||
      !common::v1::Dialect_IsValid(provider.dialect())) {
    return BadProvider("the dialect is openai, anthropic or gemini");
  }
  const auto url = policy::ParseBaseUrl(provider.base_url());
  if (!url.ok()) return BadProvider(Std(url.status().message()));
  if (policy::IsPrivateHost(url->host) && !provider.allow_private()) {
    return BadProvider("the base URL is a private address; allow_private permits that");
  }
  if (url->scheme == "http" && (!provider.allow_private() || IsPublicAddress(url->host))) {
    return BadProvider("the base URL is not https; plain http is for private addresses, "
                       "with allow_private");
  }
  provider.set_base_url(url->ToString());
  if (!provider.catalog().empty() && !IsName(provider.catalog())) {
    return BadProvider("a catalog is 1 to 64 of a-z, 0-9, '.', '_' and '-'");
  }
  provider.set_catalog(policy::CatalogOf(provider));
  if (provider.models_size() > 10'000 ||
      !std::all_of(provider.models().begin(), provider.models().end(), IsModelName)) {
    return BadProvider("a model name is 1 to 256 characters without spaces");
  }
  if (!provider.ca_file().empty() &&
      (provider.ca_file().front() != '/' || provider.ca_file().size() > 4096)) {
    return BadProvider("ca_file is an absolute path");
  }
  if (!provider.quirks().auto_service_tier().empty() &&
      !IsName(provider.quirks().auto_service_tier())) {
    return BadProvider("auto_service_tier is a word like default");
  }
  return provider;
}

absl::StatusOr<std::unique_ptr<Catalog>> Catalog::Open(std::unique_ptr<Store> store) {
  std::unique_ptr<Catalog> catalog(new Catalog(std::move(store)));
  TH_ASSIGN_OR_RETURN(const policy::PriceBook shipped, policy::ParsePriceBook(kShippedPriceBook));
  TH_RETURN_IF_ERROR(catalog->store_->LoadFirstPrices(shipped.prices, shipped.aliases).status());
  absl::MutexLock lock(&catalog->change_mutex_);
  TH_RETURN_IF_ERROR(catalog->Reload());
  return catalog;
}

std::shared_ptr<const policy::Policy> Catalog::policy() const {
  absl::MutexLock lock(&policy_mutex_);
  return policy_;
}

absl::StatusOr<std::shared_ptr<const policy::Policy>> Catalog::PolicyAt(int64_t version) {
  absl::MutexLock lock(&change_mutex_);
  if (version_ < version) TH_RETURN_IF_ERROR(Reload());
  return policy();
}

absl::Status Catalog::Reload() {
  TH_ASSIGN_OR_RETURN(StoredPolicy stored, store_->Load());
  version_ = stored.version;
  auto compiled = policy::Policy::Compile(ToSnapshot(std::move(stored)));
  absl::MutexLock lock(&policy_mutex_);
  policy_ = std::move(compiled);
  return absl::OkStatus();
}

absl::StatusOr<Catalog::ProviderChange> Catalog::SetProvider(audit::Call* audit,
                                                             v1::Provider provider) {
  ProviderChange change;
  TH_ASSIGN_OR_RETURN(change.provider, NormalizeProvider(std::move(provider)));
  absl::MutexLock lock(&change_mutex_);
  TH_ASSIGN_OR_RETURN(change.created, store_->PutProvider(audit, change.provider, &change.version));
  TH_RETURN_IF_ERROR(Reload());
  return change;
}

absl::StatusOr<int64_t> Catalog::DeleteProvider(audit::Call* audit, const std::string& name) {
  absl::MutexLock lock(&change_mutex_);
  int64_t version = 0;
  TH_RETURN_IF_ERROR(store_->DeleteProvider(audit, name, &version).status());
  TH_RETURN_IF_ERROR(Reload());
  return version;
}

absl::StatusOr<Catalog::PriceChange> Catalog::ImportPrices(
    audit::Call* audit, const std::vector<v1::ModelPrice>& prices, bool dry_run) {
  if (prices.size() > kMaxRowsPerImport) return BadPrice("more than 100,000 rows at once");
  std::set<PriceKey> seen;
  for (const v1::ModelPrice& price : prices) {
    TH_RETURN_IF_ERROR(policy::ValidatePrice(price));
    if (!seen.insert(KeyOf(price)).second) {
      return BadPrice(absl::StrCat("price of ", price.vendor(), " ", price.model(),
                                   " stands twice for one date"));
    }
    // What is kept is the line: it must say all that the row says.
    const std::string line = policy::FormatPrice(price);
    const auto kept = policy::ParsePriceBook(line);
    if (!kept.ok() || kept->prices.size() != 1 || KeyOf(kept->prices[0]) != KeyOf(price) ||
        policy::FormatPrice(kept->prices[0]) != line) {
      return BadPrice(absl::StrCat("price of ", price.vendor(), " ", price.model(),
                                   " has a text with line breaks or control characters"));
    }
  }
  absl::MutexLock lock(&change_mutex_);
  const auto current = policy();
  std::map<PriceKey, std::string> lines;
  for (const v1::ModelPrice& price : current->snapshot().prices()) {
    lines[KeyOf(price)] = policy::FormatPrice(price);
  }
  PriceChange change;
  std::vector<v1::ModelPrice> new_rows;
  for (const v1::ModelPrice& price : prices) {
    const auto it = lines.find(KeyOf(price));
    if (it == lines.end()) {
      ++change.added;
    } else if (it->second != policy::FormatPrice(price)) {
      ++change.changed;
    } else {
      ++change.unchanged;
      continue;
    }
    new_rows.push_back(price);
  }
  if (!dry_run && !new_rows.empty()) {
    TH_RETURN_IF_ERROR(store_->PutPrices(audit, new_rows, &change.version));
    TH_RETURN_IF_ERROR(Reload());
  }
  change.price_book_version = policy()->price_book_version();
  return change;
}

absl::StatusOr<int64_t> Catalog::SetAlias(audit::Call* audit, const v1::ModelAlias& alias,
                                          bool remove) {
  if (!IsModelName(alias.alias())) {
    return BadPrice("an alias is 1 to 256 characters without spaces");
  }
  if (!remove && !IsModelName(alias.model())) return BadPrice("the alias names no model");
  if (!alias.vendor().empty() && !IsName(alias.vendor())) return BadPrice("a malformed vendor");
  absl::MutexLock lock(&change_mutex_);
  int64_t version = 0;
  TH_RETURN_IF_ERROR(remove ? store_->DeleteAlias(audit, alias.alias(), alias.vendor(), &version)
                            : store_->PutAlias(audit, alias, &version));
  TH_RETURN_IF_ERROR(Reload());
  return version;
}

absl::StatusOr<int64_t> Catalog::SetCeiling(audit::Call* audit, const Ceiling& ceiling) {
  constexpr int64_t kMaxRate = 1'000'000'000'000'000;
  for (const int64_t rate : {ceiling.input_nanousd_per_mtok, ceiling.output_nanousd_per_mtok}) {
    if (rate < 0 || rate > kMaxRate) {
      return BadPrice("a ceiling is 0 to 1,000,000 USD per million tokens");
    }
  }
  absl::MutexLock lock(&change_mutex_);
  int64_t version = 0;
  TH_RETURN_IF_ERROR(store_->PutCeiling(audit, ceiling, &version));
  TH_RETURN_IF_ERROR(Reload());
  return version;
}

std::vector<v1::ListModelsResponse::Model> Catalog::ListModels(const std::string& provider,
                                                               absl::Time at) const {
  const auto policy = this->policy();
  std::vector<v1::ListModelsResponse::Model> models;
  for (const v1::Provider* p : policy->providers()) {
    if (!provider.empty() && p->name() != provider) continue;
    const std::string vendor = policy::CatalogOf(*p);
    std::map<std::string, const v1::ModelPrice*> by_name;
    for (const v1::ModelPrice& price : policy->snapshot().prices()) {
      if (price.vendor() != vendor) continue;
      const std::string name(policy::OwnName(price));
      const bool listed = p->models().empty() ||
                          std::any_of(p->models().begin(), p->models().end(),
                                      [&](const auto& model) { return MatchesModel(model, name); });
      const v1::ModelPrice* in_force = listed ? policy->FindPrice(vendor, name, at) : nullptr;
      if (in_force != nullptr) by_name[name] = in_force;
    }
    for (const std::string& name : p->models()) {
      if (name.back() != '*') by_name.emplace(name, policy->FindPrice(vendor, name, at));
    }
    for (const auto& [name, price] : by_name) {
      v1::ListModelsResponse::Model& model = models.emplace_back();
      model.set_provider(p->name());
      if (price != nullptr) *model.mutable_price() = *price;
      model.mutable_price()->set_model(name);
    }
  }
  return models;
}

std::vector<v1::ModelPrice> Catalog::ListPrices(const v1::ListPricesRequest& request,
                                                absl::Time at) const {
  const auto policy = this->policy();
  const int64_t moment =
      request.has_at() ? request.at().seconds() : absl::ToUnixSeconds(at);
  std::vector<v1::ModelPrice> prices;
  const auto& all = policy->snapshot().prices();
  for (int i = 0; i < all.size(); ++i) {
    const v1::ModelPrice& price = all[i];
    if (!request.vendor().empty() && request.vendor() != price.vendor()) continue;
    if (!MatchesModel(request.model(), price.model()) &&
        !MatchesModel(request.model(), policy::OwnName(price))) {
      continue;
    }
    if (!request.history()) {
      // Rows are ordered by date: the last one that has begun is in force.
      const bool begun = !price.has_effective_from() || price.effective_from().seconds() <= moment;
      const bool followed = i + 1 < all.size() && all[i + 1].vendor() == price.vendor() &&
                            all[i + 1].model() == price.model() &&
                            all[i + 1].effective_from().seconds() <= moment;
      if (!begun || followed) continue;
    }
    prices.push_back(price);
  }
  return prices;
}

absl::StatusOr<v1::ExplainRouteResponse> Catalog::ExplainRoute(
    const v1::ExplainRouteRequest& request, absl::Time at) const {
  const auto policy = this->policy();
  TH_ASSIGN_OR_RETURN(const policy::Route route,
                      policy->Resolve(request.model(), request.dialect(), at));
  v1::ExplainRouteResponse response;
  response.set_provider(route.provider->name());
  response.set_upstream_model(route.upstream_model);
  response.set_price_book_version(policy->price_book_version());
  if (route.price == nullptr) return response;
  *response.mutable_price() = *route.price;
  policy::TokenBound bound;
  bound.input_tokens = request.input_tokens();
  bound.output_tokens =
      request.max_output_tokens() > 0 ? request.max_output_tokens() : route.price->max_output_tokens();
  if (route.price->max_input_tokens() > 0) {
    bound.input_tokens = std::min(bound.input_tokens, route.price->max_input_tokens());
  }
  if (route.price->max_output_tokens() > 0) {
    bound.output_tokens = std::min(bound.output_tokens, route.price->max_output_tokens());
  }
  TH_ASSIGN_OR_RETURN(const NanoUsd amount, policy->BoundOf(route, bound));
  response.set_bound_nanousd(amount.nanos());
  return response;
}

}  // namespace tollhouse::router
