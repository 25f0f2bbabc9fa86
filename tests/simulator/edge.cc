#include "tests/simulator/edge.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tests/simulator/redis.h"

namespace tollhouse::simulator {

using enforcer::v1::Operation;
using enforcer::v1::OperationResult;
using ledger::v1::Entry;

struct Edge::Request {
  Demand demand;
  Principal principal;
  int round = 0;
  int64_t asked_at = 0;
  Entry intent;
  int64_t refresh_at = 0;
  bool done = false;
};

// The enforcer's end of a session.
struct Edge::Sink final : enforcer::ResultSink {
  Sink(std::shared_ptr<Stream> s, Edge* e) : stream(std::move(s)), edge(e) {}
  void Deliver(std::vector<OperationResult> results) override {
    stream->ToClient([edge = edge, results = std::move(results)] { edge->Results(results); });
  }
  bool closed() const override { return !stream->open_at_server(); }
  const std::shared_ptr<Stream> stream;
  Edge* const edge;
};

namespace {

std::string Hex(const std::string& raw) {
  const auto id = UuidFromRaw(raw);
  return id.ok() ? id->ToString().substr(20) : "?";
}

}  // namespace

Edge::Edge(const World& world, EdgeOptions options, int index)
    : world_(world),
      runtime_(world.runtime),
      options_(options),
      index_(index),
      actor_(world.runtime->NewActor(absl::StrCat("edge-", index))),
      clock_(std::make_unique<ActorClock>(world.runtime, actor_)) {
  // A name of its own, so that nothing random decides.
  std::filesystem::create_directory(JournalDir());
  Uuid id;
  id.bytes[6] = 0x70;
  id.bytes[8] = 0x80;
  id.bytes[15] = static_cast<uint8_t>(index + 1);
  edge_id_ = id.ToString();
  const int fd = open((JournalDir() + "/edge_id").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (write(fd, edge_id_.data(), edge_id_.size()) < 0) world_.observer->Violation("no disk");
  close(fd);
}

Edge::~Edge() = default;

std::string Edge::JournalDir() const { return absl::StrCat(world_.dir, "/edge-", index_); }

// --- its life ------------------------------------------------------------------------------------
void Edge::Boot() {
  actor_->up = true;
  boot_id_ = absl::StrCat("boot-", index_, "-", ++boots_);
  edge::JournalOptions options;
  options.dir = JournalDir();
  options.segment_bytes = 64 << 10;
  options.max_bytes = 1 << 20;
  options.clock = clock_.get();
  options.doubt_time = absl::Seconds(70);
  options.machine =
      absl::StrCat("machine-", world_.mutant == Mutant::kPowerLossUnnoticed ? 0 : machines_);
  auto journal = edge::Journal::Open(options);
  if (!journal.ok()) {
    world_.observer->Violation(absl::StrCat("the journal does not open: ", journal.status().message()));
    return;
  }
  journal_ = *std::move(journal);
  edge_id_ = journal_->edge_id();
  settlements_ = std::make_unique<edge::Settlements>(
      journal_.get(),
      [this](std::string_view, Operation operation) { Enqueue(std::move(operation), nullptr); },
      [this](const Entry& entry, const ledger::v1::PostResult& result) {
        world_.observer->Violation(absl::StrCat("I5: the ledger refused ", Hex(entry.hold_id()), ": ",
                                                result.message()));
      });
  announcements_ = std::make_unique<edge::Announcements>(journal_.get(), boot_id_);
  runtime_->Trace(actor_->name, absl::StrCat("boots, ", journal_->unposted(), " unposted"));
  ConnectSession();
  ConnectPost();
  ConnectWatch();
  std::vector<Entry> replayed = journal_->TakeReplayed();
  if (!replayed.empty()) runtime_->coverage.Hit("journal.replayed");
  for (Entry& entry : replayed) {
    if (entry.kind() == ledger::v1::ENTRY_KIND_SUSPEND) {
      runtime_->coverage.Hit("journal.intent_without_result");
      if (world_.mutant == Mutant::kPartialUsage) {
        entry.set_kind(ledger::v1::ENTRY_KIND_SETTLE);
        entry.set_cost_nanousd(entry.hold_nanousd() / 4);
      }
    }
    Submit(std::make_shared<const Entry>(std::move(entry)));
  }
  Tick();
}

void Edge::Stop() {
  runtime_->Die(actor_);
  world_.network->Died(actor_);
  serving_ = synced_ = announcing_ = false;
  look_at_ = 0;
  session_ = post_ = watch_ = nullptr;
  pending_.clear();
  principals_.clear();
  active_.clear();
  open_requests_ = 0;
  settlements_.reset();
  announcements_.reset();
  journal_.reset();
}

void Edge::Kill() {
  runtime_->Trace(actor_->name, "killed");
  Stop();
}

void Edge::PowerLoss() {
  runtime_->Trace(actor_->name, "power loss");
  Stop();
  ++machines_;
  std::string newest;
  for (const auto& file : std::filesystem::directory_iterator(JournalDir())) {
    const std::string path = file.path().string();
    if (path.ends_with(".journal")) newest = std::max(newest, path);
  }
  if (newest.empty()) return;
  struct stat info;
  if (stat(newest.c_str(), &info) != 0) return;
  // What is older than five seconds has been written back.
  int64_t synced = 8;
  for (const auto& [at, size] : sizes_) {
    if (at <= runtime_->now() - 5 * kSecond) synced = size;
  }
  synced = std::min<int64_t>(synced, info.st_size);
  const int64_t cut = runtime_->random.Between(synced, info.st_size);
  if (cut < info.st_size) runtime_->coverage.Hit("journal.tail_lost");
  runtime_->Note(static_cast<uint64_t>(cut));
  if (truncate(newest.c_str(), cut) != 0) world_.observer->Violation("no disk");
}

void Edge::Lose() {
  runtime_->Trace(actor_->name, "lost with its volume");
  Stop();
  lost_ = true;
  std::filesystem::remove_all(JournalDir());
}

void Edge::Tick() {
  runtime_->After(kSecond, actor_, [this] { Tick(); });
  journal_->Maintain();
  for (Entry& entry : journal_->TakeDoubtful()) {
    runtime_->coverage.Hit("journal.doubtful");
    Submit(std::make_shared<const Entry>(std::move(entry)));
  }
  Announce();
  if (power_may_fail_) {
    for (const auto& file : std::filesystem::directory_iterator(JournalDir())) {
      if (file.path().string().ends_with(".journal")) {
        sizes_.emplace_back(runtime_->now(), static_cast<int64_t>(file.file_size()));
      }
    }
  }
  // A peer that does not answer is given up.
  const bool stuck = std::any_of(pending_.begin(), pending_.end(), [&](const auto& item) {
    return runtime_->now() - item.second.since > 3 * kSecond;
  });
  if (stuck && session_ != nullptr) {
    runtime_->coverage.Hit("session.given_up");
    session_->Close();
    session_ = nullptr;
    ConnectSession();
  }
  for (const auto& [hold_id, request] : active_) {
    if (request->refresh_at > runtime_->now()) continue;
    request->refresh_at = runtime_->now() + options_.time_to_live / 4;
    Operation operation;
    operation.mutable_refresh()->set_hold_id(hold_id);
    operation.mutable_refresh()->set_org_id(request->intent.account_ids(0));
    operation.mutable_refresh()->set_epoch(request->intent.epoch());
    Enqueue(std::move(operation), nullptr);
  }
}

std::string Edge::Busy() const {
  if (lost_) return "";
  if (!actor_->up || journal_ == nullptr) return "down";
  if (!serving_) return "not serving";
  if (!active_.empty() || open_requests_ > 0) return "requests";
  if (settlements_->backlog() > 0) return "settlements";
  if (journal_->unposted() > 0) return "journal";
  if (announcements_->Waiting() || announcing_) return "announcements";
  for (const auto& [sequence, pending] : pending_) {
    if (!pending.operation.has_refresh()) return "operations";
  }
  return "";
}

// --- a request -----------------------------------------------------------------------------------
void Edge::Arrive(const Demand& demand) {
  auto request = std::make_shared<Request>();
  request->demand = demand;
  ++open_requests_;
  const auto unavailable = [&](const char* reason) {
    Finish(request, Answer{Answer::Kind::kUnavailable, reason, {}});
  };
  if (!actor_->up || actor_->paused || !serving_) return unavailable("NOT_SERVING");
  if (journal_->Full()) return unavailable("JOURNAL_FULL");
  if (settlements_->backlog() > options_.backlog_max) return unavailable("BACKLOG");
  if (auto known = principals_.find(demand.key); known != principals_.end()) {
    request->principal = known->second;
    TryReserve(request);
    return;
  }
  const uint64_t before = generation_;
  ledger::v1::ResolveAccountRequest resolve;
  resolve.set_account_id((*world_.keys)[demand.key]);
  world_.ledger->Call<ledger::v1::ResolveAccountResponse>(
      actor_, [resolve](ledger::Store& store) { return store.ResolveAccount(resolve); },
      [this, request, before](absl::StatusOr<ledger::v1::ResolveAccountResponse> answer) {
        if (!answer.ok()) {
          return Finish(request, Answer{Answer::Kind::kUnavailable, "LEDGER_UNAVAILABLE", {}});
        }
        for (const auto& account : answer->chain()) {
          request->principal.account_ids.push_back(account.account_id());
          request->principal.path = account.path();
        }
        request->principal.require_budget = answer->require_budget();
        if (before == generation_) principals_[request->demand.key] = request->principal;
        TryReserve(request);
      });
}

std::string Edge::NewHoldId() {
  Uuid id;
  const int64_t ms = absl::ToUnixMillis(clock_->Wall());
  for (int i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(ms >> (40 - 8 * i));
  id.bytes[6] = 0x70;
  id.bytes[8] = static_cast<uint8_t>(0x80 | index_);
  const int64_t number = ++next_hold_;
  for (int i = 0; i < 4; ++i) id.bytes[14 - i] = static_cast<uint8_t>(number >> (8 * i));
  return std::string(id.raw());
}

void Edge::TryReserve(const std::shared_ptr<Request>& request) {
  if (++request->round > 3) {
    return Finish(request, Answer{Answer::Kind::kUnavailable, "EPOCH_CLOSED", {}});
  }
  const Demand& demand = request->demand;
  Operation operation;
  auto* reserve = operation.mutable_reserve();
  reserve->set_hold_id(NewHoldId());
  for (const int64_t id : request->principal.account_ids) reserve->add_account_ids(id);
  if (!demand.use_case.empty()) (*reserve->mutable_tags())["use_case"] = demand.use_case;
  reserve->set_provider("acme-llm");
  reserve->set_model(demand.model);
  reserve->set_strict_nanousd(demand.strict_nanos);
  reserve->set_tight_nanousd(demand.tight_nanos);
  reserve->set_estimated_tokens(demand.strict_nanos / 1'000'000);
  reserve->set_first_attempt(true);
  reserve->set_wait_ms(demand.wait_ms);
  reserve->set_time_to_live_ms(options_.time_to_live / kMilli);
  reserve->set_require_budget(request->principal.require_budget);
  reserve->set_fingerprint(absl::StrCat("f", demand.at, "-", demand.strict_nanos));
  request->asked_at = runtime_->now();
  const std::string hold_id = reserve->hold_id();
  runtime_->Trace(actor_->name, absl::StrCat("reserve ", Hex(hold_id), " ", demand.strict_nanos));
  auto answered = std::make_shared<bool>(false);
  const uint64_t sequence =
      Enqueue(std::move(operation), [this, request, answered](OperationResult result) {
        *answered = true;
        Reserved(request, result);
      });
  runtime_->After(options_.reserve_timeout + demand.wait_ms * kMilli, actor_,
                  [this, request, answered, sequence] {
                    if (*answered) return;
                    if (auto it = pending_.find(sequence); it != pending_.end()) {
                      it->second.waiter = nullptr;  // should it be admitted after that: an orphan
                    }
                    runtime_->coverage.Hit("edge.reserve_timeout");
                    Finish(request, Answer{Answer::Kind::kUnavailable, "ENFORCER_UNAVAILABLE", {}});
                  });
  request->intent.Clear();
  Entry& entry = request->intent;
  entry.set_hold_id(hold_id);
  entry.set_kind(ledger::v1::ENTRY_KIND_SUSPEND);
  entry.set_request_id(absl::StrCat("request-", demand.at));
  entry.set_attempt(1);
  for (const int64_t id : request->principal.account_ids) entry.add_account_ids(id);
  entry.set_account_path(request->principal.path);
  entry.set_edge_id(edge_id_);
  entry.set_boot_id(boot_id_);
  entry.set_provider("acme-llm");
  entry.set_model(demand.model);
  entry.set_upstream_model(demand.model);
  entry.set_hold_nanousd(demand.strict_nanos);
  entry.set_price_version("1");
  if (!demand.use_case.empty()) (*entry.mutable_tags())["use_case"] = demand.use_case;
  entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(clock_->Wall()));
}

void Edge::Reserved(const std::shared_ptr<Request>& request, const OperationResult& result) {
  if (result.has_refused()) {
    return Finish(request, Answer{Answer::Kind::kRefused, "", result.refused()});
  }
  if (!result.has_admitted()) {
    const std::string& reason = result.failed().reason();
    if (reason == "EPOCH_CLOSED" || reason == "HOLD_CONFLICT") return TryReserve(request);
    return Finish(request, Answer{Answer::Kind::kUnavailable, reason, {}});
  }
  const auto& held = result.admitted().budgets();
  const bool escrowed =
      std::any_of(held.begin(), held.end(), [](const auto& b) { return b.amount_nanousd() > 0; });
  if (runtime_->random.Chance(20) && escrowed) {
    // I8: the same hold with other content must not pass.
    Operation other;
    auto* reserve = other.mutable_reserve();
    reserve->set_hold_id(request->intent.hold_id());
    *reserve->mutable_account_ids() = request->intent.account_ids();
    reserve->set_model(request->demand.model);
    reserve->set_strict_nanousd(1);
    reserve->set_time_to_live_ms(options_.time_to_live / kMilli);  // under a new epoch it may be made
    reserve->set_fingerprint("another");
    const int64_t epoch = result.admitted().epoch();
    const uint64_t sequence = Enqueue(std::move(other), [this, epoch](OperationResult answer) {
      if (answer.admitted().epoch() != epoch) answer.clear_admitted();  // another store: it knows nothing
      const auto& budgets = answer.admitted().budgets();
      if (std::any_of(budgets.begin(), budgets.end(), [](const auto& b) { return b.amount_nanousd() > 0; })) {
        world_.observer->Violation("I8: a hold was admitted with other content");
      }
      if (answer.failed().reason() == "HOLD_CONFLICT") runtime_->coverage.Hit("hold.conflict");
    });
    pending_.at(sequence).twisted = true;
  }
  request->intent.set_epoch(result.admitted().epoch());
  *request->intent.mutable_budgets() = result.admitted().budgets();
  runtime_->coverage.Hit("hold.admitted");
  runtime_->Trace(actor_->name, absl::StrCat("admitted ", Hex(request->intent.hold_id()), " epoch ",
                                             request->intent.epoch()));
  runtime_->After(request->demand.connect_time, actor_, [this, request] { Admitted(request); });
}

// The connection to the provider stands.
void Edge::Admitted(const std::shared_ptr<Request>& request) {
  if (runtime_->now() - request->asked_at > options_.time_to_live / 2) {
    runtime_->coverage.Hit("edge.start_deadline");
    SubmitVoid(request->intent);
    return Finish(request, Answer{Answer::Kind::kUnavailable, "TOO_SLOW", {}});
  }
  if (world_.mutant == Mutant::kIntentAfterForward) {
    Forward(request);
    runtime_->After(200 * kMilli, actor_, [this, request] {
      const absl::Status late = journal_->AppendIntent(request->intent);
      if (!late.ok()) world_.observer->Violation("a request was forwarded that the journal refuses");
    });
    return;
  }
  const absl::Status journalled = journal_->AppendIntent(request->intent);
  if (journalled.ok()) return Forward(request);
  if (ReasonOf(journalled) == "EPOCH_CLOSED") {
    runtime_->coverage.Hit("edge.token_of_closed_epoch");
    return TryReserve(request);
  }
  if (ReasonOf(journalled) == "HOLD_DISOWNED") {
    runtime_->coverage.Hit("edge.token_of_disowned_hold");
    return TryReserve(request);
  }
  SubmitVoid(request->intent);
  Finish(request, Answer{Answer::Kind::kUnavailable, ReasonOf(journalled), {}});
}

void Edge::Forward(const std::shared_ptr<Request>& request) {
  const Demand& demand = request->demand;
  const std::string hold_id = request->intent.hold_id();
  active_[hold_id] = request;
  request->refresh_at = runtime_->now() + options_.time_to_live / 4;
  world_.observer->Forwarded(request->intent, demand, index_);
  const int64_t there = world_.network->Delay();
  const bool billed = demand.behaviour == Behaviour::kAnswer ||
                      demand.behaviour == Behaviour::kNoAnswer ||
                      demand.behaviour == Behaviour::kBroken ||
                      demand.behaviour == Behaviour::kBrokenFinal ||
                      demand.behaviour == Behaviour::kAboveHold;
  if (billed) {
    const int64_t at = runtime_->random.Chance(500) ? there : there + demand.duration;
    world_.observer->WillBill(hold_id, demand.bill_nanos, at);
  }
  using ledger::v1::EntryKind;
  const auto end = [&](int64_t delay, EntryKind kind, int64_t cost, const char* status) {
    runtime_->After(delay, actor_, [this, request, kind, cost, status] {
      Conclude(request, kind, cost, status);
    });
  };
  const int64_t back = there + demand.duration + world_.network->Delay();
  switch (demand.behaviour) {
    case Behaviour::kAnswer:
    case Behaviour::kAboveHold:
    case Behaviour::kBrokenFinal:
      end(back, ledger::v1::ENTRY_KIND_SETTLE, demand.bill_nanos, "ok");
      break;
    case Behaviour::kRefuse:
      end(back, ledger::v1::ENTRY_KIND_VOID, 0, "provider_error");
      break;
    case Behaviour::kNotSent:
      end(0, ledger::v1::ENTRY_KIND_VOID, 0, "not_sent");
      break;
    case Behaviour::kNoAnswer:
    case Behaviour::kNeverArrived:
      end(options_.first_byte_time, ledger::v1::ENTRY_KIND_SUSPEND, 0, "unknown");
      break;
    case Behaviour::kBroken:
      end(back, ledger::v1::ENTRY_KIND_SUSPEND, 0, "unknown");
      break;
  }
}

void Edge::Conclude(const std::shared_ptr<Request>& request, ledger::v1::EntryKind kind, int64_t cost,
                    const char* status) {
  if (kind == ledger::v1::ENTRY_KIND_SUSPEND && world_.mutant == Mutant::kVoidOnTimeout) {
    kind = ledger::v1::ENTRY_KIND_VOID;
  }
  active_.erase(request->intent.hold_id());
  Entry result;
  result.set_hold_id(request->intent.hold_id());
  result.set_kind(kind);
  result.set_status(status);
  result.mutable_ended_at()->set_seconds(absl::ToUnixSeconds(clock_->Wall()));
  if (kind == ledger::v1::ENTRY_KIND_SETTLE) {
    result.set_http_status(200);
    result.set_cost_nanousd(cost);
    result.set_usage_source(common::v1::USAGE_SOURCE_FINAL);
    auto* line = result.add_usage();
    line->set_model(request->demand.model);
    line->mutable_usage()->set_output_tokens(cost / 1'000'000 + 1);
  }
  runtime_->coverage.Hit(kind == ledger::v1::ENTRY_KIND_SETTLE ? "hold.settled"
                         : kind == ledger::v1::ENTRY_KIND_VOID ? "hold.voided"
                                                               : "hold.suspended");
  runtime_->Trace(actor_->name, absl::StrCat(status, " ", Hex(result.hold_id()), " ", cost));
  if (world_.mutant == Mutant::kResultAfterSettle && kind == ledger::v1::ENTRY_KIND_SETTLE) {
    Operation operation;
    operation.mutable_settle()->set_hold_id(result.hold_id());
    operation.mutable_settle()->set_org_id(request->intent.account_ids(0));
    operation.mutable_settle()->set_epoch(request->intent.epoch());
    operation.mutable_settle()->set_actual_nanousd(cost);
    Enqueue(std::move(operation), nullptr);
    runtime_->After(kSecond, actor_, [this, request, result] { Write(request, result); });
    return;
  }
  Write(request, result);
}

void Edge::Write(const std::shared_ptr<Request>& request, const Entry& result) {
  auto written = journal_->AppendResult(result);
  if (!written.ok() && world_.mutant == Mutant::kIntentAfterForward) {
    runtime_->After(300 * kMilli, actor_, [this, request, result] { Write(request, result); });
    return;
  }
  if (!written.ok()) {
    return world_.observer->Violation(
        absl::StrCat("the journal refused a result: ", written.status().message()));
  }
  world_.observer->Written(result.hold_id());
  Submit(std::move(written->entry));
  Finish(request, Answer{Answer::Kind::kServed, "", {}});
}

void Edge::Finish(const std::shared_ptr<Request>& request, Answer answer) {
  if (std::exchange(request->done, true)) return;
  --open_requests_;
  world_.observer->Answered(request->demand, answer);
}

void Edge::SubmitVoid(Entry entry) {
  entry.set_kind(ledger::v1::ENTRY_KIND_VOID);
  entry.set_status("not_sent");
  Submit(std::make_shared<const Entry>(std::move(entry)));
}

void Edge::Submit(std::shared_ptr<const Entry> entry) {
  settlements_->Submit(std::move(entry));
  PumpPost();
}

// --- the session with an enforcer ----------------------------------------------------------------
uint64_t Edge::Enqueue(Operation operation, std::function<void(OperationResult)> waiter) {
  const uint64_t sequence = next_sequence_++;
  operation.set_sequence(sequence);
  pending_[sequence] = {operation, std::move(waiter), runtime_->now()};
  if (session_ != nullptr) {
    std::vector<Operation> one;
    one.push_back(std::move(operation));
    SendOperations(std::move(one));
  }
  return sequence;
}

void Edge::ConnectSession() {
  runtime_->After(runtime_->random.Between(0, 50 * kMilli), actor_, [this] {
    if (session_ != nullptr) return;
    auto& enforcers = *world_.enforcers;
    const int64_t count = static_cast<int64_t>(enforcers.size());
    SimEnforcer* peer = nullptr;
    for (int64_t i = 0, first = runtime_->random.Below(count); i < count && peer == nullptr; ++i) {
      SimEnforcer* const candidate = enforcers[(first + i) % count].get();
      if (candidate->actor()->up && !candidate->draining() &&
          !world_.network->IsCut(actor_, candidate->actor())) {
        peer = candidate;
      }
    }
    if (peer == nullptr) {
      runtime_->After(200 * kMilli, actor_, [this] { ConnectSession(); });
      return;
    }
    session_ = world_.network->Connect(actor_, peer->actor());
    session_->OnClientBroken([this] {
      session_ = nullptr;
      ConnectSession();
    });
    std::vector<Operation> all;
    for (auto& [sequence, pending] : pending_) {
      pending.since = runtime_->now();
      all.push_back(pending.operation);
    }
    if (!all.empty()) {
      runtime_->coverage.Hit("session.repeated");
      SendOperations(std::move(all));
    }
  });
}

void Edge::SendOperations(std::vector<Operation> operations) {
  auto arrival = std::make_shared<enforcer::Arrival>();
  arrival->edge.set_edge_id(edge_id_);
  arrival->edge.set_boot_id(boot_id_);
  for (Operation& operation : operations) *arrival->operations.Add() = std::move(operation);
  SimEnforcer* peer = nullptr;
  for (const auto& enforcer : *world_.enforcers) {
    if (enforcer->actor() == session_->server()) peer = enforcer.get();
  }
  session_->ToServer([peer, arrival, sink = std::make_shared<Sink>(session_, this)] {
    peer->enforcer()->Execute(arrival, sink);
  });
}

void Edge::Results(std::vector<OperationResult> results) {
  for (OperationResult& result : results) {
    auto it = pending_.find(result.sequence());
    if (it == pending_.end()) continue;
    Pending pending = std::move(it->second);
    pending_.erase(it);
    const bool unused = !pending.waiter && result.has_admitted();
    const bool unheard = result.failed().maybe_held_epoch() > 0 && !pending.twisted;
    if (unused) runtime_->coverage.Hit("hold.orphaned");
    if (unheard) runtime_->coverage.Hit("hold.unheard_of");
    if (unused || (unheard && world_.mutant != Mutant::kUnheardForgotten)) {
      VoidOrphan(pending.operation.reserve(), result);
    }
    if (pending.waiter) pending.waiter(std::move(result));
  }
}

void Edge::VoidOrphan(const enforcer::v1::Reserve& asked, const OperationResult& result) {
  Entry entry;
  entry.set_hold_id(asked.hold_id());
  *entry.mutable_account_ids() = asked.account_ids();
  entry.set_epoch(result.has_admitted() ? result.admitted().epoch() : result.failed().maybe_held_epoch());
  entry.set_edge_id(edge_id_);
  entry.set_boot_id(boot_id_);
  *entry.mutable_budgets() = result.admitted().budgets();
  entry.set_provider(asked.provider());
  entry.set_model(asked.model());
  entry.set_hold_nanousd(asked.strict_nanousd());
  entry.set_attempt(1);
  entry.mutable_started_at()->set_seconds(absl::ToUnixSeconds(clock_->Wall()));
  SubmitVoid(std::move(entry));
}

// --- posting -------------------------------------------------------------------------------------
void Edge::ConnectPost() {
  const int server = world_.ledger->Pick(actor_);
  Actor* const peer = world_.ledger->actor(server);
  if (!peer->up || world_.network->IsCut(actor_, peer)) {
    runtime_->After(200 * kMilli, actor_, [this] { ConnectPost(); });
    return;
  }
  post_ = world_.network->Connect(actor_, peer);
  post_->OnClientBroken([this] {
    post_ = nullptr;
    runtime_->After(runtime_->random.Between(20 * kMilli, 500 * kMilli), actor_, [this] { ConnectPost(); });
  });
  settlements_->Requeue();
  PumpPost();
}

void Edge::PumpPost() {
  if (post_ == nullptr) return;
  ledger::v1::PostRequest request;
  if (!settlements_->Fill(&request)) return;
  int server = 0;
  while (world_.ledger->actor(server) != post_->server()) ++server;
  post_->ToServer([this, ledger = world_.ledger, server, stream = post_, request = std::move(request)] {
    using Results = std::vector<ledger::v1::PostResult>;
    auto results = ledger->Transact<Results>(server, [&] { return ledger->Post(server, request); });
    if (!results.ok()) {
      stream->Break();
      return;
    }
    ledger::v1::PostResponse response;
    for (auto& result : *results) *response.add_results() = std::move(result);
    stream->ToClient([this, response = std::move(response)] {
      settlements_->Received(response);
      PumpPost();
    });
  });
  // No answer for long: another ledger.
  runtime_->After(6 * kSecond, actor_, [this, stream = post_, before = settlements_->backlog()] {
    if (post_ != stream || settlements_->backlog() == 0) return;
    stream->Close();
    post_ = nullptr;
    ConnectPost();
  });
}

// --- epochs --------------------------------------------------------------------------------------
void Edge::ConnectWatch() {
  watch_ = world_.ledger->Watch(
      actor_,
      [this](const ledger::v1::WatchResponse& change) {
        ++generation_;
        if (change.snapshot() || change.changed_account_ids_size() > 0) principals_.clear();
        std::vector<ledger::v1::Epoch> epochs(change.epochs().begin(), change.epochs().end());
        if (change.snapshot()) synced_ = true;
        if (world_.mutant == Mutant::kClosedEpochToken && !change.snapshot()) {
          for (const auto& epoch : epochs) {
            if (epoch.epoch() <= 1) continue;
            ledger::v1::AnnounceHoldsRequest report;
            report.set_org_id(epoch.org_id());
            report.set_epoch(epoch.epoch() - 1);
            report.set_edge_id(edge_id_);
            for (const auto& [id, request] : active_) {
              if (request->intent.epoch() < epoch.epoch()) *report.add_unsettled() = request->intent;
            }
            world_.ledger->Call<bool>(
                actor_,
                [report](ledger::Store& store) -> absl::StatusOr<bool> {
                  return store.AnnounceHolds(report).ok();
                },
                [](const absl::StatusOr<bool>&) {});
          }
          return;
        }
        if (change.snapshot() || !epochs.empty()) announcements_->OnEpochs(change.snapshot(), epochs);
        Announce();
      },
      [this] {
        watch_ = nullptr;
        runtime_->After(runtime_->random.Between(20 * kMilli, 500 * kMilli), actor_,
                        [this] { ConnectWatch(); });
      });
}

// As Announcer's thread does it.
void Edge::Announce() {
  if (announcing_) return;
  const bool look = serving_ && runtime_->now() >= look_at_;
  if (!announcements_->Waiting() && !look) {
    if (synced_ && !std::exchange(serving_, true)) runtime_->Trace(actor_->name, "serves");
    return;
  }
  announcing_ = true;
  auto work = std::make_shared<edge::Announcements::Work>(announcements_->Take());
  auto closed = std::make_shared<std::vector<ledger::v1::Epoch>>(work->closed);
  if (work->look == 0 && !look) return AnnounceNext(work, closed, 0);
  world_.ledger->Call<ledger::v1::ListPendingAnnouncementsResponse>(
      actor_,
      [edge_id = announcements_->Look().edge_id()](ledger::Store& store) {
        return store.ListPendingAnnouncements(edge_id);
      },
      [this, work, closed](absl::StatusOr<ledger::v1::ListPendingAnnouncementsResponse> answer) {
        if (!answer.ok()) {
          announcing_ = false;
          runtime_->After(500 * kMilli, actor_, [this] { Announce(); });
          return;
        }
        look_at_ = runtime_->now() + options_.expired_interval;
        closed->insert(closed->end(), answer->epochs().begin(), answer->epochs().end());
        if (world_.mutant == Mutant::kVoidsWithoutJournal) {
          for (const Entry& hold : answer->expired()) SubmitVoid(hold);
        } else if (world_.mutant != Mutant::kUnheardForgotten) {
          for (Entry& entry : announcements_->NeverForwarded(answer->expired())) {
            runtime_->coverage.Hit("hold.never_forwarded");
            runtime_->Trace(actor_->name, absl::StrCat("never forwarded ", Hex(entry.hold_id())));
            Submit(std::make_shared<const Entry>(std::move(entry)));
          }
        }
        AnnounceNext(work, closed, 0);
      });
}

void Edge::AnnounceNext(std::shared_ptr<edge::Announcements::Work> work,
                        std::shared_ptr<std::vector<ledger::v1::Epoch>> closed, size_t next) {
  if (next == closed->size()) {
    announcements_->Done(*work);
    announcing_ = false;
    Announce();
    return;
  }
  ledger::v1::AnnounceHoldsRequest report = announcements_->Report((*closed)[next]);
  if (report.unsettled_size() > 0) runtime_->coverage.Hit("announce.with_holds");
  if (world_.mutant == Mutant::kUnreportedHolds) report.clear_unsettled();
  if (world_.mutant == Mutant::kAnnouncesFullHolds) {
    for (Entry& hold : *report.mutable_unsettled()) {
      for (auto& held : *hold.mutable_budgets()) {
        if (!held.observe() && held.amount_nanousd() > 0) held.set_amount_nanousd(hold.hold_nanousd());
      }
    }
  }
  runtime_->Trace(actor_->name, absl::StrCat("announces epoch ", report.epoch(), ", ",
                                             report.unsettled_size(), " unsettled"));
  world_.ledger->Call<bool>(
      actor_,
      [report](ledger::Store& store) -> absl::StatusOr<bool> {
        TH_RETURN_IF_ERROR(store.AnnounceHolds(report));
        return true;
      },
      [this, work, closed, next](absl::StatusOr<bool> answer) {
        if (answer.ok()) {
          runtime_->coverage.Hit("announce.done");
          return AnnounceNext(work, closed, next + 1);
        }
        announcing_ = false;
        runtime_->After(500 * kMilli, actor_, [this] { Announce(); });
      });
}

// --- an enforcer ---------------------------------------------------------------------------------
SimEnforcer::SimEnforcer(Runtime* runtime, Network* network, SimRedis* redis, SimLedger* ledger,
                         int index, enforcer::EnforcerOptions options, int64_t tick, Mutant mutant)
    : runtime_(runtime),
      network_(network),
      redis_(redis),
      ledger_(ledger),
      index_(index),
      options_(options),
      mutant_(mutant),
      tick_(tick),
      actor_(runtime->NewActor(absl::StrCat("enforcer-", index))),
      clock_(std::make_unique<ActorClock>(runtime, actor_)) {}

SimEnforcer::~SimEnforcer() = default;

void SimEnforcer::Boot() {
  actor_->up = true;
  draining_ = false;
  ++boots_;
  runtime_->Trace(actor_->name, "boots");
  redis_client_ = std::make_unique<RedisClient>(runtime_, network_, redis_, actor_, index_);
  ledger_client_ = std::make_unique<SimLedgerClient>(runtime_, ledger_, actor_, mutant_);
  enforcer::EnforcerOptions options = options_;
  options.instance = absl::StrCat(actor_->name, "/", boots_);
  enforcer_ = std::make_unique<enforcer::Enforcer>(options, redis_client_.get(), ledger_client_.get(),
                                                   clock_.get());
  ConnectWatch();
  Tick();
}

void SimEnforcer::Kill() {
  runtime_->Trace(actor_->name, "killed");
  runtime_->Die(actor_);
  network_->Died(actor_);
  watch_ = nullptr;
  changes_.clear();
  applying_ = false;
  ledger_client_->Clear();
  redis_client_->Clear();
  enforcer_.reset();
  ledger_client_.reset();
  redis_client_.reset();
}

void SimEnforcer::Shutdown() {
  if (draining_) return;
  draining_ = true;
  runtime_->Trace(actor_->name, "drains");
  enforcer_->Drain(absl::ZeroDuration());
  runtime_->After(kSecond, actor_, [this] { Kill(); });
}

void SimEnforcer::ConnectWatch() {
  watch_ = ledger_->Watch(
      actor_,
      [this](const ledger::v1::WatchResponse& change) {
        changes_.push_back(change);
        ApplyChanges();
      },
      [this] {
        watch_ = nullptr;
        changes_.clear();
        runtime_->After(runtime_->random.Between(20 * kMilli, 500 * kMilli), actor_,
                        [this] { ConnectWatch(); });
      });
}

// One at a time.
void SimEnforcer::ApplyChanges() {
  if (applying_ || changes_.empty()) return;
  applying_ = true;
  const ledger::v1::WatchResponse change = std::move(changes_.front());
  changes_.pop_front();
  enforcer_->ApplyRules(change, [this] {
    runtime_->After(0, actor_, [this] {
      applying_ = false;
      ApplyChanges();
    });
  });
}

void SimEnforcer::Tick() {
  enforcer_->Tick();
  runtime_->After(tick_ + runtime_->random.Between(0, tick_ / 4), actor_, [this] { Tick(); });
}

}  // namespace tollhouse::simulator
