#include "libs/audit/log.h"

#include <unistd.h>

#include <map>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/random.h"

namespace tollhouse::audit {
namespace {

using common::v1::AuditEvent;
using common::v1::AuditHead;

constexpr int64_t kPageDefault = 100;
constexpr int64_t kPageMax = 1000;
constexpr int kProblemsMax = 1000;
constexpr size_t kNameMax = 512;     // bytes of an actor, a resource and the like
constexpr size_t kTextMax = 16'384;  // of a request and what is before and after it

constexpr std::string_view kSqliteSchema = R"sql(
-- libs/audit/log.h
CREATE TABLE audit_root (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  chains INTEGER NOT NULL,     -- how many there are
  opening BLOB NOT NULL        -- of the last one
) STRICT;
INSERT INTO audit_root (id, chains, opening) VALUES (1, 0, x'');
-- One chain per process and month; its head. The opening is a hash over this row's first columns and the
-- opening of the chain before.
CREATE TABLE audit_chain (
  chain INTEGER PRIMARY KEY,
  writer TEXT NOT NULL,
  part TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  opening BLOB NOT NULL,
  sequence INTEGER NOT NULL,   -- of its last event
  hash BLOB NOT NULL,          -- of its last event
  UNIQUE (writer, part)
) STRICT;
CREATE TABLE audit_event (
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  role TEXT NOT NULL,
  subtree TEXT NOT NULL,
  peer TEXT NOT NULL,
  method TEXT NOT NULL,
  resource TEXT NOT NULL,
  account TEXT NOT NULL,
  result TEXT NOT NULL,
  message TEXT NOT NULL,
  request TEXT NOT NULL,
  state_before TEXT NOT NULL,
  state_after TEXT NOT NULL,
  hash BLOB NOT NULL,          -- over this row and the hash before
  PRIMARY KEY (chain, sequence)
) STRICT;
CREATE INDEX audit_event_at ON audit_event (at);
CREATE TRIGGER audit_event_is_not_updated BEFORE UPDATE ON audit_event
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_event_is_not_deleted BEFORE DELETE ON audit_event
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
)sql";

constexpr std::string_view kPostgresSchema = R"sql(
-- libs/audit/log.h
CREATE TABLE audit_root (
  id bigint PRIMARY KEY CHECK (id = 1),
  chains bigint NOT NULL,     -- how many there are
  opening bytea NOT NULL      -- of the last one
);
INSERT INTO audit_root (id, chains, opening) VALUES (1, 0, '');
-- One chain per process and month; its head. The opening is a hash over this row's first columns and the
-- opening of the chain before.
CREATE TABLE audit_chain (
  chain bigint PRIMARY KEY,
  writer text NOT NULL,
  part text NOT NULL,
  opened_at bigint NOT NULL,
  opening bytea NOT NULL,
  sequence bigint NOT NULL,   -- of its last event
  hash bytea NOT NULL,        -- of its last event
  UNIQUE (writer, part)
);
CREATE TABLE audit_event (
  chain bigint NOT NULL,
  sequence bigint NOT NULL,
  at bigint NOT NULL,
  actor text NOT NULL,
  role text NOT NULL,
  subtree text NOT NULL,
  peer text NOT NULL,
  method text NOT NULL,
  resource text NOT NULL,
  account text NOT NULL,
  result text NOT NULL,
  message text NOT NULL,
  request text NOT NULL,
  state_before text NOT NULL,
  state_after text NOT NULL,
  hash bytea NOT NULL,        -- over this row and the hash before
  PRIMARY KEY (chain, sequence)
);
CREATE INDEX audit_event_at ON audit_event (at);
CREATE FUNCTION audit_event_is_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$;
CREATE TRIGGER audit_event_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
  FOR EACH STATEMENT EXECUTE FUNCTION audit_event_is_kept();
)sql";

constexpr std::string_view kSelectEvents =
    "SELECT chain, sequence, at, actor, role, subtree, peer, method, resource, account, result, "
    "message, "
    "request, state_before, state_after, hash FROM audit_event ";
constexpr int kHashColumn = 15;

