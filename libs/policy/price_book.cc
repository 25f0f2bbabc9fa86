#include "libs/policy/price_book.h"

#include <algorithm>
#include <map>
#include <limits>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/policy/price.h"

namespace tollhouse::policy {
namespace {

using router::v1::ModelPrice;
using router::v1::Rate;

constexpr std::pair<std::string_view, router::v1::TokenClass> kClasses[] = {
    {"input", router::v1::TOKEN_CLASS_INPUT},
    {"output", router::v1::TOKEN_CLASS_OUTPUT},
    {"cache_read", router::v1::TOKEN_CLASS_CACHE_READ},
    {"cache_write_5m", router::v1::TOKEN_CLASS_CACHE_WRITE_5M},
    {"cache_write_1h", router::v1::TOKEN_CLASS_CACHE_WRITE_1H},
    {"reasoning", router::v1::TOKEN_CLASS_REASONING_OUTPUT},
    {"input_audio", router::v1::TOKEN_CLASS_INPUT_AUDIO},
    {"output_audio", router::v1::TOKEN_CLASS_OUTPUT_AUDIO},
    {"input_image", router::v1::TOKEN_CLASS_INPUT_IMAGE},
    {"output_image", router::v1::TOKEN_CLASS_OUTPUT_IMAGE},
    {"cache_read_audio", router::v1::TOKEN_CLASS_CACHE_READ_AUDIO},
};
constexpr std::pair<std::string_view, router::v1::ServiceTier> kTiers[] = {
    {"", router::v1::SERVICE_TIER_STANDARD},
    {"batch.", router::v1::SERVICE_TIER_BATCH},
    {"flex.", router::v1::SERVICE_TIER_FLEX},
    {"priority.", router::v1::SERVICE_TIER_PRIORITY},
};

absl::Status Bad(std::string_view why) {
  return absl::InvalidArgumentError(Absl(why));
}

void AppendUtf8(unsigned code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code >> 6));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xE0 | code >> 12));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

// Splits off one word: up to a space, where a JSON string counts as one piece and loses its quotes.
absl::StatusOr<std::string> TakeWord(std::string_view* line) {
  std::string word;
  while (!line->empty() && line->front() != ' ') {
    char c = line->front();
    line->remove_prefix(1);
    // Quotes open a string right after '=' only: JSON values have quotes inside.
    if (c != '"' || word.empty() || word.back() != '=' || absl::StrContains(Absl(word), '{')) {
      word.push_back(c);
      continue;
    }
    while (true) {
      if (line->empty()) return Bad("a string has no closing quote");
      c = line->front();
      line->remove_prefix(1);
      if (c == '"') break;
      if (c != '\\') {
        word.push_back(c);
        continue;
      }
      if (line->empty()) return Bad("a string ends in a backslash");
      c = line->front();
      line->remove_prefix(1);
      unsigned code = 0;
      if (c == 'u') {
        if (line->size() < 4) return Bad("a \\u escape needs four digits");
        if (!absl::SimpleHexAtoi(Absl(line->substr(0, 4)), &code)) return Bad("a bad \\u escape");
        line->remove_prefix(4);
        AppendUtf8(code, &word);
      } else if (c == '"' || c == '\\' || c == '/') {
        word.push_back(c);
      } else {
        return Bad("an unknown escape in a string");
      }
    }
  }
  while (!line->empty() && line->front() == ' ') line->remove_prefix(1);
  return word;
}

absl::StatusOr<int64_t> ParseNanos(std::string_view text) {
  absl::StatusOr<NanoUsd> amount = ParseUsd(text);
  if (!amount.ok()) return Bad(Std(amount.status().message()));
  if (amount->nanos() < 0) return Bad("a negative price");
  return amount->nanos();
}

// "1.1" -> 1100000: a decimal with at most 6 places.
absl::StatusOr<int64_t> ParsePpm(std::string_view text) {
  TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(text));
  if (nanos % 1000 != 0) return Bad("a factor has at most 6 decimals");
  return nanos / 1000;
}

