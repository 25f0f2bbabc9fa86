#include "services/budget-enforcer/store/redis_codec.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::enforcer {
namespace {

// The script's numbers for events.
enum Kind {
  kContext = 1,
  kReserve = 10,  // + kBadReserve + kFirstAttempt
  kTick = 17,
  kAddGrant = 18,
  kTakeOut = 19,
  kReturnPosted = 20,
  kInitEpoch = 21,
  kSettle = 31,
  kVoid = 32,
  kAcknowledge = 33,
  kRefresh = 34,
  kExpire = 35,
  kExpiredPosted = 36,
};
constexpr int kBadReserve = 1, kFirstAttempt = 2;
constexpr int64_t kAdmitted = static_cast<int64_t>(Outcome::kBad) + 1;  // a new hold, not a replay
constexpr int64_t kFirstLease = 4;  // the fields m, i and l of the org come before
constexpr size_t kMaxName = 65535;
static_assert(std::endian::native == std::endian::little, "packed numbers are little-endian");

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// MessagePack, as much of it as run.lua reads.
template <typename T>
void AppendBig(std::string& out, uint8_t tag, T value) {
  out.push_back(static_cast<char>(tag));
  for (int shift = 8 * (sizeof(T) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(static_cast<uint64_t>(value) >> shift));
  }
}

void PackInteger(std::string& out, int64_t value) {
  if (value >= -32 && value < 128) {
    out.push_back(static_cast<char>(value));
  } else if (value >= 0 && value <= UINT16_MAX) {
    AppendBig(out, 0xcd, static_cast<uint16_t>(value));
  } else if (value >= 0 && value <= UINT32_MAX) {
    AppendBig(out, 0xce, static_cast<uint32_t>(value));
  } else {
    AppendBig(out, 0xd3, value);
  }
}

void PackString(std::string& out, std::string_view text) {
  if (text.size() < 32) {
    out.push_back(static_cast<char>(0xa0 | text.size()));
  } else {
    AppendBig(out, 0xda, static_cast<uint16_t>(text.size()));
  }
  out.append(text);
}

void PackArrayHeader(std::string& out, size_t size) { AppendBig(out, 0xdd, static_cast<uint32_t>(size)); }

void AppendName(std::string& out, std::string_view name) {
  Append(out, static_cast<uint16_t>(name.size()));
  out.append(name);
}

int64_t Exact(int64_t value) { return std::clamp(value, -kMaxExact, kMaxExact); }

int64_t MadeAtMs(const Uuid& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.bytes[i];
  return ms;
}

// As Step(Reserve) judges it.
bool BoundsOk(const Reserve& event) {
  if (event.budgets.size() > kMaxBudgetsPerHold || event.tokens < 0 || event.tokens > kMaxRate ||
      event.time_to_live_ms <= 0 || AnyTwice(event.budgets)) {
    return false;
  }
  for (const BudgetAmount& ask : event.budgets) {
    if (ask.amount_nanos < 0 || ask.amount_nanos > kMaxHoldNanos) return false;
  }
  for (const LimitAsk& ask : event.limits) {
    if (std::max(ask.requests_per_minute, ask.tokens_per_minute) > kMaxRate ||
        std::min({ask.requests_per_minute, ask.tokens_per_minute, ask.concurrency}) < 0) {
      return false;
    }
  }
  return true;
}

absl::Status BadAnswer(std::string_view what) {
  return MakeError(absl::StatusCode::kInternal, "REDIS_SCRIPT",
                   absl::StrCat("the hold script's data make no sense: ", Absl(what)));
}

// Reads what Append wrote.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  template <typename T>
  T Get() {
    T value{};
    if (text_.size() < sizeof(T)) {
      ok_ = false;
      text_ = {};
      return value;
    }
    std::memcpy(&value, text_.data(), sizeof(T));
    text_.remove_prefix(sizeof(T));
    return value;
  }
  int64_t Number() { return Get<int64_t>(); }
  std::string_view Bytes(size_t size) {
    if (text_.size() < size) {
      ok_ = false;
      text_ = {};
      return {};
    }
    const std::string_view bytes = text_.substr(0, size);
    text_.remove_prefix(size);
    return bytes;
  }
  std::string_view Name() { return Bytes(Get<uint16_t>()); }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && text_.empty(); }

 private:
  std::string_view text_;
  bool ok_ = true;
};

bool ParseLeaseName(std::string_view name, int64_t* budget_id, std::string* period) {
  const size_t slash = name.find('/');
  if (slash == name.npos || !absl::SimpleAtoi(Absl(name.substr(0, slash)), budget_id)) return false;
  *period = std::string(name.substr(slash + 1));
  return true;
}

}  // namespace

