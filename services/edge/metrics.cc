#include "services/edge/metrics.h"

#include <algorithm>

namespace tollhouse::edge {
namespace {

constexpr auto kEndpointNames = kTargetNames;  // the last is for whatever has no name
constexpr std::array<std::string_view, Metrics::kOutcomes> kOutcomeNames = {
    "ok", "budget", "limit", "rejected", "provider", "broken", "unavailable"};

const std::vector<double>& Buckets() {
  static const auto* buckets = new std::vector<double>{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                       0.05,   0.1,   0.25,   0.5,   1,    2.5,
                                                       5,      10,    30,     60,    300};
  return *buckets;
}

}  // namespace

Metrics::Metrics()
    : request_seconds(obs::Histogram("tollhouse_edge_request_seconds",
                                     "From the head of a request to the end of its answer.",
                                     Buckets())),
      overhead_seconds(obs::Histogram(
          "tollhouse_edge_admission_seconds",
          "From the head of a request to the moment it is sent on, waiting for budgets included.",
          Buckets())),
      callers_gone(obs::Counter("tollhouse_edge_callers_gone_total",
                                "Callers that left before their answer was whole.")),
      settled(obs::Counter("tollhouse_edge_attempts_total", "Provider attempts by how they ended.",
                           {{"end", "settled"}})),
      voided(obs::Counter("tollhouse_edge_attempts_total", "Provider attempts by how they ended.",
                          {{"end", "void"}})),
      suspended(obs::Counter("tollhouse_edge_attempts_total",
                             "Provider attempts by how they ended.", {{"end", "suspended"}})),
      overruns(obs::Counter("tollhouse_edge_overruns_total",
                            "Attempts that cost more than was held for them.")),
      counted(obs::Counter("tollhouse_edge_token_counts_total",
                           "Questions to providers' token counters, to lower a bound.",
                           {{"result", "ok"}})),
      counts_failed(obs::Counter("tollhouse_edge_token_counts_total",
                                 "Questions to providers' token counters, to lower a bound.",
                                 {{"result", "failed"}})),
      ambiguous(obs::Counter("tollhouse_edge_ambiguous_usage_total",
                             "Answers whose billing the provider does not document.")),
      ledger_refusals(obs::Counter("tollhouse_edge_ledger_refusals_total",
                                   "Entries that the ledger will never take.")),
      journal_failures(obs::Counter("tollhouse_edge_journal_failures_total",
                                    "Results that could not be written to the journal.")),
      journal_bytes(obs::Gauge("tollhouse_edge_journal_bytes", "Size of the journal on disk.")),
      journal_full(obs::Gauge("tollhouse_edge_journal_full",
                              "1 while the journal takes no new requests.")),
      unposted(obs::Gauge("tollhouse_edge_unposted_entries",
                          "Holds in the journal that the ledger has not answered for.")),
      connections(obs::Gauge("tollhouse_edge_connections", "Open connections of callers.")),
      staleness_seconds(obs::Gauge("tollhouse_edge_staleness_seconds",
                                   "Time since keys and accounts were known to be current.")) {
  for (int e = 0; e < kEndpoints; ++e) {
    for (int o = 0; o < kOutcomes; ++o) {
      requests[e][o] = &obs::Counter("tollhouse_edge_requests_total", "Requests by how they ended.",
                                     {{"endpoint", std::string(kEndpointNames[e])},
                                      {"outcome", std::string(kOutcomeNames[o])}});
    }
  }
}

void Metrics::Count(std::string_view endpoint, Outcome outcome) {
  const auto it = std::find(kEndpointNames.begin(), kEndpointNames.end(), endpoint);
  const size_t index =
      it == kEndpointNames.end() ? kEndpoints - 1 : static_cast<size_t>(it - kEndpointNames.begin());
  requests[index][outcome]->Increment();
}

}  // namespace tollhouse::edge
