// Versioned changes of a service's configuration, in the order in which they were committed.
//
// A change is appended by the transaction that makes it. Appending locks the head of the log until the
// COMMIT, so that versions are without gaps and become visible in their order: who has read up to
// version n has seen every change up to n, however many processes write. Versions of one log are
// comparable; its id is another one where the database may have lost commits (a failover, a restored
// backup), and then nothing that was read before counts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/sql/database.h"

namespace tollhouse::sql {

// The log's tables, as one migration of a service's schema.
std::string_view ChangeLogSchema(Dialect dialect);

// Appends a change and gives it the next version. To be the last statement of a transaction: others
// that append wait for its end.
absl::StatusOr<int64_t> AppendChange(Connection& connection, std::string_view payload);

// PostgreSQL: an expression for the history of commits that the server continues, as text: cluster and
// timeline. It changes when a standby is promoted, when a backup is restored to a point in time, and
// with another cluster; not when a server restarts.
extern const std::string_view kServerHistory;

struct ChangeLogHead {
  std::string log_id;
  int64_t version = 0;
};
absl::StatusOr<ChangeLogHead> ReadChangeLogHead(Connection& connection);

struct Change {
  int64_t version = 0;
  std::string payload;
};
// Those after `version` in their order, at most `limit`. The first is version + 1, unless that has
// been dropped.
absl::StatusOr<std::vector<Change>> ReadChanges(Connection& connection, int64_t after, int64_t limit);

}  // namespace tollhouse::sql
