// The differential suite can fail: run.lua broken on purpose, one rule at a time, is told apart from
// the core by random histories.
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "libs/testing/redis_server.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/store/redis_store.h"
#include "services/budget-enforcer/store/store_history_testing.h"

namespace tollhouse::enforcer {
namespace {

struct Mutant {
  const char* name;
  std::vector<std::pair<std::string, std::string>> patches;
};

std::vector<Mutant> Mutants() {
  return {
      {"ExpiryCredits", {{"        state[h] = 'x'\n", "        credit_down_to(h, 0)\n        state[h] = 'x'\n"}}},
      {"ExpiryOutOfOrder", {{"call('ZRANGE', DUE, due_taken,", "call('ZREVRANGE', DUE, due_taken,"}}},
      {"EpochUnchecked",
       {{"if epoch > 0 and asked == epoch then\n      out[o + 1]", "if epoch > 0 then\n      out[o + 1]"}}},
      {"ReserveInAnyEpoch",
       {{"if epoch > 0 and asked == epoch then\n      if want > now then now = want end\n      outcome = DONE",
         "if epoch > 0 then\n      if want > now then now = want end\n      outcome = DONE"}}},
      {"CreditTwice", {{"if is == 's' then return actual[h] == a1 and DONE or CONFLICT, 0, 0, 0 end", ""}}},
      {"GrantTwice",
       {{"elseif id <= last_grant then", "elseif id < last_grant then"},
        {"elseif id ~= last_grant + 1 then", "elseif id > last_grant + 1 then"}}},
      {"GrantsOutOfOrder", {{"elseif id ~= last_grant + 1 then", "elseif false then"}}},
      {"GrantAboveTheBound", {{"if e[j + 1] > MAX_LEASE - free[l] - held[l] then outcome = BAD end", ""}}},
      {"LimitCountedOnRefusal",
       {{"local less = 60000 - level_at(req_level[a], req_at[a], rpm, now)",
         "local less = 60000 - level_at(req_level[a], req_at[a], rpm, now)\n"
         "            req_level[a] = req_level[a] - 60000\n"
         "            meter_changed[a] = true"}}},
      {"SlotsLeak", {{"if p[j + 2] == 1 then slots[a] = slots[a] - 1 end", ""}}},
      {"WaitRoundedDown", {{"floor((less + tpm - 1) / tpm)", "floor(less / tpm)"}}},
      {"FinishedForgottenTooEarly", {{"forget_at(h) <= ticked then return nil", "made_at(h) <= ticked then return nil"}}},
      {"EndsDeletedTooEarly", {{"if time > ticked or j == 5 then", "if j == 5 then"}}},
      {"SettledForgotten", {{"if covers_nothing(h) then\n          finish(h, a1)", "if true then\n          finish(h, a1)"}}},
      {"ParentUnchecked",
       {{"if free[e[j]] < e[j + 1] then short = short + 1 end",
         "if j == b and free[e[j]] < e[j + 1] then short = short + 1 end"}}},
      {"InitDownwards",
       {{"elseif to < key or (to == key and epoch == 0) then", "elseif false then"},
        {"elseif to > key then", "elseif to ~= key then"}}},
      {"InitKeepsHolds", {{"call('UNLINK', ORG, HOLDS, STATES,", "call('UNLINK', ORG, STATES,"}}},
      {"ReturnWithoutOutbox", {{"returns_add[id] = pack(", "local _ = pack("}}},
      {"RefreshedNeverExpires",
       {{"add_due(deadline[h], h)               -- refreshed", "local _                               -- refreshed"}}},
      {"HeldLeaseDropped", {{"if free[l] ~= 0 or holds[l] ~= 0 then", "if free[l] ~= 0 then"}}},
      {"TimeRunsBackwards", {{"if want > now and kind < 35 then now = want end", "if kind < 35 then now = want end"}}},
      {"OtherFingerprintReplayed", {{"if p[PRINT] ~= sub(text, 25, 56) then return CONFLICT end", ""}}},
      {"WrongIdentityServed", {{"return redis.status_reply('CHANGED')", ""}}},
  };
}

class RedisStoreMutantsTest : public ::testing::TestWithParam<Mutant> {
 protected:
  static void SetUpTestSuite() { server_ = new testing::RedisServer; }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  static testing::RedisServer* server_;
};
testing::RedisServer* RedisStoreMutantsTest::server_ = nullptr;

TEST_P(RedisStoreMutantsTest, IsNoticed) {
  RedisStoreOptions options;
  options.core.max_lease_nanos = kMaxExact;
  options.clock_ahead_max = absl::InfiniteDuration();
  options.timeout = absl::Seconds(60);  // a busy machine is no difference
  for (const auto& [from, to] : GetParam().patches) {
    const size_t at = options.run_script.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(options.run_script.find(from, at + 1), std::string::npos) << from;
    options.run_script.replace(at, from.size(), to);
  }
  redis::Options redis;
  redis.uri = server_->uri();
  redis.stall_timeout = absl::Seconds(60);
  auto store = RedisStore::Create(redis, options);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->WaitUntilConnected(absl::Seconds(10)).ok());
  server_->FlushAll();
  HistoryOptions history;
  history.core = options.core;
  history.flush = [] { server_->FlushAll(); };
  const uint64_t seed = testing::TestSeed();
  std::string found;
  for (int round = 0; round < 30 && found.empty(); ++round) {
    found = FirstDifference(**store, round + 1, seed + round, history).value_or("");
  }
  EXPECT_NE(found, "");
  RecordProperty("difference", found.substr(0, 200));
}

INSTANTIATE_TEST_SUITE_P(Rules, RedisStoreMutantsTest, ::testing::ValuesIn(Mutants()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace tollhouse::enforcer
