#include "services/edge/journal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "services/edge/crc32c.h"

namespace tollhouse::edge {
namespace {

constexpr std::string_view kMagic = "THJRNL01";
constexpr int64_t kHeaderBytes = 12;
constexpr uint32_t kMaxPayload = 16 << 20;
constexpr absl::Duration kRetryInterval = absl::Milliseconds(100);

using v1::JournalRecord;

void PutU32(char* out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>(value >> (8 * i));
}

uint32_t GetU32(const char* in) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(in[i])) << (8 * i);
  return value;
}

std::string FrameOf(const JournalRecord& record) {
  const size_t size = record.ByteSizeLong();
  std::string frame(kHeaderBytes + size, '\0');
  record.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(frame.data() + kHeaderBytes));
  PutU32(frame.data(), static_cast<uint32_t>(size));
  PutU32(frame.data() + 4, Crc32c(std::string_view(frame).substr(kHeaderBytes)));
  PutU32(frame.data() + 8, Crc32c(std::string_view(frame).substr(0, 8)));
  return frame;
}

// The frame of an intent or result without a copy of the entry.
std::string FrameOfEntry(const ledger::v1::Entry& entry, bool result) {
  JournalRecord record;
  auto* borrowed = const_cast<ledger::v1::Entry*>(&entry);
  if (result) {
    record.unsafe_arena_set_allocated_result(borrowed);
  } else {
    record.unsafe_arena_set_allocated_intent(borrowed);
  }
  std::string frame = FrameOf(record);
  if (result) {
    record.unsafe_arena_release_result();
  } else {
    record.unsafe_arena_release_intent();
  }
  return frame;
}

// The payload of the frame at `offset`, nullopt if there is no whole and sound one.
std::optional<std::string_view> FrameAt(std::string_view data, size_t offset) {
  if (data.size() < offset + kHeaderBytes) return std::nullopt;
  const char* p = data.data() + offset;
  if (GetU32(p + 8) != Crc32c(data.substr(offset, 8))) return std::nullopt;
  const uint32_t length = GetU32(p);
  if (length > kMaxPayload || data.size() - offset - kHeaderBytes < length) return std::nullopt;
  const std::string_view payload = data.substr(offset + kHeaderBytes, length);
  if (GetU32(p + 4) != Crc32c(payload)) return std::nullopt;
  return payload;
}

absl::Status FileError(std::string_view what, const std::string& path, int error) {
  const bool space = error == ENOSPC || error == EFBIG || error == EDQUOT;
  return MakeError(space ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal,
                   space ? "JOURNAL_FULL" : "JOURNAL_FAILED",
                   absl::StrCat("cannot ", Absl(what), " ", path, ": ", std::strerror(error)));
}

absl::Status Full(std::string_view message) {
  return MakeError(absl::StatusCode::kResourceExhausted, "JOURNAL_FULL", message);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError("open", path, errno);
  std::string data;
  char buffer[64 << 10];
  for (;;) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      close(fd);
      return FileError("read", path, error);
    }
    if (n == 0) break;
    data.append(buffer, n);
  }
  close(fd);
  return data;
}

// 0 or errno.
int WriteAt(int fd, std::string_view data, int64_t offset) {
  while (!data.empty()) {
    const ssize_t n = pwrite(fd, data.data(), data.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ENOSPC;
    data.remove_prefix(n);
    offset += n;
  }
  return 0;
}

// Sets space aside without changing the file's size; true also where the file system cannot.
bool Allocate(int fd, int64_t bytes) {
  if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes) == 0) return true;
  return errno == EOPNOTSUPP || errno == ENOSYS;
}

