#include "services/budget-enforcer/store/redis_store.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"

namespace tollhouse::enforcer {
namespace {

constexpr size_t kPageHolds = 128, kPageLeases = 512, kReturnsMax = 256;

std::vector<std::string_view> Views(const OrgKeys& keys) {
  return {keys.names.begin(), keys.names.end()};
}

CoreOptions Exact(CoreOptions core) {
  core.max_lease_nanos = std::min(core.max_lease_nanos, kMaxExact);
  return core;
}

absl::Status BadReply() {
  return MakeError(absl::StatusCode::kInternal, "REDIS_SCRIPT", "a hold script's answer makes no sense");
}

absl::Status Stopping() {
  return MakeError(absl::StatusCode::kUnavailable, "REDIS_UNAVAILABLE", "the enforcer is shutting down");
}

}  // namespace

// One script call: the batches in it, kept until they are answered.
struct RedisStore::Call {
  explicit Call(const RedisStoreOptions& options)
      : encoder(options.core, options.clock_ahead_max == absl::InfiniteDuration()
                                  ? -1
                                  : absl::ToInt64Milliseconds(options.clock_ahead_max)) {}
  RunEncoder encoder;
  std::vector<Waiting> batches;
};

struct RedisStore::Org {
  explicit Org(int64_t org_id) : keys(org_id), key_views(Views(keys)) {}

  const OrgKeys keys;
  const std::vector<std::string_view> key_views;

  absl::Mutex send_mutex;  // held while calls are made, so that they keep the order of the queue
  absl::Mutex mutex;
  std::deque<Waiting> queue ABSL_GUARDED_BY(mutex);
  size_t queued_events ABSL_GUARDED_BY(mutex) = 0;
  size_t calls ABSL_GUARDED_BY(mutex) = 0;  // under way
  bool proven ABSL_GUARDED_BY(mutex) = false;  // the last call was answered
  bool serving ABSL_GUARDED_BY(mutex) = false;
  int64_t now_ms ABSL_GUARDED_BY(mutex) = 0;  // the newest time that the org has seen
  std::vector<std::unique_ptr<Call>> spare ABSL_GUARDED_BY(mutex);
};

struct RedisStore::Reading {
  Org* org = nullptr;
  StoreQuery query;
  std::string cursor = "0";
  StoreView view;
  bool begun = false;
  absl::flat_hash_set<std::string> seen;  // a page may repeat what an earlier one had
  std::function<void(absl::StatusOr<StoreView>)> done;
};

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Create(redis::Options redis,
                                                              RedisStoreOptions options) {
  auto client = redis::Client::Create(std::move(redis));
  if (!client.ok()) return client.status();
  return std::unique_ptr<RedisStore>(new RedisStore(*std::move(client), std::move(options)));
}

RedisStore::RedisStore(std::unique_ptr<redis::Client> client, RedisStoreOptions options)
    : options_([&] {
        options.core = Exact(options.core);
        return options;
      }()),
      run_(std::string(options_.run_script)),
      read_(std::string(kReadScript)),
      identify_(std::string(kIdentifyScript)),
      client_(std::move(client)) {}

RedisStore::~RedisStore() {
  stopping_ = true;
  client_.reset();
}

RedisStore::Org* RedisStore::FindOrg(int64_t org_id) {
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (auto it = orgs_.find(org_id); it != orgs_.end()) return it->second.get();
  }
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<Org>& org = orgs_[org_id];
  if (org == nullptr) org = std::make_unique<Org>(org_id);
  return org.get();
}

void RedisStore::SetIncarnationChanged(std::function<void()> changed) {
  changed_ = std::move(changed);
  client_->SetIncarnationChanged(changed_);
}

void RedisStore::Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) {
  Org* const org = FindOrg(org_id);
  const std::string marker = NewUuid(absl::Now()).ToString();
  const std::string_view args[] = {marker};
  client_->RunScript(identify_, std::span(org->key_views).first(1), args, options_.timeout,
                     [done = std::move(done)](absl::StatusOr<redis::Reply> reply) {
                       if (!reply.ok()) return done(reply.status());
                       if (reply->text().empty()) return done(BadReply());
                       done(std::string(reply->text()));
                     });
}

