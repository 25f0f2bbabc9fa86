#include "tests/simulator/mutants.h"

namespace tollhouse::simulator {
namespace {

constexpr MutantInfo kMutants[] = {
    {Mutant::kReleaseOnExpiry, "release_on_expiry", 5},
    {Mutant::kGrantAddedTwice, "grant_added_twice"},
    {Mutant::kSecondEnforcersGrantLost, "second_enforcers_grant_lost", 3},
    {Mutant::kSkipEpochCheck, "skip_epoch_check", 366},
    {Mutant::kTrustPromotedSnapshot, "trust_promoted_snapshot"},
    {Mutant::kFlushUndetected, "flush_undetected", 20},
    {Mutant::kInitKeepsState, "init_keeps_state"},
    {Mutant::kReturnStaysFree, "return_stays_free"},
    {Mutant::kCreditTwice, "credit_twice", 23},
    {Mutant::kForgetSettled, "forget_settled", 17},
    {Mutant::kForgetFinished, "forget_finished"},
    {Mutant::kParentUnchecked, "parent_unchecked"},
    {Mutant::kReclaimWithoutReports, "reclaim_without_reports", 29},
    {Mutant::kPostTwice, "post_twice", 26},
    {Mutant::kCommitUnknownIsFailure, "commit_unknown_is_failure"},
    {Mutant::kGrantAcknowledgedEarly, "grant_acknowledged_early"},
    {Mutant::kIntentAfterForward, "intent_after_forward"},
    {Mutant::kVoidOnTimeout, "void_on_timeout"},
    {Mutant::kClosedEpochToken, "closed_epoch_token", 8},
    {Mutant::kUnreportedHolds, "unreported_holds", 2},
    {Mutant::kAnnouncesFullHolds, "announces_full_holds", 511},
    {Mutant::kPartialUsage, "partial_usage", 8},
    {Mutant::kPowerLossUnnoticed, "power_loss_unnoticed", 5},
    {Mutant::kUnheardForgotten, "unheard_forgotten", 7},
    {Mutant::kVoidsWithoutJournal, "voids_without_journal", 344},
    {Mutant::kResultAfterSettle, "result_after_settle", 8},
};

}  // namespace

std::span<const MutantInfo> Mutants() { return kMutants; }

Mutant MutantByName(std::string_view name) {
  for (const MutantInfo& info : kMutants) {
    if (info.name == name) return info.mutant;
  }
  return Mutant::kNone;
}

}  // namespace tollhouse::simulator
