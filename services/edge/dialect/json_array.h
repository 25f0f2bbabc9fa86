// One JSON array cut into its elements, at any split of the bytes: how Gemini streams without SSE.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace tollhouse::edge {

// What stands between elements belongs to the one behind it; what follows the last one, the closing
// bracket included, to nobody. Not thread-safe.
class JsonArraySplitter {
 public:
  // An element with what stands before it, and where in that it begins.
  struct Element {
    std::string_view raw;
    size_t offset = 0;
  };

  // Calls on_element for each element that these bytes complete. Bytes from the '[' on.
  void Feed(std::string_view bytes, absl::FunctionRef<void(const Element&)> on_element);

  // What belongs to no complete element yet.
  std::string_view pending() const { return pending_; }
  // Forgets the pending bytes; the element that they begin will not be reported.
  void AbandonPending();
  // Whether elements came, so that another one needs a comma before it.
  bool any() const { return any_; }

 private:
  std::string pending_;
  size_t scanned_ = 0;                // of pending_
  size_t begin_ = std::string::npos;  // of the element within pending_
  int depth_ = 0;                     // open brackets, the array's own included
  bool in_string_ = false;
  bool escaped_ = false;
  bool any_ = false;
  bool abandoned_ = false;
};

}  // namespace tollhouse::edge
