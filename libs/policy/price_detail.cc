#include "libs/policy/price_detail.h"

#include <simdjson.h>

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::policy {
namespace {

// With these bounds no sum below leaves __int128: 1e10 tokens * 1e15 rate * 1e8 factor = 1e33 per
// class, 11 classes, kMaxLines lines.
constexpr int64_t kMaxTokens = 10'000'000'000;
constexpr int64_t kMaxRate = 1'000'000'000'000'000;
constexpr int64_t kMaxFactorPpm = 100'000'000;
constexpr int64_t kMaxCalls = 1'000'000;
constexpr int kMaxLines = 1000;

constexpr std::string_view kNames[kBilledClasses] = {
    "input",        "output",      "cache_read",  "cache_write_5m",   "cache_write_1h",
    "reasoning",    "input_audio", "output_audio", "input_image",     "audio_cache_read",
    "output_image",
};

constexpr std::string_view kFeeNames[kFees] = {"search", "file_search", "code_session"};

absl::Status BadUsage(std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_USAGE", why);
}

absl::Status BadDetail(std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PRICE_DETAIL",
                   absl::StrCat("price detail: ", Absl(why)));
}

void AppendJsonString(std::string_view text, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (byte < 0x20) {
      absl::StrAppend(out, "\\u00");
      out->push_back(kHex[byte >> 4]);
      out->push_back(kHex[byte & 15]);
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

bool ReadMoney(simdjson::dom::element element, int64_t* value) {
  std::string_view text;
  return element.get(text) == simdjson::SUCCESS && !text.empty() &&
         absl::SimpleAtoi(Absl(text), value) && *value >= 0;
}

absl::StatusOr<LinePrice> ParseLine(simdjson::dom::element element) {
  LinePrice line;
  simdjson::dom::object object;
  if (element.get(object) != simdjson::SUCCESS) return BadDetail("a line is not an object");
  bool has_rates = false;
  for (const auto& [key, value] : object) {
    std::string_view text;
    if (key == "model") {
      if (value.get(text) != simdjson::SUCCESS) return BadDetail("model is not a string");
      line.model = text;
    } else if (key == "tier") {
      if (value.get(text) != simdjson::SUCCESS) return BadDetail("tier is not a string");
      line.tier = text;
    } else if (key == "above") {
      if (value.get(line.above_input_tokens) != simdjson::SUCCESS) return BadDetail("bad above");
    } else if (key == "factor_ppm") {
      if (value.get(line.factor_ppm) != simdjson::SUCCESS) return BadDetail("bad factor_ppm");
    } else if (key == "rates") {
      simdjson::dom::object rates;
      if (value.get(rates) != simdjson::SUCCESS) return BadDetail("rates are not an object");
      has_rates = true;
      for (const auto& [name, rate_element] : rates) {
        int64_t rate = 0;
        if (!ReadMoney(rate_element, &rate)) return BadDetail("bad rate");
        size_t index = 0;
        while (index < kBilledClasses && kNames[index] != name) ++index;
        if (index == kBilledClasses) return BadDetail("unknown token class");
        line.rates[index] = rate;
      }
    } else {
      size_t index = 0;
      while (index < kFees && kFeeNames[index] != key) ++index;
      if (index == kFees) return BadDetail("unknown key");
      int64_t fee = 0;
      if (!ReadMoney(value, &fee)) return BadDetail("a bad fee");
      line.fees[index] = fee;
    }
  }
  if (!has_rates) return BadDetail("rates are missing");
  return line;
}

}  // namespace

std::string_view BilledName(Billed billed) { return kNames[static_cast<size_t>(billed)]; }

absl::StatusOr<std::array<int64_t, kBilledClasses>> BilledTokens(const common::v1::Usage& usage,
                                                                 bool reasoning_apart) {
  for (const int64_t count :
       {usage.input_tokens_uncached(), usage.cache_read_tokens(), usage.cache_write_5m_tokens(),
        usage.cache_write_1h_tokens(), usage.tool_use_input_tokens(), usage.audio_input_tokens(),
        usage.image_input_tokens(), usage.output_tokens(), usage.reasoning_tokens(),
        usage.audio_output_tokens(), usage.image_output_tokens(),
        usage.audio_cache_read_tokens()}) {
    if (count < 0 || count > kMaxTokens) return BadUsage("a token count is out of bounds");
  }
  std::array<int64_t, kBilledClasses> tokens{};
  const auto at = [&](Billed billed) -> int64_t& { return tokens[static_cast<size_t>(billed)]; };
  at(Billed::kInput) = usage.input_tokens_uncached() + usage.tool_use_input_tokens();
  at(Billed::kCacheRead) = usage.cache_read_tokens();
  at(Billed::kCacheWrite5m) = usage.cache_write_5m_tokens();
  at(Billed::kCacheWrite1h) = usage.cache_write_1h_tokens();
  at(Billed::kInputAudio) = usage.audio_input_tokens();
  at(Billed::kAudioCacheRead) = usage.audio_cache_read_tokens();
  at(Billed::kInputImage) = usage.image_input_tokens();
  if (reasoning_apart) {
    at(Billed::kReasoning) = std::min(usage.reasoning_tokens(), usage.output_tokens());
  }
  at(Billed::kOutput) = usage.output_tokens() - at(Billed::kReasoning);
  at(Billed::kOutputAudio) = usage.audio_output_tokens();
  at(Billed::kOutputImage) = usage.image_output_tokens();
  return tokens;
}

absl::StatusOr<std::array<int64_t, kFees>> BilledCalls(const common::v1::Usage& usage) {
  const std::array<int64_t, kFees> calls = {usage.web_search_calls(), usage.file_search_calls(),
                                            usage.code_sessions()};
  for (const int64_t count : calls) {
    if (count < 0 || count > kMaxCalls) return BadUsage("a count of calls is out of bounds");
  }
  return calls;
}

int64_t TotalInputTokens(const common::v1::Usage& usage) {
  return usage.input_tokens_uncached() + usage.cache_read_tokens() +
         usage.cache_write_5m_tokens() + usage.cache_write_1h_tokens() +
         usage.tool_use_input_tokens() + usage.audio_input_tokens() +
         usage.audio_cache_read_tokens() + usage.image_input_tokens();
}

std::string FormatDetail(const std::vector<LinePrice>& lines) {
  std::string json = "{\"v\":1,\"lines\":[";
  for (const LinePrice& line : lines) {
    if (&line != &lines.front()) json.push_back(',');
    json += "{\"model\":";
    AppendJsonString(line.model, &json);
    json += ",\"tier\":";
    AppendJsonString(line.tier, &json);
    absl::StrAppend(&json, ",\"above\":", line.above_input_tokens,
                    ",\"factor_ppm\":", line.factor_ppm, ",\"rates\":{");
    bool first = true;
    for (size_t i = 0; i < kBilledClasses; ++i) {
      if (!line.rates[i]) continue;
      absl::StrAppend(&json, first ? "" : ",", "\"", Absl(kNames[i]), "\":\"", *line.rates[i],
                      "\"");
      first = false;
    }
    json.push_back('}');
    for (size_t i = 0; i < kFees; ++i) {
      if (!line.fees[i]) continue;
      absl::StrAppend(&json, ",\"", Absl(kFeeNames[i]), "\":\"", *line.fees[i], "\"");
    }
    json.push_back('}');
  }
  json += "]}";
  return json;
}

absl::StatusOr<std::vector<LinePrice>> ParseDetail(std::string_view detail_json) {
  thread_local simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (parser.parse(detail_json.data(), detail_json.size()).get(root) != simdjson::SUCCESS) {
    return BadDetail("not JSON");
  }
  int64_t version = 0;
  simdjson::dom::array array;
  if (root["v"].get(version) != simdjson::SUCCESS || version != 1 ||
      root["lines"].get(array) != simdjson::SUCCESS) {
    return BadDetail("not version 1");
  }
  std::vector<LinePrice> lines;
  for (const simdjson::dom::element element : array) {
    TH_ASSIGN_OR_RETURN(LinePrice line, ParseLine(element));
    lines.push_back(std::move(line));
  }
  return lines;
}

absl::StatusOr<NanoUsd> AmountOf(const std::vector<LinePrice>& prices, const UsageLines& usage) {
  if (static_cast<int>(prices.size()) != usage.size()) return BadDetail("other number of lines");
  if (usage.size() > kMaxLines) return BadUsage("too many usage lines");
  constexpr __int128 kScale = 1'000'000'000'000;  // per million tokens, factor per million
  __int128 sum = 0;                               // in nano-USD / kScale
  for (int i = 0; i < usage.size(); ++i) {
    const LinePrice& price = prices[i];
    if (price.factor_ppm < 0 || price.factor_ppm > kMaxFactorPpm) return BadDetail("bad factor");
    const bool reasoning_apart = price.rates[static_cast<size_t>(Billed::kReasoning)].has_value();
    TH_ASSIGN_OR_RETURN(const auto tokens, BilledTokens(usage[i].usage(), reasoning_apart));
    __int128 line = 0;
    for (size_t c = 0; c < kBilledClasses; ++c) {
      if (tokens[c] == 0) continue;
      if (!price.rates[c]) return BadDetail("tokens of a class without a rate");
      if (*price.rates[c] < 0 || *price.rates[c] > kMaxRate) return BadDetail("rate out of bounds");
      line += static_cast<__int128>(tokens[c]) * *price.rates[c];
    }
    sum += line * price.factor_ppm;
    TH_ASSIGN_OR_RETURN(const auto calls, BilledCalls(usage[i].usage()));
    for (size_t f = 0; f < kFees; ++f) {
      if (calls[f] == 0) continue;
      if (!price.fees[f]) return BadDetail("calls without a fee");
      if (*price.fees[f] < 0 || *price.fees[f] > kMaxRate) return BadDetail("fee out of bounds");
      sum += static_cast<__int128>(calls[f]) * *price.fees[f] * kScale;
    }
  }
  const __int128 nanos = (sum + kScale - 1) / kScale;
  if (nanos > std::numeric_limits<int64_t>::max()) {
    return MakeError(absl::StatusCode::kOutOfRange, "AMOUNT_OUT_OF_RANGE",
                     "the cost of a request is above what an amount can hold");
  }
  return NanoUsd(static_cast<int64_t>(nanos));
}

absl::StatusOr<NanoUsd> RecomputeFromDetail(std::string_view detail_json, const UsageLines& usage) {
  TH_ASSIGN_OR_RETURN(const auto prices, ParseDetail(detail_json));
  return AmountOf(prices, usage);
}

}  // namespace tollhouse::policy