absl::StatusOr<int64_t> ParseCount(std::string_view text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(Absl(text), &value) || value <= 0) return Bad("not a positive number");
  return value;
}

absl::StatusOr<google::protobuf::Timestamp> ParseFrom(std::string_view text) {
  absl::Time time;
  std::string error;
  const std::string full =
      text.size() == 10 ? absl::StrCat(Absl(text), "T00:00:00Z") : std::string(text);
  if (!absl::ParseTime(absl::RFC3339_full, full, &time, &error)) {
    return Bad("not a date like 2026-07-30");
  }
  google::protobuf::Timestamp stamp;
  stamp.set_seconds(absl::ToUnixSeconds(time));
  // What is written with four digits, and a Timestamp can hold.
  if (stamp.seconds() < 0 || stamp.seconds() > 253'402'300'799) {
    return Bad("not a date from 1970 to 9999");
  }
  return stamp;
}

// "16:30-00:30"
absl::Status ParseOffPeak(std::string_view text, ModelPrice* price) {
  int minutes[2] = {};
  bool valid = text.size() == 11 && text[5] == '-';
  for (int i = 0; i < 2 && valid; ++i) {
    const std::string_view clock = text.substr(i * 6, 5);
    int hour = 0, minute = 0;
    valid = clock[2] == ':' && absl::SimpleAtoi(Absl(clock.substr(0, 2)), &hour) &&
            absl::SimpleAtoi(Absl(clock.substr(3, 2)), &minute) && hour >= 0 && hour < 24 &&
            minute >= 0 && minute < 60;
    minutes[i] = hour * 60 + minute;
  }
  if (!valid || minutes[0] == minutes[1]) return Bad("not hours like 16:30-00:30");
  price->set_off_peak_from_minute(minutes[0]);
  price->set_off_peak_to_minute(minutes[1]);
  return absl::OkStatus();
}

