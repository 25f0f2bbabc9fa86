// Messages between actors: late, lost, twice, cut.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "tests/simulator/runtime.h"

namespace tollhouse::simulator {

class Network;

// One connection: messages arrive in order, both ways, until it breaks. What was under way then may
// still arrive, or not; each side hears of the break in its own time.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  Stream(Network* network, Actor* client, Actor* server);

  void ToServer(std::function<void()> message) { Send(true, std::move(message)); }
  void ToClient(std::function<void()> message) { Send(false, std::move(message)); }
  // Both sides are told, a little later each.
  void Break();
  // The client lets go: the server is told. Nothing more reaches the client.
  void Close();

  bool open_at_client() const { return client_open_; }
  bool open_at_server() const { return server_open_; }
  void OnClientBroken(std::function<void()> told) { client_broken_ = std::move(told); }
  void OnServerBroken(std::function<void()> told) { server_broken_ = std::move(told); }

  Actor* client() const { return client_; }
  Actor* server() const { return server_; }

 private:
  friend class Network;
  void Send(bool to_server, std::function<void()> message);
  void TellClient(int64_t delay);
  void TellServer(int64_t delay);

  Network* const network_;
  Actor* const client_;
  Actor* const server_;
  const uint64_t client_life_, server_life_;
  bool client_open_ = true, server_open_ = true;
  bool broken_ = false;
  bool late_arrivals_ = false;  // what was under way at the break arrives all the same
  int64_t last_to_server_ = 0, last_to_client_ = 0;
  std::function<void()> client_broken_, server_broken_;
};

class Network {
 public:
  explicit Network(Runtime* runtime) : runtime_(runtime) {}

  // Chances in 1/1000 per message.
  struct Weather {
    int lost = 0;
    int twice = 0;
    int slow = 0;  // seconds instead of milliseconds
  };
  Weather weather;

  void Cut(Actor* a, Actor* b) { cuts_.insert(std::minmax(a, b)); }
  void Mend(Actor* a, Actor* b) { cuts_.erase(std::minmax(a, b)); }
  void MendAll() { cuts_.clear(); }
  bool IsCut(Actor* a, Actor* b) const { return cuts_.contains(std::minmax(a, b)); }

  int64_t Delay();

  std::shared_ptr<Stream> Connect(Actor* client, Actor* server);
  // All connections of a dead actor break.
  void Died(Actor* actor);
  // A handful of random connections break.
  void BreakSome(int per_mille);

  // One request and its answer. `handle` runs at the server, perhaps twice or too late; `done` at the
  // client exactly once, as long as it lives.
  template <typename Response>
  void Call(Actor* client, Actor* server, int64_t timeout,
            std::function<absl::StatusOr<Response>()> handle,
            std::function<void(absl::StatusOr<Response>)> done) {
    struct State {
      bool finished = false;
      std::function<void(absl::StatusOr<Response>)> done;
    };
    auto state = std::make_shared<State>();
    state->done = std::move(done);
    const auto finish = [this, client, life = client->life, state](int64_t delay,
                                                                   absl::StatusOr<Response> answer) {
      if (client->life != life) return;
      runtime_->After(delay, client, [state, answer = std::move(answer)]() mutable {
        if (std::exchange(state->finished, true)) return;
        state->done(std::move(answer));
      });
    };
    if (!server->up) {
      finish(Delay(), absl::UnavailableError("connection refused"));
      return;
    }
    finish(timeout, absl::DeadlineExceededError("no answer in time"));
    const Fate there = NextFate(client, server);
    if (there == Fate::kBroken) {
      runtime_->coverage.Hit("network.request_broken");
      finish(Delay(), absl::UnavailableError("connection broken"));
      return;
    }
    if (there == Fate::kLost) return;
    const int copies = there == Fate::kTwice ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      runtime_->After(Delay(), server, [this, client, server, handle, finish] {
        if (IsCut(client, server)) return;
        absl::StatusOr<Response> answer = handle();
        const Fate back = NextFate(server, client);
        if (back == Fate::kBroken) {
          runtime_->coverage.Hit("network.reply_broken");
          finish(Delay(), absl::UnavailableError("connection broken"));
        } else if (back == Fate::kLost) {
          runtime_->coverage.Hit("network.reply_lost");
        } else {
          finish(Delay(), std::move(answer));
        }
      });
    }
  }

  Runtime* runtime() const { return runtime_; }

 private:
  enum class Fate { kArrives, kTwice, kLost, kBroken };
  Fate NextFate(Actor* from, Actor* to);

  Runtime* const runtime_;
  std::set<std::pair<Actor*, Actor*>> cuts_;
  std::vector<std::weak_ptr<Stream>> streams_;
};

}  // namespace tollhouse::simulator
