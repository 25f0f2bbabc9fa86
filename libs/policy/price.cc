#include "libs/policy/price.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::policy {
namespace {

using router::v1::ModelPrice;
using router::v1::Rate;
using router::v1::ServiceTier;
using router::v1::TokenClass;

constexpr int64_t kUnstatedSearchFee = 35'000'000;
constexpr int64_t kUnstatedFileSearchFee = 2'500'000;
constexpr int64_t kUnstatedCodeSessionFee = 30'000'000;
constexpr int64_t kPpm = 1'000'000;
constexpr int64_t kMaxRate = 1'000'000'000'000'000;
constexpr int64_t kMaxFactorPpm = 100'000'000;

absl::Status Unpriced(std::string_view model) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_UNPRICED",
                   absl::StrCat("no token price is known for model '", Absl(model), "'"));
}

// value * numerator / denominator, rounded up; at most kMaxRate.
int64_t ScaleUp(int64_t value, int64_t numerator, int64_t denominator) {
  const __int128 scaled =
      (static_cast<__int128>(value) * numerator + denominator - 1) / denominator;
  return scaled > kMaxRate ? kMaxRate : static_cast<int64_t>(scaled);
}

ServiceTier TierOf(std::string_view service_tier) {
  const std::string tier = absl::AsciiStrToLower(Absl(service_tier));
  if (tier == "flex" || tier == "on_demand_flex") return router::v1::SERVICE_TIER_FLEX;
  if (tier == "priority" || tier == "fast" || tier == "on_demand_priority") {
    return router::v1::SERVICE_TIER_PRIORITY;
  }
  if (tier == "batch") return router::v1::SERVICE_TIER_BATCH;
  return router::v1::SERVICE_TIER_STANDARD;
}

std::string_view TierName(ServiceTier tier) {
  switch (tier) {
    case router::v1::SERVICE_TIER_BATCH:
      return "batch";
    case router::v1::SERVICE_TIER_FLEX:
      return "flex";
    case router::v1::SERVICE_TIER_PRIORITY:
      return "priority";
    default:
      return "standard";
  }
}

bool IsClaude(const ModelPrice& price) {
  return price.vendor() == "anthropic" || absl::StrContains(price.model(), "claude");
}

// The rates of one price in one tier and one step.
class RateTable {
 public:
  // `step`: 0 or one of the price's above_input_tokens.
  RateTable(const ModelPrice& price, ServiceTier tier, int64_t step)
      : price_(price), tier_(tier), step_(step) {}

  // Nothing only where the price has no input rate.
  std::optional<int64_t> Of(Billed billed) const {
    switch (billed) {
      case Billed::kInput:
        return Stated(router::v1::TOKEN_CLASS_INPUT);
      case Billed::kOutput:
        return Or(Stated(router::v1::TOKEN_CLASS_OUTPUT), Billed::kInput);
      case Billed::kCacheRead:
        return Or(Stated(router::v1::TOKEN_CLASS_CACHE_READ), Billed::kInput);
      case Billed::kCacheWrite5m:
        if (auto rate = Stated(router::v1::TOKEN_CLASS_CACHE_WRITE_5M)) return rate;
        return TimesInput(IsClaude(price_) ? 125 : 100);
      case Billed::kCacheWrite1h: {
        if (auto rate = Stated(router::v1::TOKEN_CLASS_CACHE_WRITE_1H)) return rate;
        if (IsClaude(price_)) return TimesInput(200);
        const auto input = Of(Billed::kInput);
        const auto write = Of(Billed::kCacheWrite5m);
        if (!input || !write) return std::nullopt;
        return std::max(*input, *write);
      }
      case Billed::kReasoning:
        return Or(Stated(router::v1::TOKEN_CLASS_REASONING_OUTPUT), Billed::kOutput);
      case Billed::kInputAudio:
        return Or(Stated(router::v1::TOKEN_CLASS_INPUT_AUDIO), Billed::kInput);
      case Billed::kOutputAudio:
        return Or(Stated(router::v1::TOKEN_CLASS_OUTPUT_AUDIO), Billed::kOutput);
      case Billed::kInputImage:
        return Or(Stated(router::v1::TOKEN_CLASS_INPUT_IMAGE), Billed::kInput);
      case Billed::kAudioCacheRead: {
        const auto audio = Of(Billed::kInputAudio);
        if (auto rate = Stated(router::v1::TOKEN_CLASS_CACHE_READ_AUDIO)) return rate;
        const auto read = Stated(router::v1::TOKEN_CLASS_CACHE_READ);
        const auto input = Of(Billed::kInput);
        if (!audio || !read || !input || *input == 0) return audio;
        return std::max(*read, ScaleUp(*read, *audio, *input));
      }
      case Billed::kOutputImage:
        return Or(Stated(router::v1::TOKEN_CLASS_OUTPUT_IMAGE), Billed::kOutput);
    }
    return std::nullopt;
  }

