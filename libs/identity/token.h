// Bearer tokens of an identity provider: JSON Web Tokens (RFC 7519) in compact form.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse::identity {

inline constexpr size_t kTokenBytesMax = 8192;

// A token taken apart; nothing of it has been checked. The views live as long as the text.
struct Token {
  std::string algorithm;
  std::string key_id;
  std::string_view signed_part;  // header and payload as they were signed
  std::string signature;

  std::string issuer;
  std::vector<std::string> audiences;
  std::optional<absl::Time> expires_at, not_before;
  std::map<std::string, std::string> text_claims;  // every claim of the top level that is a text
  std::map<std::string, std::vector<std::string>> list_claims;  // and every one that is a list of texts
};

// Whether a credential looks like one: three parts, the first of them JSON in base64url.
bool LooksLikeToken(std::string_view text);

// UNAUTHENTICATED (BAD_TOKEN) for anything malformed, larger than kTokenBytesMax, with critical header
// fields, or with times outside of the years 1970 to 9999.
absl::StatusOr<Token> ParseToken(std::string_view text);

}  // namespace tollhouse::identity
