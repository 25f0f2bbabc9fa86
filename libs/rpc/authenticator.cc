#include "libs/rpc/authenticator.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/random.h"

namespace tollhouse::rpc {
namespace {

absl::StatusOr<std::string> CreateTokenFile(const std::string& path) {
  const std::string token = MakeToken();
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return absl::UnavailableError(absl::StrCat("cannot create ", path));
  const std::string line = token + "\n";
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const bool closed = close(fd) == 0;
  if (!written || !closed) {
    unlink(path.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  return token;
}

absl::Status BadToken(std::string_view message) {
  return MakeError(absl::StatusCode::kUnauthenticated, "BAD_TOKEN", message);
}

}  // namespace

std::string HashOfToken(std::string_view token) {
  return std::string(crypto::AsBytes(crypto::Sha256(token)));
}

std::string MakeToken() {
  return absl::StrCat("toll-admin-", crypto::Hex(crypto::RandomBytes(32)));
}

Authenticator::Authenticator(std::string_view token, const Clock* clock)
    : clock_(clock), root_hash_(HashOfToken(token)) {}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::FromFile(const std::string& path,
                                                                       bool create_if_absent) {
  std::string token;
  if (create_if_absent && access(path.c_str(), F_OK) != 0) {
    TH_ASSIGN_OR_RETURN(token, CreateTokenFile(path));
  } else {
    std::ifstream file(path);
    if (!std::getline(file, token)) {
      return absl::NotFoundError(absl::StrCat("no admin token in ", path));
    }
    absl::StripAsciiWhitespace(&token);
    if (token.size() < 16) {
      return absl::InvalidArgumentError(absl::StrCat("admin token in ", path, " is too short"));
    }
  }
  return std::make_unique<Authenticator>(token);
}

void Authenticator::SetTokens(const KnownTokens& known) {
  absl::flat_hash_map<std::string, AdminToken> fresh;
  for (const AdminToken& token : known.tokens) fresh[token.hash] = token;
  const bool revoked = std::find(known.revoked_hashes.begin(), known.revoked_hashes.end(), root_hash_) !=
                       known.revoked_hashes.end();
  absl::MutexLock lock(&mutex_);
  root_revoked_ = revoked;
  tokens_ = std::move(fresh);
  forgotten_ = false;
}

void Authenticator::ForgetTokens() {
  absl::MutexLock lock(&mutex_);
  tokens_.clear();
  forgotten_ = true;
}

absl::StatusOr<Caller> Authenticator::Identify(const grpc::ServerContextBase& context) const {
  constexpr std::string_view kBearer = "Bearer ";
  bool given = false;
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    const std::string_view value(it->second.data(), it->second.size());
    if (value.substr(0, kBearer.size()) != kBearer) continue;
    given = true;
    const std::string_view credential = value.substr(kBearer.size());
    if (verifier_.is_mine != nullptr && verifier_.is_mine(credential)) return verifier_.verify(credential);
    const std::string hash = HashOfToken(credential);
    if (crypto::ConstantTimeEqual(hash, root_hash_)) {
      absl::MutexLock lock(&mutex_);
      if (root_revoked_) return BadToken("the first token was revoked");
      Caller root;
      root.actor = "root";
      root.role = common::v1::ROLE_OWNER;
      return root;
    }
    absl::MutexLock lock(&mutex_);
    if (forgotten_) {
      return MakeError(absl::StatusCode::kUnavailable, "TOKENS_UNKNOWN",
                       "the vault cannot be reached, so nobody knows whether this token still counts");
    }
    const auto found = tokens_.find(hash);
    if (found == tokens_.end()) continue;
    if (clock_->Wall() >= found->second.expires_at) {
      return BadToken(absl::StrCat("the token \"", found->second.caller.actor, "\" has expired"));
    }
    return found->second.caller;
  }
  return BadToken(given ? "nobody here knows this token" : "this needs an admin token");
}

}  // namespace tollhouse::rpc
