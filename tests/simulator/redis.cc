#include "tests/simulator/redis.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "libs/base/error.h"
#include "services/budget-enforcer/store/org_steps.h"

namespace tollhouse::simulator {

using enforcer::BudgetAmount;
using enforcer::HoldState;
using enforcer::Outcome;
using enforcer::StoreBatch;
using enforcer::StoreEffect;
using enforcer::StoreEvent;
using enforcer::StoreQuery;
using enforcer::StoreView;

namespace {

constexpr int64_t kPatience = 2 * kSecond;

// A batch that owns what its events point to: it may run long after its sender is gone.
struct OwnedBatch {
  StoreBatch batch;
  std::deque<std::string> strings;
  std::deque<std::vector<BudgetAmount>> budgets;
  std::deque<std::vector<enforcer::LimitAsk>> limits;
  std::deque<std::vector<int64_t>> ids;

  explicit OwnedBatch(const StoreBatch& from) {
    batch.org_id = from.org_id;
    batch.incarnation = from.incarnation;
    batch.events = from.events;
    for (StoreEvent& event : batch.events) {
      if (auto* reserve = std::get_if<enforcer::Reserve>(&event)) {
        reserve->budgets = Own(reserve->budgets);
        reserve->limits = limits.emplace_back(reserve->limits.begin(), reserve->limits.end());
        reserve->account_ids =
            ids.emplace_back(reserve->account_ids.begin(), reserve->account_ids.end());
        reserve->edge_id = strings.emplace_back(reserve->edge_id);
        reserve->boot_id = strings.emplace_back(reserve->boot_id);
      } else if (auto* grant = std::get_if<enforcer::AddGrant>(&event)) {
        grant->amounts = Own(grant->amounts);
      } else if (auto* take = std::get_if<enforcer::TakeOut>(&event)) {
        take->keep = Own(take->keep);
      }
    }
  }
  OwnedBatch(const OwnedBatch&) = delete;

  absl::Span<const BudgetAmount> Own(absl::Span<const BudgetAmount> amounts) {
    auto& own = budgets.emplace_back(amounts.begin(), amounts.end());
    for (BudgetAmount& amount : own) amount.period = strings.emplace_back(amount.period);
    return own;
  }
};

// What a store without an epoch answers.
StoreEffect Closed(const StoreEvent& event) {
  enforcer::OrgState empty;
  return std::visit([&](const auto& e) -> StoreEffect { return StoreEffect(empty.Step(e)); }, event);
}

}  // namespace

SimRedis::SimRedis(Runtime* runtime, enforcer::CoreOptions options, Mutant mutant)
    : runtime_(runtime), options_(options), mutant_(mutant) {
  auto node = std::make_unique<RedisNode>();
  node->actor = runtime->NewActor("redis-0");
  node->run_id = NewId("run");
  node->replid = NewId("repl");
  node->leads = true;
  nodes_.push_back(std::move(node));
}

std::string SimRedis::NewId(std::string_view kind) {
  return absl::StrCat(absl::string_view(kind.data(), kind.size()), ++next_id_);
}

OrgData& SimRedis::DataOf(RedisNode& node, int64_t org_id) {
  return node.data.try_emplace(org_id, options_).first->second;
}

std::string SimRedis::IdentityOf(const RedisNode& node, const OrgData& data) const {
  if (mutant_ == Mutant::kTrustPromotedSnapshot) return data.life;
  if (mutant_ == Mutant::kFlushUndetected) return absl::StrCat(node.run_id, "/", node.replid);
  return absl::StrCat(node.run_id, "/", node.replid, "/", data.life);
}

std::string SimRedis::Identify(RedisNode& node, int64_t org_id) {
  OrgData& data = DataOf(node, org_id);
  if (data.life.empty()) data.life = NewId("life");
  return IdentityOf(node, data);
}

OrgData* SimRedis::Find(int64_t org_id, const std::string& identity) {
  for (const auto& node : nodes_) {
    auto it = node->data.find(org_id);
    if (it != node->data.end() && node->actor->up && IdentityOf(*node, it->second) == identity) {
      return &it->second;
    }
  }
  return nullptr;
}

void SimRedis::Flush() {
  runtime_->Trace(primary().actor->name, "FLUSHALL");
  primary().data.clear();
  replica_.clear();
  ++changes_;
}

void SimRedis::Failover(bool zombie) {
  RedisNode& old = primary();
  auto node = std::make_unique<RedisNode>();
  node->actor = runtime_->NewActor(absl::StrCat("redis-", nodes_.size()));
  node->run_id = NewId("run");
  node->replid = NewId("repl");
  node->leads = true;
  node->data = replica_;
  old.leads = zombie;
  nodes_.push_back(std::move(node));
  primary_ = nodes_.size() - 1;
  runtime_->Trace(primary().actor->name, zombie ? "leads; the old primary answers on" : "leads");
  ++changes_;
}

bool SimRedis::Failback() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    RedisNode& node = *nodes_[i];
    if (i == primary_ || !node.actor->up || node.actor->paused) continue;
    primary().leads = false;
    node.replid = NewId("repl");
    node.data = replica_;
    node.leads = true;
    primary_ = i;
    runtime_->Trace(node.actor->name, "follows, then leads again");
    ++changes_;
    return true;
  }
  return false;
}