// Replaces a small file as a whole; it is on disk when this returns.
absl::Status WriteFile(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".new";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return FileError("create", temporary, errno);
  int error = WriteAt(fd, content, 0);
  if (error == 0 && fsync(fd) != 0) error = errno;
  close(fd);
  if (error == 0 && rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : FileError("write", path, error);
}

// "" if there is no such file.
absl::StatusOr<std::string> ReadIfThere(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return std::string();
  return ReadFile(path);
}

constexpr std::string_view kClosed = "closed";

// The edge's name. A new one if the journal is new, or may have lost its tail with the power.
absl::StatusOr<std::string> LoadEdgeId(const JournalOptions& options) {
  const std::string path = options.dir + "/edge_id";
  const std::string machine_path = options.dir + "/machine";
  TH_ASSIGN_OR_RETURN(std::string id, ReadIfThere(path));
  TH_ASSIGN_OR_RETURN(const std::string machine, ReadIfThere(machine_path));
  if (!id.empty() && !ParseUuid(id).ok()) {
    return MakeError(absl::StatusCode::kDataLoss, "JOURNAL_CORRUPT",
                     absl::StrCat(path, " does not hold an id"));
  }
  const bool lost = !id.empty() && !machine.empty() && machine != kClosed &&
                    !options.machine.empty() && machine != options.machine;
  if (id.empty() || lost) {
    const std::string fresh = NewUuid(options.clock->Wall()).ToString();
    if (lost) {
      obs::Warning("journal_tail_may_be_lost", {{"edge_id", id}, {"new_edge_id", fresh}});
    }
    TH_RETURN_IF_ERROR(WriteFile(path, fresh));
    id = fresh;
  }
  if (!options.machine.empty()) TH_RETURN_IF_ERROR(WriteFile(machine_path, options.machine));
  return id;
}

absl::StatusOr<int64_t> LoadReplayedGeneration(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return 0;
  TH_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  int64_t generation = 0;
  if (!absl::SimpleAtoi(text, &generation)) {
    return MakeError(absl::StatusCode::kDataLoss, "JOURNAL_CORRUPT",
                     absl::StrCat(path, " does not hold a number"));
  }
  return generation;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const JournalOptions& given) {
  // Space comes back a segment at a time, never the one that is written to.
  JournalOptions options = given;
  options.segment_bytes = std::min(given.segment_bytes, given.max_bytes / 4);
  // A file size limit must be an error of write, not the end of the process.
  struct sigaction action;
  if (sigaction(SIGXFSZ, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
    signal(SIGXFSZ, SIG_IGN);
  }
  if (mkdir(options.dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return FileError("create", options.dir, errno);
  }
  auto journal = std::unique_ptr<Journal>(new Journal(options));
  const std::string lock_path = options.dir + "/lock";
  journal->lock_fd_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (journal->lock_fd_ < 0) return FileError("open", lock_path, errno);
  if (flock(journal->lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return MakeError(absl::StatusCode::kAlreadyExists, "JOURNAL_LOCKED",
                     absl::StrCat("another process uses the journal in ", options.dir));
  }
  TH_ASSIGN_OR_RETURN(journal->edge_id_, LoadEdgeId(options));
  TH_ASSIGN_OR_RETURN(const int64_t replayed,
                      LoadReplayedGeneration(options.dir + "/replayed_generation"));
  {
    absl::MutexLock lock(&journal->mutex_);
    journal->replayed_generation_ = replayed;
  }
  TH_RETURN_IF_ERROR(journal->Load());
  return journal;
}

Journal::~Journal() {
  absl::MutexLock lock(&mutex_);
  if (fd_ >= 0) close(fd_);
  if (lock_fd_ >= 0) close(lock_fd_);
}

void Journal::Close() {
  absl::MutexLock lock(&mutex_);
  if (fd_ < 0 || syncfs(fd_) != 0) return;  // as after a loss of power
  const absl::Status closed = WriteFile(options_.dir + "/machine", kClosed);
  if (!closed.ok()) obs::Warning("journal_not_closed", {{"error", Std(closed.message())}});
}

std::string Journal::PathOf(uint64_t number) const {
  return absl::StrFormat("%s/%016x.journal", options_.dir, number);
}

std::string Journal::SparePath(int index) const {
  return absl::StrCat(options_.dir, "/spare-", index);
}

absl::Status Journal::Load() {
  absl::MutexLock lock(&mutex_);
  std::vector<uint64_t> numbers;
  DIR* dir = opendir(options_.dir.c_str());
  if (dir == nullptr) return FileError("list", options_.dir, errno);
  while (const dirent* item = readdir(dir)) {
    const std::string_view name = item->d_name;
    uint64_t number = 0;
    if (name.size() == 24 && name.ends_with(".journal") &&
        absl::SimpleHexAtoi(Absl(name.substr(0, 16)), &number)) {
      numbers.push_back(number);
    } else if (name.starts_with("spare-")) {
      unlink((options_.dir + "/" + item->d_name).c_str());
    }
  }
  closedir(dir);
  std::sort(numbers.begin(), numbers.end());

  for (const uint64_t number : numbers) {
    Segment& segment = segments_.emplace_back();
    segment.number = number;
    TH_RETURN_IF_ERROR(LoadSegment(&segment, number == numbers.back()));
  }
  opened_ = options_.clock->Monotonic();
  for (auto& [id, live] : live_) {
    const bool doubtful = !live->has_result && !live->entry->edge_id().empty() &&
                          live->entry->edge_id() != edge_id_;
    auto& entries = doubtful ? doubtful_ : replayed_;
    entries.push_back(*live->entry);
    if (!live->has_result) entries.back().set_status("unknown");
  }
  for (auto* const entries : {&replayed_, &doubtful_}) {
    std::sort(entries->begin(), entries->end(),
              [](const auto& a, const auto& b) { return a.hold_id() < b.hold_id(); });
  }

  if (!segments_.empty() && segments_.back().size < options_.segment_bytes) {
    const std::string path = PathOf(segments_.back().number);
    fd_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) return FileError("open", path, errno);
    allocated_ = Allocate(fd_, options_.segment_bytes);
    full_ = !allocated_;
    return absl::OkStatus();
  }
  full_ = !Roll().ok() || !allocated_;
  return absl::OkStatus();
}

absl::Status Journal::LoadSegment(Segment* segment, bool last) {
  const std::string path = PathOf(segment->number);
  TH_ASSIGN_OR_RETURN(const std::string data, ReadFile(path));
  segment->last_change = options_.clock->Wall();
  const auto corrupt = [&](size_t offset) {
    return MakeError(absl::StatusCode::kDataLoss, "JOURNAL_CORRUPT",
                     absl::StrCat(path, " is damaged at byte ", offset,
                                  "; move the file away to start without the holds in it (they "
                                  "stay counted until they are resolved)"));
  };
  if (!data.starts_with(kMagic)) {
    if (!last || data.size() >= kMagic.size()) return corrupt(0);
    const int fd = open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0) return FileError("open", path, errno);
    const int error = WriteAt(fd, kMagic, 0);
    close(fd);
    if (error != 0) return FileError("write", path, error);
    segment->size = kMagic.size();
    return absl::OkStatus();
  }
  size_t offset = kMagic.size();
  JournalRecord record;
  while (const auto payload = FrameAt(data, offset)) {
    if (!record.ParseFromArray(payload->data(), static_cast<int>(payload->size()))) {
      return corrupt(offset);
    }
    TH_RETURN_IF_ERROR(Apply(&record, segment));
    offset += kHeaderBytes + payload->size();
  }
  segment->size = static_cast<int64_t>(offset);
  if (offset == data.size()) return absl::OkStatus();
  // Torn by a crash, if nothing whole follows; else damaged.
  if (!last) return corrupt(offset);
  for (size_t at = offset + 1; at + kHeaderBytes <= data.size(); ++at) {
    if (GetU32(data.data() + at + 8) == Crc32c(std::string_view(data).substr(at, 8)) &&
        GetU32(data.data() + at) != 0 && FrameAt(data, at)) {
      return corrupt(offset);
    }
  }
  if (truncate(path.c_str(), segment->size) != 0) return FileError("truncate", path, errno);
  return absl::OkStatus();
}

absl::Status Journal::Apply(JournalRecord* record, Segment* segment) {
  const auto adopt = [&](ledger::v1::Entry* entry, bool result) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(entry->hold_id()));
    std::unique_ptr<Live>& live = live_[id];
    if (live == nullptr) {
      live = std::make_unique<Live>();
      if (!result) ++open_;
    } else {
      if (Segment* before = FindSegment(live->segment)) --before->live;
      if (!live->has_result && result) --open_;
    }
    live->entry = std::make_shared<const ledger::v1::Entry>(std::move(*entry));
    live->segment = segment->number;
    live->has_result = result;
    ++segment->live;
    return absl::OkStatus();
  };
  switch (record->kind_case()) {
    case JournalRecord::kIntent:
      return adopt(record->mutable_intent(), false);
    case JournalRecord::kResult: {
      if (record->result().account_ids_size() > 0) return adopt(record->mutable_result(), true);
      TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(record->result().hold_id()));
      const auto it = live_.find(id);
      if (it == live_.end()) return absl::OkStatus();  // its intent was dropped long after posting
      if (!it->second->has_result) --open_;
      auto merged = std::make_shared<ledger::v1::Entry>(*it->second->entry);
      merged->MergeFrom(record->result());
      it->second->entry = std::move(merged);
      it->second->has_result = true;
      return absl::OkStatus();
    }
    case JournalRecord::kPosted: {
      const absl::Time at = absl::FromUnixSeconds(record->posted().at().seconds());
      for (const std::string& raw : record->posted().hold_ids()) {
        TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(raw));
        const auto it = live_.find(id);
        if (it == live_.end()) continue;
        if (Segment* of = FindSegment(it->second->segment)) {
          --of->live;
          of->last_change = at;
        }
        if (!it->second->has_result) --open_;
        live_.erase(it);
      }
      segment->last_change = at;
      return absl::OkStatus();
    }
    case JournalRecord::KIND_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