OrgKeys::OrgKeys(int64_t org_id) {
  for (const char* part :
       {"org", "holds", "states", "ends", "due", "forget", "expired", "returns", "meters"}) {
    names.push_back(absl::StrCat("tollhouse:{", org_id, "}:", part));
  }
}

// --- encoding ------------------------------------------------------------------------------------
void RunEncoder::Clear(int64_t now_ms) {
  for (std::string* part : {&incarnation_, &ids_, &leases_, &accounts_, &made_, &events_, &records_}) {
    part->clear();
  }
  record_ends_.clear();
  event_count_ = number_count_ = 0;
  floor_ms_ = now_ms;
  epoch_ = now_ms_ = -1;
  only_new_ = true;
  earliest_ms_ = latest_ms_ = 0;
  least_ttl_ms_ = kMaxExact;
  hold_index_.clear();
  lease_index_.clear();
  account_index_.clear();
}

void RunEncoder::Number(int64_t value) {
  PackInteger(events_, value);
  ++number_count_;
}

void RunEncoder::Context(int64_t epoch, int64_t now_ms) {
  now_ms = std::max(now_ms, floor_ms_);
  if (epoch == epoch_ && now_ms == now_ms_) return;
  epoch_ = epoch;
  now_ms_ = now_ms;
  if (now_ms >= 0) {
    earliest_ms_ = earliest_ms_ == 0 ? now_ms : std::min(earliest_ms_, now_ms);
    latest_ms_ = std::max(latest_ms_, now_ms);
  }
  Number(kContext);
  Number(epoch == Exact(epoch) ? epoch : -1);  // one that is not exact was never initialized
  Number(Exact(now_ms));
}

int64_t RunEncoder::Hold(const Uuid& id) {
  auto [it, added] = hold_index_.try_emplace(id, hold_index_.size() + 1);
  if (added) {
    PackString(ids_, id.raw());
    PackInteger(made_, MadeAtMs(id));
  }
  return it->second;
}

int64_t RunEncoder::Lease(int64_t budget_id, std::string_view period) {
  scratch_.clear();
  absl::StrAppend(&scratch_, budget_id, "/", Absl(period));
  auto it = lease_index_.find(scratch_);
  if (it != lease_index_.end()) return it->second;
  PackString(leases_, scratch_);
  const int64_t index = static_cast<int64_t>(lease_index_.size()) + kFirstLease;
  lease_index_.emplace(scratch_, index);
  return index;
}

int64_t RunEncoder::Account(int64_t account_id) {
  auto [it, added] = account_index_.try_emplace(account_id, account_index_.size() + 1);
  if (added) PackString(accounts_, absl::StrCat(account_id));
  return it->second;
}

void RunEncoder::HoldEvent(int kind, const Uuid& id, int64_t a, int64_t b, bool bad) {
  only_new_ = false;
  Number(kind);
  Number(Hold(id));
  Number(Exact(a));
  Number(Exact(b));
  Number(bad ? 1 : 0);
}

void RunEncoder::Put(const Reserve& event) {
  Context(event.epoch, event.now_ms);
  const bool ok = BoundsOk(event);
  const absl::Span<const BudgetAmount> budgets = ok ? event.budgets : absl::Span<const BudgetAmount>{};
  const absl::Span<const LimitAsk> limits = ok ? event.limits : absl::Span<const LimitAsk>{};
  const size_t holds = hold_index_.size();
  Number(kReserve + (ok ? 0 : kBadReserve) + (event.first_attempt ? kFirstAttempt : 0));
  Number(Hold(event.hold_id));
  only_new_ &= hold_index_.size() > holds;
  least_ttl_ms_ = std::min(least_ttl_ms_, event.time_to_live_ms);
  Number(Exact(event.time_to_live_ms));
  Number(Exact(event.tokens));
  Number(static_cast<int64_t>(budgets.size()));
  Number(static_cast<int64_t>(limits.size()));

  // The record, for the script to store as it is.
  Append(records_, Exact(now_ms_));
  Append(records_, Exact(event.time_to_live_ms));
  Append(records_, Exact(event.tokens));
  records_.append(reinterpret_cast<const char*>(event.fingerprint.data()), event.fingerprint.size());
  Append(records_, static_cast<uint8_t>(budgets.size()));
  const size_t charges_at = records_.size();
  Append(records_, uint8_t{0});
  uint32_t observed = 0;
  for (size_t i = 0; i < budgets.size(); ++i) {
    const BudgetAmount& ask = budgets[i];
    Number(Lease(ask.budget_id, ask.period));  // its name is in scratch_ now
    Number(ask.observe ? -1 : ask.amount_nanos);
    Append(records_, ask.observe ? int64_t{0} : ask.amount_nanos);
    AppendName(records_, scratch_);
    observed |= uint32_t{ask.observe} << i;
  }
  uint8_t charges = 0;
  for (const LimitAsk& ask : limits) {
    Number(Account(ask.account_id));
    Number(ask.requests_per_minute);
    Number(ask.tokens_per_minute);
    Number(Exact(ask.concurrency));
    if (ask.tokens_per_minute == 0 && ask.concurrency == 0) continue;  // nothing to release later
    AppendName(records_, Std(absl::StrCat(ask.account_id)));
    Append(records_, ask.tokens_per_minute);
    Append(records_, static_cast<uint8_t>(ask.concurrency > 0));
    ++charges;
  }
  records_[charges_at] = static_cast<char>(charges);
  Append(records_, observed);
  Append(records_, static_cast<uint16_t>(event.account_ids.size()));
  for (int64_t id : event.account_ids) Append(records_, id);
  AppendName(records_, event.edge_id);
  AppendName(records_, event.boot_id);
  record_ends_.push_back(records_.size());
}

