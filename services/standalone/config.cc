#include "services/standalone/config.h"

namespace tollhouse::standalone {

void RegisterOptions(Config* config, config::Options* options) {
  options->Add("data-dir", &config->data_dir, "where state is kept; created if absent (required)");
  options->Add("edge-listen", &config->edge_listen, "HTTP for applications; port 0 picks one");
  options->Add("admin-listen", &config->admin_listen, "gRPC for tollctl; port 0 picks one");
  options->Add("metrics-listen", &config->metrics_listen, "/healthz, /readyz, /metrics");
  options->Add("bootstrap", &config->bootstrap, "YAML documents, applied at every start like tollctl apply");
  options->Add("tls-certificate-file", &config->tls_certificate_file,
               "PEM with its chain: applications speak TLS; reloaded when it changes");
  options->Add("tls-key-file", &config->tls_key_file, "its private key");
  options->Add("issuers-file", &config->issuers_file,
               "YAML list of identity providers whose tokens count beside virtual keys");
  options->Add("admin-issuers-file", &config->admin_issuers_file,
               "YAML list of identity providers whose tokens administer, by roles in their claims");
  options->Add("edge-threads", &config->edge_threads, "threads that relay requests");
  options->Add("edge-clamp-output", &config->edge_clamp_output,
               "lower the maximum of output tokens to what a budget affords, to no less than 1024");
  options->Add("log-level", &config->log_level, "debug, info, warning or error");
}

}  // namespace tollhouse::standalone
