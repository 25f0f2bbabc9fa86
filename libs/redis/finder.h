// Finds the primary. Internal to libs/redis; IO thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/redis/connection.h"
#include "libs/redis/server_info.h"

namespace tollhouse::redis {

// Runs a coroutine on `io`; an exception in it (memory) ends the process.
void Spawn(asio::io_context& io, Task<> task);

// A primary that passed all checks, with the connection they were made on.
struct Primary {
  std::shared_ptr<Connection> connection;
  ServerInfo info;
};

// Connects to `address` and checks it as a primary.
Task<absl::StatusOr<Primary>> OpenPrimary(asio::io_context& io, const Options& options,
                                          const Endpoints& endpoints, Address address);

// Keeps a connection to every address that is asked (sentinels, other Redis servers, Cluster nodes),
// so that looking again costs one round trip.
class Finder {
 public:
  Finder(asio::io_context& io, const Options& options, const Endpoints& endpoints)
      : io_(io), options_(options), endpoints_(endpoints) {}

  // Of kAddresses and kSentinel. The error says of every address what was found there.
  Task<absl::StatusOr<Primary>> Find();

  // Whether another server is the primary now: the sentinels name another address, or another of the
  // addresses was promoted from the history that `current` writes.
  Task<bool> IsSuperseded(Address address, ServerInfo current);

  // Of kCluster: slot ranges by address of their primary, from the node that knows most.
  struct SlotRange {
    int first = 0;
    int last = 0;
    Address primary;
  };
  Task<absl::StatusOr<std::vector<SlotRange>>> FindSlots(std::vector<Address> nodes);

  void Close();

 private:
  struct Answer {
    Address address;
    absl::StatusOr<std::vector<Reply>> replies = absl::UnknownError("no answer");
  };
  struct Asked;

  // Asks all addresses at once. Ends when all have answered or failed, or soon after `enough` holds
  // of an answer.
  Task<std::vector<Answer>> AskAll(std::vector<Address> addresses, Commands commands,
                                   Connection::Server server,
                                   std::function<bool(const Answer&)> enough);
  Task<> AskOne(std::shared_ptr<Asked> asked, size_t index, Commands commands,
                Connection::Server server);
  Task<absl::StatusOr<Address>> AskSentinels();

  asio::io_context& io_;
  const Options& options_;
  const Endpoints& endpoints_;
  std::map<std::string, std::shared_ptr<Connection>> connections_;
};

}  // namespace tollhouse::redis
