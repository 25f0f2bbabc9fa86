// Prometheus metrics of this process. Names: tollhouse_<service>_<noun>_<unit>[_total].
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <map>
#include <string>
#include <vector>

namespace tollhouse::obs {

using Labels = std::map<std::string, std::string>;

// Metrics live as long as the process; keep the reference, do not look it up per event. The same
// name and labels give the same metric. Label values must come from a bounded set. Thread-safe.
prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels = {});
prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                 const std::vector<double>& buckets, const Labels& labels = {});

// All metrics in the Prometheus text format.
std::string RenderMetrics();

}  // namespace tollhouse::obs
