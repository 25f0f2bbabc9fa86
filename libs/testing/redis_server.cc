#include "libs/testing/redis_server.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tollhouse::testing {
namespace {

[[noreturn]] void Fail(const std::string& what, const std::string& log) {
  throw std::runtime_error(what + ": " + EndOfFile(log));
}

std::string TextOf(const redisReply& reply) {
  switch (reply.type) {
    case REDIS_REPLY_INTEGER:
      return std::to_string(reply.integer);
    case REDIS_REPLY_NIL:
      return "";
    case REDIS_REPLY_ARRAY: {
      std::string lines;
      for (size_t i = 0; i < reply.elements; ++i) lines += TextOf(*reply.element[i]) + "\n";
      return lines;
    }
    default:
      return std::string(reply.str, reply.len);
  }
}

// Runs `commands` on one connection; the last one's answer, nothing if there is no connection.
std::optional<std::string> Ask(redisContext* context,
                               const std::vector<std::vector<std::string>>& commands) {
  std::optional<std::string> answer;
  for (const std::vector<std::string>& command : commands) {
    std::vector<const char*> words;
    std::vector<size_t> sizes;
    for (const std::string& word : command) {
      words.push_back(word.data());
      sizes.push_back(word.size());
    }
    answer.reset();
    if (context == nullptr || context->err != 0) break;
    auto* const reply = static_cast<redisReply*>(
        redisCommandArgv(context, static_cast<int>(words.size()), words.data(), sizes.data()));
    if (reply == nullptr) break;
    answer = TextOf(*reply);
    freeReplyObject(reply);
  }
  if (context != nullptr) redisFree(context);
  return answer;
}

std::string FieldOf(const std::string& info, const std::string& name) {
  for (const absl::string_view line : absl::StrSplit(info, absl::ByAnyChar("\r\n"))) {
    if (line.substr(0, name.size() + 1) == name + ":") return std::string(line.substr(name.size() + 1));
  }
  return "";
}

}  // namespace

TestCertificate::TestCertificate(const std::string& dir, const std::string& file_name,
                                 const std::string& name)
    : certificate_file(dir + "/" + file_name + ".crt"), key_file(dir + "/" + file_name + ".key") {
  const std::string log = dir + "/" + file_name + ".log";
  Process openssl({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                   "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj",
                   "/CN=tollhouse test " + file_name, "-addext", "subjectAltName=" + name, "-keyout",
                   key_file, "-out", certificate_file},
                  log);
  if (!openssl.Succeeded()) Fail("no certificate", log);
}

RedisServer::RedisServer(Options options) : options_(std::move(options)), port_(FreePort()) {
  if (options_.tls) certificate_.emplace(dir_.path(), "server", options_.certificate_name);
  if (options_.cluster) cluster_port_ = FreePort();
  std::ofstream conf(dir_.File("redis.conf"));
  conf << "bind 127.0.0.1\nunixsocket " << dir_.File("redis.sock") << "\ndir " << dir_.path()
       << "\nmaxmemory-policy noeviction\nsave \"\"\nenable-debug-command local\n"
       << "repl-diskless-sync-delay 0\nrepl-diskless-load on-empty-db\nrepl-backlog-ttl 0\n";
  conf << (options_.persist ? "appendonly yes\nappendfsync everysec\n" : "appendonly no\n");
  if (options_.tls) {
    conf << "port 0\ntls-port " << port_ << "\ntls-cert-file " << certificate_->certificate_file
         << "\ntls-key-file " << certificate_->key_file << "\ntls-ca-cert-file "
         << certificate_->certificate_file << "\ntls-auth-clients "
         << (options_.tls_clients ? "yes" : "no") << "\n";
  } else {
    conf << "port " << port_ << "\n";
  }
  if (!options_.password.empty()) {
    conf << "requirepass " << options_.password << "\nmasterauth " << options_.password << "\n";
    std::ofstream(password_file()) << options_.password << "\n";
  }
  if (options_.cluster) {
    conf << "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\n"
         << "cluster-port " << cluster_port_ << "\n";
  }
  if (options_.replica_of != 0) conf << "replicaof 127.0.0.1 " << options_.replica_of << "\n";
  for (const std::string& setting : options_.settings) conf << setting << "\n";
  conf.close();
  Start();
}

RedisServer::~RedisServer() = default;

std::string RedisServer::uri() const { return (options_.tls ? "rediss://" : "redis://") + address(); }

void RedisServer::Start() {
  const std::string log = dir_.File("redis.log");
  process_ = std::make_unique<Process>(
      std::vector<std::string>{"redis-server", dir_.File("redis.conf")}, log);
  bool ready = false;
  AwaitProcess([&] {
    if (process_->Ended()) return true;
    std::vector<std::vector<std::string>> commands = {{"PING"}};
    if (!options_.password.empty()) commands.insert(commands.begin(), {"AUTH", options_.password});
    ready = Ask(redisConnectUnix(dir_.File("redis.sock").c_str()), commands) == "PONG";
    return ready;
  });
  if (!ready) Fail("redis-server does not start", log);
  if (options_.replica_of != 0) AwaitReplicated();
}

