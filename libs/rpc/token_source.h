// Keeps an Authenticator's tokens those of the vault, which makes and revokes them.
#pragma once

#include <grpcpp/impl/codegen/channel_interface.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/rpc/authenticator.h"

namespace tollhouse::rpc {

struct TokenSourceOptions {
  absl::Duration interval = absl::Milliseconds(500);  // a revoked token ends at the latest after it
  // When the vault could not be read this long, only the first token counts.
  absl::Duration max_staleness = absl::Seconds(30);
  const Clock* clock = Clock::System();
};

// Reads all tokens again and again on a thread of its own. Thread-safe.
class TokenSource {
 public:
  using Read = std::function<absl::StatusOr<KnownTokens>()>;

  // `authenticator` must outlive it.
  TokenSource(Read read, Authenticator* authenticator, TokenSourceOptions options = {});
  ~TokenSource();

  void Start();
  // Idempotent.
  void Stop();
  // Reads now, on the caller's thread.
  void Refresh();

 private:
  void Run();

  const Read read_;
  Authenticator* const authenticator_;
  const TokenSourceOptions options_;
  absl::Mutex mutex_;
  absl::Duration read_at_ ABSL_GUARDED_BY(mutex_);  // monotonic
  absl::Mutex stop_mutex_;
  bool stopping_ ABSL_GUARDED_BY(stop_mutex_) = false;
  std::thread thread_;
};

// Over VaultService.ReadTokens.
TokenSource::Read ReadTokensOf(std::shared_ptr<grpc::ChannelInterface> vault);

}  // namespace tollhouse::rpc
