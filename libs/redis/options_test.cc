#include "libs/redis/options.h"

#include <gtest/gtest.h>

#include "libs/base/error.h"

namespace tollhouse::redis {
namespace {

TEST(OptionsTest, AddressesWithUserAndTls) {
  const auto parsed = ParseUri("rediss://enforcer@10.0.0.1:7000,redis-b,[::1]:7002");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->mode, Endpoints::Mode::kAddresses);
  EXPECT_TRUE(parsed->tls);
  EXPECT_EQ(parsed->user, "enforcer");
  const std::vector<Address> expected = {{"10.0.0.1", 7000}, {"redis-b", 6379}, {"::1", 7002}};
  EXPECT_EQ(parsed->addresses, expected);
  EXPECT_EQ(parsed->addresses[2].ToString(), "[::1]:7002");
}

TEST(OptionsTest, SentinelsAndTheirPrimary) {
  const auto parsed = ParseUri("redis+sentinel://s1,s2:5000/main");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->mode, Endpoints::Mode::kSentinel);
  EXPECT_FALSE(parsed->tls);
  EXPECT_EQ(parsed->primary_name, "main");
  const std::vector<Address> expected = {{"s1", 26379}, {"s2", 5000}};
  EXPECT_EQ(parsed->addresses, expected);
}

TEST(OptionsTest, ClusterNodes) {
  const auto parsed = ParseUri("rediss+cluster://a:1,b:2/");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->mode, Endpoints::Mode::kCluster);
  EXPECT_EQ(parsed->addresses.size(), 2u);
}

TEST(OptionsTest, NonsenseIsRefusedWithoutRepeatingAPassword) {
  for (const char* uri :
       {"", "localhost:6379", "http://a", "redis://", "redis://a:0", "redis://a:65536",
        "redis://a:x", "redis://a,,b", "redis://[::1", "redis://a/3", "redis+sentinel://a:1",
        "redis+sentinel://a:1/", "redis+unknown://a", "redis://user:hunter2@a", "redis://[::1]x"}) {
    const auto parsed = ParseUri(uri);
    ASSERT_FALSE(parsed.ok()) << uri;
    EXPECT_EQ(ReasonOf(parsed.status()), "REDIS_URI") << uri;
    EXPECT_EQ(parsed.status().message().find("hunter2"), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace tollhouse::redis
