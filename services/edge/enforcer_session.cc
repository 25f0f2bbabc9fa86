#include "services/edge/enforcer_session.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/error.h"
#include "libs/obs/log.h"
#include "services/edge/batch_stream.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"

namespace tollhouse::edge {

using enforcer::v1::EnforcerService;
using enforcer::v1::Operation;
using enforcer::v1::OperationResult;
using enforcer::v1::SessionRequest;
using enforcer::v1::SessionResponse;

namespace {

constexpr int kMaxBatch = 512;

// Of a coroutine that waits; on the IO thread only.
struct Waiter {
  explicit Waiter(asio::io_context& context) : timer(context) {}
  Timer timer;
  OperationResult result;
  bool answered = false;
};

}  // namespace

struct EnforcerSession::Impl : std::enable_shared_from_this<EnforcerSession::Impl> {
  using Stream = BatchStream<SessionRequest, SessionResponse>;

  struct Pending {
    Operation operation;
    Waiter* waiter = nullptr;  // nullptr: nobody waits
  };

  Impl(IoLoop& l, std::shared_ptr<grpc::ChannelInterface> channel, std::string edge,
       std::string boot, Orphaned o)
      : loop(l),
        stub(EnforcerService::NewStub(channel)),
        edge_id(std::move(edge)),
        boot_id(std::move(boot)),
        orphaned(std::move(o)),
        stream(Stream::Hooks{
            [this](grpc::ClientContext* context, Stream::Reactor* reactor) {
              stub->async()->Session(context, reactor);
            },
            [this] { Requeue(); },
            [this](bool first, SessionRequest* request) { return Fill(first, request); },
            [this](SessionResponse& response) { Received(response); },
            [this](const grpc::Status& status) {
              if (stopping) return;
              obs::Warning("enforcer_session_broken",
                           {{"code", static_cast<int>(status.error_code())},
                            {"message", status.error_message()}});
            }}) {}

  uint64_t Enqueue(Operation operation, Waiter* waiter) {
    uint64_t sequence;
    {
      absl::MutexLock lock(&mutex);
      sequence = next_sequence++;
      operation.set_sequence(sequence);
      Pending& entry = pending[sequence];
      entry.operation = std::move(operation);
      entry.waiter = waiter;
      queue.push_back(sequence);
    }
    stream.Kick();
    return sequence;
  }

  void Requeue() {
    absl::MutexLock lock(&mutex);
    queue.clear();
    for (const auto& [sequence, entry] : pending) queue.push_back(sequence);
    std::sort(queue.begin(), queue.end());
  }

  bool Fill(bool first, SessionRequest* request) {
    if (first) {
      request->mutable_edge()->set_edge_id(edge_id);
      request->mutable_edge()->set_boot_id(boot_id);
    }
    absl::MutexLock lock(&mutex);
    size_t taken = 0;
    while (taken < queue.size() && request->operations_size() < kMaxBatch) {
      const auto it = pending.find(queue[taken++]);
      if (it != pending.end()) *request->add_operations() = it->second.operation;
    }
    queue.erase(queue.begin(), queue.begin() + static_cast<int64_t>(taken));
    return first || request->operations_size() > 0;
  }

  // On a gRPC thread: everything that touches a coroutine goes to the IO thread, once per batch.
  void Received(SessionResponse& response) {
    std::vector<std::pair<Operation, OperationResult>> answered;
    bool post = false;
    {
      absl::MutexLock lock(&mutex);
      for (OperationResult& result : *response.mutable_results()) {
        const auto it = pending.find(result.sequence());
        if (it == pending.end()) continue;
        // A waiter is looked up on the IO thread, where it may have given up meanwhile.
        if (it->second.operation.has_reserve()) {
          inbox.push_back(std::move(result));
        } else {
          if (result.has_failed()) {
            answered.emplace_back(std::move(it->second.operation), std::move(result));
          }
          pending.erase(it);
        }
      }
      if (!inbox.empty()) post = !std::exchange(posted, true);
    }
    if (post) asio::post(loop.context(), [self = shared_from_this()] { self->Deliver(); });
    for (const auto& [operation, result] : answered) LogFailure(operation, result);
  }

