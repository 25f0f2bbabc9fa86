#include "services/edge/headers.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "libs/crypto/virtual_key.h"
#include "services/edge/target.h"

namespace tollhouse::edge {
namespace {

bool Is(std::string_view name, std::string_view other) {
  return absl::EqualsIgnoreCase(Absl(name), Absl(other));
}

template <size_t kSize>
bool IsAnyOf(std::string_view name, const std::array<std::string_view, kSize>& names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view n) { return Is(name, n); });
}

// RFC 9110 section 7.6.1, and what browsers and proxies used before it.
constexpr std::array<std::string_view, 9> kHopByHop = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te",         "trailer",    "transfer-encoding",  "upgrade"};

constexpr std::array<std::string_view, 14> kNotToProviders = {
    "host",           "content-length",    "expect",          "accept-encoding",
    "authorization",  "x-api-key",         "x-goog-api-key",  "api-key",
    "cookie",         "forwarded",         "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-proto", "x-real-ip"};

constexpr std::array<std::string_view, 4> kNotToCallers = {"content-length", "set-cookie",
                                                           "alt-svc", "strict-transport-security"};

// Whether the Connection header declares `name` to be hop-by-hop.
bool NamedByConnection(const Headers& headers, std::string_view name) {
  for (const HeaderField& field : headers.fields) {
    if (!Is(field.name, "connection")) continue;
    for (const absl::string_view item : absl::StrSplit(Absl(field.value), ',')) {
      if (absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(item), Absl(name))) return true;
    }
  }
  return false;
}

}  // namespace

std::string_view KeyOf(const RequestHead& head) {
  std::string_view first;
  for (const HeaderField& field : head.headers.fields) {
    std::string_view key;
    if (Is(field.name, "authorization")) {
      if (field.value.size() > 7 && Is(field.value.substr(0, 7), "bearer ")) {
        key = Std(absl::StripAsciiWhitespace(Absl(field.value.substr(7))));
      }
    } else if (Is(field.name, "x-api-key") || Is(field.name, "x-goog-api-key")) {
      key = field.value;
    }
    if (key.starts_with(crypto::kVirtualKeyPrefix)) return key;
    if (first.empty()) first = key;
  }
  return first;
}

common::v1::Dialect DialectOfHead(const RequestHead& head) {
  const std::string_view path = head.path();
  if (path == "/v1/messages" || path.starts_with("/v1/messages/")) {
    return common::v1::DIALECT_ANTHROPIC;
  }
  if (path.starts_with("/v1beta") || path.starts_with("/v1alpha") || path.starts_with("/upload/") ||
      (path.find(':') != std::string_view::npos && !TargetOf(head).version.empty())) {
    return common::v1::DIALECT_GEMINI;
  }
  // Paths that Google's newer SDKs share with others.
  if (head.headers.Find("x-goog-api-key") &&
      (path.starts_with("/v1/models") || path.starts_with("/v1/cachedContents"))) {
    return common::v1::DIALECT_GEMINI;
  }
  return head.headers.Find("anthropic-version") ? common::v1::DIALECT_ANTHROPIC
                                                : common::v1::DIALECT_OPENAI;
}

std::string AcceptEncoding(bool stream, std::string_view callers) {
  std::string result;
  if (!stream) {
    for (const absl::string_view item : absl::StrSplit(Absl(callers), ',')) {
      std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(item, absl::MaxSplits(';', 1));
      const std::string name = absl::AsciiStrToLower(absl::StripAsciiWhitespace(parts.first));
      std::string quality(absl::StripAsciiWhitespace(parts.second));
      if (absl::StartsWith(quality, "q=0") && quality.find_first_of("123456789") == std::string::npos) {
        continue;
      }
      if (name == "gzip" || name == "deflate" || name == "br" || name == "zstd") {
        absl::StrAppend(&result, result.empty() ? "" : ", ", name);
      }
    }
  }
  return result.empty() ? "identity" : result;
}

std::string RenderUpstreamHead(const RequestHead& caller, const UpstreamHead& upstream) {
  std::string head;
  head.reserve(1024 + upstream.credential.size());
  absl::StrAppend(&head, Absl(upstream.method), " ", Absl(upstream.path),
                  " HTTP/1.1\r\nhost: ", upstream.host,
                  "\r\naccept-encoding: ", Absl(upstream.accept_encoding), "\r\n");
  if (upstream.method == "POST") {
    absl::StrAppend(&head, "content-length: ", upstream.content_length, "\r\n");
  }
  if (!upstream.credential.empty()) {
    switch (upstream.dialect) {
      case common::v1::DIALECT_ANTHROPIC: head += "x-api-key: "; break;
      case common::v1::DIALECT_GEMINI: head += "x-goog-api-key: "; break;
      default: head += "authorization: Bearer "; break;
    }
    absl::StrAppend(&head, Absl(upstream.credential), "\r\n");
  }
  if (!upstream.hold_id.empty()) {
    absl::StrAppend(&head, "x-tollhouse-hold-id: ", Absl(upstream.hold_id), "\r\n");
  }
  for (const HeaderField& field : caller.headers.fields) {
    if (IsAnyOf(field.name, kHopByHop) || IsAnyOf(field.name, kNotToProviders) ||
        absl::StartsWithIgnoreCase(Absl(field.name), "x-tollhouse-") ||
        NamedByConnection(caller.headers, field.name)) {
      continue;
    }
    absl::StrAppend(&head, Absl(field.name), ": ", Absl(field.value), "\r\n");
  }
  head += "\r\n";
  return head;
}

std::string_view KeyInQuery(std::string_view target) {
  const size_t question = target.find('?');
  if (question == std::string_view::npos) return "";
  for (const absl::string_view item : absl::StrSplit(Absl(target.substr(question + 1)), '&')) {
    if (absl::StartsWith(item, "key=")) return Std(item.substr(4));
  }
  return "";
}

std::string QueryOf(std::string_view target) {
  const size_t question = target.find('?');
  if (question == std::string_view::npos) return "";
  std::string query;
  for (const absl::string_view item : absl::StrSplit(Absl(target.substr(question + 1)), '&')) {
    if (item.empty() || absl::StartsWithIgnoreCase(item, "key=")) continue;
    absl::StrAppend(&query, query.empty() ? "?" : "&", item);
  }
  return query;
}

HeaderList AnswerHeaders(const ResponseHead& head, bool decoded) {
  HeaderList result;
  result.reserve(head.headers.fields.size() + 4);
  for (const HeaderField& field : head.headers.fields) {
    if (IsAnyOf(field.name, kHopByHop) || IsAnyOf(field.name, kNotToCallers) ||
        absl::StartsWithIgnoreCase(Absl(field.name), "x-tollhouse-") ||
        NamedByConnection(head.headers, field.name) ||
        (decoded && Is(field.name, "content-encoding"))) {
      continue;
    }
    result.emplace_back(absl::AsciiStrToLower(Absl(field.name)), std::string(field.value));
  }
  return result;
}

}  // namespace tollhouse::edge
