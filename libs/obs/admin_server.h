// The admin port of a process: /healthz, /readyz, /metrics over plain HTTP.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tollhouse::obs {

// Serves on a thread of its own, a connection at a time, each with a deadline.
class AdminServer {
 public:
  // `ready` is asked per /readyz: "" is ready (200), else the reason (503).
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& listen,
                                                            std::function<std::string()> ready);
  ~AdminServer();

  // "127.0.0.1:9901", with the port that was bound.
  const std::string& address() const { return address_; }

 private:
  struct Impl;
  AdminServer();

  std::unique_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace tollhouse::obs
