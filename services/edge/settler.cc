#include "services/edge/settler.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/uuid.h"
#include "libs/obs/log.h"
#include "services/edge/batch_stream.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::edge {

using enforcer::v1::Operation;
using ledger::v1::Entry;
using ledger::v1::LedgerService;
using ledger::v1::PostRequest;
using ledger::v1::PostResponse;
using ledger::v1::PostResult;

namespace {

using EntryPtr = std::shared_ptr<const Entry>;

constexpr int kMaxBatch = 1024;

int64_t OrgOf(const Entry& entry) {
  return entry.account_ids_size() > 0 ? entry.account_ids(0) : 0;
}

int64_t TokensOf(const Entry& entry) {
  int64_t tokens = 0;
  for (const common::v1::UsageLine& line : entry.usage()) {
    const common::v1::Usage& u = line.usage();
    tokens += u.input_tokens_uncached() + u.cache_read_tokens() + u.cache_write_5m_tokens() +
              u.cache_write_1h_tokens() + u.tool_use_input_tokens() + u.audio_input_tokens() +
              u.image_input_tokens() + u.audio_cache_read_tokens() + u.output_tokens() +
              u.audio_output_tokens() + u.image_output_tokens();
  }
  return tokens;
}

std::string HoldText(const std::string& raw) {
  const auto id = UuidFromRaw(raw);
  return id.ok() ? id->ToString() : "?";
}

}  // namespace

struct Settler::Impl {
  using Stream = BatchStream<PostRequest, PostResponse>;

  Impl(std::shared_ptr<grpc::ChannelInterface> channel, Journal* j, ToEnforcer e, Refused r)
      : stub(LedgerService::NewStub(channel)),
        journal(j),
        to_enforcer(std::move(e)),
        refused(std::move(r)),
        stream(Stream::Hooks{
            [this](grpc::ClientContext* context, Stream::Reactor* reactor) {
              stub->async()->Post(context, reactor);
            },
            [this] { Requeue(); },
            [this](bool, PostRequest* request) { return Fill(request); },
            [this](PostResponse& response) { Received(response); },
            [this](const grpc::Status& status) {
              if (stopping) return;
              obs::Warning("ledger_post_stream_broken",
                           {{"code", static_cast<int>(status.error_code())},
                            {"message", status.error_message()}});
            }}) {}

  void Requeue() {
    absl::MutexLock lock(&mutex);
    in_flight = false;
    queue.clear();
    for (const auto& [id, entry] : pending) queue.push_back(id);
    std::sort(queue.begin(), queue.end());
  }

  // One batch at a time: what comes while the ledger commits one goes into the next.
  bool Fill(PostRequest* request) {
    absl::MutexLock lock(&mutex);
    if (in_flight) return false;
    while (!queue.empty() && request->entries_size() < kMaxBatch) {
      const auto it = pending.find(queue.front());
      queue.pop_front();
      if (it != pending.end()) *request->add_entries() = *it->second;
    }
    in_flight = request->entries_size() > 0;
    return in_flight;
  }

  void Received(PostResponse& response) {
    std::vector<std::string> posted;
    posted.reserve(response.results_size());
    for (const PostResult& result : response.results()) {
      const auto id = UuidFromRaw(result.hold_id());
      if (!id.ok()) continue;
      EntryPtr entry;
      {
        absl::MutexLock lock(&mutex);
        const auto it = pending.find(*id);
        if (it == pending.end()) continue;
        entry = it->second;
      }
      if (!Conclude(*entry, result)) continue;
      posted.push_back(result.hold_id());
    }
    // The journal first: what it forgets must have been acknowledged, what it keeps is only repeated.
    journal->AppendPosted(posted);
    {
      absl::MutexLock lock(&mutex);
      for (const std::string& raw : posted) pending.erase(*UuidFromRaw(raw));
      in_flight = false;
    }
    stream.Kick();
  }