std::vector<ledger::v1::Entry> Journal::TakeReplayed() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(replayed_, {});
}

std::vector<ledger::v1::Entry> Journal::TakeDoubtful() {
  absl::MutexLock lock(&mutex_);
  if (options_.clock->Monotonic() - opened_ < options_.doubt_time) return {};
  return std::exchange(doubtful_, {});
}

Journal::Segment* Journal::FindSegment(uint64_t number) {
  const auto it = std::lower_bound(segments_.begin(), segments_.end(), number,
                                   [](const Segment& s, uint64_t n) { return s.number < n; });
  return it != segments_.end() && it->number == number ? &*it : nullptr;
}

absl::Status Journal::AppendIntent(const ledger::v1::Entry& intent) {
  TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(intent.hold_id()));
  auto live = std::make_unique<Live>();
  live->entry = std::make_shared<const ledger::v1::Entry>(intent);
  const std::string frame = FrameOfEntry(intent, false);
  const int64_t org = intent.account_ids_size() > 0 ? intent.account_ids(0) : 0;

  absl::MutexLock lock(&mutex_);
  const auto closed = closed_epochs_.find(org);
  if (closed != closed_epochs_.end() && intent.epoch() <= closed->second) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_CLOSED",
                     "the hold's epoch was closed before it was used");
  }
  if (disowned_.contains(id)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "HOLD_DISOWNED",
                     "the hold had expired and was given back before it was used");
  }
  if (live_.contains(id)) {
    return MakeError(absl::StatusCode::kAlreadyExists, "HOLD_EXISTS", "hold id used twice");
  }
  if (!HasRoom(static_cast<int64_t>(frame.size()) + options_.result_reserve_bytes)) {
    full_ = true;
    return tollhouse::edge::Full("the journal is full");
  }
  TH_RETURN_IF_ERROR(Write(frame));
  live->segment = segments_.back().number;
  ++segments_.back().live;
  ++open_;
  live_.emplace(id, std::move(live));
  return absl::OkStatus();
}

