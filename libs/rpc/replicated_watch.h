// A Watch RPC that several replicas of a service serve over one database.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/watch_hub.h"
#include "libs/sql/change_feed.h"

namespace tollhouse::rpc {

// What any replica appended to the change log (sql::AppendChange) reaches the subscribers of every
// replica in the order of versions. A replica that has not seen the log for `max_staleness` has no
// subscribers until it does: they find another, or know that they are alone. Thread-safe; must outlive the server that serves from it.
template <typename Request, typename Response>
class ReplicatedWatch final : private sql::ChangeSubscriber {
 public:
  // The response that a change is for watchers; on the feed's thread, in order. An error: again later.
  using Decode = std::function<absl::StatusOr<Response>(int64_t version, std::string_view payload)>;

  // `snapshot`: see WatchHub; read from the database after the subscription, or at least as new as
  // the last change that was decoded.
  static absl::StatusOr<std::unique_ptr<ReplicatedWatch>> Start(
      sql::ChangeFeedOptions options, std::function<absl::StatusOr<Response>()> snapshot,
      Decode decode) {
    std::unique_ptr<ReplicatedWatch> watch(
        new ReplicatedWatch(std::move(snapshot), std::move(decode)));
    TH_ASSIGN_OR_RETURN(watch->feed_, sql::ChangeFeed::Start(std::move(options), watch.get()));
    watch->hub_.SetAcknowledged([feed = watch->feed_.get()] { feed->Wake(); });
    return watch;
  }
  // The payload of a change is the serialized Response.
  static absl::StatusOr<Response> Parse(int64_t, std::string_view payload) {
    Response response;
    if (!response.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
      return MakeError(absl::StatusCode::kInternal, "BAD_CHANGE", "a change cannot be read");
    }
    return response;
  }

  ~ReplicatedWatch() override { Shutdown(); }

  grpc::ServerBidiReactor<Request, Response>* Serve(grpc::CallbackServerContext* context) {
    return hub_.Serve(context);
  }

  // A change was committed here: delivered now rather than with the next look.
  void Wake() { feed_->Wake(); }

  // Waits until all subscribers of all replicas have acknowledged `version` (0: nothing to wait for).
  // Returns the names of those that have not within the timeout.
  std::vector<std::string> WaitAcknowledged(int64_t version, absl::Duration timeout) {
    if (version == 0) return {};
    const absl::Time deadline = absl::Now() + timeout;
    feed_->Wake();
    std::vector<std::string> stragglers = hub_.WaitAcknowledged(version, timeout);
    if (hub_.version() < version) {
      stragglers.push_back(absl::StrCat("replica ", feed_->replica()));
    }
    const std::vector<std::string> others = feed_->WaitForOthers(version, deadline);
    stragglers.insert(stragglers.end(), others.begin(), others.end());
    return stragglers;
  }

  // For how long what subscribers know may be old.
  absl::Duration Staleness() const { return feed_->Staleness(); }

  // Ends every subscription and refuses new ones. Idempotent.
  void Shutdown() {
    hub_.Shutdown();
    if (feed_ != nullptr) feed_->Stop();
  }

 private:
  ReplicatedWatch(std::function<absl::StatusOr<Response>()> snapshot, Decode decode)
      : decode_(std::move(decode)), hub_(std::move(snapshot)) {}

  void Restart(int64_t version) override { hub_.Restart(version); }
  void Suspend() override { hub_.Suspend(); }

  absl::Status Deliver(int64_t version, std::string_view payload) override {
    TH_ASSIGN_OR_RETURN(Response change, decode_(version, payload));
    hub_.Deliver(version, std::move(change));
    return absl::OkStatus();
  }

  sql::ChangeSubscriber::Acknowledged acknowledged() override {
    auto [version, behind] = hub_.acknowledged();
    return {version, std::move(behind)};
  }

  const Decode decode_;
  WatchHub<Request, Response> hub_;
  std::unique_ptr<sql::ChangeFeed> feed_;
};

}  // namespace tollhouse::rpc
