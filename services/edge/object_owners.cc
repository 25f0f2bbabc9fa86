#include "services/edge/object_owners.h"

#include "libs/base/strings.h"

namespace tollhouse::edge {

void ObjectOwners::Remember(std::string_view id, ObjectOwner owner) {
  if (id.empty() || id.size() > 256) return;
  absl::MutexLock lock(&mutex_);
  if (by_id_.contains(Absl(id))) return;
  recent_.emplace_front(std::string(id), std::move(owner));
  by_id_[recent_.front().first] = recent_.begin();
  if (recent_.size() <= entries_max_) return;
  by_id_.erase(recent_.back().first);
  recent_.pop_back();
}

std::optional<ObjectOwner> ObjectOwners::Find(std::string_view id) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_id_.find(Absl(id));
  if (found == by_id_.end()) return std::nullopt;
  recent_.splice(recent_.begin(), recent_, found->second);
  return found->second->second;
}

void ObjectOwners::Forget(std::string_view id) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_id_.find(Absl(id));
  if (found == by_id_.end()) return;
  recent_.erase(found->second);
  by_id_.erase(found);
}

}  // namespace tollhouse::edge