void SimRedis::Restart() {
  RedisNode& node = primary();
  node.run_id = NewId("run");
  node.replid = NewId("repl");
  node.data = replica_;
  runtime_->Trace(node.actor->name, "restarts from its disk");
  ++changes_;
}

void SimRedis::KillZombies() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (i != primary_) nodes_[i]->leads = false;
  }
}

void SimRedis::Conjure(OrgData& data, int64_t budget_id, std::string_view period, int64_t nanos) {
  const BudgetAmount amount{budget_id, period, nanos};
  data.state.Step(enforcer::AddGrant{data.state.epoch(), data.state.last_grant_id() + 1, {&amount, 1}});
  ++data.ghosts;
}

StoreEffect SimRedis::Apply(RedisNode& node, OrgData& data, int enforcer, bool same, StoreEvent event) {
  enforcer::OrgState& state = data.state;
  if (!same && !std::holds_alternative<enforcer::InitEpoch>(event)) {
    const bool trusts = mutant_ == Mutant::kTrustPromotedSnapshot ||
                        mutant_ == Mutant::kSkipEpochCheck;
    if (!trusts) return Closed(event);
  }
  switch (mutant_) {
    case Mutant::kSkipEpochCheck:
      std::visit(
          [&](auto& e) {
            if constexpr (!std::is_same_v<std::decay_t<decltype(e)>, enforcer::InitEpoch>) {
              if (state.epoch() > 0) e.epoch = state.epoch();
            }
          },
          event);
      break;
    case Mutant::kReleaseOnExpiry:
      if (auto* tick = std::get_if<enforcer::Tick>(&event); tick != nullptr && tick->epoch == state.epoch()) {
        std::vector<enforcer::HoldRecord> holds = state.Holds();
        for (const auto& hold : holds) {
          if (hold.state == HoldState::kOpen && hold.deadline_ms <= tick->now_ms) {
            state.Step(enforcer::Void{tick->epoch, tick->now_ms, hold.hold_id});
          }
        }
      }
      break;
    case Mutant::kForgetSettled:
      if (auto* settle = std::get_if<enforcer::Settle>(&event)) {
        auto effect = state.Step(*settle);
        state.Step(enforcer::Acknowledge{settle->epoch, settle->now_ms, settle->hold_id,
                                         settle->actual_nanos});
        return effect;
      }
      break;
    case Mutant::kCreditTwice:
      if (auto* settle = std::get_if<enforcer::Settle>(&event);
          settle != nullptr && settle->epoch == state.epoch()) {
        auto hold = state.Hold(settle->hold_id);
        if (hold && hold->state == HoldState::kSettled) {
          for (const auto& b : hold->budgets) {
            const int64_t back = b.amount_nanos - settle->actual_nanos;
            if (!b.observe && back > 0) Conjure(data, b.budget_id, b.period, back);
          }
        }
      }
      break;
    case Mutant::kForgetFinished:
      if (auto* reserve = std::get_if<enforcer::Reserve>(&event);
          reserve != nullptr && reserve->epoch == state.epoch() && state.Finished(reserve->hold_id)) {
        data.remade.insert(reserve->hold_id);
      }
      std::visit(
          [&](auto& e) {
            if constexpr (requires { e.hold_id; }) {
              if (data.remade.contains(e.hold_id)) e.hold_id = Twin(e.hold_id);
            }
          },
          event);
      break;
    case Mutant::kParentUnchecked:
      if (auto* reserve = std::get_if<enforcer::Reserve>(&event)) {
        for (size_t i = 0; i + 1 < reserve->budgets.size(); ++i) {
          const_cast<BudgetAmount&>(reserve->budgets[i]).amount_nanos = 0;
        }
      }
      break;
    case Mutant::kSecondEnforcersGrantLost:
      if (auto* grant = std::get_if<enforcer::AddGrant>(&event); grant != nullptr && enforcer == 1) {
        for (const BudgetAmount& a : grant->amounts) {
          const_cast<BudgetAmount&>(a).amount_nanos = 0;
        }
      }
      break;
    default:
      break;
  }
  if (auto* grant = std::get_if<enforcer::AddGrant>(&event); grant != nullptr) {
    if (mutant_ == Mutant::kGrantAddedTwice && grant->epoch == state.epoch() &&
        grant->grant_id + data.ghosts <= state.last_grant_id()) {
      for (const BudgetAmount& a : grant->amounts) Conjure(data, a.budget_id, a.period, a.amount_nanos);
    }
    grant->grant_id += data.ghosts;
  }
  if (auto* init = std::get_if<enforcer::InitEpoch>(&event)) {
    if (mutant_ == Mutant::kInitKeepsState && init->epoch > state.epoch()) {
      const auto leases = state.Leases();
      const Outcome outcome = state.Step(*init);
      data.ghosts = 0;
      data.replid = node.replid;
      for (const auto& lease : leases) {
        if (lease.free_nanos > 0) Conjure(data, lease.budget_id, lease.period, lease.free_nanos);
      }
      return outcome;
    }
    if (init->epoch > state.epoch()) data.ghosts = 0;
    const Outcome outcome = state.Step(*init);
    if (outcome == Outcome::kDone) data.replid = node.replid;
    return outcome;
  }
  StoreEffect effect =
      std::visit([&](const auto& e) -> StoreEffect { return StoreEffect(state.Step(e)); }, event);
  if (auto* take = std::get_if<enforcer::TakeOut>(&event);
      take != nullptr && mutant_ == Mutant::kReturnStaysFree) {
    const auto& out = std::get<enforcer::TakeOutEffect>(effect);
    for (const auto& record : state.Returns()) {
      if (out.return_id == 0 || record.return_id != out.return_id) continue;
      for (const auto& lease : record.amounts) {
        Conjure(data, lease.budget_id, lease.period, lease.free_nanos);
      }
    }
  }
  return effect;
}

