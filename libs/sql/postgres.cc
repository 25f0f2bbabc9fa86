#include "libs/sql/postgres.h"

#include <libpq-fe.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

// libpqxx 6 deprecates what its version 7 lacks; what replaces it there is said where it is used.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <pqxx/pqxx>
#include <pqxx/tablewriter>

#include "absl/random/random.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::sql {
namespace {

// A parameter in text format.
struct TextParam {
  bool null = false;
  std::string text;
};

}  // namespace
}  // namespace tollhouse::sql

template <>
struct pqxx::string_traits<tollhouse::sql::TextParam> {
  static constexpr const char* name() noexcept { return "parameter"; }
  static constexpr bool has_null() noexcept { return true; }
  static bool is_null(const tollhouse::sql::TextParam& param) { return param.null; }
  static std::string to_string(const tollhouse::sql::TextParam& param) { return param.text; }
};

namespace tollhouse::sql {
namespace {

constexpr pqxx::oid kBool = 16;
constexpr pqxx::oid kBytea = 17;
constexpr pqxx::oid kUuid = 2950;
constexpr int kAttempts = 8;
constexpr int kRowsPerFetch = 2000;
constexpr size_t kStatementsMax = 500;
constexpr absl::Duration kConnectionAgeMax = absl::Hours(1);
constexpr absl::Duration kWatchInterval = absl::Milliseconds(250);
constexpr int64_t kMigrationLock = 0x746f6c6c686f7573;  // of this database, for pg_advisory_xact_lock

absl::Status Unavailable(std::string_view reason, std::string_view message) {
  return MakeError(absl::StatusCode::kUnavailable, reason, message);
}

absl::Status FromSqlState(std::string_view state, const std::string& message, bool committing) {
  if (state == "55P03") return Unavailable("SQL_BUSY", message);
  if (state == "57014") return Unavailable("SQL_TIMEOUT", message);
  if (state == "25006") return Unavailable("SQL_READ_ONLY", message);
  // The server shuts down, or ends this session; in a COMMIT it may have been done before.
  if (state.substr(0, 4) == "57P0" || (state.substr(0, 2) == "08" && state != "08P01") ||
      state == "25P03") {
    return Unavailable(committing ? "SQL_COMMIT_UNKNOWN" : "SQL_UNAVAILABLE", message);
  }
  if (state.substr(0, 2) == "40") return Unavailable("SQL_RETRY", message);
  if (state == "23505") {
    return MakeError(absl::StatusCode::kAlreadyExists, "SQL_CONSTRAINT_UNIQUE", message);
  }
  if (state.substr(0, 2) == "23" || state == "P0001") {
    return MakeError(absl::StatusCode::kFailedPrecondition, "SQL_CONSTRAINT", message);
  }
  if (state.substr(0, 2) == "53" || state.substr(0, 2) == "58") {
    return MakeError(absl::StatusCode::kResourceExhausted, "SQL_FULL", message);
  }
  return MakeError(absl::StatusCode::kInternal, "SQL_FAILED",
                   absl::StrCat(message, " (SQLSTATE ", Absl(state), ")"));
}

// The exception that is being handled.
absl::Status FromException(bool committing) {
  const auto text = [](const std::exception& e) { return absl::StrCat("postgres: ", e.what()); };
  try {
    throw;
  } catch (const pqxx::in_doubt_error& e) {
    return Unavailable("SQL_COMMIT_UNKNOWN", text(e));
  } catch (const pqxx::statement_completion_unknown& e) {
    return Unavailable(committing ? "SQL_COMMIT_UNKNOWN" : "SQL_UNAVAILABLE", text(e));
  } catch (const pqxx::broken_connection& e) {
    return Unavailable(committing ? "SQL_COMMIT_UNKNOWN" : "SQL_UNAVAILABLE", text(e));
  } catch (const pqxx::transaction_rollback& e) {
    return Unavailable("SQL_RETRY", text(e));
  } catch (const pqxx::unique_violation& e) {
    return FromSqlState("23505", text(e), committing);
  } catch (const pqxx::integrity_constraint_violation& e) {
    return FromSqlState("23000", text(e), committing);
  } catch (const pqxx::plpgsql_error& e) {
    return FromSqlState("P0001", text(e), committing);
  } catch (const pqxx::sql_error& e) {
    return FromSqlState(e.sqlstate(), text(e), committing);
  } catch (const std::exception& e) {
    return MakeError(absl::StatusCode::kInternal, "SQL_FAILED", text(e));
  }
}

// ?1 -> $1, but for what stands in quotes.
std::string WithDollars(std::string_view sql) {
  std::string out;
  out.reserve(sql.size());
  char quote = 0;
  for (size_t i = 0; i < sql.size(); ++i) {
    const char c = sql[i];
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '?' && i + 1 < sql.size() && absl::ascii_isdigit(sql[i + 1])) {
      out += '$';
      continue;
    }
    out += c;
  }
  return out;
}

// What PostgreSQL's text cannot hold becomes U+FFFD, the same way each time: keys stay keys.
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

std::string WithoutNul(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\0') {
      out += kReplacement;
    } else {
      out += c;
    }
  }
  return out;
}

