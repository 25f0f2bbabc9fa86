// The ledgers: stateless servers around the real store, over one simulated Postgres that can be away,
// or say nothing of a COMMIT.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libs/base/error.h"
#include "libs/sql/database.h"
#include "services/budget-enforcer/ledger_client.h"
#include "services/ledger/store/store.h"
#include "tests/simulator/mutants.h"
#include "tests/simulator/network.h"

namespace tollhouse::simulator {

// The store's clock: that of the server which runs a transaction.
class StoreClock final : public Clock {
 public:
  absl::Time Wall() const override {
    return current == nullptr ? absl::FromUnixSeconds(1'795'262'400) : current->Wall();
  }
  absl::Duration Monotonic() const override {
    return current == nullptr ? absl::ZeroDuration() : current->Monotonic();
  }
  const Clock* current = nullptr;
};

class SimLedger {
 public:
  // One server for each store; all are on `database`.
  SimLedger(Runtime* runtime, Network* network, sql::Database* database, std::vector<ledger::Store*> stores,
            StoreClock* clock, Mutant mutant);

  struct Database {
    bool up = true;
    int unknown = 0;  // 1/1000: a COMMIT is applied or not, and the answer is lost
  };
  Database database;  // as the servers find it

  int servers() const { return static_cast<int>(servers_.size()); }
  Actor* actor(int server) const { return servers_[server]->actor; }
  // A server that is up, at random; any if none is.
  int Pick(Actor* client);
  void Restart(int server);

  // Runs a transaction at `server`. UNAVAILABLE when the database is away.
  template <typename Response>
  absl::StatusOr<Response> Transact(int server, const std::function<absl::StatusOr<Response>()>& body) {
    if (!database.up) {
      runtime_->coverage.Hit("postgres.unavailable");
      return MakeError(absl::StatusCode::kUnavailable, "SQL_UNAVAILABLE", "the database is away");
    }
    clock_->current = servers_[server]->clock.get();
    if (database.unknown > 0 && runtime_->random.Chance(database.unknown)) {
      const bool applied = runtime_->random.Chance(500);
      runtime_->coverage.Hit(applied ? "postgres.commit_unknown_applied"
                                     : "postgres.commit_unknown_not_applied");
      if (applied) {
        (void)body();
        ++changes_;
      }
      return MakeError(absl::StatusCode::kUnavailable, "SQL_COMMIT_UNKNOWN", "no answer to COMMIT");
    }
    absl::StatusOr<Response> response = body();
    ++changes_;
    if (response.ok()) return response;
    const std::string reason = ReasonOf(response.status());
    if (reason.starts_with("SQL_")) bug_ = std::string(response.status().message());
    return response;
  }

  // A remote call of `body` by `client`, through some server.
  template <typename Response>
  void Call(Actor* client, std::function<absl::StatusOr<Response>(ledger::Store&)> body,
            std::function<void(absl::StatusOr<Response>)> done) {
    const int server = Pick(client);
    network_->Call<Response>(
        client, actor(server), 5 * kSecond,
        [this, server, body = std::move(body)] {
          return Transact<Response>(server, [this, &body, server] { return body(*servers_[server]->store); });
        },
        std::move(done));
  }

  // The Watch of one subscriber: a snapshot, then every change in order. `broken` when it ends.
  std::shared_ptr<Stream> Watch(Actor* client, std::function<void(const ledger::v1::WatchResponse&)> apply,
                                std::function<void()> broken);

  absl::StatusOr<std::vector<ledger::v1::PostResult>> Post(int server,
                                                           const ledger::v1::PostRequest& request);
  // The end of a hold as it was posted by an edge; nullptr if it was not.
  const ledger::v1::Entry* Posted(const std::string& hold_id) const {
    const auto it = posted_.find(hold_id);
    return it == posted_.end() ? nullptr : &it->second;
  }

  // Counts transactions that may have changed something.
  int64_t changes() const { return changes_; }
  // A transaction failed in a way that it must not.
  const std::string& bug() const { return bug_; }

 private:
  using Change = std::shared_ptr<const ledger::v1::WatchResponse>;
  struct Subscriber {
    std::weak_ptr<Stream> stream;
    std::function<void(const ledger::v1::WatchResponse&)> apply;
    size_t next = 0;  // of the feed
  };
  struct Server {
    Actor* actor = nullptr;
    ledger::Store* store = nullptr;
    std::unique_ptr<ActorClock> clock;
    std::vector<Subscriber> subscribers;
  };

  // The change log has grown.
  void Published();
  void Deliver(Server& server, size_t end);

  Runtime* const runtime_;
  Network* const network_;
  sql::Database* const database_;
  StoreClock* const clock_;
  const Mutant mutant_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<Change> feed_;  // in commit order
  int64_t log_version_ = 0;   // of the last change in it
  std::map<std::string, ledger::v1::Entry> posted_;  // terminal entries, by hold
  int64_t changes_ = 0;
  std::string bug_;
};

// An enforcer's calls of the ledger. Dies with it.
class SimLedgerClient final : public enforcer::LedgerClient {
 public:
  SimLedgerClient(Runtime* runtime, SimLedger* ledger, Actor* actor, Mutant mutant)
      : runtime_(runtime), ledger_(ledger), actor_(actor), mutant_(mutant) {}

  void RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                     Done<ledger::v1::RegisterEpochResponse> done) override;
  void RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                    Done<ledger::v1::RegisterEdgeResponse> done) override;
  void GrantLease(const ledger::v1::GrantLeaseRequest& request,
                  Done<ledger::v1::GrantLeaseResponse> done) override;
  void AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                         Done<ledger::v1::AcknowledgeGrantsResponse> done) override;
  void ListGrants(const ledger::v1::ListGrantsRequest& request,
                  Done<ledger::v1::ListGrantsResponse> done) override;
  void ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                   Done<ledger::v1::ReturnLeaseResponse> done) override;
  void PostExpired(const ledger::v1::PostExpiredRequest& request,
                   Done<ledger::v1::PostExpiredResponse> done) override;
  // The process ends: whoever waits hears nothing any more.
  void Clear() { waiting_.clear(); }

 private:
  // As SimLedger::Call; `done` stays here, so that it goes with this process.
  template <typename Response>
  void Call(std::function<absl::StatusOr<Response>(ledger::Store&)> body, Done<Response> done) {
    const int64_t call = next_call_++;
    waiting_[call] = std::move(done);
    ledger_->Call<Response>(actor_, std::move(body), [this, call](absl::StatusOr<Response> answer) {
      auto it = waiting_.find(call);
      if (it == waiting_.end()) return;
      const auto waiter = std::any_cast<Done<Response>>(std::move(it->second));
      waiting_.erase(it);
      waiter(std::move(answer));
    });
  }

  Runtime* const runtime_;
  SimLedger* const ledger_;
  Actor* const actor_;
  const Mutant mutant_;
  int64_t return_tries_ = 0;  // of a mutant
  int64_t next_call_ = 0;
  std::map<int64_t, std::any> waiting_;
};

}  // namespace tollhouse::simulator
