#include "tests/simulator/mutants.h"

namespace tollhouse::simulator {
namespace {

constexpr MutantInfo kMutants[] = {
    {Mutant::kReleaseOnExpiry, "release_on_expiry"},
    {Mutant::kGrantAddedTwice, "grant_added_twice"},
    {Mutant::kSecondEnforcersGrantLost, "second_enforcers_grant_lost"},
    {Mutant::kSkipEpochCheck, "skip_epoch_check"},
    {Mutant::kTrustPromotedSnapshot, "trust_promoted_snapshot"},
    {Mutant::kFlushUndetected, "flush_undetected"},
    {Mutant::kInitKeepsState, "init_keeps_state"},
    {Mutant::kReturnStaysFree, "return_stays_free"},
    {Mutant::kCreditTwice, "credit_twice"},
    {Mutant::kForgetSettled, "forget_settled"},
    {Mutant::kForgetFinished, "forget_finished"},
    {Mutant::kParentUnchecked, "parent_unchecked"},
    {Mutant::kReclaimWithoutReports, "reclaim_without_reports"},
    {Mutant::kPostTwice, "post_twice"},
    {Mutant::kCommitUnknownIsFailure, "commit_unknown_is_failure"},
    {Mutant::kGrantAcknowledgedEarly, "grant_acknowledged_early"},
    {Mutant::kIntentAfterForward, "intent_after_forward"},
    {Mutant::kVoidOnTimeout, "void_on_timeout"},
    {Mutant::kClosedEpochToken, "closed_epoch_token"},
    {Mutant::kUnreportedHolds, "unreported_holds"},
    {Mutant::kAnnouncesFullHolds, "announces_full_holds"},
    {Mutant::kPartialUsage, "partial_usage"},
    {Mutant::kPowerLossUnnoticed, "power_loss_unnoticed"},
    {Mutant::kUnheardForgotten, "unheard_forgotten"},
    {Mutant::kVoidsWithoutJournal, "voids_without_journal"},
    {Mutant::kResultAfterSettle, "result_after_settle"},
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