std::vector<TextParam> ToText(std::span<const Param> params) {
  std::vector<TextParam> out;
  out.reserve(params.size());
  for (const Param& param : params) {
    TextParam& text = out.emplace_back();
    switch (param.kind()) {
      case Param::Kind::kNull:
        text.null = true;
        break;
      case Param::Kind::kInt:
        text.text = absl::StrCat(param.number());
        break;
      case Param::Kind::kText:
        text.text = WithoutNul(param.bytes());
        break;
      case Param::Kind::kBlob:
        text.text = absl::StrCat("\\x", absl::BytesToHexString(Absl(param.bytes())));
        break;
      case Param::Kind::kUuid:
        text.text = absl::BytesToHexString(Absl(param.bytes()));
        break;
    }
  }
  return out;
}

int HexDigit(char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

// Pairs of hex digits; hyphens are skipped.
void AppendFromHex(std::string_view hex, std::string* out) {
  for (size_t i = 0; i + 1 < hex.size();) {
    if (hex[i] == '-') {
      ++i;
      continue;
    }
    *out += static_cast<char>(HexDigit(hex[i]) << 4 | HexDigit(hex[i + 1]));
    i += 2;
  }
}

// The rows of a result that is here as a whole.
class ResultCursor : public Rows::Cursor {
 public:
  explicit ResultCursor(pqxx::result result) { Take(std::move(result)); }

  bool Next() override { return ++row_ < static_cast<int>(result_.size()); }
  absl::Status status() const override { return absl::OkStatus(); }

  int64_t Int(int column) override {
    const pqxx::field field = result_[row_][column];
    if (types_[column] == kBool) return field.c_str()[0] == 't' ? 1 : 0;
    int64_t value = 0;
    std::from_chars(field.c_str(), field.c_str() + field.size(), value);
    return value;
  }
  bool IsNull(int column) override { return result_[row_][column].is_null(); }
  std::string_view View(int column) override {
    const pqxx::field field = result_[row_][column];
    const std::string_view text(field.c_str(), field.size());
    if ((types_[column] != kBytea && types_[column] != kUuid) || field.is_null()) return text;
    std::string& bytes = decoded_[column];
    bytes.clear();
    AppendFromHex(types_[column] == kBytea ? text.substr(2) : text, &bytes);
    return bytes;
  }

 protected:
  void Take(pqxx::result result) {
    result_ = std::move(result);
    row_ = -1;
    types_.clear();
    for (int i = 0; i < static_cast<int>(result_.columns()); ++i) {
      types_.push_back(result_.column_type(i));
    }
    decoded_.resize(types_.size());
  }
  bool empty() const { return result_.empty(); }

 private:
  pqxx::result result_;
  int row_ = -1;
  std::vector<pqxx::oid> types_;
  std::vector<std::string> decoded_;
};

class PgConnection;

// A server-side cursor.
class ScanCursor final : public ResultCursor {
 public:
  ScanCursor(PgConnection* connection, std::string fetch, pqxx::result first)
      : ResultCursor(std::move(first)), connection_(connection), fetch_(std::move(fetch)) {}

  bool Next() override;
  absl::Status status() const override { return status_; }

 private:
  PgConnection* const connection_;
  const std::string fetch_;
  absl::Status status_;
};

// COPY in text format, from memory.
class CopyInsert final : public BulkInsert {
 public:
  CopyInsert(PgConnection* connection, std::string_view table,
             std::initializer_list<std::string_view> columns)
      : connection_(connection), table_(table), columns_(columns.begin(), columns.end()) {}

  void Int(int64_t value) override {
    char digits[24];
    const char* const end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
    Separate();
    lines_.append(digits, static_cast<size_t>(end - digits));
  }
  void Text(std::string_view value) override {
    Separate();
    for (const char c : value) {
      switch (c) {
        case '\\':
          lines_ += "\\\\";
          break;
        case '\n':
          lines_ += "\\n";
          break;
        case '\r':
          lines_ += "\\r";
          break;
        case '\t':
          lines_ += "\\t";
          break;
        case '\0':
          lines_ += kReplacement;
          break;
        default:
          lines_ += c;
      }
    }
  }
  void Bytes(std::string_view value) override {
    Separate();
    lines_ += "\\\\x";
    AppendHex(value);
  }
  void Uuid(std::string_view raw) override {
    Separate();
    AppendHex(raw);
  }
  void Null() override {
    Separate();
    lines_ += "\\N";
  }
  void EndRow() override {
    lines_ += '\n';
    first_ = true;
  }
  absl::Status Finish() override;

 private:
  void Separate() {
    if (!std::exchange(first_, false)) lines_ += '\t';
  }
  void AppendHex(std::string_view bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    const size_t at = lines_.size();
    lines_.resize(at + 2 * bytes.size());
    char* out = lines_.data() + at;
    for (const char c : bytes) {
      *out++ = kDigits[static_cast<uint8_t>(c) >> 4];
      *out++ = kDigits[static_cast<uint8_t>(c) & 15];
    }
  }

  PgConnection* const connection_;
  const std::string table_;
  const std::vector<std::string> columns_;
  std::string lines_;
  bool first_ = true;
};

// Keeps what the server says beside its answers from standard error, and whether it said anything.
class Notices final : public pqxx::errorhandler {
 public:
  explicit Notices(pqxx::connection_base& connection) : errorhandler(connection) {}
  bool operator()(const char message[]) noexcept override {
    heard_ = true;
    obs::Log(obs::Level::kDebug, "postgres_notice", {{"message", std::string_view(message)}});
    return false;
  }
  bool TakeHeard() { return std::exchange(heard_, false); }

 private:
  bool heard_ = false;
};

class PgConnection final : public Connection {
 public:
  // Throws. `wait_max`: how long any call below may take.
  PgConnection(const std::string& conninfo, absl::Duration wait_max)
      : wait_max_(wait_max),
        connection_(conninfo),
        notices_(connection_),
        work_(connection_, "tollhouse"),
        made_at_(absl::Now()) {
    connection_.inhibit_reactivation(true);  // version 7 never reconnects by itself
    watch_fd_ = dup(connection_.sock());
  }
  ~PgConnection() override {
    if (watch_fd_ >= 0) close(watch_fd_);
  }

  Dialect dialect() const override { return Dialect::kPostgres; }
  absl::Status ExecuteScript(const std::string& sql) override {
    return Run([&] { work_.exec(sql); });
  }
  std::unique_ptr<BulkInsert> Insert(std::string_view table,
                                     std::initializer_list<std::string_view> columns) override {
    return std::make_unique<CopyInsert>(this, table, columns);
  }

  absl::Status Begin(const char* begin) {
    failure_ = absl::OkStatus();
    return Run([&] { work_.exec(begin); });
  }

  // Ends the transaction; what the body has swallowed of errors comes to light here.
  absl::Status Commit() {
    if (!failure_.ok()) {
      const absl::Status failure = failure_;
      Rollback();
      return failure;
    }
    notices_.TakeHeard();
    committing_ = true;
    // Without the timeout: a COMMIT that waits for a standby would be cancelled into a success.
    const absl::Status status = Run([&] { work_.exec("SET LOCAL statement_timeout = 0; COMMIT"); });
    committing_ = false;
    // A COMMIT has nothing to say but that it gave up waiting for the standbys.
    if (status.ok() && notices_.TakeHeard()) {
      return Unavailable("SQL_COMMIT_UNKNOWN", "postgres: committed, but perhaps on no standby");
    }
    return status;
  }

  void Rollback() {
    if (connection_.is_open()) Run([&] { work_.exec("ROLLBACK"); }).IgnoreError();
  }

  absl::StatusOr<pqxx::result> Exec(const std::string& sql) {
    pqxx::result result;
    TH_RETURN_IF_ERROR(Run([&] { result = work_.exec(sql); }));
    return result;
  }

  absl::Status Copy(const std::string& table, const std::vector<std::string>& columns,
                    const std::string& lines) {
    return Run([&] {
      pqxx::tablewriter writer(work_, table, columns.begin(), columns.end());  // 7: stream_to
      writer.write_raw_line(lines);
      writer.complete();
    });
  }

  bool usable() const {
    return connection_.is_open() && absl::Now() - made_at_ < kConnectionAgeMax;
  }

  // Any thread: breaks the connection if what it waits for takes too long.
  void BreakIfOverdue(int64_t now_nanos) {
    const int64_t deadline = deadline_nanos_.load(std::memory_order_relaxed);
    if (deadline != 0 && now_nanos > deadline) shutdown(watch_fd_, SHUT_RDWR);
  }

 private:
  // Runs something that throws, under the watch of the deadline.
  template <typename Action>
  absl::Status Run(const Action& action) {
    if (wait_max_ != absl::InfiniteDuration()) {
      deadline_nanos_.store(Now() + absl::ToInt64Nanoseconds(wait_max_), std::memory_order_relaxed);
    }
    absl::Status status;
    try {
      action();
    } catch (...) {
      status = FromException(committing_);
      if (failure_.ok()) failure_ = status;
    }
    deadline_nanos_.store(0, std::memory_order_relaxed);
    return status;
  }

  static int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  absl::StatusOr<pqxx::result> RunPrepared(std::string_view sql, std::span<const Param> params) {
    const std::vector<TextParam> texts = ToText(params);
    pqxx::result result;
    TH_RETURN_IF_ERROR(Run([&] {
      const std::string text(sql);
      auto found = statements_.find(text);
      if (found == statements_.end()) {
        if (statements_.size() >= kStatementsMax) {
          work_.exec("DEALLOCATE ALL");
          for (const auto& [old, name] : statements_) connection_.unprepare(name);
          statements_.clear();
        }
        const std::string name = absl::StrCat("s", ++statement_count_);
        connection_.prepare(name, WithDollars(sql));
        found = statements_.emplace(text, name).first;
      }
      result = work_.exec_prepared(found->second,
                                   pqxx::prepare::make_dynamic_params(texts.begin(), texts.end()));
    }));
    return result;
  }

  absl::StatusOr<int64_t> DoExecute(std::string_view sql, std::span<const Param> params) override {
    TH_ASSIGN_OR_RETURN(const pqxx::result result, RunPrepared(sql, params));
    return static_cast<int64_t>(result.affected_rows());
  }

  absl::StatusOr<Rows> DoQuery(std::string_view sql, std::span<const Param> params) override {
    TH_ASSIGN_OR_RETURN(pqxx::result result, RunPrepared(sql, params));
    return Rows(std::make_unique<ResultCursor>(std::move(result)));
  }

  absl::StatusOr<Rows> DoScan(std::string_view sql, std::span<const Param> params) override {
    const std::vector<TextParam> texts = ToText(params);
    const std::string name = absl::StrCat("scan", ++statement_count_);
    TH_RETURN_IF_ERROR(Run([&] {
      work_.exec_params(absl::StrCat("DECLARE ", name, " NO SCROLL CURSOR FOR ", WithDollars(sql)),
                        pqxx::prepare::make_dynamic_params(texts.begin(), texts.end()));
    }));
    const std::string fetch = absl::StrCat("FETCH ", kRowsPerFetch, " FROM ", name);
    TH_ASSIGN_OR_RETURN(pqxx::result first, Exec(fetch));
    return Rows(std::make_unique<ScanCursor>(this, fetch, std::move(first)));
  }

  const absl::Duration wait_max_;
  pqxx::connection connection_;
  Notices notices_;
  pqxx::nontransaction work_;
  const absl::Time made_at_;
  int watch_fd_ = -1;  // a second descriptor of the socket, so that it is never another's
  std::atomic<int64_t> deadline_nanos_ = 0;
  std::unordered_map<std::string, std::string> statements_;  // text -> name
  int64_t statement_count_ = 0;
  absl::Status failure_;  // the first of this transaction
  bool committing_ = false;
};

bool ScanCursor::Next() {
  if (ResultCursor::Next()) return true;
  if (empty() || !status_.ok()) return false;
  absl::StatusOr<pqxx::result> more = connection_->Exec(fetch_);
  if (!more.ok()) {
    status_ = more.status();
    return false;
  }
  Take(*std::move(more));
  return ResultCursor::Next();
}

absl::Status CopyInsert::Finish() {
  if (lines_.empty()) return absl::OkStatus();
  lines_.pop_back();  // the writer ends the last line
  return connection_->Copy(table_, columns_, lines_);
}

absl::Status BadConfig(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_CONFIG", message);
}

std::string Quoted(std::string_view value) {
  std::string out = "'";
  for (const char c : value) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out += "'";
}

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

// What the URI says, by libpq's names.
absl::StatusOr<std::map<std::string, std::string>> ParseUri(const std::string& uri) {
  char* error = nullptr;
  const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(PQconninfoParse(uri.c_str(), &error));
  PQfreemem(error);  // may show a password
  if (parsed == nullptr || !IsPostgresUri(uri)) {
    return BadConfig("the database is not a URI as libpq takes it: postgresql://user@host:port/name");
  }
  std::map<std::string, std::string> values;
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
    if (option->val != nullptr) values[option->keyword] = option->val;
  }
  if (values.contains("password")) {
    return BadConfig("the database's URI has a password; put it into the password file");
  }
  return values;
}

