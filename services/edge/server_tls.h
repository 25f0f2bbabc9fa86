// TLS towards callers: certificate and key from files, taken up again when the files change.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "services/edge/tls_stream.h"

namespace tollhouse::edge {

// Thread-safe.
class ServerTls {
 public:
  // PEM files; the certificate's chain follows it. INVALID_ARGUMENT (BAD_CERTIFICATE) naming the file
  // if they cannot be read or do not belong together.
  static absl::StatusOr<std::unique_ptr<ServerTls>> Load(const std::string& certificate_file,
                                                         const std::string& key_file, const Clock* clock);

  // For the next handshake: TLS 1.2 or later, HTTP/1.1. Looks at the files at most once a second; what
  // cannot be used is logged once, and the certificate from before stays.
  std::shared_ptr<asio::ssl::context> Context();

 private:
  ServerTls(std::string certificate_file, std::string key_file, const Clock* clock)
      : certificate_file_(std::move(certificate_file)), key_file_(std::move(key_file)), clock_(clock) {}

  absl::StatusOr<std::shared_ptr<asio::ssl::context>> Make() const;
  // Changes when one of the files does.
  std::string Stamp() const;

  const std::string certificate_file_, key_file_;
  const Clock* const clock_;
  absl::Mutex mutex_;
  std::shared_ptr<asio::ssl::context> context_ ABSL_GUARDED_BY(mutex_);
  std::string stamp_ ABSL_GUARDED_BY(mutex_);
  absl::Duration looked_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