  // False: the entry stays.
  bool Conclude(const Entry& entry, const PostResult& result) {
    const bool suspend = entry.kind() == ledger::v1::ENTRY_KIND_SUSPEND;
    switch (result.outcome()) {
      case ledger::v1::POST_OUTCOME_POSTED:
      case ledger::v1::POST_OUTCOME_DUPLICATE:
        break;
      case ledger::v1::POST_OUTCOME_CONFLICT:
        // A hold that was suspended after it had ended: the end stands.
        if (suspend) break;
        [[fallthrough]];
      case ledger::v1::POST_OUTCOME_REJECTED:
        obs::Error("ledger_refused_entry", {{"hold_id", HoldText(entry.hold_id())},
                                            {"request_id", entry.request_id()},
                                            {"outcome", static_cast<int>(result.outcome())},
                                            {"message", result.message()}});
        refused(entry, result);
        break;
      default:
        return false;  // not an answer: asked again on the next stream
    }
    if (result.outcome() != ledger::v1::POST_OUTCOME_REJECTED) {
      Operation operation;
      auto* acknowledge = operation.mutable_acknowledge();
      acknowledge->set_hold_id(entry.hold_id());
      acknowledge->set_org_id(OrgOf(entry));
      acknowledge->set_epoch(entry.epoch());
      int64_t amount = result.posted_nanousd();
      if (suspend && result.outcome() != ledger::v1::POST_OUTCOME_CONFLICT) {
        // It is in suspense as a whole: none of it goes back to the lease.
        amount = std::max(amount, entry.hold_nanousd());
      }
      acknowledge->set_posted_nanousd(amount);
      to_enforcer(entry.hold_id(), std::move(operation));
    }
    return true;
  }

  const std::unique_ptr<LedgerService::Stub> stub;
  Journal* const journal;
  const ToEnforcer to_enforcer;
  const Refused refused;
  std::atomic<bool> stopping = false;

  mutable absl::Mutex mutex;
  absl::flat_hash_map<Uuid, EntryPtr> pending ABSL_GUARDED_BY(mutex);
  std::deque<Uuid> queue ABSL_GUARDED_BY(mutex);  // of pending, to be sent on this stream
  bool in_flight ABSL_GUARDED_BY(mutex) = false;  // a batch without its answer

  Stream stream;  // last: its callbacks use the rest
};

Settler::Settler(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal,
                 ToEnforcer to_enforcer, Refused refused)
    : impl_(std::make_unique<Impl>(std::move(ledger), journal, std::move(to_enforcer),
                                   std::move(refused))) {}

Settler::~Settler() { Stop(); }

void Settler::Start() { impl_->stream.Start(); }

void Settler::Stop() {
  impl_->stopping = true;
  impl_->stream.Stop();
}

void Settler::Submit(EntryPtr submitted) {
  const Entry& entry = *submitted;
  const auto id = UuidFromRaw(entry.hold_id());
  if (!id.ok()) return;
  Operation operation;
  if (entry.kind() == ledger::v1::ENTRY_KIND_SETTLE) {
    auto* settle = operation.mutable_settle();
    settle->set_hold_id(entry.hold_id());
    settle->set_org_id(OrgOf(entry));
    settle->set_epoch(entry.epoch());
    settle->set_actual_nanousd(entry.cost_nanousd());
    settle->set_actual_tokens(TokensOf(entry));
  } else if (entry.kind() == ledger::v1::ENTRY_KIND_VOID) {
    auto* release = operation.mutable_void_();
    release->set_hold_id(entry.hold_id());
    release->set_org_id(OrgOf(entry));
    release->set_epoch(entry.epoch());
  }
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->pending.insert_or_assign(*id, std::move(submitted));
    impl_->queue.push_back(*id);
  }
  if (operation.kind_case() != Operation::KIND_NOT_SET) {
    impl_->to_enforcer(id->raw(), std::move(operation));
  }
  impl_->stream.Kick();
}

int64_t Settler::backlog() const {
  absl::MutexLock lock(&impl_->mutex);
  return static_cast<int64_t>(impl_->pending.size());
}

bool Settler::WaitIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->mutex.AwaitWithTimeout(
      absl::Condition(
          +[](absl::flat_hash_map<Uuid, EntryPtr>* pending) { return pending->empty(); },
          &impl_->pending),
      timeout);
}

}  // namespace tollhouse::edge