  void Deliver() {
    std::vector<OperationResult> results;
    {
      absl::MutexLock lock(&mutex);
      posted = false;
      results.swap(inbox);
    }
    for (OperationResult& result : results) {
      Pending entry;
      {
        absl::MutexLock lock(&mutex);
        const auto it = pending.find(result.sequence());
        if (it == pending.end()) continue;
        entry = std::move(it->second);
        pending.erase(it);
      }
      const bool unused = entry.waiter == nullptr && result.has_admitted();
      if (unused || result.failed().maybe_held_epoch() > 0) orphaned(entry.operation.reserve(), result);
      if (entry.waiter == nullptr) continue;
      entry.waiter->result = std::move(result);
      entry.waiter->answered = true;
      entry.waiter->timer.cancel();
    }
  }

  static void LogFailure(const Operation& operation, const OperationResult& result) {
    if (!result.has_failed()) return;
    // A closed epoch is an answer too: the ledger settles such holds out of suspense.
    if (result.failed().reason() == "EPOCH_CLOSED") return;
    obs::Warning("enforcer_operation_failed", {{"kind", static_cast<int>(operation.kind_case())},
                                               {"reason", result.failed().reason()},
                                               {"message", result.failed().message()}});
  }

  IoLoop& loop;
  const std::unique_ptr<EnforcerService::Stub> stub;
  const std::string edge_id;
  const std::string boot_id;
  const Orphaned orphaned;
  std::atomic<bool> stopping = false;

  mutable absl::Mutex mutex;
  uint64_t next_sequence ABSL_GUARDED_BY(mutex) = 1;
  absl::flat_hash_map<uint64_t, Pending> pending ABSL_GUARDED_BY(mutex);
  std::vector<uint64_t> queue ABSL_GUARDED_BY(mutex);  // of pending, to be sent on this stream
  std::vector<OperationResult> inbox ABSL_GUARDED_BY(mutex);
  bool posted ABSL_GUARDED_BY(mutex) = false;

  Stream stream;  // last: its callbacks use the rest
};

EnforcerSession::EnforcerSession(IoLoop& loop, std::shared_ptr<grpc::ChannelInterface> channel,
                                 std::string edge_id, std::string boot_id, Orphaned orphaned)
    : impl_(std::make_shared<Impl>(loop, std::move(channel), std::move(edge_id),
                                   std::move(boot_id), std::move(orphaned))) {}

EnforcerSession::~EnforcerSession() { Stop(); }

void EnforcerSession::Start() { impl_->stream.Start(); }

void EnforcerSession::Stop() {
  impl_->stopping = true;
  impl_->stream.Stop();
}

Task<absl::StatusOr<OperationResult>> EnforcerSession::Reserve(enforcer::v1::Reserve reserve,
                                                               absl::Duration timeout) {
  Impl& impl = *impl_;
  const auto begin = std::chrono::steady_clock::now();
  Waiter waiter(impl.loop.context());
  waiter.timer.expires_after(absl::ToChronoNanoseconds(timeout));
  Operation operation;
  *operation.mutable_reserve() = std::move(reserve);
  const uint64_t sequence = impl.Enqueue(std::move(operation), &waiter);
  co_await waiter.timer.async_wait(kAwait);
  if (waiter.answered) co_return std::move(waiter.result);
  {
    absl::MutexLock lock(&impl.mutex);
    const auto it = impl.pending.find(sequence);
    if (it != impl.pending.end()) it->second.waiter = nullptr;
  }
  impl.stream.LeaveIfSilentSince(begin);
  co_return MakeError(absl::StatusCode::kUnavailable, "ENFORCER_UNAVAILABLE",
                      "the budget enforcer did not answer in time");
}

void EnforcerSession::Send(Operation operation) { impl_->Enqueue(std::move(operation), nullptr); }

int64_t EnforcerSession::pending() const {
  absl::MutexLock lock(&impl_->mutex);
  return static_cast<int64_t>(impl_->pending.size());
}

bool EnforcerSession::WaitIdle(absl::Duration timeout) const {
  using Map = absl::flat_hash_map<uint64_t, Impl::Pending>;
  absl::MutexLock lock(&impl_->mutex);
  return impl_->mutex.AwaitWithTimeout(
      absl::Condition(+[](Map* pending) { return pending->empty(); }, &impl_->pending), timeout);
}

}  // namespace tollhouse::edge
