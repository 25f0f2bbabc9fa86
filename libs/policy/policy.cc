#include "libs/policy/policy.h"

#include <algorithm>
#include <map>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::policy {
namespace {

using common::v1::Dialect;
using router::v1::ModelAlias;
using router::v1::ModelPrice;
using router::v1::Provider;

std::string Key(std::string_view vendor, std::string_view name) {
  return absl::StrCat(Absl(vendor), "\n", Absl(name));
}

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

struct Undated {
  std::string_view base;
  std::string date;  // digits, comparable among dates of one length
};

// "gpt-4o-2024-08-06", "claude-haiku-4-5-20251001", "claude-opus-4@20250514", "grok-2-1212",
// "gemini-2.0-flash-001": the name without its date or version number; nothing if it has none.
std::optional<Undated> StripDate(std::string_view name) {
  if (name.size() > 11) {
    const std::string_view tail = name.substr(name.size() - 11);
    if (tail[0] == '-' && tail[5] == '-' && tail[8] == '-' && IsDigits(tail.substr(1, 4)) &&
        IsDigits(tail.substr(6, 2)) && IsDigits(tail.substr(9, 2))) {
      return Undated{name.substr(0, name.size() - 11),
                     absl::StrCat(Absl(tail.substr(1, 4)), Absl(tail.substr(6, 2)),
                                  Absl(tail.substr(9, 2)))};
    }
  }
  const size_t at = name.find_last_of("-@");
  if (at == std::string_view::npos || at == 0) return std::nullopt;
  const std::string_view tail = name.substr(at + 1);
  const bool year_month_day = tail.size() == 8 && absl::StartsWith(Absl(tail), "20");
  const bool short_form = name[at] == '-' && (tail.size() == 4 || tail.size() == 3);
  if (!IsDigits(tail) || !(year_month_day || short_form)) return std::nullopt;
  return Undated{name.substr(0, at), std::string(tail)};
}

std::string_view WithoutSuffix(std::string_view name) {
  if (const auto undated = StripDate(name)) return undated->base;
  if (absl::EndsWith(Absl(name), "-latest")) return name.substr(0, name.size() - 7);
  return name;
}

std::string_view DialectName(Dialect dialect) {
  switch (dialect) {
    case common::v1::DIALECT_OPENAI:
      return "openai";
    case common::v1::DIALECT_ANTHROPIC:
      return "anthropic";
    case common::v1::DIALECT_GEMINI:
      return "gemini";
    default:
      return "unknown";
  }
}

absl::Status ModelNotFound(std::string_view model, std::string_view why) {
  return MakeError(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
                   absl::StrCat("model '", Absl(model), "' ", Absl(why)));
}

// Exact, or a prefix where the pattern ends in '*'.
bool Matches(std::string_view pattern, std::string_view name) {
  if (!pattern.empty() && pattern.back() == '*') {
    return absl::StartsWith(Absl(name), Absl(pattern.substr(0, pattern.size() - 1)));
  }
  return pattern == name;
}

// "eu" for https://eu.api.openai.com/v1; "" where the host names no region.
std::string_view RegionOf(const Provider& provider) {
  std::string_view host = provider.base_url();
  if (const size_t at = host.find("://"); at != std::string_view::npos) host.remove_prefix(at + 3);
  if (absl::StartsWith(Absl(host), "eu.")) return "region:eu";
  if (absl::StartsWith(Absl(host), "us.")) return "region:us";
  return "";
}

int64_t FromSeconds(const ModelPrice& price) {
  return price.has_effective_from() ? price.effective_from().seconds()
                                    : std::numeric_limits<int64_t>::min();
}

}  // namespace

std::string CatalogOf(const Provider& provider) {
  return provider.catalog().empty() ? std::string(DialectName(provider.dialect()))
                                    : provider.catalog();
}

std::string_view OwnName(const ModelPrice& price) {
  std::string_view name = price.model();
  const size_t slash = name.find('/');
  if (slash == std::string_view::npos) return name;
  const std::string_view prefix = name.substr(0, slash);
  const bool catalogue_prefix = prefix == price.vendor() || prefix == price.source_vendor() ||
                                (price.vendor() == "vertex" && prefix == "vertex_ai") ||
                                (price.vendor() == "bedrock" && prefix == "bedrock_mantle");
  return catalogue_prefix ? name.substr(slash + 1) : name;
}

Policy::Policy(const router::v1::PolicySnapshot& snapshot) : snapshot_(snapshot) {}

