// Real Redis 7 servers for tests: in temporary directories, on free loopback ports, gone with the
// test's process.
#pragma once

#include <signal.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "libs/testing/process.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::testing {

// A key and a certificate that signs itself, good as server, client and authority at once.
struct TestCertificate {
  // `name`: "IP:127.0.0.1" or "DNS:redis.test". Files NAME.crt and NAME.key in `dir`, a day valid.
  TestCertificate(const std::string& dir, const std::string& file_name, const std::string& name);

  std::string certificate_file;
  std::string key_file;
};

// One server: append-only file written every second, nothing evicted. Everything throws
// std::runtime_error, with the end of the server's log, when it fails. Not thread-safe; the thread
// that starts a server must live as long as it.
class RedisServer {
 public:
  struct Options {
    std::vector<std::string> settings;  // "maxmemory 10mb", as in redis.conf; the last one counts
    bool persist = true;                // else neither append-only file nor save points
    bool tls = false;                   // TLS only, with clients' certificates where `tls_clients`
    bool tls_clients = false;
    std::string certificate_name = "IP:127.0.0.1";
    std::string password;               // of the default user
    int replica_of = 0;                 // port of its primary
    bool cluster = false;
  };

  // Returns when it accepts connections (a replica: when it has its primary's data).
  RedisServer() : RedisServer(Options{}) {}
  explicit RedisServer(Options options);
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  int port() const { return port_; }
  int cluster_port() const { return cluster_port_; }
  pid_t pid() const { return process_->pid(); }
  // "127.0.0.1:PORT"
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // "redis://" or "rediss://" and the address
  std::string uri() const;
  // The server's certificate, which is its authority too. `tls` only.
  const TestCertificate& certificate() const { return *certificate_; }
  // A file with the password.
  std::string password_file() const { return dir_.File("password"); }

  // Runs one command through the server's Unix socket, whatever its ports do: a string, status or
  // number as text, elements of an array on lines of their own, "" for nil, an error as it is.
  std::string Command(const std::vector<std::string>& args);

  // SIGTERM: ends after it has written everything; Start() finds it again.
  void Stop();
  // SIGKILL: up to a second of writes is lost.
  void Kill();
  // On the same port, with the data that is in the directory.
  void Start();
  // SIGSTOP and SIGCONT.
  void Pause() { process_->Signal(SIGSTOP); }
  void Resume() { process_->Signal(SIGCONT); }
  void FlushAll() { Command({"FLUSHALL"}); }
  // It serves nobody for so long; returns at once.
  void Block(absl::Duration duration);

  // Makes it a replica; returns when it has the primary's data.
  void Follow(const RedisServer& primary);
  // A replica that receives no more: what its primary acknowledges from now on is lost by Promote.
  void CutReplication();
  // Makes a primary of a replica, of a history of its own.
  void Promote();
  // Until a replica has its primary's data.
  void AwaitReplicated();

 private:

  const Options options_;
  TempDir dir_;
  int port_;
  int cluster_port_ = 0;
  std::optional<TestCertificate> certificate_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Process> blocker_;
};

// A Sentinel that watches one primary, called "main", and promotes its replica half a second after
// it is gone.
class RedisSentinel {
 public:
  explicit RedisSentinel(const RedisServer& primary, int quorum = 1);
  RedisSentinel(const RedisSentinel&) = delete;
  RedisSentinel& operator=(const RedisSentinel&) = delete;

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  void Kill() { process_->End(SIGKILL); }
  // Until it knows so many replicas and other sentinels: before that it cannot fail over.
  void AwaitKnows(int replicas, int sentinels);

 private:
  TempDir dir_;
  const int port_;
  std::unique_ptr<Process> process_;
};

// A Redis Cluster of primaries, without replicas at first. Takes two seconds to start: Redis does.
class RedisCluster {
 public:
  explicit RedisCluster(int primaries = 3);

  RedisServer& node(int index) { return *nodes_[static_cast<size_t>(index)]; }
  int size() const { return static_cast<int>(nodes_.size()); }
  // A new replica of a node; returns when it has its data and every node knows it.
  RedisServer& AddReplica(int primary);
  // "redis+cluster://" and all addresses
  std::string uri() const;
  // The node that serves a slot.
  int Owner(int slot);
  // Moves a slot with its keys, as `redis-cli --cluster reshard` does, `keys_per_step` at a time.
  void MoveSlot(int slot, int to, int keys_per_step = 10);
  // The same in two parts, for tests that look between.
  void BeginMove(int slot, int to);
  // Moves up to `keys` keys; how many it moved.
  int MoveKeys(int slot, int from, int to, int keys);
  // Returns when every node knows.
  void EndMove(int slot, int to);

 private:
  // Who serves a slot, and in which epoch, as one node sees it.
  struct Seen {
    std::string id;
    std::string epoch;
  };
  Seen SeenBy(RedisServer& node, int slot);

  std::vector<std::unique_ptr<RedisServer>> nodes_;
  std::vector<std::unique_ptr<RedisServer>> replicas_;
  std::vector<std::string> ids_;
};

}  // namespace tollhouse::testing
