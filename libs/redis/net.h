// The names of Asio that the client is written in. Internal to libs/redis.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/time/time.h"

namespace tollhouse::redis {

namespace asio = boost::asio;
using boost::system::error_code;
using Executor = asio::io_context::executor_type;
using Tcp = asio::ip::tcp;
using Socket = asio::basic_stream_socket<Tcp, Executor>;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;
// A coroutine of the IO thread.
template <typename T = void>
using Task = asio::awaitable<T, Executor>;
// co_await timer.async_wait(kAwait) gives [error]; nothing throws.
inline constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAwait{};

// Monotonic nanoseconds: what deadlines are.
inline int64_t NowNanos() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
inline constexpr int64_t kNever = INT64_MAX;

// Wakes coroutines that wait. IO thread only.
class Event {
 public:
  explicit Event(asio::io_context& io) : timer_(std::make_shared<Timer>(io)) {}

  void Set() {
    set_ = true;
    timer_->cancel();
  }
  void Clear() { set_ = false; }
  bool is_set() const { return set_; }
  // Until Set or the timeout, one waiter at a time; whether it is set. Does not clear it.
  Task<bool> Wait(absl::Duration timeout) {
    if (!set_) {
      const std::shared_ptr<Timer> timer = timer_;
      timer->expires_after(absl::ToChronoNanoseconds(timeout));
      co_await timer->async_wait(kAwait);
    }
    co_return set_;
  }

 private:
  const std::shared_ptr<Timer> timer_;
  bool set_ = false;
};

}  // namespace tollhouse::redis
