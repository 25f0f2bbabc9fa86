// The audit log of a service: append-only tables in its own database, in which every event carries
// a hash over itself and over the event before it.
//
// Each process has a chain of its own per month, so that replicas do not wait for each other.
// Chains are numbered, and their openings are chained like the events. What this shows: a row that
// was changed, removed, added or put elsewhere, and a chain that lost its end, because the head of
// each chain is a row too. Whoever can rewrite a chain with its head and all that follows is found
// by heads that were kept elsewhere (Verify's `expected`).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/clock.h"
#include "libs/sql/database.h"
#include "tollhouse/common/v1/audit.pb.h"

namespace tollhouse::audit {

// The log's tables, as one migration of a service's schema.
std::string_view LogSchema(sql::Dialect dialect);

// Thread-safe.
class Log {
 public:
  // `service` is "ledger", "router" or "vault". Both pointers must outlive it.
  Log(sql::Database* database, std::string_view service, const Clock* clock);

  // Appends an event within the caller's transaction, best as its last statement but for
  // sql::AppendChange: other events of this process wait for its end. Fills in service, chain,
  // sequence and time. Texts become printable and are cut to what the tables take.
  absl::Status Append(sql::Connection& connection, common::v1::AuditEvent* event);
  // In a transaction of its own; one at a time, so that they do not abort each other.
  absl::Status Append(common::v1::AuditEvent* event);

  // Of accounts at or below `subtree`; "": all. INVALID_ARGUMENT (BAD_ARGUMENT) for a bad page
  // token.
  absl::StatusOr<common::v1::AuditPage> List(const common::v1::AuditQuery& query,
                                             std::string_view subtree);
  // Goes through every chain. Heads of other services are left out of account.
  absl::StatusOr<common::v1::AuditReport> Verify(
      const google::protobuf::RepeatedPtrField<common::v1::AuditHead>& expected);

 private:
  sql::Database* const database_;
  const std::string service_;
  const Clock* const clock_;
  const std::string writer_;
  absl::Mutex append_mutex_;
};

}  // namespace tollhouse::audit