class Pool {
 public:
  static absl::StatusOr<std::unique_ptr<Pool>> Create(PostgresOptions options, bool warn) {
    TH_RETURN_IF_ERROR(ParseUri(options.uri).status());
    return std::unique_ptr<Pool>(new Pool(std::move(options), warn));
  }

  ~Pool() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    watchdog_.join();
  }

  const PostgresOptions& options() const { return options_; }

  // A connection within a transaction that `begin` has begun.
  absl::StatusOr<std::unique_ptr<PgConnection>> Begin(const char* begin) {
    {
      absl::MutexLock lock(&mutex_);
      const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return in_use_ < options_.connections;
      };
      if (!mutex_.AwaitWithTimeout(absl::Condition(&free), options_.acquire_timeout)) {
        return Unavailable("SQL_BUSY", "all connections to the database are in use");
      }
      ++in_use_;
    }
    absl::StatusOr<std::unique_ptr<PgConnection>> connection = BeginOnAny(begin);
    if (!connection.ok()) {
      absl::MutexLock lock(&mutex_);
      --in_use_;
    }
    return connection;
  }

  // `keep`: its transaction has ended well or was rolled back.
  void Return(std::unique_ptr<PgConnection> connection, bool keep) {
    keep = keep && connection->usable();
    absl::MutexLock lock(&mutex_);
    --in_use_;
    if (keep) {
      idle_.push_back(std::move(connection));
    } else {
      watched_.erase(connection.get());
    }
  }

 private:
  Pool(PostgresOptions options, bool warn)
      : options_(std::move(options)), warn_(warn), watchdog_([this] { Watch(); }) {}

  absl::StatusOr<std::unique_ptr<PgConnection>> BeginOnAny(const char* begin) {
    for (;;) {  // a connection that rested may have been cut
      std::unique_ptr<PgConnection> rested;
      {
        absl::MutexLock lock(&mutex_);
        if (idle_.empty()) break;
        rested = std::move(idle_.back());
        idle_.pop_back();
      }
      if (rested->usable() && rested->Begin(begin).ok()) return rested;
      Forget(rested.get());
    }
    TH_ASSIGN_OR_RETURN(std::unique_ptr<PgConnection> fresh, Connect());
    const absl::Status status = fresh->Begin(begin);
    if (status.ok()) return fresh;
    Forget(fresh.get());
    return status;
  }

  void Forget(PgConnection* connection) {
    absl::MutexLock lock(&mutex_);
    watched_.erase(connection);
  }

  absl::StatusOr<std::unique_ptr<PgConnection>> Connect() {
    TH_ASSIGN_OR_RETURN(const std::string conninfo, PostgresConninfo(options_));
    std::unique_ptr<PgConnection> connection;
    try {
      connection = std::make_unique<PgConnection>(
          conninfo, options_.statement_timeout > absl::ZeroDuration()
                        ? options_.statement_timeout + options_.answer_grace
                        : absl::InfiniteDuration());
    } catch (...) {
      return FromException(false);
    }
    {
      absl::MutexLock lock(&mutex_);
      watched_.insert(connection.get());
    }
    const absl::Status prepared = Prepare(*connection);
    if (!prepared.ok()) {
      Forget(connection.get());
      return prepared;
    }
    return connection;
  }

  absl::Status Prepare(PgConnection& connection) {
    const int64_t timeout = absl::ToInt64Milliseconds(options_.statement_timeout);
    TH_ASSIGN_OR_RETURN(
        const pqxx::result result,
        connection.Exec(absl::StrCat(
            "SET statement_timeout = ", timeout,
            "; SET lock_timeout = ", absl::ToInt64Milliseconds(options_.lock_timeout),
            // A program that is stopped with locks in its hands loses them.
            "; SET idle_in_transaction_session_timeout = ", timeout, "; SET jit = off; SET timezone = 'UTC'; "
            "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool, "
            "current_setting('synchronous_commit') IN ('on', 'remote_apply', 'remote_write') AND "
            "current_setting('synchronous_standby_names') <> ''")));
    if (result[0][0].as<bool>() || result[0][1].as<bool>()) {
      return Unavailable("SQL_READ_ONLY", absl::StrCat("the database server ", PostgresAddress(options_.uri),
                                                       " takes no writes: a standby, or set read-only"));
    }
    if (!result[0][2].as<bool>() && warn_.exchange(false)) {
      obs::Warning("postgres_asynchronous",
                   {{"server", PostgresAddress(options_.uri)},
                    {"consequence", "a failover may lose committed transactions, and hard caps with them"},
                    {"remedy", "synchronous_standby_names and synchronous_commit = on"}});
    }
    if (options_.on_connect == nullptr) return absl::OkStatus();
    TH_RETURN_IF_ERROR(connection.Begin("BEGIN"));
    TH_RETURN_IF_ERROR(options_.on_connect(connection));
    return connection.Commit();
  }

  // Breaks connections whose server does not answer.
  void Watch() {
    absl::MutexLock lock(&mutex_);
    while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kWatchInterval)) {
      const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
      for (PgConnection* const connection : watched_) connection->BreakIfOverdue(now);
    }
  }

  const PostgresOptions options_;
  std::atomic<bool> warn_;  // of a server whose COMMITs wait for no standby, once
  absl::Mutex mutex_;
  int in_use_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<PgConnection*> watched_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<PgConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watchdog_;
};

