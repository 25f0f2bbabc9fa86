// The edge's metrics, looked up once.
#pragma once

#include <array>
#include <string_view>

#include "libs/obs/metrics.h"
#include "services/edge/target.h"

namespace tollhouse::edge {

struct Metrics {
  Metrics();

  // How requests ended; the label `outcome` takes these values only.
  enum Outcome {
    kOk,
    kBudget,        // exhausted, held or blocked
    kLimit,         // rate and concurrency
    kRejected,      // bad request, key, model, feature
    kProvider,      // the provider refused or could not be reached
    kBroken,        // the answer did not come, or not whole
    kUnavailable,   // infrastructure
    kOutcomes,
  };
  void Count(std::string_view endpoint, Outcome outcome);

  static constexpr int kEndpoints = static_cast<int>(kTargetNames.size());
  std::array<std::array<prometheus::Counter*, kOutcomes>, kEndpoints> requests;
  prometheus::Histogram& request_seconds;
  prometheus::Histogram& overhead_seconds;  // before the request is sent on
  prometheus::Counter& callers_gone;
  prometheus::Counter& settled;
  prometheus::Counter& voided;
  prometheus::Counter& suspended;
  prometheus::Counter& overruns;         // cost above the hold
  prometheus::Counter& counted;        // answers of providers' token counters to the edge itself
  prometheus::Counter& counts_failed;  // and what came instead
  prometheus::Counter& ambiguous;        // the provider does not document how it bills this
  prometheus::Counter& ledger_refusals;  // entries the ledger will never take
  prometheus::Counter& journal_failures;
  prometheus::Gauge& journal_bytes;
  prometheus::Gauge& journal_full;
  prometheus::Gauge& unposted;
  prometheus::Gauge& connections;
  prometheus::Gauge& staleness_seconds;
};

}  // namespace tollhouse::edge
