// The edge's memory of money: what it sent to providers and how it ended, until the ledger knows.
//
// Format: segment files DIR/<number, 16 hex digits>.journal: the 8 bytes "THJRNL01", then frames of
//   u32 length | u32 CRC-32C of the payload | u32 CRC-32C of the 8 bytes before | payload
// little-endian, each payload an edge.v1.JournalRecord. A frame is complete in the file (write(2))
// before the call returns: it survives the death of the process. Power loss may lose the tail: then
// nobody can say what this edge forwarded, and it goes on under another name (see edge_id).
//
// Space is set aside before it is needed: a segment is allocated as a whole, and an intent is taken
// only where the results of every open hold would still fit. So a full disk or a full journal stops
// admission and never swallows a result.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/uuid.h"
#include "tollhouse/edge/v1/journal.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::edge {

struct JournalOptions {
  std::string dir;
  int64_t segment_bytes = 16 << 20;  // at most a quarter of max_bytes
  // Bound of everything on disk. Acknowledged holds make way earlier than `retention` to stay
  // below it; when the others alone fill it, intents are refused.
  int64_t max_bytes = int64_t{1} << 30;
  // How long holds are kept after the ledger has answered for them.
  absl::Duration retention = absl::Hours(24);
  // Set aside per open hold for its result.
  int64_t result_reserve_bytes = 4096;
  // Identity of the running system (Linux: /proc/sys/kernel/random/boot_id). If it is another one
  // than before and the journal was not closed, its tail may be lost. "": not known, not checked.
  std::string machine;
  // How long after Open a hold whose result may be lost is left alone, and how long a disowned hold
  // is remembered; longer than any hold lives.
  absl::Duration doubt_time = absl::Minutes(30);
  const Clock* clock = Clock::System();
};

// Thread-safe; every call is at most a few file operations on the local disk.
class Journal {
 public:
  // Opens or creates the journal and reads it. A torn last frame is cut off. ALREADY_EXISTS
  // (JOURNAL_LOCKED) if another process has it; DATA_LOSS (JOURNAL_CORRUPT) for damage anywhere but
  // at the very end, naming file and offset.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const JournalOptions& options);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // This edge's name, made with the journal and kept in it. Another one after a loss of power: the
  // old name never announces anything again, so what was forwarded under it stays counted until
  // its holds have expired or somebody resolves them (R7).
  const std::string& edge_id() const { return edge_id_; }

  // Makes everything durable and says so: the next Open need not fear for the tail. To be called
  // last, after the last Append.
  void Close();

  // What replay found unposted, once: the result where there is one, else the intent with kind
  // SUSPEND and status "unknown" (R14: the whole hold). The latter have no result written yet.
  std::vector<ledger::v1::Entry> TakeReplayed();

  // Intents of an earlier name (see edge_id) without result, once, when `doubt_time` is over. Their
  // results may have been told before they were lost with the power: were the whole hold suspended
  // now, what the enforcer has given back of it would be covered by nothing (R13). By then they have
  // expired, and the ledger knows them. Until then only CloseEpoch names them.
  std::vector<ledger::v1::Entry> TakeDoubtful();

  // R13, first half: to be called before the first byte leaves; when it fails, nothing may leave.
  // FAILED_PRECONDITION (EPOCH_CLOSED) if the entry's epoch is closed (R7), (HOLD_DISOWNED);
  // RESOURCE_EXHAUSTED (JOURNAL_FULL); ALREADY_EXISTS (HOLD_EXISTS).
  absl::Status AppendIntent(const ledger::v1::Entry& intent);

  // R13, second half: to be called before anyone is told. `result` carries the hold_id and what it
  // changes; returns the intent merged with it. If the disk fails all the same, the result is kept
  // in memory, `written` says false and the caller goes on. NOT_FOUND (HOLD_UNKNOWN).
  struct Result {
    std::shared_ptr<const ledger::v1::Entry> entry;
    bool written = true;
  };
  absl::StatusOr<Result> AppendResult(const ledger::v1::Entry& result);

  // The ledger has answered for these holds (16 raw bytes each); unknown ones are ignored.
  void AppendPosted(const std::vector<std::string>& hold_ids);

