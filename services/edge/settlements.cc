#include "services/edge/settlements.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "libs/obs/log.h"

namespace tollhouse::edge {

using enforcer::v1::Operation;
using ledger::v1::Entry;
using ledger::v1::PostRequest;
using ledger::v1::PostResponse;
using ledger::v1::PostResult;

namespace {

constexpr int kMaxBatch = 1024;
constexpr int kBatchesInFlight = 4;

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

bool EndStands(const Entry& entry, const PostResult& conflict) {
  if (entry.kind() == ledger::v1::ENTRY_KIND_SUSPEND || entry.status() == kNeverForwarded) return true;
  return entry.kind() == ledger::v1::ENTRY_KIND_VOID && conflict.posted_nanousd() == 0;
}

bool Settlements::Submit(EntryPtr submitted) {
  const Entry& entry = *submitted;
  const auto id = UuidFromRaw(entry.hold_id());
  if (!id.ok()) return false;
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
    absl::MutexLock lock(&mutex_);
    pending_.insert_or_assign(*id, std::move(submitted));
    queue_.push_back(*id);
  }
  if (operation.kind_case() != Operation::KIND_NOT_SET) to_enforcer_(id->raw(), std::move(operation));
  return true;
}

void Settlements::Requeue() {
  absl::MutexLock lock(&mutex_);
  in_flight_ = 0;
  queue_.clear();
  for (const auto& [id, entry] : pending_) queue_.push_back(id);
  std::sort(queue_.begin(), queue_.end());
}

// One batch at a time: what comes while the ledger commits one goes into the next. Of a backlog the
// ledger has the next ones at hand when it has committed one.
bool Settlements::Fill(PostRequest* request) {
  absl::MutexLock lock(&mutex_);
  if (in_flight_ == kBatchesInFlight || (in_flight_ > 0 && queue_.size() < kMaxBatch)) return false;
  while (!queue_.empty() && request->entries_size() < kMaxBatch) {
    const auto it = pending_.find(queue_.front());
    queue_.pop_front();
    if (it != pending_.end()) *request->add_entries() = *it->second;
  }
  if (request->entries().empty()) return false;
  ++in_flight_;
  return true;
}

void Settlements::Received(const PostResponse& response) {
  std::vector<std::string> posted;
  posted.reserve(response.results_size());
  for (const PostResult& result : response.results()) {
    const auto id = UuidFromRaw(result.hold_id());
    if (!id.ok()) continue;
    EntryPtr entry;
    {
      absl::MutexLock lock(&mutex_);
      const auto it = pending_.find(*id);
      if (it == pending_.end()) continue;
      entry = it->second;
    }
    if (!Conclude(*entry, result)) continue;
    posted.push_back(result.hold_id());
  }
  // The journal first: what it forgets must have been acknowledged, what it keeps is only repeated.
  journal_->AppendPosted(posted);
  absl::MutexLock lock(&mutex_);
  for (const std::string& raw : posted) pending_.erase(*UuidFromRaw(raw));
  if (in_flight_ > 0) --in_flight_;
}

// False: the entry stays.
bool Settlements::Conclude(const Entry& entry, const PostResult& result) {
  switch (result.outcome()) {
    case ledger::v1::POST_OUTCOME_POSTED:
    case ledger::v1::POST_OUTCOME_DUPLICATE:
      break;
    case ledger::v1::POST_OUTCOME_CONFLICT:
      if (EndStands(entry, result)) break;
      [[fallthrough]];
    case ledger::v1::POST_OUTCOME_REJECTED:
      obs::Error("ledger_refused_entry", {{"hold_id", HoldText(entry.hold_id())},
                                          {"request_id", entry.request_id()},
                                          {"outcome", static_cast<int>(result.outcome())},
                                          {"message", result.message()}});
      refused_(entry, result);
      break;
    default:
      return false;  // not an answer: asked again on the next stream
  }
  if (result.outcome() == ledger::v1::POST_OUTCOME_REJECTED) return true;
  Operation operation;
  auto* acknowledge = operation.mutable_acknowledge();
  acknowledge->set_hold_id(entry.hold_id());
  acknowledge->set_org_id(OrgOf(entry));
  acknowledge->set_epoch(entry.epoch());
  // What the ledger took of the hold: the cost, or of a suspended hold all of it. Never more than was
  // held: a budget that let the request pass without a hold gives none of its lease for it, even
  // where the store has one that nobody knows of.
  int64_t held = 0;
  for (const common::v1::HeldBudget& budget : entry.budgets()) {
    if (!budget.observe()) held = std::max(held, budget.amount_nanousd());
  }
  acknowledge->set_posted_nanousd(std::min(result.posted_nanousd(), held));
  to_enforcer_(entry.hold_id(), std::move(operation));
  return true;
}

int64_t Settlements::backlog() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(pending_.size());
}

bool Settlements::WaitIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(
      absl::Condition(
          +[](const absl::flat_hash_map<Uuid, EntryPtr>* pending) { return pending->empty(); },
          &pending_),
      timeout);
}

}  // namespace tollhouse::edge
