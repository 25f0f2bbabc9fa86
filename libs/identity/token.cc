#include "libs/identity/token.h"

#include <simdjson.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::identity {
namespace {

constexpr int64_t kLastSecond = 253402300799;  // 9999-12-31T23:59:59Z

absl::Status BadToken(std::string_view message) {
  return MakeError(absl::StatusCode::kUnauthenticated, "BAD_TOKEN", message);
}

// A NumericDate may have a fraction; what is beneath a second does not matter here.
absl::StatusOr<std::optional<absl::Time>> TimeOf(const simdjson::dom::object& claims, std::string_view name) {
  const auto field = claims[name];
  if (field.error() == simdjson::NO_SUCH_FIELD) return std::optional<absl::Time>();
  double seconds = 0;
  if (field.get_double().get(seconds) != simdjson::SUCCESS) return BadToken("a time in the token is no number");
  if (!(seconds >= 0 && seconds <= static_cast<double>(kLastSecond))) {
    return BadToken("a time in the token is out of range");
  }
  return std::optional<absl::Time>(absl::FromUnixSeconds(static_cast<int64_t>(std::floor(seconds))));
}

absl::Status ReadHeader(const simdjson::dom::object& header, Token* token) {
  if (header["crit"].error() != simdjson::NO_SUCH_FIELD) {
    return BadToken("the token has critical header fields");
  }
  std::string_view text;
  if (header["alg"].get_string().get(text) != simdjson::SUCCESS) return BadToken("the token names no algorithm");
  token->algorithm = std::string(text);
  if (header["kid"].error() == simdjson::NO_SUCH_FIELD) return absl::OkStatus();
  if (header["kid"].get_string().get(text) != simdjson::SUCCESS) return BadToken("the token's key id is no text");
  token->key_id = std::string(text);
  return absl::OkStatus();
}

absl::Status ReadAudiences(const simdjson::dom::object& claims, Token* token) {
  const auto field = claims["aud"];
  if (field.error() == simdjson::NO_SUCH_FIELD) return absl::OkStatus();
  std::string_view text;
  if (field.get_string().get(text) == simdjson::SUCCESS) {
    token->audiences.emplace_back(text);
    return absl::OkStatus();
  }
  simdjson::dom::array list;
  if (field.get_array().get(list) != simdjson::SUCCESS) return BadToken("the token's audience is no text");
  for (const simdjson::dom::element element : list) {
    if (element.get_string().get(text) != simdjson::SUCCESS) return BadToken("the token's audience is no text");
    token->audiences.emplace_back(text);
  }
  return absl::OkStatus();
}

absl::Status ReadClaims(const simdjson::dom::object& claims, Token* token) {
  for (const auto [name, value] : claims) {
    std::string_view text;
    simdjson::dom::array list;
    if (value.get_array().get(list) == simdjson::SUCCESS) {
      const auto [items, fresh] = token->list_claims.try_emplace(std::string(name));
      if (!fresh) return BadToken("the token repeats a claim");
      for (const simdjson::dom::element element : list) {
        if (element.get_string().get(text) == simdjson::SUCCESS) items->second.emplace_back(text);
      }
      continue;
    }
    if (value.get_string().get(text) != simdjson::SUCCESS) continue;
    if (!token->text_claims.emplace(name, text).second) return BadToken("the token repeats a claim");
  }
  if (const auto it = token->text_claims.find("iss"); it != token->text_claims.end()) {
    token->issuer = it->second;
  }
  TH_RETURN_IF_ERROR(ReadAudiences(claims, token));
  TH_ASSIGN_OR_RETURN(token->expires_at, TimeOf(claims, "exp"));
  TH_ASSIGN_OR_RETURN(token->not_before, TimeOf(claims, "nbf"));
  return absl::OkStatus();
}

// RFC 7515: no padding, no white space; the decoder would skip both.
bool IsBase64UrlOrDot(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
}

}  // namespace

bool LooksLikeToken(std::string_view text) {
  constexpr std::string_view kJsonObject = "eyJ";  // {"
  return text.starts_with(kJsonObject) && std::count(text.begin(), text.end(), '.') == 2;
}

absl::StatusOr<Token> ParseToken(std::string_view text) {
  if (text.size() > kTokenBytesMax) return BadToken("the token is too long");
  if (!LooksLikeToken(text)) return BadToken("the token does not have three parts");
  if (!std::all_of(text.begin(), text.end(), IsBase64UrlOrDot)) {
    return BadToken("the token is not base64url");
  }
  const size_t first = text.find('.');
  const size_t second = text.find('.', first + 1);
  Token token;
  std::string header, payload;
  if (!absl::WebSafeBase64Unescape(Absl(text.substr(0, first)), &header) ||
      !absl::WebSafeBase64Unescape(Absl(text.substr(first + 1, second - first - 1)), &payload) ||
      !absl::WebSafeBase64Unescape(Absl(text.substr(second + 1)), &token.signature)) {
    return BadToken("the token is not base64url");
  }
  token.signed_part = text.substr(0, second);
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(header).get_object().get(object) != simdjson::SUCCESS) {
    return BadToken("the token's header is no JSON object");
  }
  TH_RETURN_IF_ERROR(ReadHeader(object, &token));
  if (parser.parse(payload).get_object().get(object) != simdjson::SUCCESS) {
    return BadToken("the token's payload is no JSON object");
  }
  TH_RETURN_IF_ERROR(ReadClaims(object, &token));
  return token;
}

}  // namespace tollhouse::identity