 private:
  std::optional<int64_t> Exact(TokenClass token_class, ServiceTier tier, int64_t step) const {
    for (const Rate& rate : price_.rates()) {
      if (rate.token_class() == token_class && rate.tier() == tier &&
          rate.above_input_tokens() == step) {
        return rate.nanousd_per_mtok();
      }
    }
    return std::nullopt;
  }

  // The rate of `token_class` in the highest step up to `limit`, and that step.
  std::optional<std::pair<int64_t, int64_t>> Highest(TokenClass token_class, ServiceTier tier,
                                                     int64_t limit) const {
    std::optional<std::pair<int64_t, int64_t>> best;
    for (const Rate& rate : price_.rates()) {
      if (rate.token_class() == token_class && rate.tier() == tier &&
          rate.above_input_tokens() <= limit && (!best || rate.above_input_tokens() >= best->second)) {
        best = {rate.nanousd_per_mtok(), rate.above_input_tokens()};
      }
    }
    return best;
  }

  // Input or output itself in a tier and step: stated, or the tier's own base rate moved as the
  // standard tier moves between the steps, or the standard tier's.
  std::optional<int64_t> Reference(TokenClass reference, ServiceTier tier, int64_t step) const {
    if (auto rate = Exact(reference, tier, step)) return rate;
    const auto standard = Highest(reference, router::v1::SERVICE_TIER_STANDARD, step);
    if (tier == router::v1::SERVICE_TIER_STANDARD) {
      return standard ? std::optional<int64_t>(standard->first) : std::nullopt;
    }
    const auto own = Highest(reference, tier, step);
    if (!own) return standard ? std::optional<int64_t>(standard->first) : std::nullopt;
    const auto from = Highest(reference, router::v1::SERVICE_TIER_STANDARD, own->second);
    if (!standard || !from || from->first == 0) return own->first;
    return std::max(own->first, ScaleUp(own->first, standard->first, from->first));
  }

  // A class that has any rate: stated for tier and step, or moved there from the nearest (rule 2).
  std::optional<int64_t> Stated(TokenClass token_class) const {
    const bool output = token_class == router::v1::TOKEN_CLASS_OUTPUT ||
                        token_class == router::v1::TOKEN_CLASS_OUTPUT_AUDIO ||
                        token_class == router::v1::TOKEN_CLASS_OUTPUT_IMAGE ||
                        token_class == router::v1::TOKEN_CLASS_REASONING_OUTPUT;
    const TokenClass reference =
        output ? router::v1::TOKEN_CLASS_OUTPUT : router::v1::TOKEN_CLASS_INPUT;
    if (token_class == reference) return Reference(reference, tier_, step_);
    if (auto rate = Exact(token_class, tier_, step_)) return rate;
    ServiceTier from_tier = tier_;
    auto from = Highest(token_class, tier_, step_);
    if (!from) {
      from_tier = router::v1::SERVICE_TIER_STANDARD;
      from = Highest(token_class, from_tier, step_);
    }
    if (!from) return std::nullopt;
    const auto here = Reference(reference, tier_, step_);
    const auto there = Reference(reference, from_tier, from->second);
    if (!here || !there || *there == 0) return from->first;
    return std::max(from->first, ScaleUp(from->first, *here, *there));
  }

  std::optional<int64_t> Or(std::optional<int64_t> rate, Billed otherwise) const {
    return rate ? rate : Of(otherwise);
  }

  std::optional<int64_t> TimesInput(int64_t percent) const {
    const auto input = Of(Billed::kInput);
    if (!input) return std::nullopt;
    return ScaleUp(*input, percent, 100);
  }

  const ModelPrice& price_;
  const ServiceTier tier_;
  const int64_t step_;
};

bool HasRate(const ModelPrice& price, TokenClass token_class) {
  return std::any_of(price.rates().begin(), price.rates().end(),
                     [&](const Rate& rate) { return rate.token_class() == token_class; });
}

// The steps that a line with this total input can be in: 0 and all that it passes.
std::set<int64_t> StepsUpTo(const ModelPrice& price, int64_t total_input) {
  const bool inclusive = price.vendor() == "xai";
  std::set<int64_t> steps = {0};
  for (const Rate& rate : price.rates()) {
    const int64_t above = rate.above_input_tokens();
    if (above > 0 && (total_input > above || (inclusive && total_input == above))) {
      steps.insert(above);
    }
  }
  return steps;
}

