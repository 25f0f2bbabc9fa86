#include "libs/http/network.h"

#include "gtest/gtest.h"

namespace tollhouse::http {
namespace {

bool In(std::string_view network, std::string_view address) {
  const auto parsed = Network::Parse(network);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  const auto numeric = Address::Parse(address);
  EXPECT_TRUE(numeric.has_value()) << address;
  return parsed->Contains(*numeric);
}

TEST(NetworkTest, ContainsWhatItsPrefixSays) {
  EXPECT_TRUE(In("192.0.2.0/24", "192.0.2.255"));
  EXPECT_FALSE(In("192.0.2.0/24", "192.0.3.0"));
  EXPECT_TRUE(In("10.0.0.0/9", "10.127.255.255"));
  EXPECT_FALSE(In("10.0.0.0/9", "10.128.0.0"));
  EXPECT_TRUE(In("192.0.2.1", "192.0.2.1"));
  EXPECT_FALSE(In("192.0.2.1", "192.0.2.2"));
  EXPECT_TRUE(In("2001:db8::/33", "2001:db8:7fff::1"));
  EXPECT_FALSE(In("2001:db8::/33", "2001:db8:8000::1"));
  EXPECT_TRUE(In("::/0", "2001:db8::1"));
  EXPECT_TRUE(In("0.0.0.0/0", "203.0.113.9"));
}

TEST(NetworkTest, MappedIpv4IsIpv4) {
  EXPECT_TRUE(In("192.0.2.0/24", "::ffff:192.0.2.7"));
  EXPECT_FALSE(In("0.0.0.0/0", "2001:db8::1"));
}

TEST(NetworkTest, MalformedTextsAreRefused) {
  for (const char* text :
       {"", "/", "192.0.2.0/", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2.0/+8", "192.0.2.0/024x",
        "192.0.2.1/24", "2001:db8::/129", "2001:db8::1/32", "example.com", "192.0.2", "[::1]/128",
        "192.0.2.0/24 "}) {
    EXPECT_FALSE(Network::Parse(text).ok()) << text;
  }
  for (const char* text : {"", "example.com", "192.0.2.1:80", "fe80::1%eth0", "[::1]", "1.2.3"}) {
    EXPECT_FALSE(Address::Parse(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace tollhouse::http
