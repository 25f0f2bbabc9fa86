#include "services/edge/key_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tollhouse::edge {
namespace {

void AppendText(std::string_view text, std::string* out) {
  absl::StrAppend(out, text.size(), ":");
  out->append(text);
}

void AppendTexts(const std::vector<std::string>& texts, std::string* out) {
  absl::StrAppend(out, texts.size(), "[");
  for (const std::string& text : texts) AppendText(text, out);
}

// Two standings with the same text say the same.
std::string TextOf(const Standing& standing) {
  std::string text;
  for (const int64_t id : standing.account_ids) absl::StrAppend(&text, id, ",");
  AppendText(standing.parent_path, &text);
  for (const auto& [name, value] : standing.pinned_tags) {
    AppendText(name, &text);
    AppendText(value, &text);
  }
  absl::StrAppend(&text, standing.pinned_tags.size(), "/", standing.tag_rules.size(), "[");
  for (const TagRule& rule : standing.tag_rules) {
    text += rule.required ? '!' : '?';
    AppendText(rule.account_path, &text);
    AppendText(rule.tag, &text);
    AppendTexts(rule.allowed, &text);
  }
  for (const Standing::Limit* limit :
       {&standing.max_output_tokens, &standing.max_request_cost_nanousd}) {
    absl::StrAppend(&text, "|", limit->value);
    AppendText(limit->account_path, &text);
  }
  text += standing.require_budget ? '1' : '0';
  AppendTexts(standing.models, &text);
  AppendTexts(standing.providers, &text);
  AppendTexts(standing.endpoints, &text);
  for (const http::Network& network : standing.networks) AppendText(network.ToString(), &text);
  return text;
}

}  // namespace

KeyCache::KeyCache(size_t entries_max)
    : entries_per_shard_max_(std::max<size_t>(1, entries_max / kShards)) {}

void KeyCache::Forget(const Principal& principal) {
  AccountShard& shard = ShardOf(principal.account_id());
  absl::MutexLock lock(&shard.mutex);
  const auto it = shard.keys.find(&principal);
  if (it != shard.keys.end() && *it == &principal) shard.keys.erase(it);
}

PrincipalPtr KeyCache::Find(std::string_view key_id) {
  Shard& shard = ShardOf(key_id);
  absl::MutexLock lock(&shard.mutex);
  const auto it = shard.keys.find(key_id);
  if (it == shard.keys.end()) return nullptr;
  if (!(*it)->standing().stale.load(std::memory_order_acquire)) return *it;
  Forget(**it);
  shard.keys.erase(it);
  return nullptr;
}

void KeyCache::Put(PrincipalPtr principal) {
  Shard& shard = ShardOf(principal->key_id());
  absl::MutexLock lock(&shard.mutex);
  if (const auto it = shard.keys.find(principal); it != shard.keys.end()) {
    Forget(**it);
    shard.keys.erase(it);
  }
  if (shard.keys.size() >= entries_per_shard_max_) {
    for (const PrincipalPtr& key : shard.keys) Forget(*key);
    shard.keys.clear();
  }
  AccountShard& account = ShardOf(principal->account_id());
  {
    absl::MutexLock account_lock(&account.mutex);
    const auto it = account.keys.find(principal.get());
    if (it != account.keys.end()) account.keys.erase(it);
    account.keys.insert(principal.get());
  }
  shard.keys.insert(std::move(principal));
}

void KeyCache::Erase(std::string_view key_id) {
  if (key_id.empty()) return;
  Shard& shard = ShardOf(key_id);
  absl::MutexLock lock(&shard.mutex);
  const auto it = shard.keys.find(key_id);
  if (it == shard.keys.end()) return;
  Forget(**it);
  shard.keys.erase(it);
}

void KeyCache::EraseAccounts(std::span<const int64_t> account_ids) {
  if (account_ids.empty()) return;
  {
    absl::MutexLock lock(&standings_mutex_);
    for (auto it = standings_.begin(); it != standings_.end();) {
      const std::shared_ptr<const Standing> standing = it->second.lock();
      const bool changed =
          standing != nullptr &&
          std::any_of(account_ids.begin(), account_ids.end(), [&](int64_t id) {
            return std::find(standing->account_ids.begin(), standing->account_ids.end(), id) !=
                   standing->account_ids.end();
          });
      if (changed) standing->stale.store(true, std::memory_order_release);
      it = changed || standing == nullptr ? standings_.erase(it) : std::next(it);
    }
  }
  for (const int64_t id : account_ids) {
    std::string key_id;
    {
      AccountShard& shard = ShardOf(id);
      absl::MutexLock lock(&shard.mutex);
      const auto it = shard.keys.find(id);
      if (it != shard.keys.end()) key_id = (*it)->key_id();
    }
    Erase(key_id);
  }
}

std::vector<KeyId> KeyCache::Clear() {
  std::vector<KeyId> ids;
  ids.reserve(size());
  for (Shard& shard : shards_) {
    absl::flat_hash_set<PrincipalPtr, ById, ById> gone;
    absl::MutexLock lock(&shard.mutex);
    for (const PrincipalPtr& key : shard.keys) {
      key->key_id().copy(ids.emplace_back().data(), kKeyIdSize);
      Forget(*key);
    }
    gone.swap(shard.keys);
  }
  return ids;
}

std::shared_ptr<const Standing> KeyCache::Share(std::unique_ptr<Standing> standing) {
  const std::string text = TextOf(*standing);
  absl::MutexLock lock(&standings_mutex_);
  std::weak_ptr<const Standing>& known = standings_[text];
  if (std::shared_ptr<const Standing> shared = known.lock()) return shared;
  std::shared_ptr<const Standing> fresh = std::move(standing);
  known = fresh;
  if (standings_.size() >= prune_at_) {
    for (auto it = standings_.begin(); it != standings_.end();) {
      it = it->second.expired() ? standings_.erase(it) : std::next(it);
    }
    prune_at_ = std::max<size_t>(1024, 2 * standings_.size());
  }
  return fresh;
}

size_t KeyCache::size() const {
  size_t size = 0;
  for (const Shard& shard : shards_) {
    absl::MutexLock lock(&shard.mutex);
    size += shard.keys.size();
  }
  return size;
}

}  // namespace tollhouse::edge
