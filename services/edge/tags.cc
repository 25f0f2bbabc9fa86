#include "services/edge/tags.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

absl::Status BadTags(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_TAGS", message);
}

bool HasControl(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return true;
  }
  return false;
}

}  // namespace

absl::Status ParseTagHeader(std::string_view header, Tags* tags) {
  for (const absl::string_view item : absl::StrSplit(Absl(header), ',')) {
    const absl::string_view text = absl::StripAsciiWhitespace(item);
    if (text.empty()) continue;
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos || equals == 0) {
      return BadTags("x-tollhouse-tags is a list like use_case=code-review,ticket=PAY-12");
    }
    tags->emplace(std::string(absl::StripAsciiWhitespace(text.substr(0, equals))),
                  std::string(absl::StripAsciiWhitespace(text.substr(equals + 1))));
  }
  return absl::OkStatus();
}

absl::Status MergeTags(const TagSources& sources, const TagLimits& limits, Tags* effective) {
  // emplace keeps what is there: the strongest source goes first.
  *effective = *sources.pinned;
  for (const auto& [key, value] : *sources.header) effective->emplace(key, value);
  if (!sources.session.empty()) effective->emplace("session", std::string(sources.session));
  for (const auto& [key, value] : *sources.body) effective->emplace(key, value);
  if (effective->size() > limits.count) {
    return BadTags(absl::StrCat("more than ", limits.count, " tags"));
  }
  for (const auto& [key, value] : *effective) {
    if (key.empty() || key.size() > limits.key_bytes || HasControl(key)) {
      return BadTags(absl::StrCat("a tag's name has 1 to ", limits.key_bytes,
                                  " bytes and no control characters"));
    }
    if (value.size() > limits.value_bytes || HasControl(value)) {
      return BadTags(absl::StrCat("a tag's value has at most ", limits.value_bytes,
                                  " bytes and no control characters"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTagRules(const std::vector<TagRule>& rules, const Tags& effective) {
  for (const TagRule& rule : rules) {
    const auto found = effective.find(rule.tag);
    const bool given = found != effective.end() && !found->second.empty();
    if (!given && !rule.required) continue;
    if (given && (rule.allowed.empty() || std::find(rule.allowed.begin(), rule.allowed.end(), found->second) !=
                                              rule.allowed.end())) {
      continue;
    }
    const std::string values =
        rule.allowed.empty() ? "" : absl::StrCat("; allowed are: ", absl::StrJoin(rule.allowed, ", "));
    if (given) {
      return MakeError(absl::StatusCode::kPermissionDenied, "TAG_NOT_ALLOWED",
                       absl::StrCat("the tag '", rule.tag, "' may not be '", found->second, "' for ",
                                    rule.account_path, values));
    }
    return MakeError(absl::StatusCode::kInvalidArgument, "TAG_REQUIRED",
                     absl::StrCat(rule.account_path, " requires the tag '", rule.tag,
                                  "', by the header x-tollhouse-tags: ", rule.tag, "=...", values));
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::edge
