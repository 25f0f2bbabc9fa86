#include "services/edge/dialect/json.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/numbers.h"
#include "libs/base/strings.h"

namespace tollhouse::edge::json {
namespace {

constexpr int64_t kCountMax = 1'000'000'000'000;
constexpr size_t kKeptCapacity = size_t{1} << 20;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The code unit of "XXXX"; -1 if it is not four hexadecimal digits.
int CodeUnit(std::string_view text) {
  if (text.size() < 4) return -1;
  int unit = 0;
  for (int i = 0; i < 4; ++i) {
    const int digit = HexValue(text[i]);
    if (digit < 0) return -1;
    unit = unit * 16 + digit;
  }
  return unit;
}

}  // namespace

Parser& ThreadParser() {
  thread_local Parser parser;
  return parser;
}

bool Open(Parser* parser, std::string_view text, Document* document, Value* root) {
  if (parser->capacity() > kKeptCapacity && text.size() <= kKeptCapacity) *parser = Parser();
  if (parser->capacity() < text.size()) {
    size_t capacity = 4096;
    while (capacity < text.size()) capacity *= 2;
    if (parser->allocate(capacity) != simdjson::SUCCESS) return false;
  }
  return parser->iterate(text.data(), text.size(), text.size() + simdjson::SIMDJSON_PADDING)
                 .get(*document) == simdjson::SUCCESS &&
         document->get_value().get(*root) == simdjson::SUCCESS;
}

void Remember(Value& value, std::string* kept) {
  const std::string_view text = TextOf(value);
  if (!text.empty() && *kept != text && text.size() <= 512) kept->assign(text);
}

bool IsNumber(std::string_view token) {
  size_t i = 0;
  const size_t n = token.size();
  if (i < n && token[i] == '-') ++i;
  if (i >= n || !IsDigit(token[i])) return false;
  if (token[i] == '0') {
    ++i;
  } else {
    while (i < n && IsDigit(token[i])) ++i;
  }
  if (i < n && token[i] == '.') {
    ++i;
    if (i >= n || !IsDigit(token[i])) return false;
    while (i < n && IsDigit(token[i])) ++i;
  }
  if (i < n && (token[i] == 'e' || token[i] == 'E')) {
    ++i;
    if (i < n && (token[i] == '+' || token[i] == '-')) ++i;
    if (i >= n || !IsDigit(token[i])) return false;
    while (i < n && IsDigit(token[i])) ++i;
  }
  return i == n;
}

bool HasValidEscapes(std::string_view inside) {
  const char* p = inside.data();
  const char* end = p + inside.size();
  while ((p = static_cast<const char*>(std::memchr(p, '\\', end - p))) != nullptr) {
    if (++p == end) return false;
    if (*p == 'u') {
      if (CodeUnit({p + 1, static_cast<size_t>(end - p - 1)}) < 0) return false;
      p += 5;
    } else {
      if (std::memchr("\"\\/bfnrt", *p, 8) == nullptr) return false;
      ++p;
    }
    if (p >= end) break;
  }
  return true;
}

int64_t DecodedBytes(std::string_view inside) {
  int64_t bytes = static_cast<int64_t>(inside.size());
  const char* p = inside.data();
  const char* end = p + inside.size();
  while (p < end && (p = static_cast<const char*>(std::memchr(p, '\\', end - p))) != nullptr) {
    if (p + 1 < end && p[1] == 'u') {
      const int unit = CodeUnit({p + 2, static_cast<size_t>(end - p - 2)});
      // A surrogate pair is 4 bytes of UTF-8: 2 for each half.
      const bool surrogate = unit >= 0xd800 && unit < 0xe000;
      bytes -= unit < 0x80 ? 5 : (unit < 0x800 || surrogate) ? 4 : 3;
      p += 6;
    } else {
      bytes -= 1;
      p += 2;
    }
  }
  return std::max<int64_t>(bytes, 0);
}

std::optional<int64_t> IntegerOf(std::string_view token) {
  if (!IsNumber(token) || token.find_first_of(".eE") != std::string_view::npos) return std::nullopt;
  int64_t value = 0;
  if (!absl::SimpleAtoi(Absl(token), &value)) return std::nullopt;
  return value;
}

std::optional<int64_t> CountOf(Value& value) {
  const std::string_view token = Token(value);
  if (token.empty() || !IsDigit(token[0])) return std::nullopt;
  if (const auto integer = IntegerOf(token)) return std::min(*integer, kCountMax);
  double number = 0;
  if (!IsNumber(token) || !absl::SimpleAtod(Absl(token), &number)) return std::nullopt;
  if (!(number < static_cast<double>(kCountMax))) return kCountMax;
  return static_cast<int64_t>(std::ceil(number));
}

}  // namespace tollhouse::edge::json
