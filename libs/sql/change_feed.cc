#include "libs/sql/change_feed.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/obs/log.h"

namespace tollhouse::sql {
namespace {

constexpr int64_t kPage = 256;
constexpr size_t kNamesReported = 100;
constexpr absl::Duration kWhileWaiting = absl::Milliseconds(100);
constexpr absl::Duration kAfterFailure = absl::Milliseconds(200);
constexpr absl::Duration kTrimInterval = absl::Minutes(1);
constexpr absl::Duration kComplainInterval = absl::Minutes(1);

// The server's clock: replicas need not agree on theirs.
#define TH_SQL_NOW "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

constexpr std::string_view kReport =
    "INSERT INTO change_replica (name, acked, behind, seen_at) VALUES (?1, ?2, ?3, " TH_SQL_NOW
    ") ON CONFLICT (name) DO UPDATE SET acked = ?2, behind = ?3, seen_at = " TH_SQL_NOW;
constexpr std::string_view kOthers =
    "SELECT name, acked, behind, " TH_SQL_NOW " - seen_at FROM change_replica WHERE name <> ?1";
constexpr std::string_view kForget =
    "DELETE FROM change_replica WHERE seen_at < " TH_SQL_NOW " - ?1";

#undef TH_SQL_NOW

std::string ThisProcess() {
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  return absl::StrCat(absl::string_view(host), "/", getpid(), "/", NewUuid(absl::Now()).ToString().substr(24));
}

}  // namespace

ChangeFeed::ChangeFeed(ChangeFeedOptions options, ChangeSubscriber* subscriber)
    : options_(std::move(options)),
      subscriber_(subscriber),
      listener_(options_.postgres, "tollhouse_changes") {}

absl::StatusOr<std::unique_ptr<ChangeFeed>> ChangeFeed::Start(ChangeFeedOptions options,
                                                              ChangeSubscriber* subscriber) {
  if (options.replica.empty()) options.replica = ThisProcess();
  std::unique_ptr<ChangeFeed> feed(new ChangeFeed(std::move(options), subscriber));
  // The others wait for this process from here on, with nothing acknowledged.
  if (feed->shared()) TH_RETURN_IF_ERROR(feed->Report(true));
  TH_RETURN_IF_ERROR(feed->Look().status());
  feed->thread_ = std::thread([self = feed.get()] { self->Run(); });
  return feed;
}

ChangeFeed::~ChangeFeed() { Stop(); }

void ChangeFeed::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  listener_.Wake();
  if (thread_.joinable()) thread_.join();
  if (!shared() || Staleness() > options_.lease) return;
  // Where that fails, the lease ends by itself.
  options_.database
      ->Write([&](Connection& c) {
        return c.Execute("DELETE FROM change_replica WHERE name = ?1", options_.replica).status();
      })
      .IgnoreError();
}

void ChangeFeed::Wake() { listener_.Wake(); }

absl::Duration ChangeFeed::Staleness() const {
  absl::MutexLock lock(&mutex_);
  return std::max(absl::ZeroDuration(), absl::Now() - fresh_at_ - options_.poll);
}

void ChangeFeed::Run() {
  for (;;) {
    absl::Duration pause = shared() ? options_.poll : absl::InfiniteDuration();
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      if (waiters_ > 0 && shared()) pause = std::min(pause, kWhileWaiting);
    }
    if (failed_) pause = std::min(pause, kAfterFailure);
    if (listener_.Wait(pause) == Listener::Event::kConnected && options_.connected) {
      options_.connected();
    }
    absl::StatusOr<bool> more = true;
    while (more.ok() && *more) {
      {
        absl::MutexLock lock(&mutex_);
        if (stopping_) return;
      }
      more = Look();
    }
    absl::Status status = more.status();
    if (status.ok() && shared()) status = KeepUp();
    Note(status);
  }
}

void ChangeFeed::Note(const absl::Status& status) {
  const absl::Time now = absl::Now();
  if (status.ok()) {
    if (std::exchange(failed_, false)) obs::Info("change_feed_recovered");
    return;
  }
  const absl::Duration stale = Staleness();
  if (!std::exchange(failed_, true) || now >= complain_at_) {
    complain_at_ = now + kComplainInterval;
    obs::Warning("change_feed_failed", {{"error", Std(status.message())},
                                        {"stale_seconds", absl::ToInt64Seconds(stale)}});
  }
  if (stale > options_.max_staleness && !std::exchange(suspended_, true)) {
    obs::Warning("watches_ended", {{"reason", "what they know may be old"},
                                   {"stale_seconds", absl::ToInt64Seconds(stale)}});
    subscriber_->Suspend();
  }
}

absl::Status ChangeFeed::KeepUp() {
  TH_RETURN_IF_ERROR(Report(absl::Now() >= report_due_));
  bool waited_for = false;
  {
    absl::MutexLock lock(&mutex_);
    waited_for = waiters_ > 0;
  }
  if (waited_for) TH_RETURN_IF_ERROR(ReadOthers());
  if (absl::Now() < trim_due_) return absl::OkStatus();
  trim_due_ = absl::Now() + kTrimInterval;
  return Trim();
}

