// Planted protocol bugs, switched on by name at the seams of the simulation. Each has to be found.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tollhouse::simulator {

enum class Mutant {
  kNone,
  // the hold store
  kReleaseOnExpiry,           // R5: an expired hold's money goes back to the lease
  kGrantAddedTwice,           // R10: a grant that comes again is added again
  kSecondEnforcersGrantLost,  // R10: only one enforcer's grants are added
  kSkipEpochCheck,            // R4: scripts run for whatever epoch is there
  kTrustPromotedSnapshot,     // R12: a promoted replica passes for the store that it copied
  kFlushUndetected,           // R12: an emptied store passes for the one that was registered
  kInitKeepsState,            // R8: what a promoted snapshot holds survives the new epoch
  kReturnStaysFree,           // R6: lease is returned before it is taken out
  kCreditTwice,               // R11: a settled hold is credited again
  kForgetSettled,             // R11: the record goes at the credit
  kForgetFinished,            // R9: a late duplicate of a Reserve makes the hold again
  kParentUnchecked,           // R9: only the last budget of the path is checked
  // the ledger
  kReclaimWithoutReports,     // R7: the suspense of a closed epoch is freed at once
  kPostTwice,                 // R3: an entry that comes again is posted again
  kCommitUnknownIsFailure,    // an unknown COMMIT is taken for a failed one, and asked for anew
  kGrantAcknowledgedEarly,    // R2: a grant is listed no longer before the store has it
  // the edge
  kIntentAfterForward,        // R13: the journal hears of a request after the provider
  kVoidOnTimeout,             // R14: no answer is taken for no bill
  kClosedEpochToken,          // R7: a token of a closed epoch is used after the report
  kUnreportedHolds,           // R7: the report leaves out what is under way
  kAnnouncesFullHolds,        // R7: the report names what ended holds did not use, too
  kPartialUsage,              // R14: after a crash a part of the hold is posted
  kPowerLossUnnoticed,        // the journal's lost tail passes for complete
  kUnheardForgotten,          // L1: holds that nobody heard of are left to expire
  kVoidsWithoutJournal,       // R14: an expired hold is voided whatever the journal knows of it
  kResultAfterSettle,         // R13: the enforcer hears of a result before the journal
};

struct MutantInfo {
  Mutant mutant;
  std::string_view name;
  uint64_t seed = 1;  // where a search for it begins: a seed that found it, when this was written
};
std::span<const MutantInfo> Mutants();
// kNone if there is none of that name.
Mutant MutantByName(std::string_view name);

}  // namespace tollhouse::simulator
