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
// is `snapshot()`, later ones are the changes, in version order. Changes that come while the snapshot
// is read are sent after it: applying a change twice must be harmless. Versions are either the hub's
// own (Publish) or those of a change log (Restart, Deliver; libs/rpc/replicated_watch.h). Thread-safe;
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
    return Enqueue(version_ + 1, std::move(change));
  }

  // The change of this version; greater than those before.
  void Deliver(int64_t version, Response change) {
    absl::MutexLock lock(&mutex_);
    Enqueue(version, std::move(change));
  }

  // Ends every subscription: they come again and get a snapshot, then what follows `version`.
  void Restart(int64_t version) {
    absl::MutexLock lock(&mutex_);
    suspended_ = false;
    version_ = version;
    for (Reactor* subscriber : subscribers_) {
      subscriber->FinishOnce(grpc::Status(grpc::StatusCode::UNAVAILABLE, "start again"));
    }
  }

  // Ends every subscription and refuses new ones with UNAVAILABLE until Restart().
  void Suspend() {
    absl::MutexLock lock(&mutex_);
    suspended_ = true;
    for (Reactor* subscriber : subscribers_) subscriber->FinishOnce(Stale());
  }

  // Of the newest change.
  int64_t version() const {
    absl::MutexLock lock(&mutex_);
    return version_;
  }

  // Waits until `version` is here and every subscriber of this moment has acknowledged it (or has
  // gone). Returns the names of those that have not within the timeout.
  std::vector<std::string> WaitAcknowledged(int64_t version, absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    const auto all_acknowledged = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return version_ >= version && Acknowledged() >= version;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&all_acknowledged), timeout);
    return Behind(version);
  }

  // What all subscribers have acknowledged (without any: the newest version), and the names of those
  // that lack newer ones.
  std::pair<int64_t, std::vector<std::string>> acknowledged() const {
    absl::MutexLock lock(&mutex_);
    return {Acknowledged(), Behind(version_)};
  }

  // Called when acknowledged() has changed, on a gRPC thread, without locks held. Set once, before
  // the first subscription.
  void SetAcknowledged(std::function<void()> callback) { on_acknowledged_ = std::move(callback); }

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
  static grpc::Status Stale() {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "no news of the database; ask another replica");
  }

  int64_t Enqueue(int64_t version, Response change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    change.set_version(version);
    version_ = version;
    const auto shared = std::make_shared<const Response>(std::move(change));
    for (Reactor* subscriber : subscribers_) subscriber->Enqueue(shared);
    return version_;
  }

  int64_t Acknowledged() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    int64_t least = version_;
    for (const Reactor* subscriber : subscribers_) {
      if (!subscriber->name_.empty()) least = std::min(least, subscriber->acked_);
    }
    return least;
  }

  std::vector<std::string> Behind(int64_t version) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<std::string> names;
    for (const Reactor* subscriber : subscribers_) {
      if (subscriber->acked_ < version && !subscriber->name_.empty()) {
        names.push_back(subscriber->name_);
      }
    }
    return names;
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
      bool acknowledged = false;
      {
        absl::MutexLock lock(&hub_->mutex_);
        if (name_.empty()) {
          if (request_.subscriber().empty()) {
            FinishOnce(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "subscriber is missing"));
            return;
          }
          if (hub_->shutdown_ || hub_->suspended_) {
            FinishOnce(hub_->shutdown_ ? Draining() : Stale());
            return;
          }
          first = true;
          name_ = request_.subscriber();
          acked_ = -1;
          snapshot_version_ = hub_->version_;
          hub_->subscribers_.insert(this);
        } else {
          acknowledged = request_.acked_version() > acked_;
          acked_ = std::max<int64_t>(acked_, request_.acked_version());
        }
      }
      if (acknowledged && hub_->on_acknowledged_) hub_->on_acknowledged_();
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
      if (hub_->on_acknowledged_) hub_->on_acknowledged_();  // one less to wait for
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
  std::function<void()> on_acknowledged_;
  mutable absl::Mutex mutex_;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  bool shutdown_ ABSL_GUARDED_BY(mutex_) = false;
  bool suspended_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Reactor*, std::unique_ptr<Reactor>> calls_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  std::set<Reactor*> subscribers_ ABSL_GUARDED_BY(mutex_);  // those that have named themselves
};

}  // namespace tollhouse::rpc
