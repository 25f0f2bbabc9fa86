// tollhouse-simprovider: a scripted LLM provider with a meter of its own (README.md).
#include <iostream>

#include "libs/base/clock.h"
#include "tools/simprovider/options.h"

int main(int argc, char** argv) {
  namespace sim = tollhouse::simprovider;
  sim::Options options;
  if (const int code = sim::ParseFlags(argc, argv, &options); code >= 0) return code;

  sim::Service service(std::move(options.service), tollhouse::Clock::System());
  absl::Status status = absl::OkStatus();
  if (!options.meter_file.empty()) status = service.meter().OpenFile(options.meter_file);
  if (status.ok()) status = sim::Serve(options.server, service);
  if (!status.ok()) {
    std::cerr << "tollhouse-simprovider: " << status.message() << "\n";
    return 1;
  }
  return 0;
}
