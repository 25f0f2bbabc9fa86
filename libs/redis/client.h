// A pipelined Redis client that finds the primary and says what is known about every call.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/redis/options.h"
#include "libs/redis/reply.h"

namespace tollhouse::redis {

// The outcome of a call is one of
//   a Reply                                      answered
//   UNAVAILABLE (REDIS_UNAVAILABLE)              not executed: no connection, or the deadline came
//                                                first, or Redis said so (LOADING, BUSY, CLUSTERDOWN)
//   UNAVAILABLE (REDIS_NOT_PRIMARY)              not executed: READONLY, MASTERDOWN; the primary is
//                                                looked for again
//   UNAVAILABLE (REDIS_REFUSED)                  not executed: OOM, MISCONF, NOREPLICAS
//   UNAVAILABLE (REDIS_UNFIT)                    not executed: the Redis found must not be used, the
//                                                message says why and what to configure
//   UNAUTHENTICATED (REDIS_DENIED)               not executed: NOAUTH, WRONGPASS, NOPERM
//   RESOURCE_EXHAUSTED (REDIS_OVERLOADED)        not executed: too much waits already
//   UNAVAILABLE (REDIS_TIMEOUT, REDIS_BROKEN)    MAY HAVE BEEN EXECUTED, or may yet be: sent, and no
//                                                answer before the deadline or the connection's end
//   INTERNAL (REDIS_ERROR)                       Redis' own error text; a script that fails in its
//                                                middle keeps what it wrote
// Metadata "redis_code" holds the first word of Redis' error where there is one.
bool MayHaveBeenExecuted(const absl::Status& status);

// A Lua script. Must outlive every client that runs it: make it static.
class Script {
 public:
  explicit Script(std::string text);
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;

  const std::string& text() const { return text_; }
  // SHA-1 of the text, 40 lower-case hexadecimal digits: what EVALSHA wants.
  const std::string& sha() const { return sha_; }

 private:
  const std::string text_;
  const std::string sha_;
};

// Thread-safe. Owns one IO thread and one connection to the primary (to each primary of a Cluster),
// connects in the background and again after every loss, with jittered exponential backoff.
//
// Calls of one thread are sent in the order in which they are made and run in that order, but for
// those that Redis sends elsewhere (Cluster) or whose script it has forgotten: these are sent again,
// after what was sent meanwhile. While the first attempt after a loss is under way calls wait; once
// it failed they are refused at once with its reason, until an attempt succeeds.
//
// Before a Redis is used it must be the primary, not evict (maxmemory-policy noeviction), persist
// (append-only file or save points), run scripts and accept writes. Of several addresses that all
// say they are primary, the one is taken that was promoted from another.
class Client {
 public:
  // Called exactly once, on the client's IO thread, never within Call. Must not block.
  using Done = absl::AnyInvocable<void(absl::StatusOr<Reply>)>;

  // INVALID_ARGUMENT (REDIS_URI, REDIS_TLS) for options that can never work. Does not wait for a
  // connection.
  static absl::StatusOr<std::unique_ptr<Client>> Create(Options options);

  // Answers every call that is still open, then ends the IO thread. Not on the IO thread.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Sends one command. `args` are copied into the wire buffer before this returns. In a Cluster the
  // second word must be the key (or there must be none: any node answers).
  void Call(std::span<const std::string_view> args, absl::Duration timeout, Done done);
  void Call(std::initializer_list<std::string_view> args, absl::Duration timeout, Done done) {
    Call(std::span(args.begin(), args.size()), timeout, std::move(done));
  }

  // EVALSHA; where Redis has forgotten the script, it is sent again with its text. In a Cluster all
  // keys must share a slot (hash tag); `keys` may be empty elsewhere.
  void RunScript(const Script& script, std::span<const std::string_view> keys,
                 std::span<const std::string_view> args, absl::Duration timeout, Done done);

  // The same for threads that may wait. Not on the IO thread.
  absl::StatusOr<Reply> CallAndWait(std::span<const std::string_view> args, absl::Duration timeout);
  absl::StatusOr<Reply> CallAndWait(std::initializer_list<std::string_view> args,
                                    absl::Duration timeout) {
    return CallAndWait(std::span(args.begin(), args.size()), timeout);
  }
  absl::StatusOr<Reply> RunScriptAndWait(const Script& script,
                                         std::span<const std::string_view> keys,
                                         std::span<const std::string_view> args,
                                         absl::Duration timeout);

  // "run_id/master_replid" of the connected primary, read when the connection was made and looked at
  // every check_interval; "" while there is none. In a Cluster that of the node which owns the slot
  // of `key`.
  std::string Incarnation(std::string_view key = {}) const;

  // `callback` runs on the IO thread when a primary with another incarnation than the last one is
  // connected (the first one too), before any call is sent to it, and when a Cluster's slots have
  // moved. An incarnation that is known by now is announced at once, on the IO thread.
  void SetIncarnationChanged(std::function<void()> callback);

  // Gives the connection up and looks for the primary again: for a caller whose script found another
  // identity than Incarnation(). Calls in flight end as REDIS_BROKEN.
  void Reconnect();

  // OK while connected (a Cluster: to every primary), else why not: a status as calls get it.
  absl::Status Health() const;
  // Waits until Health() is OK; its status after `timeout`. Not on the IO thread.
  absl::Status WaitUntilConnected(absl::Duration timeout) const;

  // Calls that wait to be sent, and that are sent and not answered.
  struct Load {
    size_t queued = 0;
    size_t in_flight = 0;
  };
  Load load() const;

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::redis