std::shared_ptr<const Policy> Policy::Compile(const router::v1::PolicySnapshot& snapshot) {
  std::shared_ptr<Policy> policy(new Policy(snapshot));
  for (const Provider& provider : policy->snapshot_.providers()) {
    policy->providers_.push_back(&provider);
    policy->provider_by_name_[provider.name()] = &provider;
  }
  std::stable_sort(policy->providers_.begin(), policy->providers_.end(),
                   [](const Provider* a, const Provider* b) {
                     if (a->priority() != b->priority()) return a->priority() > b->priority();
                     return a->name() < b->name();
                   });

  for (const ModelPrice& price : policy->snapshot_.prices()) {
    policy->prices_[Key(price.vendor(), price.model())].push_back(&price);
  }
  // Names without the catalogue's prefix, where no row has that name itself.
  absl::flat_hash_map<std::string, Versions> own_names;
  for (const ModelPrice& price : policy->snapshot_.prices()) {
    const std::string key = Key(price.vendor(), OwnName(price));
    const auto it = policy->prices_.find(key);
    if (it != policy->prices_.end()) continue;
    Versions& versions = own_names[key];
    if (versions.empty() || versions.front()->model() == price.model()) versions.push_back(&price);
  }
  for (auto& [key, versions] : own_names) policy->prices_[key] = std::move(versions);
  std::map<std::string, std::string> newest_date;
  for (auto& [key, versions] : policy->prices_) {
    std::sort(versions.begin(), versions.end(), [](const ModelPrice* a, const ModelPrice* b) {
      return FromSeconds(*a) > FromSeconds(*b);
    });
    const std::string_view name = std::string_view(key).substr(key.find('\n') + 1);
    if (const auto undated = StripDate(name)) {
      const std::string base = Key(versions.front()->vendor(), undated->base);
      std::string& newest = newest_date[base];
      if (undated->date.size() > newest.size() ||
          (undated->date.size() == newest.size() && undated->date > newest)) {
        newest = undated->date;
        policy->newest_dated_[base] = std::string(name);
      }
    }
  }

  for (const ModelAlias& alias : policy->snapshot_.aliases()) {
    if (alias.keep_name()) policy->price_aliases_[Key(alias.vendor(), alias.alias())] = &alias;
    if (!alias.keep_name()) policy->name_aliases_[alias.alias()].push_back(&alias);
  }

  if (snapshot.ceiling_input_nanousd_per_mtok() > 0 ||
      snapshot.ceiling_output_nanousd_per_mtok() > 0) {
    policy->has_ceiling_ = true;
    policy->ceiling_.set_vendor("ceiling");
    policy->ceiling_.set_model("ceiling");
    policy->ceiling_.set_source("price ceiling of unpriced models");
    const auto add = [&](router::v1::TokenClass token_class, int64_t nanos) {
      router::v1::Rate* rate = policy->ceiling_.add_rates();
      rate->set_token_class(token_class);
      rate->set_tier(router::v1::SERVICE_TIER_STANDARD);
      rate->set_nanousd_per_mtok(nanos);
    };
    // A ceiling of one side alone holds for both: never free.
    const int64_t input = snapshot.ceiling_input_nanousd_per_mtok();
    const int64_t output = snapshot.ceiling_output_nanousd_per_mtok();
    add(router::v1::TOKEN_CLASS_INPUT, input > 0 ? input : output);
    add(router::v1::TOKEN_CLASS_OUTPUT, output > 0 ? output : input);
  }
  return policy;
}

const ModelPrice* Policy::InForce(std::string_view vendor, std::string_view model,
                                  absl::Time at) const {
  const auto it = prices_.find(Key(vendor, model));
  if (it == prices_.end()) return nullptr;
  const int64_t now = absl::ToUnixSeconds(at);
  for (const ModelPrice* price : it->second) {
    if (FromSeconds(*price) <= now) return price;
  }
  return nullptr;
}

const ModelPrice* Policy::Exact(std::string_view vendor, std::string_view model,
                                absl::Time at) const {
  const ModelPrice* price = InForce(vendor, model, at);
  return price != nullptr && IsPriced(*price) ? price : nullptr;
}

const ModelPrice* Policy::FindPriceOf(std::string_view org, std::string_view vendor,
                                      std::string_view model, absl::Time at) const {
  const ModelPrice* general = FindPrice(vendor, model, at);
  if (org.empty()) return general;
  const std::string own_vendor = absl::StrCat(Absl(org), ":", Absl(vendor));
  if (const ModelPrice* own = FindPrice(own_vendor, model, at)) return own;
  if (general == nullptr) return nullptr;
  // The name is another spelling of a model that the org has a price for.
  const ModelPrice* own = Exact(own_vendor, general->model(), at);
  return own != nullptr ? own : general;
}

