#include "libs/crypto/virtual_key.h"

#include <algorithm>
#include <array>

#include "libs/crypto/random.h"

namespace tollhouse::crypto {
namespace {

constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyz234567";
constexpr size_t kRandomChars = 14;
constexpr size_t kChecksumChars = 10;
constexpr size_t kIdChars = kRandomChars + kChecksumChars;
constexpr size_t kSecretChars = 52;

// Writes `chars` base32 characters; the last one is padded with zero bits.
void Base32(std::string_view bytes, size_t chars, char* out) {
  size_t bit = 0;
  for (size_t i = 0; i < chars; ++i, bit += 5) {
    unsigned value = 0;
    for (size_t b = bit; b < bit + 5; ++b) {
      unsigned byte = b / 8 < bytes.size() ? static_cast<unsigned char>(bytes[b / 8]) : 0;
      value = value << 1 | (byte >> (7 - b % 8) & 1);
    }
    out[i] = kAlphabet[value];
  }
}

std::string Checksum(const HmacKey& checksum_key, std::string_view random) {
  std::string text(kChecksumChars, '\0');
  Base32(AsBytes(checksum_key.Mac(random)), kChecksumChars, text.data());
  return text;
}

constexpr std::array<bool, 256> kIsBase32 = [] {
  std::array<bool, 256> is{};
  for (const char c : kAlphabet) is[static_cast<unsigned char>(c)] = true;
  return is;
}();

bool IsBase32(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return kIsBase32[static_cast<unsigned char>(c)]; });
}

}  // namespace

NewVirtualKey MakeVirtualKey(std::string_view checksum_key) {
  std::string id(kRandomChars, '\0');
  Base32(RandomBytes(9), kRandomChars, id.data());
  id += Checksum(HmacKey(checksum_key), id);
  SecretBytes text = MakeVirtualKeyText(id);
  return {std::move(id), std::move(text)};
}

SecretBytes MakeVirtualKeyText(std::string_view id) {
  SecretBytes random = RandomSecret(32);
  SecretBytes text(kVirtualKeyPrefix.size() + id.size() + 1 + kSecretChars);
  char* out = text.data();
  out += kVirtualKeyPrefix.copy(out, kVirtualKeyPrefix.size());
  out += id.copy(out, id.size());
  *out++ = '-';
  Base32(random.view(), kSecretChars, out);
  return text;
}

std::optional<VirtualKeyParts> ParseVirtualKey(std::string_view text) {
  if (text.size() != kVirtualKeyPrefix.size() + kIdChars + 1 + kSecretChars ||
      text.substr(0, kVirtualKeyPrefix.size()) != kVirtualKeyPrefix ||
      text[kVirtualKeyPrefix.size() + kIdChars] != '-') {
    return std::nullopt;
  }
  VirtualKeyParts parts{text.substr(kVirtualKeyPrefix.size(), kIdChars),
                        text.substr(text.size() - kSecretChars)};
  if (!IsBase32(parts.id) || !IsBase32(parts.secret)) return std::nullopt;
  return parts;
}

bool CheckId(const HmacKey& checksum_key, std::string_view id) {
  return id.size() == kIdChars &&
         ConstantTimeEqual(Checksum(checksum_key, id.substr(0, kRandomChars)),
                           id.substr(kRandomChars));
}

Sha256Digest MacOfSecret(std::string_view secret_key, std::string_view secret) {
  return HmacSha256(secret_key, secret);
}

}  // namespace tollhouse::crypto