absl::StatusOr<Journal::Result> Journal::AppendResult(const ledger::v1::Entry& result) {
  TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(result.hold_id()));
  const std::string frame = FrameOfEntry(result, true);
  absl::MutexLock lock(&mutex_);
  const auto it = live_.find(id);
  if (it == live_.end()) {
    return MakeError(absl::StatusCode::kNotFound, "HOLD_UNKNOWN", "result without intent");
  }
  Live& live = *it->second;
  if (live.has_result) {
    return MakeError(absl::StatusCode::kAlreadyExists, "HOLD_EXISTS", "a hold ends once");
  }
  auto merged = std::make_shared<ledger::v1::Entry>(*live.entry);
  merged->MergeFrom(result);
  live.entry = std::move(merged);
  live.has_result = true;
  --open_;
  live.unwritten = !Write(frame).ok();
  return Result{live.entry, !live.unwritten};
}

void Journal::AppendPosted(const std::vector<std::string>& hold_ids) {
  JournalRecord record;
  const absl::Time now = options_.clock->Wall();
  record.mutable_posted()->mutable_at()->set_seconds(absl::ToUnixSeconds(now));
  absl::MutexLock lock(&mutex_);
  for (const std::string& raw : hold_ids) {
    const auto id = UuidFromRaw(raw);
    if (!id.ok()) continue;
    const auto it = live_.find(*id);
    if (it == live_.end()) continue;
    if (Segment* of = FindSegment(it->second->segment)) {
      --of->live;
      of->last_change = now;
    }
    if (!it->second->has_result) --open_;
    live_.erase(it);
    record.mutable_posted()->add_hold_ids(raw);
  }
  if (record.posted().hold_ids_size() == 0) return;
  // Without this record a restart posts again, which the ledger answers with DUPLICATE.
  if (Write(FrameOf(record)).ok()) segments_.back().last_change = now;
}