constexpr char kBeginRead[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

class PostgresDatabase final : public Database {
 public:
  explicit PostgresDatabase(std::unique_ptr<Pool> pool) : pool_(std::move(pool)) {}

  Dialect dialect() const override { return Dialect::kPostgres; }

  absl::Status Write(const Body& body) override {
    const char* const begin = pool_->options().isolation == Isolation::kSerializable
                                  ? "BEGIN ISOLATION LEVEL SERIALIZABLE"
                                  : "BEGIN ISOLATION LEVEL READ COMMITTED";
    absl::BitGen random;
    for (int attempt = 1;; ++attempt) {
      const absl::Status status = Once(begin, body, /*commit=*/true);
      if (attempt == kAttempts || ReasonOf(status) != "SQL_RETRY") return status;
      absl::SleepFor(absl::Milliseconds(absl::Uniform(random, 0, 2 << attempt)));
    }
  }

  absl::Status Read(const Body& body) override { return Once(kBeginRead, body, /*commit=*/false); }

 private:
  absl::Status Once(const char* begin, const Body& body, bool commit) {
    TH_ASSIGN_OR_RETURN(std::unique_ptr<PgConnection> connection, pool_->Begin(begin));
    absl::Status status = body(*connection);
    if (status.ok() && commit) {
      status = connection->Commit();
    } else {
      connection->Rollback();
    }
    // A server that turned into a standby is not asked again.
    const std::string reason = ReasonOf(status);
    pool_->Return(std::move(connection), reason != "SQL_READ_ONLY" && reason != "SQL_COMMIT_UNKNOWN");
    return status;
  }

  const std::unique_ptr<Pool> pool_;
};

absl::StatusOr<int64_t> SchemaVersion(Connection& c) {
  TH_ASSIGN_OR_RETURN(Rows exists, c.Query("SELECT to_regclass('schema_version') IS NOT NULL"));
  if (!exists.Next() || !exists.Bool(0)) return 0;
  TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT coalesce(max(version), 0) FROM schema_version"));
  return rows.Next() ? rows.Int(0) : 0;
}

absl::Status SchemaNew(int64_t current, int64_t newest) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "SCHEMA_NEW",
                   absl::StrCat("the database has schema ", current, ", this program knows ", newest,
                                ": start a newer version of it"));
}

}  // namespace

