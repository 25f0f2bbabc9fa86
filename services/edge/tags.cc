#include "services/edge/tags.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
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

}  // namespace tollhouse::edge
