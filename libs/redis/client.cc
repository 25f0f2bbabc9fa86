#include "libs/redis/client.h"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <map>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/redis/command.h"
#include "libs/redis/errors.h"
#include "libs/redis/finder.h"
#include "libs/redis/metrics.h"
#include "libs/redis/net.h"
#include "libs/redis/server_info.h"
#include "libs/redis/wire.h"

namespace tollhouse::redis {
namespace {

// A batch is a unit of sending and of reuse; several are gathered into one write.
constexpr size_t kBatchCalls = 256;
constexpr size_t kBatchBytes = 64 << 10;
// Batches kept for reuse.
constexpr size_t kPool = 64;
// How often Redis may send one call elsewhere before it is sent more slowly.
constexpr uint8_t kRedirectionsMax = 5;
// How often a call's script is sent to a Redis that keeps forgetting it.
constexpr uint8_t kReloadsMax = 5;
// Before a call is sent again that Redis refused for the moment (TRYAGAIN, CLUSTERDOWN).
constexpr absl::Duration kRetryAfter = absl::Milliseconds(5);
// A node without slots keeps its connection for so long: slots come back.
constexpr absl::Duration kNodeLinger = absl::Seconds(10);

int64_t DeadlineOf(absl::Duration timeout) {
  const int64_t nanos = absl::ToInt64Nanoseconds(timeout);
  const int64_t now = NowNanos();
  return nanos > kNever - now ? kNever : now + nanos;
}

std::string Sha1(std::string_view text) {
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), sizeof(digest)});
}

// The second and third word of "MOVED 3999 10.0.0.1:6381".
struct Redirection {
  int slot = 0;
  Address to;
};
std::optional<Redirection> ParseRedirection(std::string_view text, const Address& from) {
  const size_t first = text.find(' ');
  const size_t second = text.find(' ', first + 1);
  const size_t colon = text.rfind(':');
  Redirection found;
  uint32_t port = 0;
  if (first == std::string_view::npos || second == std::string_view::npos ||
      colon == std::string_view::npos || colon < second ||
      !absl::SimpleAtoi(Absl(text.substr(first + 1, second - first - 1)), &found.slot) ||
      !absl::SimpleAtoi(Absl(text.substr(colon + 1)), &port) || found.slot < 0 ||
      found.slot >= kSlots || port == 0 || port > 65535) {
    return std::nullopt;
  }
  found.to = {std::string(text.substr(second + 1, colon - second - 1)), static_cast<uint16_t>(port)};
  if (found.to.host.empty()) found.to.host = from.host;
  return found;
}

