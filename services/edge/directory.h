// Who calls and with what the edge calls: virtual keys, their accounts, providers' credentials.
// Cached; kept true by the vault's and the ledger's watches.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/identity/issuers.h"
#include "services/edge/credentials.h"
#include "services/edge/net.h"
#include "services/edge/object_owners.h"
#include "services/edge/principal.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

struct DirectoryOptions {
  // Cached keys are served at most this long after a watch was cut.
  absl::Duration max_staleness = absl::Seconds(30);
  absl::Duration lookup_timeout = absl::Seconds(5);
  size_t principals_max = 1'200'000;
  // Ids that are well-formed but unknown are remembered this long, this many.
  absl::Duration unknown_ttl = absl::Seconds(10);
  size_t unknown_max = 10'000;
  size_t tokens_max = 50'000;  // verified tokens that are remembered
  // The use of a key is told to the vault when the last one told is this old, some seconds later.
  absl::Duration use_resolution = absl::Minutes(10);
  absl::Duration use_report_interval = absl::Seconds(15);
  // After a reconnect, keys that were cached are looked up again so many questions at a time, each for
  // up to 1024 keys.
  int resync_parallel = 4;
};

// Thread-safe.
class Directory {
 public:
  // `issuers`: whose tokens count beside virtual keys, null for nobody's; must outlive it.
  // What the ledger's watch told: its epochs and replay generation are for others.
  using OnLedger = std::function<void(const ledger::v1::WatchResponse& change)>;

  Directory(std::shared_ptr<grpc::ChannelInterface> vault,
            std::shared_ptr<grpc::ChannelInterface> ledger, std::string edge_id,
            const std::vector<std::unique_ptr<IoLoop>>& loops, const DirectoryOptions& options,
            identity::Issuers* issuers, OnLedger on_ledger, const Clock* clock);
  ~Directory();

  void Start();
  // Idempotent.
  void Stop();
  // Both watches have delivered their snapshot; false after `timeout`.
  bool WaitSynced(absl::Duration timeout);
  // Looks keys up in the background, many at once, as after a reconnect.
  void Prefetch(std::vector<KeyId> key_ids);
  // Keys that are cached now.
  size_t cached_keys() const;
  // How long ago the older of the watches was last known to be whole.
  absl::Duration Staleness() const;

  // The principal of a virtual key's text or of a token. UNAUTHENTICATED (BAD_KEY, KEY_REVOKED,
  // KEY_DISABLED, KEY_EXPIRED, and those of identity::Issuers::Verify); PERMISSION_DENIED (NO_ACCOUNT) for a token
  // without an account; UNAVAILABLE (KEYS_STALE, VAULT_UNAVAILABLE, LEDGER_UNAVAILABLE, NO_KEY_SET).
  // `loop`: the caller's.
  Task<absl::StatusOr<PrincipalPtr>> Authenticate(IoLoop& loop, std::string key_text);
  // The same where nobody has to be asked: a virtual key that is cached, or none at all. Nothing if
  // somebody has.
  std::optional<absl::StatusOr<PrincipalPtr>> AuthenticateCached(std::string_view key_text);

  // The credentials stored for provider and origin; an empty set if there is none.
  // FAILED_PRECONDITION (ORIGIN_CHANGED), UNAVAILABLE (VAULT_UNAVAILABLE).
  Task<absl::StatusOr<std::shared_ptr<const CredentialSet>>> CredentialsOf(IoLoop& loop,
                                                                           std::string provider,
                                                                           std::string origin);

  // Whose an object at a provider is; nothing if nobody made it. UNAVAILABLE (VAULT_UNAVAILABLE).
  Task<absl::StatusOr<std::optional<ObjectOwner>>> OwnerOf(IoLoop& loop, std::string id);
  // Tells the vault of an object, or that it is gone. A failure is logged: other edges will then not
  // know it, which means that nobody can use it there.
  Task<> PutObject(IoLoop& loop, std::string id, ObjectOwner owner, bool remove);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
