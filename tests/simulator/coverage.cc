#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/types/span.h"
#include "tests/simulator/runtime.h"

namespace tollhouse::simulator {
namespace {

// Sorted.
constexpr std::string_view kNames[] = {
    "announce.done",
    "announce.with_holds",
    "answer.EPOCH_CLOSED",
    "answer.HOLD_STALE",
    "answer.LEDGER_UNAVAILABLE",
    "answer.NOT_SERVING",
    "answer.other",
    "answer.served",
    "edge.reserve_timeout",
    "edge.start_deadline",
    "edge.token_of_closed_epoch",
    "edge.token_of_disowned_hold",
    "epoch.registered",
    "epoch.shared",
    "fault.budget_delete",
    "fault.budget_open_on_outage",
    "fault.budget_raise",
    "fault.budget_set",
    "fault.budget_zone",
    "fault.clock_jump",
    "fault.connections_break",
    "fault.edge_kill",
    "fault.edge_lost",
    "fault.edge_power_loss",
    "fault.enforcer_kill",
    "fault.enforcer_shutdown",
    "fault.ledger_kill",
    "fault.limits_set",
    "fault.move_account",
    "fault.partition",
    "fault.pause",
    "fault.postgres_commit_unknown",
    "fault.postgres_down",
    "fault.redis_apply_slowly",
    "fault.redis_failback",
    "fault.redis_failover",
    "fault.redis_flush",
    "fault.redis_repeats",
    "fault.redis_restart",
    "fault.redis_zombie",
    "fault.resolve_suspense",
    "fault.weather",
    "hold.above",
    "hold.admitted",
    "hold.conflict",
    "hold.expired",
    "hold.never_forwarded",
    "hold.open_on_outage",
    "hold.orphaned",
    "hold.replayed",
    "hold.settled",
    "hold.suspended",
    "hold.unheard_of",
    "hold.voided",
    "journal.doubtful",
    "journal.intent_without_result",
    "journal.replayed",
    "journal.tail_lost",
    "lease.granted",
    "lease.listed",
    "lease.returned",
    "network.late_arrival",
    "network.reply_broken",
    "network.reply_lost",
    "network.request_broken",
    "network.stream_broken",
    "operator.released_lost_lease",
    "operator.resolved",
    "period.rolled_over",
    "post.duplicate",
    "post.ended_meanwhile",
    "postgres.commit_unknown_applied",
    "postgres.commit_unknown_not_applied",
    "postgres.unavailable",
    "probe.admitted",
    "probe.refused",
    "redis.applied_after_timeout",
    "redis.incarnation_changed_before_init",
    "redis.repeated_later",
    "redis.stale_discovery",
    "redis.timeout",
    "refused.BUDGET_BLOCKED",
    "refused.BUDGET_EXHAUSTED",
    "refused.BUDGET_HELD",
    "refused.CONCURRENCY",
    "refused.LEDGER_UNAVAILABLE",
    "refused.REQUEST_RATE",
    "session.given_up",
    "session.repeated",
    "watch.snapshot",
};

}  // namespace

absl::Span<const std::string_view> Coverage::Names() { return kNames; }

void Coverage::Hit(std::string_view name, int64_t times) {
  const auto found = std::lower_bound(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames) || *found != name) {
    std::fprintf(stderr, "not in the list of coverage: %.*s\n", static_cast<int>(name.size()), name.data());
    std::abort();
  }
  counts_[found - std::begin(kNames)] += times;
}

}  // namespace tollhouse::simulator