Journal::Retained Journal::ReadRetained() const {
  Retained out;
  absl::MutexLock lock(&mutex_);
  for (const Segment& segment : segments_) {
    out.files_.push_back({PathOf(segment.number), segment.size});
  }
  return out;
}

absl::StatusOr<std::vector<ledger::v1::Entry>> Journal::Retained::Next(size_t limit) {
  while (posted_.size() < limit && !files_.empty()) {
    const File file = files_.front();
    files_.pop_front();
    const absl::StatusOr<std::string> read = ReadFile(file.path);
    if (!read.ok()) {
      if (access(file.path.c_str(), F_OK) != 0) continue;  // dropped
      return read.status();
    }
    const std::string_view data = std::string_view(*read).substr(0, file.size);
    size_t offset = kMagic.size();
    JournalRecord record;
    while (const auto payload = FrameAt(data, offset)) {
      if (!record.ParseFromArray(payload->data(), static_cast<int>(payload->size()))) break;
      offset += kHeaderBytes + payload->size();
      if (record.has_posted()) {
        for (const std::string& raw : record.posted().hold_ids()) {
          TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(raw));
          const auto it = unposted_.find(id);
          if (it == unposted_.end()) continue;
          posted_.push_back(std::move(it->second));
          unposted_.erase(it);
        }
        continue;
      }
      const ledger::v1::Entry& entry = record.has_intent() ? record.intent() : record.result();
      TH_ASSIGN_OR_RETURN(const Uuid id, UuidFromRaw(entry.hold_id()));
      if (entry.account_ids_size() > 0) {
        unposted_[id] = entry;
      } else if (const auto it = unposted_.find(id); it != unposted_.end()) {
        it->second.MergeFrom(entry);
      }
    }
    if (offset != data.size()) {
      return MakeError(absl::StatusCode::kDataLoss, "JOURNAL_CORRUPT",
                       absl::StrCat(file.path, " is damaged at byte ", offset));
    }
  }
  // The answer for what has ended may be on its way to the journal. Posting again changes nothing.
  if (posted_.size() < limit) {
    for (auto& [id, entry] : unposted_) {
      if (!entry.status().empty()) posted_.push_back(std::move(entry));
    }
    unposted_.clear();
  }
  std::vector<ledger::v1::Entry> out;
  while (out.size() < limit && !posted_.empty()) {
    out.push_back(std::move(posted_.front()));
    posted_.pop_front();
  }
  return out;
}

