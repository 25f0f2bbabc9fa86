// Serving one request: authentication, scenario, billing, the answer. It knows HTTP's bytes but no
// sockets: the connection is a Wire, so that tests drive it without a network.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "tools/simprovider/dialect.h"
#include "tools/simprovider/meter.h"
#include "tools/simprovider/scenario.h"

namespace tollhouse::simprovider {

// One client connection as Service sees it.
class Wire {
 public:
  virtual ~Wire() = default;
  // Writes all of `bytes`, which outlive the call. False: the client is gone.
  virtual boost::asio::awaitable<bool> Write(std::string_view bytes) = 0;
  // Waits; false, at once, when the client goes meanwhile.
  virtual boost::asio::awaitable<bool> Pause(absl::Duration duration) = 0;
  // Whether the client is known to be gone, without waiting.
  virtual bool Gone() = 0;
};

struct ServiceOptions {
  Script defaults;
  std::vector<std::string> models;  // empty: every name is served, the priced ones are listed
  std::string api_key;              // empty: any key, or none
  uint64_t seed = 1;                // of jitter
  size_t keep_records = 250'000;
  PriceTable prices;
};

// Not thread-safe: one thread serves all connections. Outlives every coroutine of Handle.
class Service {
 public:
  Service(ServiceOptions options, const Clock* clock);

  // Answers `request` on `wire`. True if the connection can carry another request, false if it is
  // to be closed as it is.
  boost::asio::awaitable<bool> Handle(const HttpRequest& request, Wire& wire);

  Meter& meter() { return meter_; }

 private:
  // One chat request on its way.
  struct Call {
    const Dialect& dialect;
    Wire& wire;
    Script script;
    Answer answer;
    std::shared_ptr<Record> record;
    bool bills = true;
  };

  boost::asio::awaitable<bool> Control(const HttpRequest& request, Wire& wire);
  boost::asio::awaitable<bool> SendRecords(int64_t after, Wire& wire);
  boost::asio::awaitable<bool> Provider(const HttpRequest& request, Wire& wire);
  boost::asio::awaitable<bool> Chat(Call& call);
  boost::asio::awaitable<bool> AnswerJson(Call& call);
  boost::asio::awaitable<bool> AnswerStream(Call& call);
  // Everything before the answer: the response if it is known at once (a refusal, models, counted
  // tokens; the record has ended), or a planned answer in `call`.
  std::optional<std::string> Prepare(const HttpRequest& request, Endpoint endpoint, Call* call);
  // Ends the record and returns the whole response. Bills nothing.
  std::string Refusal(const Dialect& dialect, const std::shared_ptr<Record>& record, int status,
                      std::string_view message, std::string_view code, std::string_view headers);
  void Bill(Call& call, const Usage& usage);
  absl::Duration Jittered(int64_t ms, int64_t jitter_ms);

  const ServiceOptions options_;
  const Clock* const clock_;
  Meter meter_;
  FaultInjector faults_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Dialect>> dialects_;
  simdjson::dom::parser parser_;
};

}  // namespace tollhouse::simprovider
