#include "libs/rpc/authenticator.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::rpc {
namespace {

std::string Sha256(std::string_view text) {
  std::string out(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(out.data()));
  return out;
}

absl::StatusOr<std::string> CreateTokenFile(const std::string& path) {
  unsigned char random[32];
  if (RAND_bytes(random, sizeof random) != 1) return absl::InternalError("no random bytes");
  const std::string token = absl::StrCat(
      "toll-admin-",
      absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(random), sizeof random)));
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

}  // namespace

Authenticator::Authenticator(std::string_view token) : hash_(Sha256(token)) {}

absl::StatusOr<Authenticator> Authenticator::FromFile(const std::string& path,
                                                      bool create_if_absent) {
  if (create_if_absent && access(path.c_str(), F_OK) != 0) {
    auto token = CreateTokenFile(path);
    if (!token.ok()) return token.status();
    return Authenticator(*token);
  }
  std::ifstream file(path);
  std::string token;
  if (!std::getline(file, token)) {
    return absl::NotFoundError(absl::StrCat("no admin token in ", path));
  }
  absl::StripAsciiWhitespace(&token);
  if (token.size() < 16) return absl::InvalidArgumentError(absl::StrCat("admin token in ", path, " is too short"));
  return Authenticator(token);
}

absl::Status Authenticator::Check(const grpc::ServerContextBase& context) const {
  constexpr std::string_view kBearer = "Bearer ";
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    const std::string_view value(it->second.data(), it->second.size());
    if (value.substr(0, kBearer.size()) != kBearer) continue;
    const std::string hash = Sha256(value.substr(kBearer.size()));
    if (CRYPTO_memcmp(hash.data(), hash_.data(), hash.size()) == 0) return absl::OkStatus();
  }
  return MakeError(absl::StatusCode::kUnauthenticated, "BAD_TOKEN",
                   "this needs the admin token; pass --token-file or set TOLLHOUSE_TOKEN_FILE");
}

absl::Status CheckCaller(const Authenticator* authenticator,
                         const grpc::ServerContextBase& context) {
  return authenticator == nullptr ? absl::OkStatus() : authenticator->Check(context);
}

}  // namespace tollhouse::rpc