absl::StatusOr<bool> ChangeFeed::Look() {
  ChangeLogHead head;
  std::vector<Change> changes;
  TH_RETURN_IF_ERROR(options_.database->Read([&](Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(head, ReadChangeLogHead(c));
    if (head.log_id == log_id_ && head.version > delivered_) {
      TH_ASSIGN_OR_RETURN(changes, ReadChanges(c, delivered_, kPage));
    }
    return absl::OkStatus();
  }));
  {
    absl::MutexLock lock(&mutex_);
    fresh_at_ = absl::Now();
  }
  const bool gap = head.version > delivered_ &&
                   (changes.empty() || changes.front().version != delivered_ + 1);
  const bool resumed = std::exchange(suspended_, false);
  if (resumed || head.log_id != log_id_ || head.version < delivered_ || gap) {
    if (!log_id_.empty()) {
      obs::Warning("change_feed_restarts", {{"from", delivered_}, {"to", head.version}});
    }
    log_id_ = head.log_id;
    delivered_ = head.version;
    subscriber_->Restart(delivered_);
    return false;
  }
  for (const Change& change : changes) {
    TH_RETURN_IF_ERROR(subscriber_->Deliver(change.version, change.payload));
    delivered_ = change.version;
  }
  return delivered_ < head.version;
}

absl::Status ChangeFeed::Report(bool even_if_unchanged) {
  ChangeSubscriber::Acknowledged now;
  now.version = 0;
  if (!log_id_.empty()) now = subscriber_->acknowledged();
  if (now.behind.size() > kNamesReported) now.behind.resize(kNamesReported);
  const std::string behind = absl::StrJoin(now.behind, "\n");
  if (!even_if_unchanged && now.version == reported_ && behind == reported_behind_) {
    return absl::OkStatus();
  }
  TH_RETURN_IF_ERROR(options_.database->Write([&](Connection& c) -> absl::Status {
    // What is lost here is said again within a second.
    TH_RETURN_IF_ERROR(c.Execute("SET LOCAL synchronous_commit TO off").status());
    TH_RETURN_IF_ERROR(c.Execute(kReport, options_.replica, now.version, behind).status());
    if (now.version == reported_) return absl::OkStatus();
    return c.Query("SELECT pg_notify('tollhouse_changes', '')").status();
  }));
  reported_ = now.version;
  reported_behind_ = behind;
  report_due_ = absl::Now() + options_.lease / 3;
  return absl::OkStatus();
}

absl::Status ChangeFeed::ReadOthers() {
  {
    absl::MutexLock lock(&mutex_);
    ++looks_begun_;
  }
  std::map<std::string, Other> others;
  TH_RETURN_IF_ERROR(options_.database->Read([&](Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(Rows rows, c.Query(kOthers, options_.replica));
    while (rows.Next()) {
      Other other{.acked = rows.Int(1), .behind = {}, .silent = absl::Microseconds(rows.Int(3))};
      if (other.silent > options_.named) continue;
      const std::string behind = rows.Text(2);
      other.behind = absl::StrSplit(behind, '\n', absl::SkipEmpty());
      others.emplace(rows.Text(0), std::move(other));
    }
    return rows.status();
  }));
  absl::MutexLock lock(&mutex_);
  others_ = std::move(others);
  look_done_ = looks_begun_;
  return absl::OkStatus();
}

absl::Status ChangeFeed::Trim() {
  return options_.database->Write([&](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("DELETE FROM change WHERE version <= ?1",
                                 delivered_ - options_.changes_kept)
                           .status());
    return c.Execute(kForget, absl::ToInt64Microseconds(10 * options_.named)).status();
  });
}

std::vector<std::string> ChangeFeed::Missing(const std::map<std::string, Other>& others,
                                             int64_t version, absl::Duration lease, bool* wait) {
  std::vector<std::string> names;
  *wait = false;
  for (const auto& [name, other] : others) {
    if (other.acked >= version) continue;
    if (other.silent < lease) {
      *wait = true;
      names.insert(names.end(), other.behind.begin(), other.behind.end());
      if (other.behind.empty()) names.push_back(absl::StrCat("replica ", name));
    } else {
      names.push_back(absl::StrCat("replica ", name, " (silent for ",
                                   absl::FormatDuration(absl::Trunc(other.silent, absl::Seconds(1))),
                                   ")"));
    }
  }
  return names;
}

std::vector<std::string> ChangeFeed::WaitForOthers(int64_t version, absl::Time deadline) {
  if (!shared()) return {};
  std::vector<std::string> names;
  bool wait = true;
  absl::MutexLock lock(&mutex_);
  ++waiters_;
  const int64_t before = looks_begun_;  // what they see may be older than the change
  listener_.Wake();
  const auto settled = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (stopping_) return true;
    if (look_done_ <= before) return false;
    names = Missing(others_, version, options_.lease, &wait);
    return !wait;
  };
  mutex_.AwaitWithDeadline(absl::Condition(&settled), deadline);
  if (look_done_ <= before) names = {"other replicas (the database does not answer)"};
  --waiters_;
  return names;
}

}  // namespace tollhouse::sql