// --- batches -------------------------------------------------------------------------------------
void RedisStore::Run(StoreBatch* batch, std::function<void()> done) {
  Org* const org = FindOrg(batch->org_id);
  batch->effects.clear();
  bool taken = false, send = false;
  {
    absl::MutexLock lock(&org->mutex);
    taken = org->queued_events + batch->events.size() <= options_.waiting_max || org->queue.empty();
    if (taken) {
      org->queue.push_back({batch, std::move(done)});
      org->queued_events += batch->events.size();
      send = org->calls == 0 || org->queued_events >= options_.events_ahead;
    }
  }
  if (!taken) {
    batch->status = MakeError(absl::StatusCode::kResourceExhausted, "REDIS_OVERLOADED",
                              "too many operations of this org wait for Redis");
    return done();
  }
  if (send) Send(org);
}

// Makes the calls that may be made now.
void RedisStore::Send(Org* org) {
  std::vector<Waiting> unfit;
  {
    absl::MutexLock sending(&org->send_mutex);
    while (true) {
      std::unique_ptr<Call> call;
      int64_t now_ms;
      {
        absl::MutexLock lock(&org->mutex);
        // A script that Redis has forgotten is sent once more: calls could pass each other, so a
        // second one is under way only after one was answered.
        const bool another = org->calls == 0 || (org->calls == 1 && org->proven &&
                                                 org->queued_events >= options_.events_ahead);
        if (org->queue.empty() || !another) break;
        if (org->spare.empty()) {
          call = std::make_unique<Call>(options_);
        } else {
          call = std::move(org->spare.back());
          org->spare.pop_back();
        }
        size_t events = 0;
        while (!org->queue.empty()) {
          const StoreBatch& next = *org->queue.front().batch;
          const bool alone = !next.incarnation.empty();
          if (events > 0 && (alone || events + next.events.size() > options_.events_max)) break;
          events += next.events.size();
          org->queued_events -= next.events.size();
          call->batches.push_back(std::move(org->queue.front()));
          org->queue.pop_front();
          if (alone) break;
        }
        // What the org saw is forgotten with its data.
        now_ms = call->batches.front().batch->incarnation.empty() ? org->now_ms : 0;
        ++org->calls;
      }
      call->encoder.Clear(now_ms);
      std::erase_if(call->batches, [&](Waiting& waiting) {
        waiting.batch->status = call->encoder.Add(*waiting.batch);
        if (waiting.batch->status.ok()) return false;
        unfit.push_back(std::move(waiting));
        return true;
      });
      if (call->batches.empty()) {
        absl::MutexLock lock(&org->mutex);
        --org->calls;
        org->spare.push_back(std::move(call));
        continue;
      }
      const std::vector<std::string_view> arguments = call->encoder.Arguments();
      client_->RunScript(run_, org->key_views, arguments, options_.timeout,
                         [this, org, call = std::move(call)](absl::StatusOr<redis::Reply> reply) mutable {
                           Answered(org, std::move(call), reply);
                         });
    }
  }
  for (Waiting& waiting : unfit) waiting.done();
}

