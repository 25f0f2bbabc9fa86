#include "tools/simprovider/meter.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/json_text.h"

namespace tollhouse::simprovider {
namespace {

bool AllDigits(std::string_view text) {
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
  }
  return !text.empty();
}

// "gpt-4o-mini-2024-07-18" and "claude-sonnet-4-5-20250929" without their dates; else unchanged.
std::string_view WithoutDate(std::string_view model) {
  const size_t size = model.size();
  if (size > 9 && model[size - 9] == '-' && AllDigits(model.substr(size - 8))) {
    return model.substr(0, size - 9);
  }
  if (size > 11 && model[size - 11] == '-' && AllDigits(model.substr(size - 10, 4)) &&
      model[size - 6] == '-' && AllDigits(model.substr(size - 5, 2)) && model[size - 3] == '-' &&
      AllDigits(model.substr(size - 2))) {
    return model.substr(0, size - 11);
  }
  return model;
}

void AppendUsage(const Usage& usage, std::string* out) {
  absl::StrAppend(out, "{\"input_tokens\":", usage.input, ",\"cached_input_tokens\":", usage.cached,
                  ",\"cache_write_tokens\":", usage.cache_write_5m + usage.cache_write_1h,
                  ",\"cache_write_5m_tokens\":", usage.cache_write_5m,
                  ",\"cache_write_1h_tokens\":", usage.cache_write_1h,
                  ",\"output_tokens\":", usage.output, ",\"reasoning_tokens\":", usage.reasoning,
                  ",\"web_searches\":", usage.searches, "}");
}

std::string_view Bool(bool value) { return value ? "true" : "false"; }

}  // namespace

NanoUsd Cost(const TokenPrices& prices, const Usage& usage) {
  constexpr __int128 kMillion = 1'000'000;
  __int128 sum = 0;
  sum += static_cast<__int128>(usage.uncached()) * prices.input;
  sum += static_cast<__int128>(usage.cached) * prices.cache_read;
  sum += static_cast<__int128>(usage.cache_write_5m) * prices.cache_write_5m;
  sum += static_cast<__int128>(usage.cache_write_1h) * prices.cache_write_1h;
  sum += static_cast<__int128>(usage.output) * prices.output;
  sum += static_cast<__int128>(usage.searches) * kSearchNanos * kMillion;
  const __int128 nanos = (sum + kMillion - 1) / kMillion;
  // Prices and token counts are bounded where they enter, so that this cannot happen.
  if (nanos < 0 || nanos > std::numeric_limits<int64_t>::max()) std::abort();
  return NanoUsd(static_cast<int64_t>(nanos));
}

PriceTable PriceTable::Default() {
  PriceTable table;
  for (const std::string_view price :
       {"gpt-4o-mini=0.15,0.6,0.075", "gpt-4o=2.5,10,1.25", "gpt-5-mini=0.25,2,0.025",
        "claude-sonnet-4-5=3,15,0.3,3.75,6", "claude-sonnet-4-5@200000=6,22.5,0.6,7.5,12",
        "claude-haiku-4-5=1,5,0.1,1.25,2",
        "gpt-3.5-turbo-instruct=1.5,2", "text-embedding-3-small=0.02,0",
        "gemini-2.5-flash=0.3,2.5,0.03", "gemini-embedding-001=0.15,0"}) {
    if (!table.Add(price).ok()) std::abort();
  }
  return table;
}

