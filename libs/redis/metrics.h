// What the client counts. Internal to libs/redis.
#pragma once

#include "libs/obs/metrics.h"

namespace tollhouse::redis {

struct Metrics {
  prometheus::Counter& connections;   // that passed every check
  prometheus::Counter& losses;
  prometheus::Counter& replies;
  prometheus::Counter& unknown;       // calls that may have been executed
  prometheus::Counter& overloaded;
  prometheus::Gauge& connected;
  prometheus::Gauge& queued;
  prometheus::Gauge& in_flight;

  static Metrics& Get();
};

}  // namespace tollhouse::redis
