#include "libs/crypto/aead.h"

#include <openssl/evp.h>

#include <memory>

#include "absl/status/status.h"
#include "libs/crypto/random.h"

namespace tollhouse::crypto {
namespace {

constexpr size_t kNonceSize = 12;
constexpr size_t kTagSize = 16;

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

unsigned char* Bytes(char* data) { return reinterpret_cast<unsigned char*>(data); }

bool Fits(std::string_view text) { return text.size() <= (size_t{1} << 30); }

}  // namespace

absl::StatusOr<std::string> Seal(std::string_view key, std::string_view aad,
                                 std::string_view plaintext) {
  if (key.size() != kAeadKeySize) return absl::InvalidArgumentError("a key must have 32 bytes");
  if (!Fits(aad) || !Fits(plaintext)) return absl::InvalidArgumentError("text too long to seal");
  std::string sealed = RandomBytes(kNonceSize);
  sealed.resize(kNonceSize + plaintext.size() + kTagSize);
  char* out = sealed.data() + kNonceSize;
  Context context(EVP_CIPHER_CTX_new());
  int size = 0;
  bool ok = context &&
            EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, Bytes(key),
                               Bytes(sealed)) == 1 &&
            EVP_EncryptUpdate(context.get(), nullptr, &size, Bytes(aad),
                              static_cast<int>(aad.size())) == 1 &&
            EVP_EncryptUpdate(context.get(), Bytes(out), &size, Bytes(plaintext),
                              static_cast<int>(plaintext.size())) == 1 &&
            EVP_EncryptFinal_ex(context.get(), Bytes(out) + size, &size) == 1 &&
            EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, kTagSize,
                                out + plaintext.size()) == 1;
  if (!ok) return absl::InternalError("AES-256-GCM failed to seal");
  return sealed;
}

absl::StatusOr<SecretBytes> Open(std::string_view key, std::string_view aad,
                                 std::string_view sealed) {
  if (key.size() != kAeadKeySize) return absl::InvalidArgumentError("a key must have 32 bytes");
  if (sealed.size() < kNonceSize + kTagSize || !Fits(sealed) || !Fits(aad)) {
    return absl::UnauthenticatedError("sealed text is damaged");
  }
  std::string_view body = sealed.substr(kNonceSize, sealed.size() - kNonceSize - kTagSize);
  std::string tag(sealed.substr(sealed.size() - kTagSize));
  SecretBytes plaintext(body.size());
  unsigned char none = 0;
  unsigned char* out = body.empty() ? &none : Bytes(plaintext.data());
  Context context(EVP_CIPHER_CTX_new());
  int size = 0;
  bool ok = context &&
            EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, Bytes(key),
                               Bytes(sealed)) == 1 &&
            EVP_DecryptUpdate(context.get(), nullptr, &size, Bytes(aad),
                              static_cast<int>(aad.size())) == 1 &&
            EVP_DecryptUpdate(context.get(), out, &size, Bytes(body),
                              static_cast<int>(body.size())) == 1 &&
            EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, kTagSize, tag.data()) == 1 &&
            EVP_DecryptFinal_ex(context.get(), out + size, &size) == 1;
  if (!ok) return absl::UnauthenticatedError("sealed text, key or context do not belong together");
  return plaintext;
}

}  // namespace tollhouse::crypto
