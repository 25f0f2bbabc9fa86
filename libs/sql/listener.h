// Waits for notifications of a PostgreSQL server, on a connection of its own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "libs/sql/postgres.h"

namespace tollhouse::sql {

// A hint, never a promise: notifications are lost while the connection is, and whoever waits looks
// again now and then. All but Wake() on one thread.
class Listener {
 public:
  // Listens on `channel` (a lower-case identifier) from the first Wait() on. Without options: to
  // Wake() alone.
  Listener(std::optional<PostgresOptions> options, std::string channel);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  enum class Event {
    kTimeout,
    kWoken,      // Wake() was called, or somebody notified
    kConnected,  // the connection is there (again): what was notified before is unknown
  };
  // Returns at once if something happened since the last call. Connects where it must, at most once
  // a second; that takes connect_timeout at most.
  Event Wait(absl::Duration timeout);

  // From any thread.
  void Wake();

 private:
  struct Connection;

  // Makes the connection; false if it is not there now.
  bool Connect();
  // Once when the connection is lost, and at most once a minute while it stays away.
  void Complain(std::string_view message);

  const std::optional<PostgresOptions> options_;
  const std::string channel_;
  int wake_fd_ = -1;
  std::unique_ptr<Connection> connection_;
  absl::Time next_connect_ = absl::InfinitePast();
  absl::Time complain_at_ = absl::InfinitePast();
};

}  // namespace tollhouse::sql
