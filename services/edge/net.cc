#include "services/edge/net.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <boost/asio/post.hpp>
#include <system_error>

#include "libs/obs/log.h"

namespace tollhouse::edge {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);

}  // namespace

Deadline::Deadline(Deadlines& deadlines, std::function<void()> cancel)
    : deadlines_(deadlines), cancel_(std::move(cancel)) {
  deadlines_.all_.push_back(*this);
}

void Deadline::Arm(absl::Duration after) {
  expired_ = false;
  at_ = after == absl::InfiniteDuration()
            ? kNever
            : deadlines_.NowNanos() + absl::ToInt64Nanoseconds(after);
}

void Deadlines::Start() {
  timer_.expires_after(kTick);
  timer_.async_wait([this](error_code error) {
    if (error) return;
    Look();
    Start();
  });
}

void Deadlines::Look() {
  const int64_t now = NowNanos();
  for (auto it = all_.begin(); it != all_.end();) {
    Deadline& deadline = *it++;
    if (deadline.at_ > now) continue;
    deadline.expired_ = true;
    deadline.cancel_();
  }
  for (const auto& tick : ticks_) tick();
}

Readiness::Readiness()
    : fd_(epoll_create1(EPOLL_CLOEXEC)),
      buffer_(std::make_unique_for_overwrite<char[]>(kBufferBytes)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

Readiness::~Readiness() { close(fd_); }

bool Readiness::Add(int fd, Watch* watch) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
  event.data.ptr = watch;
  return epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Readiness::Remove(int fd) { epoll_ctl(fd_, EPOLL_CTL_DEL, fd, nullptr); }

void Readiness::Dispatch() {
  std::array<epoll_event, 256> events;
  const int count = epoll_wait(fd_, events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    static_cast<Watch*>(events[i].data.ptr)
        ->OnReadable((events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
  }
}

void IoLoop::WaitReady() {
  ready_.async_wait(asio::posix::descriptor_base::wait_read, [this](error_code error) {
    if (error) return;
    readiness_.Dispatch();
    WaitReady();
  });
}

void IoLoop::Start() {
  work_.emplace(context_.get_executor());
  WaitReady();
  deadlines_.Start();
  thread_ = std::thread([this] {
    for (;;) {
      try {
        context_.run();
        return;
      } catch (const std::exception& e) {
        // A handler's exception must not take the other requests of this thread along.
        obs::Error("io_handler_failed", {{"what", e.what()}});
      }
    }
  });
}

void IoLoop::Stop() {
  work_.reset();
  context_.stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace tollhouse::edge
