// Who calls an admin API: bearer tokens and the roles they carry.
#pragma once

#include <grpcpp/server_context.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "tollhouse/common/v1/authorization.pb.h"

namespace tollhouse::rpc {

// Somebody who has shown who he is.
struct Caller {
  std::string actor;    // for the audit log
  common::v1::Role role = common::v1::ROLE_UNSPECIFIED;
  std::string subtree;  // account path that bounds what he may touch; "": everything
};

// A token that was made besides the first one. The hash is SHA-256 of its text.
struct AdminToken {
  std::string hash;
  Caller caller;
  absl::Time expires_at = absl::InfiniteFuture();
};

// All that the vault knows of tokens.
struct KnownTokens {
  std::vector<AdminToken> tokens;
  std::vector<std::string> revoked_hashes;  // of first tokens that count no more
};

// What is stored in place of a token's text; tokens have 256 random bits, so one hash is enough.
std::string HashOfToken(std::string_view token);
// A fresh token text, "toll-admin-" and 64 hexadecimal digits.
std::string MakeToken();

// Knows callers by `authorization: Bearer TOKEN`. Keeps only hashes. Thread-safe.
class Authenticator {
 public:
  // `token` is the first token: owner of everything, actor "root".
  explicit Authenticator(std::string_view token, const Clock* clock = Clock::System());

  // Reads the first token from a file; where there is none, makes one with mode 0600.
  static absl::StatusOr<std::unique_ptr<Authenticator>> FromFile(const std::string& path,
                                                                 bool create_if_absent);

  // Replaces the tokens besides the first one, and says whether that one still counts.
  void SetTokens(const KnownTokens& known);
  // Nobody knows which they are any more. A first token that was revoked stays so.
  void ForgetTokens();

  // UNAUTHENTICATED (BAD_TOKEN) unless the call carries a token that is known and not expired;
  // UNAVAILABLE (TOKENS_UNKNOWN) for any but the first one after ForgetTokens.
  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const;

  // Who is behind a bearer credential that is no token of Tollhouse's, like those of an identity
  // provider. Set once, before the first call.
  struct Verifier {
    std::function<bool(std::string_view credential)> is_mine;
    std::function<absl::StatusOr<Caller>(std::string_view credential)> verify;
  };
  void SetVerifier(Verifier verifier) { verifier_ = std::move(verifier); }

  // Of the first token.
  const std::string& first_hash() const { return root_hash_; }

 private:
  const Clock* const clock_;
  const std::string root_hash_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, AdminToken> tokens_ ABSL_GUARDED_BY(mutex_);
  bool forgotten_ ABSL_GUARDED_BY(mutex_) = false;
  bool root_revoked_ ABSL_GUARDED_BY(mutex_) = false;
  Verifier verifier_;
};

}  // namespace tollhouse::rpc