void RunEncoder::Put(const Settle& event) {
  Context(event.epoch, event.now_ms);
  const bool bad = event.actual_nanos < 0 || event.actual_nanos > kMaxActualNanos ||
                   event.actual_tokens < 0 || event.actual_tokens > kMaxRate;
  HoldEvent(kSettle, event.hold_id, event.actual_nanos, event.actual_tokens, bad);
}

void RunEncoder::Put(const Void& event) {
  Context(event.epoch, event.now_ms);
  HoldEvent(kVoid, event.hold_id, 0, 0, false);
}

void RunEncoder::Put(const Acknowledge& event) {
  Context(event.epoch, event.now_ms);
  HoldEvent(kAcknowledge, event.hold_id, event.posted_nanos, 0, event.posted_nanos < 0);
}

void RunEncoder::Put(const Refresh& event) {
  Context(event.epoch, event.now_ms);
  HoldEvent(kRefresh, event.hold_id, 0, 0, false);
}

void RunEncoder::Put(const Expire& event) {
  Context(event.epoch, now_ms_);
  HoldEvent(kExpire, event.hold_id, 0, 0, false);
}

void RunEncoder::Put(const ExpiredPosted& event) {
  Context(event.epoch, now_ms_);
  HoldEvent(kExpiredPosted, event.hold_id, 0, 0, false);
}

void RunEncoder::Put(const Tick& event) {
  Context(event.epoch, event.now_ms);
  Number(kTick);
  Number(Exact(event.max_expired));
}

void RunEncoder::Put(const AddGrant& event) {
  Context(event.epoch, now_ms_);
  bool bad = AnyTwice(event.amounts);
  for (const BudgetAmount& item : event.amounts) {
    bad |= item.amount_nanos < 0 || item.amount_nanos > options_.max_lease_nanos;
  }
  Number(kAddGrant);
  Number(Exact(event.grant_id));
  Number(bad ? 1 : 0);
  Number(static_cast<int64_t>(event.amounts.size()));
  for (const BudgetAmount& item : event.amounts) {
    Number(Lease(item.budget_id, item.period));
    Number(Exact(item.amount_nanos));
  }
}

void RunEncoder::Put(const TakeOut& event) {
  Context(event.epoch, now_ms_);
  Number(kTakeOut);
  Number(static_cast<int64_t>(event.keep.size()));
  for (const BudgetAmount& item : event.keep) {
    Number(Lease(item.budget_id, item.period));
    Number(Exact(item.amount_nanos));
  }
}

void RunEncoder::Put(const ReturnPosted& event) {
  Context(event.epoch, now_ms_);
  Number(kReturnPosted);
  Number(Exact(event.return_id));
}

void RunEncoder::Put(const InitEpoch& event) {
  only_new_ = false;
  Number(kInitEpoch);
  Number(Exact(event.epoch));
}

