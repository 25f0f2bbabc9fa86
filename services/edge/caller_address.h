// Where a request comes from, also behind proxies that are trusted to say so, and how often.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/http/network.h"
#include "services/edge/http_message.h"

namespace tollhouse::edge {

// Thread-safe.
class CallerAddresses {
 public:
  CallerAddresses() = default;
  // `trusted`: networks of proxies, separated by commas; `header`: where they put the address of who
  // asked them, in the manner of X-Forwarded-For. InvalidArgument for a network that is none.
  static absl::StatusOr<CallerAddresses> Parse(std::string_view trusted, std::string header);

  // The address of the connection's other end; if that is a trusted proxy, the last address in the
  // header that is not one. Nothing where a trusted proxy does not say it, or not as an address.
  std::optional<http::Address> Of(std::string_view peer, const Headers& headers) const;

 private:
  bool Trusted(const http::Address& address) const;

  std::vector<http::Network> trusted_;
  std::string header_;
};

// So many requests a minute of each address, a tenth of it at once (GCRA). Thread-safe.
class AddressLimiter {
 public:
  // `per_minute` 0: no limit. More than `addresses_max` addresses: those without a debt are forgotten,
  // then all are.
  AddressLimiter(int64_t per_minute, size_t addresses_max);

  // How long this one has to wait; zero: it may go on, and is counted.
  absl::Duration Take(const std::optional<http::Address>& from, int64_t monotonic_nanos);

 private:
  const int64_t step_nanos_;
  const int64_t burst_;
  const size_t addresses_max_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, int64_t> due_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
