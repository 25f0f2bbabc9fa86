#include "tests/simulator/runtime.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace tollhouse::simulator {
namespace {

uint64_t Rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

}  // namespace

Random::Random(uint64_t seed) {
  for (uint64_t& word : state_) {  // splitmix64
    seed += 0x9E3779B97F4A7C15u;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    word = z ^ (z >> 31);
  }
}

uint64_t Random::Next() {
  const uint64_t result = Rotate(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = Rotate(state_[3], 45);
  return result;
}

Runtime::Runtime(uint64_t seed, absl::Time start, bool trace)
    : random(seed), start_(start), trace_(trace) {
  queue_.reserve(1024);
}

Actor* Runtime::NewActor(std::string name) {
  actors_.push_back(std::make_unique<Actor>(std::move(name), static_cast<int>(actors_.size())));
  return actors_.back().get();
}

void Runtime::At(int64_t at, Actor* owner, std::function<void()> event) {
  queue_.push_back({std::max(at, now_), next_order_++, owner, owner == nullptr ? 0 : owner->life,
                    std::move(event)});
  std::push_heap(queue_.begin(), queue_.end());
}

bool Runtime::Step(int64_t until) {
  if (queue_.empty() || queue_.front().at > until) {
    now_ = until;
    return false;
  }
  std::pop_heap(queue_.begin(), queue_.end());
  Item item = std::move(queue_.back());
  queue_.pop_back();
  now_ = item.at;
  if (item.owner != nullptr) {
    if (item.owner->life != item.life) return true;
    if (item.owner->paused) {
      item.owner->held.emplace_back(item.life, std::move(item.event));
      return true;
    }
    Note(static_cast<uint64_t>(item.owner->index) + 1);
  }
  Note(static_cast<uint64_t>(item.at));
  ++events_;
  item.event();
  return true;
}

void Runtime::Die(Actor* actor) {
  ++actor->life;
  actor->up = false;
  actor->paused = false;
  actor->held.clear();
}

void Runtime::Resume(Actor* actor) {
  if (!actor->paused) return;
  actor->paused = false;
  for (auto& [life, event] : std::exchange(actor->held, {})) {
    if (life == actor->life) At(now_, actor, std::move(event));
  }
}

void Runtime::Trace(std::string_view who, std::string_view what) {
  if (!trace_) return;
  std::printf("%10.3f  %-12.*s %.*s\n", static_cast<double>(now_) / kSecond,
              static_cast<int>(who.size()), who.data(), static_cast<int>(what.size()), what.data());
}

}  // namespace tollhouse::simulator
