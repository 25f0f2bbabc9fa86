// The simulated provider's own meter: what it would put on the bill. It shares no code with the
// pricing of Tollhouse, so that the two can be held against each other.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/money.h"

namespace tollhouse::simprovider {

// Token classes. `input` includes cached and cache-write tokens, `output` includes reasoning.
struct Usage {
  int64_t input = 0;
  int64_t cached = 0;
  int64_t cache_write_5m = 0;
  int64_t cache_write_1h = 0;
  int64_t output = 0;
  int64_t reasoning = 0;
  int64_t searches = 0;  // web searches, billed by the call

  int64_t uncached() const { return input - cached - cache_write_5m - cache_write_1h; }
  friend bool operator==(const Usage&, const Usage&) = default;
};

// Nano-USD per million tokens.
struct TokenPrices {
  int64_t input = 0;
  int64_t output = 0;
  int64_t cache_read = 0;
  int64_t cache_write_5m = 0;
  int64_t cache_write_1h = 0;

  friend bool operator==(const TokenPrices&, const TokenPrices&) = default;
};

// What a web search costs by itself, $0.035, whatever the model.
inline constexpr int64_t kSearchNanos = 35'000'000;

// ceil(sum(tokens * price) / 10^6) + searches, rounded once.
NanoUsd Cost(const TokenPrices& prices, const Usage& usage);

// Prices by model name. Immutable once serving.
class PriceTable {
 public:
  // gpt-4o-mini, gpt-4o, gpt-5-mini, claude-sonnet-4-5 (with its tier above 200,000 input
  // tokens), claude-haiku-4-5 at list prices of 2026-08.
  static PriceTable Default();

  // "model=input,output[,cache_read[,cache_write_5m[,cache_write_1h]]]" in decimal USD per million
  // tokens; a class left out costs what input costs. "model@N=..." holds for requests of more than
  // N input tokens. Replaces an earlier price. InvalidArgument says what is wrong.
  absl::Status Add(std::string_view text);

  // The prices of a request of `input_tokens`; a dated name ("gpt-4o-mini-2024-07-18") falls back
  // to the name without its date. nullptr if the model has no price.
  const TokenPrices* Find(std::string_view model, int64_t input_tokens) const;

  // Model names in alphabetical order.
  std::vector<std::string> Models() const;

 private:
  const TokenPrices* FindExact(std::string_view model, int64_t input_tokens) const;

  // model -> (threshold -> prices); a request takes the highest threshold below its input.
  std::map<std::string, std::map<int64_t, TokenPrices>, std::less<>> tiers_;
};

// One request as the provider saw it.
struct Record {
  // Set by the caller of Begin.
  std::string dialect;
  std::string method;
  std::string path;
  std::string model;
  std::string hold_id;    // x-tollhouse-hold-id, "" if absent
  std::string key_hash;   // first 12 hex digits of SHA-256 of the presented key, "" if none
  std::string body_hash;  // first 16 hex digits of SHA-256 of the body
  int64_t body_bytes = 0;
  bool stream = false;
  std::string fault;
  // Kept by the meter.
  int64_t seq = 0;
  absl::Time time;
  int status = 0;  // 0: no head was sent
  Usage usage;
  const TokenPrices* prices = nullptr;
  bool billed = false;
  bool completed = false;  // the whole answer was written
  bool open = true;
  std::string end;  // "" while open; ok, error, cut, client_gone, hang, midstream_error, shutdown
  NanoUsd cost;
  int64_t generation = 0;  // which reset of the meter it belongs to
};

// Records and the running total. Not thread-safe: it lives on the server's one thread, so every
// reader sees a total in which each request is billed exactly as far as it was generated.
class Meter {
 public:
  // Keeps the latest `keep_records` records; totals count all.
  Meter(PriceTable prices, size_t keep_records, const Clock* clock);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  // Appends every record to `path` from now on: one line when it ends, one before it waits if it
  // is billed already (Snapshot). The last line of a `seq` counts.
  absl::Status OpenFile(const std::string& path);

  const PriceTable& prices() const { return prices_; }

  // A request arrived; it is not billed yet and counts as in flight until End.
  std::shared_ptr<Record> Begin(Record record);
  // Sets what the request is billed for, at once in the total. Usage only grows.
  void Bill(const std::shared_ptr<Record>& record, const Usage& usage);
  // Writes the state so far to the file.
  void Snapshot(const Record& record);
  // Idempotent: the first end counts.
  void End(const std::shared_ptr<Record>& record, int status, bool completed, std::string_view end);
  // Ends everything in flight as "shutdown".
  void EndAll();
  // Forgets records and totals; requests in flight are forgotten too, sequence numbers go on.
  void Reset();

  std::string TotalsJson() const;
  // At most `max` lines for records with seq > after, oldest first; `after` moves on. "" at the
  // end.
  std::string RecordLines(int64_t* after, size_t max) const;
  NanoUsd total() const { return total_; }
  int64_t in_flight() const { return in_flight_; }

 private:
  void AppendToFile(const Record& record);

  const PriceTable prices_;
  const size_t keep_records_;
  const Clock* const clock_;
  int file_ = -1;
  bool file_failed_ = false;
  int64_t next_seq_ = 1;
  int64_t generation_ = 0;
  std::deque<std::shared_ptr<Record>> records_;
  std::map<int64_t, std::shared_ptr<Record>> open_;
  int64_t dropped_ = 0;
  int64_t requests_ = 0;
  int64_t billed_requests_ = 0;
  int64_t unpriced_requests_ = 0;
  int64_t in_flight_ = 0;
  int64_t max_concurrent_ = 0;
  Usage usage_;
  NanoUsd total_;
};

// One line of JSON without the newline.
std::string RecordJson(const Record& record);

}  // namespace tollhouse::simprovider
