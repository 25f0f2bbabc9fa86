// Where Redis is and how to speak to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse::redis {

struct Address {
  std::string host;
  uint16_t port = 6379;

  // "host:port", an IPv6 address in brackets.
  std::string ToString() const;
  friend bool operator==(const Address&, const Address&) = default;
};

// A parsed URI:
//   redis://[user@]host[:port][,host[:port]...]        the one of them that is the primary
//   redis+sentinel://[user@]host[:port][,...]/NAME     sentinels (port 26379), which name the primary
//   redis+cluster://[user@]host[:port][,...]           some nodes of a Redis Cluster
// and the same with rediss:// for TLS to every server and sentinel. Passwords have no place in a URI.
struct Endpoints {
  enum class Mode { kAddresses, kSentinel, kCluster };

  Mode mode = Mode::kAddresses;
  bool tls = false;
  std::string user;  // "": Redis' default user
  std::vector<Address> addresses;
  std::string primary_name;  // of kSentinel
};

// INVALID_ARGUMENT (REDIS_URI) says what is wrong; the text never repeats a password.
absl::StatusOr<Endpoints> ParseUri(std::string_view uri);

struct Options {
  std::string uri;

  // Files are read at every connect, so that a rotated password or certificate is picked up.
  std::string password_file;           // "": no AUTH; one trailing newline is not part of it
  std::string sentinel_password_file;  // "": the sentinels want none
  std::string tls_ca_file;             // "": the system's authorities
  std::string tls_certificate_file;    // a client certificate, with its key
  std::string tls_key_file;
  std::string tls_server_name;  // what certificates must be for; "": the host connected to

  // Calls sent and not answered; what comes on top waits in this process.
  size_t max_in_flight = 4096;
  // Calls and bytes that wait to be sent; above either a call is refused (REDIS_OVERLOADED).
  size_t max_queued = 65536;
  size_t max_queued_bytes = size_t{64} << 20;
  // A longer reply breaks the connection.
  size_t max_reply_bytes = size_t{64} << 20;

  absl::Duration connect_timeout = absl::Seconds(1);  // TCP, TLS and all checks together
  // A connection that answers nothing for so long while calls wait is given up.
  absl::Duration stall_timeout = absl::Seconds(2);
  // Between looks at the primary's role and identity, at the sentinels, other addresses and slots.
  absl::Duration check_interval = absl::Seconds(1);
  // Between attempts: doubled from min to max, each drawn from its upper half.
  absl::Duration min_backoff = absl::Milliseconds(10);
  absl::Duration max_backoff = absl::Milliseconds(500);

  // Whether a Redis without append-only file and without save points is refused.
  bool require_persistence = true;
};

}  // namespace tollhouse::redis
