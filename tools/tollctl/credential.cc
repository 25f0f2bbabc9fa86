#include "tools/tollctl/credential.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {

absl::StatusOr<std::string> ReadSecret(const SecretSource& source, const GetEnv& env) {
  std::string text;
  std::string place;
  if (!source.file.empty()) {
    place = absl::StrCat("'", source.file, "'");
    TH_ASSIGN_OR_RETURN(text, ReadFile(source.file));
  } else {
    place = absl::StrCat("environment variable ", source.variable);
    text = env(source.variable);
    if (text.empty()) {
      return absl::NotFoundError(absl::StrCat(place, " is not set; export it, or name a file"));
    }
  }
  std::string secret(absl::StripAsciiWhitespace(text));
  if (secret.empty()) return absl::InvalidArgumentError(absl::StrCat(place, " is empty"));
  if (std::any_of(secret.begin(), secret.end(),
                  [](char c) { return std::iscntrl(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, " holds several lines or control characters; it must be one secret"));
  }
  return secret;
}

}  // namespace tollhouse::tollctl
