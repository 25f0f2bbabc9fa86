// Accounts are paths: "acme/payments/sarah/laptop".
#pragma once

#include <string_view>

namespace tollhouse {

// One part of a path: 1 to 64 of letters, digits and . _ @ -, and not "." or "..".
bool IsAccountName(std::string_view text);

// Whether `path` is `ancestor` or lies below it; everything lies below "".
bool IsAtOrBelow(std::string_view path, std::string_view ancestor);

}  // namespace tollhouse