absl::Status RunEncoder::Add(const StoreBatch& batch) {
  bool init = false;
  for (const StoreEvent& event : batch.events) {
    bool too_long = false;
    auto check = [&](absl::Span<const BudgetAmount> items) {
      for (const BudgetAmount& item : items) too_long |= item.period.size() > kMaxName - 32;
    };
    if (const auto* reserve = std::get_if<Reserve>(&event)) {
      check(reserve->budgets);
      too_long |= reserve->edge_id.size() > kMaxName || reserve->boot_id.size() > kMaxName ||
                  reserve->account_ids.size() > kMaxName || reserve->limits.size() > 255;
    } else if (const auto* grant = std::get_if<AddGrant>(&event)) {
      check(grant->amounts);
    } else if (const auto* take = std::get_if<TakeOut>(&event)) {
      check(take->keep);
    }
    if (too_long) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                       "a name or a list of the event is too long for the hold store");
    }
    init |= std::holds_alternative<InitEpoch>(event);
  }
  if (init && batch.incarnation.empty()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                     "InitEpoch needs the incarnation that the epoch was registered for");
  }
  if (!batch.incarnation.empty()) incarnation_ = batch.incarnation;
  for (const StoreEvent& event : batch.events) {
    std::visit([&](const auto& e) { Put(e); }, event);
  }
  event_count_ += batch.events.size();
  return absl::OkStatus();
}

std::vector<std::string_view> RunEncoder::Arguments() {
  packed_.clear();
  PackArrayHeader(packed_, hold_index_.size());
  packed_ += ids_;
  PackArrayHeader(packed_, lease_index_.size() + kFirstLease - 1);
  for (const std::string_view field : {"m", "i", "l"}) PackString(packed_, field);
  packed_ += leases_;
  PackArrayHeader(packed_, account_index_.size());
  packed_ += accounts_;
  PackArrayHeader(packed_, 8 + hold_index_.size() + number_count_);
  PackInteger(packed_, options_.retry_horizon_ms);
  PackInteger(packed_, options_.settled_ttl_ms);
  PackInteger(packed_, options_.max_lease_nanos);
  PackInteger(packed_, ahead_ms_);
  PackInteger(packed_, only_new_ ? 1 : 0);
  PackInteger(packed_, earliest_ms_);
  PackInteger(packed_, latest_ms_);
  PackInteger(packed_, Exact(least_ttl_ms_));
  packed_ += made_;
  packed_ += events_;
  std::vector<std::string_view> arguments{incarnation_, packed_};
  size_t from = 0;
  for (size_t end : record_ends_) {
    arguments.push_back(std::string_view(records_).substr(from, end - from));
    from = end;
  }
  return arguments;
}

// --- decoding ------------------------------------------------------------------------------------
RunDecoder::RunDecoder(std::string_view packed) : packed_(packed) {}

int64_t RunDecoder::Next() {
  int64_t value = 0;
  if (packed_.size() - at_ < sizeof(value)) {
    broken_ = true;
    return 0;
  }
  std::memcpy(&value, packed_.data() + at_, sizeof(value));
  at_ += sizeof(value);
  return value;
}

absl::StatusOr<OrgCondition> RunDecoder::Condition(int64_t* now_ms) {
  const int64_t condition = Next();
  *now_ms = Next();
  if (broken_ || condition < 0 || condition > 2) return BadAnswer("condition");
  return static_cast<OrgCondition>(condition);
}

absl::Status RunDecoder::Fill(StoreBatch& batch) {
  batch.effects.clear();
  batch.effects.reserve(batch.events.size());
  auto outcome = [&] {
    const int64_t code = Next();
    if (code < 0 || code > static_cast<int64_t>(Outcome::kBad)) broken_ = true;
    return static_cast<Outcome>(code);
  };
  for (const StoreEvent& event : batch.events) {
    if (const auto* reserve = std::get_if<Reserve>(&event)) {
      ReserveEffect& effect = std::get<ReserveEffect>(
          batch.effects.emplace_back(std::in_place_type<ReserveEffect>));
      const int64_t code = Next();
      if (code < 0 || code > kAdmitted) broken_ = true;
      effect.outcome = code == kAdmitted ? Outcome::kDone : static_cast<Outcome>(code);
      if (effect.outcome == Outcome::kDone) {
        effect.replayed = code != kAdmitted;
        const int64_t count = effect.replayed ? Next() : static_cast<int64_t>(reserve->budgets.size());
        for (int64_t i = 0; i < count && !broken_; ++i) effect.remaining.push_back(Next());
      } else if (effect.outcome == Outcome::kRefused) {
        const int64_t shortages = Next();
        for (int64_t i = 0; i < shortages && !broken_; ++i) {
          const int64_t index = Next();
          effect.shortages.push_back({static_cast<uint32_t>(index), Next()});
        }
        const int64_t violations = Next();
        for (int64_t i = 0; i < violations && !broken_; ++i) {
          const int64_t index = Next(), kind = Next(), wait = Next();
          if (index < 0 || index >= static_cast<int64_t>(reserve->limits.size())) {
            return BadAnswer("limit");
          }
          const LimitAsk& ask = reserve->limits[index];
          const int64_t limit = kind == 0   ? ask.requests_per_minute
                                : kind == 1 ? ask.tokens_per_minute
                                            : ask.concurrency;
          effect.limits.push_back({ask.account_id, static_cast<LimitKind>(kind), limit, wait});
        }
      }
    } else if (std::holds_alternative<Tick>(event)) {
      TickEffect effect{outcome()};
      effect.expired = Next();
      effect.more = Next() != 0;
      batch.effects.emplace_back(effect);
    } else if (std::holds_alternative<AddGrant>(event)) {
      GrantEffect effect{outcome()};
      effect.applied = Next() != 0;
      batch.effects.emplace_back(effect);
    } else if (std::holds_alternative<TakeOut>(event)) {
      TakeOutEffect effect{outcome()};
      effect.return_id = Next();
      batch.effects.emplace_back(effect);
    } else if (std::holds_alternative<ReturnPosted>(event) ||
               std::holds_alternative<InitEpoch>(event)) {
      batch.effects.emplace_back(outcome());
    } else {
      HoldEffect effect{outcome()};
      effect.applied = Next() != 0;
      effect.credited_nanos = Next();
      effect.open_ms = Next();
      batch.effects.emplace_back(effect);
    }
  }
  if (broken_) {
    batch.effects.clear();
    return BadAnswer("effects");
  }
  return absl::OkStatus();
}

