// Reads the ledger's tables beside the store, as an auditor would: cheap enough to do it after every
// transaction.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tollhouse::simulator {

using BudgetPeriod = std::pair<int64_t, std::string>;

struct BookRow {
  int64_t id = 0;
  int64_t target = 0, cap = 0, overrun = 0, avail = 0, leased = 0, suspense = 0, spent = 0;
};

struct BookEpoch {
  int64_t epoch = 0;
  std::string incarnation;
};

struct BookSuspense {
  std::string hold_id;
  int64_t epoch = 0;
  int origin = 0, state = 0;
  std::string edge_id;
  std::string entry;
};

struct BookEntry {
  int64_t terminal = 0;  // entries with revision 0
  int64_t cost = 0;      // sum of all revisions
};

// One connection to the database of a SqliteStore. One thread.
class Books {
 public:
  // The file (or shared memory database) must have the schema.
  explicit Books(const std::string& path);
  ~Books();
  Books(const Books&) = delete;

  // Updates `rows` with every row of the ledger.
  void ReadRows(std::map<BudgetPeriod, BookRow>* rows);
  std::optional<BookEpoch> OpenEpoch(int64_t org_id);
  // Money of single suspense rows, by row.
  std::map<int64_t, int64_t> SuspenseByRow();
  // Answers of grants that are not acknowledged.
  std::vector<std::pair<int64_t, std::string>> OpenGrants(int64_t org_id, int64_t epoch);
  bool HasSuspense(int64_t org_id, const std::string& hold_id, int64_t epoch);
  bool ReturnPosted(int64_t org_id, int64_t epoch, int64_t return_id);
  std::vector<BookSuspense> OpenSuspense();
  std::map<std::string, BookEntry> Entries();
  // Closed epochs that are not reclaimed.
  std::vector<int64_t> WaitingEpochs(int64_t org_id);

 private:
  class Query;
  sqlite3_stmt* Prepare(const char* sql);
  sqlite3* handle_ = nullptr;
  std::map<const char*, sqlite3_stmt*> statements_;
};

}  // namespace tollhouse::simulator