// Waits for what `start(done)` leads to.
template <typename Start>
absl::StatusOr<Reply> Await(const Start& start) {
  absl::Notification done;
  absl::StatusOr<Reply> result;
  start([&](absl::StatusOr<Reply> reply) {
    result = std::move(reply);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

}  // namespace

Script::Script(std::string text) : text_(std::move(text)), sha_(Sha1(text_)) {}

class Client::Impl {
 public:
  Impl(Options options, Endpoints endpoints)
      : options_(std::move(options)),
        endpoints_(std::move(endpoints)),
        io_(std::make_unique<asio::io_context>(1)),
        work_(io_->get_executor()),
        finder_(std::make_unique<Finder>(*io_, options_, endpoints_)),
        deadline_timer_(std::make_unique<Timer>(*io_)),
        topology_wanted_(std::make_unique<Event>(*io_)),
        random_(std::random_device{}()) {}

  void Start() {
    lobby_ = std::make_shared<Lane>(*this, Address{});
    lanes_[""] = lobby_;
    if (endpoints_.mode == Endpoints::Mode::kCluster) {
      slots_.resize(kSlots, nullptr);
      Spawn(*io_, KeepTopology());
    } else {
      Spawn(*io_, KeepConnected(lobby_));
      const bool has_others =
          endpoints_.mode == Endpoints::Mode::kSentinel || endpoints_.addresses.size() > 1;
      if (has_others) Spawn(*io_, WatchOthers());
    }
    thread_ = std::thread([this] { io_->run(); });
  }

  void Stop() {
    asio::post(*io_, [this] { StopOnIo(); });
    thread_.join();
    lanes_.clear();
    lobby_.reset();
    finder_.reset();
    deadline_timer_.reset();
    topology_wanted_.reset();
    work_.reset();
    io_.reset();
  }

  // `format` appends the command to a batch's bytes, under the mutex.
  template <typename Format>
  void Submit(std::string_view key, const Script* script, absl::Duration timeout, Done done,
              const Format& format) {
    redis::Call call;
    call.done = std::move(done);
    call.script = script;
    call.deadline = DeadlineOf(timeout);
    if (is_cluster() && !key.empty()) call.slot = static_cast<int16_t>(KeySlot(key));
    bool wake;
    {
      absl::MutexLock lock(&mutex_);
      Lane& lane = LaneFor(call.slot);
      if (absl::Status refused = Refusal(lane); !refused.ok()) {
        rejected_.push_back({std::move(call.done), std::move(refused)});
      } else {
        Append(lane, std::move(call), format);
      }
      wake = !std::exchange(drain_scheduled_, true);
    }
    if (wake && !(drain_follows_.load(std::memory_order_relaxed) &&
                  std::this_thread::get_id() == thread_.get_id())) {
      asio::post(*io_, [this] { Drain(); });
    }
  }

  std::string Incarnation(std::string_view key) const {
    absl::MutexLock lock(&mutex_);
    return LaneFor(is_cluster() && !key.empty() ? KeySlot(key) : -1).incarnation;
  }

  void SetIncarnationChanged(std::function<void()> callback) {
    asio::post(*io_, [this, callback = std::move(callback)]() mutable {
      incarnation_changed_ = std::move(callback);
      const bool known = std::any_of(lanes_.begin(), lanes_.end(), [](const auto& entry) {
        return entry.second->connection != nullptr;
      });
      if (known && incarnation_changed_) incarnation_changed_();
    });
  }

  void Reconnect() {
    asio::post(*io_, [this] {
      for (auto& [address, lane] : lanes_) {
        if (lane->connection) lane->connection->Close(Broken("the primary is looked for again"));
      }
    });
  }

  absl::Status Health() const {
    absl::MutexLock lock(&mutex_);
    return health_;
  }

  absl::Status WaitUntilConnected(absl::Duration timeout) const {
    absl::MutexLock lock(&mutex_);
    const auto connected = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return health_.ok(); };
    mutex_.AwaitWithTimeout(absl::Condition(&connected), timeout);
    return health_;
  }

  Load load() const {
    absl::MutexLock lock(&mutex_);
    return {queued_calls_, in_flight_.load(std::memory_order_relaxed)};
  }

 private:
  // The calls for one server and the connection to it. What is reached by callers is guarded by the
  // client's mutex, the rest belongs to the IO thread.
  struct Lane final : Connection::Handler {
    Lane(Impl& client, Address where) : impl(client), address(std::move(where)), lost(*client.io_) {}

    void OnReply(redis::Call& call, std::string_view command, Reply reply) override {
      impl.OnReply(*this, call, command, std::move(reply));
    }
    void OnProgress() override { impl.Drain(); }
    void OnClosed(const absl::Status& why) override { impl.OnClosed(*this, why); }

    Impl& impl;
    const Address address;

    // Guarded by impl.mutex_.
    std::deque<BatchPtr> queue;
    // OK: calls may wait here; else why they cannot.
    absl::Status down;
    std::string incarnation;  // "" while not connected
    // Scripts that were sent on this connection or wait for the next one, by a number that grows with
    // each sending.
    absl::flat_hash_map<const Script*, uint32_t> loaded;
    uint32_t loads = 0;
    bool owns_slots = false;

    // IO thread.
    std::shared_ptr<Connection> connection;
    ServerInfo info;
    std::string last_incarnation;
    Event lost;
    int64_t unused_since = kNever;
    bool retired = false;
  };

  struct Rejected {
    Done done;
    absl::Status why;
  };
  // A call that is sent again after a while.
  struct Delayed {
    redis::Call call;
    std::string command;
  };

  bool is_cluster() const { return endpoints_.mode == Endpoints::Mode::kCluster; }

  // --- callers and the IO thread --------------------------------------------------------------

  Lane& LaneFor(int slot) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (slots_.empty()) return *lobby_;
    if (slot >= 0) return slots_[slot] != nullptr ? *slots_[slot] : *lobby_;
    for (const auto& [address, lane] : lanes_) {
      if (lane->owns_slots && !lane->incarnation.empty()) return *lane;
    }
    return *lobby_;
  }

  absl::Status Refusal(const Lane& lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (stopping_) return NotExecuted("the client ends");
    if (!lane.down.ok()) return lane.down;
    if (queued_calls_ >= options_.max_queued || queued_bytes_ >= options_.max_queued_bytes) {
      return Overloaded();
    }
    return absl::OkStatus();
  }

  template <typename Format>
  void Append(Lane& lane, redis::Call call, const Format& format) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (lane.queue.empty() || lane.queue.back()->calls.size() >= kBatchCalls ||
        lane.queue.back()->bytes.size() >= kBatchBytes) {
      if (pool_.empty()) {
        lane.queue.push_back(std::make_unique<Batch>());
      } else {
        lane.queue.push_back(std::move(pool_.back()));
        pool_.pop_back();
      }
    }
    Batch& batch = *lane.queue.back();
    const size_t begin = batch.bytes.size();
    call.begin = static_cast<uint32_t>(begin);
    call.skip = 0;
    if (call.script != nullptr) {
      const auto [entry, is_new] = lane.loaded.try_emplace(call.script);
      if (is_new) {
        entry->second = ++lane.loads;
        const std::string_view load[] = {"SCRIPT", "LOAD", call.script->text()};
        AppendCommand(load, &batch.bytes);
        ++call.skip;
      }
      call.load = entry->second;
    }
    if (call.asking) {
      const std::string_view asking[] = {"ASKING"};
      AppendCommand(asking, &batch.bytes);
      ++call.skip;
    }
    call.command = static_cast<uint32_t>(batch.bytes.size());
    format(&batch.bytes);
    call.end = static_cast<uint32_t>(batch.bytes.size());
    earliest_ = std::min(earliest_, call.deadline);
    batch.calls.push_back(std::move(call));
    ++queued_calls_;
    queued_bytes_ += batch.bytes.size() - begin;
  }

  // --- sending (IO thread) --------------------------------------------------------------------

  // Answers what was refused, sends what waits, and sees to the deadlines.
  void Drain() {
    int64_t earliest;
    std::vector<Rejected> rejected;
    drain_follows_.store(false, std::memory_order_relaxed);
    {
      absl::MutexLock lock(&mutex_);
      drain_scheduled_ = false;
      rejected.swap(rejected_);
      Metrics::Get().queued.Set(static_cast<double>(queued_calls_));
      earliest = std::exchange(earliest_, kNever);
    }
    for (auto& [address, lane] : lanes_) Flush(*lane);
    CountInFlight();
    for (Rejected& one : rejected) one.done(std::move(one.why));
    ArmDeadline(earliest);
  }

  void Flush(Lane& lane) {
    if (lane.connection == nullptr || !lane.connection->can_send()) return;
    Connection& connection = *lane.connection;
    {
      absl::MutexLock lock(&mutex_);
      for (BatchPtr& batch : connection.spent()) {
        if (pool_.size() < kPool) pool_.push_back(std::move(batch));
      }
      connection.spent().clear();
      size_t in_flight = connection.in_flight();
      while (!lane.queue.empty() && in_flight < options_.max_in_flight) {
        BatchPtr batch = std::move(lane.queue.front());
        lane.queue.pop_front();
        in_flight += batch->calls.size();
        queued_bytes_ -= batch->bytes.size();
        if (batch->has_dead) Compact(*batch);
        queued_calls_ -= batch->calls.size();
        if (!batch->calls.empty()) sending_.push_back(std::move(batch));
      }
    }
    if (!sending_.empty()) connection.Send(sending_);
  }

  // Takes the calls that ended before they were sent out of a batch.
  static void Compact(Batch& batch) {
    std::string bytes;
    std::vector<redis::Call> calls;
    for (redis::Call& call : batch.calls) {
      if (!call.done) continue;
      const auto shift = static_cast<uint32_t>(call.begin - bytes.size());
      bytes.append(batch.bytes, call.begin, call.end - call.begin);
      call.begin -= shift;
      call.command -= shift;
      call.end -= shift;
      calls.push_back(std::move(call));
    }
    batch.bytes = std::move(bytes);
    batch.calls = std::move(calls);
    batch.has_dead = false;
  }

  void CountInFlight() {
    size_t count = 0;
    uint64_t replies = 0;
    for (const auto& [address, lane] : lanes_) {
      if (lane->connection == nullptr) continue;
      count += lane->connection->in_flight();
      replies += lane->connection->TakeReplyCount();
    }
    in_flight_.store(count, std::memory_order_relaxed);
    Metrics::Get().in_flight.Set(static_cast<double>(count));
    if (replies > 0) Metrics::Get().replies.Increment(static_cast<double>(replies));
  }

  void ArmDeadline(int64_t earliest) {
    if (earliest >= armed_) return;
    armed_ = earliest;
    deadline_timer_->expires_at(
        std::chrono::steady_clock::time_point(std::chrono::nanoseconds(earliest)));
    deadline_timer_->async_wait([this](error_code error) {
      if (!error) OnDeadline();
    });
  }

  void OnDeadline() {
    armed_ = kNever;
    const int64_t now = NowNanos();
    int64_t earliest = kNever;
    std::vector<Done> ended;
    {
      absl::MutexLock lock(&mutex_);
      for (auto& [address, lane] : lanes_) {
        for (BatchPtr& batch : lane->queue) {
          for (redis::Call& call : batch->calls) {
            if (!call.done) continue;
            if (call.deadline > now) {
              earliest = std::min(earliest, call.deadline);
              continue;
            }
            ended.push_back(std::exchange(call.done, nullptr));
            batch->has_dead = true;
            --queued_calls_;
          }
        }
      }
    }
    const std::vector<std::shared_ptr<Lane>> lanes = AllLanes();
    for (const std::shared_ptr<Lane>& lane : lanes) {
      const std::shared_ptr<Connection> connection = lane->connection;
      if (connection != nullptr) earliest = std::min(earliest, connection->Expire(now));
    }
    for (Done& done : ended) done(NotExecuted("the deadline came before the call was sent"));
    ArmDeadline(earliest);
  }

  std::vector<std::shared_ptr<Lane>> AllLanes() const {
    std::vector<std::shared_ptr<Lane>> lanes;
    for (const auto& [address, lane] : lanes_) lanes.push_back(lane);
    return lanes;
  }

  // --- replies (IO thread) --------------------------------------------------------------------

  void OnReply(Lane& lane, redis::Call& call, std::string_view command, Reply reply) {
    drain_follows_.store(true, std::memory_order_relaxed);
    if (reply.type() != Value::Type::kError) {
      return std::exchange(call.done, nullptr)(std::move(reply));
    }
    const std::string_view code = ErrorCode(reply.text());
    if (code == "NOSCRIPT" && call.script != nullptr) {
      {
        absl::MutexLock lock(&mutex_);
        const auto loaded = lane.loaded.find(call.script);
        if (loaded != lane.loaded.end() && loaded->second == call.load) lane.loaded.erase(loaded);
      }
      if (call.reloads++ < kReloadsMax) return SendAgain(lane, call, command);
    }
    if (is_cluster() && call.slot >= 0) {
      if (code == "MOVED" || code == "ASK") {
        const std::optional<Redirection> to = ParseRedirection(reply.text(), lane.address);
        if (to.has_value()) {
          const bool asking = code == "ASK";
          const std::shared_ptr<Lane> target = LaneAt(to->to);
          if (!asking) {
            absl::MutexLock lock(&mutex_);
            slots_[static_cast<size_t>(to->slot)] = target.get();
            target->owns_slots = true;
            slots_moved_ = true;
            topology_wanted_->Set();
          }
          if (call.redirections++ >= kRedirectionsMax) {
            return SendLater(call, command, reply.text());
          }
          call.asking = asking;
          return SendAgain(*target, call, command);
        }
      }
      if (code == "TRYAGAIN" || code == "CLUSTERDOWN") {
        if (code == "CLUSTERDOWN") topology_wanted_->Set();
        return SendLater(call, command, reply.text());
      }
    }
    const absl::Status status = FromRedisError(reply.text());
    std::exchange(call.done, nullptr)(status);
    if (ReasonOf(status) == "REDIS_NOT_PRIMARY" || code == "NOAUTH") {
      // After the replies that came with this one: they say what became of their calls.
      asio::post(*io_, [connection = lane.connection, status] {
        if (connection != nullptr) connection->Close(Broken(Std(status.message())));
      });
    }
  }

  // Moves `call` to the end of a lane's queue.
  void SendAgain(Lane& lane, redis::Call& call, std::string_view command) {
    redis::Call again = TakeFrom(call);
    absl::MutexLock lock(&mutex_);
    Append(lane, std::move(again), [command](std::string* out) { out->append(command); });
    if (!std::exchange(drain_scheduled_, true)) asio::post(*io_, [this] { Drain(); });
  }

  // Sends `call` to where its slot is by then, until its deadline; `error` is why not now.
  void SendLater(redis::Call& call, std::string_view command, std::string_view error) {
    if (call.deadline <= NowNanos()) {
      return std::exchange(call.done, nullptr)(FromRedisError(error));
    }
    redis::Call again = TakeFrom(call);
    again.asking = false;
    if (delayed_.empty()) {
      const auto timer = std::make_shared<Timer>(*io_);
      timer->expires_after(absl::ToChronoNanoseconds(kRetryAfter));
      timer->async_wait([this, timer](error_code) {
        std::vector<Delayed> due = std::exchange(delayed_, {});
        absl::MutexLock lock(&mutex_);
        for (Delayed& one : due) Route(std::move(one.call), one.command);
        if (!std::exchange(drain_scheduled_, true)) asio::post(*io_, [this] { Drain(); });
      });
    }
    delayed_.push_back({std::move(again), std::string(command)});
  }

  // What a second sending of `call` needs of it; the first one counts as answered.
  static redis::Call TakeFrom(redis::Call& call) {
    redis::Call again;
    again.done = std::exchange(call.done, nullptr);
    again.script = call.script;
    again.deadline = call.deadline;
    again.slot = call.slot;
    again.asking = call.asking;
    again.reloads = call.reloads;
    again.redirections = call.redirections;
    return again;
  }

  // Into the lane where the call belongs now.
  void Route(redis::Call call, std::string_view command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Lane& lane = LaneFor(call.slot);
    absl::Status refused = stopping_ ? NotExecuted("the client ends") : lane.down;
    if (!refused.ok()) {
      rejected_.push_back({std::move(call.done), std::move(refused)});
    } else {
      Append(lane, std::move(call), [command](std::string* out) { out->append(command); });
    }
  }

  // --- connections (IO thread) ----------------------------------------------------------------

  absl::Duration Backoff(int attempt) {
    const absl::Duration whole = std::min(
        options_.max_backoff, options_.min_backoff * static_cast<double>(1 << std::min(attempt, 16)));
    return whole * std::uniform_real_distribution<double>(0.5, 1.0)(random_);
  }

  Task<> Sleep(absl::Duration duration) {
    Timer timer(*io_);
    timer.expires_after(absl::ToChronoNanoseconds(duration));
    co_await timer.async_wait(kAwait);
  }

  Task<absl::StatusOr<Primary>> FindFor(const Lane& lane) {
    if (!is_cluster()) co_return co_await finder_->Find();
    co_return co_await OpenPrimary(*io_, options_, endpoints_, lane.address);
  }

  // Keeps a lane connected until it is retired or the client ends.
  Task<> KeepConnected(std::shared_ptr<Lane> lane) {
    int attempt = 0;
    while (!stopping_ && !lane->retired) {
      absl::StatusOr<Primary> found = co_await FindFor(*lane);
      if (stopping_ || lane->retired) {
        if (found.ok()) found->connection->Close(NotExecuted("the connection is not needed"));
        break;
      }
      // The connection may have ended again while it was checked.
      if (found.ok() && !found->connection->open()) found = found->connection->why_closed();
      if (!found.ok()) {
        SetDown(*lane, found.status());
        if (is_cluster()) topology_wanted_->Set();
        co_await Sleep(Backoff(attempt++));
        continue;
      }
      const int64_t since = NowNanos();
      Attach(*lane, *std::move(found));
      co_await Watch(lane);
      // A connection that ends again and again right after it was made backs off too.
      const bool lasted = NowNanos() - since > absl::ToInt64Nanoseconds(options_.max_backoff);
      attempt = lasted ? 0 : attempt + 1;
      if (!lasted && !stopping_) co_await Sleep(Backoff(attempt));
    }
  }

  void Attach(Lane& lane, Primary primary) {
    lane.lost.Clear();
    lane.info = std::move(primary.info);
    const std::string incarnation = lane.info.Incarnation();
    const bool changed = incarnation != lane.last_incarnation;
    lane.last_incarnation = incarnation;
    {
      absl::MutexLock lock(&mutex_);
      lane.incarnation = incarnation;
      lane.down = absl::OkStatus();
    }
    lane.connection = std::move(primary.connection);
    lane.connection->SetHandler(&lane);
    obs::Info("redis_connected", {{"address", std::string_view(lane.connection->address().ToString())},
                                  {"incarnation", std::string_view(incarnation)}});
    Metrics::Get().connections.Increment();
    UpdateHealth();
    if (changed && incarnation_changed_) incarnation_changed_();
    Drain();
  }

  void OnClosed(Lane& lane, const absl::Status& why) {
    obs::Warning("redis_lost", {{"address", std::string_view(lane.connection->address().ToString())},
                                {"reason", Std(why.message())}});
    {
      absl::MutexLock lock(&mutex_);
      lane.incarnation.clear();
      lane.loaded.clear();
    }
    Metrics::Get().losses.Increment();
    lane.connection = nullptr;
    lane.lost.Set();
    UpdateHealth();
    Drain();
  }

  // Refuses what waits in the lane, and what comes, until an attempt succeeds.
  void SetDown(Lane& lane, absl::Status why) {
    // What became of the attempt's own commands says nothing of the calls that wait.
    if (MayHaveBeenExecuted(why)) why = NotExecuted(Std(why.message()));
    {
      absl::MutexLock lock(&mutex_);
      if (lane.down.message() != why.message()) {
        obs::Warning("redis_not_connected",
                     {{"reason", std::string_view(ReasonOf(why))}, {"message", Std(why.message())}});
      }
      lane.down = why;
      FailQueue(lane, why);
    }
    UpdateHealth();
    Drain();
  }

  void FailQueue(Lane& lane, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (BatchPtr& batch : lane.queue) {
      queued_bytes_ -= batch->bytes.size();
      for (redis::Call& call : batch->calls) {
        if (!call.done) continue;
        --queued_calls_;
        rejected_.push_back({std::move(call.done), why});
      }
    }
    lane.queue.clear();
    lane.loaded.clear();
  }

  // Until the lane's connection is lost: looks at the primary now and then.
  Task<> Watch(std::shared_ptr<Lane> lane) {
    while (!co_await lane->lost.Wait(options_.check_interval)) {
      const std::shared_ptr<Connection> connection = lane->connection;
      if (connection == nullptr) break;
      const uint64_t replies = connection->replies();
      absl::StatusOr<ServerInfo> info = co_await AskInfo(connection, options_.stall_timeout);
      if (!connection->open()) break;
      absl::Status status = info.status();
      if (!status.ok() && ReasonOf(status) == "REDIS_TIMEOUT" && connection->replies() != replies) {
        continue;  // slow, not silent
      }
      if (status.ok()) status = CheckInfo(*info, options_, is_cluster());
      if (status.ok() && info->Incarnation() != lane->info.Incarnation()) {
        status = Broken("it has become another incarnation");
      }
      if (!status.ok()) connection->Close(status);
    }
  }

  // Looks whether another server has become the primary.
  Task<> WatchOthers() {
    while (!stopping_) {
      co_await Sleep(options_.check_interval);
      const std::shared_ptr<Connection> connection = lobby_->connection;
      if (connection == nullptr) continue;
      const bool superseded = co_await finder_->IsSuperseded(connection->address(), lobby_->info);
      if (superseded) connection->Close(Broken("another server is the primary now"));
    }
  }

  void UpdateHealth() {
    Metrics::Get().connected.Set(static_cast<double>(
        std::count_if(lanes_.begin(), lanes_.end(),
                      [](const auto& entry) { return entry.second->connection != nullptr; })));
    absl::MutexLock lock(&mutex_);
    health_ = absl::OkStatus();
    if (!is_cluster()) {
      health_ = ConnectedStatus(*lobby_);
      return;
    }
    if (!lobby_->down.ok() || !has_topology_) {
      health_ = lobby_->down.ok() ? NotExecuted("the Cluster's slots are not known yet") : lobby_->down;
      return;
    }
    if (std::find(slots_.begin(), slots_.end(), nullptr) != slots_.end()) {
      health_ = NotExecuted("some slots have no node");
    }
    for (const auto& [address, lane] : lanes_) {
      if (health_.ok() && lane->owns_slots) health_ = ConnectedStatus(*lane);
    }
  }

  static absl::Status ConnectedStatus(const Lane& lane) {
    if (!lane.incarnation.empty()) return absl::OkStatus();
    return lane.down.ok() ? NotExecuted("not connected yet") : lane.down;
  }

  // --- Cluster (IO thread) --------------------------------------------------------------------

  // The lane of a node, made where there is none.
  std::shared_ptr<Lane> LaneAt(const Address& address) {
    std::shared_ptr<Lane> lane;
    {
      absl::MutexLock lock(&mutex_);
      std::shared_ptr<Lane>& entry = lanes_[address.ToString()];
      if (entry != nullptr) return entry;
      entry = lane = std::make_shared<Lane>(*this, address);
    }
    Spawn(*io_, KeepConnected(lane));
    return lane;
  }

  Task<> KeepTopology() {
    int attempt = 0;
    while (!stopping_) {
      std::vector<Address> nodes = endpoints_.addresses;
      for (const auto& [key, lane] : lanes_) {
        if (lane != lobby_ && std::find(nodes.begin(), nodes.end(), lane->address) == nodes.end()) {
          nodes.push_back(lane->address);
        }
      }
      topology_wanted_->Clear();
      auto ranges = co_await finder_->FindSlots(std::move(nodes));
      if (stopping_) break;
      if (!ranges.ok()) {
        if (!has_topology_) SetDown(*lobby_, ranges.status());
        co_await Sleep(Backoff(attempt++));
        continue;
      }
      attempt = 0;
      ApplySlots(*ranges);
      // Not more often than this, whatever is wanted.
      co_await Sleep(options_.min_backoff);
      co_await topology_wanted_->Wait(options_.check_interval);
    }
  }

  void ApplySlots(const std::vector<Finder::SlotRange>& ranges) {
    std::vector<Lane*> slots(kSlots, nullptr);
    for (const Finder::SlotRange& range : ranges) {
      Lane* lane = LaneAt(range.primary).get();
      for (int slot = std::max(range.first, 0); slot <= std::min(range.last, kSlots - 1); ++slot) {
        slots[static_cast<size_t>(slot)] = lane;
      }
    }
    const int64_t now = NowNanos();
    std::vector<std::shared_ptr<Lane>> gone;
    bool moved = false;
    {
      absl::MutexLock lock(&mutex_);
      moved = std::exchange(slots_moved_, false) || slots != slots_;
      slots_ = std::move(slots);
      has_topology_ = true;
      lobby_->down = absl::OkStatus();
      for (auto& [address, lane] : lanes_) lane->owns_slots = false;
      for (Lane* lane : slots_) {
        if (lane != nullptr) lane->owns_slots = true;
      }
      if (moved || !lobby_->queue.empty()) Reroute();
      for (auto entry = lanes_.begin(); entry != lanes_.end();) {
        Lane& lane = *entry->second;
        if (&lane == lobby_.get() || lane.owns_slots) {
          lane.unused_since = kNever;
        } else if (lane.unused_since == kNever) {
          lane.unused_since = now;
        } else if (now - lane.unused_since > absl::ToInt64Nanoseconds(kNodeLinger)) {
          FailQueue(lane, NotExecuted("the node has left the Cluster"));
          gone.push_back(std::move(entry->second));
          entry = lanes_.erase(entry);
          continue;
        }
        ++entry;
      }
    }
    for (const std::shared_ptr<Lane>& lane : gone) {
      lane->retired = true;
      if (lane->connection) lane->connection->Close(Broken("the node has left the Cluster"));
    }
    UpdateHealth();
    if (moved && incarnation_changed_) incarnation_changed_();
    Drain();
  }

  // Puts every call that waits where its slot is now. Calls of one slot keep their order.
  void Reroute() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<std::pair<Lane*, BatchPtr>> waiting;
    for (auto& [address, lane] : lanes_) {
      for (BatchPtr& batch : lane->queue) waiting.emplace_back(lane.get(), std::move(batch));
      lane->queue.clear();
      lane->loaded.clear();  // what was to load a script may go elsewhere
    }
    for (auto& [from, batch] : waiting) {
      queued_bytes_ -= batch->bytes.size();
      for (redis::Call& call : batch->calls) {
        if (!call.done) continue;
        --queued_calls_;
        const std::string_view command = batch->Command(call);
        if (call.asking) {
          Append(*from, std::move(call), [command](std::string* out) { out->append(command); });
        } else {
          Route(std::move(call), command);
        }
      }
    }
  }

  // --- the end (IO thread) --------------------------------------------------------------------

  void StopOnIo() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      for (auto& [address, lane] : lanes_) FailQueue(*lane, NotExecuted("the client ends"));
      for (Delayed& delayed : delayed_) {
        rejected_.push_back({std::move(delayed.call.done), NotExecuted("the client ends")});
      }
    }
    delayed_.clear();
    for (const std::shared_ptr<Lane>& lane : AllLanes()) {
      if (lane->connection) lane->connection->Close(NotExecuted("the client ends"));
    }
    finder_->Close();
    // What is called back may have called once more.
    for (bool more = true; more;) {
      Drain();
      absl::MutexLock lock(&mutex_);
      more = !rejected_.empty();
    }
    io_->stop();
  }

  const Options options_;
  const Endpoints endpoints_;

  mutable absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Lane>> lanes_;  // changed under the mutex, by the IO thread
  std::shared_ptr<Lane> lobby_;  // the only lane, in a Cluster the calls whose node is not known
  std::vector<Lane*> slots_ ABSL_GUARDED_BY(mutex_);  // empty but in a Cluster
  std::vector<BatchPtr> pool_ ABSL_GUARDED_BY(mutex_);
  std::vector<Rejected> rejected_ ABSL_GUARDED_BY(mutex_);
  size_t queued_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t earliest_ ABSL_GUARDED_BY(mutex_) = kNever;  // deadline of the calls since the last Drain
  bool drain_scheduled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mutex_) = NotExecuted("not connected yet");
  bool slots_moved_ ABSL_GUARDED_BY(mutex_) = false;   // since the slots were last asked for
  bool has_topology_ = false;  // written under the mutex, by the IO thread
  bool stopping_ = false;      // likewise
  std::atomic<size_t> in_flight_ = 0;

  // IO thread.
  std::unique_ptr<asio::io_context> io_;
  asio::executor_work_guard<Executor> work_;
  std::unique_ptr<Finder> finder_;
  std::unique_ptr<Timer> deadline_timer_;
  std::unique_ptr<Event> topology_wanted_;
  std::function<void()> incarnation_changed_;
  std::vector<BatchPtr> sending_;
  std::vector<Delayed> delayed_;
  int64_t armed_ = kNever;
  std::atomic<bool> drain_follows_ = false;  // replies are handed over, Drain comes after them
  std::mt19937_64 random_;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<Client>> Client::Create(Options options) {
  TH_ASSIGN_OR_RETURN(Endpoints endpoints, ParseUri(options.uri));
  if (endpoints.tls) TH_RETURN_IF_ERROR(MakeTlsContext(options).status());
  auto impl = std::make_unique<Impl>(std::move(options), std::move(endpoints));
  impl->Start();
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() { impl_->Stop(); }

void Client::Call(std::span<const std::string_view> args, absl::Duration timeout, Done done) {
  impl_->Submit(args.size() > 1 ? args[1] : std::string_view(), nullptr, timeout, std::move(done),
                [args](std::string* out) { AppendCommand(args, out); });
}

void Client::RunScript(const Script& script, std::span<const std::string_view> keys,
                       std::span<const std::string_view> args, absl::Duration timeout, Done done) {
  impl_->Submit(keys.empty() ? std::string_view() : keys[0], &script, timeout, std::move(done),
                [&](std::string* out) {
                  AppendArrayHead(3 + keys.size() + args.size(), out);
                  AppendBulk("EVALSHA", out);
                  AppendBulk(script.sha(), out);
                  AppendBulk(std::to_string(keys.size()), out);
                  for (const std::string_view key : keys) AppendBulk(key, out);
                  for (const std::string_view arg : args) AppendBulk(arg, out);
                });
}

absl::StatusOr<Reply> Client::CallAndWait(std::span<const std::string_view> args,
                                          absl::Duration timeout) {
  return Await([&](Done done) { Call(args, timeout, std::move(done)); });
}

absl::StatusOr<Reply> Client::RunScriptAndWait(const Script& script,
                                               std::span<const std::string_view> keys,
                                               std::span<const std::string_view> args,
                                               absl::Duration timeout) {
  return Await([&](Done done) { RunScript(script, keys, args, timeout, std::move(done)); });
}

std::string Client::Incarnation(std::string_view key) const { return impl_->Incarnation(key); }
void Client::SetIncarnationChanged(std::function<void()> callback) {
  impl_->SetIncarnationChanged(std::move(callback));
}
void Client::Reconnect() { impl_->Reconnect(); }
absl::Status Client::Health() const { return impl_->Health(); }
absl::Status Client::WaitUntilConnected(absl::Duration timeout) const {
  return impl_->WaitUntilConnected(timeout);
}
Client::Load Client::load() const { return impl_->load(); }

}  // namespace tollhouse::redis