std::string RedisServer::Command(const std::vector<std::string>& args) {
  std::vector<std::vector<std::string>> commands = {args};
  if (!options_.password.empty()) commands.insert(commands.begin(), {"AUTH", options_.password});
  std::optional<std::string> answer =
      Ask(redisConnectUnix(dir_.File("redis.sock").c_str()), commands);
  if (!answer.has_value()) Fail("redis-server does not answer " + args[0], dir_.File("redis.log"));
  return *std::move(answer);
}

void RedisServer::Stop() { process_->End(SIGTERM); }

void RedisServer::Kill() { process_->End(SIGKILL); }

void RedisServer::Block(absl::Duration duration) {
  std::vector<std::string> command = {"redis-cli", "-s", dir_.File("redis.sock")};
  if (!options_.password.empty()) command.insert(command.end(), {"-a", options_.password});
  command.insert(command.end(), {"DEBUG", "SLEEP", absl::StrCat(absl::ToDoubleSeconds(duration))});
  blocker_ = std::make_unique<Process>(command, dir_.File("blocker.log"));
}

void RedisServer::AwaitReplicated() {
  if (!AwaitProcess([this] {
        return FieldOf(Command({"INFO", "replication"}), "master_link_status") == "up";
      })) {
    Fail("the replica does not follow", dir_.File("redis.log"));
  }
}

void RedisServer::Follow(const RedisServer& primary) {
  Command({"REPLICAOF", "127.0.0.1", std::to_string(primary.port())});
  AwaitReplicated();
}

void RedisServer::CutReplication() {
  // Nobody listens on port 1; the data and the history's id stay.
  Command({"REPLICAOF", "127.0.0.1", "1"});
}

void RedisServer::Promote() { Command({"REPLICAOF", "NO", "ONE"}); }

RedisSentinel::RedisSentinel(const RedisServer& primary, int quorum) : port_(FreePort()) {
  const std::string conf = dir_.File("sentinel.conf");
  std::ofstream(conf) << "bind 127.0.0.1\nport " << port_ << "\ndir " << dir_.path()
                      << "\nsentinel monitor main 127.0.0.1 " << primary.port() << " " << quorum
                      << "\nsentinel down-after-milliseconds main 500\n"
                      << "sentinel failover-timeout main 3000\n";
  const std::string log = dir_.File("sentinel.log");
  process_ = std::make_unique<Process>(std::vector<std::string>{"redis-sentinel", conf}, log);
  bool ready = false;
  AwaitProcess([&] {
    if (process_->Ended()) return true;
    ready = Ask(redisConnect("127.0.0.1", port_), {{"PING"}}) == "PONG";
    return ready;
  });
  if (!ready) Fail("redis-sentinel does not start", log);
}

void RedisSentinel::AwaitKnows(int replicas, int sentinels) {
  const auto knows = [&] {
    const std::vector<std::string> lines = absl::StrSplit(
        Ask(redisConnect("127.0.0.1", port_), {{"SENTINEL", "MASTER", "main"}}).value_or(""), '\n');
    int found = 0;
    for (size_t i = 0; i + 1 < lines.size(); i += 2) {
      if (lines[i] == "num-slaves") found += std::stoi(lines[i + 1]) >= replicas;
      if (lines[i] == "num-other-sentinels") found += std::stoi(lines[i + 1]) >= sentinels;
    }
    return found == 2;
  };
  if (!AwaitProcess(knows)) Fail("the sentinel is alone", dir_.File("sentinel.log"));
}

