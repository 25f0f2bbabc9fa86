// With what an edge calls a provider: several credentials by weight, none that the provider has just
// refused while there is another.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "libs/crypto/secret_bytes.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::edge {

// The live credentials of one provider; thread-safe. Secrets are overwritten when it goes.
class CredentialSet {
 public:
  class Credential {
   public:
    std::string_view secret() const { return secret_.view(); }
    const std::string& name() const { return name_; }
    int64_t version() const { return version_; }

   private:
    friend class CredentialSet;

    std::string name_;
    int64_t version_ = 0;
    int64_t weight_ = 1;
    crypto::SecretBytes secret_;
    int64_t expires_at_micros_ = 0;
    mutable std::atomic<int64_t> resting_until_nanos_ = 0;  // monotonic
  };

  CredentialSet() = default;
  // Takes the secrets out of the answer and overwrites them there.
  explicit CredentialSet(vault::v1::GetCredentialResponse answer);

  // The provider has none.
  bool empty() const { return credentials_.empty(); }

  // The newest version of a name, drawn by weight (`random` is any number); versions and names that
  // rest are passed over while another one does not. Null if nothing but `not_this` is left, or
  // nothing at all. Valid as long as the set.
  const Credential* Pick(absl::Time now, int64_t monotonic_nanos, uint64_t random,
                         const Credential* not_this = nullptr) const;

  // The provider refused it, or its quota is used up: it is not picked for `time` if another can be.
  static void Rest(const Credential& credential, int64_t monotonic_nanos, absl::Duration time);

 private:
  std::vector<std::unique_ptr<Credential>> credentials_;  // by name, newest version first
};

}  // namespace tollhouse::edge
