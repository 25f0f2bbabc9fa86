#include "libs/sql/database.h"

#include "absl/strings/str_cat.h"

namespace tollhouse::sql {

Array Array::Ints(std::span<const int64_t> values) {
  Array array;
  for (const int64_t value : values) absl::StrAppend(&array.text_, value, ",");
  if (!values.empty()) array.text_.pop_back();
  array.text_ += '}';
  return array;
}

Array Array::Uuids(std::span<const std::string_view> raw) {
  Array array;
  static constexpr char kDigits[] = "0123456789abcdef";
  array.text_.reserve(33 * raw.size() + 2);
  for (const std::string_view bytes : raw) {
    for (const char c : bytes) {
      array.text_ += kDigits[static_cast<uint8_t>(c) >> 4];
      array.text_ += kDigits[static_cast<uint8_t>(c) & 15];
    }
    array.text_ += ',';
  }
  if (!raw.empty()) array.text_.pop_back();
  array.text_ += '}';
  return array;
}

Array Array::Texts(std::span<const std::string_view> values) {
  Array array;
  for (const std::string_view value : values) {
    array.text_ += '"';
    for (const char c : value) {
      if (c == '"' || c == '\\') array.text_ += '\\';
      array.text_ += c;
    }
    array.text_ += "\",";
  }
  if (!values.empty()) array.text_.pop_back();
  array.text_ += '}';
  return array;
}

}  // namespace tollhouse::sql
