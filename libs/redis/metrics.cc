#include "libs/redis/metrics.h"

namespace tollhouse::redis {

Metrics& Metrics::Get() {
  static auto& metrics = *new Metrics{
      .connections = obs::Counter("tollhouse_redis_connections_total",
                                  "Connections to a primary that passed every check"),
      .losses = obs::Counter("tollhouse_redis_connections_lost_total", "Connections that ended"),
      .replies = obs::Counter("tollhouse_redis_replies_total", "Replies of primaries"),
      .unknown = obs::Counter("tollhouse_redis_calls_unknown_total",
                              "Calls sent without an answer: they may have been executed"),
      .overloaded = obs::Counter("tollhouse_redis_calls_overloaded_total",
                                 "Calls refused because too many waited"),
      .connected = obs::Gauge("tollhouse_redis_primaries_connected", "Primaries that are connected"),
      .queued = obs::Gauge("tollhouse_redis_calls_queued", "Calls that wait to be sent"),
      .in_flight = obs::Gauge("tollhouse_redis_calls_in_flight", "Calls sent and not answered"),
  };
  return metrics;
}

}  // namespace tollhouse::redis
