// What every command answers with: an ordered tree that is printed as a table, JSON, YAML or CSV.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tollhouse::tollctl {

// Regular value type. Fields of an object keep the order in which they were set.
class Value {
 public:
  enum class Kind { kNull, kBool, kNumber, kCount, kText, kList, kObject };

  Value() = default;
  Value(bool flag) : kind_(Kind::kBool), number_(flag ? 1 : 0) {}           // NOLINT
  Value(std::string text) : kind_(Kind::kText), text_(std::move(text)) {}   // NOLINT
  Value(std::string_view text) : kind_(Kind::kText), text_(text) {}         // NOLINT
  Value(const char* text) : kind_(Kind::kText), text_(text) {}              // NOLINT
  // A bare JSON number: what proto3 JSON does with 32-bit fields.
  static Value Number(int64_t number);
  // A quoted JSON number: what proto3 JSON does with 64-bit fields, and so with all money.
  static Value Count(int64_t count);
  static Value List(std::vector<Value> items = {});
  static Value Object(std::vector<std::pair<std::string, Value>> fields = {});

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  // kBool, kNumber and kCount; 0 for other kinds.
  int64_t number() const { return number_; }
  // kText; "" for other kinds.
  const std::string& text() const { return text_; }
  const std::vector<Value>& items() const { return items_; }
  const std::vector<std::pair<std::string, Value>>& fields() const { return fields_; }

  // Replaces or appends a field. The value becomes an object if it was null.
  Value& Set(std::string_view name, Value value);
  // Removes a field if it is there.
  void Remove(std::string_view name);
  // Appends to a list. The value becomes a list if it was null.
  Value& Add(Value item);
  // The field at a dotted path ("key.path"); a null value if there is none.
  const Value& At(std::string_view path) const;

  friend bool operator==(const Value&, const Value&) = default;

 private:
  Kind kind_ = Kind::kNull;
  int64_t number_ = 0;
  std::string text_;
  std::vector<Value> items_;
  std::vector<std::pair<std::string, Value>> fields_;
};

// One scalar as plain text: numbers in digits, "true"; lists joined by ';', objects as k=v;k=v.
std::string PlainText(const Value& value);

// Indented by two spaces, ends with a newline. Text is UTF-8 and escaped as RFC 8259 asks.
std::string ToJson(const Value& value);
// Block style, ends with a newline. Texts that YAML would read as something else are quoted.
std::string ToYaml(const Value& value);
// RFC 4180 with a header line: one line per row, nested objects as dotted columns. The columns are
// those of all rows, in order of first appearance.
std::string ToCsv(const std::vector<Value>& rows);

// A YAML scalar, double-quoted if it has to be (or if asked to: `quote`).
std::string YamlScalar(std::string_view text, bool quote = false);

}  // namespace tollhouse::tollctl
