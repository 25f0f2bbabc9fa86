// The virtual keys that an edge knows: many, small, and forgotten when what they say may be old.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "services/edge/principal.h"

namespace tollhouse::edge {

// By key id. Thread-safe; look-ups of different keys hardly ever wait for each other.
class KeyCache {
 public:
  // Above `entries_max` a part of the keys is forgotten.
  explicit KeyCache(size_t entries_max);

  // Null if it is not here, or was and is stale.
  PrincipalPtr Find(std::string_view key_id);
  // Replaces what was there of that key.
  void Put(PrincipalPtr principal);
  void Erase(std::string_view key_id);
  // Everyone at or below one of these accounts.
  void EraseAccounts(std::span<const int64_t> account_ids);
  // Forgets all of them, and tells whom.
  std::vector<KeyId> Clear();

  // One copy of a standing for all who have the same.
  std::shared_ptr<const Standing> Share(std::unique_ptr<Standing> standing);

  size_t size() const;

 private:
  struct ById {
    using is_transparent = void;
    size_t operator()(std::string_view id) const { return absl::Hash<std::string_view>()(id); }
    size_t operator()(const PrincipalPtr& p) const { return (*this)(p->key_id()); }
    bool operator()(const PrincipalPtr& a, const PrincipalPtr& b) const {
      return a->key_id() == b->key_id();
    }
    bool operator()(const PrincipalPtr& a, std::string_view b) const { return a->key_id() == b; }
    bool operator()(std::string_view a, const PrincipalPtr& b) const { return a == b->key_id(); }
  };
  struct ByAccount {
    using is_transparent = void;
    size_t operator()(int64_t id) const { return absl::Hash<int64_t>()(id); }
    size_t operator()(const Principal* p) const { return (*this)(p->account_id()); }
    bool operator()(const Principal* a, const Principal* b) const {
      return a->account_id() == b->account_id();
    }
    bool operator()(const Principal* a, int64_t b) const { return a->account_id() == b; }
    bool operator()(int64_t a, const Principal* b) const { return a == b->account_id(); }
  };
  struct Shard {
    mutable absl::Mutex mutex;
    absl::flat_hash_set<PrincipalPtr, ById, ById> keys ABSL_GUARDED_BY(mutex);
  };
  // A principal is here exactly while it is in a Shard; taken after that one's mutex.
  struct AccountShard {
    absl::Mutex mutex;
    absl::flat_hash_set<const Principal*, ByAccount, ByAccount> keys ABSL_GUARDED_BY(mutex);
  };
  static constexpr size_t kShards = 64;

  // By other bits of the hash than the set uses first.
  Shard& ShardOf(std::string_view key_id) { return shards_[(ById()(key_id) >> 40) % kShards]; }
  AccountShard& ShardOf(int64_t account_id) {
    return accounts_[static_cast<uint64_t>(account_id) % kShards];
  }
  void Forget(const Principal& principal);

  const size_t entries_per_shard_max_;
  std::array<Shard, kShards> shards_;
  std::array<AccountShard, kShards> accounts_;
  absl::Mutex standings_mutex_;
  // By what they say; pruned when it has doubled.
  std::map<std::string, std::weak_ptr<const Standing>> standings_ ABSL_GUARDED_BY(standings_mutex_);
  size_t prune_at_ ABSL_GUARDED_BY(standings_mutex_) = 1024;
};

}  // namespace tollhouse::edge