  // What the ledger has answered for, or may have, and the journal still has, for a ledger that may have
  // lost it: all but the holds that are under way. Reads the files as they were when this was called, without holding anybody up; what is dropped
  // meanwhile is left out.
  class Retained {
   public:
    // At most about `limit` entries more: the result where there is one, else the intent with kind
    // SUSPEND. Empty at the end. DATA_LOSS (JOURNAL_CORRUPT).
    absl::StatusOr<std::vector<ledger::v1::Entry>> Next(size_t limit);

   private:
    friend class Journal;
    struct File {
      std::string path;
      int64_t size;
    };

    std::deque<File> files_;  // not yet read, oldest first
    absl::flat_hash_map<Uuid, ledger::v1::Entry> unposted_;
    std::deque<ledger::v1::Entry> posted_;
  };
  Retained ReadRetained() const;

  // The ledger's replay generation for which all of that was posted again; 0 in a new journal. Kept.
  int64_t replayed_generation() const;
  absl::Status SetReplayedGeneration(int64_t generation);

  // R7: from the return on every intent of the org with an epoch <= `epoch` is refused. Returns the
  // holds of such epochs that are not posted, each with kind SUSPEND and the amounts that they still
  // need: of those that have ended the cost, and no void.
  std::vector<ledger::v1::Entry> CloseEpoch(int64_t org_id, int64_t epoch);

  // True: this hold of this edge was never forwarded and never will be, as its intent is refused from here
  // on. False: it is known and not posted yet, or nobody can say (`machine` is not known). To be asked
  // about holds that the ledger has no end of.
  bool Disown(const std::string& hold_id);

  // Whether an intent would be refused for want of space; cheap. Tries to get space back at most
  // every 100 ms, so that admission recovers by itself.
  bool Full();

  // Drops what is past its retention or its doubt_time. To be called now and then.
  void Maintain();

  int64_t unposted() const;
  int64_t bytes() const;

 private:
  struct Live {
    // Merged with the result, once there is one; replaced, never changed.
    std::shared_ptr<const ledger::v1::Entry> entry;
    uint64_t segment = 0;     // where the intent is
    bool has_result = false;
    bool unwritten = false;   // the result could not be written yet
  };
  struct Segment {
    uint64_t number = 0;
    int64_t size = 0;  // bytes written
    int64_t live = 0;  // intents in it that are not posted
    absl::Time last_change;
  };

  explicit Journal(const JournalOptions& options) : options_(options) {}

  absl::Status Load() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status LoadSegment(Segment* segment, bool last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Apply(v1::JournalRecord* record, Segment* segment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string PathOf(uint64_t number) const;
  std::string SparePath(int index) const;

  // Writes one frame to the active segment, rolling to the next one where it does not fit.
  absl::Status Write(std::string_view frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Roll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MakeSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After a failure: goes on in a new segment and writes what is missing.
  bool Recover() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `size` more bytes fit beside the reserve of all open holds; allocates to make it so.
  bool HasRoom(int64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t BytesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops old segments: past retention always, and until `needed` more bytes fit into max_bytes.
  void Drop(int64_t needed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MoveLiveForward() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Segment* FindSegment(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const JournalOptions options_;
  std::string edge_id_;
  int lock_fd_ = -1;

  mutable absl::Mutex mutex_;
  int fd_ ABSL_GUARDED_BY(mutex_) = -1;             // active segment
  bool allocated_ ABSL_GUARDED_BY(mutex_) = false;  // the active segment has its space
  int spares_ ABSL_GUARDED_BY(mutex_) = 0;  // allocated files that become the next segments
  std::deque<Segment> segments_ ABSL_GUARDED_BY(mutex_);  // oldest first, the last is active
  absl::flat_hash_map<Uuid, std::unique_ptr<Live>> live_ ABSL_GUARDED_BY(mutex_);
  int64_t open_ ABSL_GUARDED_BY(mutex_) = 0;            // live holds without result
  absl::flat_hash_map<int64_t, int64_t> closed_epochs_ ABSL_GUARDED_BY(mutex_);  // by org
  // See Disown: with the time when, kept for doubt_time.
  absl::flat_hash_set<Uuid> disowned_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<absl::Duration, Uuid>> disowned_at_ ABSL_GUARDED_BY(mutex_);
  std::vector<ledger::v1::Entry> replayed_ ABSL_GUARDED_BY(mutex_);
  int64_t replayed_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<ledger::v1::Entry> doubtful_ ABSL_GUARDED_BY(mutex_);
  absl::Duration opened_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  bool full_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration next_try_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
};

}  // namespace tollhouse::edge
