#include "services/ledger/auditor.h"

#include <algorithm>
#include <string>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/obs/log.h"
#include "libs/obs/metrics.h"

namespace tollhouse::ledger {
namespace {

constexpr size_t kProblemsLogged = 20;  // per audit

prometheus::Counter& Audits(const char* what, const char* outcome) {
  return obs::Counter("tollhouse_ledger_audits_total", "Audits by what was read and what came out.",
                      {{"of", what}, {"outcome", outcome}});
}

prometheus::Gauge& Drift(const char* what) {
  return obs::Gauge("tollhouse_ledger_drift",
                    "What does not hold in the ledger, as of the last audit. Must be 0.", {{"of", what}});
}

void Log(const char* of, const std::string& problem) {
  obs::Error("ledger_drift", {{"of", of}, {"problem", problem}});
}

void Count(const char* of, const absl::Status& status, int64_t drift) {
  Audits(of, !status.ok() ? "failed" : drift == 0 ? "sound" : "drift").Increment();
  if (!status.ok()) {
    obs::Warning("audit_failed", {{"of", of}, {"reason", ReasonOf(status)}});
    return;
  }
  Drift(of).Set(drift);
}

void Export(const AuditReport& report) {
  for (const AuditReport::Unproven& unproven : report.unproven) {
    const obs::Labels labels = {{"cause", unproven.cause}, {"age", unproven.age}};
    obs::Gauge("tollhouse_ledger_unproven_nanousd",
               "Money in suspense: it counts as spent until it is known better. Of a hold the largest "
               "amount in one budget.",
               labels)
        .Set(unproven.nanos);
    obs::Gauge("tollhouse_ledger_unproven_holds", "Holds and lost leases in suspense.", labels)
        .Set(unproven.count);
  }
  obs::Gauge("tollhouse_ledger_unproven_oldest_seconds", "Age of the oldest suspense.")
      .Set(absl::ToDoubleSeconds(report.oldest_unproven));
  obs::Gauge("tollhouse_ledger_leased_nanousd",
             "What enforcers have on lease, all budgets and periods together.")
      .Set(report.leased_nanos);
  obs::Gauge("tollhouse_ledger_lease_age_seconds",
             "Age of the oldest epoch that has something on lease.")
      .Set(absl::ToDoubleSeconds(report.oldest_lease));
  if (report.synchronous.has_value()) {
    obs::Gauge("tollhouse_ledger_synchronous_replication",
               "1: a COMMIT waits for a standby. 0: a failover may lose what was committed, and hard "
               "caps with it.")
        .Set(*report.synchronous ? 1 : 0);
  }
}

}  // namespace

Auditor::Auditor(Store* store, AuditorOptions options) : store_(store), options_(options) {}

Auditor::~Auditor() { Stop(); }

void Auditor::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Auditor::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Auditor::Run() {
  absl::Time balances = absl::Now() + std::min(options_.interval, absl::Seconds(10));
  if (options_.interval == absl::InfiniteDuration()) balances = absl::InfiniteFuture();
  absl::Time journal = absl::Now() + options_.journal_interval;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithDeadline(absl::Condition(&stopping_), std::min(balances, journal))) return;
    }
    if (absl::Now() >= balances) {
      AuditBalances().status().IgnoreError();  // counted and logged
      balances = absl::Now() + options_.interval;
    }
    if (absl::Now() >= journal) {
      AuditJournal().status().IgnoreError();
      journal = absl::Now() + options_.journal_interval;
    }
  }
}

absl::StatusOr<int64_t> Auditor::AuditBalances() {
  const absl::Time start = absl::Now();
  const absl::StatusOr<AuditReport> report = store_->AuditBalances();
  const int64_t drift = report.ok() ? static_cast<int64_t>(report->drift.size()) : 0;
  Count("balances", report.status(), drift);
  TH_RETURN_IF_ERROR(report.status());
  for (size_t i = 0; i < report->drift.size() && i < kProblemsLogged; ++i) {
    Log("balances", report->drift[i]);
  }
  Export(*report);
  obs::Gauge("tollhouse_ledger_audit_seconds", "How long the last audit of the balances took.")
      .Set(absl::ToDoubleSeconds(absl::Now() - start));
  return drift;
}

absl::StatusOr<int64_t> Auditor::AuditJournal() {
  int64_t drift = 0;
  const absl::Status status = store_->Verify({}, [&](const v1::VerifyLedgerProgress& progress) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return false;
    }
    if (!progress.done()) return true;
    drift = progress.problems_size();
    for (int i = 0; i < progress.problems_size() && i < static_cast<int>(kProblemsLogged); ++i) {
      Log("journal", progress.problems(i));
    }
    return true;
  });
  if (absl::IsCancelled(status)) return status;
  Count("journal", status, drift);
  TH_RETURN_IF_ERROR(status);
  return drift;
}

}  // namespace tollhouse::ledger
