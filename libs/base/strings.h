// Between std::string_view and Abseil's own, which differ in Debian's build.
#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace tollhouse {

inline absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view Std(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace tollhouse
