#include "libs/identity/identity_testing.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse::identity {
namespace {

std::string Base64(std::string_view bytes) { return absl::WebSafeBase64Escape(Absl(bytes)); }

std::string NumberOf(EVP_PKEY* key, const char* name, int width) {
  BIGNUM* number = nullptr;
  EVP_PKEY_get_bn_param(key, name, &number);
  std::string bytes(width > 0 ? width : BN_num_bytes(number), '\0');
  BN_bn2binpad(number, reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  BN_free(number);
  return Base64(bytes);
}

// r and s of a DER signature side by side.
std::string RawSignature(const std::string& der) {
  const auto* begin = reinterpret_cast<const unsigned char*>(der.data());
  ECDSA_SIG* parsed = d2i_ECDSA_SIG(nullptr, &begin, static_cast<long>(der.size()));  // lint: allow(type) OpenSSL's
  std::string raw(64, '\0');
  auto* out = reinterpret_cast<unsigned char*>(raw.data());
  BN_bn2binpad(ECDSA_SIG_get0_r(parsed), out, 32);
  BN_bn2binpad(ECDSA_SIG_get0_s(parsed), out + 32, 32);
  ECDSA_SIG_free(parsed);
  return raw;
}

}  // namespace

struct TestSigner::Key {
  ~Key() { EVP_PKEY_free(pkey); }
  EVP_PKEY* pkey = nullptr;
};

TestSigner::TestSigner(std::string algorithm, std::string key_id, int bits)
    : algorithm_(std::move(algorithm)), key_id_(std::move(key_id)), key_(std::make_unique<Key>()) {
  key_->pkey = algorithm_ == "RS256" ? EVP_RSA_gen(bits) : EVP_EC_gen("P-256");
}

TestSigner::~TestSigner() = default;

std::string TestSigner::Jwk() const {
  if (algorithm_ == "RS256") {
    return absl::StrCat(R"({"kty":"RSA","use":"sig","alg":"RS256","kid":")", key_id_, R"(","n":")",
                        NumberOf(key_->pkey, OSSL_PKEY_PARAM_RSA_N, 0), R"(","e":")",
                        NumberOf(key_->pkey, OSSL_PKEY_PARAM_RSA_E, 0), R"("})");
  }
  return absl::StrCat(R"({"kty":"EC","crv":"P-256","kid":")", key_id_, R"(","x":")",
                      NumberOf(key_->pkey, OSSL_PKEY_PARAM_EC_PUB_X, 32), R"(","y":")",
                      NumberOf(key_->pkey, OSSL_PKEY_PARAM_EC_PUB_Y, 32), R"("})");
}

std::string TestSigner::Sign(std::string_view header, std::string_view payload) const {
  const std::string text = absl::StrCat(Base64(header), ".", Base64(payload));
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key_->pkey);
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  size_t size = 0;
  EVP_DigestSign(context, nullptr, &size, bytes, text.size());
  std::string signature(size, '\0');
  EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size, bytes, text.size());
  signature.resize(size);
  EVP_MD_CTX_free(context);
  return absl::StrCat(text, ".", Base64(algorithm_ == "ES256" ? RawSignature(signature) : signature));
}

std::string TestSigner::Sign(std::string_view payload) const {
  return Sign(absl::StrCat(R"({"alg":")", algorithm_, R"(","kid":")", key_id_, R"("})"), payload);
}

}  // namespace tollhouse::identity