const ModelPrice* Policy::FindPrice(std::string_view vendor, std::string_view model,
                                    absl::Time at) const {
  if (const ModelPrice* price = Exact(vendor, model, at)) return price;
  if (const auto it = price_aliases_.find(Key(vendor, model)); it != price_aliases_.end()) {
    if (const ModelPrice* price = Exact(vendor, it->second->model(), at)) return price;
  }
  const std::string_view base = WithoutSuffix(model);
  if (base != model) {
    if (const ModelPrice* price = Exact(vendor, base, at)) return price;
    if (const auto it = price_aliases_.find(Key(vendor, base)); it != price_aliases_.end()) {
      if (const ModelPrice* price = Exact(vendor, it->second->model(), at)) return price;
    }
  }
  // A date that the catalogue does not know is not answered with another date's price.
  if (base == model || absl::EndsWith(Absl(model), "-latest")) {
    if (const auto it = newest_dated_.find(Key(vendor, base)); it != newest_dated_.end()) {
      if (const ModelPrice* price = Exact(vendor, it->second, at)) return price;
    }
  }
  if (absl::StartsWith(Absl(model), "ft:")) {
    const size_t end = model.find(':', 3);
    if (end != std::string_view::npos) return FindPrice(vendor, model.substr(0, end), at);
  }
  if (vendor == "bedrock") {
    for (const std::string_view region : {"us.", "eu.", "apac.", "global.", "us-gov.", "au.", "jp."}) {
      if (absl::StartsWith(Absl(model), Absl(region))) {
        return FindPrice(vendor, model.substr(region.size()), at);
      }
    }
  }
  return nullptr;
}

const Provider* Policy::FindProvider(std::string_view name) const {
  const auto it = provider_by_name_.find(Absl(name));
  return it == provider_by_name_.end() ? nullptr : it->second;
}

Route Policy::MakeRoute(const Provider& provider, std::string_view upstream_model, absl::Time at,
                        std::string_view org) const {
  Route route;
  route.provider = &provider;
  route.upstream_model = upstream_model;
  route.catalog_model = upstream_model;
  route.org = org;
  const std::string vendor = CatalogOf(provider);
  route.price = FindPriceOf(org, vendor, upstream_model, at);
  if (!org.empty() && route.price != nullptr && route.price->vendor() == vendor) {
    const ModelPrice* all = InForce(absl::StrCat(Absl(org), ":", vendor), "*", at);
    if (all != nullptr) {
      const auto factor = all->multipliers_ppm().find("contract");
      if (factor != all->multipliers_ppm().end()) route.contract_ppm = factor->second;
    }
  }
  if (route.price != nullptr) {
    // The catalogue's spelling "xai/grok-3" is not what the vendor calls it.
    if (upstream_model == route.price->model()) route.upstream_model = OwnName(*route.price);
    route.catalog_model = OwnName(*route.price);
  } else if (has_ceiling_) {
    route.price = &ceiling_;
    route.at_ceiling = true;
  }
  return route;
}

bool Policy::Serves(const Provider& provider, std::string_view model, absl::Time at,
                    std::string_view org) const {
  if (provider.models().empty()) {
    return FindPriceOf(org, CatalogOf(provider), model, at) != nullptr;
  }
  return std::any_of(provider.models().begin(), provider.models().end(),
                     [&](const std::string& pattern) { return Matches(pattern, model); });
}

std::vector<Route> Policy::RoutesOfBareName(std::string_view model, Dialect dialect, absl::Time at,
                                            std::string_view org) const {
  std::vector<Route> routes;
  for (const Provider* provider : providers_) {
    if (provider->dialect() == dialect && Serves(*provider, model, at, org)) {
      routes.push_back(MakeRoute(*provider, model, at, org));
    }
  }
  if (!routes.empty()) return routes;
  const auto it = name_aliases_.find(Absl(model));
  if (it == name_aliases_.end()) return routes;
  for (const Provider* provider : providers_) {
    if (provider->dialect() != dialect) continue;
    for (const ModelAlias* alias : it->second) {
      if ((alias->vendor().empty() || alias->vendor() == CatalogOf(*provider)) &&
          Serves(*provider, alias->model(), at, org)) {
        routes.push_back(MakeRoute(*provider, alias->model(), at, org));
        break;
      }
    }
  }
  return routes;
}

