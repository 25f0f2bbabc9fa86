#include "services/ledger/poster.h"

#include <utility>

#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/obs/log.h"

namespace tollhouse::ledger {
namespace {

// Entries per transaction: enough to make the COMMIT cheap, few enough to answer soon.
constexpr int kEntriesPerCommit = 4096;

}  // namespace

Poster::Poster(Store* store, int threads) : store_(store) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

int Poster::ThreadsFor(const sql::Database& database) {
  return database.dialect() == sql::Dialect::kSqlite ? 1 : 2;
}

Poster::~Poster() { Stop(); }

void Poster::Submit(v1::PostRequest request, Done done) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      queue_.push_back({std::move(request), std::move(done)});
      return;
    }
  }
  done(MakeError(absl::StatusCode::kUnavailable, "DRAINING", "the ledger is shutting down"));
}

absl::StatusOr<v1::PostResponse> Poster::Post(v1::PostRequest request) {
  absl::StatusOr<v1::PostResponse> out;
  absl::Notification posted;
  Submit(std::move(request), [&](absl::StatusOr<v1::PostResponse> answer) {
    out = std::move(answer);
    posted.Notify();
  });
  posted.WaitForNotification();
  return out;
}

void Poster::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Poster::Run() {
  for (;;) {
    std::deque<Job> jobs;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Poster* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
            return self->stopping_ || !self->queue_.empty();
          },
          this));
      if (queue_.empty()) return;
      int entries = 0;
      do {
        entries += queue_.front().request.entries_size();
        jobs.push_back(std::move(queue_.front()));
        queue_.pop_front();
      } while (!queue_.empty() &&
               entries + queue_.front().request.entries_size() <= kEntriesPerCommit);
    }
    PostJobs(std::move(jobs));
  }
}

void Poster::PostJobs(std::deque<Job> jobs) {
  std::vector<const v1::Entry*> entries;
  for (const Job& job : jobs) {
    for (const v1::Entry& entry : job.request.entries()) entries.push_back(&entry);
  }
  absl::StatusOr<std::vector<v1::PostResult>> results = PostEntries(entries);
  size_t next = 0;
  for (Job& job : jobs) {
    if (!results.ok()) {
      job.done(results.status());
      continue;
    }
    v1::PostResponse response;
    for (int i = 0; i < job.request.entries_size(); ++i) {
      *response.add_results() = std::move((*results)[next++]);
    }
    job.done(std::move(response));
  }
}

absl::StatusOr<std::vector<v1::PostResult>> Poster::PostEntries(
    const std::vector<const v1::Entry*>& entries) {
  absl::StatusOr<std::vector<v1::PostResult>> together = store_->Post(entries);
  const std::string reason = ReasonOf(together.status());
  if (together.ok() || (reason != "SQL_CONSTRAINT" && reason != "SQL_CONSTRAINT_UNIQUE")) {
    return together;
  }
  // An entry that the database refuses to book (a bug) must not hold up all others for ever.
  std::vector<v1::PostResult> results;
  for (const v1::Entry* const entry : entries) {
    absl::StatusOr<std::vector<v1::PostResult>> alone = store_->Post({&entry, 1});
    if (alone.ok()) {
      results.push_back(std::move(alone->front()));
      continue;
    }
    if (ReasonOf(alone.status()) != reason) return alone.status();
    obs::Error("entry_refused_by_database", {{"reason", reason},
                                             {"message", std::string_view(alone.status().message().data(),
                                                                          alone.status().message().size())}});
    v1::PostResult& rejected = results.emplace_back();
    rejected.set_hold_id(entry->hold_id());
    rejected.set_outcome(v1::POST_OUTCOME_REJECTED);
    rejected.set_message("it breaks a constraint of the ledger");
  }
  return results;
}

}  // namespace tollhouse::ledger
