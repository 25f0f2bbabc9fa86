// Asynchronous unary calls of one owner, which can be ended together.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/rpc/status.h"

namespace tollhouse::rpc {

// Thread-safe. When a call's `done` runs, everything of the call that keeps the channel is freed: a
// channel whose last user is a gRPC thread would have that thread wait for itself. So whoever has
// Stop()ped may let the channel go.
class UnaryCalls {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  UnaryCalls() = default;
  ~UnaryCalls() { Stop(); }
  UnaryCalls(const UnaryCalls&) = delete;
  UnaryCalls& operator=(const UnaryCalls&) = delete;

  // `begin(context, request, response, reactor)` is stub->async()->Method(...). `done` is called
  // exactly once: on a gRPC thread, or, with CANCELLED after Stop, before this returns.
  template <typename Response, typename Request, typename Begin>
  void Start(absl::Duration timeout, Request request, Begin begin, Done<Response> done) {
    auto owned = std::make_unique<Call<Request, Response>>(this, std::move(request), std::move(done));
    auto* call = owned.get();
    call->context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
    {
      absl::MutexLock lock(&mutex_);
      if (!stopped_) {
        running_.emplace(call, std::move(owned));
        ++active_;
      }
    }
    if (owned != nullptr) {
      call->done(absl::CancelledError("no more calls: stopping"));
      return;
    }
    begin(&call->context, &call->request, &call->response, call);
    call->StartCall();
  }

  // Cancels what is under way and waits until each `done` has returned. Idempotent. Not from within
  // a `done`.
  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    for (const auto& [raw, call] : running_) call->context.TryCancel();
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return active_ == 0; };
    mutex_.Await(absl::Condition(&idle));
  }

 private:
  struct AnyCall : grpc::ClientUnaryReactor {
    ~AnyCall() override = default;
    grpc::ClientContext context;
  };

  template <typename Request, typename Response>
  struct Call final : AnyCall {
    Call(UnaryCalls* o, Request r, Done<Response> d)
        : owner(o), request(std::move(r)), done(std::move(d)) {}

    void OnDone(const grpc::Status& status) override {
      UnaryCalls* const calls = owner;
      Done<Response> answer = std::move(done);
      absl::StatusOr<Response> result =
          status.ok() ? absl::StatusOr<Response>(std::move(response)) : FromGrpc(status);
      std::unique_ptr<AnyCall> self;
      {
        absl::MutexLock lock(&calls->mutex_);
        const auto it = calls->running_.find(this);
        self = std::move(it->second);
        calls->running_.erase(it);
      }
      self.reset();
      answer(std::move(result));
      answer = nullptr;  // what it captured goes before Stop can return
      absl::MutexLock lock(&calls->mutex_);
      --calls->active_;
    }

    UnaryCalls* const owner;
    Request request;
    Response response;
    Done<Response> done;
  };

  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int active_ ABSL_GUARDED_BY(mutex_) = 0;  // whose `done` has not returned
  absl::flat_hash_map<AnyCall*, std::unique_ptr<AnyCall>> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::rpc
