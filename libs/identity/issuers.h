// Which identity providers are trusted, and what their tokens are worth here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/identity/key_set.h"

namespace tollhouse::identity {

struct Issuer {
  std::string issuer;         // the `iss` claim, compared byte by byte
  std::string audience;       // one of the `aud` claims must be it
  std::string key_set_file;   // either a file
  std::string key_set_url;    // or a URL, https but for tests; asked for again now and then
  bool allow_private = false;  // of the URL
  // Account path, with {claim} in place of a whole segment: "acme/{team}/{email}".
  std::string account;
  absl::Duration clock_skew = absl::Minutes(1);

  // Of one whose tokens administer, in place of the account:
  std::string actor;       // claim that names the person, "email"
  std::string role_claim;  // claim with a text or a list of texts, "groups"
  std::map<std::string, std::string> roles;  // what is in there -> "viewer", "finance", "admin", "owner"
  std::string subtree;     // account path with {claim}s, which bounds what he may touch; "": everything
};

// What an issuer's tokens are for: calling models, or the admin APIs.
enum class IssuerUse { kCalls, kAdministration };

// A YAML list of issuers, keys as the members above (`clock_skew` as "60s"). INVALID_ARGUMENT
// (BAD_ISSUERS) naming what is wrong: unknown keys, no or two key sets, plain http, bad templates,
// unknown roles, what the other use needs.
absl::StatusOr<std::vector<Issuer>> ParseIssuers(std::string_view yaml, IssuerUse use);

// What a valid token says.
struct Identity {
  std::string account;  // path; "" of one who administers
  std::string actor, role, subtree;  // of one who administers
  absl::Time expires_at;
};

struct IssuersOptions {
  absl::Duration refresh = absl::Minutes(10);  // of key sets behind a URL
  // A token whose signer is unknown makes its issuer's key set be fetched earlier, at most this often.
  absl::Duration refresh_on_unknown = absl::Seconds(30);
  // Key sets that could not be renewed this long are trusted no more.
  absl::Duration max_age = absl::Hours(24);
  const Clock* clock = Clock::System();
  // How a URL is read; for tests.
  std::function<absl::StatusOr<std::string>(const Issuer&)> fetch;
};

// Verifies tokens against the issuers' key sets and keeps the sets fresh on a thread of its own.
// Thread-safe.
class Issuers {
 public:
  Issuers(std::vector<Issuer> issuers, IssuersOptions options);
  ~Issuers();

  // Reads the files (an unreadable one is an error, NOT_FOUND or BAD_KEY_SET) and begins to fetch.
  absl::Status Start();
  // Idempotent.
  void Stop();
  // Fetches what is due; what the thread does. For tests.
  void RefreshDue();

  bool empty() const { return issuers_.empty(); }

  // UNAUTHENTICATED: BAD_TOKEN, UNKNOWN_ISSUER, UNKNOWN_SIGNER, BAD_SIGNATURE, TOKEN_EXPIRED,
  // TOKEN_NOT_YET_VALID, WRONG_AUDIENCE, MISSING_CLAIM (also for one that is no valid account name).
  // PERMISSION_DENIED (NO_ROLE): none of the roles of one who would administer is known.
  // UNAVAILABLE (NO_KEY_SET) while the issuer's keys could not be read.
  absl::StatusOr<Identity> Verify(std::string_view token);

 private:
  struct State;

  void Run();
  absl::Status Load(State* state, const std::string& json);

  const IssuersOptions options_;
  std::vector<std::unique_ptr<State>> issuers_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tollhouse::identity
