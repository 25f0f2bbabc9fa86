// UUIDv7 (RFC 9562): hold ids, account ids and every other id that Tollhouse makes.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse {

// 16 bytes, big-endian; ordering of the bytes is ordering by creation time.
struct Uuid {
  std::array<uint8_t, 16> bytes{};

  friend auto operator<=>(const Uuid&, const Uuid&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Uuid& id) {
    return H::combine(std::move(h), id.bytes);
  }

  // The 16 raw bytes, as they travel in protobuf `bytes` fields and rest in databases.
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes.data()), 16}; }
  // "018f2a7c-....": lower-case, 36 characters.
  std::string ToString() const;
};

// Milliseconds of `wall` and 74 random bits (thread-local CSPRNG seeded by the kernel). Ids made by one thread in
// one millisecond are strictly increasing. Thread-safe.
Uuid NewUuid(absl::Time wall);

// From 16 raw bytes, or from the 36-character form. InvalidArgument otherwise.
absl::StatusOr<Uuid> UuidFromRaw(std::string_view raw);
absl::StatusOr<Uuid> ParseUuid(std::string_view text);

// The creation time that a UUIDv7 carries, to the millisecond.
absl::Time UuidTime(const Uuid& id);

}  // namespace tollhouse
