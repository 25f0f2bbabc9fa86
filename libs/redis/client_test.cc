#include "libs/redis/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/testing/redis_server.h"

namespace tollhouse::redis {
namespace {

using ::testing::HasSubstr;
using tollhouse::testing::RedisServer;

constexpr absl::Duration kPatience = absl::Seconds(20);

std::unique_ptr<Client> Connect(Options options) {
  auto client = Client::Create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

std::unique_ptr<Client> Connect(const RedisServer& server) {
  auto client = Connect(Options{.uri = server.uri()});
  const absl::Status status = client->WaitUntilConnected(kPatience);
  EXPECT_TRUE(status.ok()) << status;
  return client;
}

TEST(ClientTest, CallsAndScriptsAreAnswered) {
  RedisServer server;
  const auto client = Connect(server);
  EXPECT_EQ(client->CallAndWait({"SET", "k", "v"}, kPatience)->text(), "OK");
  EXPECT_EQ(client->CallAndWait({"GET", "k"}, kPatience)->text(), "v");
  EXPECT_TRUE(client->CallAndWait({"GET", "absent"}, kPatience)->is_nil());

  const Script script("return {KEYS[1], ARGV[1], 7, {1, 2}}");
  const std::string_view keys[] = {"a"};
  const std::string_view args[] = {"b"};
  const auto reply = client->RunScriptAndWait(script, keys, args, kPatience);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ((*reply)[0].text(), "a");
  EXPECT_EQ((*reply)[1].text(), "b");
  EXPECT_EQ((*reply)[2].integer(), 7);
  EXPECT_EQ((*reply)[3][1].integer(), 2);
}

}  // namespace
}  // namespace tollhouse::redis
