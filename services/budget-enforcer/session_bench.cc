// Reservations per second through the in-process Session stream: Reserve, Settle and Acknowledge of
// holds on four budgets, in messages of `batch` operations with `window` of them under way.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

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

void Measure(EnforcerWorld& world, int batch, int window, int total) {
  std::unique_ptr<v1::EnforcerService::Stub> stub = v1::EnforcerService::NewStub(world.channel());
  grpc::ClientContext context;
  auto stream = stub->Session(&context);
  v1::SessionRequest message;
  message.mutable_edge()->set_edge_id("bench");
  message.mutable_edge()->set_boot_id("boot");
  stream->Write(message);
  std::vector<v1::Operation> reserves;
  for (int i = 0; i < total; ++i) reserves.push_back(world.Reserve(1'000'000));
  int sent = 0, answered = 0;  // operations of all three kinds
  const int64_t start = NowUs(), cpu = CpuUs();
  auto operation = [&](int index) {
    const v1::Operation& reserve = reserves[index / 3];
    v1::Operation op = index % 3 == 0   ? reserve
                       : index % 3 == 1 ? EnforcerWorld::Settle(reserve, 1, 600'000)
                                        : EnforcerWorld::Acknowledge(reserve, 1, 600'000);
    op.set_sequence(index);
    return op;
  };
  v1::SessionResponse response;
  while (answered < 3 * total) {
    while (sent < 3 * total && sent - answered <= 3 * (window - batch)) {
      message.Clear();
      for (int i = 0; i < 3 * batch && sent < 3 * total; ++i) *message.add_operations() = operation(sent++);
      stream->Write(message);
    }
    if (!stream->Read(&response)) break;
    for (const auto& result : response.results()) {
      if (!result.has_admitted() && !result.has_done()) {
        std::printf("unexpected: %s\n", result.ShortDebugString().c_str());
        return;
      }
      ++answered;
    }
  }
  const int64_t us = NowUs() - start, cpu_us = CpuUs() - cpu;
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  std::printf("batch %4d window %5d: %8lld reservations/s (each with settle and acknowledge), %lld ns CPU "
              "of client and server each%s\n",
              batch, window, static_cast<long long>(int64_t{total} * 1'000'000 / us),
              static_cast<long long>(cpu_us * 1000 / total), status.ok() ? "" : ", stream failed");
}

}  // namespace
}  // namespace tollhouse::enforcer

int main(int argc, char** argv) {
  using namespace tollhouse::enforcer;
  ::testing::InitGoogleTest(&argc, argv);
  EnforcerWorld world({}, true);
  for (int64_t account = 1; account <= 4; ++account) {
    world.ledger().SetBudget(EnforcerWorld::Rule(account, "month"), 4'000'000'000'000'000'000);
  }
  Measure(world, 1, 1, 5'000);
  Measure(world, 1, 32, 20'000);
  Measure(world, 16, 256, 100'000);
  Measure(world, 64, 256, 200'000);
  Measure(world, 64, 1024, 200'000);
  return 0;
}
