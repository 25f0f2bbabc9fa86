// Who calls: the holder of a virtual key or of an identity provider's token.
#pragma once

#include <array>
#include <atomic>
#include <boost/intrusive_ptr.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "libs/http/network.h"
#include "services/edge/tags.h"
#include "tollhouse/ledger/v1/ledger.pb.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::edge {

// What keys have in common that hang under the same account with the same permissions: an edge has one
// of these for all of them. Immutable but for `stale`.
struct Standing {
  struct Limit {  // of the strictest account
    int64_t value = 0;  // 0: none
    std::string account_path;
  };

  std::vector<int64_t> account_ids;  // of the accounts above, org first
  std::string parent_path;           // of the last of them; "" if there is none
  Tags pinned_tags;                  // key over user over team over org
  std::vector<TagRule> tag_rules;    // of all of them
  Limit max_output_tokens;
  Limit max_request_cost_nanousd;
  bool require_budget = false;
  std::vector<std::string> models;     // allowed, empty: all; a '*' at the end is any ending
  std::vector<std::string> providers;  // likewise
  std::vector<std::string> endpoints;  // likewise
  std::vector<http::Network> networks;  // empty: all
  // An account above has changed: nobody of this standing may be served from a cache.
  mutable std::atomic<bool> stale = false;

  Standing() = default;
  // What the answers say; `chain` is the caller's own account with those above it, org first.
  // InvalidArgument for a network that is none.
  static absl::StatusOr<std::unique_ptr<Standing>> From(
      const vault::v1::KeyRecord& key, const std::vector<const ledger::v1::AccountView*>& chain,
      bool require_budget);

  bool AllowsProvider(std::string_view provider) const;
  bool AllowsModel(std::string_view model) const;
  bool AllowsEndpoint(std::string_view endpoint) const;
  // `from`: nothing if the caller's address is not known.
  bool AllowsAddress(const std::optional<http::Address>& from) const;
};

// The public id of a virtual key.
inline constexpr size_t kKeyIdSize = 24;
using KeyId = std::array<char, kKeyIdSize>;

// Small: an edge keeps a million of them. Immutable but for its counters; thread-safe.
class Principal {
 public:
  struct Mac {
    std::array<uint8_t, 32> mac;
    int64_t expires_at_micros;  // since 1970
  };

  // `own`: the account of the key or of the token's subject. `key` without an id: a token's.
  Principal(const vault::v1::KeyRecord& key, const ledger::v1::AccountView& own,
            std::shared_ptr<const Standing> standing);
  Principal(const Principal&) = delete;
  Principal& operator=(const Principal&) = delete;

  // "" of a token's.
  std::string_view key_id() const { return {key_id_.data(), key_id_[0] == '\0' ? 0 : kKeyIdSize}; }
  const Standing& standing() const { return *standing_; }
  int64_t account_id() const { return account_id_; }
  std::vector<int64_t> account_ids() const;  // org first, the own one last
  std::string account_path() const;          // of the own one
  bool disabled() const { return disabled_; }
  bool revoked() const { return revoked_; }
  bool ExpiredAt(absl::Time now) const { return absl::ToUnixMicros(now) >= expires_at_micros_; }
  // Whether the MAC of a secret is one of those that are valid; in constant time.
  bool HasMac(const std::array<uint8_t, 32>& mac, absl::Time now) const;

  // Notes a use. Whether it should be told to the vault: the last one told is `every` minutes old.
  bool NoteUse(int64_t unix_minutes, int64_t every) const;

  // Of what is free: when the next request is due, in monotonic nanoseconds.
  std::atomic<int64_t>& free_due() const { return free_due_; }
  // Requests under way here.
  std::atomic<int32_t>& in_flight() const { return in_flight_; }

 private:
  friend void intrusive_ptr_add_ref(const Principal* principal) {
    principal->references_.fetch_add(1, std::memory_order_relaxed);
  }
  friend void intrusive_ptr_release(const Principal* principal) {
    if (principal->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete principal;
  }

  // In an order without gaps.
  mutable std::atomic<int32_t> references_ = 0;
  mutable std::atomic<int32_t> in_flight_ = 0;
  KeyId key_id_{};
  const int64_t account_id_;
  const std::string name_;  // last part of the account's path
  const std::shared_ptr<const Standing> standing_;
  Mac mac_{};                                 // of the newest secret
  std::unique_ptr<std::vector<Mac>> others_;  // of those that a rotation replaces
  int64_t expires_at_micros_;
  mutable std::atomic<int64_t> free_due_ = 0;
  mutable std::atomic<uint32_t> told_minutes_ = 0;
  const bool disabled_;
  const bool revoked_;
};

using PrincipalPtr = boost::intrusive_ptr<const Principal>;

}  // namespace tollhouse::edge
