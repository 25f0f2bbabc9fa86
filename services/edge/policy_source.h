// The policy in force, pushed by the router.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/policy/policy.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// Thread-safe.
class PolicySource {
 public:
  PolicySource(std::shared_ptr<grpc::ChannelInterface> router, const std::string& edge_id,
               const Clock* clock);
  ~PolicySource();

  void Start();
  // Idempotent.
  void Stop();
  bool WaitSynced(absl::Duration timeout);

  // nullptr before the first one arrived. A policy stays in force while the router is away.
  std::shared_ptr<const policy::Policy> Current() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