// Bytes under which no two different sequences of parts look the same.
class Image {
 public:
  void Add(int64_t number) {
    for (int shift = 0; shift < 64; shift += 8) {
      bytes_.push_back(static_cast<char>(static_cast<uint64_t>(number) >> shift));
    }
  }
  void Add(std::string_view text) {
    Add(static_cast<int64_t>(text.size()));
    bytes_.append(text);
  }
  std::string Hash() const { return std::string(crypto::AsBytes(crypto::Sha256(bytes_))); }

 private:
  std::string bytes_;
};

std::string HashOfOpening(std::string_view service, std::string_view previous, int64_t chain,
                          std::string_view writer, std::string_view part, int64_t opened_at) {
  Image image;
  image.Add("tollhouse audit chain");
  image.Add(service);
  image.Add(previous);
  image.Add(chain);
  image.Add(writer);
  image.Add(part);
  image.Add(opened_at);
  return image.Hash();
}

int64_t ToMicros(const google::protobuf::Timestamp& stamp) {
  return stamp.seconds() * 1'000'000 + stamp.nanos() / 1000;
}

void SetMicros(int64_t micros, google::protobuf::Timestamp* stamp) {
  stamp->set_seconds(micros / 1'000'000);
  stamp->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

std::string HashOfEvent(std::string_view previous, const AuditEvent& event) {
  Image image;
  image.Add(previous);
  image.Add(event.chain());
  image.Add(event.sequence());
  image.Add(ToMicros(event.at()));
  for (const std::string* const text :
       {&event.actor(), &event.role(), &event.subtree(), &event.peer(), &event.method(),
        &event.resource(), &event.account(), &event.result(), &event.message(), &event.request(),
        &event.before(), &event.after()}) {
    image.Add(*text);
  }
  return image.Hash();
}

// How many bytes the UTF-8 character at the front takes; 0 if there is none.
size_t CharacterAt(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t size = first < 0x80                    ? 1
                      : first >= 0xc2 && first < 0xe0 ? 2
                      : first >= 0xe0 && first < 0xf0 ? 3
                      : first >= 0xf0 && first < 0xf5 ? 4
                                                      : 0;
  if (size == 0 || size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (size == 3 && ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0)))
    return 0;
  if (size == 4 && ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) >= 0x90)))
    return 0;
  return size;
}

// What both databases give back as it was put in: UTF-8 without control characters.
void Clean(std::string* text, size_t max) {
  std::string clean;
  for (std::string_view rest = *text; !rest.empty();) {
    const size_t size = CharacterAt(rest);
    if (clean.size() + std::max<size_t>(size, 1) > max) {
      absl::StrAppend(&clean, "... (", text->size(), " bytes)");
      break;
    }
    const bool control =
        size == 1 && (static_cast<unsigned char>(rest[0]) < 0x20 || rest[0] == 0x7f);
    if (size == 0 || control) {
      clean += '?';
    } else {
      clean += rest.substr(0, size);
    }
    rest.remove_prefix(std::max<size_t>(size, 1));
  }
  *text = std::move(clean);
}

AuditEvent EventFrom(const sql::Rows& rows) {
  AuditEvent event;
  event.set_chain(rows.Int(0));
  event.set_sequence(rows.Int(1));
  SetMicros(rows.Int(2), event.mutable_at());
  event.set_actor(rows.Text(3));
  event.set_role(rows.Text(4));
  event.set_subtree(rows.Text(5));
  event.set_peer(rows.Text(6));
  event.set_method(rows.Text(7));
  event.set_resource(rows.Text(8));
  event.set_account(rows.Text(9));
  event.set_result(rows.Text(10));
  event.set_message(rows.Text(11));
  event.set_request(rows.Text(12));
  event.set_before(rows.Text(13));
  event.set_after(rows.Text(14));
  return event;
}

struct Head {
  int64_t chain = 0;
  int64_t sequence = 0;
  std::string hash;
};