// False if the key is no rate.
absl::StatusOr<bool> ParseRate(std::string_view key, std::string_view value, ModelPrice* price) {
  std::string_view name = key;
  int64_t step = 0;
  if (const size_t at = key.find('>'); at != std::string_view::npos) {
    name = key.substr(0, at);
    std::string_view digits = key.substr(at + 1);
    const bool thousands = !digits.empty() && digits.back() == 'k';
    if (thousands) digits.remove_suffix(1);
    TH_ASSIGN_OR_RETURN(step, ParseCount(digits));
    if (step > 1'000'000'000) return Bad("a price step above 10^9 tokens");
    if (thousands) step *= 1000;
  }
  auto tier = router::v1::SERVICE_TIER_STANDARD;
  for (const auto& [prefix, value_of_tier] : kTiers) {
    if (!prefix.empty() && absl::StartsWith(Absl(name), Absl(prefix))) {
      tier = value_of_tier;
      name.remove_prefix(prefix.size());
      break;
    }
  }
  for (const auto& [class_name, token_class] : kClasses) {
    if (name != class_name) continue;
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    Rate* rate = price->add_rates();
    rate->set_token_class(token_class);
    rate->set_tier(tier);
    rate->set_above_input_tokens(step);
    rate->set_nanousd_per_mtok(nanos);
    return true;
  }
  return false;
}

absl::Status ParseField(std::string_view key, std::string_view value, ModelPrice* price) {
  TH_ASSIGN_OR_RETURN(const bool is_rate, ParseRate(key, value, price));
  if (is_rate) return absl::OkStatus();
  if (key == "mode") {
    price->set_mode(std::string(value));
  } else if (key == "from") {
    TH_ASSIGN_OR_RETURN(*price->mutable_effective_from(), ParseFrom(value));
  } else if (key == "max_input") {
    TH_ASSIGN_OR_RETURN(const int64_t count, ParseCount(value));
    price->set_max_input_tokens(count);
  } else if (key == "max_output") {
    TH_ASSIGN_OR_RETURN(const int64_t count, ParseCount(value));
    price->set_max_output_tokens(count);
  } else if (key == "search_low") {
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    price->set_search_low_nanousd(nanos);
  } else if (key == "search_medium") {
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    price->set_search_medium_nanousd(nanos);
  } else if (key == "search_high") {
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    price->set_search_high_nanousd(nanos);
  } else if (key == "file_search") {
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    price->set_file_search_nanousd(nanos);
  } else if (key == "code_session") {
    TH_ASSIGN_OR_RETURN(const int64_t nanos, ParseNanos(value));
    price->set_code_session_nanousd(nanos);
  } else if (key == "off_peak") {
    TH_RETURN_IF_ERROR(ParseOffPeak(value, price));
  } else if (key == "regional_uplift_eu") {
    TH_ASSIGN_OR_RETURN(const int64_t ppm, ParsePpm(value));
    price->set_regional_uplift_eu_ppm(ppm);
  } else if (key == "regional_uplift_us") {
    TH_ASSIGN_OR_RETURN(const int64_t ppm, ParsePpm(value));
    price->set_regional_uplift_us_ppm(ppm);
  } else if (absl::StartsWith(Absl(key), "x.")) {
    TH_ASSIGN_OR_RETURN(const int64_t ppm, ParsePpm(value));
    (*price->mutable_multipliers_ppm())[std::string(key.substr(2))] = ppm;
  } else if (key == "other") {
    price->set_other_costs_json(std::string(value));
  } else if (key == "deprecated") {
    price->set_deprecation_date(std::string(value));
  } else if (key == "source") {
    price->set_source(std::string(value));
  } else if (key == "list") {
    price->set_source_vendor(std::string(value));
  } else {
    return Bad("unknown key");
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelPrice> ParsePrice(std::string_view rest) {
  ModelPrice price;
  TH_ASSIGN_OR_RETURN(*price.mutable_vendor(), TakeWord(&rest));
  TH_ASSIGN_OR_RETURN(*price.mutable_model(), TakeWord(&rest));
  std::set<std::string> seen;
  while (!rest.empty()) {
    TH_ASSIGN_OR_RETURN(const std::string word, TakeWord(&rest));
    const size_t at = word.find('=');
    if (at == std::string::npos) return Bad(absl::StrCat("'", word, "' is not KEY=VALUE"));
    const std::string key = word.substr(0, at);
    if (!seen.insert(key).second) return Bad(absl::StrCat("'", key, "' stands twice"));
    if (absl::Status status = ParseField(key, std::string_view(word).substr(at + 1), &price);
        !status.ok()) {
      return Bad(absl::StrCat(key, ": ", status.message()));
    }
  }
  TH_RETURN_IF_ERROR(ValidatePrice(price));
  return price;
}

std::string Decimal(int64_t nanos) {
  std::string text = FormatUsd(NanoUsd(nanos));
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string Quoted(std::string_view value) {
  const bool json = !value.empty() && value.front() == '{';
  const bool plain = value.find_first_of(json ? " " : " \"\\") == std::string_view::npos;
  if (plain) return std::string(value);
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') text.push_back('\\');
    text.push_back(c);
  }
  text.push_back('"');
  return text;
}

}  // namespace

absl::StatusOr<PriceBook> ParsePriceBook(std::string_view text) {
  PriceBook book;
  std::set<std::tuple<std::string, std::string, int64_t>> seen;
  int number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    const auto bad = [&](std::string_view why) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PRICE",
                       absl::StrCat("line ", number, ": ", Absl(why)));
    };
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    if (line.empty() || line.front() == '#') continue;
    const auto kind = TakeWord(&line);
    if (!kind.ok()) return bad(Std(kind.status().message()));
    if (*kind == "price") {
      auto price = ParsePrice(line);
      if (!price.ok()) return bad(Std(price.status().message()));
      const int64_t from = price->has_effective_from() ? price->effective_from().seconds()
                                                       : std::numeric_limits<int64_t>::min();
      if (!seen.emplace(price->vendor(), price->model(), from).second) {
        return bad("the same vendor, model and date stand twice");
      }
      book.prices.push_back(*std::move(price));
    } else if (*kind == "alias") {
      router::v1::ModelAlias alias;
      std::string* const words[] = {alias.mutable_vendor(), alias.mutable_alias(),
                                    alias.mutable_model()};
      for (std::string* word : words) {
        auto taken = TakeWord(&line);
        if (!taken.ok() || taken->empty()) return bad("an alias line is: alias VENDOR ALIAS MODEL");
        *word = *std::move(taken);
      }
      if (!line.empty()) return bad("an alias line is: alias VENDOR ALIAS MODEL");
      alias.set_keep_name(true);
      book.aliases.push_back(std::move(alias));
    } else {
      return bad("a line begins with price, alias or #");
    }
  }
  return book;
}

