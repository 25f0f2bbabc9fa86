// The names of Asio that the edge is written in, and its IO threads.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/time/time.h"
#include "libs/base/clock.h"

namespace tollhouse::edge {

namespace asio = boost::asio;
using boost::system::error_code;
using Executor = asio::io_context::executor_type;
using Tcp = asio::ip::tcp;
using Socket = asio::basic_stream_socket<Tcp, Executor>;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;
// A coroutine of an IO thread.
template <typename T = void>
using Task = asio::awaitable<T, Executor>;
// co_await socket.async_read_some(buffer, kAwait) gives [error, size]; nothing throws.
inline constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAwait{};

class Deadlines;

// Cancels what runs on a socket when a time is over: `cancel` is called on the owner's IO thread
// within 100 ms of the deadline, and again until Disarm, so that no operation slips in between.
// Cheaper than a timer per operation: arming is two stores. Not thread-safe.
class Deadline : public boost::intrusive::list_base_hook<
                     boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
 public:
  Deadline(Deadlines& deadlines, std::function<void()> cancel);
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  void Arm(absl::Duration after);
  void Disarm() {
    at_ = kNever;
    expired_ = false;
  }
  // Whether the last Arm has run out.
  bool expired() const { return expired_; }

 private:
  friend class Deadlines;
  static constexpr int64_t kNever = INT64_MAX;

  Deadlines& deadlines_;
  const std::function<void()> cancel_;
  int64_t at_ = kNever;  // monotonic nanoseconds
  bool expired_ = false;
};

// All deadlines of an IO thread, looked at ten times a second.
class Deadlines {
 public:
  Deadlines(asio::io_context& context, const Clock* clock) : timer_(context), clock_(clock) {}

  void Start();
  void Stop() { timer_.cancel(); }
  // Called at every look, after the deadlines.
  void OnTick(std::function<void()> tick) { ticks_.push_back(std::move(tick)); }
  int64_t NowNanos() const { return absl::ToInt64Nanoseconds(clock_->Monotonic()); }

 private:
  friend class Deadline;
  void Look();

  Timer timer_;
  const Clock* const clock_;
  boost::intrusive::list<Deadline, boost::intrusive::constant_time_size<false>> all_;
  std::vector<std::function<void()>> ticks_;
};

// Tells of sockets that have something to read, many at a time: for streams, whose bytes come in
// pieces too small to be worth a coroutine's way each. A socket is here or with Asio, never both. Not
// thread-safe.
class Readiness {
 public:
  class Watch {
   public:
    // Something can be read, or the other side has closed. Edge-triggered: once for all that is there.
    virtual void OnReadable(bool closed) = 0;

   protected:
    ~Watch() = default;
  };

  // Bytes that one read may take; the buffer belongs to whoever is being called.
  static constexpr size_t kBufferBytes = 64 << 10;

  Readiness();
  ~Readiness();
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // `watch` must stay until Remove. False: no memory for it in the kernel.
  bool Add(int fd, Watch* watch);
  void Remove(int fd);
  char* buffer() { return buffer_.get(); }

  // The loop's: an epoll descriptor, and what to do when it can be read.
  int fd() const { return fd_; }
  void Dispatch();

 private:
  const int fd_;
  const std::unique_ptr<char[]> buffer_;
};

// One thread with its io_context. What belongs to a request stays on one of these.
class IoLoop {
 public:
  explicit IoLoop(const Clock* clock)
      : context_(1), deadlines_(context_, clock), ready_(context_, readiness_.fd()) {}
  ~IoLoop() {
    Stop();
    ready_.release();
  }

  void Start();
  // Ends the thread; coroutines that still wait are destroyed with the object. Idempotent.
  void Stop();

  asio::io_context& context() { return context_; }
  Deadlines& deadlines() { return deadlines_; }
  Readiness& readiness() { return readiness_; }

 private:
  void WaitReady();

  Readiness readiness_;  // outlives the coroutines, which the context destroys
  asio::io_context context_;
  Deadlines deadlines_;
  asio::posix::basic_stream_descriptor<Executor> ready_;
  std::optional<asio::executor_work_guard<Executor>> work_;
  std::thread thread_;
};

}  // namespace tollhouse::edge
