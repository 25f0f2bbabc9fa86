#include "services/budget-enforcer/store/store_history_testing.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/budget-enforcer/core/core_testing.h"

namespace tollhouse::enforcer {
namespace {

using What = StoreQuery::What;

const char* const kPeriods[] = {"2026-11@Europe/Berlin", "2026-11-21@UTC", "total"};
constexpr int64_t kNearExact = (int64_t{1} << 53) - 1;

std::string Text(std::string_view text) { return std::string(text); }

// What a batch's events point to.
struct Storage {
  std::deque<std::vector<BudgetAmount>> amounts;
  std::deque<std::vector<LimitAsk>> limits;
  std::deque<std::vector<int64_t>> accounts;
};

class History {
 public:
  History(HoldStore& store, int64_t org_id, uint64_t seed, const HistoryOptions& options)
      : store_(store), org_id_(org_id), random_(seed), options_(options), state_(options.core) {}

  std::optional<std::string> Run() {
    if (auto difference = Open()) return difference;
    for (step_ = 0; step_ < options_.steps; ++step_) {
      if (auto difference = Step()) {
        return absl::StrCat("step ", step_, " of org ", org_id_, ": ", *difference);
      }
    }
    return std::nullopt;
  }

 private:
  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  // A new epoch, as an enforcer opens one.
  std::optional<std::string> Open() {
    auto identity = IdentifyAndWait(store_, org_id_);
    if (!identity.ok()) return Text(identity.status().ToString());
    identity_ = *identity;
    StoreBatch batch;
    batch.org_id = org_id_;
    batch.incarnation = identity_;
    batch.events = {InitEpoch{++epoch_}};
    grants_ = returns_ = 0;
    return Compare(batch);
  }

  int64_t Amount() {
    switch (Below(30)) {
      case 0:
        return kMaxHoldNanos;
      case 1:
        return kMaxHoldNanos + 1;
      case 2:
        return 0;
      case 3:
        return -1;
      case 4:
        return kMaxHoldNanos - Below(3);
      default:
        return Below(40);
    }
  }

  int64_t GrantAmount() {
    switch (Below(10)) {
      case 0:
        return kNearExact - Below(3);
      case 1:
        return kNearExact - kMaxHoldNanos * Below(3);
      case 2:
        return kMaxHoldNanos * (1 + Below(5));
      case 3:
        return -Below(2);
      case 4:
        return kNearExact + Below(2);
      default:
        return Below(200);
    }
  }

  std::vector<BudgetAmount> Amounts(int64_t most, bool grant) {
    std::vector<BudgetAmount> amounts;
    const int64_t same = Amount();
    for (int64_t n = Below(most + 1); n > 0; --n) {
      BudgetAmount amount{1 + Below(4), kPeriods[OneIn(2) ? 0 : Below(3)]};
      amount.amount_nanos = grant ? GrantAmount() : OneIn(6) ? Amount() : same;
      if (!grant && OneIn(8)) {
        amount.observe = true;
        amount.amount_nanos = 0;
      }
      const bool twice = std::any_of(amounts.begin(), amounts.end(), [&](const BudgetAmount& a) {
        return a.budget_id == amount.budget_id && a.period == amount.period;
      });
      if (!twice || OneIn(40)) amounts.push_back(amount);
    }
    return amounts;
  }

  int64_t Limit(int64_t most) {
    if (OneIn(40)) return OneIn(2) ? most - Below(2) : OneIn(2) ? most + 1 : -1;
    return OneIn(4) ? 0 : 1 + Below(OneIn(2) ? 14 : 40);
  }

  std::vector<LimitAsk> Limits() {
    std::vector<LimitAsk> limits;
    if (OneIn(3)) return limits;
    for (int64_t n = 1 + Below(2); n > 0; --n) {
      limits.push_back({1 + Below(2), Limit(kMaxRate), Limit(kMaxRate), Limit(int64_t{1} << 60)});
    }
    return limits;
  }

  Uuid NewId() {
    int64_t made = now_;
    if (OneIn(12)) made -= Below(2 * options_.core.retry_horizon_ms);
    if (OneIn(20)) made += Below(2 * options_.core.retry_horizon_ms);
    const Uuid id = TestHoldId(random_(), made);
    ids_.push_back(id);
    if (ids_.size() > 60) ids_.pop_front();
    return id;
  }
  Uuid SomeId() {
    if (ids_.empty() || OneIn(15)) return NewId();
    // Mostly one of the last few, so that much happens to the same hold.
    const int64_t back = Below(OneIn(3) ? ids_.size() : std::min<int64_t>(ids_.size(), 4));
    return ids_[ids_.size() - 1 - back];
  }

