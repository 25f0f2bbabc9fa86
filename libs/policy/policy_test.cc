#include "libs/policy/policy.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/policy/price_book.h"

namespace tollhouse::policy {
namespace {

using common::v1::DIALECT_ANTHROPIC;
using common::v1::DIALECT_OPENAI;

const absl::Time kNow = absl::FromCivil(absl::CivilDay(2026, 11, 21), absl::UTCTimeZone());

class PolicyTest : public ::testing::Test {
 protected:
  PolicyTest() {
    Prices("price openai gpt-4o input=2.5 output=10\n"
           "price openai gpt-4o-2024-05-13 input=5 output=15\n"
           "price openai gpt-4o-mini input=0.15 output=0.6\n"
           "price openai ft:gpt-4o-mini-2024-07-18 input=0.3 output=1.2\n"
           "price openai container other={\"session\":\"0.03\"}\n"
           "price openai gpt-luna input=1 output=2\n"
           "price openai gpt-luna from=2026-07-30 input=0.2 output=0.4\n"
           "price openai gpt-luna from=2027-01-01 input=9 output=9\n"
           "price anthropic claude-haiku-4-5-20251001 input=1 output=5\n"
           "price anthropic claude-3-5-haiku-20241022 input=0.8 output=4\n"
           "price xai xai/grok-3 input=3 output=15\n"
           "price groq groq/openai/gpt-oss-20b input=0.1 output=0.5\n"
           "price bedrock anthropic.claude-x input=3 output=15\n"
           "alias openai gpt-4o-also gpt-4o\n");
    Provider("openai", DIALECT_OPENAI, 0);
    Provider("anthropic", DIALECT_ANTHROPIC, 0);
  }

  void Prices(const std::string& text) {
    auto book = ParsePriceBook(text);
    ASSERT_TRUE(book.ok()) << book.status();
    for (auto& price : book->prices) *snapshot_.add_prices() = price;
    for (auto& alias : book->aliases) *snapshot_.add_aliases() = alias;
  }
  router::v1::Provider* Provider(const std::string& name, common::v1::Dialect dialect,
                                 int priority, const std::string& catalog = "") {
    router::v1::Provider* provider = snapshot_.add_providers();
    provider->set_name(name);
    provider->set_dialect(dialect);
    provider->set_priority(priority);
    provider->set_catalog(catalog);
    provider->set_base_url("https://api.example.com/v1");
    return provider;
  }
  void Alias(const std::string& alias, const std::string& vendor, const std::string& model) {
    auto* added = snapshot_.add_aliases();
    added->set_alias(alias);
    added->set_vendor(vendor);
    added->set_model(model);
  }
  // "provider upstream catalog" or the error's reason.
  std::string Resolved(const std::string& model, common::v1::Dialect dialect = DIALECT_OPENAI) {
    policy_ = Policy::Compile(snapshot_);
    auto route = policy_->Resolve(model, dialect, kNow);
    if (!route.ok()) return ReasonOf(route.status());
    route_ = *route;
    return route->provider->name() + " " + route->upstream_model + " " + route->catalog_model +
           (route->price == nullptr ? " unpriced" : "") + (route->at_ceiling ? " ceiling" : "");
  }

