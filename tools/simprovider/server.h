// Sockets: accepts, reads HTTP/1.1 (optionally under TLS) and lets a Service answer.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "tools/simprovider/service.h"

namespace tollhouse::simprovider {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // port 0: any free one
  std::string endpoint_file;           // written when ready, "" for none
  std::string tls_cert_file;           // PEM chain; with tls_key_file: serve TLS
  std::string tls_key_file;
};

// Prints {"listen":"HOST:PORT","url":"..."} on stdout (and into the endpoint file) when ready, and
// serves on the calling thread until SIGTERM or SIGINT; then ends what is in flight and returns OK.
absl::Status Serve(const ServerOptions& options, Service& service);

}  // namespace tollhouse::simprovider
