// Audits the ledger while it runs: what must hold (invariants I1, I2, I5, I7 of the design) is compared
// with what the database says, and what is not proven yet is measured.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

struct AuditorOptions {
  // Between looks at all balances, leases and suspense (seconds of work at most); infinite: none.
  absl::Duration interval = absl::Minutes(1);
  // Between readings of the whole journal, as `tollctl ledger verify` does; infinite: none.
  absl::Duration journal_interval = absl::Hours(24);
};

// Works on a thread of its own, in read transactions over one snapshot that disturb no writer. Metrics:
// tollhouse_ledger_drift (must be 0), tollhouse_ledger_unproven_nanousd and _holds by cause and age,
// tollhouse_ledger_unproven_oldest_seconds, tollhouse_ledger_leased_nanousd, _lease_age_seconds,
// _synchronous_replication, _audits_total, _audit_seconds. What does not hold is logged as an error
// (event ledger_drift) that names the row, at each audit.
class Auditor {
 public:
  // The store must outlive it.
  Auditor(Store* store, AuditorOptions options);
  ~Auditor();

  void Start();
  // Idempotent; ends an audit under way at its next step.
  void Stop();

  // One look at the balances, now; how much does not hold. The store's errors.
  absl::StatusOr<int64_t> AuditBalances();
  // One reading of the journal, now; likewise.
  absl::StatusOr<int64_t> AuditJournal();

 private:
  void Run();

  Store* const store_;
  const AuditorOptions options_;
  std::thread thread_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tollhouse::ledger
