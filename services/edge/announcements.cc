#include "services/edge/announcements.h"

#include <utility>

#include "services/edge/settlements.h"

namespace tollhouse::edge {

void Announcements::OnEpochs(bool snapshot, const std::vector<ledger::v1::Epoch>& epochs) {
  for (const ledger::v1::Epoch& newest : epochs) {
    if (newest.epoch() <= 1) continue;
    // The fence stands before the change is acknowledged.
    journal_->CloseEpoch(newest.org_id(), newest.epoch() - 1);
    if (snapshot) continue;
    ledger::v1::Epoch closed = newest;
    closed.set_epoch(newest.epoch() - 1);
    absl::MutexLock lock(&mutex_);
    queue_.push_back(std::move(closed));
  }
  if (!snapshot) return;
  absl::MutexLock lock(&mutex_);
  ++look_;
}

bool Announcements::Waiting() const {
  absl::MutexLock lock(&mutex_);
  return look_ > 0 || !queue_.empty();
}

Announcements::Work Announcements::Take() const {
  absl::MutexLock lock(&mutex_);
  return {look_, {queue_.begin(), queue_.end()}};
}

void Announcements::Done(const Work& work) {
  absl::MutexLock lock(&mutex_);
  // What came meanwhile is not done: a snapshot counts, an epoch stands behind the others.
  look_ -= work.look;
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(work.closed.size()));
}

std::vector<ledger::v1::Entry> Announcements::NeverForwarded(
    const google::protobuf::RepeatedPtrField<ledger::v1::Entry>& expired) {
  std::vector<ledger::v1::Entry> voids;
  for (const ledger::v1::Entry& hold : expired) {
    if (!journal_->Disown(hold.hold_id())) continue;
    ledger::v1::Entry& entry = voids.emplace_back(hold);
    entry.set_kind(ledger::v1::ENTRY_KIND_VOID);
    entry.set_status(std::string(kNeverForwarded));
  }
  return voids;
}

ledger::v1::AnnounceHoldsRequest Announcements::Report(const ledger::v1::Epoch& closed) {
  ledger::v1::AnnounceHoldsRequest request;
  request.set_org_id(closed.org_id());
  request.set_epoch(closed.epoch());
  request.set_edge_id(journal_->edge_id());
  request.set_boot_id(boot_id_);
  for (ledger::v1::Entry& hold : journal_->CloseEpoch(closed.org_id(), closed.epoch())) {
    *request.add_unsettled() = std::move(hold);
  }
  return request;
}

ledger::v1::ListPendingAnnouncementsRequest Announcements::Look() const {
  ledger::v1::ListPendingAnnouncementsRequest request;
  request.set_edge_id(journal_->edge_id());
  return request;
}

}  // namespace tollhouse::edge