// Moves the chain on by one event, and locks it. Nothing if it has not been opened.
absl::StatusOr<std::optional<Head>> Advance(sql::Connection& c, std::string_view writer,
                                            std::string_view part) {
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      c.Query("UPDATE audit_chain SET sequence = sequence + 1 WHERE writer = ?1 AND "
              "part = ?2 RETURNING chain, sequence, hash",
              writer, part));
  std::optional<Head> head;
  while (rows.Next()) head = Head{rows.Int(0), rows.Int(1), rows.Text(2)};
  TH_RETURN_IF_ERROR(rows.status());
  return head;
}

absl::StatusOr<Head> OpenChain(sql::Connection& c, std::string_view service,
                               std::string_view writer, std::string_view part, int64_t now) {
  Head head;
  std::string previous;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("UPDATE audit_root SET chains = chains + 1 WHERE id = 1 "
                                "RETURNING chains, opening"));
    while (rows.Next()) {
      head.chain = rows.Int(0);
      previous = rows.Text(1);
    }
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (head.chain == 0) return absl::DataLossError("audit_root is empty");
  head.sequence = 1;
  head.hash = HashOfOpening(service, previous, head.chain, writer, part, now);
  TH_RETURN_IF_ERROR(
      c.Execute("UPDATE audit_root SET opening = ?1 WHERE id = 1", sql::Blob{head.hash}).status());
  TH_RETURN_IF_ERROR(
      c.Execute("INSERT INTO audit_chain (chain, writer, part, opened_at, opening, sequence, "
                "hash) VALUES (?1, ?2, ?3, ?4, ?5, 1, ?5)",
                head.chain, writer, part, now, sql::Blob{head.hash})
          .status());
  return head;
}

// This process, and roughly where it runs.
std::string WriterName() {
  char host[65] = {};
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  std::string name(host);
  Clean(&name, 64);
  return absl::StrCat(name, "/", crypto::Hex(crypto::RandomBytes(6)));
}

// Goes through the whole log, chain by chain.
class Verifier {
 public:
  Verifier(std::string_view service, sql::Connection& c,
           const google::protobuf::RepeatedPtrField<AuditHead>& expected,
           common::v1::AuditReport* report)
      : service_(service), c_(c), report_(report) {
    for (const AuditHead& head : expected) {
      if (head.service() == service_) expected_[{head.chain(), head.sequence()}] = &head;
    }
  }

