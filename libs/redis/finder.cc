#include "libs/redis/finder.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <exception>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/redis/errors.h"

namespace tollhouse::redis {
namespace {

// How long others are waited for once one has answered what was asked for.
constexpr absl::Duration kGrace = absl::Milliseconds(50);

// The value after `name` in a flat list of names and values; "" without it.
std::string_view FieldOf(const Value& list, std::string_view name) {
  for (size_t i = 0; i + 1 < list.size(); i += 2) {
    if (list[i].text() == name) return list[i + 1].text();
  }
  return {};
}

template <typename Int>
bool ParseNumber(std::string_view text, Int* number) {
  return absl::SimpleAtoi(Absl(text), number);
}

// Several failures as one: the most telling reason, all messages.
absl::Status NoneOf(std::string_view what, const std::vector<absl::Status>& failures) {
  absl::StatusCode code = absl::StatusCode::kUnavailable;
  std::string reason = "REDIS_UNAVAILABLE";
  std::string message(what);
  for (const absl::Status& failure : failures) {
    absl::StrAppend(&message, "; ", failure.message());
    const std::string other = ReasonOf(failure);
    if (reason == "REDIS_UNAVAILABLE" && (other == "REDIS_UNFIT" || other == "REDIS_DENIED")) {
      code = failure.code();
      reason = other;
    }
  }
  return MakeError(code, reason, message);
}

absl::Status Located(const Address& address, const absl::Status& status) {
  const std::string prefix = address.ToString() + ": ";
  if (Std(status.message()).starts_with(prefix)) return status;
  const std::string reason = ReasonOf(status);
  return MakeError(status.code(), reason.empty() ? "REDIS_UNAVAILABLE" : reason,
                   absl::StrCat(prefix, status.message()), MetadataOf(status));
}

}  // namespace

void Spawn(asio::io_context& io, Task<> task) {
  asio::co_spawn(io, std::move(task), [](std::exception_ptr error) {
    if (!error) return;
    obs::Error("redis_task_failed");
    std::rethrow_exception(error);
  });
}

Task<absl::StatusOr<Primary>> OpenPrimary(asio::io_context& io, const Options& options,
                                          const Endpoints& endpoints, Address address) {
  absl::StatusOr<std::shared_ptr<Connection>> connection = co_await Connection::Open(
      io, options, endpoints, address, Connection::Server::kRedis);
  if (!connection.ok()) co_return connection.status();
  absl::StatusOr<ServerInfo> info = co_await AskInfo(*connection, options.connect_timeout);
  absl::Status status = info.status();
  if (status.ok()) {
    const bool want_cluster = endpoints.mode == Endpoints::Mode::kCluster;
    status = co_await CheckPrimary(*connection, *info, options, want_cluster);
  }
  if (!status.ok()) {
    (*connection)->Close(status);
    co_return Located(address, status);
  }
  co_return Primary{*std::move(connection), *std::move(info)};
}

struct Finder::Asked {
  explicit Asked(asio::io_context& io) : progress(io) {}
  Event progress;
  std::vector<Answer> answers;
  size_t left = 0;
  bool enough = false;
  std::function<bool(const Answer&)> is_enough;
};

Task<> Finder::AskOne(std::shared_ptr<Asked> asked, size_t index, Commands commands,
                      Connection::Server server) {
  const Address address = asked->answers[index].address;
  std::shared_ptr<Connection> connection = connections_[address.ToString()];
  absl::Status status;
  if (connection == nullptr || !connection->open()) {
    absl::StatusOr<std::shared_ptr<Connection>> opened =
        co_await Connection::Open(io_, options_, endpoints_, address, server);
    status = opened.status();
    if (opened.ok()) {
      connection = *std::move(opened);
      connections_[address.ToString()] = connection;
    }
  }
  absl::StatusOr<std::vector<Reply>> replies = std::vector<Reply>();
  if (status.ok()) {
    replies = co_await connection->Ask(std::move(commands), options_.connect_timeout);
    if (!replies.ok()) {
      status = replies.status();
      connection->Close(status);
    } else {
      for (const Reply& reply : *replies) {
        if (status.ok() && reply.type() == Value::Type::kError) status = FromRedisError(reply.text());
      }
    }
  }
  Answer& answer = asked->answers[index];
  if (status.ok()) {
    answer.replies = std::move(replies);
    asked->enough |= asked->is_enough(answer);
  } else {
    answer.replies = Located(address, status);
  }
  --asked->left;
  asked->progress.Set();
}

Task<std::vector<Finder::Answer>> Finder::AskAll(std::vector<Address> addresses, Commands commands,
                                                 Connection::Server server,
                                                 std::function<bool(const Answer&)> enough) {
  const auto asked = std::make_shared<Asked>(io_);
  asked->is_enough = std::move(enough);
  asked->left = addresses.size();
  for (Address& address : addresses) asked->answers.push_back({.address = std::move(address)});
  for (size_t i = 0; i < asked->answers.size(); ++i) {
    Spawn(io_, AskOne(asked, i, commands, server));
  }
  while (asked->left > 0 && !asked->enough) {
    co_await asked->progress.Wait(absl::Hours(1));
    asked->progress.Clear();
  }
  const int64_t until = NowNanos() + absl::ToInt64Nanoseconds(kGrace);
  while (asked->left > 0 && NowNanos() < until) {
    asked->progress.Clear();
    co_await asked->progress.Wait(absl::Nanoseconds(until - NowNanos()));
  }
  co_return asked->answers;
}

Task<absl::StatusOr<Address>> Finder::AskSentinels() {
  Commands commands = {{"SENTINEL", "MASTER", endpoints_.primary_name}};
  const std::vector<Answer> answers =
      co_await AskAll(endpoints_.addresses, std::move(commands), Connection::Server::kSentinel,
                      [](const Answer&) { return true; });
  // A sentinel that was cut off names an old primary: the latest configuration counts.
  Address best;
  int64_t best_epoch = -1;
  std::vector<absl::Status> failures;
  for (const Answer& answer : answers) {
    if (!answer.replies.ok()) {
      failures.push_back(answer.replies.status());
      continue;
    }
    const Value fields = answer.replies->front().value();
    int64_t epoch = 0;
    uint32_t port = 0;
    if (!ParseNumber(FieldOf(fields, "config-epoch"), &epoch) ||
        !ParseNumber(FieldOf(fields, "port"), &port) || port == 0 || port > 65535) {
      failures.push_back(NotExecuted("a sentinel's answer makes no sense"));
      continue;
    }
    if (epoch > best_epoch) {
      best_epoch = epoch;
      best = {std::string(FieldOf(fields, "ip")), static_cast<uint16_t>(port)};
    }
  }
  if (best_epoch < 0) co_return NoneOf("no sentinel names the primary", failures);
  co_return best;
}

Task<absl::StatusOr<Primary>> Finder::Find() {
  if (endpoints_.mode == Endpoints::Mode::kSentinel) {
    absl::StatusOr<Address> named = co_await AskSentinels();
    if (!named.ok()) co_return named.status();
    co_return co_await OpenPrimary(io_, options_, endpoints_, *std::move(named));
  }
  Commands commands = {InfoCommand()};
  const std::vector<Answer> answers = co_await AskAll(
      endpoints_.addresses, std::move(commands), Connection::Server::kRedis,
      [](const Answer& a) { return ParseInfo(a.replies->front().text()).is_primary; });
  std::vector<Primary> found;
  std::vector<absl::Status> failures;
  for (const Answer& answer : answers) {
    if (!answer.replies.ok()) {
      failures.push_back(CheckAsked(answer.replies.status()));
      continue;
    }
    ServerInfo info = ParseInfo(answer.replies->front().text());
    if (info.is_primary) {
      found.push_back({connections_[answer.address.ToString()], std::move(info)});
    } else {
      failures.push_back(Located(answer.address, CheckInfo(info, options_, false)));
    }
  }
  // Of a primary and the one promoted from it, the promoted one; else the first of the URI.
  const auto superseded = [&found](const Primary& one) {
    return std::any_of(found.begin(), found.end(), [&one](const Primary& other) {
      return other.info.replid2 == one.info.replid;
    });
  };
  auto chosen = std::find_if_not(found.begin(), found.end(), superseded);
  if (chosen == found.end()) chosen = found.begin();
  if (chosen == found.end()) co_return NoneOf("no primary", failures);
  if (found.size() > 1) {
    obs::Warning("redis_several_primaries",
                 {{"chosen", std::string_view(chosen->connection->address().ToString())},
                  {"found", found.size()}});
  }
  Primary primary = std::move(*chosen);
  connections_.erase(primary.connection->address().ToString());
  absl::Status fit = co_await CheckPrimary(primary.connection, primary.info, options_, false);
  if (!fit.ok()) {
    primary.connection->Close(fit);
    co_return Located(primary.connection->address(), fit);
  }
  co_return primary;
}

Task<bool> Finder::IsSuperseded(Address address, ServerInfo current) {
  if (endpoints_.mode == Endpoints::Mode::kSentinel) {
    const absl::StatusOr<Address> named = co_await AskSentinels();
    co_return named.ok() && *named != address;
  }
  std::vector<Address> others = endpoints_.addresses;
  std::erase(others, address);
  Commands commands = {InfoCommand()};
  const std::vector<Answer> answers = co_await AskAll(
      std::move(others), std::move(commands), Connection::Server::kRedis, [](const Answer&) { return false; });
  for (const Answer& answer : answers) {
    if (!answer.replies.ok()) continue;
    const ServerInfo info = ParseInfo(answer.replies->front().text());
    if (info.is_primary && info.replid2 == current.replid) co_return true;
  }
  co_return false;
}

Task<absl::StatusOr<std::vector<Finder::SlotRange>>> Finder::FindSlots(std::vector<Address> nodes) {
  Commands commands = {{"CLUSTER", "INFO"}, {"CLUSTER", "SLOTS"}};
  const std::vector<Answer> answers = co_await AskAll(
      std::move(nodes), std::move(commands), Connection::Server::kRedis, [](const Answer&) { return true; });
  std::vector<absl::Status> failures;
  std::vector<SlotRange> best;
  int64_t best_epoch = -1;
  for (const Answer& answer : answers) {
    if (!answer.replies.ok()) {
      failures.push_back(answer.replies.status());
      continue;
    }
    // The epoch of the latest change that this node has heard of.
    constexpr std::string_view kEpoch = "cluster_current_epoch:";
    const std::string_view text = (*answer.replies)[0].text();
    int64_t epoch = 0;
    if (const size_t at = text.find(kEpoch); at != std::string_view::npos) {
      const std::string_view rest = text.substr(at + kEpoch.size());
      if (!ParseNumber(rest.substr(0, rest.find('\r')), &epoch)) epoch = 0;
    }
    if (epoch <= best_epoch) continue;
    std::vector<SlotRange> ranges;
    const Value list = (*answer.replies)[1].value();
    for (size_t i = 0; i < list.size(); ++i) {
      const Value range = list[i];
      if (range.size() < 3 || range[2].size() < 2) continue;
      const Value node = range[2];
      // "" and null: the address that was asked.
      const std::string host =
          node[0].text().empty() ? answer.address.host : std::string(node[0].text());
      ranges.push_back({static_cast<int>(range[0].integer()), static_cast<int>(range[1].integer()),
                        {host, static_cast<uint16_t>(node[1].integer())}});
    }
    best_epoch = epoch;
    best = std::move(ranges);
  }
  if (best_epoch < 0) co_return NoneOf("no node of the Cluster answers", failures);
  co_return best;
}

void Finder::Close() {
  for (auto& [address, connection] : connections_) {
    if (connection != nullptr) connection->Close(NotExecuted("the client ends"));
  }
  connections_.clear();
}

}  // namespace tollhouse::redis