absl::StatusOr<HoldRecord> ParseHold(const Uuid& id, std::string_view record, std::string_view state) {
  HoldRecord hold;
  hold.hold_id = id;
  Cursor at(record);
  hold.admitted_ms = at.Number();
  hold.deadline_ms = hold.admitted_ms + at.Number();
  int64_t cap = kMaxExact;
  if (!state.empty()) {
    Cursor now(state);
    const char letter = now.Get<char>();
    hold.state = letter == 'o'   ? HoldState::kOpen
                 : letter == 's' ? HoldState::kSettled
                                 : HoldState::kExpired;
    hold.deadline_ms = now.Number();
    cap = now.Number();
    now.Number();
    if (!now.done() || std::string_view("osx").find(letter) == std::string_view::npos) {
      return BadAnswer("state of a hold");
    }
  }
  at.Bytes(sizeof(int64_t) + std::tuple_size_v<Fingerprint>);  // tokens, fingerprint
  const int budgets = at.Get<uint8_t>(), charges = at.Get<uint8_t>();
  for (int i = 0; i < budgets; ++i) {
    HeldAmount& held = hold.budgets.emplace_back();
    held.amount_nanos = at.Number();
    held.covers_nanos = std::min(held.amount_nanos, cap);
    if (!ParseLeaseName(at.Name(), &held.budget_id, &held.period)) return BadAnswer("name of a lease");
  }
  for (int i = 0; i < charges; ++i) {
    at.Name();
    at.Bytes(sizeof(int64_t) + 1);
  }
  const uint32_t observed = at.Get<uint32_t>();
  for (int i = 0; i < budgets && i < 32; ++i) hold.budgets[i].observe = (observed >> i & 1) != 0;
  const int accounts = at.Get<uint16_t>();
  for (int i = 0; i < accounts; ++i) hold.account_ids.push_back(at.Get<int64_t>());
  hold.edge_id = std::string(at.Name());
  hold.boot_id = std::string(at.Name());
  if (!at.done()) return BadAnswer("a hold");
  return hold;
}

absl::StatusOr<LeaseRecord> ParseLease(std::string_view name, std::string_view value) {
  LeaseRecord lease;
  Cursor at(value);
  lease.free_nanos = at.Number();
  lease.held_nanos = at.Number();
  at.Number();
  if (!at.done() || !ParseLeaseName(name, &lease.budget_id, &lease.period)) return BadAnswer("a lease");
  return lease;
}

absl::StatusOr<ReturnRecord> ParseReturn(std::string_view packed) {
  ReturnRecord record;
  Cursor at(packed);
  record.return_id = at.Number();
  const int amounts = at.Get<uint16_t>();
  for (int i = 0; i < amounts; ++i) {
    LeaseRecord& lease = record.amounts.emplace_back();
    lease.free_nanos = at.Number();
    if (!ParseLeaseName(at.Name(), &lease.budget_id, &lease.period)) return BadAnswer("a return");
  }
  if (!at.done()) return BadAnswer("a return");
  return record;
}

}  // namespace tollhouse::enforcer