absl::Status PriceTable::Add(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("not a price: '", Absl(text), "' (", Absl(why),
                                                   "); use model=0.15,0.6,0.075"));
  };
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) return bad("no model=");
  std::string_view model = text.substr(0, equals);
  int64_t threshold = 0;
  if (const size_t at = model.rfind('@'); at != std::string_view::npos) {
    if (!absl::SimpleAtoi(Absl(model.substr(at + 1)), &threshold) || threshold <= 0) {
      return bad("the number after @ is not a count of tokens");
    }
    model = model.substr(0, at);
  }
  std::vector<int64_t> nanos;
  for (const absl::string_view part : absl::StrSplit(Absl(text.substr(equals + 1)), ',')) {
    TH_ASSIGN_OR_RETURN(const NanoUsd price, ParseUsd(Std(part)));
    if (price < NanoUsd() || price > kMaxHold) return bad("a price is negative or absurd");
    nanos.push_back(price.nanos());
  }
  if (nanos.size() < 2 || nanos.size() > 5) return bad("give 2 to 5 prices");
  nanos.resize(5, -1);
  const auto or_input = [&](int64_t price) { return price < 0 ? nanos[0] : price; };
  tiers_[std::string(model)][threshold] = {.input = nanos[0],
                                           .output = nanos[1],
                                           .cache_read = or_input(nanos[2]),
                                           .cache_write_5m = or_input(nanos[3]),
                                           .cache_write_1h = or_input(nanos[4])};
  return absl::OkStatus();
}

const TokenPrices* PriceTable::FindExact(std::string_view model, int64_t input_tokens) const {
  const auto tiers = tiers_.find(model);
  if (tiers == tiers_.end()) return nullptr;
  const TokenPrices* found = nullptr;
  for (const auto& [threshold, prices] : tiers->second) {
    if (threshold == 0 || input_tokens > threshold) found = &prices;
  }
  return found;
}

const TokenPrices* PriceTable::Find(std::string_view model, int64_t input_tokens) const {
  const TokenPrices* exact = FindExact(model, input_tokens);
  return exact != nullptr ? exact : FindExact(WithoutDate(model), input_tokens);
}

std::vector<std::string> PriceTable::Models() const {
  std::vector<std::string> models;
  for (const auto& [model, tiers] : tiers_) models.push_back(model);
  return models;
}

Meter::Meter(PriceTable prices, size_t keep_records, const Clock* clock)
    : prices_(std::move(prices)), keep_records_(keep_records), clock_(clock) {}

Meter::~Meter() {
  if (file_ >= 0) close(file_);
}

absl::Status Meter::OpenFile(const std::string& path) {
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot write the meter file ", path, ": ", strerror(errno)));
  }
  return absl::OkStatus();
}

std::shared_ptr<Record> Meter::Begin(Record record) {
  auto entry = std::make_shared<Record>(std::move(record));
  entry->seq = next_seq_++;
  entry->time = clock_->Wall();
  entry->generation = generation_;
  records_.push_back(entry);
  if (records_.size() > keep_records_) {
    records_.pop_front();
    ++dropped_;
  }
  open_.emplace(entry->seq, entry);
  ++requests_;
  ++in_flight_;
  if (in_flight_ > max_concurrent_) max_concurrent_ = in_flight_;
  return entry;
}

void Meter::Bill(const std::shared_ptr<Record>& record, const Usage& usage) {
  if (record->generation != generation_ || !record->open) return;
  if (!record->billed) {
    record->billed = true;
    record->prices = prices_.Find(record->model, usage.input);
    ++billed_requests_;
    if (record->prices == nullptr) ++unpriced_requests_;
  }
  const Usage& old = record->usage;
  usage_.input += usage.input - old.input;
  usage_.cached += usage.cached - old.cached;
  usage_.cache_write_5m += usage.cache_write_5m - old.cache_write_5m;
  usage_.cache_write_1h += usage.cache_write_1h - old.cache_write_1h;
  usage_.output += usage.output - old.output;
  usage_.reasoning += usage.reasoning - old.reasoning;
  usage_.searches += usage.searches - old.searches;
  record->usage = usage;
  const NanoUsd cost = record->prices == nullptr ? NanoUsd() : Cost(*record->prices, usage);
  total_ += cost - record->cost;
  record->cost = cost;
}

void Meter::Snapshot(const Record& record) {
  if (record.generation == generation_) AppendToFile(record);
}

void Meter::End(const std::shared_ptr<Record>& record, int status, bool completed,
                std::string_view end) {
  if (!record->open) return;
  record->open = false;
  record->status = status;
  record->completed = completed;
  record->end = end;
  --in_flight_;
  open_.erase(record->seq);
  if (record->generation == generation_) AppendToFile(*record);
}

