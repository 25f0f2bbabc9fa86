// Configuration of tollhoused.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "libs/config/options.h"

namespace tollhouse::standalone {

struct Config {
  std::string data_dir;
  std::string edge_listen = "127.0.0.1:8080";
  std::string admin_listen = "127.0.0.1:9900";
  std::string metrics_listen = "127.0.0.1:9901";
  std::string bootstrap;
  std::string tls_certificate_file;
  std::string tls_key_file;
  std::string issuers_file;
  std::string admin_issuers_file;
  std::string log_level = "info";
  int64_t edge_threads = 2;
  bool edge_clamp_output = false;
};

// Binds every option to its field.
void RegisterOptions(Config* config, config::Options* options);

}  // namespace tollhouse::standalone
