// What the ledger waits to hear from this edge, without the wire: R7's reports on closed epochs, and which
// expired holds were never used. Announcer brings them to the ledger.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/edge/journal.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::edge {

// The order is what makes a report final: the journal refuses the epoch first, then lists its holds,
// then the ledger hears of them. Thread-safe.
class Announcements {
 public:
  // `journal` must outlive it.
  Announcements(Journal* journal, std::string boot_id)
      : journal_(journal), boot_id_(std::move(boot_id)) {}

  // The ledger's watch: fences older epochs at once; what has to be announced waits for Take.
  void OnEpochs(bool snapshot, const std::vector<ledger::v1::Epoch>& epochs);

  struct Work {
    int64_t look = 0;  // not 0: ask the ledger what it waits for, and announce that too
    std::vector<ledger::v1::Epoch> closed;
  };
  bool Waiting() const;
  // What is to be done now; it stays until Done.
  Work Take() const;
  // Everything in `work` has been answered for.
  void Done(const Work& work);

  // Of the holds that expired without a word from this edge, those that its journal does not know: they
  // were never forwarded, and from here on the journal refuses them. Each with kind VOID.
  std::vector<ledger::v1::Entry> NeverForwarded(
      const google::protobuf::RepeatedPtrField<ledger::v1::Entry>& expired);

  // The report on this closed epoch and all before it. From here on the journal refuses them.
  ledger::v1::AnnounceHoldsRequest Report(const ledger::v1::Epoch& closed);
  ledger::v1::ListPendingAnnouncementsRequest Look() const;

 private:
  Journal* const journal_;
  const std::string boot_id_;

  mutable absl::Mutex mutex_;
  int64_t look_ ABSL_GUARDED_BY(mutex_) = 0;  // snapshots that nobody has looked after
  std::deque<ledger::v1::Epoch> queue_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::edge
