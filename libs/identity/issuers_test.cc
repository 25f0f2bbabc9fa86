#include "libs/identity/issuers.h"

#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/identity/identity_testing.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::identity {
namespace {

std::string SetOf(std::initializer_list<const TestSigner*> signers) {
  std::string keys;
  for (const TestSigner* signer : signers) absl::StrAppend(&keys, keys.empty() ? "" : ",", signer->Jwk());
  return absl::StrCat(R"({"keys":[)", keys, "]}");
}

class IssuersTest : public ::testing::Test {
 protected:
  IssuersTest() {
    Issuer issuer;
    issuer.issuer = "https://login.acme.example";
    issuer.audience = "tollhouse";
    issuer.key_set_file = dir_.File("keys.json");
    issuer.account = "acme/{team}/{email}";
    std::ofstream(issuer.key_set_file) << SetOf({&rsa_, &ec_});
    issuers_ = std::make_unique<Issuers>(std::vector<Issuer>{issuer}, Options());
    EXPECT_TRUE(issuers_->Start().ok());
  }

  IssuersOptions Options() {
    IssuersOptions options;
    options.clock = &clock_;
    return options;
  }

  // Claims that are valid, with `more` in front of them.
  std::string Claims(const std::string& more = "") {
    return absl::StrCat("{", more, R"("iss":"https://login.acme.example","aud":["other","tollhouse"],"exp":)",
                        absl::ToUnixSeconds(clock_.Wall()) + 300,
                        R"(,"team":"payments","email":"sarah@acme.example"})");
  }

  std::string ReasonFor(const std::string& token) {
    const auto identity = issuers_->Verify(token);
    return identity.ok() ? "OK " + identity->account : ReasonOf(identity.status());
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  TestSigner rsa_{"RS256", "r1"}, ec_{"ES256", "e1"};
  std::unique_ptr<Issuers> issuers_;
};

TEST_F(IssuersTest, BothAlgorithmsGiveTheAccount) {
  EXPECT_EQ(ReasonFor(rsa_.Sign(Claims())), "OK acme/payments/sarah@acme.example");
  EXPECT_EQ(ReasonFor(ec_.Sign(Claims())), "OK acme/payments/sarah@acme.example");
}

TEST_F(IssuersTest, ChangedByteOfAnyPartIsRefused) {
  for (const TestSigner* signer : {&rsa_, &ec_}) {
    const std::string token = signer->Sign(Claims());
    for (size_t i = 0; i < token.size(); ++i) {
      std::string changed = token;
      changed[i] = changed[i] == 'A' ? 'B' : 'A';
      const auto identity = issuers_->Verify(changed);
      // The last character of a part may carry bits that say nothing.
      const bool spare = i + 1 == token.size() || token[i + 1] == '.';
      ASSERT_TRUE(!identity.ok() || spare) << i;
    }
  }
}

TEST_F(IssuersTest, AlgorithmConfusionAndUnsignedTokensAreRefused) {
  const std::string signature_less = rsa_.Sign(R"({"alg":"none"})", Claims());
  EXPECT_EQ(ReasonFor(signature_less.substr(0, signature_less.rfind('.') + 1)), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(rsa_.Sign(R"({"alg":"HS256","kid":"r1"})", Claims())), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(rsa_.Sign(R"({"alg":"ES256","kid":"r1"})", Claims())), "UNKNOWN_SIGNER");
  EXPECT_EQ(ReasonFor(rsa_.Sign(R"({"alg":"RS256","kid":"r2"})", Claims())), "UNKNOWN_SIGNER");
  EXPECT_EQ(ReasonFor(rsa_.Sign(R"({"alg":"RS256","kid":"r1","crit":["b64"],"b64":false})", Claims())),
            "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(TestSigner("RS256", "r1").Sign(Claims())), "BAD_SIGNATURE");
  EXPECT_EQ(ReasonFor(TestSigner("ES256", "e1").Sign(Claims())), "BAD_SIGNATURE");
}

TEST_F(IssuersTest, TimesCountWithTheirSkew) {
  const std::string token = ec_.Sign(Claims());
  clock_.Advance(absl::Seconds(359));
  EXPECT_EQ(ReasonFor(token).substr(0, 2), "OK");
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(ReasonFor(token), "TOKEN_EXPIRED");
  const int64_t now = absl::ToUnixSeconds(clock_.Wall());
  EXPECT_EQ(ReasonFor(ec_.Sign(Claims(absl::StrCat(R"("nbf":)", now + 60, ",")))).substr(0, 2), "OK");
  EXPECT_EQ(ReasonFor(ec_.Sign(Claims(absl::StrCat(R"("nbf":)", now + 61, ",")))), "TOKEN_NOT_YET_VALID");
}

TEST_F(IssuersTest, ClaimsAreChecked) {
  const std::string rest = R"("exp":4102444800,"team":"payments")";
  const std::string head = R"({"iss":"https://login.acme.example","aud":"tollhouse",)";
  EXPECT_EQ(ReasonFor(ec_.Sign(head + rest + R"(,"email":"s@a"})")), "OK acme/payments/s@a");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + rest + "}")), "MISSING_CLAIM");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + rest + R"(,"email":"../../root"})")), "MISSING_CLAIM");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + rest + R"(,"email":""})")), "MISSING_CLAIM");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + rest + R"(,"email":"a","email":"b"})")), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + R"("team":"payments","email":"s@a"})")), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + R"("exp":"tomorrow","team":"t","email":"s@a"})")), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(head + R"("exp":1e300,"team":"t","email":"s@a"})")), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(R"({"iss":"https://evil.example","aud":"tollhouse",)" + rest + "}")),
            "UNKNOWN_ISSUER");
  EXPECT_EQ(ReasonFor(ec_.Sign(R"({"iss":"https://login.acme.example","aud":"x",)" + rest + R"(,"email":"s"})")),
            "WRONG_AUDIENCE");
}

TEST_F(IssuersTest, MalformedTextsAreRefused) {
  EXPECT_EQ(ReasonFor(""), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor("a.b"), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor("a.b.c.d"), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor("eyJ.eyJ.eyJ"), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(std::string(9000, 'e')), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign("[]", Claims())), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(R"({"alg":"ES256","kid":7})", Claims())), "BAD_TOKEN");
  EXPECT_EQ(ReasonFor(ec_.Sign(R"({"alg":"ES256"})", "[1]")), "BAD_TOKEN");
}