absl::Status SimRedis::Execute(RedisNode& node, int enforcer, const StoreBatch& batch,
                               std::vector<StoreEffect>* effects) {
  if (!node.leads) {
    return MakeError(absl::StatusCode::kUnavailable, "REDIS_ERROR", "READONLY");
  }
  OrgData& data = DataOf(node, batch.org_id);
  if (!batch.incarnation.empty() && batch.incarnation != IdentityOf(node, data)) {
    runtime_->coverage.Hit("redis.incarnation_changed_before_init");
    return MakeError(absl::StatusCode::kFailedPrecondition, "INCARNATION_CHANGED",
                     "the hold store is another one than the epoch was registered for");
  }
  const bool flush_unseen = mutant_ == Mutant::kFlushUndetected && data.replid.empty();
  const bool same = data.replid == node.replid || flush_unseen;
  ++changes_;
  for (const StoreEvent& event : batch.events) {
    effects->push_back(Apply(node, data, enforcer, same, event));
    if (std::holds_alternative<enforcer::Reserve>(event)) {
      const auto& effect = std::get<enforcer::ReserveEffect>(effects->back());
      runtime_->Note(static_cast<uint64_t>(effect.outcome));
      if (effect.replayed) runtime_->coverage.Hit("hold.replayed");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreView> SimRedis::Read(RedisNode& node, int64_t org_id, const StoreQuery& query) {
  if (!node.leads) return MakeError(absl::StatusCode::kUnavailable, "REDIS_ERROR", "READONLY");
  StoreView view;
  auto it = node.data.find(org_id);
  if (it == node.data.end()) return view;
  const enforcer::OrgState& state = it->second.state;
  if (it->second.replid != node.replid && mutant_ != Mutant::kTrustPromotedSnapshot) return view;
  view = enforcer::ViewOf(state, query);
  for (enforcer::HoldRecord& hold : view.holds) hold.hold_id = KnownAs(it->second, hold.hold_id);
  std::sort(view.leases.begin(), view.leases.end(), [](const auto& a, const auto& b) {
    return std::tie(a.budget_id, a.period) < std::tie(b.budget_id, b.period);
  });
  const auto by_id = [](const auto& a, const auto& b) { return a.hold_id < b.hold_id; };
  std::sort(view.holds.begin(), view.holds.end(), by_id);
  return view;
}

// --- the client ----------------------------------------------------------------------------------
RedisClient::RedisClient(Runtime* runtime, Network* network, SimRedis* redis, Actor* actor, int index)
    : runtime_(runtime), network_(network), redis_(redis), actor_(actor), index_(index) {
  Connect();
}

void RedisClient::Connect() {
  if (std::exchange(connecting_, true)) return;
  runtime_->After(network_->Delay(), actor_, [this] {
    connecting_ = false;
    RedisNode* found = &redis_->primary();
    if (stale_) {
      for (const auto& node : redis_->nodes()) {
        if (node->leads && node.get() != found) {
          found = node.get();
          runtime_->coverage.Hit("redis.stale_discovery");
          break;
        }
      }
    }
    if (!found->actor->up || network_->IsCut(actor_, found->actor)) {
      runtime_->After(100 * kMilli, actor_, [this] { Connect(); });
      return;
    }
    node_ = found;
    stream_ = network_->Connect(actor_, found->actor);
    stream_->OnClientBroken([this] { Broken(); });
    if (changed_) changed_();
  });
}

void RedisClient::Reconnect() {
  if (stream_ == nullptr) return;
  stream_->Close();
  Broken();
}

void RedisClient::Clear() {
  stream_ = nullptr;
  waiting_.clear();
  changed_ = nullptr;
}

void RedisClient::Broken() {
  stream_ = nullptr;
  node_ = nullptr;
  Connect();
  for (auto& [call, done] : std::exchange(waiting_, {})) {
    done(MakeError(absl::StatusCode::kUnavailable, "REDIS_BROKEN", "the connection broke"));
  }
}

void RedisClient::Send(std::function<Result(RedisNode&)> execute, Waiter waiter) {
  const int64_t call = next_call_++;
  waiting_.emplace(call, std::move(waiter));
  const auto finish = [this, call](absl::StatusOr<Result> result) {
    auto it = waiting_.find(call);
    if (it == waiting_.end()) return;
    const Waiter done = std::move(it->second);
    waiting_.erase(it);
    done(std::move(result));
  };
  const auto fail = [finish](std::string_view reason) {
    finish(MakeError(absl::StatusCode::kUnavailable, reason, "the hold store did not answer"));
  };
  if (stream_ == nullptr) {
    runtime_->After(network_->Delay(), actor_, [fail] { fail("REDIS_UNAVAILABLE"); });
    return;
  }
  runtime_->After(kPatience, actor_, [this, fail, call] {
    if (waiting_.contains(call)) runtime_->coverage.Hit("redis.timeout");
    fail("REDIS_TIMEOUT");
  });
  stream_->ToServer([runtime = runtime_, node = node_, stream = stream_, execute = std::move(execute), finish] {
    // At the node, in its time. The client may be gone: `finish` is for its own life only.
    auto answer = [finish, result = execute(*node)] { finish(result); };
    if (node->apply_slowly && runtime->random.Chance(300)) {
      runtime->coverage.Hit("redis.applied_after_timeout");
      runtime->After(kPatience + runtime->random.Between(0, kSecond), node->actor,
                     [stream, answer = std::move(answer)] { stream->ToClient(answer); });
    } else {
      stream->ToClient(std::move(answer));
    }
  });
}

void RedisClient::Run(StoreBatch* batch, std::function<void()> done) {
  auto owned = std::make_shared<const OwnedBatch>(*batch);
  using Effects = std::pair<absl::Status, std::vector<StoreEffect>>;
  Send(
      [runtime = runtime_, redis = redis_, index = index_, owned](RedisNode& node) -> Result {
        Effects result;
        result.first = redis->Execute(node, index, owned->batch, &result.second);
        if (node.repeats && runtime->random.Chance(500)) {
          ++redis->repeats_;
          runtime->After(runtime->random.Between(100 * kMilli, 8 * kSecond), nullptr,
                         [runtime, redis, index, owned, &node] {
                           --redis->repeats_;
                           runtime->coverage.Hit("redis.repeated_later");
                           std::vector<StoreEffect> nobody_hears;
                           (void)redis->Execute(node, index, owned->batch, &nobody_hears);
                         });
        }
        return result;
      },
      [batch, done = std::move(done)](absl::StatusOr<Result> result) {
        batch->effects.clear();
        batch->status = result.status();
        if (result.ok()) {
          auto& [status, effects] = std::any_cast<Effects&>(*result);
          batch->status = status;
          batch->effects = std::move(effects);
        }
        done();
      });
}

void RedisClient::Read(int64_t org_id, const StoreQuery& query,
                       std::function<void(absl::StatusOr<StoreView>)> done) {
  Send([redis = redis_, org_id, query](RedisNode& node) -> Result { return redis->Read(node, org_id, query); },
       [done = std::move(done)](absl::StatusOr<Result> result) {
         if (!result.ok()) return done(result.status());
         done(std::any_cast<absl::StatusOr<StoreView>>(*std::move(result)));
       });
}

void RedisClient::Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) {
  using Identity = absl::StatusOr<std::string>;
  Send(
      [redis = redis_, org_id](RedisNode& node) -> Result {
        if (!node.leads) {
          return Identity(MakeError(absl::StatusCode::kUnavailable, "REDIS_ERROR", "not a primary"));
        }
        return Identity(redis->Identify(node, org_id));
      },
      [done = std::move(done)](absl::StatusOr<Result> result) {
        if (!result.ok()) return done(result.status());
        done(std::any_cast<Identity>(*std::move(result)));
      });
}

}  // namespace tollhouse::simulator
