// Group commit: entries of all callers that wait share a transaction.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/sql/database.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

// Thread-safe. With one thread requests are posted in the order of Submit. With several, one group is
// prepared and sent while the database works on another; their order does not matter to the ledger.
class Poster {
 public:
  using Done = std::function<void(absl::StatusOr<v1::PostResponse>)>;

  // The store must outlive it. Starts its threads.
  Poster(Store* store, int threads);
  ~Poster();

  // How many threads help: SQLite has one writer.
  static int ThreadsFor(const sql::Database& database);

  // `done` is called once, on a thread of the poster, after the COMMIT or with what prevented it; it
  // must not block. UNAVAILABLE (DRAINING) after Stop.
  void Submit(v1::PostRequest request, Done done);
  // Submit, and waits.
  absl::StatusOr<v1::PostResponse> Post(v1::PostRequest request);
  // Posts what was submitted, then ends the threads. Idempotent.
  void Stop();

 private:
  struct Job {
    v1::PostRequest request;
    Done done;
  };

  void Run();
  void PostJobs(std::deque<Job> jobs);
  absl::StatusOr<std::vector<v1::PostResult>> PostEntries(
      const std::vector<const v1::Entry*>& entries);

  Store* const store_;
  absl::Mutex mutex_;
  std::deque<Job> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace tollhouse::ledger
