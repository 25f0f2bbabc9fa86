#include "tests/simulator/ledger.h"

#include <algorithm>

#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/sql/change_log.h"
#include "services/edge/settlements.h"

namespace tollhouse::simulator {

using ledger::Store;

SimLedger::SimLedger(Runtime* runtime, Network* network, sql::Database* on, std::vector<Store*> stores,
                     StoreClock* clock, Mutant mutant)
    : runtime_(runtime), network_(network), database_(on), clock_(clock), mutant_(mutant) {
  for (Store* const store : stores) {
    auto server = std::make_unique<Server>();
    server->actor = runtime->NewActor(absl::StrCat("ledger-", servers_.size()));
    server->store = store;
    server->clock = std::make_unique<ActorClock>(runtime, server->actor);
    servers_.push_back(std::move(server));
  }
  clock_->current = servers_[0]->clock.get();
  Published();
  for (Store* const store : stores) store->SetChanged([this] { Published(); });
}

int SimLedger::Pick(Actor* client) {
  const int first = static_cast<int>(runtime_->random.Below(servers()));
  for (int i = 0; i < servers(); ++i) {
    const int server = (first + i) % servers();
    if (actor(server)->up && !(i == 0 && network_->IsCut(client, actor(server)))) return server;
  }
  return first;
}

void SimLedger::Published() {
  const absl::Status read = database_->Read([this](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const std::vector<sql::Change> changes, sql::ReadChanges(c, log_version_, 1000));
    for (const sql::Change& change : changes) {
      auto parsed = std::make_shared<ledger::v1::WatchResponse>();
      parsed->ParseFromString(change.payload);
      parsed->set_version(change.version);
      feed_.push_back(std::move(parsed));
      log_version_ = change.version;
    }
    return absl::OkStatus();
  });
  if (!read.ok()) bug_ = std::string(read.message());
  const size_t end = feed_.size();
  for (const auto& server : servers_) {
    runtime_->After(network_->Delay(), server->actor, [this, s = server.get(), end] { Deliver(*s, end); });
  }
}

void SimLedger::Deliver(Server& server, size_t end) {
  std::erase_if(server.subscribers, [](const Subscriber& s) {
    const auto stream = s.stream.lock();
    return stream == nullptr || !stream->open_at_server();
  });
  for (Subscriber& subscriber : server.subscribers) {
    for (; subscriber.next < end; ++subscriber.next) {
      subscriber.stream.lock()->ToClient(
          [apply = subscriber.apply, change = feed_[subscriber.next]] { apply(*change); });
    }
  }
}

void SimLedger::Restart(int server) {
  servers_[server]->subscribers.clear();
  servers_[server]->actor->up = true;
}

std::shared_ptr<Stream> SimLedger::Watch(Actor* client,
                                         std::function<void(const ledger::v1::WatchResponse&)> apply,
                                         std::function<void()> broken) {
  const int index = Pick(client);
  Server* const server = servers_[index].get();
  auto stream = network_->Connect(client, server->actor);
  stream->OnClientBroken(std::move(broken));
  if (!server->actor->up) {
    stream->Break();
    return stream;
  }
  stream->ToServer([this, index, server, stream, apply = std::move(apply)] {
    auto snapshot = Transact<ledger::v1::WatchResponse>(index, [server] { return server->store->Snapshot(); });
    if (!snapshot.ok()) {
      stream->Break();
      return;
    }
    runtime_->coverage.Hit("watch.snapshot");
    server->subscribers.push_back({stream, apply, feed_.size()});
    stream->ToClient([apply, snapshot = *std::move(snapshot)] { apply(snapshot); });
  });
  return stream;
}

absl::StatusOr<std::vector<ledger::v1::PostResult>> SimLedger::Post(
    int server, const ledger::v1::PostRequest& request) {
  Store* const store = servers_[server]->store;
  std::vector<const ledger::v1::Entry*> entries;
  for (const ledger::v1::Entry& entry : request.entries()) entries.push_back(&entry);
  TH_ASSIGN_OR_RETURN(std::vector<ledger::v1::PostResult> results, store->Post(entries));
  for (int i = 0; i < request.entries_size(); ++i) {
    if (runtime_->tracing()) {
      const ledger::v1::Entry& entry = request.entries(i);
      runtime_->Trace("ledger", absl::StrCat("post ", UuidFromRaw(entry.hold_id())->ToString().substr(20),
                                             " kind ", entry.kind(), " ", entry.cost_nanousd(), ": outcome ",
                                             results[i].outcome()));
    }
    switch (results[i].outcome()) {
      case ledger::v1::POST_OUTCOME_DUPLICATE:
        runtime_->coverage.Hit("post.duplicate");
        if (mutant_ == Mutant::kPostTwice &&
            request.entries(i).kind() == ledger::v1::ENTRY_KIND_SETTLE) {
          ledger::v1::Entry again = request.entries(i);
          (*again.mutable_hold_id())[15] ^= 1;
          const ledger::v1::Entry* const one = &again;
          TH_RETURN_IF_ERROR(store->Post({&one, 1}).status());
        }
        break;
      case ledger::v1::POST_OUTCOME_POSTED:
        if (request.entries(i).kind() != ledger::v1::ENTRY_KIND_SUSPEND) {
          posted_[request.entries(i).hold_id()] = request.entries(i);
        }
        break;
      case ledger::v1::POST_OUTCOME_CONFLICT:
        if (edge::EndStands(request.entries(i), results[i])) {
          runtime_->coverage.Hit("post.ended_meanwhile");
          break;
        }
        [[fallthrough]];
      default:
        bug_ = absl::StrCat("an entry was not posted: ", results[i].message());
    }
  }
  return results;
}

