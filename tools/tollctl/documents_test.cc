#include "tools/tollctl/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace tollhouse::tollctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string Error(const std::string& yaml) {
  const auto documents = ParseDocuments(yaml, "acme.yaml");
  EXPECT_FALSE(documents.ok()) << yaml;
  return documents.ok() ? "" : std::string(documents.status().message());
}

std::vector<Document> Parse(const std::string& yaml) {
  auto documents = ParseDocuments(yaml, "acme.yaml");
  EXPECT_TRUE(documents.ok()) << documents.status();
  return documents.ok() ? *std::move(documents) : std::vector<Document>();
}

std::string Budget(const std::string& spec) {
  return "kind: Budget\nname: acme/payments\nspec:\n" + spec;
}

TEST(DocumentsTest, BudgetTakesTheFlagsOfTheCommandLine) {
  const auto documents = Parse(Budget(
      "  limit: \"800.50\"\n  window: 30d\n  timezone: Europe/Berlin\n  anchor: 2026-11-01\n"
      "  soft: [110, 80]\n  hard: 120\n  mode: observe\n  bound: tight\n  on_outage: open\n"
      "  match: {use_case: batch}\n  for_each: user\n  name: batch\n"));
  ASSERT_EQ(documents.size(), 1u);
  const auto& budget = std::get<ledger::v1::SetBudgetRequest>(documents[0].body);
  EXPECT_EQ(budget.path(), "acme/payments");
  EXPECT_EQ(budget.limit_nanousd(), 800'500'000'000);
  EXPECT_EQ(budget.window(), "30d");
  EXPECT_EQ(budget.time_zone(), "Europe/Berlin");
  EXPECT_THAT(budget.soft_pct(), ElementsAre(80, 110));
  EXPECT_EQ(budget.hard_pct(), 120);
  EXPECT_EQ(budget.mode(), "observe");
  EXPECT_EQ(budget.match().at("use_case"), "batch");
  EXPECT_EQ(budget.for_each(), "user");
  EXPECT_EQ(budget.name(), "batch");
}

TEST(DocumentsTest, MoneyThatYamlReadsAsAFloatIsRefused) {
  EXPECT_THAT(Error(Budget("  limit: 800.50\n")),
              AllOf(StartsWith("acme.yaml:4: limit:"), HasSubstr("quote it: \"800.50\"")));
  EXPECT_THAT(Error(Budget("  limit: 8e2\n")), HasSubstr("quote it"));
  EXPECT_THAT(Error(Budget("  limit: \"8e2\"\n")), HasSubstr("acme.yaml:4"));
  EXPECT_THAT(Error(Budget("  limit: -5\n")), HasSubstr("acme.yaml:4"));
  EXPECT_THAT(Error("kind: Price\nname: m\nspec:\n  vendor: openai\n  input: 2.5\n"),
              AllOf(StartsWith("acme.yaml:5"), HasSubstr("quote it")));
  EXPECT_EQ(std::get<ledger::v1::SetBudgetRequest>(Parse(Budget("  limit: 800\n"))[0].body)
                .limit_nanousd(),
            800'000'000'000);
}

TEST(DocumentsTest, UnknownAndRepeatedKeysAreFatalWithTheirLine) {
  EXPECT_THAT(Error(Budget("  limit: \"1\"\n  windw: month\n")),
              AllOf(StartsWith("acme.yaml:5: unknown key 'windw'"), HasSubstr("'window'")));
  EXPECT_THAT(Error("kind: Team\nname: acme/a\nspecs: {}\n"), StartsWith("acme.yaml:3"));
  EXPECT_THAT(Error(Budget("  limit: \"1\"\n  limit: \"2\"\n")),
              AllOf(StartsWith("acme.yaml:5"), HasSubstr("twice")));
  EXPECT_THAT(Error("kind: Teem\nname: acme/a\n"), HasSubstr("did you mean 'Team'"));
  EXPECT_THAT(Error("kind: Organization\nname: acme\nspec: {require_budget: maybe}\n"),
              HasSubstr("true or false"));
  EXPECT_THAT(Error("kind: Provider\nname: p\nspec: {dialect: openai, base_url: \"https://x/v1\", "
                    "credential: {env: A, file: b}}\n"),
              HasSubstr("either env"));
}

TEST(DocumentsTest, WhatIsMissingOrMalformedIsNamed) {
  EXPECT_THAT(Error("name: acme\n"), HasSubstr("'kind' is missing"));
  EXPECT_THAT(Error("kind: Team\n"), HasSubstr("'name' is missing"));
  EXPECT_THAT(Error(Budget("  window: month\n")), HasSubstr("'limit' is missing"));
  EXPECT_THAT(Error("kind: Team\nname: acme\n"), HasSubstr("2 parts"));
  EXPECT_THAT(Error("kind: Route\nname: r\n"), HasSubstr("not supported"));
  EXPECT_THAT(Error("kind: [\n"), HasSubstr("not YAML"));
  EXPECT_THAT(Error("- a\n"), StartsWith("acme.yaml:1"));
  EXPECT_THAT(Error("kind: Provider\nname: p\nspec: {dialect: openai, base_url: \"ftp://x\"}\n"),
              StartsWith("acme.yaml:3: base_url"));
}

TEST(DocumentsTest, ParentsComeBeforeChildrenAndBudgetsBeforeKeys) {
  auto documents = Parse(
      "{kind: Limit, name: acme/a/sarah/k, spec: {rpm: 5}}\n---\n"
      "{kind: Key, name: acme/a/sarah/k}\n---\n"
      "{kind: Budget, name: acme/a, spec: {limit: 5}}\n---\n"
      "{kind: User, name: acme/a/sarah}\n---\n{kind: Team, name: acme/a}\n---\n"
      "{kind: Organization, name: acme}\n");
  SortForApply(&documents);
  std::vector<std::string> order;
  for (const Document& document : documents) order.push_back(KindName(document.kind));
  EXPECT_THAT(order, ElementsAre("Organization", "Team", "User", "Budget", "Key", "Limit"));
}

TEST(DocumentsTest, TwoDocumentsForTheSameThingAreRefused) {
  const std::string a = Budget("  limit: \"1\"\n");
  EXPECT_THAT(std::string(CheckUnique(Parse(a + "---\n" + a)).message()),
              HasSubstr("stands at acme.yaml:1 too"));
  EXPECT_TRUE(CheckUnique(Parse(a + "---\n" + Budget("  limit: \"1\"\n  window: day\n"))).ok());
}

TEST(DocumentsTest, ExportReadsBackUnchanged) {
  const std::string yaml =
      "kind: Organization\nname: acme\nspec:\n  owner: cto@acme.example\n  tags:\n    env: prod\n"
      "  require_budget: true\n"
      "---\nkind: Key\nname: acme/a/k\nspec:\n  models:\n  - \"gpt-4o*\"\n  expires: "
      "\"2026-12-01T00:00:00Z\"\n  disabled: true\n"
      "---\nkind: Budget\nname: acme\nspec:\n  limit: \"0.000000001\"\n  window: month\n  soft: []\n"
      "---\nkind: Limit\nname: acme\nspec:\n  rpm: 60\n  max_request_cost: \"0.50\"\n"
      "---\nkind: Provider\nname: sim\nspec:\n  dialect: openai\n  base_url: "
      "http://127.0.0.1:9100/v1\n  allow_private: true\n  priority: -3\n"
      "---\nkind: Model\nname: fast\nspec:\n  vendor: openai\n  model: gpt-4o-mini\n"
      "---\nkind: Price\nname: my-model\nspec:\n  vendor: openai\n  from: \"2026-12-01\"\n"
      "  input: \"2.5\"\n  output: \"10\"\n  \"input>200k\": \"5\"\n";
  const auto documents = Parse(yaml);
  ASSERT_EQ(documents.size(), 7u);
  const std::string exported = ToYamlDocuments(documents);
  const auto again = Parse(exported);
  ASSERT_EQ(again.size(), documents.size()) << exported;
  for (size_t i = 0; i < again.size(); ++i) {
    EXPECT_THAT(Differences(documents[i], again[i]), IsEmpty()) << exported;
    EXPECT_EQ(Identity(documents[i]), Identity(again[i]));
  }
  EXPECT_EQ(ToYamlDocuments(again), exported);
}

TEST(DocumentsTest, DifferencesNameTheField) {
  const auto before = Parse(Budget("  limit: \"800\"\n"))[0];
  const auto after = Parse(Budget("  limit: \"900.5\"\n  soft: [50]\n  timezone: UTC\n"))[0];
  EXPECT_THAT(Differences(before, after),
              ElementsAre("limit 800.00 -> 900.50", "soft none -> 50"));
}

TEST(DocumentsTest, WhatTheSystemFilledInIsNoDifference) {
  ledger::v1::Budget current;
  current.set_path("acme");
  current.set_limit_nanousd(5'000'000'000);
  current.set_window("7d");
  current.set_anchor("2026-11-21");
  current.add_soft_pct(80);
  current.set_hard_pct(100);
  current.set_mode("enforce");
  current.set_bound("strict");
  current.set_on_outage("closed");
  const auto wanted = Parse("{kind: Budget, name: acme, spec: {limit: 5, window: 7d}}")[0];
  EXPECT_THAT(Differences(FromBudget(current), wanted), IsEmpty());

  vault::v1::Key key;
  key.set_path("acme/k");
  key.set_state("active");
  key.mutable_expires_at()->set_seconds(1795000000);
  EXPECT_THAT(Differences(FromKey(key), Parse("{kind: Key, name: acme/k, spec: {expires: 90d}}")[0]),
              IsEmpty());

  router::v1::Provider provider;
  provider.set_name("openai");
  provider.set_dialect(common::v1::DIALECT_OPENAI);
  provider.set_catalog("openai");
  provider.set_base_url("https://api.openai.com/v1");
  EXPECT_THAT(Differences(FromProvider(provider),
                          Parse("{kind: Provider, name: openai, spec: {dialect: openai, base_url: "
                                "\"https://API.openai.com:443/v1/\"}}")[0]),
              IsEmpty());
}

TEST(DocumentsTest, TagRulesReadAndWrite) {
  const auto read = Parse("{kind: Tags, name: acme, spec: {require: [use_case, ticket], "
                          "allow: {use_case: [a, b], team: x}}}");
  const auto& rules = std::get<ledger::v1::SetTagRulesRequest>(read[0].body);
  ASSERT_EQ(rules.rules_size(), 3);
  EXPECT_EQ(rules.rules(0).tag(), "team");
  EXPECT_FALSE(rules.rules(0).required());
  EXPECT_TRUE(rules.rules(2).required());
  EXPECT_EQ(rules.rules(2).allowed(1), "b");
  EXPECT_EQ(rules.rules(1).allowed_size(), 0);
  ledger::v1::AccountTagRules stored;
  stored.set_path("acme");
  *stored.mutable_rules() = rules.rules();
  EXPECT_THAT(Differences(FromTagRules(stored), read[0]), IsEmpty());
  EXPECT_FALSE(ParseDocuments("{kind: Tags, name: acme, spec: {}}", "f").ok());
  EXPECT_FALSE(ParseDocuments("{kind: Tags, name: acme, spec: {allow: [a]}}", "f").ok());
}

// ctest runs in the source directory.
TEST(DocumentsTest, EveryKindHasAnExampleThatReads) {
  std::set<DocumentKind> kinds;
  for (const auto& entry : std::filesystem::directory_iterator("deploy/examples")) {
    if (entry.path().extension() != ".yaml") continue;
    std::stringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    const auto documents = ParseDocuments(text.str(), entry.path().string());
    ASSERT_TRUE(documents.ok()) << documents.status();
    EXPECT_TRUE(CheckUnique(*documents).ok()) << entry.path();
    for (const Document& document : *documents) kinds.insert(document.kind);
  }
  EXPECT_EQ(kinds.size(), 10u);
}

TEST(DocumentsTest, CredentialFilesAreRelativeToTheirDocument) {
  auto documents = ParseDocuments(
      "{kind: Provider, name: p, spec: {dialect: openai, base_url: \"https://x/v1\", "
      "credential: {file: p.key}}}", "conf/acme.yaml");
  ASSERT_TRUE(documents.ok()) << documents.status();
  EXPECT_EQ(std::get<ProviderSpec>((*documents)[0].body).credential.file, "conf/p.key");
}

}  // namespace
}  // namespace tollhouse::tollctl