RedisCluster::RedisCluster(int primaries) {
  for (int i = 0; i < primaries; ++i) {
    nodes_.push_back(std::make_unique<RedisServer>(RedisServer::Options{.cluster = true}));
    RedisServer& node = *nodes_.back();
    ids_.push_back(node.Command({"CLUSTER", "MYID"}));
    node.Command({"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)});
    node.Command({"CLUSTER", "ADDSLOTSRANGE", std::to_string(16384 * i / primaries),
                  std::to_string(16384 * (i + 1) / primaries - 1)});
    if (i > 0) {
      nodes_[0]->Command({"CLUSTER", "MEET", "127.0.0.1", std::to_string(node.port()),
                          std::to_string(node.cluster_port())});
    }
  }
  const auto ready = [this] {
    for (const auto& node : nodes_) {
      const std::string info = node->Command({"CLUSTER", "INFO"});
      if (FieldOf(info, "cluster_state") != "ok" ||
          FieldOf(info, "cluster_known_nodes") != std::to_string(nodes_.size())) {
        return false;
      }
    }
    return true;
  };
  if (!AwaitProcess(ready)) throw std::runtime_error("the Redis Cluster does not come together");
}

std::string RedisCluster::uri() const {
  std::string uri = "redis+cluster://";
  for (const auto& node : nodes_) uri += (uri.back() == '/' ? "" : ",") + node->address();
  return uri;
}

RedisServer& RedisCluster::AddReplica(int primary) {
  replicas_.push_back(std::make_unique<RedisServer>(RedisServer::Options{.cluster = true}));
  RedisServer& replica = *replicas_.back();
  replica.Command({"CLUSTER", "MEET", "127.0.0.1", std::to_string(node(primary).port()),
                   std::to_string(node(primary).cluster_port())});
  const std::string& id = ids_[static_cast<size_t>(primary)];
  // Refused until it has met the primary.
  if (!AwaitProcess([&] { return replica.Command({"CLUSTER", "REPLICATE", id}) == "OK"; })) {
    throw std::runtime_error("the replica does not meet its primary");
  }
  replica.AwaitReplicated();
  // They vote for it only once they know it as one.
  const std::string own = replica.Command({"CLUSTER", "MYID"});
  const auto known = [&] {
    return std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& node) {
      return node->Command({"CLUSTER", "REPLICAS", id}).find(own) != std::string::npos;
    });
  };
  if (!AwaitProcess(known)) throw std::runtime_error("not every node knows the replica");
  return replica;
}

int RedisCluster::Owner(int slot) {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (SeenBy(*nodes_[i], slot).id == ids_[i]) return static_cast<int>(i);
  }
  throw std::runtime_error("no node serves the slot");
}

RedisCluster::Seen RedisCluster::SeenBy(RedisServer& node, int slot) {
  // ID ADDRESS FLAGS PRIMARY PING PONG EPOCH LINK RANGE...
  for (const absl::string_view line : absl::StrSplit(node.Command({"CLUSTER", "NODES"}), '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    for (size_t i = 8; i < words.size(); ++i) {
      if (words[i][0] == '[') continue;
      const size_t dash = words[i].find('-');
      const int first = std::stoi(words[i]);
      const int last = dash == std::string::npos ? first : std::stoi(words[i].substr(dash + 1));
      if (first <= slot && slot <= last) return {words[0], words[6]};
    }
  }
  return {};
}

void RedisCluster::BeginMove(int slot, int to) {
  const int from = Owner(slot);
  const std::string number = std::to_string(slot);
  node(to).Command({"CLUSTER", "SETSLOT", number, "IMPORTING", ids_[static_cast<size_t>(from)]});
  node(from).Command({"CLUSTER", "SETSLOT", number, "MIGRATING", ids_[static_cast<size_t>(to)]});
}

int RedisCluster::MoveKeys(int slot, int from, int to, int keys) {
  const std::string listed = node(from).Command(
      {"CLUSTER", "GETKEYSINSLOT", std::to_string(slot), std::to_string(keys)});
  const std::vector<std::string> names = absl::StrSplit(listed, '\n', absl::SkipEmpty());
  if (names.empty()) return 0;
  std::vector<std::string> command = {"MIGRATE", "127.0.0.1", std::to_string(node(to).port()),
                                      "",        "0",         "5000",
                                      "KEYS"};
  command.insert(command.end(), names.begin(), names.end());
  const std::string answer = node(from).Command(command);
  if (answer != "OK" && answer != "NOKEY") throw std::runtime_error("MIGRATE: " + answer);
  return static_cast<int>(names.size());
}

void RedisCluster::EndMove(int slot, int to) {
  const std::string number = std::to_string(slot);
  const std::string& id = ids_[static_cast<size_t>(to)];
  node(to).Command({"CLUSTER", "SETSLOT", number, "NODE", id});
  for (const auto& node : nodes_) node->Command({"CLUSTER", "SETSLOT", number, "NODE", id});
  // A slot that moves on before every node has heard of this move's epoch may end with no owner.
  const auto agreed = [&] {
    const Seen own = SeenBy(node(to), slot);
    for (const auto& node : nodes_) {
      const Seen seen = SeenBy(*node, slot);
      if (seen.id != id || seen.epoch != own.epoch) return false;
    }
    return true;
  };
  if (!AwaitProcess(agreed)) throw std::runtime_error("the nodes do not agree on the slot's owner");
}

void RedisCluster::MoveSlot(int slot, int to, int keys_per_step) {
  const int from = Owner(slot);
  if (from == to) return;
  BeginMove(slot, to);
  while (MoveKeys(slot, from, to, keys_per_step) > 0) {
  }
  EndMove(slot, to);
}

}  // namespace tollhouse::testing