  int64_t TimeToLive() {
    if (OneIn(40)) return -Below(2);
    // Every deadline once: which of two at one time a Tick takes first is nobody's business.
    int64_t ttl = 1 + (OneIn(3) ? Below(2000) : Below(100'000));
    const int64_t from = std::max(now_, newest_);
    while (!deadlines_.insert(from + ttl).second) ++ttl;
    return ttl;
  }

  StoreEvent Event(Storage& storage) {
    const int64_t epoch = OneIn(25) ? Below(epoch_ + 3) : epoch_;
    if (OneIn(8)) now_ += OneIn(20) ? Below(2 * options_.core.retry_horizon_ms) : Below(3000);
    const int64_t now = OneIn(8) ? now_ - Below(OneIn(2) ? 1000 : 100'000) : now_;
    newest_ = std::max(newest_, now);
    switch (Below(22)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
      case 6: {
        Reserve reserve;
        reserve.epoch = epoch;
        reserve.now_ms = now;
        reserve.hold_id = OneIn(4) ? SomeId() : NewId();
        reserve.fingerprint[31] = static_cast<uint8_t>(OneIn(15) ? 9 : 7);
        reserve.budgets = storage.amounts.emplace_back(Amounts(5, false));
        reserve.limits = storage.limits.emplace_back(Limits());
        reserve.tokens = OneIn(25) ? kMaxRate + 1 - Below(3) : OneIn(60) ? -1 : Below(30);
        reserve.first_attempt = !OneIn(5);
        reserve.time_to_live_ms = TimeToLive();
        reserve.account_ids = storage.accounts.emplace_back(std::vector<int64_t>{1, int64_t{1} << 62, -5});
        reserve.edge_id = OneIn(2) ? "edge-0" : "an-edge-with-a-name-that-is-longer-than-32-bytes";
        reserve.boot_id = OneIn(2) ? "boot" : "";
        return reserve;
      }
      case 7:
      case 8:
      case 9: {
        Settle settle{epoch, now, SomeId(), std::max<int64_t>(-1, Amount())};
        if (OneIn(20)) settle.actual_nanos = kMaxActualNanos + Below(3) - 1;
        settle.actual_tokens = OneIn(25) ? kMaxRate + Below(2) : OneIn(60) ? -1 : Below(60);
        return settle;
      }
      case 10:
      case 11:
        return Void{epoch, now, SomeId()};
      case 12:
      case 13:
        return Acknowledge{epoch, now, SomeId(), OneIn(20) ? kNearExact + Below(9) : Amount()};
      case 14:
        return Refresh{epoch, now, SomeId()};
      case 15:
        return Expire{epoch, SomeId()};
      case 16:
        return ExpiredPosted{epoch, SomeId()};
      case 17:
        return Tick{epoch, now, OneIn(4) ? Below(4) : 1000};
      case 18:
      case 19: {
        const int64_t id = OneIn(6) ? grants_ + Below(4) - 1 : ++grants_;
        return AddGrant{epoch, id, storage.amounts.emplace_back(Amounts(4, true))};
      }
      case 20: {
        auto& keep = storage.amounts.emplace_back(Amounts(4, true));
        for (BudgetAmount& item : keep) {
          if (OneIn(2)) item.amount_nanos = Below(50);
        }
        return TakeOut{epoch, keep};
      }
      default:
        return ReturnPosted{epoch, OneIn(2) ? Below(returns_ + 2) : returns_};
    }
  }

  std::optional<std::string> Step() {
    if (options_.flush && OneIn(150)) {
      options_.flush();
      state_ = OrgState(options_.core);
      if (auto difference = CompareViews()) return absl::StrCat("after FLUSHALL: ", *difference);
    }
    if (state_.epoch() == 0 ? OneIn(3) : OneIn(120)) return Open();
    Storage storage;
    StoreBatch batch;
    batch.org_id = org_id_;
    for (int64_t n = 1 + Below(OneIn(3) ? 20 : 4); n > 0; --n) batch.events.push_back(Event(storage));
    if (OneIn(60)) {
      // In the middle of a batch, upwards, downwards or again; or under an identity that is over.
      auto identity = IdentifyAndWait(store_, org_id_);
      if (!identity.ok()) return Text(identity.status().ToString());
      batch.incarnation = *identity;
      const int64_t to = OneIn(2) ? ++epoch_ : Below(epoch_ + 1);
      if (to == epoch_) grants_ = returns_ = 0;
      batch.events.insert(batch.events.begin() + Below(batch.events.size() + 1), InitEpoch{to});
      if (OneIn(3)) {
        batch.incarnation += "x";
        RunAndWait(store_, batch);
        if (batch.status.code() != absl::StatusCode::kFailedPrecondition) {
          return absl::StrCat("ran under a wrong identity: ", Text(batch.status.ToString()));
        }
        if (to == epoch_) return Open();
        return CompareViews();
      }
    }
    if (auto difference = Compare(batch)) return difference;
    // A lost answer: the same again.
    if (OneIn(5)) {
      if (auto difference = Compare(batch)) return absl::StrCat("the same batch again: ", *difference);
    }
    return std::nullopt;
  }

  std::optional<std::string> Compare(StoreBatch& batch) {
    RunAndWait(store_, batch);
    if (!batch.status.ok()) return Text(batch.status.ToString());
    if (batch.effects.size() != batch.events.size()) return "an effect for each event";
    for (size_t i = 0; i < batch.events.size(); ++i) {
      const StoreEffect expected =
          std::visit([&](const auto& e) { return StoreEffect(state_.Step(e)); }, batch.events[i]);
      const std::string want = Describe(expected), got = Describe(batch.effects[i]);
      if (want != got) {
        return absl::StrCat("event ", i, " of kind ", batch.events[i].index(), ": expected ", want,
                            ", the store says ", got);
      }
      if (const auto* tick = std::get_if<TickEffect>(&expected)) {
        if (std::get<TickEffect>(batch.effects[i]).more && !tick->more) return "nothing more is due";
      }
      if (const auto* taken = std::get_if<TakeOutEffect>(&expected); taken && taken->return_id > 0) {
        returns_ = taken->return_id;
      }
    }
    return CompareViews();
  }

  std::optional<std::string> CompareViews() {
    for (const What what : {What::kHolds, What::kExpired, What::kLeases, What::kReturns, What::kHold}) {
      StoreView want;
      want.epoch = state_.epoch();
      StoreQuery query{what};
      query.max = 100'000;
      switch (what) {
        case What::kHolds:
          want.holds = state_.Holds();
          break;
        case What::kExpired:
          want.holds = state_.ExpiredHolds(query.max);
          break;
        case What::kLeases:
          want.leases = state_.Leases();
          break;
        case What::kReturns:
          want.returns = state_.Returns();
          if (want.returns.size() > 256) want.returns.resize(256);
          break;
        case What::kHold:
          if (ids_.empty()) continue;
          query.hold_id = ids_[Below(ids_.size())];
          if (auto hold = state_.Hold(query.hold_id)) want.holds.push_back(*hold);
          break;
      }
      auto got = ReadAndWait(store_, org_id_, query);
      if (!got.ok()) return Text(got.status().ToString());
      const std::string expected = Describe(want), found = Describe(*std::move(got));
      if (expected != found) {
        return absl::StrCat("view ", static_cast<int>(what), "\nexpected ", expected, "\nfound    ", found);
      }
    }
    return std::nullopt;
  }

  HoldStore& store_;
  const int64_t org_id_;
  std::mt19937_64 random_;
  const HistoryOptions& options_;
  OrgState state_;
  int step_ = 0;
  std::string identity_;
  int64_t epoch_ = 0, grants_ = 0, returns_ = 0;
  int64_t now_ = kNoonMs, newest_ = 0;
  std::deque<Uuid> ids_;
  std::set<int64_t> deadlines_;
};

}  // namespace

std::optional<std::string> FirstDifference(HoldStore& store, int64_t org_id, uint64_t seed,
                                           const HistoryOptions& options) {
  return History(store, org_id, seed, options).Run();
}

void RunAndWait(HoldStore& store, StoreBatch& batch) {
  absl::Notification done;
  store.Run(&batch, [&done] { done.Notify(); });
  done.WaitForNotification();
}

absl::StatusOr<StoreView> ReadAndWait(HoldStore& store, int64_t org_id, const StoreQuery& query) {
  absl::Notification done;
  absl::StatusOr<StoreView> answer;
  store.Read(org_id, query, [&](absl::StatusOr<StoreView> view) {
    answer = std::move(view);
    done.Notify();
  });
  done.WaitForNotification();
  return answer;
}

absl::StatusOr<std::string> IdentifyAndWait(HoldStore& store, int64_t org_id) {
  absl::Notification done;
  absl::StatusOr<std::string> answer;
  store.Identify(org_id, [&](absl::StatusOr<std::string> identity) {
    answer = std::move(identity);
    done.Notify();
  });
  done.WaitForNotification();
  return answer;
}

std::string Describe(const StoreEffect& effect) {
  struct Visitor {
    std::string operator()(const Outcome& outcome) const {
      return absl::StrCat("outcome ", static_cast<int>(outcome));
    }
    std::string operator()(const ReserveEffect& effect) const {
      std::string text = absl::StrCat("reserve ", static_cast<int>(effect.outcome));
      if (effect.outcome == Outcome::kDone) absl::StrAppend(&text, " replayed ", effect.replayed);
      for (int64_t free : effect.remaining) absl::StrAppend(&text, " ", free);
      if (effect.outcome != Outcome::kRefused) return text;
      for (const Shortage& s : effect.shortages) {
        absl::StrAppend(&text, " short ", s.index, ":", s.free_nanos);
      }
      for (const LimitViolation& v : effect.limits) {
        absl::StrAppend(&text, " limit ", v.account_id, ":", static_cast<int>(v.kind), ":", v.limit, ":",
                        v.retry_after_ms);
      }
      return text;
    }
    std::string operator()(const HoldEffect& effect) const {
      return absl::StrCat("hold ", static_cast<int>(effect.outcome), " applied ", effect.applied,
                          " credited ", effect.credited_nanos, " open ", effect.open_ms);
    }
    std::string operator()(const TickEffect& effect) const {
      return absl::StrCat("tick ", static_cast<int>(effect.outcome), " expired ", effect.expired);
    }
    std::string operator()(const GrantEffect& effect) const {
      return absl::StrCat("grant ", static_cast<int>(effect.outcome), " applied ", effect.applied);
    }
    std::string operator()(const TakeOutEffect& effect) const {
      return absl::StrCat("take out ", static_cast<int>(effect.outcome), " id ", effect.return_id);
    }
  };
  return std::visit(Visitor{}, effect);
}

std::string Describe(StoreView view) {
  std::string text = absl::StrCat("epoch ", view.epoch);
  std::sort(view.holds.begin(), view.holds.end(),
            [](const HoldRecord& a, const HoldRecord& b) { return a.hold_id < b.hold_id; });
  for (const HoldRecord& hold : view.holds) {
    absl::StrAppend(&text, "\n  hold ", hold.hold_id.ToString(), " ", static_cast<int>(hold.state), " ",
                    hold.admitted_ms, " ", hold.deadline_ms, " ", hold.edge_id, " ", hold.boot_id);
    for (int64_t id : hold.account_ids) absl::StrAppend(&text, " account ", id);
    for (const HeldAmount& held : hold.budgets) {
      absl::StrAppend(&text, " [", held.budget_id, " ", held.period, " ", held.amount_nanos, " ",
                      held.covers_nanos, " ", held.observe, "]");
    }
  }
  auto leases = [&](std::vector<LeaseRecord>& records, bool sort) {
    if (sort) {
      std::sort(records.begin(), records.end(), [](const LeaseRecord& a, const LeaseRecord& b) {
        return std::pair(a.budget_id, a.period) < std::pair(b.budget_id, b.period);
      });
    }
    for (const LeaseRecord& lease : records) {
      absl::StrAppend(&text, "\n  lease ", lease.budget_id, " ", lease.period, " free ", lease.free_nanos,
                      " held ", lease.held_nanos);
    }
  };
  leases(view.leases, true);
  for (ReturnRecord& record : view.returns) {
    absl::StrAppend(&text, "\n  return ", record.return_id);
    leases(record.amounts, false);
  }
  return text;
}

}  // namespace tollhouse::enforcer
