#include "libs/rpc/authenticator.h"

#include <grpcpp/test/server_context_test_spouse.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "libs/base/error.h"
#include "libs/rpc/token_source.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::rpc {
namespace {

absl::Status CheckWith(const Authenticator& authenticator, const std::string& header) {
  grpc::ServerContext context;
  grpc::testing::ServerContextTestSpouse spouse(&context);
  spouse.AddClientMetadata("authorization", header);
  return authenticator.Identify(context).status();
}

TEST(AuthenticatorTest, AcceptsOnlyItsToken) {
  const Authenticator authenticator("correct-horse-battery");
  EXPECT_TRUE(CheckWith(authenticator, "Bearer correct-horse-battery").ok());
  for (const char* header : {"Bearer correct-horse-batterz", "correct-horse-battery", "Bearer ", "",
                             "Basic correct-horse-battery"}) {
    EXPECT_EQ(CheckWith(authenticator, header).code(), absl::StatusCode::kUnauthenticated) << header;
  }
}

TEST(AuthenticatorTest, MakesATokenFileThatOnlyTheOwnerReads) {
  const testing::TempDir dir;
  const std::string path = dir.File("admin.token");
  ASSERT_FALSE(Authenticator::FromFile(path, false).ok());
  const auto made = Authenticator::FromFile(path, true);
  ASSERT_TRUE(made.ok());
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  std::ifstream file(path);
  std::string token;
  std::getline(file, token);
  EXPECT_TRUE(CheckWith(**made, "Bearer " + token).ok());
  EXPECT_TRUE(CheckWith(**Authenticator::FromFile(path, true), "Bearer " + token).ok());
}

TEST(AuthenticatorTest, KnowsTokensOfOthersUntilTheyExpireOrGo) {
  testing::FakeClock clock;
  Authenticator authenticator("correct-horse-battery", &clock);
  AdminToken lead;
  lead.hash = HashOfToken("toll-admin-lead");
  lead.caller.actor = "sarah";
  lead.caller.role = common::v1::ROLE_ADMIN;
  lead.caller.subtree = "acme/payments";
  lead.expires_at = clock.Wall() + absl::Hours(1);
  authenticator.SetTokens({.tokens = {lead}});
  EXPECT_TRUE(CheckWith(authenticator, "Bearer toll-admin-lead").ok());
  EXPECT_TRUE(CheckWith(authenticator, "Bearer correct-horse-battery").ok());
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(ReasonOf(CheckWith(authenticator, "Bearer toll-admin-lead")), "BAD_TOKEN");
  lead.expires_at = absl::InfiniteFuture();
  authenticator.SetTokens({.tokens = {lead}});
  EXPECT_TRUE(CheckWith(authenticator, "Bearer toll-admin-lead").ok());
  authenticator.SetTokens({});
  EXPECT_EQ(ReasonOf(CheckWith(authenticator, "Bearer toll-admin-lead")), "BAD_TOKEN");
}

TEST(TokenSourceTest, FollowsItsSourceAndForgetsWhenThatIsAwayTooLong) {
  testing::FakeClock clock;
  Authenticator authenticator("correct-horse-battery", &clock);
  AdminToken lead;
  lead.hash = HashOfToken("toll-admin-lead");
  lead.caller.role = common::v1::ROLE_VIEWER;
  absl::StatusOr<KnownTokens> stored = KnownTokens{.tokens = {lead}};
  TokenSource source([&] { return stored; }, &authenticator, {.clock = &clock});
  const auto check = [&] { return ReasonOf(CheckWith(authenticator, "Bearer toll-admin-lead")); };
  source.Refresh();
  EXPECT_EQ(check(), "");
  stored = absl::UnavailableError("away");
  clock.Advance(absl::Seconds(30));
  source.Refresh();
  EXPECT_EQ(check(), "");
  clock.Advance(absl::Seconds(1));
  source.Refresh();
  EXPECT_EQ(check(), "TOKENS_UNKNOWN");
  EXPECT_TRUE(CheckWith(authenticator, "Bearer correct-horse-battery").ok());
  stored = KnownTokens();
  source.Refresh();
  EXPECT_EQ(check(), "BAD_TOKEN");
}

TEST(TokenSourceTest, AFirstTokenThatWasRevokedStaysSoWhileTheVaultIsAway) {
  testing::FakeClock clock;
  Authenticator authenticator("correct-horse-battery", &clock);
  absl::StatusOr<KnownTokens> stored =
      KnownTokens{.revoked_hashes = {HashOfToken("another"), authenticator.first_hash()}};
  TokenSource source([&] { return stored; }, &authenticator, {.clock = &clock});
  const auto check = [&] { return ReasonOf(CheckWith(authenticator, "Bearer correct-horse-battery")); };
  EXPECT_EQ(check(), "");
  source.Refresh();
  EXPECT_EQ(check(), "BAD_TOKEN");
  stored = absl::UnavailableError("away");
  clock.Advance(absl::Minutes(1));
  source.Refresh();
  EXPECT_EQ(check(), "BAD_TOKEN");
  stored = KnownTokens();  // of another database: a backup from before
  source.Refresh();
  EXPECT_EQ(check(), "");
}

}  // namespace
}  // namespace tollhouse::rpc