TEST_F(IssuersTest, SmallKeysAndSharedSecretsAreNoSigners) {
  const TestSigner small("RS256", "s", 1024);
  EXPECT_EQ(ReasonOf(KeySet::Parse(SetOf({&small})).status()), "BAD_KEY_SET");
  EXPECT_EQ(ReasonOf(KeySet::Parse(R"({"keys":[{"kty":"oct","k":"c2VjcmV0"}]})").status()), "BAD_KEY_SET");
  EXPECT_EQ(ReasonOf(KeySet::Parse(R"({"keys":{}})").status()), "BAD_KEY_SET");
  EXPECT_EQ(ReasonOf(KeySet::Parse("no JSON").status()), "BAD_KEY_SET");
  EXPECT_EQ(KeySet::Parse(SetOf({&small, &ec_}))->size(), 1u);
}

TEST_F(IssuersTest, AnUnknownSignerMakesAKeySetBeFetchedButNotOften) {
  Issuer issuer;
  issuer.issuer = "https://login.acme.example";
  issuer.audience = "tollhouse";
  issuer.key_set_url = "https://login.acme.example/keys";
  issuer.account = "acme/{team}";
  std::string served = SetOf({&rsa_});
  int fetched = 0;
  IssuersOptions options = Options();
  options.fetch = [&](const Issuer&) -> absl::StatusOr<std::string> {
    ++fetched;
    return served.empty() ? absl::StatusOr<std::string>(absl::UnavailableError("down")) : served;
  };
  Issuers issuers({issuer}, options);
  const auto reason = [&](const std::string& token) {
    const auto identity = issuers.Verify(token);
    return identity.ok() ? "OK" : ReasonOf(identity.status());
  };
  EXPECT_EQ(reason(rsa_.Sign(Claims())), "NO_KEY_SET");
  issuers.RefreshDue();
  EXPECT_EQ(reason(rsa_.Sign(Claims())), "OK");
  served = SetOf({&ec_});  // the provider rotates its keys
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(reason(ec_.Sign(Claims())), "UNKNOWN_SIGNER");
    issuers.RefreshDue();
  }
  EXPECT_EQ(fetched, 1);
  clock_.Advance(absl::Seconds(30));
  issuers.RefreshDue();
  EXPECT_EQ(fetched, 2);
  EXPECT_EQ(reason(ec_.Sign(Claims())), "OK");
  served.clear();  // and goes away
  for (int i = 0; i < 24 * 6; ++i) {
    clock_.Advance(absl::Minutes(10));
    issuers.RefreshDue();
  }
  EXPECT_EQ(reason(ec_.Sign(Claims())), "OK");
  clock_.Advance(absl::Minutes(10));
  EXPECT_EQ(reason(ec_.Sign(Claims())), "NO_KEY_SET");
}

TEST(ParseIssuersTest, TakesWhatIsRightAndNamesWhatIsNot) {
  const std::string good =
      "- {issuer: a, audience: b, key_set_url: 'https://x/keys', account: 'acme/{team}/{email}', clock_skew: 30s}\n";
  const auto parsed = ParseIssuers(good, IssuerUse::kCalls);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->front().clock_skew, absl::Seconds(30));
  const auto message = [](const std::string& yaml) {
    return std::string(ParseIssuers(yaml, IssuerUse::kCalls).status().message());
  };
  EXPECT_NE(message(good + good).find("twice"), std::string::npos);
  EXPECT_NE(message("{}").find("list"), std::string::npos);
  EXPECT_NE(message("- {issuer: a, color: b}").find("unknown key `color`"), std::string::npos);
  EXPECT_NE(message("- {issuer: a}").find("audience"), std::string::npos);
  EXPECT_NE(message("- {issuer: a, audience: b, account: acme}").find("key_set"), std::string::npos);
  EXPECT_NE(message("- {issuer: a, audience: b, key_set_url: 'http://x', account: acme}").find("https"),
            std::string::npos);
  EXPECT_NE(message("- {issuer: a, audience: b, key_set_file: f, account: '{org}/x'}").find("org"),
            std::string::npos);
  EXPECT_NE(message("- {issuer: a, audience: b, key_set_file: f, account: 'acme/x{y}'}").find("neither"),
            std::string::npos);
  EXPECT_NE(message("- [").find("BAD"), 0u);
}

}  // namespace
}  // namespace tollhouse::identity