int64_t Journal::replayed_generation() const {
  absl::MutexLock lock(&mutex_);
  return replayed_generation_;
}

absl::Status Journal::SetReplayedGeneration(int64_t generation) {
  absl::MutexLock lock(&mutex_);
  TH_RETURN_IF_ERROR(
      WriteFile(options_.dir + "/replayed_generation", absl::StrCat(generation)));
  replayed_generation_ = generation;
  return absl::OkStatus();
}

std::vector<ledger::v1::Entry> Journal::CloseEpoch(int64_t org_id, int64_t epoch) {
  absl::MutexLock lock(&mutex_);
  int64_t& closed = closed_epochs_[org_id];
  closed = std::max(closed, epoch);
  std::vector<ledger::v1::Entry> holds;
  for (const auto& [id, live] : live_) {
    const ledger::v1::Entry& entry = *live->entry;
    if (entry.account_ids_size() == 0 || entry.account_ids(0) != org_id || entry.epoch() > closed) {
      continue;
    }
    // The enforcer may have lent to others what a hold that has ended did not use.
    if (entry.kind() == ledger::v1::ENTRY_KIND_VOID) continue;
    ledger::v1::Entry& hold = holds.emplace_back(entry);
    if (entry.kind() == ledger::v1::ENTRY_KIND_SETTLE) {
      for (common::v1::HeldBudget& held : *hold.mutable_budgets()) {
        held.set_amount_nanousd(std::min(held.amount_nanousd(), entry.cost_nanousd()));
      }
    }
    hold.set_kind(ledger::v1::ENTRY_KIND_SUSPEND);
  }
  std::sort(holds.begin(), holds.end(),
            [](const auto& a, const auto& b) { return a.hold_id() < b.hold_id(); });
  return holds;
}

bool Journal::Disown(const std::string& hold_id) {
  const auto id = UuidFromRaw(hold_id);
  if (!id.ok() || options_.machine.empty()) return false;
  absl::MutexLock lock(&mutex_);
  if (live_.contains(*id)) return false;
  if (disowned_.insert(*id).second) disowned_at_.emplace_back(options_.clock->Monotonic(), *id);
  return true;
}

bool Journal::Full() {
  absl::MutexLock lock(&mutex_);
  if (!full_) return false;
  const absl::Duration now = options_.clock->Monotonic();
  if (now < next_try_) return true;
  next_try_ = now + kRetryInterval;
  full_ = !Recover();
  return full_;
}

bool Journal::Recover() {
  if (!allocated_ && !Roll().ok()) return false;
  if (!HasRoom(2 * options_.result_reserve_bytes)) return false;
  for (auto& [id, live] : live_) {
    if (!live->unwritten) continue;
    if (!Write(FrameOfEntry(*live->entry, true)).ok()) return false;
    live->unwritten = false;
  }
  return true;
}

void Journal::Maintain() {
  absl::MutexLock lock(&mutex_);
  Drop(0);
  const absl::Duration old = options_.clock->Monotonic() - options_.doubt_time;
  while (!disowned_at_.empty() && disowned_at_.front().first < old) {
    disowned_.erase(disowned_at_.front().second);
    disowned_at_.pop_front();
  }
}

int64_t Journal::unposted() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(live_.size());
}

int64_t Journal::bytes() const {
  absl::MutexLock lock(&mutex_);
  return BytesLocked();
}

int64_t Journal::BytesLocked() const {
  int64_t total = spares_ * options_.segment_bytes;
  for (const Segment& segment : segments_) {
    total += &segment == &segments_.back() ? std::max(segment.size, options_.segment_bytes)
                                           : segment.size;
  }
  return total;
}

