#include "services/edge/credentials.h"

#include <map>

#include "gtest/gtest.h"

namespace tollhouse::edge {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'795'262'400);

void Add(vault::v1::GetCredentialResponse* answer, const std::string& name, int64_t version,
         int32_t weight, absl::Time expires_at = absl::InfiniteFuture()) {
  vault::v1::LiveCredential* live = answer->add_credentials();
  live->set_name(name);
  live->set_version(version);
  live->set_weight(weight);
  live->set_secret(name + std::to_string(version));
  if (expires_at != absl::InfiniteFuture()) {
    live->mutable_expires_at()->set_seconds(absl::ToUnixSeconds(expires_at));
  }
}

// How often each secret is picked, over all remainders of the weights' sum.
std::map<std::string, int> Shares(const CredentialSet& set, int64_t nanos, uint64_t sum,
                                  absl::Time now = kNow) {
  std::map<std::string, int> shares;
  for (uint64_t random = 0; random < sum; ++random) {
    ++shares[std::string(set.Pick(now, nanos, random)->secret())];
  }
  return shares;
}

TEST(CredentialSetTest, NamesArePickedByWeight) {
  vault::v1::GetCredentialResponse answer;
  Add(&answer, "a", 1, 3);
  Add(&answer, "b", 2, 1);
  const CredentialSet set(answer);
  EXPECT_EQ(Shares(set, 0, 4), (std::map<std::string, int>{{"a1", 3}, {"b2", 1}}));
}

TEST(CredentialSetTest, NothingIsPickedOfNothing) {
  const CredentialSet set;
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.Pick(kNow, 0, 0), nullptr);
}

TEST(CredentialSetTest, TheNewVersionIsUsedUntilItIsRefusedThenTheOldOne) {
  vault::v1::GetCredentialResponse answer;
  Add(&answer, "a", 2, 1);
  Add(&answer, "a", 1, 1, kNow + absl::Hours(1));
  const CredentialSet set(answer);
  const CredentialSet::Credential* picked = set.Pick(kNow, 0, 7);
  EXPECT_EQ(picked->secret(), "a2");
  CredentialSet::Rest(*picked, 0, absl::Seconds(1));
  EXPECT_EQ(set.Pick(kNow, 999'999'999, 7)->secret(), "a1");
  EXPECT_EQ(set.Pick(kNow, 1'000'000'000, 7)->secret(), "a2");
  EXPECT_EQ(set.Pick(kNow, 0, 7, set.Pick(kNow, 0, 7)), nullptr);  // the other one rests
}

TEST(CredentialSetTest, AnOldVersionEndsWithItsOverlap) {
  vault::v1::GetCredentialResponse answer;
  Add(&answer, "a", 2, 1);
  Add(&answer, "a", 1, 1, kNow);
  const CredentialSet set(answer);
  const CredentialSet::Credential* picked = set.Pick(kNow, 0, 0);
  CredentialSet::Rest(*picked, 0, absl::Seconds(1));
  EXPECT_EQ(set.Pick(kNow, 0, 0), picked);  // refused, but there is no other
  EXPECT_EQ(set.Pick(kNow, 0, 0, picked), nullptr);
}

TEST(CredentialSetTest, ARefusedNameLeavesItsShareToTheOthers) {
  vault::v1::GetCredentialResponse answer;
  Add(&answer, "a", 1, 5);
  Add(&answer, "b", 2, 2);
  Add(&answer, "c", 3, 1);
  const CredentialSet set(answer);
  CredentialSet::Rest(*set.Pick(kNow, 0, 0), 0, absl::Seconds(60));
  EXPECT_EQ(Shares(set, 1, 3), (std::map<std::string, int>{{"b2", 2}, {"c3", 1}}));
  CredentialSet::Rest(*set.Pick(kNow, 1, 0), 1, absl::Seconds(20));
  CredentialSet::Rest(*set.Pick(kNow, 1, 0), 1, absl::Seconds(40));
  EXPECT_EQ(set.Pick(kNow, 2, 0)->name(), "b");  // all rest: who may be asked again first
}

}  // namespace
}  // namespace tollhouse::edge
