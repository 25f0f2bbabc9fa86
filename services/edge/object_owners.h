// Who may use the objects that live at a provider: stored responses and conversations belong to the
// account that created them.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace tollhouse::edge {

struct ObjectOwner {
  std::string provider;
  int64_t account_id = 0;  // the one that the creating key hangs under

  friend bool operator==(const ObjectOwner&, const ObjectOwner&) = default;
};

// The most recently used `entries_max`. Thread-safe.
class ObjectOwners {
 public:
  explicit ObjectOwners(size_t entries_max) : entries_max_(entries_max) {}

  // The first to tell of an id owns it.
  void Remember(std::string_view id, ObjectOwner owner);
  std::optional<ObjectOwner> Find(std::string_view id);
  void Forget(std::string_view id);

 private:
  using Entry = std::pair<std::string, ObjectOwner>;

  const size_t entries_max_;
  absl::Mutex mutex_;
  std::list<Entry> recent_ ABSL_GUARDED_BY(mutex_);  // latest first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> by_id_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
