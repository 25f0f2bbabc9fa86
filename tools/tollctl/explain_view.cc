#include "tools/tollctl/explain_view.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libs/base/strings.h"
#include "libs/policy/price_detail.h"
#include "tools/tollctl/from_proto.h"

namespace tollhouse::tollctl {
namespace {

using common::v1::Usage;

Value UsageOf(const ledger::v1::Entry& entry) {
  int64_t input = 0, cached = 0, written = 0, output = 0, reasoning = 0;
  for (const auto& line : entry.usage()) {
    const Usage& u = line.usage();
    cached += u.cache_read_tokens() + u.audio_cache_read_tokens();
    written += u.cache_write_5m_tokens() + u.cache_write_1h_tokens();
    input += u.input_tokens_uncached() + u.cache_read_tokens() + u.audio_cache_read_tokens() +
             u.cache_write_5m_tokens() + u.cache_write_1h_tokens() + u.tool_use_input_tokens() +
             u.audio_input_tokens() + u.image_input_tokens();
    output += u.output_tokens() + u.audio_output_tokens() + u.image_output_tokens();
    reasoning += u.reasoning_tokens();
  }
  return Value::Object({{"input_tokens", Value::Count(input)},
                        {"cached_input_tokens", Value::Count(cached)},
                        {"cache_write_tokens", Value::Count(written)},
                        {"output_tokens", Value::Count(output)},
                        {"reasoning_tokens", Value::Count(reasoning)}});
}

std::string SourceName(common::v1::UsageSource source) {
  if (source == common::v1::USAGE_SOURCE_UNSPECIFIED) return "";
  return absl::AsciiStrToLower(
      absl::StripPrefix(common::v1::UsageSource_Name(source), "USAGE_SOURCE_"));
}

// `units` of 10^-21 USD (a nano-dollar per million tokens, a factor per million) as exact decimal USD.
std::string ExactUsd(__int128 units) {
  std::string digits;
  for (; units > 0; units /= 10) digits.insert(digits.begin(), static_cast<char>('0' + units % 10));
  if (digits.size() < 22) digits.insert(0, 22 - digits.size(), '0');
  digits.insert(digits.end() - 21, '.');
  while (digits.back() == '0') digits.pop_back();
  if (digits.back() == '.') digits.pop_back();
  return digits;
}

Value SumRow(const std::string& model, std::string_view item, int64_t quantity,
             std::string unit_price, std::string factor, __int128 units) {
  return Value::Object({{"model", model},
                        {"item", item},
                        {"quantity", Value::Count(quantity)},
                        {"unit_price", std::move(unit_price)},
                        {"factor", std::move(factor)},
                        {"amount", ExactUsd(units)}});
}

// The sum that the entry's cost is, term by term; no rows if it cannot be told.
Value SumOf(const ledger::v1::Entry& entry) {
  constexpr __int128 kNano = 1'000'000'000'000;  // of SumRow's units
  constexpr std::string_view kFeeItems[policy::kFees] = {"web searches", "file searches",
                                                         "code interpreter sessions"};
  Value rows = Value::List();
  const auto prices = policy::ParseDetail(entry.price_detail());
  if (!prices.ok() || static_cast<int>(prices->size()) != entry.usage_size()) return rows;
  __int128 sum = 0;
  for (int i = 0; i < entry.usage_size(); ++i) {
    const policy::LinePrice& price = (*prices)[i];
    const bool reasoning_apart =
        price.rates[static_cast<size_t>(policy::Billed::kReasoning)].has_value();
    const auto tokens = policy::BilledTokens(entry.usage(i).usage(), reasoning_apart);
    const auto calls = policy::BilledCalls(entry.usage(i).usage());
    if (!tokens.ok() || !calls.ok()) return Value::List();
    std::string model = price.model;
    if (price.tier != "standard") absl::StrAppend(&model, " ", price.tier);
    if (price.above_input_tokens > 0) absl::StrAppend(&model, " >", price.above_input_tokens);
    for (size_t c = 0; c < policy::kBilledClasses; ++c) {
      if ((*tokens)[c] == 0 || !price.rates[c]) continue;
      const __int128 units =
          static_cast<__int128>((*tokens)[c]) * *price.rates[c] * price.factor_ppm;
      sum += units;
      rows.Add(SumRow(model, policy::BilledName(static_cast<policy::Billed>(c)), (*tokens)[c],
                      absl::StrCat(ExactUsd(*price.rates[c] * kNano), "/M"),
                      ExactUsd(static_cast<__int128>(price.factor_ppm) * 1'000'000'000'000'000),
                      units));
    }
    for (size_t f = 0; f < policy::kFees; ++f) {
      if ((*calls)[f] == 0 || !price.fees[f]) continue;
      const __int128 units = static_cast<__int128>((*calls)[f]) * *price.fees[f] * kNano;
      sum += units;
      rows.Add(SumRow(model, kFeeItems[f], (*calls)[f], ExactUsd(*price.fees[f] * kNano), "1",
                      units));
    }
  }
  const __int128 posted = static_cast<__int128>(entry.cost_nanousd()) * kNano;
  if (posted >= sum) {
    rows.Add(SumRow("", "rounding up to the nano-dollar", 1, ExactUsd(posted - sum), "1",
                    posted - sum));
  }
  return rows;
}

Value Attempt(const ledger::v1::JournalEntry& posted) {
  const ledger::v1::Entry& entry = posted.entry();
  Value row = Value::Object({{"request_id", entry.request_id()},
                             {"account", entry.account_path()},
                             {"provider", entry.provider()},
                             {"model", entry.model()},
                             {"usage", UsageOf(entry)},
                             {"usage_source", SourceName(entry.usage_source())},
                             {"price_version", entry.price_version()},
                             {"hold_nanousd", Value::Count(entry.hold_nanousd())},
                             {"cost_nanousd", Value::Count(entry.cost_nanousd())},
                             {"status", entry.status()},
                             {"state", posted.state()},
                             {"attempt", Value::Number(entry.attempt())},
                             {"hold_id", posted.hold_id()},
                             {"upstream_model", entry.upstream_model()},
                             {"http_status", Value::Number(entry.http_status())},
                             {"endpoint", entry.endpoint()},
                             {"streamed", entry.streamed()},
                             {"price_detail", entry.price_detail()},
                             {"reversing", posted.reversing()}});
  const Value all = FromProto(entry);
  row.Set("tags", all.At("tags"));
  row.Set("budgets", all.At("budgets"));
  if (entry.has_started_at()) row.Set("started_at", all.At("started_at"));
  if (entry.has_ended_at()) row.Set("ended_at", all.At("ended_at"));
  return row;
}

}  // namespace

Value ExplainDocument(const ledger::v1::ExplainRequestResponse& attempts) {
  Value rows = Value::List();
  int64_t cost = 0;
  for (const auto& attempt : attempts.attempts()) {
    rows.Add(Attempt(attempt));
    cost += attempt.entry().cost_nanousd();
  }
  int shown = attempts.attempts_size() - 1;
  // Beside an estimate, what remains in suspense says nothing of the usage.
  if (shown > 0 && attempts.attempts(shown).state() == "suspense" &&
      attempts.attempts(shown - 1).hold_id() == attempts.attempts(shown).hold_id()) {
    --shown;
  }
  Value document = rows.items()[shown];
  document.Set("sum", SumOf(attempts.attempts(shown).entry()));
  document.Set("cost_nanousd", Value::Count(cost));
  if (rows.items().size() > 1) document.Set("attempts", std::move(rows));
  return document;
}

}  // namespace tollhouse::tollctl
