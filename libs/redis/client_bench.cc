// The client against redis-benchmark, Redis' own, on the same server in the same run: one
// connection each, `window` calls under way, commands and CPU time per command.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "libs/redis/client.h"
#include "libs/testing/redis_server.h"

namespace tollhouse::redis {
namespace {

using tollhouse::testing::Process;
using tollhouse::testing::RedisServer;

constexpr absl::Duration kTimeout = absl::Seconds(60);

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double OwnCpu() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

double Number(const std::string& text) {
  double number = 0;
  return absl::SimpleAtod(text, &number) ? number : 0;
}

// User and system time of a process so far.
double CpuOf(pid_t pid) {
  std::string text;
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::getline(file, text);
  const std::vector<std::string> words = absl::StrSplit(text.substr(text.rfind(')') + 2), ' ');
  return (Number(words[11]) + Number(words[12])) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// `window` calls, each of which starts another one when it is answered.
class Loop {
 public:
  using Start = std::function<void(Client::Done)>;

  Loop(Start start, int window, int total) : start_(std::move(start)), left_(total), unanswered_(total) {
    for (int i = 0; i < window; ++i) Next();
    done_.WaitForNotification();
  }

 private:
  void Next() {
    if (left_.fetch_sub(1) <= 0) return;
    start_([this](absl::StatusOr<Reply> reply) {
      if (!reply.ok()) std::printf("%s\n", reply.status().ToString().c_str());
      if (unanswered_.fetch_sub(1) == 1) return done_.Notify();
      Next();
    });
  }

  const Start start_;
  std::atomic<int> left_, unanswered_;
  absl::Notification done_;
};

void Measure(RedisServer& server, const std::string& name, int window, int total,
             const Loop::Start& start, const std::vector<std::string>& peer) {
  Loop warm(start, window, total / 10);
  const double cpu = OwnCpu(), redis_cpu = CpuOf(server.pid()), begin = Seconds();
  Loop loop(start, window, total);
  const double seconds = Seconds() - begin;
  const double own = OwnCpu() - cpu, redis = CpuOf(server.pid()) - redis_cpu;
  std::printf("%-28s %6d  %9.0f/s  %6.2f us/op here  %6.2f us/op Redis", name.c_str(), window,
              total / seconds, own / total * 1e6, redis / total * 1e6);

  tollhouse::testing::TempDir dir;
  std::vector<std::string> command = {"redis-benchmark", "-p", std::to_string(server.port()),
                                      "-c", "1", "-P", std::to_string(window), "-n",
                                      std::to_string(total), "--csv"};
  command.insert(command.end(), peer.begin(), peer.end());
  const double peer_cpu = CpuOf(server.pid());
  Process benchmark(command, dir.File("out"));
  const bool ok = benchmark.Succeeded();
  // The last line: "test","rps" and six latencies.
  const std::vector<std::string> words =
      absl::StrSplit(tollhouse::testing::EndOfFile(dir.File("out")), '"');
  std::printf("   redis-benchmark: %9.0f/s  %6.2f us/op Redis\n",
              ok && words.size() > 14 ? Number(words[words.size() - 14]) : 0.0,
              (CpuOf(server.pid()) - peer_cpu) / total * 1e6);
}

void Run() {
  RedisServer server;
  auto client = *Client::Create(Options{.uri = server.uri()});
  if (!client->WaitUntilConnected(kTimeout).ok()) return;
  const Script incr("return redis.call('INCR', KEYS[1])");
  const Script batch(
      "local n = redis.call('INCR', KEYS[1]) local out = {} "
      "for i = 1, #ARGV, 4 do out[#out + 1] = n end return out");
  server.Command({"SCRIPT", "LOAD", incr.text()});
  server.Command({"SCRIPT", "LOAD", batch.text()});
  const std::string_view keys[] = {"{1}counter"};
  std::vector<std::string> words;
  for (int i = 0; i < 256; ++i) words.push_back(absl::StrCat(800000123456789 + i));
  const std::vector<std::string_view> args(words.begin(), words.end());

  for (const int window : {1, 16, 64, 512}) {
    Measure(server, "INCR", window, window == 1 ? 30000 : 400000,
            [&](Client::Done done) {
              client->Call({"INCR", "{1}counter"}, kTimeout, std::move(done));
            },
            {"INCR", "{1}counter"});
  }
  for (const int window : {1, 16, 64, 512}) {
    Measure(server, "EVALSHA", window, window == 1 ? 30000 : 200000,
            [&](Client::Done done) {
              client->RunScript(incr, keys, {}, kTimeout, std::move(done));
            },
            {"EVALSHA", incr.sha(), "1", "{1}counter"});
  }
  std::vector<std::string> peer = {"EVALSHA", batch.sha(), "1", "{1}counter"};
  peer.insert(peer.end(), words.begin(), words.end());
  for (const int window : {1, 4, 16}) {
    Measure(server, "EVALSHA, 256 arguments", window, 20000,
            [&](Client::Done done) {
              client->RunScript(batch, keys, args, kTimeout, std::move(done));
            },
            peer);
  }
}

}  // namespace
}  // namespace tollhouse::redis

int main() { tollhouse::redis::Run(); }
