#include "services/router-policy/catalog.h"

#include <map>
#include <set>

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/policy/price_book.h"
#include "libs/testing/temp_dir.h"
#include "services/router-policy/prices/shipped_price_book.h"
#include "services/router-policy/store/sql_store.h"

namespace tollhouse::router {
namespace {

const absl::Time kNow = absl::FromCivil(absl::CivilDay(2026, 11, 21), absl::UTCTimeZone());

v1::Provider Provider(const std::string& url, bool allow_private = false) {
  v1::Provider provider;
  provider.set_name("openai");
  provider.set_dialect(common::v1::DIALECT_OPENAI);
  provider.set_base_url(url);
  provider.set_allow_private(allow_private);
  return provider;
}

TEST(ShippedPriceBookTest, HasEveryModelOnceInCanonicalForm) {
  auto book = policy::ParsePriceBook(kShippedPriceBook);
  ASSERT_TRUE(book.ok()) << book.status();
  EXPECT_EQ(book->prices.size(), 1094u + 271u);  // tokens, and what has other units
  std::map<std::string, int> vendors, modes;
  for (const v1::ModelPrice& price : book->prices) {
    ++vendors[price.vendor()];
    ++modes[price.mode()];
  }
  EXPECT_EQ(vendors, (std::map<std::string, int>{{"anthropic", 24}, {"azure", 319}, {"bedrock", 424},
                                                 {"deepseek", 12}, {"gemini", 73}, {"groq", 14},
                                                 {"mistral", 62}, {"openai", 225}, {"vertex", 172},
                                                 {"xai", 40}}));
  EXPECT_EQ(modes, (std::map<std::string, int>{
                       {"chat", 980}, {"completion", 13}, {"embedding", 46}, {"responses", 55},
                       {"audio_speech", 16}, {"audio_transcription", 16}, {"image_edit", 13},
                       {"image_generation", 152}, {"moderation", 5}, {"ocr", 11}, {"realtime", 28},
                       {"rerank", 7}, {"vector_store", 1}, {"video_generation", 22}}));
  size_t next = 0;
  for (absl::string_view line : absl::StrSplit(Absl(kShippedPriceBook), '\n')) {
    if (line.substr(0, 6) != "price ") continue;
    ASSERT_EQ(policy::FormatPrice(book->prices[next]), Std(line)) << next;
    ++next;
  }
}

// How many cells of each kind the source list states; a row or column lost in conversion shows here.
TEST(ShippedPriceBookTest, HasEveryStatedPrice) {
  auto book = policy::ParsePriceBook(kShippedPriceBook);
  ASSERT_TRUE(book.ok());
  std::map<std::string, int> rates;
  int max_input = 0, max_output = 0, search = 0, uplift = 0, multipliers = 0, deprecated = 0,
      sources = 0, lists = 0;
  const std::set<std::string> by_tokens = {"chat", "completion", "embedding", "responses"};
  for (const v1::ModelPrice& price : book->prices) {
    if (!by_tokens.contains(price.mode())) continue;
    for (const v1::Rate& rate : price.rates()) {
      ++rates[std::to_string(rate.tier()) + "/" + std::to_string(rate.token_class()) + "/" +
              std::to_string(rate.above_input_tokens() / 1000)];
    }
    max_input += price.max_input_tokens() > 0;
    max_output += price.max_output_tokens() > 0;
    search += (price.search_low_nanousd() > 0) + (price.search_medium_nanousd() > 0) +
              (price.search_high_nanousd() > 0);
    uplift += (price.regional_uplift_eu_ppm() > 0) + (price.regional_uplift_us_ppm() > 0);
    multipliers += !price.multipliers_ppm().empty();
    deprecated += !price.deprecation_date().empty();
    sources += !price.source().empty();
    lists += !price.source_vendor().empty();
  }
  EXPECT_EQ(rates, (std::map<std::string, int>{
                       // standard; cache_read has 3 rates that the list states as other costs
                       {"1/1/0", 1059}, {"1/2/0", 1059}, {"1/3/0", 499}, {"1/4/0", 187},
                       {"1/5/0", 122}, {"1/6/0", 36}, {"1/7/0", 70}, {"1/8/0", 18}, {"1/9/0", 6},
                       {"1/1/128", 14}, {"1/2/128", 13},
                       {"1/1/200", 44}, {"1/2/200", 44}, {"1/3/200", 42}, {"1/4/200", 30},
                       {"1/5/200", 10},
                       {"1/1/272", 42}, {"1/2/272", 42}, {"1/3/272", 42}, {"1/4/272", 4},
                       {"2/1/0", 97}, {"2/2/0", 97},
                       {"3/1/0", 33}, {"3/2/0", 33}, {"3/3/0", 29}, {"3/4/0", 4},
                       {"3/1/272", 4}, {"3/2/272", 4}, {"3/3/272", 4},
                       // priority; 6 audio rates that the list states as other costs
                       {"4/1/0", 100}, {"4/2/0", 99}, {"4/3/0", 97}, {"4/4/0", 4}, {"4/7/0", 6},
                       {"4/1/200", 9}, {"4/2/200", 9}, {"4/3/200", 8},
                       {"4/1/272", 14}, {"4/2/272", 14}, {"4/3/272", 14}}));
  EXPECT_EQ(max_input, 1088);
  EXPECT_EQ(max_output, 1088);
  EXPECT_EQ(search, 3 * 166);
  EXPECT_EQ(uplift, 2 * 16);
  EXPECT_EQ(multipliers, 8);
  EXPECT_EQ(deprecated, 61);
  EXPECT_EQ(sources, 354);
  EXPECT_EQ(lists, 1094);
}

class CatalogTest : public ::testing::Test {
 protected:
  CatalogTest() { Open(); }
  void Open() {
    catalog_.reset();
    auto opened = sql::OpenDatabase({.database = "sqlite:" + dir_.File("router.db")}, StoreSchema());
    ASSERT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    auto catalog = Catalog::Open(MakeSqlStore(opened_.database.get()));
    ASSERT_TRUE(catalog.ok()) << catalog.status();
    catalog_ = *std::move(catalog);
  }
  static std::vector<v1::ModelPrice> Prices(const std::string& text) {
    return policy::ParsePriceBook(text)->prices;
  }