std::string FormatPrice(const ModelPrice& price) {
  std::string line = absl::StrCat("price ", price.vendor(), " ", price.model());
  const auto add = [&](std::string_view key, std::string_view value) {
    if (!value.empty()) absl::StrAppend(&line, " ", Absl(key), "=", Quoted(value));
  };
  const auto add_nanos = [&](std::string_view key, int64_t nanos) {
    if (nanos != 0) add(key, Decimal(nanos));
  };
  add("mode", price.mode());
  if (price.has_effective_from()) {
    const absl::Time from = absl::FromUnixSeconds(price.effective_from().seconds());
    const bool midnight = price.effective_from().seconds() % 86400 == 0;
    add("from", absl::FormatTime(midnight ? "%Y-%m-%d" : "%Y-%m-%dT%H:%M:%SZ", from,
                                 absl::UTCTimeZone()));
  }
  if (price.max_input_tokens() > 0) add("max_input", absl::StrCat(price.max_input_tokens()));
  if (price.max_output_tokens() > 0) add("max_output", absl::StrCat(price.max_output_tokens()));
  for (const auto& [prefix, tier] : kTiers) {
    std::map<int64_t, std::string> by_step;
    for (const auto& [name, token_class] : kClasses) {
      for (const Rate& rate : price.rates()) {
        if (rate.tier() != tier || rate.token_class() != token_class) continue;
        const int64_t step = rate.above_input_tokens();
        std::string suffix;
        if (step > 0) {
          suffix = step % 1000 == 0 ? absl::StrCat(">", step / 1000, "k") : absl::StrCat(">", step);
        }
        absl::StrAppend(&by_step[step], " ", Absl(prefix), Absl(name), suffix, "=",
                        Decimal(rate.nanousd_per_mtok()));
      }
    }
    for (const auto& [step, rates] : by_step) line += rates;
  }
  add_nanos("search_low", price.search_low_nanousd());
  add_nanos("search_medium", price.search_medium_nanousd());
  add_nanos("search_high", price.search_high_nanousd());
  add_nanos("file_search", price.file_search_nanousd());
  add_nanos("code_session", price.code_session_nanousd());
  if (price.off_peak_from_minute() != price.off_peak_to_minute()) {
    const auto clock = [](int minute) {
      return absl::StrCat(absl::Dec(minute / 60, absl::kZeroPad2), ":",
                          absl::Dec(minute % 60, absl::kZeroPad2));
    };
    add("off_peak", absl::StrCat(clock(price.off_peak_from_minute()), "-",
                                 clock(price.off_peak_to_minute())));
  }
  add_nanos("regional_uplift_eu", price.regional_uplift_eu_ppm() * 1000);
  add_nanos("regional_uplift_us", price.regional_uplift_us_ppm() * 1000);
  for (const auto& [name, ppm] : std::map<std::string, int64_t>(price.multipliers_ppm().begin(),
                                                                price.multipliers_ppm().end())) {
    add_nanos(absl::StrCat("x.", name), ppm * 1000);
  }
  add("other", price.other_costs_json());
  add("deprecated", price.deprecation_date());
  add("list", price.source_vendor());
  add("source", price.source());
  return line;
}

std::string FormatAlias(const router::v1::ModelAlias& alias) {
  return absl::StrCat("alias ", alias.vendor(), " ", alias.alias(), " ", alias.model());
}

}  // namespace tollhouse::policy
