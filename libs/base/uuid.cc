#include "libs/base/uuid.h"

#include <openssl/rand.h>

#include <cstdlib>
#include <cstring>

#include "absl/status/status.h"

namespace tollhouse {
namespace {

constexpr char kHex[] = "0123456789abcdef";

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string Uuid::ToString() const {
  std::string out;
  out.reserve(36);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
    out.push_back(kHex[bytes[i] >> 4]);
    out.push_back(kHex[bytes[i] & 15]);
  }
  return out;
}

Uuid NewUuid(absl::Time wall) {
  // rand_a (12 bits) counts within a millisecond; the rest is random, drawn in blocks.
  struct State {
    std::array<uint8_t, 1024> pool;
    size_t used = 1024;
    int64_t last_ms = 0;
    uint16_t sequence = 0;
  };
  thread_local State state;
  if (state.used + 10 > state.pool.size()) {
    if (RAND_bytes(state.pool.data(), static_cast<int>(state.pool.size())) != 1) std::abort();
    state.used = 0;
  }
  const uint8_t* random = state.pool.data() + state.used;
  state.used += 10;

  int64_t ms = absl::ToUnixMillis(wall);
  if (ms <= state.last_ms) {
    ms = state.last_ms;
    if (++state.sequence == 0x1000) {
      ++ms;
      state.sequence = 0;
    }
  } else {
    state.sequence = (random[8] << 8 | random[9]) & 0x7ff;
  }
  state.last_ms = ms;

  Uuid id;
  for (int i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(ms >> (40 - 8 * i));
  id.bytes[6] = static_cast<uint8_t>(0x70 | state.sequence >> 8);
  id.bytes[7] = static_cast<uint8_t>(state.sequence);
  std::memcpy(id.bytes.data() + 8, random, 8);
  id.bytes[8] = static_cast<uint8_t>(0x80 | (id.bytes[8] & 0x3f));
  return id;
}

absl::StatusOr<Uuid> UuidFromRaw(std::string_view raw) {
  if (raw.size() != 16) return absl::InvalidArgumentError("an id has 16 bytes");
  Uuid id;
  std::memcpy(id.bytes.data(), raw.data(), 16);
  return id;
}

absl::StatusOr<Uuid> ParseUuid(std::string_view text) {
  const auto bad = [] { return absl::InvalidArgumentError("not a UUID"); };
  if (text.size() != 36) return bad();
  Uuid id;
  size_t at = 0;
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      if (text[at++] != '-') return bad();
    }
    const int high = HexValue(text[at]), low = HexValue(text[at + 1]);
    if (high < 0 || low < 0) return bad();
    id.bytes[i] = static_cast<uint8_t>(high << 4 | low);
    at += 2;
  }
  return id;
}

absl::Time UuidTime(const Uuid& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.bytes[i];
  return absl::FromUnixMillis(ms);
}

}  // namespace tollhouse
