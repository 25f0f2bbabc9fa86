// Pushes versioned changes to every subscriber of a Watch RPC and knows who has applied them.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tollhouse::rpc {

// Request: {subscriber, acked_version}; Response: {version, ...}. The first response to a subscriber
// is `snapshot()`, later ones are what Publish was given, in version order. Changes published while
// the snapshot is read are sent after it: applying a change twice must be harmless. Thread-safe;
// the hub must outlive the server that serves from it.
template <typename Request, typename Response>
class WatchHub {
 public:
  // Called without locks held, once per subscription. An error (a Response converts to StatusOr)
  // ends that subscription with UNAVAILABLE: an empty snapshot would read as "nothing is limited".
  explicit WatchHub(std::function<absl::StatusOr<Response>()> snapshot)
      : snapshot_(std::move(snapshot)) {}

  // The reactor of one call of the Watch RPC.
  grpc::ServerBidiReactor<Request, Response>* Serve(grpc::CallbackServerContext* context) {
    auto reactor = std::make_unique<Reactor>(this);
    Reactor* const call = reactor.get();
    {
      absl::MutexLock lock(&mutex_);
      calls_.emplace(call, std::move(reactor));
    }
    call->Begin();
    return call;
  }

  // Gives the change the next version, queues it for every subscriber and returns the version.
  int64_t Publish(Response change) {
    absl::MutexLock lock(&mutex_);
    change.set_version(++version_);
    const auto shared = std::make_shared<const Response>(std::move(change));
    for (Reactor* subscriber : subscribers_) subscriber->Enqueue(shared);
    return version_;
  }

  // Waits until every subscriber of this moment has acknowledged `version` (or has gone). Returns
  // the names of those that have not within the timeout.
  std::vector<std::string> WaitAcknowledged(int64_t version, absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    const auto all_acknowledged = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      for (const Reactor* subscriber : subscribers_) {
        if (subscriber->acked_ < version && !subscriber->name_.empty()) return false;
      }
      return true;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&all_acknowledged), timeout);
    std::vector<std::string> stragglers;
    for (const Reactor* subscriber : subscribers_) {
      if (subscriber->acked_ < version && !subscriber->name_.empty()) {
        stragglers.push_back(subscriber->name_);
      }
    }
    return stragglers;
  }

  // Ends every subscription and refuses new ones with UNAVAILABLE.
  void Shutdown() {
    absl::MutexLock lock(&mutex_);
    shutdown_ = true;
    for (Reactor* subscriber : subscribers_) subscriber->FinishOnce(Draining());
  }

 private:
  static grpc::Status Draining() {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "shutting down");
  }

  class Reactor final : public grpc::ServerBidiReactor<Request, Response> {
   public:
    explicit Reactor(WatchHub* hub) : hub_(hub) {}

    void Begin() { this->StartRead(&request_); }

    void OnReadDone(bool ok) override {
      if (!ok) {
        absl::MutexLock lock(&hub_->mutex_);
        FinishOnce(grpc::Status::OK);
        return;
      }
      bool first = false;
      {
        absl::MutexLock lock(&hub_->mutex_);
        if (name_.empty()) {
          if (request_.subscriber().empty()) {
            FinishOnce(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "subscriber is missing"));
            return;
          }
          if (hub_->shutdown_) {
            FinishOnce(Draining());
            return;
          }
          first = true;
          name_ = request_.subscriber();
          acked_ = -1;
          snapshot_version_ = hub_->version_;
          hub_->subscribers_.insert(this);
        } else {
          acked_ = std::max<int64_t>(acked_, request_.acked_version());
        }
      }
      if (first) {
        absl::StatusOr<Response> read = hub_->snapshot_();
        absl::MutexLock lock(&hub_->mutex_);
        if (!read.ok()) {
          FinishOnce(grpc::Status(grpc::StatusCode::UNAVAILABLE, "cannot read the snapshot"));
          return;
        }
        auto snapshot = std::make_shared<Response>(*std::move(read));
        snapshot->set_version(snapshot_version_);
        queue_.push_front(std::move(snapshot));
        ready_ = true;
        WriteNext();
      }
      this->StartRead(&request_);
    }

    void OnWriteDone(bool ok) override {
      absl::MutexLock lock(&hub_->mutex_);
      writing_.reset();
      if (ok) WriteNext();
    }

    void OnCancel() override {
      absl::MutexLock lock(&hub_->mutex_);
      FinishOnce(grpc::Status::CANCELLED);
    }

    void OnDone() override {
      std::unique_ptr<Reactor> self;  // outlives the lock
      absl::MutexLock lock(&hub_->mutex_);
      hub_->subscribers_.erase(this);
      const auto call = hub_->calls_.find(this);
      self = std::move(call->second);
      hub_->calls_.erase(call);
    }

   private:
    friend class WatchHub;

    void Enqueue(std::shared_ptr<const Response> change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(hub_->mutex_) {
      queue_.push_back(std::move(change));
      if (ready_) WriteNext();
    }

    void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(hub_->mutex_) {
      if (finished_ || writing_ != nullptr || queue_.empty()) return;
      writing_ = std::move(queue_.front());
      queue_.pop_front();
      this->StartWrite(writing_.get());
    }

    void FinishOnce(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(hub_->mutex_) {
      if (finished_) return;
      finished_ = true;
      name_.clear();  // no longer waited for
      this->Finish(status);
    }

    WatchHub* const hub_;
    Request request_;
    // All below: guarded by hub_->mutex_.
    std::string name_;
    int64_t acked_ = -1;
    int64_t snapshot_version_ = 0;
    bool ready_ = false;  // the snapshot is in the queue
    bool finished_ = false;
    std::deque<std::shared_ptr<const Response>> queue_;
    std::shared_ptr<const Response> writing_;
  };

  const std::function<absl::StatusOr<Response>()> snapshot_;
  absl::Mutex mutex_;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  bool shutdown_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Reactor*, std::unique_ptr<Reactor>> calls_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  std::set<Reactor*> subscribers_ ABSL_GUARDED_BY(mutex_);  // those that have named themselves
};

}  // namespace tollhouse::rpc
