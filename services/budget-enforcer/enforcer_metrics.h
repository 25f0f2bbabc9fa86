// What the enforcer counts.
#pragma once

#include "libs/obs/metrics.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"

namespace tollhouse::enforcer {

struct Metrics {
  prometheus::Counter& admitted;
  prometheus::Counter& admitted_open;     // lets money pass that nobody set aside: worth an alert
  prometheus::Counter& waited;
  prometheus::Counter& expired;
  prometheus::Counter& settled;
  prometheus::Counter& grants;
  prometheus::Counter& grants_recovered;  // of requests whose answer an enforcer never used
  prometheus::Counter& returns;
  prometheus::Counter& epochs;
  prometheus::Counter& epochs_lost;
  prometheus::Counter& store_errors;
  prometheus::Gauge& open_holds;          // of this enforcer's making or ending: add all enforcers up
  prometheus::Gauge& stalled;
  prometheus::Gauge& outbox;
  prometheus::Gauge& waiting;
  prometheus::Gauge& lease_age_seconds;
  prometheus::Gauge& rules_staleness_seconds;
  prometheus::Histogram& script_seconds;

  static Metrics& Get();

  prometheus::Counter& Refused(v1::Reason reason);
  // Of a reservation that could not be decided; `reason` is that of Failed.
  prometheus::Counter& Failed(const std::string& reason);
  // `method` is a method of LedgerService.
  prometheus::Counter& LedgerCalls(const char* method, bool ok);
};

}  // namespace tollhouse::enforcer