void Meter::EndAll() {
  while (!open_.empty()) {
    const std::shared_ptr<Record> record = open_.begin()->second;
    End(record, record->status, false, "shutdown");
  }
}

void Meter::Reset() {
  ++generation_;
  records_.clear();
  dropped_ = 0;
  requests_ = 0;
  billed_requests_ = 0;
  unpriced_requests_ = 0;
  max_concurrent_ = in_flight_;
  usage_ = Usage();
  total_ = NanoUsd();
}

std::string Meter::TotalsJson() const {
  int64_t open = 0;
  for (const auto& [seq, record] : open_) open += record->generation == generation_ ? 1 : 0;
  std::string out =
      absl::StrCat("{\"requests\":", requests_, ",\"billed_requests\":", billed_requests_,
                   ",\"open_requests\":", open, ",\"unpriced_requests\":", unpriced_requests_,
                   ",\"cost_nanousd\":\"", total_.nanos(), "\",\"in_flight\":", in_flight_,
                   ",\"max_concurrent\":", max_concurrent_, ",\"last_seq\":", next_seq_ - 1,
                   ",\"records_dropped\":", dropped_, ",\"usage\":");
  AppendUsage(usage_, &out);
  out.append("}\n");
  return out;
}

std::string Meter::RecordLines(int64_t* after, size_t max) const {
  std::string out;
  if (records_.empty()) return out;
  // Sequence numbers are consecutive, so a record's place follows from its number.
  const int64_t first = records_.front()->seq;
  size_t index = *after < first ? 0 : static_cast<size_t>(*after - first + 1);
  for (size_t n = 0; n < max && index < records_.size(); ++n, ++index) {
    out.append(RecordJson(*records_[index]));
    out.push_back('\n');
    *after = records_[index]->seq;
  }
  return out;
}

void Meter::AppendToFile(const Record& record) {
  if (file_ < 0 || file_failed_) return;
  std::string line = RecordJson(record);
  line.push_back('\n');
  if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    file_failed_ = true;
    std::fprintf(stderr, "tollhouse-simprovider: the meter file failed: %s\n", strerror(errno));
  }
}

std::string RecordJson(const Record& record) {
  std::string out =
      absl::StrCat("{\"seq\":", record.seq, ",\"time\":\"",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", record.time, absl::UTCTimeZone()),
                   "\",\"dialect\":\"", record.dialect, "\",\"method\":");
  AppendJsonString(record.method, &out);
  out.append(",\"path\":");
  AppendJsonString(record.path, &out);
  out.append(",\"model\":");
  AppendJsonString(record.model, &out);
  out.append(",\"hold_id\":");
  AppendJsonString(record.hold_id, &out);
  absl::StrAppend(
      &out, ",\"key_hash\":\"", record.key_hash, "\",\"body_bytes\":", record.body_bytes,
      ",\"body_hash\":\"", record.body_hash, "\",\"stream\":", Absl(Bool(record.stream)),
      ",\"fault\":\"", record.fault, "\",\"status\":", record.status,
      ",\"billed\":", Absl(Bool(record.billed)), ",\"completed\":", Absl(Bool(record.completed)),
      ",\"open\":", Absl(Bool(record.open)), ",\"end\":\"", record.end, "\",\"usage\":");
  AppendUsage(record.usage, &out);
  absl::StrAppend(&out, ",\"cost_nanousd\":\"", record.cost.nanos(),
                  "\",\"price_nanousd_per_million\":");
  if (record.prices == nullptr) {
    out.append("null}");
  } else {
    const TokenPrices& prices = *record.prices;
    absl::StrAppend(&out, "{\"input\":\"", prices.input, "\",\"output\":\"", prices.output,
                    "\",\"cache_read\":\"", prices.cache_read, "\",\"cache_write_5m\":\"",
                    prices.cache_write_5m, "\",\"cache_write_1h\":\"", prices.cache_write_1h,
                    "\"}}");
  }
  return out;
}

}  // namespace tollhouse::simprovider
