// The client's end of a bidirectional stream of batches: sends at once when idle, gathers while a
// write is in flight, connects again for ever.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tollhouse::edge {

// Thread-safe. The hooks are called on gRPC threads or, `fill`, on the thread that calls Kick; never
// two `fill` nor two `received` at a time; never with locks of this class held.
template <typename Request, typename Response>
class BatchStream {
 public:
  using Reactor = grpc::ClientBidiReactor<Request, Response>;
  struct Hooks {
    // stub->async()->Session(context, reactor)
    std::function<void(grpc::ClientContext* context, Reactor* reactor)> start_call;
    // A new stream begins: everything without an answer is to be filled in again.
    std::function<void()> connected;
    // Puts what waits into the empty `request`; `first` on a stream. False: nothing waits.
    std::function<bool(bool first, Request* request)> fill;
    std::function<void(Response& response)> received;
    // A stream ended; not told again until one has brought something.
    std::function<void(const grpc::Status& status)> broken;
  };

  explicit BatchStream(Hooks hooks) : hooks_(std::move(hooks)) {}
  ~BatchStream() { Stop(); }
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;

  void Start() { Connect(); }

  // Something waits to be sent.
  void Kick() {
    std::shared_ptr<Call> call;
    {
      absl::MutexLock lock(&mutex_);
      if (call_ == nullptr) return;  // the next stream asks for it
      if (call_->writing) {
        call_->kicked = true;
        return;
      }
      call_->writing = true;
      call = call_;
    }
    call->WriteMore();
  }

  // Leaves a stream that has brought nothing since then: its other end hangs. The next one may end
  // elsewhere.
  void LeaveIfSilentSince(std::chrono::steady_clock::time_point since) {
    absl::MutexLock lock(&mutex_);
    if (call_ != nullptr && call_->last_read < since) call_->context.TryCancel();
  }

  // Ends the stream and waits for the last callback. Idempotent. Not from within a hook.
  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->context.TryCancel();
    if (alarm_ != nullptr) alarm_->Cancel();
    mutex_.Await(absl::Condition(
        +[](BatchStream* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
          return !self->active_ && !self->alarm_pending_;
        },
        this));
  }

 private:
  struct Call final : Reactor {
    explicit Call(BatchStream* s) : stream(s) {}

    // Owns the right to write (`writing` is set).
    void WriteMore() {
      for (;;) {
        request.Clear();
        if (stream->hooks_.fill(std::exchange(first, false), &request)) {
          this->StartWrite(&request);
          return;
        }
        absl::MutexLock lock(&stream->mutex_);
        if (!std::exchange(kicked, false)) {
          writing = false;
          ReleaseHoldIfDead();
          return;
        }
      }
    }

    void OnWriteDone(bool ok) override {
      if (ok) {
        {
          absl::MutexLock lock(&stream->mutex_);
          kicked = false;
        }
        WriteMore();
        return;
      }
      absl::MutexLock lock(&stream->mutex_);
      writing = false;
      ReleaseHoldIfDead();
    }

    void OnReadDone(bool ok) override {
      if (ok) {
        {
          absl::MutexLock lock(&stream->mutex_);
          stream->backoff_ = kFirstBackoff;
          last_read = std::chrono::steady_clock::now();
        }
        stream->hooks_.received(response);
        response.Clear();
        this->StartRead(&response);
        return;
      }
      absl::MutexLock lock(&stream->mutex_);
      dead = true;
      ReleaseHoldIfDead();
    }

    // The hold keeps the call from ending while Kick may still start a write on it.
    void ReleaseHoldIfDead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(stream->mutex_) {
      if (!dead || writing || released) return;
      released = true;
      writing = true;  // no Kick from here on
      this->RemoveHold();
    }

    void OnDone(const grpc::Status& status) override { stream->Disconnected(status); }

    BatchStream* const stream;
    grpc::ClientContext context;
    Request request;
    Response response;
    bool first = true;  // of whoever owns the right to write
    // Guarded by stream->mutex_.
    std::chrono::steady_clock::time_point last_read = std::chrono::steady_clock::now();
    bool writing = true;
    bool kicked = false;
    bool dead = false;
    bool released = false;
  };

  void Connect() {
    std::shared_ptr<Call> call;
    {
      absl::MutexLock lock(&mutex_);
      alarm_pending_ = false;
      if (stopping_) return;
      call = call_ = std::make_shared<Call>(this);
      active_ = true;
    }
    hooks_.connected();
    hooks_.start_call(&call->context, call.get());
    call->AddHold();
    call->StartRead(&call->response);
    call->StartCall();
    call->WriteMore();
  }

  void Disconnected(const grpc::Status& status) {
    std::shared_ptr<Call> ended;
    bool first = false;
    {
      absl::MutexLock lock(&mutex_);
      first = backoff_ == kFirstBackoff;
    }
    if (first) hooks_.broken(status);
    {
      absl::MutexLock lock(&mutex_);
      ended = std::move(call_);
    }
    // Before Stop can return: its context keeps the channel, and a channel whose last user is a gRPC
    // thread would have that thread wait for itself.
    ended.reset();
    absl::MutexLock lock(&mutex_);
    active_ = false;
    if (stopping_) return;
    alarm_pending_ = true;
    // A new one each time: the callback of the one before may still be returning.
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(backoff_),
               [this](bool) { Connect(); });
    backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  }

  static constexpr absl::Duration kFirstBackoff = absl::Milliseconds(20);
  static constexpr absl::Duration kLongestBackoff = absl::Seconds(1);

  const Hooks hooks_;
  absl::Mutex mutex_;
  std::shared_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  bool active_ ABSL_GUARDED_BY(mutex_) = false;  // a call has not ended
  bool alarm_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_) = kFirstBackoff;
};

}  // namespace tollhouse::edge
