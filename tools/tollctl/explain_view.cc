#include "tools/tollctl/explain_view.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "libs/base/strings.h"
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
  Value document = rows.items().back();
  document.Set("cost_nanousd", Value::Count(cost));
  if (rows.items().size() > 1) document.Set("attempts", std::move(rows));
  return document;
}

}  // namespace tollhouse::tollctl
