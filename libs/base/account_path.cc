#include "libs/base/account_path.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace tollhouse {
namespace {

constexpr size_t kNameBytes = 64;

}  // namespace

bool IsAccountName(std::string_view text) {
  return !text.empty() && text.size() <= kNameBytes && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '@' || c == '-';
         });
}

bool IsAtOrBelow(std::string_view path, std::string_view ancestor) {
  return ancestor.empty() || path == ancestor ||
         (path.starts_with(ancestor) && path[ancestor.size()] == '/');
}

}  // namespace tollhouse