  router::v1::PolicySnapshot snapshot_;
  std::shared_ptr<const Policy> policy_;
  Route route_;
};

TEST_F(PolicyTest, PrefixNamesTheProvider) {
  EXPECT_EQ(Resolved("openai/gpt-4o-mini"), "openai gpt-4o-mini gpt-4o-mini");
  EXPECT_EQ(Resolved("openai/a/b"), "openai a/b a/b unpriced");
  EXPECT_EQ(Resolved("openai/"), "MODEL_NOT_FOUND");
  EXPECT_EQ(Resolved("openai/gpt-4o", DIALECT_ANTHROPIC), "MODEL_NOT_FOUND");
}

TEST_F(PolicyTest, BareNameGoesToAProviderOfTheDialectThatServesIt) {
  EXPECT_EQ(Resolved("gpt-4o-mini"), "openai gpt-4o-mini gpt-4o-mini");
  EXPECT_EQ(Resolved("gpt-4o-mini", DIALECT_ANTHROPIC), "MODEL_NOT_FOUND");
  EXPECT_EQ(Resolved("claude-haiku-4-5-20251001", DIALECT_ANTHROPIC),
            "anthropic claude-haiku-4-5-20251001 claude-haiku-4-5-20251001");
  EXPECT_EQ(Resolved("no-such-model"), "MODEL_NOT_FOUND");
  EXPECT_EQ(Resolved(""), "MODEL_NOT_FOUND");
}

TEST_F(PolicyTest, HigherPriorityServesABareNameTiesByName) {
  Provider("azure-eu", DIALECT_OPENAI, 0, "openai");
  EXPECT_EQ(Resolved("gpt-4o"), "azure-eu gpt-4o gpt-4o");
  Provider("zulu", DIALECT_OPENAI, 5, "openai");
  EXPECT_EQ(Resolved("gpt-4o"), "zulu gpt-4o gpt-4o");
  const auto routes = policy_->RoutesOfBareName("gpt-4o", DIALECT_OPENAI, kNow);
  ASSERT_EQ(routes.size(), 3u);
  EXPECT_EQ(routes[1].provider->name(), "azure-eu");
  EXPECT_EQ(routes[2].provider->name(), "openai");
}

TEST_F(PolicyTest, ListedModelsLimitWhatAProviderServes) {
  router::v1::Provider* local = Provider("local", DIALECT_OPENAI, 5, "openai");
  local->add_models("llama-70b");
  local->add_models("gpt-4o-m*");
  EXPECT_EQ(Resolved("gpt-4o"), "openai gpt-4o gpt-4o");
  EXPECT_EQ(Resolved("gpt-4o-mini"), "local gpt-4o-mini gpt-4o-mini");
  EXPECT_EQ(Resolved("llama-70b"), "local llama-70b llama-70b unpriced");
  EXPECT_EQ(Resolved("local/anything"), "local anything anything unpriced");
}

TEST_F(PolicyTest, AliasIsSentAsTheModelItMeans) {
  Alias("fast", "openai", "gpt-4o-mini");
  EXPECT_EQ(Resolved("fast"), "openai gpt-4o-mini gpt-4o-mini");
  EXPECT_EQ(Resolved("fast", DIALECT_ANTHROPIC), "MODEL_NOT_FOUND");
  Alias("gpt-4o", "openai", "gpt-4o-mini");  // the exact name wins
  EXPECT_EQ(Resolved("gpt-4o"), "openai gpt-4o gpt-4o");
}

TEST_F(PolicyTest, NameThatTheVendorUnderstandsIsSentAsGiven) {
  EXPECT_EQ(Resolved("gpt-4o-also"), "openai gpt-4o-also gpt-4o");
  EXPECT_EQ(Resolved("claude-haiku-4-5", DIALECT_ANTHROPIC),
            "anthropic claude-haiku-4-5 claude-haiku-4-5-20251001");
  EXPECT_EQ(Resolved("claude-3-5-haiku-latest", DIALECT_ANTHROPIC),
            "anthropic claude-3-5-haiku-latest claude-3-5-haiku-20241022");
  EXPECT_EQ(Resolved("gpt-4o-2030-01-01"), "openai gpt-4o-2030-01-01 gpt-4o");
  EXPECT_EQ(Resolved("gpt-4o-latest"), "openai gpt-4o-latest gpt-4o");
  EXPECT_EQ(Resolved("ft:gpt-4o-mini-2024-07-18:acme::abc"),
            "openai ft:gpt-4o-mini-2024-07-18:acme::abc ft:gpt-4o-mini-2024-07-18");
}

TEST_F(PolicyTest, OtherDateIsNotPricedByAnyDate) {
  EXPECT_EQ(Resolved("anthropic/claude-haiku-4-5-20300101", DIALECT_ANTHROPIC),
            "anthropic claude-haiku-4-5-20300101 claude-haiku-4-5-20300101 unpriced");
}

TEST_F(PolicyTest, CataloguePrefixIsNotTheVendorsName) {
  Provider("grok", DIALECT_OPENAI, 0, "xai");
  Provider("fastgroq", DIALECT_OPENAI, 0, "groq");
  EXPECT_EQ(Resolved("grok-3"), "grok grok-3 grok-3");
  EXPECT_EQ(Resolved("xai/grok-3"), "grok grok-3 grok-3");
  EXPECT_EQ(Resolved("grok/grok-3"), "grok grok-3 grok-3");
  EXPECT_EQ(Resolved("groq/openai/gpt-oss-20b"), "fastgroq openai/gpt-oss-20b openai/gpt-oss-20b");
  EXPECT_EQ(Resolved("fastgroq/openai/gpt-oss-20b"),
            "fastgroq openai/gpt-oss-20b openai/gpt-oss-20b");
}

TEST_F(PolicyTest, BedrockRegionPrefixes) {
  Provider("aws", DIALECT_ANTHROPIC, 0, "bedrock");
  EXPECT_EQ(Resolved("aws/us.anthropic.claude-x", DIALECT_ANTHROPIC),
            "aws us.anthropic.claude-x anthropic.claude-x");
}

TEST_F(PolicyTest, PriceInForceAtTheStartCounts) {
  policy_ = Policy::Compile(snapshot_);
  const auto input = [&](int year, int month, int day) {
    const absl::Time at = absl::FromCivil(absl::CivilDay(year, month, day), absl::UTCTimeZone());
    return policy_->FindPrice("openai", "gpt-luna", at)->rates(0).nanousd_per_mtok();
  };
  EXPECT_EQ(input(2026, 7, 29), 1'000'000'000);
  EXPECT_EQ(input(2026, 7, 30), 200'000'000);
  EXPECT_EQ(input(2026, 12, 31), 200'000'000);
  EXPECT_EQ(input(2027, 1, 1), 9'000'000'000);
}

TEST_F(PolicyTest, ModelWithoutTokenPriceIsUnpricedOrCostsTheCeiling) {
  EXPECT_EQ(Resolved("openai/container"), "openai container container unpriced");
  EXPECT_EQ(ReasonOf(policy_->BoundOf(route_, {}).status()), "MODEL_UNPRICED");
  EXPECT_EQ(Resolved("container"), "MODEL_NOT_FOUND");
  snapshot_.set_ceiling_output_nanousd_per_mtok(100'000'000'000);
  EXPECT_EQ(Resolved("openai/container"), "openai container container ceiling");
  EXPECT_EQ(policy_->BoundOf(route_, {.input_tokens = 10})->nanos(), 10 * 100'000);
  EXPECT_EQ(Resolved("anything"), "openai anything anything ceiling");
  EXPECT_EQ(Resolved("gpt-4o"), "openai gpt-4o gpt-4o");
}

TEST_F(PolicyTest, LinesOfOtherModelsHaveTheirOwnPrice) {
  EXPECT_EQ(Resolved("gpt-4o"), "openai gpt-4o gpt-4o");
  UsageLines usage;
  for (const char* model : {"", "gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-mini", "unheard-of"}) {
    common::v1::UsageLine* line = usage.Add();
    line->set_model(model);
    line->mutable_usage()->set_input_tokens_uncached(1000);
  }
  // A dated answer to an undated request is the requested model at the pinned price.
  EXPECT_EQ(policy_->CostOf(route_, usage, kNow)->amount.nanos(),
            3 * 2'500'000 + 150'000 + 2'500'000);
}

TEST_F(PolicyTest, ProvidersRegionAndTierAreReckonedWith) {
  Prices("price openai gpt-9 input=1 output=1 priority.input=2 priority.output=2 "
         "regional_uplift_eu=1.1\n");
  router::v1::Provider* provider = snapshot_.mutable_providers(0);
  EXPECT_EQ(Resolved("gpt-9"), "openai gpt-9 gpt-9");
  EXPECT_EQ(policy_->BoundOf(route_, {.input_tokens = 1000})->nanos(), 2'000'000);
  provider->mutable_quirks()->set_auto_service_tier("default");
  Resolved("gpt-9");
  EXPECT_EQ(policy_->BoundOf(route_, {.input_tokens = 1000})->nanos(), 1'000'000);
  provider->set_base_url("https://eu.api.openai.com/v1");
  Resolved("gpt-9");
  EXPECT_EQ(policy_->BoundOf(route_, {.input_tokens = 1000})->nanos(), 1'100'000);
  UsageLines usage;
  usage.Add()->mutable_usage()->set_input_tokens_uncached(1000);
  EXPECT_EQ(policy_->CostOf(route_, usage, kNow)->amount.nanos(), 1'100'000);
}

TEST_F(PolicyTest, ListsWhatACallerCanAskFor) {
  Alias("fast", "openai", "gpt-4o-mini");
  snapshot_.mutable_providers(1)->add_models("claude-special");
  policy_ = Policy::Compile(snapshot_);
  std::vector<std::string> names;
  for (const ListedModel& model : policy_->Models(DIALECT_OPENAI, kNow)) names.push_back(model.name);
  EXPECT_EQ(names, (std::vector<std::string>{"fast", "ft:gpt-4o-mini-2024-07-18", "gpt-4o",
                                             "gpt-4o-2024-05-13", "gpt-4o-mini", "gpt-luna"}));
  const auto anthropic = policy_->Models(DIALECT_ANTHROPIC, kNow);
  ASSERT_EQ(anthropic.size(), 1u);
  EXPECT_EQ(anthropic[0].name, "claude-special");
  EXPECT_EQ(anthropic[0].price, nullptr);
}

}  // namespace
}  // namespace tollhouse::policy
