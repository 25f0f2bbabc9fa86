#include "libs/identity/key_set.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <simdjson.h>

#include "absl/strings/escaping.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::identity {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using PkeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, Deleter<EVP_PKEY_CTX_free>>;
using BuilderPtr = std::unique_ptr<OSSL_PARAM_BLD, Deleter<OSSL_PARAM_BLD_free>>;
using ParamsPtr = std::unique_ptr<OSSL_PARAM, Deleter<OSSL_PARAM_free>>;
using BignumPtr = std::unique_ptr<BIGNUM, Deleter<BN_free>>;
using DigestContextPtr = std::unique_ptr<EVP_MD_CTX, Deleter<EVP_MD_CTX_free>>;
using EcdsaPtr = std::unique_ptr<ECDSA_SIG, Deleter<ECDSA_SIG_free>>;

constexpr int kRsaBitsMin = 2048, kRsaBitsMax = 8192;
constexpr size_t kCoordinate = 32;  // bytes of a P-256 coordinate

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

BignumPtr ToBignum(std::string_view big_endian) {
  return BignumPtr(BN_bin2bn(Bytes(big_endian), static_cast<int>(big_endian.size()), nullptr));
}

PkeyPtr MakeKey(const char* type, OSSL_PARAM_BLD* builder) {
  const ParamsPtr params(OSSL_PARAM_BLD_to_param(builder));
  const PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    return nullptr;
  }
  return PkeyPtr(key);
}

PkeyPtr MakeRsaKey(std::string_view modulus, std::string_view exponent) {
  const BignumPtr n = ToBignum(modulus), e = ToBignum(exponent);
  const BuilderPtr builder(OSSL_PARAM_BLD_new());
  if (OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1) {
    return nullptr;
  }
  PkeyPtr key = MakeKey("RSA", builder.get());
  if (key == nullptr) return nullptr;
  const int bits = EVP_PKEY_get_bits(key.get());
  if (bits < kRsaBitsMin || bits > kRsaBitsMax || !BN_is_odd(e.get()) || BN_is_one(e.get())) return nullptr;
  return key;
}

PkeyPtr MakeP256Key(std::string_view x, std::string_view y) {
  if (x.size() != kCoordinate || y.size() != kCoordinate) return nullptr;
  std::string point("\x04");
  point.append(x).append(y);
  const BuilderPtr builder(OSSL_PARAM_BLD_new());
  if (OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) != 1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                       point.size()) != 1) {
    return nullptr;
  }
  return MakeKey("EC", builder.get());
}

// r and s side by side (RFC 7518, 3.4) to what OpenSSL reads; "" if it cannot be one.
std::string ToDer(std::string_view signature) {
  if (signature.size() != 2 * kCoordinate) return "";
  const EcdsaPtr parsed(ECDSA_SIG_new());
  BignumPtr r = ToBignum(signature.substr(0, kCoordinate)), s = ToBignum(signature.substr(kCoordinate));
  if (parsed == nullptr || ECDSA_SIG_set0(parsed.get(), r.get(), s.get()) != 1) return "";
  static_cast<void>(r.release());
  static_cast<void>(s.release());
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(parsed.get(), &der);
  if (size <= 0) return "";
  std::string out(reinterpret_cast<char*>(der), size);
  OPENSSL_free(der);
  return out;
}

absl::Status BadKeySet(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_KEY_SET", message);
}

std::string_view TextOf(const simdjson::dom::object& object, std::string_view name) {
  std::string_view text;
  return object[name].get_string().get(text) == simdjson::SUCCESS ? text : std::string_view();
}

std::string Base64Of(const simdjson::dom::object& object, std::string_view name) {
  std::string out;
  return absl::WebSafeBase64Unescape(Absl(TextOf(object, name)), &out) ? out : "";
}

}  // namespace

struct KeySet::Key {
  std::string id;
  std::string algorithm;
  PkeyPtr key;
};

absl::StatusOr<KeySet> KeySet::Parse(std::string_view json) {
  if (json.size() > kKeySetBytesMax) return BadKeySet("the key set is too large");
  simdjson::dom::parser parser;
  simdjson::dom::array keys;
  if (parser.parse(json.data(), json.size())["keys"].get_array().get(keys) != simdjson::SUCCESS) {
    return BadKeySet("not a JSON Web Key Set: no array \"keys\"");
  }
  KeySet set;
  for (const simdjson::dom::element element : keys) {
    simdjson::dom::object object;
    if (element.get_object().get(object) != simdjson::SUCCESS) continue;
    const std::string_view use = TextOf(object, "use");
    if (!use.empty() && use != "sig") continue;
    auto key = std::make_shared<Key>();
    key->id = std::string(TextOf(object, "kid"));
    if (TextOf(object, "kty") == "RSA") {
      key->algorithm = "RS256";
      key->key = MakeRsaKey(Base64Of(object, "n"), Base64Of(object, "e"));
    } else if (TextOf(object, "kty") == "EC" && TextOf(object, "crv") == "P-256") {
      key->algorithm = "ES256";
      key->key = MakeP256Key(Base64Of(object, "x"), Base64Of(object, "y"));
    }
    const std::string_view algorithm = TextOf(object, "alg");
    if (key->key == nullptr || (!algorithm.empty() && algorithm != key->algorithm)) continue;
    if (set.keys_.size() == kKeysMax) return BadKeySet("more keys than anyone needs");
    set.keys_.push_back(std::move(key));
  }
  if (set.keys_.empty()) return BadKeySet("no RSA key of 2048 bits or more and no P-256 key for signatures");
  return set;
}

absl::Status KeySet::Verify(std::string_view key_id, std::string_view algorithm, std::string_view message,
                            std::string_view signature) const {
  const Key* found = nullptr;
  int candidates = 0;
  for (const auto& key : keys_) {
    if (key->algorithm != algorithm || (!key_id.empty() && key->id != key_id)) continue;
    found = key.get();
    ++candidates;
  }
  if (candidates != 1) {
    return MakeError(absl::StatusCode::kUnauthenticated, "UNKNOWN_SIGNER",
                     "the token names no signing key of its issuer");
  }
  const std::string bytes = algorithm == "ES256" ? ToDer(signature) : std::string(signature);
  const DigestContextPtr context(EVP_MD_CTX_new());
  if (bytes.empty() || context == nullptr ||
      EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, found->key.get()) != 1 ||
      EVP_DigestVerify(context.get(), Bytes(bytes), bytes.size(), Bytes(message), message.size()) != 1) {
    return MakeError(absl::StatusCode::kUnauthenticated, "BAD_SIGNATURE",
                     "the token's signature is not its issuer's");
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::identity
