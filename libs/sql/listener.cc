#include "libs/sql/listener.h"

#include <libpq-fe.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::sql {
namespace {

constexpr absl::Duration kConnectInterval = absl::Seconds(1);
constexpr absl::Duration kComplainInterval = absl::Minutes(1);

}  // namespace

struct Listener::Connection {
  explicit Connection(PGconn* c) : handle(c) {}
  ~Connection() { PQfinish(handle); }

  PGconn* const handle;
};

Listener::Listener(std::optional<PostgresOptions> options, std::string channel)
    : options_(std::move(options)),
      channel_(std::move(channel)),
      wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Listener::~Listener() {
  if (wake_fd_ >= 0) close(wake_fd_);
}

void Listener::Wake() {
  const uint64_t one = 1;
  if (write(wake_fd_, &one, sizeof one) < 0) {
    // EAGAIN: it is awake already.
  }
}

bool Listener::Connect() {
  if (connection_ != nullptr) return true;
  const absl::Time now = absl::Now();
  if (now < next_connect_) return false;
  next_connect_ = now + kConnectInterval;
  const absl::StatusOr<std::string> conninfo = PostgresConninfo(*options_);
  if (!conninfo.ok()) {
    Complain(Std(conninfo.status().message()));
    return false;
  }
  auto connection = std::make_unique<Connection>(PQconnectdb(conninfo->c_str()));
  PQsetNoticeProcessor(connection->handle, [](void*, const char*) {}, nullptr);
  bool listening = PQstatus(connection->handle) == CONNECTION_OK;
  if (listening) {
    PGresult* const result = PQexec(connection->handle, absl::StrCat("LISTEN ", channel_).c_str());
    listening = PQresultStatus(result) == PGRES_COMMAND_OK;
    PQclear(result);
  }
  if (!listening) {
    Complain(PQerrorMessage(connection->handle));
    return false;
  }
  connection_ = std::move(connection);
  complain_at_ = absl::InfinitePast();
  return true;
}

void Listener::Complain(std::string_view message) {
  const absl::Time now = absl::Now();
  if (now < complain_at_) return;
  complain_at_ = now + kComplainInterval;
  obs::Warning("notifications_unavailable",
               {{"database", PostgresAddress(options_->uri)}, {"message", message}});
}

Listener::Event Listener::Wait(absl::Duration timeout) {
  if (options_.has_value() && connection_ == nullptr && Connect()) return Event::kConnected;
  pollfd fds[2] = {{.fd = wake_fd_, .events = POLLIN, .revents = 0},
                   {.fd = -1, .events = POLLIN, .revents = 0}};
  if (connection_ != nullptr) fds[1].fd = PQsocket(connection_->handle);
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    const int ready = poll(fds, 2, static_cast<int>(absl::ToInt64Milliseconds(
                                       absl::Ceil(std::min(left, absl::Hours(1)), absl::Milliseconds(1)))));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Event::kTimeout;
    bool woken = false;
    uint64_t count = 0;
    if (fds[0].revents != 0) woken = read(wake_fd_, &count, sizeof count) > 0;
    if (fds[1].revents != 0) {
      if (PQconsumeInput(connection_->handle) == 0) {
        Complain(PQerrorMessage(connection_->handle));
        connection_.reset();
        fds[1].fd = -1;
        woken = true;
      } else {
        while (PGnotify* const notification = PQnotifies(connection_->handle)) {
          PQfreemem(notification);
          woken = true;
        }
      }
    }
    if (woken) return Event::kWoken;
  }
}

}  // namespace tollhouse::sql