// One factor of a modifier; kPpm where the price knows none.
int64_t ModifierPpm(const ModelPrice& price, const std::string& modifier) {
  if (modifier == "region:eu" && price.regional_uplift_eu_ppm() > 0) {
    return price.regional_uplift_eu_ppm();
  }
  if (modifier == "region:us" && price.regional_uplift_us_ppm() > 0) {
    return price.regional_uplift_us_ppm();
  }
  const auto it = price.multipliers_ppm().find(modifier);
  return it == price.multipliers_ppm().end() ? kPpm : it->second;
}

// The product, rounded up. Multiplied in falling order, so that larger factors never give a smaller
// product: a bound stays a bound.
int64_t ProductPpm(std::vector<int64_t> factors) {
  std::sort(factors.begin(), factors.end(), std::greater<>());
  int64_t product = kPpm;
  for (const int64_t factor : factors) {
    product = std::min(kMaxFactorPpm, ScaleUp(product, factor, kPpm));
  }
  return product;
}

int64_t FactorPpm(const ModelPrice& price, const common::v1::UsageLine& line,
                  int64_t contract_ppm) {
  if (line.modifiers().empty()) return contract_ppm;
  std::vector<int64_t> factors = {contract_ppm};
  for (const std::string& modifier : std::set<std::string>(line.modifiers().begin(),
                                                           line.modifiers().end())) {
    factors.push_back(ModifierPpm(price, modifier));
  }
  return ProductPpm(std::move(factors));
}

bool HasModifier(const common::v1::UsageLine& line, std::string_view modifier) {
  return std::find(line.modifiers().begin(), line.modifiers().end(), modifier) !=
         line.modifiers().end();
}

int64_t SearchFee(const ModelPrice& price, const common::v1::UsageLine& line) {
  int64_t fee = price.search_medium_nanousd();
  if (HasModifier(line, "search:high")) {
    fee = price.search_high_nanousd();
  } else if (HasModifier(line, "search:low")) {
    fee = price.search_low_nanousd();
  }
  if (fee > 0) return fee;
  const int64_t dearest =
      std::max({price.search_low_nanousd(), price.search_medium_nanousd(),
                price.search_high_nanousd()});
  return dearest > 0 ? dearest : kUnstatedSearchFee;
}

int64_t Stated(int64_t fee, int64_t unstated) { return fee > 0 ? fee : unstated; }

absl::StatusOr<LinePrice> PriceLine(const ModelPrice& price, const common::v1::UsageLine& line,
                                    int64_t contract_ppm) {
  if (!IsPriced(price)) return Unpriced(price.model());
  const bool reasoning_apart = HasRate(price, router::v1::TOKEN_CLASS_REASONING_OUTPUT);
  TH_ASSIGN_OR_RETURN(const auto tokens, BilledTokens(line.usage(), reasoning_apart));
  LinePrice result;
  result.model = price.model();
  const ServiceTier tier = TierOf(line.service_tier());
  result.tier = TierName(tier);
  result.above_input_tokens = *StepsUpTo(price, TotalInputTokens(line.usage())).rbegin();
  result.factor_ppm = FactorPpm(price, line, contract_ppm);
  const RateTable rates(price, tier, result.above_input_tokens);
  for (size_t i = 0; i < kBilledClasses; ++i) {
    if (tokens[i] == 0) continue;
    result.rates[i] = rates.Of(static_cast<Billed>(i));
    if (!result.rates[i]) return Unpriced(price.model());
  }
  TH_ASSIGN_OR_RETURN(const auto calls, BilledCalls(line.usage()));
  for (size_t i = 0; i < kFees; ++i) {
    if (calls[i] == 0) continue;
    switch (static_cast<Fee>(i)) {
      case Fee::kSearch:
        result.fees[i] = SearchFee(price, line);
        break;
      case Fee::kFileSearch:
        result.fees[i] = Stated(price.file_search_nanousd(), kUnstatedFileSearchFee);
        break;
      case Fee::kCodeSession:
        result.fees[i] = Stated(price.code_session_nanousd(), kUnstatedCodeSessionFee);
        break;
    }
  }
  return result;
}

