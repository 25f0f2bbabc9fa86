#include "services/edge/dialect/json_array.h"

#include <cstring>

namespace tollhouse::edge {

void JsonArraySplitter::Feed(std::string_view bytes,
                             absl::FunctionRef<void(const Element&)> on_element) {
  pending_.append(bytes);
  size_t from = 0;  // what before it was reported
  size_t at = scanned_;
  const size_t size = pending_.size();
  while (at < size) {
    const char c = pending_[at];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      } else {
        // Most of a string is text.
        const char* begin = pending_.data() + at;
        const char* quote = static_cast<const char*>(std::memchr(begin, '"', size - at));
        const size_t end = quote == nullptr ? size - at : quote - begin;
        const char* slash = static_cast<const char*>(std::memchr(begin, '\\', end));
        at += slash == nullptr ? end : slash - begin;
        continue;
      }
      ++at;
      continue;
    }
    ++at;
    if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      if (depth_ == 1 && begin_ == std::string::npos) begin_ = at - 1;
      ++depth_;
    } else if (c == '}' || c == ']') {
      --depth_;
      if (depth_ != 1) continue;
      if (!abandoned_ && begin_ != std::string::npos) {
        on_element({std::string_view(pending_).substr(from, at - from), begin_ - from});
        from = at;
      }
      any_ = true;
      abandoned_ = false;
      begin_ = std::string::npos;
    }
  }
  pending_.erase(0, from);
  scanned_ = pending_.size();
  if (begin_ != std::string::npos) begin_ -= from;
}

void JsonArraySplitter::AbandonPending() {
  if (begin_ != std::string::npos || abandoned_) {
    abandoned_ = true;
    begin_ = std::string::npos;
  }
  pending_.clear();
  scanned_ = 0;
}

}  // namespace tollhouse::edge
