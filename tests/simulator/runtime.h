// Virtual time: actors, their clocks, and the events between them, all on one thread and from one seed.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"

namespace tollhouse::simulator {

// Times and durations are nanoseconds since the start of the simulation.
inline constexpr int64_t kMilli = 1'000'000;
inline constexpr int64_t kSecond = 1'000 * kMilli;

// xoshiro256**: the same sequence everywhere for the same seed.
class Random {
 public:
  explicit Random(uint64_t seed);
  uint64_t Next();
  // Uniform in [0, n); n > 0.
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  // Uniform in [low, high].
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  // True with a probability of `per_mille` / 1000.
  bool Chance(int per_mille) { return Below(1000) < per_mille; }

 private:
  uint64_t state_[4];
};

// What a run has reached, by name. The names are one list (coverage.cc): a run over many seeds has to
// reach all of them.
class Coverage {
 public:
  static absl::Span<const std::string_view> Names();
  // Aborts on a name that is not in the list.
  void Hit(std::string_view name, int64_t times = 1);
  const std::vector<int64_t>& counts() const { return counts_; }

 private:
  std::vector<int64_t> counts_ = std::vector<int64_t>(Names().size());
};

// A process (or machine) of the simulated world.
struct Actor {
  Actor(std::string actor_name, int actor_index) : name(std::move(actor_name)), index(actor_index) {}

  std::string name;
  int index;
  uint64_t life = 0;   // grows when it dies: events of an earlier life never happen
  bool up = true;
  bool paused = false;  // SIGSTOP: its events wait
  int64_t wall_offset = 0;
  std::deque<std::pair<uint64_t, std::function<void()>>> held;  // while paused, with their life
};

class Runtime {
 public:
  Runtime(uint64_t seed, absl::Time start, bool trace);

  int64_t now() const { return now_; }
  absl::Time start() const { return start_; }
  Actor* NewActor(std::string name);
  const std::vector<std::unique_ptr<Actor>>& actors() const { return actors_; }

  // Runs `event` then, unless `owner` (nullptr: the world itself) has died by then. Events of one
  // time run in the order in which they were made.
  void At(int64_t at, Actor* owner, std::function<void()> event);
  void After(int64_t delay, Actor* owner, std::function<void()> event) {
    At(now_ + delay, owner, std::move(event));
  }
  // Runs the next event; false if there is none up to `until`, which it is then.
  bool Step(int64_t until);

  void Die(Actor* actor);
  void Pause(Actor* actor) { actor->paused = true; }
  void Resume(Actor* actor);

  bool tracing() const { return trace_; }
  // One line of the readable trace.
  void Trace(std::string_view who, std::string_view what);
  // Mixes a value into the fingerprint of this run.
  void Note(uint64_t value) { fingerprint_ = (fingerprint_ ^ value) * 0x9E3779B97F4A7C15u; }
  uint64_t fingerprint() const { return fingerprint_; }
  int64_t events() const { return events_; }

  Random random;  // of everything but the plan and the load
  Coverage coverage;

 private:
  struct Item {
    int64_t at;
    uint64_t order;
    Actor* owner;
    uint64_t life;
    std::function<void()> event;
    bool operator<(const Item& other) const {  // the earliest on top
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  const absl::Time start_;
  const bool trace_;
  int64_t now_ = 0;
  uint64_t next_order_ = 0;
  uint64_t fingerprint_ = 0;
  int64_t events_ = 0;
  std::vector<Item> queue_;  // a heap
  std::vector<std::unique_ptr<Actor>> actors_;
};

// The clocks of one actor: its wall clock may jump, its monotonic one never does.
class ActorClock final : public Clock {
 public:
  ActorClock(const Runtime* runtime, const Actor* actor) : runtime_(runtime), actor_(actor) {}
  absl::Time Wall() const override {
    return runtime_->start() + absl::Nanoseconds(runtime_->now() + actor_->wall_offset);
  }
  absl::Duration Monotonic() const override {
    return absl::Seconds(1000 * (1 + actor_->index)) + absl::Nanoseconds(runtime_->now());
  }

 private:
  const Runtime* const runtime_;
  const Actor* const actor_;
};

}  // namespace tollhouse::simulator