// The tiers that an answer may come in, as far as the price tells them apart.
std::vector<ServiceTier> PossibleTiers(const ModelPrice& price, std::string_view requested) {
  std::vector<ServiceTier> tiers = {router::v1::SERVICE_TIER_STANDARD};
  const std::string word = absl::AsciiStrToLower(Absl(requested));
  const bool any = word.empty() || word == "auto";
  for (const ServiceTier tier : {router::v1::SERVICE_TIER_BATCH, router::v1::SERVICE_TIER_FLEX,
                                 router::v1::SERVICE_TIER_PRIORITY}) {
    const bool possible = any ? tier != router::v1::SERVICE_TIER_BATCH : tier == TierOf(requested);
    if (possible && std::any_of(price.rates().begin(), price.rates().end(),
                                [&](const Rate& rate) { return rate.tier() == tier; })) {
      tiers.push_back(tier);
    }
  }
  return tiers;
}

// The dearest product of factors that an answer may come with: what was asked for, and per kind that
// the provider chooses ("geo:") the dearest or none.
int64_t DearestFactorPpm(const ModelPrice& price, const TokenBound& bound) {
  int64_t geo = kPpm;
  for (const auto& [name, factor] : price.multipliers_ppm()) {
    if (absl::StartsWith(name, "geo:")) geo = std::max(geo, factor);
  }
  std::vector<int64_t> factors = {geo, bound.contract_ppm};
  for (const std::string& modifier :
       std::set<std::string>(bound.modifiers.begin(), bound.modifiers.end())) {
    if (absl::StartsWith(modifier, "geo:")) continue;
    factors.push_back(std::max(kPpm, ModifierPpm(price, modifier)));
  }
  return ProductPpm(std::move(factors));
}

}  // namespace

bool IsPriced(const ModelPrice& price) {
  // Modes that are not charged by the token: images, seconds of speech, pages, queries.
  static constexpr std::string_view kByToken[] = {"",           "chat",      "responses",
                                                  "completion", "embedding", "moderation"};
  if (std::find(std::begin(kByToken), std::end(kByToken), price.mode()) == std::end(kByToken)) {
    return false;
  }
  return std::any_of(price.rates().begin(), price.rates().end(), [](const Rate& rate) {
    return rate.token_class() == router::v1::TOKEN_CLASS_INPUT &&
           rate.tier() == router::v1::SERVICE_TIER_STANDARD && rate.above_input_tokens() == 0;
  });
}