  absl::Status Run() {
    int64_t chains = 0;
    std::string last_opening;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows, c_.Query("SELECT chains, opening FROM audit_root"));
      if (rows.Next()) {
        chains = rows.Int(0);
        last_opening = rows.Text(1);
      }
      TH_RETURN_IF_ERROR(rows.status());
    }
    TH_RETURN_IF_ERROR(ReadChains(chains, last_opening));
    for (const Chain& chain : chains_) TH_RETURN_IF_ERROR(VerifyChain(chain));
    TH_RETURN_IF_ERROR(FindStrays());
    for (const auto& [key, head] : expected_) {
      Problem("chain ", key.first, " was cut or written anew: it had an event ", key.second,
              " with the hash ", head->hash());
    }
    return absl::OkStatus();
  }

 private:
  struct Chain {
    AuditHead head;
    std::string opening, hash;
  };

  template <typename... Parts>
  void Problem(const Parts&... parts) {
    if (report_->problems_size() < kProblemsMax) {
      report_->add_problems(absl::StrCat(Absl(service_), ": ", parts...));
    }
  }

  absl::Status ReadChains(int64_t count, const std::string& last_opening) {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c_.Query("SELECT chain, writer, part, opened_at, opening, sequence, hash FROM "
                 "audit_chain ORDER BY chain"));
    int64_t next = 1;
    std::string previous;
    bool known = true;  // whether `previous` is the opening before
    while (rows.Next()) {
      Chain& chain = chains_.emplace_back();
      chain.head.set_service(std::string(service_));
      chain.head.set_chain(rows.Int(0));
      chain.head.set_writer(rows.Text(1));
      chain.head.set_partition(rows.Text(2));
      chain.head.set_sequence(rows.Int(5));
      chain.opening = rows.Text(4);
      chain.hash = rows.Text(6);
      chain.head.set_hash(crypto::Hex(chain.hash));
      for (; next < rows.Int(0); ++next) {
        Problem("chain ", next, " was removed");
        known = false;
      }
      if (known && HashOfOpening(service_, previous, rows.Int(0), rows.View(1), rows.View(2),
                                 rows.Int(3)) != chain.opening) {
        Problem("the head of chain ", rows.Int(0), " was changed");
      }
      previous = chain.opening;
      known = true;
      next = rows.Int(0) + 1;
      *report_->add_heads() = chain.head;
    }
    TH_RETURN_IF_ERROR(rows.status());
    for (; next <= count; ++next) {
      Problem("chain ", next, " was removed");
      known = false;
    }
    if (next - 1 != count || (known && previous != last_opening)) Problem("audit_root was changed");
    return absl::OkStatus();
  }

  absl::Status VerifyChain(const Chain& chain) {
    const int64_t id = chain.head.chain();
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c_.Scan(absl::StrCat(Absl(kSelectEvents), "WHERE chain = ?1 ORDER BY sequence"), id));
    int64_t next = 1;
    std::string previous = chain.opening;
    bool known = true;  // whether `previous` is the hash before
    while (rows.Next()) {
      const AuditEvent event = EventFrom(rows);
      const std::string_view hash = rows.View(kHashColumn);
      report_->set_events(report_->events() + 1);
      for (; next < event.sequence() && next <= chain.head.sequence(); ++next) {
        Problem("event ", next, " of chain ", id, " was removed");
        known = false;
      }
      if (event.sequence() > chain.head.sequence() || event.sequence() < 1) {
        Problem(NameOf(event), " was added: the chain ends at ", chain.head.sequence());
        continue;
      }
      if (known && HashOfEvent(previous, event) != hash)
        Problem(NameOf(event), " was changed or put there");
      // Each row is judged by what stands before it, so that one bad row is one problem.
      previous = std::string(hash);
      known = true;
      next = event.sequence() + 1;
      const auto expected = expected_.find({id, event.sequence()});
      if (expected != expected_.end() && expected->second->hash() == crypto::Hex(hash)) {
        expected_.erase(expected);
      }
    }
    TH_RETURN_IF_ERROR(rows.status());
    for (; next <= chain.head.sequence(); ++next) {
      Problem("event ", next, " of chain ", id, " was removed");
      known = false;
    }
    if (known && previous != chain.hash) Problem("the head of chain ", id, " was changed");
    return absl::OkStatus();
  }

  absl::Status FindStrays() {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c_.Query(absl::StrCat(Absl(kSelectEvents),
                                              "WHERE chain NOT IN (SELECT chain FROM audit_chain) "
                                              "ORDER BY chain, sequence LIMIT 1000")));
    while (rows.Next()) Problem(NameOf(EventFrom(rows)), " was added: there is no such chain");
    return rows.status();
  }

  static std::string NameOf(const AuditEvent& event) {
    return absl::StrCat(
        "event ", event.sequence(), " of chain ", event.chain(), " (",
        absl::FormatTime(absl::FromUnixMicros(ToMicros(event.at())), absl::UTCTimeZone()), ", ",
        event.actor(), ", ", event.method(), " ", event.resource(), ")");
  }

  const std::string_view service_;
  sql::Connection& c_;
  common::v1::AuditReport* const report_;
  std::map<std::pair<int64_t, int64_t>, const AuditHead*>
      expected_;  // by chain and sequence, not found yet
  std::vector<Chain> chains_;
};

}  // namespace

std::string_view LogSchema(sql::Dialect dialect) {
  return dialect == sql::Dialect::kSqlite ? kSqliteSchema : kPostgresSchema;
}

Log::Log(sql::Database* database, std::string_view service, const Clock* clock)
    : database_(database), service_(service), clock_(clock), writer_(WriterName()) {}

