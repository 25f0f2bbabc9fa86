#include "services/edge/caller_address.h"

#include "gtest/gtest.h"

namespace tollhouse::edge {
namespace {

std::optional<http::Address> Of(std::string_view trusted, std::string_view peer,
                                std::vector<std::string_view> forwarded) {
  const auto addresses = CallerAddresses::Parse(trusted, "x-forwarded-for");
  EXPECT_TRUE(addresses.ok()) << addresses.status();
  Headers headers;
  for (const std::string_view value : forwarded) headers.fields.push_back({"X-Forwarded-For", value});
  return addresses->Of(peer, headers);
}

std::optional<http::Address> At(std::string_view text) { return http::Address::Parse(text); }

TEST(CallerAddressesTest, NobodyIsTrustedByDefault) {
  EXPECT_EQ(Of("", "192.0.2.1", {"10.0.0.1"}), At("192.0.2.1"));
  EXPECT_EQ(Of("10.0.0.0/8", "192.0.2.1", {"10.0.0.1"}), At("192.0.2.1"));
}

TEST(CallerAddressesTest, TheLastUntrustedAddressCounts) {
  constexpr std::string_view kProxies = "10.0.0.0/8, 2001:db8::/32";
  EXPECT_EQ(Of(kProxies, "10.0.0.1", {"192.0.2.1"}), At("192.0.2.1"));
  // What a caller claims of himself stands in front of what the proxy says.
  EXPECT_EQ(Of(kProxies, "10.0.0.1", {"203.0.113.9, 192.0.2.1"}), At("192.0.2.1"));
  EXPECT_EQ(Of(kProxies, "10.0.0.1", {"203.0.113.9", "192.0.2.1 , 10.2.3.4"}), At("192.0.2.1"));
  EXPECT_EQ(Of(kProxies, "2001:db8::1", {"10.7.7.7"}), At("10.7.7.7"));
}

TEST(CallerAddressesTest, AProxyThatDoesNotSayLeavesItUnknown) {
  EXPECT_FALSE(Of("10.0.0.0/8", "10.0.0.1", {}).has_value());
  EXPECT_FALSE(Of("10.0.0.0/8", "10.0.0.1", {"unknown"}).has_value());
  EXPECT_FALSE(Of("10.0.0.0/8", "10.0.0.1", {"192.0.2.1, "}).has_value());
  EXPECT_FALSE(Of("10.0.0.0/8", "10.0.0.1", {"192.0.2.1:4711"}).has_value());
}

TEST(CallerAddressesTest, BrokenNetworksAreRefused) {
  EXPECT_FALSE(CallerAddresses::Parse("10.0.0.0/8,nowhere", "x-forwarded-for").ok());
}

TEST(AddressLimiterTest, LimitsEachAddressForItself) {
  AddressLimiter limiter(60, 100);  // one a second, six at once
  for (int i = 0; i < 6; ++i) EXPECT_EQ(limiter.Take(At("192.0.2.1"), 0), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take(At("192.0.2.1"), 0), absl::Seconds(1));
  EXPECT_EQ(limiter.Take(At("192.0.2.1"), 500'000'000), absl::Milliseconds(500));
  EXPECT_EQ(limiter.Take(At("192.0.2.2"), 0), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take(At("192.0.2.1"), 1'000'000'000), absl::ZeroDuration());
}

TEST(AddressLimiterTest, A64IsOneAddress) {
  AddressLimiter limiter(1, 100);
  EXPECT_EQ(limiter.Take(At("2001:db8::1"), 0), absl::ZeroDuration());
  EXPECT_GT(limiter.Take(At("2001:db8::2"), 0), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take(At("2001:db8:0:1::1"), 0), absl::ZeroDuration());
}

TEST(AddressLimiterTest, ManyAddressesCostBoundedMemory) {
  AddressLimiter limiter(1, 10);
  for (int i = 0; i < 1000; ++i) {
    const auto from = At("10.0." + std::to_string(i / 256) + "." + std::to_string(i % 256));
    EXPECT_EQ(limiter.Take(from, i), absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace tollhouse::edge
