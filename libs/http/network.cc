#include "libs/http/network.h"

#include <arpa/inet.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse::http {

std::optional<Address> Address::Parse(std::string_view numeric) {
  const std::string text(numeric);
  Address address;
  if (inet_pton(AF_INET6, text.c_str(), address.bytes.data()) == 1) return address;
  address.bytes = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (inet_pton(AF_INET, text.c_str(), address.bytes.data() + 12) == 1) return address;
  return std::nullopt;
}

absl::StatusOr<Network> Network::Parse(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", Absl(text.substr(0, 64)), "' is no network: ", Absl(why)));
  };
  const size_t slash = text.find('/');
  const std::optional<Address> address = Address::Parse(text.substr(0, slash));
  if (!address) return bad("give it like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1");
  const bool v4 = text.substr(0, slash).find(':') == std::string_view::npos;
  int bits = v4 ? 32 : 128;
  if (slash != std::string_view::npos) {
    const std::string_view length = text.substr(slash + 1);
    int given = 0;
    if (length.empty() || length.size() > 3 ||
        length.find_first_not_of("0123456789") != std::string_view::npos ||
        !absl::SimpleAtoi(Absl(length), &given) || given > bits) {
      return bad(absl::StrCat("the prefix is 0 to ", bits, " bits"));
    }
    bits = given;
  }
  Network network;
  network.first_ = *address;
  network.bits_ = v4 ? 96 + bits : bits;
  for (int bit = network.bits_; bit < 128; ++bit) {
    if ((address->bytes[static_cast<size_t>(bit) / 8] >> (7 - bit % 8) & 1) != 0) {
      return bad("the address has bits beyond the prefix");
    }
  }
  return network;
}

std::string Network::ToString() const {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, first_.bytes.data(), text, sizeof text);
  return absl::StrCat(text, "/", bits_);
}

bool Network::Contains(const Address& address) const {
  const size_t whole = static_cast<size_t>(bits_) / 8;
  if (std::memcmp(address.bytes.data(), first_.bytes.data(), whole) != 0) return false;
  const int rest = bits_ % 8;
  return rest == 0 || (address.bytes[whole] ^ first_.bytes[whole]) >> (8 - rest) == 0;
}

}  // namespace tollhouse::http