bool IsOffPeak(const ModelPrice& price, absl::Time at) {
  const int from = price.off_peak_from_minute();
  const int to = price.off_peak_to_minute();
  const int now = static_cast<int>(absl::ToUnixSeconds(at) % 86'400 / 60);
  return from <= to ? from <= now && now < to : now >= from || now < to;
}

absl::StatusOr<Cost> CostOf(const PriceLookup& lookup, const UsageLines& usage,
                            int64_t contract_ppm) {
  std::vector<LinePrice> lines;
  lines.reserve(usage.size());
  for (const common::v1::UsageLine& line : usage) {
    const ModelPrice* price = lookup(line.model());
    if (price == nullptr) return Unpriced(line.model());
    TH_ASSIGN_OR_RETURN(LinePrice line_price, PriceLine(*price, line, contract_ppm));
    lines.push_back(std::move(line_price));
  }
  TH_ASSIGN_OR_RETURN(const NanoUsd amount, AmountOf(lines, usage));
  return Cost{amount, FormatDetail(lines)};
}

absl::StatusOr<Cost> CostOf(const ModelPrice& price, const UsageLines& usage) {
  return CostOf([&](std::string_view) { return &price; }, usage);
}

absl::StatusOr<NanoUsd> BoundCost(const ModelPrice& price, const TokenBound& bound) {
  if (!IsPriced(price)) return Unpriced(price.model());
  std::vector<Billed> input = {Billed::kInput, Billed::kCacheRead};
  if (HasRate(price, router::v1::TOKEN_CLASS_INPUT_IMAGE)) input.push_back(Billed::kInputImage);
  // A stated write price of a model that is not Claude means writes that nobody asks for.
  const bool writes_by_itself =
      !IsClaude(price) && HasRate(price, router::v1::TOKEN_CLASS_CACHE_WRITE_5M);
  if (bound.cache_write_5m || writes_by_itself) input.push_back(Billed::kCacheWrite5m);
  if (bound.cache_write_1h) input.push_back(Billed::kCacheWrite1h);
  if (bound.audio_input) {
    input.push_back(Billed::kInputAudio);
    input.push_back(Billed::kAudioCacheRead);
  }
  std::vector<Billed> output = {Billed::kOutput};
  if (HasRate(price, router::v1::TOKEN_CLASS_REASONING_OUTPUT)) {
    output.push_back(Billed::kReasoning);
  }
  if (HasRate(price, router::v1::TOKEN_CLASS_OUTPUT_AUDIO)) output.push_back(Billed::kOutputAudio);
  if (HasRate(price, router::v1::TOKEN_CLASS_OUTPUT_IMAGE)) output.push_back(Billed::kOutputImage);
  int64_t input_rate = 0, output_rate = 0;
  for (const ServiceTier tier : PossibleTiers(price, bound.service_tier)) {
    for (const int64_t step : StepsUpTo(price, bound.input_tokens)) {
      const RateTable rates(price, tier, step);
      for (const Billed billed : input) {
        input_rate = std::max(input_rate, rates.Of(billed).value_or(0));
      }
      for (const Billed billed : output) {
        output_rate = std::max(output_rate, rates.Of(billed).value_or(0));
      }
    }
  }
  LinePrice dearest;
  dearest.factor_ppm = DearestFactorPpm(price, bound);
  dearest.rates[static_cast<size_t>(Billed::kInput)] = input_rate;
  dearest.rates[static_cast<size_t>(Billed::kOutput)] = output_rate;
  dearest.fees = {Stated(std::max({price.search_low_nanousd(), price.search_medium_nanousd(),
                                   price.search_high_nanousd()}),
                         kUnstatedSearchFee),
                  Stated(price.file_search_nanousd(), kUnstatedFileSearchFee),
                  Stated(price.code_session_nanousd(), kUnstatedCodeSessionFee)};
  UsageLines usage;
  common::v1::Usage* all = usage.Add()->mutable_usage();
  all->set_input_tokens_uncached(bound.input_tokens);
  all->set_output_tokens(bound.output_tokens);
  all->set_web_search_calls(bound.web_search_calls);
  all->set_file_search_calls(bound.file_search_calls);
  all->set_code_sessions(bound.code_sessions);
  return AmountOf({dearest}, usage);
}

absl::Status ValidatePrice(const ModelPrice& price) {
  const auto bad = [&](std::string_view why) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PRICE",
                     absl::StrCat("price of ", price.vendor(), " ", price.model(), ": ",
                                  Absl(why)));
  };
  const auto printable = [](std::string_view text) {
    return !text.empty() && text.size() <= 256 &&
           std::all_of(text.begin(), text.end(), [](char c) {
             // Nothing that would read as something else in the book's text.
             return c > ' ' && c < 127 && c != '"' && c != '=' && c != '\\';
           });
  };
  if (!printable(price.vendor())) return bad("the vendor is missing or malformed");
  if (!printable(price.model())) return bad("the model is missing or malformed");
  if (price.max_input_tokens() < 0 || price.max_output_tokens() < 0) {
    return bad("a maximum of tokens is negative");
  }
  std::set<std::tuple<int, int, int64_t>> seen;
  for (const Rate& rate : price.rates()) {
    if (rate.token_class() == router::v1::TOKEN_CLASS_UNSPECIFIED ||
        !router::v1::TokenClass_IsValid(rate.token_class())) {
      return bad("a rate has no token class");
    }
    if (rate.tier() == router::v1::SERVICE_TIER_UNSPECIFIED ||
        !router::v1::ServiceTier_IsValid(rate.tier())) {
      return bad("a rate has no service tier");
    }
    if (rate.above_input_tokens() < 0) return bad("a price step is negative");
    if (rate.nanousd_per_mtok() < 0) return bad("a rate is negative");
    if (rate.nanousd_per_mtok() > kMaxRate) return bad("a rate is above $1,000,000 per million");
    if (!seen.emplace(rate.token_class(), rate.tier(), rate.above_input_tokens()).second) {
      return bad("a rate stands twice");
    }
  }
  for (const int64_t fee : {price.search_low_nanousd(), price.search_medium_nanousd(),
                            price.search_high_nanousd(), price.file_search_nanousd(),
                            price.code_session_nanousd()}) {
    if (fee < 0 || fee > kMaxRate) return bad("a fee per call is out of bounds");
  }
  for (const int minute : {price.off_peak_from_minute(), price.off_peak_to_minute()}) {
    if (minute < 0 || minute >= 24 * 60) return bad("an off-peak hour is out of bounds");
  }
  const auto bad_factor = [](int64_t ppm) { return ppm < 1'000 || ppm > kMaxFactorPpm; };
  for (const int64_t ppm : {price.regional_uplift_eu_ppm(), price.regional_uplift_us_ppm()}) {
    if (ppm != 0 && bad_factor(ppm)) return bad("a regional uplift is out of bounds");
  }
  for (const auto& [name, ppm] : price.multipliers_ppm()) {
    if (name.empty() || bad_factor(ppm)) return bad("a multiplier is out of bounds");
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::policy
