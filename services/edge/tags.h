// Labels of a request, what budgets match on and spend is grouped by.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

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

// What an account asks of the tags of its requests.
struct TagRule {
  std::string account_path;
  std::string tag;
  bool required = false;
  std::vector<std::string> allowed;  // values; empty: any
};

// Whether the effective tags are as every rule says. InvalidArgument (TAG_REQUIRED) for one that is not
// there or empty, PermissionDenied (TAG_NOT_ALLOWED) for another value; both name the tag, the values that
// are allowed and the account that says so.
absl::Status CheckTagRules(const std::vector<TagRule>& rules, const Tags& effective);

}  // namespace tollhouse::edge
