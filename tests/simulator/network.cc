#include "tests/simulator/network.h"

#include <algorithm>

namespace tollhouse::simulator {
namespace {

// How long a side that hears nothing takes to give a connection up.
constexpr int64_t kKeepalive = 3 * kSecond;

}  // namespace

Stream::Stream(Network* network, Actor* client, Actor* server)
    : network_(network),
      client_(client),
      server_(server),
      client_life_(client->life),
      server_life_(server->life) {}

void Stream::Send(bool to_server, std::function<void()> message) {
  Runtime& runtime = *network_->runtime();
  if (!(to_server ? client_open_ : server_open_)) return;
  Actor* const receiver = to_server ? server_ : client_;
  if (receiver->life != (to_server ? server_life_ : client_life_)) return;
  if (broken_) return;
  if (runtime.random.Chance(network_->weather.lost / 4)) {
    runtime.coverage.Hit("network.stream_broken");
    Break();
    return;
  }
  int64_t& last = to_server ? last_to_server_ : last_to_client_;
  last = std::max(last, runtime.now() + network_->Delay());
  runtime.At(last, receiver, [self = shared_from_this(), to_server, message = std::move(message)] {
    if (!(to_server ? self->server_open_ : self->client_open_)) return;
    if (self->broken_ && !self->late_arrivals_) return;
    if (self->network_->IsCut(self->client_, self->server_)) {
      self->Break();
      return;
    }
    if (self->broken_) self->network_->runtime()->coverage.Hit("network.late_arrival");
    message();
  });
}

void Stream::TellClient(int64_t delay) {
  if (!client_open_ || client_->life != client_life_) return;
  network_->runtime()->After(delay, client_, [self = shared_from_this()] {
    if (!std::exchange(self->client_open_, false)) return;
    if (self->client_broken_) std::exchange(self->client_broken_, nullptr)();
  });
}

void Stream::TellServer(int64_t delay) {
  if (!server_open_ || server_->life != server_life_) return;
  network_->runtime()->After(delay, server_, [self = shared_from_this()] {
    if (!std::exchange(self->server_open_, false)) return;
    if (self->server_broken_) std::exchange(self->server_broken_, nullptr)();
  });
}

void Stream::Break() {
  if (std::exchange(broken_, true)) return;
  Runtime& runtime = *network_->runtime();
  late_arrivals_ = runtime.random.Chance(500);
  const bool silent = network_->IsCut(client_, server_);
  const auto delay = [&] {
    return silent ? kKeepalive + network_->Delay() : runtime.random.Between(0, 200 * kMilli);
  };
  TellClient(delay());
  TellServer(delay());
}

void Stream::Close() {
  client_open_ = false;
  client_broken_ = nullptr;
  if (std::exchange(broken_, true)) return;
  late_arrivals_ = network_->runtime()->random.Chance(500);
  // In order behind what was sent before.
  const int64_t behind = std::max<int64_t>(0, last_to_server_ - network_->runtime()->now());
  TellServer(behind + network_->Delay());
}

int64_t Network::Delay() {
  Random& random = runtime_->random;
  if (random.Chance(weather.slow)) return random.Between(50 * kMilli, 4 * kSecond);
  return random.Between(kMilli / 5, 3 * kMilli);
}

Network::Fate Network::NextFate(Actor* from, Actor* to) {
  if (IsCut(from, to)) return Fate::kLost;
  Random& random = runtime_->random;
  if (random.Chance(weather.lost)) return random.Chance(500) ? Fate::kLost : Fate::kBroken;
  return random.Chance(weather.twice) ? Fate::kTwice : Fate::kArrives;
}

std::shared_ptr<Stream> Network::Connect(Actor* client, Actor* server) {
  auto stream = std::make_shared<Stream>(this, client, server);
  std::erase_if(streams_, [](const auto& weak) { return weak.expired(); });
  streams_.push_back(stream);
  return stream;
}

void Network::Died(Actor* actor) {
  for (const auto& weak : streams_) {
    const auto stream = weak.lock();
    if (stream == nullptr || (stream->client_ != actor && stream->server_ != actor)) continue;
    if (stream->client_ == actor) stream->client_open_ = false;
    if (stream->server_ == actor) stream->server_open_ = false;
    stream->Break();
  }
}

void Network::BreakSome(int per_mille) {
  for (const auto& weak : streams_) {
    const auto stream = weak.lock();
    if (stream != nullptr && runtime_->random.Chance(per_mille)) stream->Break();
  }
}

}  // namespace tollhouse::simulator
