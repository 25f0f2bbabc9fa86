#include "services/budget-enforcer/enforcer_metrics.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace tollhouse::enforcer {
namespace {

constexpr std::array<const char*, 10> kFailures = {
    "BAD_OPERATION",      "HOLD_CONFLICT",    "HOLD_FINISHED",   "HOLD_STALE",       "LEDGER_UNAVAILABLE",
    "STORE_UNAVAILABLE", "BAD_BUDGET_RULE", "UNKNOWN_ACCOUNT", "TOO_MANY_BUDGETS", "other"};

constexpr std::array<const char*, 7> kMethods = {
    "RegisterEpoch", "RegisterEdge", "GrantLease", "AcknowledgeGrants",
    "ListGrants",    "ReturnLease",  "PostExpired"};

}  // namespace

Metrics& Metrics::Get() {
  static Metrics& metrics = *new Metrics{
      .admitted = obs::Counter("tollhouse_enforcer_reservations_admitted_total", "Holds made"),
      .admitted_open = obs::Counter("tollhouse_enforcer_reservations_admitted_open_total",
                                    "Reservations admitted without money set aside: a dependency was away "
                                    "and their budgets are open on outage"),
      .waited = obs::Counter("tollhouse_enforcer_reservations_waited_total",
                             "Reservations that waited for money held by others"),
      .expired = obs::Counter("tollhouse_enforcer_holds_expired_total", "Holds that became suspense"),
      .settled = obs::Counter("tollhouse_enforcer_holds_settled_total", "Holds settled or voided"),
      .grants = obs::Counter("tollhouse_enforcer_lease_grants_total", "Lease grants taken from the ledger"),
      .grants_recovered = obs::Counter("tollhouse_enforcer_lease_grants_recovered_total",
                                       "Lease grants that another enforcer, or a lost answer, left behind"),
      .returns = obs::Counter("tollhouse_enforcer_lease_returns_total", "Lease given back to the ledger"),
      .epochs = obs::Counter("tollhouse_enforcer_epochs_opened_total", "Epochs opened or adopted"),
      .epochs_lost = obs::Counter("tollhouse_enforcer_epochs_lost_total",
                                  "Epochs found closed while they were served"),
      .store_errors = obs::Counter("tollhouse_enforcer_store_errors_total",
                                   "Calls of the hold store that failed or whose outcome is unknown"),
      .open_holds = obs::Gauge("tollhouse_enforcer_holds_open",
                               "Holds made less holds ended here: the sum over all enforcers is what is open"),
      .stalled = obs::Gauge("tollhouse_enforcer_settlements_stalled",
                            "Settlements and voids that wait for the hold store"),
      .outbox = obs::Gauge("tollhouse_enforcer_outbox_records",
                           "Expired holds and returned leases seen in the store and not posted yet"),
      .waiting = obs::Gauge("tollhouse_enforcer_reservations_waiting", "Reservations without an answer yet"),
      .lease_age_seconds = obs::Gauge("tollhouse_enforcer_lease_age_seconds",
                                      "The longest time since the ledger confirmed a lease that is in use"),
      .rules_staleness_seconds = obs::Gauge("tollhouse_enforcer_rules_staleness_seconds",
                                            "Time since budgets and limits were last known to be current"),
      .script_seconds =
          obs::Histogram("tollhouse_enforcer_script_seconds", "Calls of the hold store",
                         {0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1})};
  return metrics;
}

prometheus::Counter& Metrics::Refused(v1::Reason reason) {
  static const auto& counters = *new std::vector<prometheus::Counter*>([] {
    std::vector<prometheus::Counter*> all;
    for (int i = 0; i <= v1::Reason_MAX; ++i) {
      all.push_back(&obs::Counter("tollhouse_enforcer_reservations_refused_total",
                                  "Reservations refused, by reason of the answer",
                                  {{"reason", v1::Reason_Name(static_cast<v1::Reason>(i))}}));
    }
    return all;
  }());
  return *counters[reason];
}

prometheus::Counter& Metrics::Failed(const std::string& reason) {
  static const auto& counters = *new std::vector<prometheus::Counter*>([] {
    std::vector<prometheus::Counter*> all;
    for (const char* name : kFailures) {
      all.push_back(&obs::Counter("tollhouse_enforcer_reservations_failed_total",
                                  "Reservations that could not be decided", {{"reason", name}}));
    }
    return all;
  }());
  const auto it = std::find(kFailures.begin(), kFailures.end() - 1, std::string_view(reason));
  return *counters[it - kFailures.begin()];
}

prometheus::Counter& Metrics::LedgerCalls(const char* method, bool ok) {
  static const auto& counters = *new std::vector<prometheus::Counter*>([] {
    std::vector<prometheus::Counter*> all;
    for (const char* name : kMethods) {
      for (const char* result : {"error", "ok"}) {
        all.push_back(&obs::Counter("tollhouse_enforcer_ledger_calls_total", "Calls of the ledger",
                                    {{"method", name}, {"result", result}}));
      }
    }
    return all;
  }());
  const auto it = std::find(kMethods.begin(), kMethods.end(), std::string_view(method));
  return *counters[(it - kMethods.begin()) * 2 + (ok ? 1 : 0)];
}

}  // namespace tollhouse::enforcer
