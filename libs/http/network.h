// Addresses and the networks that they are in.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tollhouse::http {

// An IPv4 or IPv6 address; IPv4 in its mapped form, so that "192.0.2.1" and "::ffff:192.0.2.1" are one.
struct Address {
  std::array<uint8_t, 16> bytes{};

  // Of a numeric text; nothing for anything else (names, ports, zones, brackets).
  static std::optional<Address> Parse(std::string_view numeric);

  bool operator==(const Address&) const = default;
};

// What a CIDR text means: "192.0.2.0/24", "2001:db8::/32", or a single address.
class Network {
 public:
  // InvalidArgument says what is wrong, also bits that are set beyond the prefix.
  static absl::StatusOr<Network> Parse(std::string_view text);

  bool Contains(const Address& address) const;
  // Two networks with the same text are the same.
  std::string ToString() const;

 private:
  Address first_;
  int bits_ = 0;  // of the 128
};

}  // namespace tollhouse::http
