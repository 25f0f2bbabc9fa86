// Labels of a request, what budgets match on and spend is grouped by.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tollhouse::edge {

using Tags = std::map<std::string, std::string>;

struct TagLimits {
  size_t count = 50;
  size_t key_bytes = 64;
  size_t value_bytes = 512;
};

// Reads "use_case=code-review,ticket=PAY-12" into `tags`; blanks around names and values are
// dropped, a name given twice keeps its first value. InvalidArgument (BAD_TAGS) naming the item.
absl::Status ParseTagHeader(std::string_view header, Tags* tags);

// The effective tags: pinned ones over those of the header over `session` (the tag of that name)
// over the body's. InvalidArgument (BAD_TAGS) naming the limit that is exceeded.
struct TagSources {
  const Tags* pinned;
  const Tags* header;
  std::string_view session;
  const Tags* body;
};
absl::Status MergeTags(const TagSources& sources, const TagLimits& limits, Tags* effective);

}  // namespace tollhouse::edge
