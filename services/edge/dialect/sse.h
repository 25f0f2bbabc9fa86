// Server-sent events (WHATWG HTML, section 9.2) cut into events, at any split of the bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tollhouse::edge {

// One event as it stands on the wire.
struct SseEvent {
  struct Slice {
    size_t offset = 0;  // within raw
    size_t length = 0;
  };

  std::string_view raw;            // all its lines with their ends, the blank line included
  const std::vector<Slice>* data;  // values of its data lines
  size_t readable = 0;             // bytes that may be read from raw.data() on, at least raw.size()
  // The line feed of a CRLF whose carriage return ended the previous event: shares that one's fate.
  bool continuation = false;
};

// Line ends are LF, CRLF or CR. A byte order mark is the caller's to take off. Comment lines and
// blank lines outside of an event are events without data, reported line by line so that
// keep-alives are not delayed. Allocates only for events that come in pieces, into memory that is
// kept. Not thread-safe.
class SseSplitter {
 public:
  // Calls on_event for each event that these bytes complete.
  void Feed(std::string_view bytes, absl::FunctionRef<void(const SseEvent&)> on_event);
  // The end of the stream: reports an event that has no blank line behind it.
  void Finish(absl::FunctionRef<void(const SseEvent&)> on_event);

  // The beginning of an event that is not complete yet.
  std::string_view pending() const { return pending_; }
  // Forgets what is pending: the event's end will be reported with what follows from here on, and
  // without data.
  void AbandonPending();
  bool abandoned() const { return abandoned_; }

 private:
  // Reports the events in `bytes` and returns where the first incomplete one begins.
  size_t Scan(std::string_view bytes, size_t readable,
              absl::FunctionRef<void(const SseEvent&)> on_event);
  void EndLine(std::string_view line, size_t offset);

  std::string pending_;
  std::vector<SseEvent::Slice> data_;
  size_t line_ = 0;  // where the current line begins, from the start of the event
  size_t scan_ = 0;  // no line end before here
  bool skip_lf_ = false;
  bool has_fields_ = false;  // the event has a line that is no comment
  bool abandoned_ = false;   // the current event's beginning was forgotten
  bool line_begun_ = false;  // with it, a part of the current line
};

}  // namespace tollhouse::edge
