#include "libs/obs/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace tollhouse::obs {
namespace {

prometheus::Registry& TheRegistry() {
  static prometheus::Registry* const registry =
      new prometheus::Registry(prometheus::Registry::InsertBehavior::Merge);
  return *registry;
}

}  // namespace

prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(TheRegistry()).Add(labels);
}

prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(TheRegistry()).Add(labels);
}

prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                 const std::vector<double>& buckets, const Labels& labels) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(TheRegistry()).Add(labels, buckets);
}

std::string RenderMetrics() { return prometheus::TextSerializer().Serialize(TheRegistry().Collect()); }

}  // namespace tollhouse::obs
