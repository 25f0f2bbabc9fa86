// simdjson on demand, with what this folder needs on top. Internal: include it from .cc files only.
//
// Stage 1 (structure, UTF-8) runs on the SIMD kernel that simdjson picks for the CPU at run time.
// On-demand values are checked only as far as they are visited, so whoever must know that a whole
// document is valid visits all of it; what visits means is in each function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "simdjson.h"

namespace tollhouse::edge::json {

using Array = simdjson::ondemand::array;
using Document = simdjson::ondemand::document;
using Object = simdjson::ondemand::object;
using Parser = simdjson::ondemand::parser;
using Type = simdjson::ondemand::json_type;
using Value = simdjson::ondemand::value;

// The value's first token as written, without white space behind it. Does not consume the value.
inline std::string_view Token(Value& value) {
  std::string_view token = value.raw_json_token();
  while (!token.empty() && static_cast<unsigned char>(token.back()) <= ' ') token.remove_suffix(1);
  return token;
}

// The text between the quotes of a string token, escapes as written.
inline std::string_view Inside(std::string_view token) {
  return token.size() >= 2 ? token.substr(1, token.size() - 2) : std::string_view();
}

// The literal text of a key; nothing if its escapes are invalid. Lives until the parser's next use.
template <typename Field>
std::optional<std::string_view> KeyOf(Field& field) {
  const char* start = field.key().raw();
  const char* end = start;
  while (*end != '"' && *end != '\\') ++end;
  if (*end == '"') return std::string_view(start, end - start);
  std::string_view unescaped;
  if (field.unescaped_key().get(unescaped) != simdjson::SUCCESS) return std::nullopt;
  return unescaped;
}

inline bool IsObject(Value& value) {
  Type type;
  return value.type().get(type) == simdjson::SUCCESS && type == Type::object;
}

// True once a document has been visited to its very end, with every container closed. A visitor
// that overlooks errors below itself learns here that there were some.
inline bool IsAtEnd(Document& document) {
  return document.current_depth() == 0 &&
         document.current_location().error() == simdjson::OUT_OF_BOUNDS;
}

// Calls visit(key, value) for each member, in order. False where the value is no object or breaks
// off; values that visit does not look at are skipped unchecked.
template <typename Visit>
bool EachMember(Value& value, Visit visit) {
  Object object;
  if (value.get_object().get(object) != simdjson::SUCCESS) return false;
  for (auto result : object) {
    simdjson::ondemand::field field;
    if (std::move(result).get(field) != simdjson::SUCCESS) return false;
    const auto key = KeyOf(field);
    if (!key.has_value()) return false;
    visit(*key, field.value());
  }
  return true;
}

// The thread's parser: what it has opened is valid until it opens the next text.
Parser& ThreadParser();

// Begins a document whose root is asked for next; false if it is not JSON. At least
// SIMDJSON_PADDING bytes behind `text` may be read. The parser grows as it must,
// and gives back what a text above 1 MiB needed as soon as a smaller one comes.
bool Open(Parser* parser, std::string_view text, Document* document, Value* root);

// The inside of a string token; "" for everything else.
inline std::string_view TextOf(Value& value) {
  const std::string_view token = Token(value);
  return token.substr(0, 1) == "\"" ? Inside(token) : std::string_view();
}

// Keeps a short text. Most events repeat it and cost a comparison.
void Remember(Value& value, std::string* kept);

// -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
bool IsNumber(std::string_view token);

// Every backslash begins one of JSON's escapes.
bool HasValidEscapes(std::string_view inside);

// Bytes of UTF-8 that the text stands for once its escapes are resolved.
int64_t DecodedBytes(std::string_view inside);

// An integer token in int64's range; nothing for fractions, exponents and anything else.
std::optional<int64_t> IntegerOf(std::string_view token);

// A count as providers write them: a non-negative integer, also as a float ("12.0"), rounded up.
// Nothing for null, negatives and other types; at most 10^12.
std::optional<int64_t> CountOf(Value& value);

}  // namespace tollhouse::edge::json