void RedisStore::Answered(Org* org, std::unique_ptr<Call> call,
                          const absl::StatusOr<redis::Reply>& reply) {
  absl::Status status = reply.status();
  RunDecoder decoder(reply.ok() ? reply->text() : std::string_view());
  OrgCondition condition = OrgCondition::kNoEpoch;
  int64_t now_ms = 0;
  if (status.ok() && reply->type() == redis::Value::Type::kStatus) {
    status = MakeError(absl::StatusCode::kFailedPrecondition, "INCARNATION_CHANGED",
                       "Redis is another one than the epoch was registered for");
  } else if (status.ok()) {
    const auto found = decoder.Condition(&now_ms);
    status = found.status();
    if (found.ok()) condition = *found;
  }
  bool lost = false;
  std::deque<Waiting> dropped;
  {
    absl::MutexLock lock(&org->mutex);
    --org->calls;
    org->proven = status.ok();
    if (status.ok()) {
      const bool serving = condition == OrgCondition::kServing;
      lost = org->serving && !serving;
      org->serving = serving;
      org->now_ms = serving ? now_ms : 0;
    }
    if (stopping_) {
      dropped.swap(org->queue);
      org->queued_events = 0;
    }
  }
  // Redis gets the next call before this one's results are worked on.
  if (!stopping_) Send(org);
  if (lost && changed_) changed_();
  for (Waiting& waiting : call->batches) {
    waiting.batch->status = status.ok() ? decoder.Fill(*waiting.batch) : status;
    waiting.done();
  }
  call->batches.clear();
  for (Waiting& waiting : dropped) {
    waiting.batch->status = Stopping();
    waiting.done();
  }
  absl::MutexLock lock(&org->mutex);
  if (org->spare.size() < 2) org->spare.push_back(std::move(call));
}

// --- views ---------------------------------------------------------------------------------------
void RedisStore::Read(int64_t org_id, const StoreQuery& query,
                      std::function<void(absl::StatusOr<StoreView>)> done) {
  auto reading = std::make_shared<Reading>();
  reading->org = FindOrg(org_id);
  reading->query = query;
  reading->done = std::move(done);
  ReadPage(std::move(reading));
}

void RedisStore::ReadPage(std::shared_ptr<Reading> reading) {
  using What = StoreQuery::What;
  const StoreQuery& query = reading->query;
  std::string_view what;
  std::string argument;
  switch (query.what) {
    case What::kHold:
      what = "hold";
      argument = std::string(query.hold_id.raw());
      break;
    case What::kHolds:
      what = "holds";
      argument = std::to_string(kPageHolds);
      break;
    case What::kExpired:
      what = "expired";
      argument = std::to_string(query.max);
      break;
    case What::kLeases:
      what = "leases";
      argument = std::to_string(kPageLeases);
      break;
    case What::kReturns:
      what = "returns";
      argument = std::to_string(kReturnsMax);
      break;
  }
  const std::string_view args[] = {what, argument, reading->cursor};
  client_->RunScript(
      read_, reading->org->key_views, args, options_.timeout,
      [this, reading](absl::StatusOr<redis::Reply> reply) {
        StoreView& view = reading->view;
        auto fail = [&](absl::Status status) { reading->done(std::move(status)); };
        if (!reply.ok()) return fail(reply.status());
        int64_t epoch = 0;
        if (reply->size() < 2 || reply->size() % 3 != 2 ||
            !absl::SimpleAtoi(Absl((*reply)[0].text()), &epoch)) {
          return fail(BadReply());
        }
        if (std::exchange(reading->begun, true) && epoch != view.epoch) {
          return fail(MakeError(absl::StatusCode::kUnavailable, "EPOCH_MOVED",
                                "another epoch was opened while this one was read"));
        }
        view.epoch = epoch;
        for (size_t i = 2; i < reply->size(); i += 3) {
          const std::string_view key = (*reply)[i].text(), value = (*reply)[i + 1].text();
          if (reading->query.what == What::kReturns) {
            auto record = ParseReturn(value);
            if (!record.ok()) return fail(record.status());
            view.returns.push_back(*std::move(record));
            continue;
          }
          if (!reading->seen.insert(std::string(key)).second) continue;
          if (reading->query.what == What::kLeases) {
            auto record = ParseLease(key, value);
            if (!record.ok()) return fail(record.status());
            view.leases.push_back(*std::move(record));
          } else {
            auto id = UuidFromRaw(key);
            if (!id.ok()) return fail(BadReply());
            auto record = ParseHold(*id, value, (*reply)[i + 2].text());
            if (!record.ok()) return fail(record.status());
            view.holds.push_back(*std::move(record));
          }
        }
        reading->cursor = std::string((*reply)[1].text());
        if (reading->cursor != "0" && !stopping_) return ReadPage(reading);
        if (reading->cursor != "0") return fail(Stopping());
        reading->done(std::move(view));
      });
}

}  // namespace tollhouse::enforcer
