// Hashes, MACs and their comparison.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tollhouse::crypto {

// 32 raw bytes.
using Sha256Digest = std::array<uint8_t, 32>;

inline std::string_view AsBytes(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// FIPS 180-4. Thread-safe.
Sha256Digest Sha256(std::string_view data);

// RFC 2104 over SHA-256, any key length. Thread-safe.
Sha256Digest HmacSha256(std::string_view key, std::string_view data);

// Whether both are equal, in time that depends on the lengths only.
bool ConstantTimeEqual(std::string_view a, std::string_view b);

// Lower-case hexadecimal digits.
std::string Hex(std::string_view bytes);

}  // namespace tollhouse::crypto
