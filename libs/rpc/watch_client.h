// The other end of a WatchHub: stays subscribed, applies what comes, acknowledges it.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/obs/log.h"

namespace tollhouse::rpc {

// Reconnects with backoff (50 ms doubling to 2 s) until stopped. Thread-safe; Stop() before
// destruction is implied.
template <typename Request, typename Response>
class WatchClient {
 public:
  using Reactor = grpc::ClientBidiReactor<Request, Response>;
  // Starts the RPC: stub->async()->Watch(context, reactor).
  using StartCall = std::function<void(grpc::ClientContext* context, Reactor* reactor)>;
  // Called on a gRPC thread, one response at a time, in order; acknowledged when it returns.
  using Apply = std::function<void(const Response& response)>;
  // The same, but acknowledged when `applied` is called, once, on any thread.
  using ApplyLater = std::function<void(const Response& response, std::function<void()> applied)>;

  WatchClient(std::string subscriber, StartCall start_call, ApplyLater apply, const Clock* clock)
      : subscriber_(std::move(subscriber)),
        start_call_(std::move(start_call)),
        apply_(std::move(apply)),
        clock_(clock) {}
  WatchClient(std::string subscriber, StartCall start_call, Apply apply, const Clock* clock)
      : WatchClient(
            std::move(subscriber), std::move(start_call),
            ApplyLater([apply = std::move(apply)](const Response& response,
                                                  const std::function<void()>& applied) {
              apply(response);
              applied();
            }),
            clock) {}
  ~WatchClient() { Stop(); }
  WatchClient(const WatchClient&) = delete;
  WatchClient& operator=(const WatchClient&) = delete;

  void Start() {
    absl::MutexLock lock(&mutex_);
    disconnected_since_ = clock_->Monotonic();
    Connect();
  }

  // Ends the subscription and waits for its last callback. Idempotent. Not from within `apply`.
  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->context.TryCancel();
    if (alarm_ != nullptr) alarm_->Cancel();
    mutex_.Await(absl::Condition(
        +[](WatchClient* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
          return self->call_ == nullptr && !self->alarm_pending_;
        },
        this));
  }

  // True once a snapshot of the current or an earlier connection has been applied.
  bool WaitSynced(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&synced_), timeout);
  }

  // Zero while connected with the snapshot applied, else the time since that was last so.
  absl::Duration Staleness() const {
    absl::MutexLock lock(&mutex_);
    return connected_ ? absl::ZeroDuration() : clock_->Monotonic() - disconnected_since_;
  }

 private:
  struct Call final : Reactor {
    explicit Call(WatchClient* client) : client(client) {}

    void Begin() {
      client->start_call_(&context, this);
      request.set_subscriber(client->subscriber_);
      this->StartRead(&response);
      this->StartWrite(&request);
      this->AddHold();
      this->StartCall();
    }

    void OnReadDone(bool ok) override {
      if (!ok) {
        this->RemoveHold();
        return;
      }
      client->apply_(response, [this] { Applied(); });
    }

    void Applied() {
      bool write = false;
      {
        absl::MutexLock lock(&client->mutex_);
        client->connected_ = client->synced_ = true;
        client->backoff_ = kFirstBackoff;
        to_acknowledge = response.version();
        write = !std::exchange(writing, true);
        if (write) PrepareAcknowledgement();
      }
      if (write) this->StartWrite(&request);
      this->StartRead(&response);
    }

    void OnWriteDone(bool ok) override {
      bool write = false;
      {
        absl::MutexLock lock(&client->mutex_);
        write = ok && to_acknowledge > acknowledged;
        writing = write;
        if (write) PrepareAcknowledgement();
      }
      if (write) this->StartWrite(&request);
    }

    void OnDone(const grpc::Status& status) override { client->Disconnected(this, status); }

    void PrepareAcknowledgement() ABSL_EXCLUSIVE_LOCKS_REQUIRED(client->mutex_) {
      request.Clear();
      request.set_acked_version(acknowledged = to_acknowledge);
    }

    WatchClient* const client;
    grpc::ClientContext context;
    Request request;
    Response response;
    // Guarded by client->mutex_.
    bool writing = true;
    int64_t to_acknowledge = -1;
    int64_t acknowledged = -1;
  };

  void Connect() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (stopping_) return;
    call_ = new Call(this);
    call_->Begin();
  }

  void Disconnected(Call* call, const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    delete call;
    call_ = nullptr;
    if (std::exchange(connected_, false)) disconnected_since_ = clock_->Monotonic();
    if (stopping_) return;
    if (backoff_ == kFirstBackoff) {  // once until it is whole again
      obs::Warning("watch_broken", {{"subscriber", subscriber_},
                                    {"code", static_cast<int>(status.error_code())},
                                    {"message", status.error_message()}});
    }
    alarm_pending_ = true;
    // A new one each time: an alarm that is set anew frees its callback, which may still be returning.
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(backoff_),
                [this](bool) {
                  absl::MutexLock relock(&mutex_);
                  alarm_pending_ = false;
                  Connect();
                });
    backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  }

  static constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
  static constexpr absl::Duration kLongestBackoff = absl::Seconds(2);

  const std::string subscriber_;
  const StartCall start_call_;
  const ApplyLater apply_;
  const Clock* const clock_;
  mutable absl::Mutex mutex_;
  Call* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // owned; deleted in Disconnected
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  bool alarm_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_) = kFirstBackoff;
  absl::Duration disconnected_since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::rpc
