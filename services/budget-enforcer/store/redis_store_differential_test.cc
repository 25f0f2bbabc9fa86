// The Lua against the core: random histories, every effect and every view.
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "libs/testing/redis_server.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/store/redis_store.h"
#include "services/budget-enforcer/store/store_history_testing.h"

namespace tollhouse::enforcer {
namespace {

RedisStoreOptions Options() {
  RedisStoreOptions options;
  options.core.max_lease_nanos = kMaxExact;
  options.clock_ahead_max = absl::InfiniteDuration();
  options.timeout = absl::Seconds(60);  // a busy machine is no difference
  return options;
}

std::unique_ptr<RedisStore> Connect(testing::RedisServer& server, RedisStoreOptions options) {
  redis::Options redis;
  redis.uri = server.uri();
  redis.stall_timeout = absl::Seconds(60);
  auto store = RedisStore::Create(redis, std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->WaitUntilConnected(absl::Seconds(10)).ok());
  return *std::move(store);
}

TEST(RedisStoreDifferentialTest, RandomHistoriesMatchTheStateMachine) {
  testing::RedisServer server;
  auto store = Connect(server, Options());
  const uint64_t seed = testing::TestSeed();
  const int rounds = std::getenv("TOLLHOUSE_TEST_LONG") != nullptr ? 2000 : 10;
  HistoryOptions options;
  options.core = Options().core;
  options.flush = [&] { server.FlushAll(); };
  for (int round = 0; round < rounds; ++round) {
    const auto difference = FirstDifference(*store, round + 1, seed + round, options);
    ASSERT_FALSE(difference.has_value()) << "round " << round << ": " << *difference;
  }
}

}  // namespace
}  // namespace tollhouse::enforcer
