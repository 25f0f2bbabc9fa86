#include "tools/tollctl/value.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {
namespace {

const Value kNullValue;

std::string JsonText(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          char escaped[8];
          std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
          out += escaped;
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

void WriteJson(const Value& value, int indent, std::string* out) {
  const std::string inner(2 * (indent + 1), ' ');
  const std::string outer(2 * indent, ' ');
  switch (value.kind()) {
    case Value::Kind::kNull: *out += "null"; return;
    case Value::Kind::kBool: *out += value.number() ? "true" : "false"; return;
    case Value::Kind::kNumber: absl::StrAppend(out, value.number()); return;
    case Value::Kind::kCount: absl::StrAppend(out, "\"", value.number(), "\""); return;
    case Value::Kind::kText: *out += JsonText(value.text()); return;
    case Value::Kind::kList: {
      if (value.items().empty()) {
        *out += "[]";
        return;
      }
      *out += "[";
      const char* separator = "\n";
      for (const Value& item : value.items()) {
        absl::StrAppend(out, separator, inner);
        WriteJson(item, indent + 1, out);
        separator = ",\n";
      }
      absl::StrAppend(out, "\n", outer, "]");
      return;
    }
    case Value::Kind::kObject: {
      if (value.fields().empty()) {
        *out += "{}";
        return;
      }
      *out += "{";
      const char* separator = "\n";
      for (const auto& [name, field] : value.fields()) {
        absl::StrAppend(out, separator, inner, JsonText(name), ": ");
        WriteJson(field, indent + 1, out);
        separator = ",\n";
      }
      absl::StrAppend(out, "\n", outer, "}");
      return;
    }
  }
}

bool IsScalar(const Value& value) {
  return value.kind() != Value::Kind::kList && value.kind() != Value::Kind::kObject;
}

// Everything that fits behind "key: " or "- "; empty collections are written in flow style.
std::string YamlInline(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kNull: return "null";
    case Value::Kind::kText: return YamlScalar(value.text());
    case Value::Kind::kList: return "[]";
    case Value::Kind::kObject: return "{}";
    default: return PlainText(value);
  }
}

void WriteYaml(const Value& value, int indent, bool first_inline, std::string* out) {
  const std::string prefix(indent, ' ');
  bool skip_prefix = first_inline;
  const auto nested = [](const Value& v) {
    return !IsScalar(v) && !(v.items().empty() && v.fields().empty());
  };
  if (value.kind() == Value::Kind::kObject) {
    for (const auto& [name, field] : value.fields()) {
      if (!skip_prefix) *out += prefix;
      skip_prefix = false;
      absl::StrAppend(out, YamlScalar(name), ":");
      if (nested(field)) {
        *out += "\n";
        WriteYaml(field, indent + (field.kind() == Value::Kind::kObject ? 2 : 0), false, out);
      } else {
        absl::StrAppend(out, " ", YamlInline(field), "\n");
      }
    }
  } else {
    for (const Value& item : value.items()) {
      absl::StrAppend(out, prefix, "- ");
      if (nested(item)) {
        WriteYaml(item, indent + 2, true, out);
      } else {
        absl::StrAppend(out, YamlInline(item), "\n");
      }
    }
  }
}

void Flatten(const std::string& name, const Value& value,
             std::vector<std::pair<std::string, std::string>>* out) {
  if (value.kind() == Value::Kind::kObject && !value.fields().empty()) {
    for (const auto& [field, inner] : value.fields()) {
      Flatten(name.empty() ? field : absl::StrCat(name, ".", field), inner, out);
    }
    return;
  }
  out->emplace_back(name, value.kind() == Value::Kind::kObject ? "" : PlainText(value));
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace

Value Value::Number(int64_t number) {
  Value value;
  value.kind_ = Kind::kNumber;
  value.number_ = number;
  return value;
}

Value Value::Count(int64_t count) {
  Value value;
  value.kind_ = Kind::kCount;
  value.number_ = count;
  return value;
}

Value Value::List(std::vector<Value> items) {
  Value value;
  value.kind_ = Kind::kList;
  value.items_ = std::move(items);
  return value;
}

Value Value::Object(std::vector<std::pair<std::string, Value>> fields) {
  Value value;
  value.kind_ = Kind::kObject;
  value.fields_ = std::move(fields);
  return value;
}

Value& Value::Set(std::string_view name, Value value) {
  if (is_null()) kind_ = Kind::kObject;
  for (auto& [field, old] : fields_) {
    if (field == name) {
      old = std::move(value);
      return *this;
    }
  }
  fields_.emplace_back(std::string(name), std::move(value));
  return *this;
}

void Value::Remove(std::string_view name) {
  std::erase_if(fields_, [&](const auto& field) { return field.first == name; });
}

Value& Value::Add(Value item) {
  if (is_null()) kind_ = Kind::kList;
  items_.push_back(std::move(item));
  return *this;
}

const Value& Value::At(std::string_view path) const {
  for (const auto& [name, field] : fields_) {
    if (name == path) return field;
  }
  const size_t dot = path.find('.');
  if (dot == std::string_view::npos) return kNullValue;
  return At(path.substr(0, dot)).At(path.substr(dot + 1));
}

std::string PlainText(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kNull: return "";
    case Value::Kind::kBool: return value.number() ? "true" : "false";
    case Value::Kind::kNumber:
    case Value::Kind::kCount: return absl::StrCat(value.number());
    case Value::Kind::kText: return value.text();
    case Value::Kind::kList:
      return absl::StrJoin(value.items(), ";", [](std::string* out, const Value& item) {
        *out += PlainText(item);
      });
    case Value::Kind::kObject:
      return absl::StrJoin(value.fields(), ";", [](std::string* out, const auto& field) {
        absl::StrAppend(out, field.first, "=", PlainText(field.second));
      });
  }
  return "";
}

std::string ToJson(const Value& value) {
  std::string out;
  WriteJson(value, 0, &out);
  return out + "\n";
}

std::string YamlScalar(std::string_view text, bool quote) {
  // Words that some YAML version reads as a boolean or null.
  static constexpr std::string_view kWords[] = {"true", "false", "yes", "no", "on",
                                                "off",  "null",  "y",   "n"};
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const std::string_view word : kWords) quote = quote || lower == word;
  const auto begins_plain = [](char c) {
    return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '/';
  };
  const auto stays_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_/.@+-:# ").find(c) != std::string_view::npos;
  };
  quote = quote || text.empty() || !begins_plain(text.front()) || text.back() == ' ' ||
          text.back() == ':' || !std::all_of(text.begin(), text.end(), stays_plain) ||
          text.find(": ") != std::string_view::npos || text.find(" #") != std::string_view::npos;
  return quote ? JsonText(text) : std::string(text);
}

std::string ToYaml(const Value& value) {
  if (IsScalar(value) || (value.items().empty() && value.fields().empty())) {
    return YamlInline(value) + "\n";
  }
  std::string out;
  WriteYaml(value, 0, false, &out);
  return out;
}

std::string ToCsv(const std::vector<Value>& rows) {
  std::vector<std::string> columns;
  std::vector<std::vector<std::pair<std::string, std::string>>> flat(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    Flatten("", rows[i], &flat[i]);
    for (const auto& [name, text] : flat[i]) {
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
    }
  }
  const auto line = [](const std::vector<std::string>& fields) {
    return absl::StrJoin(fields, ",", [](std::string* out, const std::string& field) {
      *out += CsvField(field);
    }) + "\r\n";
  };
  std::string out = line(columns);
  for (const auto& row : flat) {
    std::vector<std::string> fields;
    for (const std::string& column : columns) {
      const auto found = std::find_if(row.begin(), row.end(),
                                      [&](const auto& field) { return field.first == column; });
      fields.push_back(found == row.end() ? "" : found->second);
    }
    out += line(fields);
  }
  return out;
}

}  // namespace tollhouse::tollctl