absl::StatusOr<Route> Policy::Resolve(std::string_view model, Dialect dialect, absl::Time at,
                                      std::string_view org) const {
  if (model.empty()) return ModelNotFound(model, "is empty");
  if (const size_t slash = model.find('/'); slash != std::string_view::npos) {
    if (const Provider* provider = FindProvider(model.substr(0, slash))) {
      if (provider->dialect() != dialect) {
        return ModelNotFound(model, absl::StrCat("is of provider '", provider->name(),
                                                 "', which speaks the ",
                                                 Absl(DialectName(provider->dialect())),
                                                 " dialect: call that API's path for it"));
      }
      if (slash + 1 == model.size()) return ModelNotFound(model, "names a provider only");
      return MakeRoute(*provider, model.substr(slash + 1), at, org);
    }
  }
  std::vector<Route> routes = RoutesOfBareName(model, dialect, at, org);
  if (!routes.empty()) return std::move(routes.front());
  if (has_ceiling_) {
    for (const Provider* provider : providers_) {
      if (provider->dialect() == dialect && provider->models().empty()) {
        return MakeRoute(*provider, model, at, org);
      }
    }
  }
  for (const Provider* provider : providers_) {
    if (provider->dialect() != dialect && Serves(*provider, model, at, org)) {
      return ModelNotFound(model, absl::StrCat("is served by '", provider->name(),
                                               "', which speaks the ",
                                               Absl(DialectName(provider->dialect())),
                                               " dialect: call that API's path for it"));
    }
  }
  return ModelNotFound(model, absl::StrCat("is not served by any configured provider of the ",
                                           Absl(DialectName(dialect)),
                                           " dialect; GET /v1/models lists what is"));
}

absl::StatusOr<NanoUsd> Policy::BoundOf(const Route& route, TokenBound bound) const {
  if (route.price == nullptr) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_UNPRICED",
                     absl::StrCat("no price is known for model '", route.upstream_model,
                                  "' of provider '", route.provider->name(), "'"));
  }
  if (const std::string_view region = RegionOf(*route.provider); !region.empty()) {
    bound.modifiers.emplace_back(region);
  }
  const std::string& auto_tier = route.provider->quirks().auto_service_tier();
  if ((bound.service_tier.empty() || bound.service_tier == "auto") && !auto_tier.empty()) {
    bound.service_tier = auto_tier;
  }
  bound.contract_ppm = route.contract_ppm;
  return BoundCost(*route.price, bound);
}

absl::StatusOr<Cost> Policy::CostOf(const Route& route, UsageLines usage, absl::Time at) const {
  if (const std::string_view region = RegionOf(*route.provider); !region.empty()) {
    for (common::v1::UsageLine& line : usage) line.add_modifiers(std::string(region));
  }
  if (route.price != nullptr && IsOffPeak(*route.price, at)) {
    for (common::v1::UsageLine& line : usage) line.add_modifiers("hours:off_peak");
  }
  const std::string vendor = CatalogOf(*route.provider);
  const std::string_view own = WithoutSuffix(route.upstream_model);
  const std::string_view catalog = WithoutSuffix(route.catalog_model);
  return policy::CostOf(
      [&](std::string_view model) -> const ModelPrice* {
        const std::string_view base = WithoutSuffix(model);
        if (model.empty() || base == own || base == catalog) return route.price;
        const ModelPrice* price = FindPriceOf(route.org, vendor, model, at);
        return price != nullptr ? price : route.price;
      },
      usage, route.contract_ppm);
}

std::vector<ListedModel> Policy::Models(Dialect dialect, absl::Time at) const {
  std::map<std::string, ListedModel> models;
  const auto add = [&](const std::string& name) {
    if (models.contains(name)) return;
    std::vector<Route> routes = RoutesOfBareName(name, dialect, at);
    if (routes.empty()) return;
    models[name] = {name, routes.front().provider, routes.front().price};
  };
  for (const Provider* provider : providers_) {
    if (provider->dialect() != dialect) continue;
    const std::string vendor = CatalogOf(*provider);
    for (const ModelPrice& price : snapshot_.prices()) {
      if (price.vendor() == vendor) add(std::string(OwnName(price)));
    }
    for (const std::string& name : provider->models()) {
      if (name.back() != '*') add(name);
    }
  }
  for (const auto& [name, aliases] : name_aliases_) add(name);
  std::vector<ListedModel> list;
  for (auto& [name, model] : models) list.push_back(std::move(model));
  return list;
}

}  // namespace tollhouse::policy
