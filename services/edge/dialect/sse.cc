#include "services/edge/dialect/sse.h"

#include <cstring>

namespace tollhouse::edge {
namespace {

constexpr size_t kReadAhead = 128;  // beyond the event, for parsers that want padding

const char* Find(const char* begin, const char* end, char c) {
  return static_cast<const char*>(std::memchr(begin, c, end - begin));
}

}  // namespace

void SseSplitter::EndLine(std::string_view line, size_t offset) {
  if (abandoned_ || line.empty() || line[0] == ':') return;
  has_fields_ = true;
  if (line.substr(0, 4) != "data") return;
  if (line.size() == 4) {
    data_.push_back({offset + 4, 0});
  } else if (line[4] == ':') {
    const size_t skip = line.size() > 5 && line[5] == ' ' ? 6 : 5;
    data_.push_back({offset + skip, line.size() - skip});
  }
}

size_t SseSplitter::Scan(std::string_view bytes, size_t readable,
                         absl::FunctionRef<void(const SseEvent&)> on_event) {
  size_t event = 0;
  const auto report = [&](size_t end, bool continuation) {
    on_event({bytes.substr(event, end - event), &data_, readable - event, continuation});
    event = end;
    line_ = scan_ = 0;
    data_.clear();
    has_fields_ = abandoned_ = line_begun_ = false;
  };
  while (true) {
    if (skip_lf_) {
      if (event + line_ >= bytes.size()) break;
      skip_lf_ = false;
      if (bytes[event + line_] == '\n') {
        if (line_ == 0 && !has_fields_ && !abandoned_) {
          report(event + 1, true);
        } else {
          ++line_;
        }
        scan_ = line_;
        continue;
      }
    }
    const char* from = bytes.data() + event + scan_;
    const char* end = bytes.data() + bytes.size();
    const char* feed = Find(from, end, '\n');
    const char* stop = Find(from, feed != nullptr ? feed : end, '\r');
    if (stop == nullptr) stop = feed;
    if (stop == nullptr) {
      scan_ = bytes.size() - event;
      break;
    }
    const size_t at = stop - bytes.data();
    size_t next = at + 1;
    if (*stop == '\r') {
      if (next == bytes.size()) {
        skip_lf_ = true;
      } else if (bytes[next] == '\n') {
        ++next;
      }
    }
    const std::string_view line = bytes.substr(event + line_, at - event - line_);
    if (line.empty() && !line_begun_) {
      report(next, false);
      continue;
    }
    EndLine(line, line_);
    line_begun_ = false;
    line_ = scan_ = next - event;
    if (!has_fields_ && !abandoned_) report(next, false);
  }
  return event;
}

void SseSplitter::Feed(std::string_view bytes, absl::FunctionRef<void(const SseEvent&)> on_event) {
  if (bytes.empty()) return;
  if (pending_.empty()) {
    const size_t used = Scan(bytes, bytes.size(), on_event);
    if (used < bytes.size()) {
      pending_.reserve(bytes.size() - used + kReadAhead);
      pending_.assign(bytes.substr(used));
    }
    return;
  }
  if (pending_.capacity() < pending_.size() + bytes.size() + kReadAhead) {
    pending_.reserve((pending_.size() + bytes.size()) * 2 + kReadAhead);
  }
  pending_.append(bytes);
  const size_t used = Scan(pending_, pending_.capacity(), on_event);
  pending_.erase(0, used);
}

void SseSplitter::Finish(absl::FunctionRef<void(const SseEvent&)> on_event) {
  if (pending_.empty()) return;
  const std::string_view all = pending_;
  if (line_ < all.size()) EndLine(all.substr(line_), line_);
  on_event({all, &data_, pending_.capacity(), false});
  pending_.clear();
  data_.clear();
}

void SseSplitter::AbandonPending() {
  if (pending_.empty()) return;
  line_begun_ = line_begun_ || line_ < pending_.size();
  abandoned_ = true;
  pending_.clear();
  data_.clear();
  line_ = scan_ = 0;
}

}  // namespace tollhouse::edge
