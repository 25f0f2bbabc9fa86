#include <string>

#include "libs/crypto/virtual_key.h"
#include "libs/http/network.h"
#include "libs/identity/token.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {

void Bearer(std::string_view input) {
  const std::string text(input);  // its own memory, for sanitizers
  if (const auto parts = crypto::ParseVirtualKey(text)) {
    const std::string again = std::string(crypto::kVirtualKeyPrefix) + std::string(parts->id) + "-" +
                              std::string(parts->secret);
    Promise(again == text, "a key is its parts");
    static const crypto::HmacKey key("any");
    (void)crypto::CheckId(key, parts->id);
  }
  const auto token = identity::ParseToken(text);
  if (token.ok()) {
    Promise(identity::LooksLikeToken(text), "a token looks like one");
    Promise(text.size() <= identity::kTokenBytesMax, "a token is limited");
    Promise(text.starts_with(token->signed_part), "what is signed is its beginning");
    Promise(!crypto::ParseVirtualKey(text), "a token is no key");
  }
  const auto address = http::Address::Parse(text);
  const auto network = http::Network::Parse(text);
  if (network.ok()) {
    const auto again = http::Network::Parse(network->ToString());
    Promise(again.ok() && again->ToString() == network->ToString(), "a network is what its text says");
    if (address) Promise(network->Contains(*address), "an address is in itself");
  }
}

}  // namespace tollhouse::fuzz
