#include "tests/simulator/books.h"

#include <cstdio>
#include <cstdlib>

namespace tollhouse::simulator {

// A bound statement, reset at the end.
class Books::Query {
 public:
  Query(Books* books, const char* sql) : statement_(books->Prepare(sql)) {}
  ~Query() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Query& Bind(int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Query& Bind(const std::string& blob) {
    sqlite3_bind_blob64(statement_, ++bound_, blob.data(), blob.size(), SQLITE_STATIC);
    return *this;
  }
  bool Next() { return sqlite3_step(statement_) == SQLITE_ROW; }
  int64_t Int(int column) { return sqlite3_column_int64(statement_, column); }
  std::string Text(int column) {
    const void* const data = sqlite3_column_blob(statement_, column);
    return std::string(static_cast<const char*>(data),
                       static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
  }

 private:
  sqlite3_stmt* const statement_;
  int bound_ = 0;
};

Books::Books(const std::string& path) {
  if (sqlite3_open_v2(path.c_str(), &handle_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr) !=
      SQLITE_OK) {
    std::fprintf(stderr, "the books do not open: %s\n", sqlite3_errmsg(handle_));
    std::abort();
  }
}

Books::~Books() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

sqlite3_stmt* Books::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr &&
      sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) != SQLITE_OK) {
    std::fprintf(stderr, "the books do not answer: %s\n", sqlite3_errmsg(handle_));
    std::abort();
  }
  return statement;
}

void Books::ReadRows(std::map<BudgetPeriod, BookRow>* rows) {
  Query q(this,
          "SELECT id, budget_id, period, target, cap, overrun, avail, leased, suspense, spent "
          "FROM budget_rows");
  while (q.Next()) {
    (*rows)[{q.Int(1), q.Text(2)}] = {q.Int(0), q.Int(3), q.Int(4), q.Int(5),
                                      q.Int(6), q.Int(7), q.Int(8), q.Int(9)};
  }
}

std::optional<BookEpoch> Books::OpenEpoch(int64_t org_id) {
  Query q(this, "SELECT epoch, incarnation FROM epochs WHERE org_id = ?1 AND closed_at IS NULL");
  q.Bind(org_id);
  if (!q.Next()) return std::nullopt;
  return BookEpoch{q.Int(0), q.Text(1)};
}

std::map<int64_t, int64_t> Books::SuspenseByRow() {
  std::map<int64_t, int64_t> sums;
  Query q(this,
          "SELECT a.row_id, sum(a.amount) FROM suspense s JOIN suspense_amounts a "
          "USING (org_id, hold_id, epoch) WHERE s.state = 1 GROUP BY a.row_id");
  while (q.Next()) sums[q.Int(0)] = q.Int(1);
  return sums;
}

std::vector<std::pair<int64_t, std::string>> Books::OpenGrants(int64_t org_id, int64_t epoch) {
  std::vector<std::pair<int64_t, std::string>> grants;
  Query q(this,
          "SELECT grant_id, answer FROM grants WHERE org_id = ?1 AND epoch = ?2 AND acknowledged = 0");
  q.Bind(org_id).Bind(epoch);
  while (q.Next()) grants.emplace_back(q.Int(0), q.Text(1));
  return grants;
}

bool Books::HasSuspense(int64_t org_id, const std::string& hold_id, int64_t epoch) {
  Query q(this, "SELECT 1 FROM suspense WHERE org_id = ?1 AND hold_id = ?2 AND epoch = ?3");
  return q.Bind(org_id).Bind(hold_id).Bind(epoch).Next();
}

bool Books::ReturnPosted(int64_t org_id, int64_t epoch, int64_t return_id) {
  Query q(this,
          "SELECT 1 FROM epochs WHERE org_id = ?1 AND epoch = ?2 AND returned >= ?3 UNION ALL "
          "SELECT 1 FROM lease_returns WHERE org_id = ?1 AND epoch = ?2 AND return_id = ?3");
  return q.Bind(org_id).Bind(epoch).Bind(return_id).Next();
}

std::vector<BookSuspense> Books::OpenSuspense() {
  std::vector<BookSuspense> rows;
  Query q(this,
          "SELECT hold_id, epoch, origin, state, edge_id, entry FROM suspense WHERE state < 3 "
          "ORDER BY hold_id, epoch");
  while (q.Next()) {
    rows.push_back({q.Text(0), q.Int(1), static_cast<int>(q.Int(2)), static_cast<int>(q.Int(3)),
                    q.Text(4), q.Text(5)});
  }
  return rows;
}

std::map<std::string, BookEntry> Books::Entries() {
  std::map<std::string, BookEntry> entries;
  Query q(this,
          "SELECT hold_id, sum(revision = 0), sum(cost) FROM journal WHERE hold_id IS NOT NULL "
          "GROUP BY hold_id");
  while (q.Next()) entries[q.Text(0)] = {q.Int(1), q.Int(2)};
  return entries;
}

std::vector<int64_t> Books::WaitingEpochs(int64_t org_id) {
  std::vector<int64_t> epochs;
  Query q(this,
          "SELECT epoch FROM epochs WHERE org_id = ?1 AND closed_at IS NOT NULL AND reclaimed_at IS "
          "NULL ORDER BY epoch");
  q.Bind(org_id);
  while (q.Next()) epochs.push_back(q.Int(0));
  return epochs;
}

}  // namespace tollhouse::simulator
