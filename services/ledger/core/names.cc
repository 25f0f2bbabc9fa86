#include "services/ledger/core/names.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::ledger {
namespace {

constexpr size_t kNameBytes = 64;
constexpr size_t kTagValueBytes = 256;
constexpr size_t kTags = 64;

bool IsNameByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '@' ||
         c == '-';
}

// A name with what cannot be printed replaced, short enough for a message.
std::string Printable(std::string_view text) {
  std::string shown(text.substr(0, kNameBytes + 8));
  for (char& c : shown) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return text.size() > shown.size() ? shown + "..." : shown;
}

absl::Status BadName(std::string_view name, std::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_NAME",
                   absl::StrCat("bad name '", Printable(name), "': ", Absl(why)));
}

bool NeedsEscape(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '%' || c == '&' || c == '=' ||
         c == ',' || c == '[' || c == ']';
}

std::string Escape(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (NeedsEscape(c)) {
      out += '%';
      out += kDigits[static_cast<unsigned char>(c) >> 4];
      out += kDigits[static_cast<unsigned char>(c) & 15];
    } else {
      out += c;
    }
  }
  return out;
}

int HexValue(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(HexValue(text[i + 1]) << 4 | HexValue(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

absl::Status CheckName(std::string_view name) {
  if (name.empty()) return BadName(name, "it is empty");
  if (name.size() > kNameBytes) return BadName(name, "it is longer than 64 characters");
  if (name == "." || name == "..") return BadName(name, "it is a relative path");
  for (const char c : name) {
    if (!IsNameByte(c)) return BadName(name, "use letters, digits and . _ @ -");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SplitPath(std::string_view path) {
  if (path.size() > 4 * (kNameBytes + 1)) {
    return BadName(path, "a path is at most org/team/user/key");
  }
  std::vector<std::string> names = absl::StrSplit(Absl(path), '/');
  for (const std::string& name : names) {
    if (absl::Status status = CheckName(name); !status.ok()) {
      return BadName(path, "each name of a path is 1 to 64 of letters, digits and . _ @ -");
    }
  }
  if (names.size() > 4) return BadName(path, "a path is at most org/team/user/key");
  return names;
}

std::string ParentOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? "" : std::string(path.substr(0, slash));
}

absl::Status CheckTags(const std::map<std::string, std::string>& tags) {
  const auto bad = [](std::string_view what, std::string_view why) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                     absl::StrCat("bad tag '", Printable(what), "': ", Absl(why)));
  };
  if (tags.size() > kTags) return bad("", "more than 64 of them");
  for (const auto& [key, value] : tags) {
    if (!CheckName(key).ok()) return bad(key, "a key is 1 to 64 of letters, digits and . _ @ -");
    if (value.size() > kTagValueBytes) return bad(key, "its value is longer than 256 bytes");
    for (const char c : value) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
        return bad(key, "its value has a control character");
      }
    }
  }
  return absl::OkStatus();
}

std::string EncodeTags(const std::map<std::string, std::string>& tags) {
  std::string out;
  for (const auto& [key, value] : tags) {
    absl::StrAppend(&out, out.empty() ? "" : "&", Escape(key), "=", Escape(value));
  }
  return out;
}

std::map<std::string, std::string> DecodeTags(std::string_view text) {
  std::map<std::string, std::string> tags;
  while (!text.empty()) {
    const size_t end = std::min(text.find('&'), text.size());
    const std::string_view pair = text.substr(0, end);
    const size_t equals = std::min(pair.find('='), pair.size());
    tags.emplace(Unescape(pair.substr(0, equals)),
                 equals < pair.size() ? Unescape(pair.substr(equals + 1)) : "");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return tags;
}

std::string BudgetDisplayId(std::string_view path, std::string_view name, std::string_view window,
                            std::string_view encoded_match, std::string_view for_each) {
  std::string id = absl::StrCat(Absl(path), "#", name.empty() ? Absl(window) : Absl(name));
  if (name.empty() && !encoded_match.empty()) {
    absl::StrAppend(&id, "[", Absl(encoded_match), "]");
  }
  if (!for_each.empty()) absl::StrAppend(&id, "*", Absl(for_each));
  return id;
}

}  // namespace tollhouse::ledger