  testing::TempDir dir_;
  sql::OpenedDatabase opened_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(CatalogTest, FirstStartLoadsTheShippedPrices) {
  v1::ListPricesRequest all;
  EXPECT_EQ(catalog_->ListPrices(all, kNow).size(), 1365u);
  ASSERT_TRUE(catalog_->SetProvider(nullptr, Provider("https://api.openai.com/v1")).ok());
  v1::ExplainRouteRequest request;
  request.set_model("gpt-4o-mini");
  request.set_dialect(common::v1::DIALECT_OPENAI);
  request.set_input_tokens(1000);
  request.set_max_output_tokens(100);
  const auto answer = catalog_->ExplainRoute(request, kNow);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->provider(), "openai");
  EXPECT_EQ(answer->bound_nanousd(), 1000 * 250 + 100 * 1000);  // priority: $0.25 / $1.00
  EXPECT_EQ(answer->price_book_version(), catalog_->policy()->price_book_version());
}

TEST_F(CatalogTest, ChangesSurviveARestart) {
  const std::string before = catalog_->policy()->price_book_version();
  ASSERT_TRUE(catalog_->SetProvider(nullptr, Provider("https://api.openai.com/v1")).ok());
  EXPECT_EQ(catalog_->policy()->price_book_version(), before);  // routes are not prices
  ASSERT_TRUE(
      catalog_->ImportPrices(nullptr, Prices("price openai mine input=1 output=2"), false).ok());
  const std::string after = catalog_->policy()->price_book_version();
  EXPECT_NE(after, before);
  Open();
  EXPECT_EQ(catalog_->policy()->price_book_version(), after);
  EXPECT_NE(catalog_->policy()->FindProvider("openai"), nullptr);
  EXPECT_NE(catalog_->policy()->FindPrice("openai", "mine", kNow), nullptr);
}

TEST_F(CatalogTest, ImportCountsAndTakesAllRowsOrNone) {
  auto rows = Prices("price openai new input=1\nprice openai gpt-4o-mini input=7 output=8");
  auto dry = catalog_->ImportPrices(nullptr, rows, true);
  ASSERT_TRUE(dry.ok());
  EXPECT_EQ(dry->added, 1);
  EXPECT_EQ(dry->changed, 1);
  EXPECT_EQ(catalog_->policy()->FindPrice("openai", "new", kNow), nullptr);
  auto done = catalog_->ImportPrices(nullptr, rows, false);
  ASSERT_TRUE(done.ok());
  EXPECT_NE(done->price_book_version, dry->price_book_version);
  auto again = catalog_->ImportPrices(nullptr, rows, false);
  EXPECT_EQ(again->unchanged, 2);
  EXPECT_EQ(again->price_book_version, done->price_book_version);

  rows = Prices("price openai good input=1");
  rows.emplace_back().set_vendor("openai");
  EXPECT_EQ(ReasonOf(catalog_->ImportPrices(nullptr, rows, false).status()), "BAD_PRICE");
  rows[1] = rows[0];
  EXPECT_EQ(ReasonOf(catalog_->ImportPrices(nullptr, rows, false).status()), "BAD_PRICE");
  rows[1].set_model("evil");
  rows[1].set_source("two\nprice openai gpt-4o input=0");
  EXPECT_EQ(ReasonOf(catalog_->ImportPrices(nullptr, rows, false).status()), "BAD_PRICE");
  EXPECT_EQ(catalog_->policy()->FindPrice("openai", "good", kNow), nullptr);
}

TEST_F(CatalogTest, ListsPricesInForceOrTheirHistory) {
  ASSERT_TRUE(catalog_
                  ->ImportPrices(nullptr, Prices("price v m input=1\nprice v m from=2026-07-30 input=2\n"
                                        "price v m from=2027-01-01 input=3\nprice v mm input=4"),
                                 false)
                  .ok());
  v1::ListPricesRequest request;
  request.set_vendor("v");
  request.set_model("m");
  auto prices = catalog_->ListPrices(request, kNow);
  ASSERT_EQ(prices.size(), 1u);
  EXPECT_EQ(prices[0].rates(0).nanousd_per_mtok(), 2'000'000'000);
  request.mutable_at()->set_seconds(0);
  EXPECT_EQ(catalog_->ListPrices(request, kNow)[0].rates(0).nanousd_per_mtok(), 1'000'000'000);
  request.set_history(true);
  EXPECT_EQ(catalog_->ListPrices(request, kNow).size(), 3u);
  request.set_model("m*");
  EXPECT_EQ(catalog_->ListPrices(request, kNow).size(), 4u);
}

TEST_F(CatalogTest, ListsModelsOfProviders) {
  v1::Provider provider = Provider("https://api.x.ai/v1");
  provider.set_name("grok");
  provider.set_catalog("xai");
  ASSERT_TRUE(catalog_->SetProvider(nullptr, provider).ok());
  provider = Provider("http://127.0.0.1:9000/v1", true);
  provider.set_name("local");
  provider.add_models("llama-70b");
  provider.add_models("gpt-4o-mini*");
  ASSERT_TRUE(catalog_->SetProvider(nullptr, provider).ok());
  bool grok = false, llama = false;
  for (const auto& model : catalog_->ListModels("", kNow)) {
    grok |= model.provider() == "grok" && model.price().model() == "grok-3" &&
            model.price().rates_size() > 0;
    llama |= model.provider() == "local" && model.price().model() == "llama-70b" &&
             model.price().rates_size() == 0;
    EXPECT_FALSE(model.provider() == "local" && model.price().model() == "gpt-4o");
  }
  EXPECT_TRUE(grok);
  EXPECT_TRUE(llama);
  EXPECT_TRUE(catalog_->ListModels("nobody", kNow).empty());
}

TEST_F(CatalogTest, AliasesAndCeiling) {
  ASSERT_TRUE(catalog_->SetProvider(nullptr, Provider("https://api.openai.com/v1")).ok());
  v1::ModelAlias alias;
  alias.set_alias("fast");
  EXPECT_EQ(ReasonOf(catalog_->SetAlias(nullptr, alias, false).status()), "BAD_PRICE");
  alias.set_model("gpt-4o-mini");
  ASSERT_TRUE(catalog_->SetAlias(nullptr, alias, false).ok());
  v1::ExplainRouteRequest request;
  request.set_model("fast");
  request.set_dialect(common::v1::DIALECT_OPENAI);
  EXPECT_EQ(catalog_->ExplainRoute(request, kNow)->upstream_model(), "gpt-4o-mini");
  ASSERT_TRUE(catalog_->SetAlias(nullptr, alias, true).ok());
  EXPECT_EQ(ReasonOf(catalog_->ExplainRoute(request, kNow).status()), "MODEL_NOT_FOUND");
  EXPECT_EQ(ReasonOf(catalog_->SetCeiling(nullptr, {-1, 0}).status()), "BAD_PRICE");
  ASSERT_TRUE(catalog_->SetCeiling(nullptr, {0, 100'000'000'000}).ok());
  EXPECT_EQ(catalog_->ExplainRoute(request, kNow)->price().vendor(), "ceiling");
}

TEST(NormalizeProviderTest, FillsInWhatIsMissing) {
  auto provider = NormalizeProvider(Provider("HTTPS://Api.OpenAI.com/v1/"));
  ASSERT_TRUE(provider.ok()) << provider.status();
  EXPECT_EQ(provider->base_url(), "https://api.openai.com/v1");
  EXPECT_EQ(provider->catalog(), "openai");
}

TEST(NormalizeProviderTest, PrivateAndPlainOnlyWhereAllowed) {
  EXPECT_TRUE(NormalizeProvider(Provider("http://127.0.0.1:8000/v1", true)).ok());
  EXPECT_TRUE(NormalizeProvider(Provider("http://vllm.internal/v1", true)).ok());
  EXPECT_TRUE(NormalizeProvider(Provider("https://10.0.0.1", true)).ok());
  for (const v1::Provider& bad :
       {Provider("http://api.openai.com/v1"), Provider("http://127.0.0.1:8000"),
        Provider("https://127.0.0.1"), Provider("https://localhost"), Provider("https://[::1]"),
        Provider("https://169.254.169.254"), Provider("http://8.8.8.8/v1", true)}) {
    EXPECT_EQ(ReasonOf(NormalizeProvider(bad).status()), "BAD_PROVIDER") << bad.base_url();
  }
}

TEST(NormalizeProviderTest, RefusesMalformedFields) {
  const v1::Provider good = Provider("https://api.openai.com/v1");
  const auto refused = [](const v1::Provider& provider) {
    return ReasonOf(NormalizeProvider(provider).status()) == "BAD_PROVIDER";
  };
  for (const char* name : {"", "Open", "a b", "a/b", "\xc3\xa4"}) {
    v1::Provider bad = good;
    bad.set_name(name);
    EXPECT_TRUE(refused(bad)) << name;
  }
  v1::Provider bad = good;
  bad.set_name(std::string(65, 'a'));
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.set_dialect(common::v1::DIALECT_UNSPECIFIED);
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.set_base_url("https://user:secret@api.openai.com");
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.add_models("a\nb");
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.set_ca_file("relative.pem");
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.set_catalog("No Such");
  EXPECT_TRUE(refused(bad));
}

}  // namespace
}  // namespace tollhouse::router
