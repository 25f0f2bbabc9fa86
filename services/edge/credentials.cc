#include "services/edge/credentials.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tollhouse::edge {

CredentialSet::CredentialSet(vault::v1::GetCredentialResponse answer) {
  for (vault::v1::LiveCredential& live : *answer.mutable_credentials()) {
    auto credential = std::make_unique<Credential>();
    credential->name_ = live.name();
    credential->version_ = live.version();
    credential->weight_ = std::clamp(live.weight(), 1, 1000);
    credential->secret_ = crypto::SecretBytes(live.secret());
    crypto::Cleanse(live.mutable_secret());
    credential->expires_at_micros_ =
        live.has_expires_at()
            ? live.expires_at().seconds() * 1'000'000 + live.expires_at().nanos() / 1000
            : std::numeric_limits<int64_t>::max();
    credentials_.push_back(std::move(credential));
  }
}

const CredentialSet::Credential* CredentialSet::Pick(absl::Time now, int64_t monotonic_nanos,
                                                     uint64_t random,
                                                     const Credential* not_this) const {
  const int64_t micros = absl::ToUnixMicros(now);
  std::vector<const Credential*> fit;  // one of each name
  int64_t weights = 0;
  const Credential* soonest = nullptr;  // of those that rest
  for (const auto& credential : credentials_) {
    if (credential.get() == not_this || micros >= credential->expires_at_micros_) continue;
    const int64_t until = credential->resting_until_nanos_.load(std::memory_order_relaxed);
    if (until > monotonic_nanos) {
      if (soonest == nullptr ||
          until < soonest->resting_until_nanos_.load(std::memory_order_relaxed)) {
        soonest = credential.get();
      }
      continue;
    }
    if (!fit.empty() && fit.back()->name_ == credential->name_) continue;  // an older version
    fit.push_back(credential.get());
    weights += credential->weight_;
  }
  // A second try must not be one with what has just been refused to others.
  if (fit.empty()) return not_this == nullptr ? soonest : nullptr;
  int64_t drawn = static_cast<int64_t>(random % static_cast<uint64_t>(weights));
  for (const Credential* credential : fit) {
    drawn -= credential->weight_;
    if (drawn < 0) return credential;
  }
  return fit.back();
}

void CredentialSet::Rest(const Credential& credential, int64_t monotonic_nanos,
                         absl::Duration time) {
  credential.resting_until_nanos_.store(monotonic_nanos + absl::ToInt64Nanoseconds(time),
                                        std::memory_order_relaxed);
}

}  // namespace tollhouse::edge