bool IsPostgresUri(std::string_view database) {
  return absl::StartsWith(Absl(database), "postgresql://") || absl::StartsWith(Absl(database), "postgres://");
}

std::string PostgresAddress(std::string_view uri) {
  const auto values = ParseUri(std::string(uri));
  if (!values.ok()) return "";
  const auto value = [&](const char* key) {
    const auto found = values->find(key);
    return found == values->end() ? std::string() : found->second;
  };
  return absl::StrCat(value("host"), ":", value("port"), "/", value("dbname"));
}

absl::StatusOr<std::string> PostgresConninfo(const PostgresOptions& options) {
  TH_ASSIGN_OR_RETURN(auto values, ParseUri(options.uri));
  values.try_emplace("connect_timeout",
                     absl::StrCat(std::max<int64_t>(2, absl::ToInt64Seconds(options.connect_timeout))));
  values.try_emplace("application_name", options.application_name);
  values.try_emplace("client_encoding", "UTF8");
  values.try_emplace("keepalives_idle", "10");
  values.try_emplace("keepalives_interval", "5");
  values.try_emplace("keepalives_count", "3");
  if (!options.password_file.empty()) {
    std::ifstream file(options.password_file);
    std::string password((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file) {
      return Unavailable(
          "SQL_UNAVAILABLE",
          absl::StrCat("cannot read the database's password from ", options.password_file));
    }
    while (!password.empty() && (password.back() == '\n' || password.back() == '\r')) {
      password.pop_back();
    }
    values["password"] = std::move(password);
  }
  std::string conninfo;
  for (const auto& [key, value] : values) absl::StrAppend(&conninfo, key, "=", Quoted(value), " ");
  return conninfo;
}

absl::StatusOr<std::unique_ptr<Database>> OpenPostgres(PostgresOptions options,
                                                       std::span<const Migration> migrations) {
  TH_ASSIGN_OR_RETURN(std::unique_ptr<Pool> pool, Pool::Create(std::move(options), /*warn=*/true));
  auto database = std::make_unique<PostgresDatabase>(std::move(pool));
  int64_t current = 0;
  TH_RETURN_IF_ERROR(database->Read([&](Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(current, SchemaVersion(c));
    return absl::OkStatus();
  }));
  const int64_t newest = migrations.empty() ? 0 : migrations.back().version;
  if (current > newest) return SchemaNew(current, newest);
  if (current < newest) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "SCHEMA_OLD",
                     absl::StrCat("the database has schema ", current, ", this program needs ", newest,
                                  ": run its `migrate` command first"));
  }
  return database;
}

