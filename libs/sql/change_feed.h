// Brings the changes of a change log (change_log.h) to a process that serves watches, in the order of
// their versions, and knows how far the watchers of all such processes are.
//
// PostgreSQL: a change made by any process is here when its notification comes, or with the next look
// at the log (poll). Each process tells in the database which version all its watchers have
// acknowledged, and that it lives; one that has not been heard of for `lease` is no longer waited
// for, and named until `named` has passed: its watchers may still be there, without the change. A
// process that cannot read the log for `max_staleness` gives its watchers up: it may be cut off alone.
// SQLite: this process is the only one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/sql/change_log.h"
#include "libs/sql/database.h"
#include "libs/sql/listener.h"

namespace tollhouse::sql {

struct ChangeFeedOptions {
  Database* database = nullptr;
  std::optional<PostgresOptions> postgres;  // of `database`, if that is what it is
  std::string replica;  // this process, for people; "": its host and pid
  absl::Duration poll = absl::Seconds(1);
  absl::Duration lease = absl::Seconds(3);
  absl::Duration named = absl::Seconds(40);  // until it has none: max_staleness, and a try to connect
  absl::Duration max_staleness = absl::Seconds(30);  // looked at after each failure to read the log
  int64_t changes_kept = 10'000;
  // Called on the feed's thread when its connection to the server is made, and made again after it
  // was lost (the server may be another one now), before the log is read.
  std::function<void()> connected;
};

// Who serves the watches. Called on the feed's thread.
class ChangeSubscriber {
 public:
  virtual ~ChangeSubscriber() = default;

  // Everything that watchers know may be wrong: they start again, with a snapshot of now, and the
  // changes after `version` follow. Called first, once.
  virtual void Restart(int64_t version) = 0;
  // Nothing was heard of the log for `max_staleness`: watchers shall try another process. Restart()
  // follows as soon as the log can be read again.
  virtual void Suspend() = 0;
  // The next change. An error stops the feed here: it is delivered again, later.
  virtual absl::Status Deliver(int64_t version, std::string_view payload) = 0;

  struct Acknowledged {
    int64_t version = 0;              // by all watchers of this process
    std::vector<std::string> behind;  // watchers that lack newer versions, by name
  };
  virtual Acknowledged acknowledged() = 0;
};

// Thread-safe.
class ChangeFeed {
 public:
  // Returns once this process is known to the others and the subscriber was told where it starts, so
  // that whatever is committed from now on reaches it. Both arguments outlive the feed.
  static absl::StatusOr<std::unique_ptr<ChangeFeed>> Start(ChangeFeedOptions options,
                                                           ChangeSubscriber* subscriber);
  ~ChangeFeed();

  // A change was committed by this process, or a watcher acknowledged something: look at once.
  void Wake();

  // Waits until the watchers of every other process have acknowledged `version`. Those that have not
  // by `deadline`, or cannot be asked: watchers by name, processes as "replica NAME".
  std::vector<std::string> WaitForOthers(int64_t version, absl::Time deadline);

  // This process in the database, and in the answers of others.
  const std::string& replica() const { return options_.replica; }
  // For how long the log could not be read.
  absl::Duration Staleness() const;
  // Ends its thread; the others stop to wait for this process. Idempotent.
  void Stop();

 private:
  // Another process, as of the last look.
  struct Other {
    int64_t acked = 0;
    std::vector<std::string> behind;
    absl::Duration silent;
  };

  ChangeFeed(ChangeFeedOptions options, ChangeSubscriber* subscriber);

  bool shared() const { return options_.postgres.has_value(); }
  void Run();
  // After each attempt: says so when things change, and at most once a minute that they have not.
  void Note(const absl::Status& status);
  // Brings what is new; true if there is more.
  absl::StatusOr<bool> Look();
  // What the other processes need from this one, and it from them.
  absl::Status KeepUp();
  absl::Status Report(bool even_if_unchanged);
  absl::Status ReadOthers();
  absl::Status Trim();
  static std::vector<std::string> Missing(const std::map<std::string, Other>& others, int64_t version,
                                          absl::Duration lease, bool* wait);

  const ChangeFeedOptions options_;
  ChangeSubscriber* const subscriber_;
  Listener listener_;
  std::thread thread_;

  // Of the feed's thread.
  std::string log_id_;
  int64_t delivered_ = 0;
  int64_t reported_ = -1;
  std::string reported_behind_;
  absl::Time report_due_ = absl::InfinitePast();
  absl::Time trim_due_ = absl::InfinitePast();
  bool suspended_ = false;
  bool failed_ = false;
  absl::Time complain_at_ = absl::InfinitePast();

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t looks_begun_ ABSL_GUARDED_BY(mutex_) = 0;  // at the others
  int64_t look_done_ ABSL_GUARDED_BY(mutex_) = 0;    // the one that others_ is from
  std::map<std::string, Other> others_ ABSL_GUARDED_BY(mutex_);
  absl::Time fresh_at_ ABSL_GUARDED_BY(mutex_) = absl::Now();
};

}  // namespace tollhouse::sql