absl::Status Journal::Write(std::string_view frame) {
  if (fd_ < 0 || segments_.back().size + static_cast<int64_t>(frame.size()) >
                     options_.segment_bytes) {
    TH_RETURN_IF_ERROR(Roll());
  }
  Segment& active = segments_.back();
  const int error = WriteAt(fd_, frame, active.size);
  if (error != 0) {
    full_ = true;
    allocated_ = false;
    if (ftruncate(fd_, active.size) != 0) {
      // The torn frame stays and is overwritten by the next one, or cut off at the next start.
    }
    return FileError("write", PathOf(active.number), error);
  }
  active.size += static_cast<int64_t>(frame.size());
  return absl::OkStatus();
}

absl::Status Journal::Roll() {
  const uint64_t number = segments_.empty() ? 1 : segments_.back().number + 1;
  const std::string path = PathOf(number);
  int fd = -1;
  bool allocated = false;
  if (spares_ > 0 && rename(SparePath(spares_ - 1).c_str(), path.c_str()) == 0) {
    --spares_;
    fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    allocated = true;
  } else {
    fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    allocated = fd >= 0 && Allocate(fd, options_.segment_bytes);
  }
  int error = fd < 0 ? errno : WriteAt(fd, kMagic, 0);
  if (error != 0) {
    if (fd >= 0) {
      close(fd);
      unlink(path.c_str());
    }
    full_ = true;
    return FileError("create", path, error);
  }
  if (fd_ >= 0) {
    // Gives back what was allocated behind the end.
    if (ftruncate(fd_, segments_.back().size) != 0) full_ = true;
    close(fd_);
  }
  fd_ = fd;
  allocated_ = allocated;
  Segment& segment = segments_.emplace_back();
  segment.number = number;
  segment.size = kMagic.size();
  segment.last_change = options_.clock->Wall();
  return absl::OkStatus();
}

bool Journal::MakeSpare() {
  if (BytesLocked() + options_.segment_bytes > options_.max_bytes) Drop(options_.segment_bytes);
  if (BytesLocked() + options_.segment_bytes > options_.max_bytes) return false;
  const std::string path = SparePath(spares_);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  const bool allocated = Allocate(fd, options_.segment_bytes);
  close(fd);
  if (!allocated) {
    unlink(path.c_str());
    return false;
  }
  ++spares_;
  return true;
}

bool Journal::HasRoom(int64_t size) {
  const auto room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t active =
        allocated_ ? std::max<int64_t>(0, options_.segment_bytes - segments_.back().size) : 0;
    return active + spares_ * (options_.segment_bytes - static_cast<int64_t>(kMagic.size()));
  };
  const int64_t needed = size + open_ * options_.result_reserve_bytes;
  while (room() < needed) {
    if (!MakeSpare()) return false;
  }
  return true;
}

void Journal::Drop(int64_t needed) {
  const absl::Time now = options_.clock->Wall();
  while (segments_.size() > 1) {
    const Segment& oldest = segments_.front();
    const bool short_of_space = BytesLocked() + needed > options_.max_bytes;
    if (oldest.live > 0) {
      if (!short_of_space || !MoveLiveForward()) return;
      continue;
    }
    if (!short_of_space && now - oldest.last_change < options_.retention) return;
    if (unlink(PathOf(oldest.number).c_str()) != 0 && errno != ENOENT) return;
    segments_.pop_front();
  }
}

bool Journal::MoveLiveForward() {
  Segment& oldest = segments_.front();
  // Worth it only where few holds pin much that is done with.
  if (oldest.live * options_.result_reserve_bytes > oldest.size / 4) return false;
  const uint64_t from = oldest.number;
  for (auto& [id, live] : live_) {
    if (live->segment != from) continue;
    const std::string frame = FrameOfEntry(*live->entry, live->has_result);
    if (segments_.back().size + static_cast<int64_t>(frame.size()) > options_.segment_bytes ||
        !Write(frame).ok()) {
      return false;
    }
    live->segment = segments_.back().number;
    ++segments_.back().live;
    --FindSegment(from)->live;
  }
  return true;
}

}  // namespace tollhouse::edge
