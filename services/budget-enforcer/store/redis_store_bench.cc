// Reservations per second through RedisStore, and what Redis pays for one: saturated, at half load,
// one per script call, beside redis-benchmark's INCR on the same server. Every hold is on four budgets
// (org, one of 10 teams, of 100 users, of 1000 keys; or always the same).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/testing/redis_server.h"
#include "services/budget-enforcer/store/redis_store.h"
#include "services/budget-enforcer/store/store_history_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kOrg = 1;
constexpr char kPeriod[] = "2026-11@Europe/Berlin";

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A number out of INFO, in millionths.
int64_t Micros(testing::RedisServer& server, const std::string& section, const std::string& field) {
  const std::string info = server.Command({"INFO", section});
  const size_t at = info.find(field);
  if (at == std::string::npos) return 0;
  const std::string text = info.substr(at + field.size(), 32);
  const size_t dot = text.find('.');
  std::string digits = text.substr(0, dot);
  digits += text.substr(dot + 1, 6);
  int64_t value = 0;
  return absl::SimpleAtoi(digits, &value) ? value : 0;
}

int64_t RedisCpuUs(testing::RedisServer& server) {
  return Micros(server, "cpu", "used_cpu_sys:") + Micros(server, "cpu", "used_cpu_user:");
}

int64_t ScriptCalls(testing::RedisServer& server) {
  const std::string info = server.Command({"INFO", "commandstats"});
  const std::string field = "cmdstat_evalsha:calls=";
  const size_t at = info.find(field);
  if (at == std::string::npos) return 0;
  int64_t value = 0;
  const std::string text = info.substr(at + field.size(), info.find(',', at) - at - field.size());
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

enum class Kind { kReserve, kSettle, kAcknowledge };

// One message of an edge: its batch, and what the events point to.
struct Message {
  StoreBatch batch;
  std::vector<std::vector<BudgetAmount>> amounts;
  int64_t sent_us = 0;
};

class Bench {
 public:
  Bench(testing::RedisServer& server, RedisStoreOptions options) : server_(server) {
    redis::Options redis;
    redis.uri = server.uri();
    server.FlushAll();
    store_ = *RedisStore::Create(redis, std::move(options));
    if (!store_->WaitUntilConnected(absl::Seconds(10)).ok()) std::abort();
    StoreBatch batch;
    batch.org_id = kOrg;
    batch.incarnation = *IdentifyAndWait(*store_, kOrg);
    std::vector<BudgetAmount> lease;
    for (int64_t id = 1; id <= 1200; ++id) lease.push_back({id, kPeriod, 5'000'000'000'000'000});
    batch.events = {InitEpoch{1}, AddGrant{1, 1, lease}};
    RunAndWait(*store_, batch);
    if (!batch.status.ok()) std::abort();
  }

  // `total` events in messages of `per_message`, with `window` of them under way; `rate` per second, or
  // 0: as fast as they are answered.
  void Measure(const char* name, Kind kind, int total, int per_message, int window, int64_t rate) {
    const int64_t cpu = RedisCpuUs(server_), calls = ScriptCalls(server_), start = NowUs();
    const int messages = total / per_message;
    std::vector<int64_t> latencies(messages);
    std::atomic<int> next = 0, answered = 0, refused = 0;
    std::vector<Message> slots(messages);
    std::function<void(int)> send = [&](int index) {
      Message& message = slots[index];
      Fill(message, kind, index, per_message);
      message.sent_us = NowUs();
      store_->Run(&message.batch, [&, index] {
        Message& done = slots[index];
        latencies[index] = NowUs() - done.sent_us;
        refused += Count(done);
        done = Message();
        if (rate == 0) {
          if (const int more = next++; more < messages) send(more);
        }
        if (++answered == messages) {
          absl::MutexLock lock(&mutex_);
          finished_ = true;
        }
      });
    };
    finished_ = false;
    if (rate == 0) {
      next = std::min(window, messages);
      for (int i = 0; i < std::min(window, messages); ++i) send(i);
    } else {
      for (int i = 0; i < messages; ++i) {
        const int64_t due = start + int64_t{i} * per_message * 1'000'000 / rate;
        if (const int64_t early = due - NowUs(); early > 0) {
          absl::MutexLock lock(&mutex_);
          mutex_.AwaitWithTimeout(absl::Condition(&finished_), absl::Microseconds(early));
        }
        send(i);
      }
    }
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&finished_));
    }
    const int64_t us = NowUs() - start, cpu_us = RedisCpuUs(server_) - cpu;
    std::sort(latencies.begin(), latencies.end());
    const auto number = [](int64_t value) { return static_cast<long long>(value); };
    std::printf("%-46s %7lld/s  Redis CPU %6lld ns each  %4lld per call  p50 %6lld us  p99 %6lld us%s\n", name,
                number(int64_t{total} * 1'000'000 / us), number(cpu_us * 1000 / total),
                number(total / std::max<int64_t>(1, ScriptCalls(server_) - calls)),
                number(latencies[messages / 2]), number(latencies[messages * 99 / 100]),
                refused == 0 ? "" : absl::StrCat("  REFUSED ", refused.load()).c_str());
    rate_ = int64_t{total} * 1'000'000 / us;
  }

  int64_t rate() const { return rate_; }
  // Whether holds are on the same four budgets, or on those of a thousand keys.
  void set_one_key(bool one_key) { one_key_ = one_key; }

 private:
  void Fill(Message& message, Kind kind, int index, int per_message) {
    const int64_t now_ms = absl::ToUnixMillis(absl::Now());
    message.batch.org_id = kOrg;
    message.batch.events.push_back(Tick{1, now_ms, 256});
    message.amounts.resize(per_message);
    {
      absl::MutexLock lock(&ids_mutex_);
      if (ids_.size() < static_cast<size_t>((index + 1) * per_message)) ids_.resize((index + 1) * per_message);
    }
    for (int i = 0; i < per_message; ++i) {
      Uuid& id = IdAt(index * per_message + i);
      if (kind == Kind::kSettle) {
        message.batch.events.push_back(Settle{1, now_ms, id, 60'000, 900});
      } else if (kind == Kind::kAcknowledge) {
        message.batch.events.push_back(Acknowledge{1, now_ms, id, 60'000});
      } else {
        id = NewUuid(absl::FromUnixMillis(now_ms));
        Reserve reserve;
        reserve.epoch = 1;
        reserve.now_ms = now_ms;
        reserve.hold_id = id;
        reserve.time_to_live_ms = 600'000;
        const auto pick = [&](int64_t n) { return one_key_ ? 0 : static_cast<int64_t>(Random() % n); };
        message.amounts[i] = {{1, kPeriod, 100'000},
                              {2 + pick(10), kPeriod, 100'000},
                              {100 + pick(100), kPeriod, 100'000},
                              {200 + pick(1000), kPeriod, 100'000}};
        reserve.budgets = message.amounts[i];
        reserve.account_ids = kAccounts;
        reserve.edge_id = "edge-0";
        reserve.boot_id = "0190f0f0-0000-7000-8000-000000000000";
        message.batch.events.push_back(reserve);
      }
    }
  }

  Uuid& IdAt(size_t index) {
    absl::MutexLock lock(&ids_mutex_);
    return ids_[index];
  }

  static uint64_t Random() {
    thread_local std::mt19937_64 random(1);
    return random();
  }

  static int Count(const Message& message) {
    if (!message.batch.status.ok()) return static_cast<int>(message.batch.events.size());
    int bad = 0;
    for (const StoreEffect& effect : message.batch.effects) {
      if (const auto* r = std::get_if<ReserveEffect>(&effect)) bad += r->outcome != Outcome::kDone;
      if (const auto* h = std::get_if<HoldEffect>(&effect)) bad += !h->applied;
    }
    return bad;
  }

  static constexpr int64_t kAccounts[] = {1, 2, 3, 4};
  testing::RedisServer& server_;
  std::unique_ptr<RedisStore> store_;
  absl::Mutex mutex_, ids_mutex_;
  bool finished_ = false;
  bool one_key_ = false;
  std::deque<Uuid> ids_;
  int64_t rate_ = 0;
};

void Run() {
  testing::RedisServer server;
  const std::string incr = absl::StrCat("redis-benchmark -p ", server.port(), " -t incr -n 500000 -P 16 -q | tr '\\r' '\\n' | grep second");
  std::fflush(stdout);
  if (std::system(incr.c_str()) != 0) std::printf("redis-benchmark cannot be run\n");
  {
    RedisStoreOptions one;
    one.events_max = 1;
    Bench bench(server, one);
    bench.Measure("one reservation per call", Kind::kReserve, 40'000, 1, 64, 0);
  }
  for (const size_t most : {64, 256}) {
    RedisStoreOptions options;
    options.events_max = most;
    Bench bench(server, options);
    const std::string name = absl::StrCat(", at most ", most, " per call");
    bench.set_one_key(true);
    bench.Measure(absl::StrCat("reserve, the same 4 budgets", name).c_str(), Kind::kReserve, 200'000, 15, 64, 0);
    bench.set_one_key(false);
    bench.Measure(absl::StrCat("reserve, of 1000 keys", name).c_str(), Kind::kReserve, 300'000, 15, 64, 0);
    const int64_t half = bench.rate() / 2;
    bench.Measure(absl::StrCat("settle", name).c_str(), Kind::kSettle, 300'000, 15, 64, 0);
    bench.Measure(absl::StrCat("acknowledge", name).c_str(), Kind::kAcknowledge, 300'000, 15, 64, 0);
    bench.Measure(absl::StrCat("reserve at half load", name).c_str(), Kind::kReserve, 100'000, 8, 0, half);
  }
}

}  // namespace
}  // namespace tollhouse::enforcer

int main() {
  tollhouse::enforcer::Run();
  return 0;
}