absl::Status MigratePostgres(const PostgresOptions& options, std::span<const Migration> migrations) {
  PostgresOptions patient = options;
  patient.statement_timeout = absl::ZeroDuration();
  patient.lock_timeout = absl::ZeroDuration();
  patient.isolation = Isolation::kReadCommitted;
  patient.connections = 1;
  TH_ASSIGN_OR_RETURN(std::unique_ptr<Pool> pool, Pool::Create(std::move(patient), /*warn=*/false));
  PostgresDatabase database(std::move(pool));
  return database.Write([&](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Query("SELECT pg_advisory_xact_lock(?1)", kMigrationLock).status());
    TH_RETURN_IF_ERROR(
        c.ExecuteScript("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)"));
    TH_ASSIGN_OR_RETURN(const int64_t current, SchemaVersion(c));
    const int64_t newest = migrations.empty() ? 0 : migrations.back().version;
    if (current > newest) return SchemaNew(current, newest);
    for (const Migration& migration : migrations) {
      if (migration.version <= current) continue;
      TH_RETURN_IF_ERROR(c.ExecuteScript(std::string(migration.sql)));
      TH_RETURN_IF_ERROR(
          c.Execute("INSERT INTO schema_version VALUES (?1)", migration.version).status());
    }
    return absl::OkStatus();
  });
}

}  // namespace tollhouse::sql

#pragma GCC diagnostic pop
