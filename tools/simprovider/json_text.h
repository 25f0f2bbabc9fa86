// Writing JSON text by hand: the answers are small, fixed in shape and hot.
#pragma once

#include <string>
#include <string_view>

namespace tollhouse::simprovider {

// Appends `text` as a JSON string with its quotes. `text` is valid UTF-8; it stays as it is.
void AppendJsonString(std::string_view text, std::string* out);
std::string JsonString(std::string_view text);

// `text` cut to `max` bytes with everything that is not printable ASCII replaced by '?': for
// values of headers and paths, which may hold any byte, on their way into a record.
std::string Printable(std::string_view text, size_t max);

}  // namespace tollhouse::simprovider
