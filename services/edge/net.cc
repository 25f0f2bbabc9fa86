#include "services/edge/net.h"

#include <boost/asio/post.hpp>

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

void IoLoop::Start() {
  work_.emplace(context_.get_executor());
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