absl::Status Log::Append(sql::Connection& c, AuditEvent* event) {
  const absl::Time now = clock_->Wall();
  const std::string part = absl::FormatTime("%Y-%m", now, absl::UTCTimeZone());
  for (std::string* const text :
       {event->mutable_actor(), event->mutable_role(), event->mutable_subtree(),
        event->mutable_peer(), event->mutable_method(), event->mutable_resource(),
        event->mutable_account(), event->mutable_result(), event->mutable_message()}) {
    Clean(text, kNameMax);
  }
  for (std::string* const text :
       {event->mutable_request(), event->mutable_before(), event->mutable_after()}) {
    Clean(text, kTextMax);
  }
  TH_ASSIGN_OR_RETURN(std::optional<Head> head, Advance(c, writer_, part));
  if (!head.has_value()) {
    TH_ASSIGN_OR_RETURN(head, OpenChain(c, service_, writer_, part, absl::ToUnixMicros(now)));
  }
  event->set_service(service_);
  event->set_chain(head->chain);
  event->set_sequence(head->sequence);
  SetMicros(absl::ToUnixMicros(now), event->mutable_at());
  const std::string hash = HashOfEvent(head->hash, *event);
  TH_RETURN_IF_ERROR(c.Execute("INSERT INTO audit_event (chain, sequence, at, actor, role, "
                               "subtree, peer, method, resource, "
                               "account, result, message, request, state_before, state_after, "
                               "hash) VALUES (?1, ?2, ?3, "
                               "?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
                               event->chain(), event->sequence(), ToMicros(event->at()),
                               event->actor(), event->role(), event->subtree(), event->peer(),
                               event->method(), event->resource(), event->account(),
                               event->result(), event->message(), event->request(), event->before(),
                               event->after(), sql::Blob{hash})
                         .status());
  return c
      .Execute("UPDATE audit_chain SET hash = ?2 WHERE chain = ?1", event->chain(), sql::Blob{hash})
      .status();
}

absl::Status Log::Append(AuditEvent* event) {
  absl::MutexLock lock(&append_mutex_);
  return database_->Write([&](sql::Connection& c) { return Append(c, event); });
}

absl::StatusOr<common::v1::AuditPage> Log::List(const common::v1::AuditQuery& query,
                                                std::string_view subtree) {
  const int64_t size =
      query.page_size() <= 0 ? kPageDefault : std::min<int64_t>(query.page_size(), kPageMax);
  constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
  int64_t at = kForever, chain = kForever, sequence = kForever;
  if (!query.page_token().empty()) {
    const std::vector<std::string> parts = absl::StrSplit(query.page_token(), '.');
    if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &at) ||
        !absl::SimpleAtoi(parts[1], &chain) || !absl::SimpleAtoi(parts[2], &sequence)) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", "this is no page token");
    }
  }
  common::v1::AuditPage page;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query(absl::StrCat(Absl(kSelectEvents),
                             "WHERE at >= ?1 AND at < ?2 AND (at, chain, sequence) < (?3, ?4, ?5) "
                             "AND (CAST(?6 AS TEXT) = '' OR actor = ?6) "
                             "AND (CAST(?7 AS TEXT) = '' OR resource = ?7 OR "
                             "substr(resource, 1, length(?7) + 1) IN (?7 || '/', ?7 || '#')) "
                             "AND (CAST(?8 AS TEXT) = '' OR account = ?8 OR "
                             "substr(account, 1, length(?8) + 1) = ?8 || '/') "
                             "ORDER BY at DESC, chain DESC, sequence DESC LIMIT ?9"),
                query.has_since() ? ToMicros(query.since()) : 0,
                query.has_until() ? ToMicros(query.until()) : kForever, at, chain, sequence,
                query.actor(), query.resource(), subtree, size));
    while (rows.Next()) {
      AuditEvent& event = *page.add_events() = EventFrom(rows);
      event.set_service(service_);
    }
    return rows.status();
  }));
  if (page.events_size() == size) {
    const AuditEvent& last = page.events(page.events_size() - 1);
    page.set_next_page_token(
        absl::StrCat(ToMicros(last.at()), ".", last.chain(), ".", last.sequence()));
  }
  return page;
}

absl::StatusOr<common::v1::AuditReport> Log::Verify(
    const google::protobuf::RepeatedPtrField<AuditHead>& expected) {
  common::v1::AuditReport report;
  TH_RETURN_IF_ERROR(database_->Read(
      [&](sql::Connection& c) { return Verifier(service_, c, expected, &report).Run(); }));
  return report;
}

}  // namespace tollhouse::audit