// --- the enforcer's calls ------------------------------------------------------------------------
void SimLedgerClient::RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                                    Done<ledger::v1::RegisterEpochResponse> done) {
  Call<ledger::v1::RegisterEpochResponse>(
      [runtime = runtime_, request, mutant = mutant_](Store& store) -> absl::StatusOr<ledger::v1::RegisterEpochResponse> {
        int64_t version = 0;
        ledger::v1::RegisterEpochResponse response;
        TH_ASSIGN_OR_RETURN(const int64_t epoch, store.RegisterEpoch(request, &version));
        response.set_epoch(epoch);
        if (version > 0) {
          runtime->coverage.Hit("epoch.registered");
          runtime->Trace("ledger", absl::StrCat("epoch ", epoch, " for ", request.incarnation()));
          if (mutant == Mutant::kReclaimWithoutReports && epoch > 1) {
            (void)store.ReleaseLostLease(nullptr, request.org_id(), epoch - 1);
          }
        } else {
          runtime->coverage.Hit("epoch.shared");
        }
        return response;
      },
      std::move(done));
}

void SimLedgerClient::RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                                   Done<ledger::v1::RegisterEdgeResponse> done) {
  Call<ledger::v1::RegisterEdgeResponse>(
      [request](Store& store) -> absl::StatusOr<ledger::v1::RegisterEdgeResponse> {
        TH_RETURN_IF_ERROR(store.RegisterEdge(request));
        return ledger::v1::RegisterEdgeResponse();
      },
      std::move(done));
}

void SimLedgerClient::GrantLease(const ledger::v1::GrantLeaseRequest& request,
                                 Done<ledger::v1::GrantLeaseResponse> done) {
  Call<ledger::v1::GrantLeaseResponse>(
      [runtime = runtime_, request, mutant = mutant_](Store& store) -> absl::StatusOr<ledger::v1::GrantLeaseResponse> {
        TH_ASSIGN_OR_RETURN(ledger::v1::GrantLeaseResponse response, store.GrantLease(request));
        runtime->coverage.Hit("lease.granted");
        if (runtime->tracing()) {
          for (const auto& item : response.items()) {
            runtime->Trace("ledger", absl::StrCat("grant ", response.grant_id(), " epoch ", request.epoch(),
                                                  ": budget ", item.budget_id(), " ", item.period(), " +",
                                                  item.granted_nanousd()));
          }
        }
        if (mutant == Mutant::kGrantAcknowledgedEarly) {
          ledger::v1::AcknowledgeGrantsRequest early;
          early.set_org_id(request.org_id());
          early.set_epoch(request.epoch());
          early.add_grant_ids(response.grant_id());
          TH_RETURN_IF_ERROR(store.AcknowledgeGrants(early));
        }
        return response;
      },
      std::move(done));
}

void SimLedgerClient::AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                                        Done<ledger::v1::AcknowledgeGrantsResponse> done) {
  Call<ledger::v1::AcknowledgeGrantsResponse>(
      [request](Store& store) -> absl::StatusOr<ledger::v1::AcknowledgeGrantsResponse> {
        TH_RETURN_IF_ERROR(store.AcknowledgeGrants(request));
        return ledger::v1::AcknowledgeGrantsResponse();
      },
      std::move(done));
}

void SimLedgerClient::ListGrants(const ledger::v1::ListGrantsRequest& request,
                                 Done<ledger::v1::ListGrantsResponse> done) {
  runtime_->coverage.Hit("lease.listed");
  Call<ledger::v1::ListGrantsResponse>(
      [request](Store& store) { return store.ListGrants(request); }, std::move(done));
}

void SimLedgerClient::ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                                  Done<ledger::v1::ReturnLeaseResponse> done) {
  ledger::v1::ReturnLeaseRequest sent = request;
  if (mutant_ == Mutant::kCommitUnknownIsFailure) sent.set_return_id(1000 + ++return_tries_);
  Call<ledger::v1::ReturnLeaseResponse>(
      [runtime = runtime_, sent](Store& store) -> absl::StatusOr<ledger::v1::ReturnLeaseResponse> {
        TH_RETURN_IF_ERROR(store.ReturnLease(sent));
        runtime->Trace("ledger", absl::StrCat("return ", sent.return_id(), " epoch ", sent.epoch()));
        runtime->coverage.Hit("lease.returned");
        return ledger::v1::ReturnLeaseResponse();
      },
      std::move(done));
}

void SimLedgerClient::PostExpired(const ledger::v1::PostExpiredRequest& request,
                                  Done<ledger::v1::PostExpiredResponse> done) {
  runtime_->coverage.Hit("hold.expired", request.holds_size());
  Call<ledger::v1::PostExpiredResponse>(
      [runtime = runtime_, request](Store& store) -> absl::StatusOr<ledger::v1::PostExpiredResponse> {
        TH_RETURN_IF_ERROR(store.PostExpired(request));
        if (runtime->tracing()) {
          for (const auto& hold : request.holds()) {
            runtime->Trace("ledger", absl::StrCat("expired ", UuidFromRaw(hold.hold_id())->ToString().substr(20),
                                                  " epoch ", request.epoch()));
          }
        }
        return ledger::v1::PostExpiredResponse();
      },
      std::move(done));
}

}  // namespace tollhouse::simulator
