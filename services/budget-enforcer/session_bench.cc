// Reservations per second through the in-process Session stream of a whole enforcer: holds on four
// budgets, reserved, then settled, then acknowledged, in messages of `batch` operations with `window`
// operations under way; and how long a Reserve takes at half of that load. With --redis the holds are
// in a real Redis, without in memory.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "libs/testing/redis_server.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

using Make = v1::Operation (*)(const v1::Operation& reserve);

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t CpuUs() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 + usage.ru_utime.tv_usec +
         usage.ru_stime.tv_usec;
}

// One operation per reserve, as fast as `window` allows, or `rate` a second; the rate reached.
int64_t Measure(EnforcerWorld& world, const char* name, const std::vector<v1::Operation>& reserves, Make make,
                int batch, int window, int64_t rate) {
  std::unique_ptr<v1::EnforcerService::Stub> stub = v1::EnforcerService::NewStub(world.channel());
  grpc::ClientContext context;
  auto stream = stub->Session(&context);
  v1::SessionRequest hello;
  hello.mutable_edge()->set_edge_id("bench");
  hello.mutable_edge()->set_boot_id("boot");
  stream->Write(hello);
  const int total = static_cast<int>(reserves.size());
  std::vector<int64_t> sent_us(total), latencies(total);
  absl::Mutex mutex;
  int sent = 0, answered = 0;  // guarded by mutex
  const int64_t start = NowUs(), cpu = CpuUs();
  std::thread reader([&] {
    v1::SessionResponse response;
    while (stream->Read(&response)) {
      absl::MutexLock lock(&mutex);
      for (const auto& result : response.results()) {
        if (!result.has_admitted() && !result.has_done()) {
          std::printf("unexpected: %s\n", result.ShortDebugString().c_str());
        }
        latencies[result.sequence()] = NowUs() - sent_us[result.sequence()];
        ++answered;
      }
      if (answered == total) return;
    }
  });
  v1::SessionRequest message;
  for (int next = 0; next < total;) {
    message.Clear();
    for (int i = 0; i < batch && next < total; ++i, ++next) {
      *message.add_operations() = make(reserves[next]);
      message.mutable_operations(i)->set_sequence(next);
      sent_us[next] = NowUs();
    }
    {
      absl::MutexLock lock(&mutex);
      sent = next;
      const auto room = [&] { return sent - answered <= window; };
      mutex.Await(absl::Condition(&room));
      const auto never = [&] { return answered > total; };
      const int64_t due = rate == 0 ? 0 : start + int64_t{next} * 1'000'000 / rate;
      if (due > NowUs()) mutex.AwaitWithTimeout(absl::Condition(&never), absl::Microseconds(due - NowUs()));
    }
    stream->Write(message);
  }
  reader.join();
  const int64_t us = NowUs() - start, cpu_us = CpuUs() - cpu;
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  std::sort(latencies.begin(), latencies.end());
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::printf("%-12s batch %3d window %5d: %8lld/s, %6lld ns CPU of client and server each, p50 %6lld us, "
              "p99 %6lld us%s\n",
              name, batch, window, number(int64_t{total} * 1'000'000 / us), number(cpu_us * 1000 / total),
              number(latencies[total / 2]), number(latencies[total * 99 / 100]),
              status.ok() ? "" : ", stream failed");
  return int64_t{total} * 1'000'000 / us;
}

void Run(EnforcerWorld& world, int batch, int window, int total) {
  std::vector<v1::Operation> reserves, half;
  for (int i = 0; i < total; ++i) reserves.push_back(world.Reserve(1'000'000));
  const Make reserve = [](const v1::Operation& op) { return op; };
  const Make settle = [](const v1::Operation& op) { return EnforcerWorld::Settle(op, 1, 600'000); };
  const Make acknowledge = [](const v1::Operation& op) { return EnforcerWorld::Acknowledge(op, 1, 600'000); };
  const int64_t rate = Measure(world, "reserve", reserves, reserve, batch, window, 0);
  Measure(world, "settle", reserves, settle, batch, window, 0);
  Measure(world, "acknowledge", reserves, acknowledge, batch, window, 0);
  for (int i = 0; i < total / 2; ++i) half.push_back(world.Reserve(1'000'000));
  Measure(world, "half load", half, reserve, std::min(batch, 16), total, rate / 2);
  Measure(world, "settle", half, settle, batch, window, 0);
  Measure(world, "acknowledge", half, acknowledge, batch, window, 0);
}

}  // namespace
}  // namespace tollhouse::enforcer

int main(int argc, char** argv) {
  using namespace tollhouse::enforcer;
  ::testing::InitGoogleTest(&argc, argv);
  std::unique_ptr<tollhouse::testing::RedisServer> redis;
  if (argc > 1 && std::string_view(argv[1]) == "--redis") {
    redis = std::make_unique<tollhouse::testing::RedisServer>();
  }
  EnforcerWorld world({}, true, redis == nullptr ? "" : redis->uri());
  for (int64_t account = 1; account <= 4; ++account) {
    world.ledger().SetBudget(EnforcerWorld::Rule(account, "month"), 4'000'000'000'000'000'000);
  }
  Run(world, 1, 1, 5'000);
  Run(world, 16, 256, 60'000);
  Run(world, 64, 2048, 150'000);
  return 0;
}
