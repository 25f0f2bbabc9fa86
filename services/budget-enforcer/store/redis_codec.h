// What travels between RedisStore and its Lua scripts: events and effects as packed numbers and
// names, records as the scripts store them. run.lua says what each of them looks like.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/budget-enforcer/store/hold_store.h"

namespace tollhouse::enforcer {

// Below 2^53, where Lua's numbers are exact.
inline constexpr int64_t kMaxExact = (int64_t{1} << 53) - 1;

// The scripts' texts.
extern const std::string_view kRunScript;
extern const std::string_view kReadScript;
extern const std::string_view kIdentifyScript;

// The keys of one org, all under one hash tag, in the order of the scripts' KEYS.
struct OrgKeys {
  explicit OrgKeys(int64_t org_id);
  std::vector<std::string> names;
};

// One call of run.lua: the events of several batches, in order. Reusable; not thread-safe.
class RunEncoder {
 public:
  // `ahead_ms`: by how much the time of an event may be ahead of Redis' clock; -1: as it likes.
  RunEncoder(const CoreOptions& options, int64_t ahead_ms) : options_(options), ahead_ms_(ahead_ms) {}

  // `now_ms`: the newest time that the org is known to have seen. Events that are older count as this.
  void Clear(int64_t now_ms = 0);
  // INVALID_ARGUMENT if the batch cannot be expressed; then nothing was added. At most one batch of a
  // call may carry an incarnation.
  absl::Status Add(const StoreBatch& batch);
  size_t event_count() const { return event_count_; }

  // ARGV; views into this object, valid until the next Clear or Add.
  std::vector<std::string_view> Arguments();

 private:
  template <typename Event>
  void Put(const Event& event);
  void Put(const Reserve& event);
  void Put(const Settle& event);
  void Put(const Void& event);
  void Put(const Acknowledge& event);
  void Put(const Refresh& event);
  void Put(const Expire& event);
  void Put(const ExpiredPosted& event);
  void Put(const Tick& event);
  void Put(const AddGrant& event);
  void Put(const TakeOut& event);
  void Put(const ReturnPosted& event);
  void Put(const InitEpoch& event);

  void Number(int64_t value);
  void Context(int64_t epoch, int64_t now_ms);
  void HoldEvent(int kind, const Uuid& id, int64_t a, int64_t b, bool bad);
  int64_t Hold(const Uuid& id);
  int64_t Lease(int64_t budget_id, std::string_view period);
  int64_t Account(int64_t account_id);

  const CoreOptions options_;
  const int64_t ahead_ms_;
  std::string incarnation_, ids_, leases_, accounts_, made_, events_, packed_, scratch_;
  std::string records_;
  std::vector<size_t> record_ends_;
  size_t event_count_ = 0;
  size_t number_count_ = 0;
  int64_t floor_ms_ = 0;
  int64_t epoch_ = -1, now_ms_ = -1;  // of the last Context
  bool only_new_ = true;              // no event on a hold that may be there already
  int64_t earliest_ms_ = 0, latest_ms_ = 0, least_ttl_ms_ = 0;
  absl::flat_hash_map<Uuid, int64_t> hold_index_;
  absl::flat_hash_map<std::string, int64_t> lease_index_;
  absl::flat_hash_map<int64_t, int64_t> account_index_;
};

// What the org was when the call ran.
enum class OrgCondition {
  kNoEpoch = 0,  // no epoch key: never initialized, or flushed
  kServing = 1,
  kForeign = 2,  // the key is of another incarnation
};

// Reads run.lua's answer, batch by batch in the order of Add.
class RunDecoder {
 public:
  explicit RunDecoder(std::string_view packed);

  // INTERNAL (REDIS_SCRIPT) if the answer is not one. Sets the newest time that the org has seen.
  absl::StatusOr<OrgCondition> Condition(int64_t* now_ms);
  absl::Status Fill(StoreBatch& batch);

 private:
  int64_t Next();

  std::string_view packed_;
  size_t at_ = 0;
  bool broken_ = false;
};

// What read.lua finds. INTERNAL (REDIS_SCRIPT) if the text is not what run.lua writes.
absl::StatusOr<HoldRecord> ParseHold(const Uuid& id, std::string_view record, std::string_view state);
absl::StatusOr<LeaseRecord> ParseLease(std::string_view name, std::string_view value);
absl::StatusOr<ReturnRecord> ParseReturn(std::string_view packed);

}  // namespace tollhouse::enforcer
