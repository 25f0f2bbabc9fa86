// HTTP/1.1 messages as the edge sees them: views into the bytes that were received.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {

struct HeaderField {
  std::string_view name;
  std::string_view value;  // without surrounding blanks
};

struct Headers {
  std::vector<HeaderField> fields;

  // The first field of that name (any case); nullopt if there is none.
  std::optional<std::string_view> Find(std::string_view name) const {
    for (const HeaderField& field : fields) {
      if (absl::EqualsIgnoreCase(Absl(field.name), Absl(name))) return field.value;
    }
    return std::nullopt;
  }
  std::string_view Get(std::string_view name) const { return Find(name).value_or(""); }
  int Count(std::string_view name) const {
    int count = 0;
    for (const HeaderField& field : fields) {
      count += absl::EqualsIgnoreCase(Absl(field.name), Absl(name));
    }
    return count;
  }
};

struct RequestHead {
  std::string_view method;
  std::string_view target;  // origin form: starts with '/'
  int version = 11;         // 10 or 11
  Headers headers;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = true;
  bool expect_continue = false;

  std::string_view path() const { return target.substr(0, target.find('?')); }
};

struct ResponseHead {
  int status = 0;
  std::string_view reason;
  Headers headers;
  std::optional<uint64_t> content_length;
  bool keep_alive = false;
};

// Fields of an answer, lower-case names.
using HeaderList = std::vector<std::pair<std::string, std::string>>;

}  // namespace tollhouse::edge
