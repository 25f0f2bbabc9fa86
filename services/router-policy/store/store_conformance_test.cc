// What every store of the router promises; each implementation is one line at the end.
#include <memory>
#include <optional>

#include "gtest/gtest.h"
#include "libs/policy/price_book.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/router-policy/store/sql_store.h"
#include "services/router-policy/store/store.h"

namespace tollhouse::router {
namespace {

enum class Backend { kSqlite, kPostgres };

class StoreConformanceTest : public ::testing::TestWithParam<Backend> {
 protected:
  StoreConformanceTest() {
    if (GetParam() == Backend::kSqlite) {
      settings_.database = "sqlite:" + dir_.File("router.db");
    } else {
      postgres_.emplace(testing::PostgresServer::Shared(), "router", [](const std::string& uri) {
        EXPECT_TRUE(sql::MigrateDatabase({.database = uri}, StoreSchema()).ok());
      });
      settings_.database = postgres_->uri();
    }
    Reopen();
  }
  // The same content, opened again.
  void Reopen() {
    store_.reset();
    opened_.database.reset();
    auto opened = sql::OpenDatabase(settings_, StoreSchema());
    ASSERT_TRUE(opened.ok()) << opened.status();
    opened_ = *std::move(opened);
    store_ = MakeSqlStore(opened_.database.get());
  }
  StoredPolicy Load() {
    auto stored = store_->Load();
    EXPECT_TRUE(stored.ok()) << stored.status();
    return *std::move(stored);
  }
  static std::vector<v1::ModelPrice> Prices(const std::string& text) {
    auto book = policy::ParsePriceBook(text);
    EXPECT_TRUE(book.ok()) << book.status();
    return book->prices;
  }
  static v1::Provider Provider(const std::string& name, int priority) {
    v1::Provider provider;
    provider.set_name(name);
    provider.set_dialect(common::v1::DIALECT_OPENAI);
    provider.set_base_url("https://api.example.com/v1");
    provider.set_catalog("openai");
    provider.set_priority(priority);
    return provider;
  }

  testing::TempDir dir_;
  std::optional<testing::PostgresDatabase> postgres_;
  sql::DatabaseSettings settings_;
  sql::OpenedDatabase opened_;
  std::unique_ptr<Store> store_;
  int64_t version_ = 0;
};

TEST_P(StoreConformanceTest, StartsEmpty) {
  const StoredPolicy stored = Load();
  EXPECT_TRUE(stored.providers.empty());
  EXPECT_TRUE(stored.prices.empty());
  EXPECT_TRUE(stored.aliases.empty());
  EXPECT_EQ(stored.ceiling.input_nanousd_per_mtok, 0);
}

TEST_P(StoreConformanceTest, KeepsEveryFieldOfAProvider) {
  v1::Provider provider = Provider("local", -3);
  provider.set_allow_private(true);
  provider.add_models("a");
  provider.add_models("b*");
  provider.set_ca_file("/etc/ssl/private.pem");
  provider.mutable_quirks()->set_no_include_usage(true);
  provider.mutable_quirks()->set_errors_are_billed(true);
  provider.mutable_quirks()->set_auto_service_tier("default");
  EXPECT_TRUE(*store_->PutProvider(nullptr, provider, &version_));
  EXPECT_FALSE(*store_->PutProvider(nullptr, provider, &version_));
  Reopen();
  const StoredPolicy stored = Load();
  ASSERT_EQ(stored.providers.size(), 1u);
  EXPECT_EQ(stored.providers[0].SerializeAsString(), provider.SerializeAsString());
  EXPECT_TRUE(*store_->DeleteProvider(nullptr, "local", &version_));
  EXPECT_FALSE(*store_->DeleteProvider(nullptr, "local", &version_));
  EXPECT_TRUE(Load().providers.empty());
}

TEST_P(StoreConformanceTest, ProvidersComeByPriorityThenName) {
  for (const auto& [name, priority] : {std::pair("b", 0), std::pair("a", 0), std::pair("z", 9)}) {
    ASSERT_TRUE(store_->PutProvider(nullptr, Provider(name, priority), &version_).ok());
  }
  std::string order;
  for (const v1::Provider& provider : Load().providers) order += provider.name();
  EXPECT_EQ(order, "zab");
}

TEST_P(StoreConformanceTest, PricesAreKeptByVendorModelAndDate) {
  ASSERT_TRUE(store_
                  ->PutPrices(nullptr,
                              Prices("price v m input=1\nprice v m from=2026-01-01 input=2\n"
                                     "price a z input=0.00000001 other={\"x\":\"1\"}"),
                              &version_)
                  .ok());
  ASSERT_TRUE(
      store_->PutPrices(nullptr, Prices("price v m from=2026-01-01 input=3"), &version_).ok());
  Reopen();
  std::string text;
  for (const v1::ModelPrice& price : Load().prices) text += policy::FormatPrice(price) + "\n";
  EXPECT_EQ(text,
            "price a z input=0.00000001 other={\"x\":\"1\"}\n"
            "price v m input=1\n"
            "price v m from=2026-01-01 input=3\n");
}

TEST_P(StoreConformanceTest, FirstPricesAreLoadedOnce) {
  v1::ModelAlias alias;
  alias.set_alias("n");
  alias.set_vendor("v");
  alias.set_model("m");
  alias.set_keep_name(true);
  EXPECT_TRUE(*store_->LoadFirstPrices(Prices("price v m input=1"), {alias}));
  Reopen();
  EXPECT_FALSE(*store_->LoadFirstPrices(Prices("price v other input=1"), {}));
  EXPECT_EQ(Load().prices.size(), 1u);
  ASSERT_EQ(Load().aliases.size(), 1u);
  EXPECT_TRUE(Load().aliases[0].keep_name());
}

TEST_P(StoreConformanceTest, OwnPricesKeepTheFirstOnesOut) {
  ASSERT_TRUE(store_->PutPrices(nullptr, Prices("price v m input=1"), &version_).ok());
  EXPECT_FALSE(*store_->LoadFirstPrices(Prices("price v other input=1"), {}));
}

TEST_P(StoreConformanceTest, AliasesAreKeptByNameAndVendor) {
  v1::ModelAlias alias;
  alias.set_alias("fast");
  for (const char* vendor : {"openai", "anthropic", "openai"}) {
    alias.set_vendor(vendor);
    alias.set_model(std::string(vendor) + "-mini");
    ASSERT_TRUE(store_->PutAlias(nullptr, alias, &version_).ok());
  }
  EXPECT_EQ(Load().aliases.size(), 2u);
  EXPECT_EQ(Load().aliases[0].model(), "anthropic-mini");
  ASSERT_TRUE(store_->DeleteAlias(nullptr, "fast", "openai", &version_).ok());
  EXPECT_EQ(Load().aliases.size(), 1u);
  ASSERT_TRUE(store_->DeleteAlias(nullptr, "fast", "", &version_).ok());
  ASSERT_TRUE(store_->DeleteAlias(nullptr, "fast", "", &version_).ok());
  EXPECT_TRUE(Load().aliases.empty());
}

TEST_P(StoreConformanceTest, CeilingIsKept) {
  ASSERT_TRUE(store_->PutCeiling(nullptr, {7, 8}, &version_).ok());
  Reopen();
  EXPECT_EQ(Load().ceiling.input_nanousd_per_mtok, 7);
  EXPECT_EQ(Load().ceiling.output_nanousd_per_mtok, 8);
}

TEST_P(StoreConformanceTest, EachChangeHasTheNextVersionAndIsInWhatIsLoaded) {
  const int64_t before = Load().version;
  ASSERT_TRUE(store_->PutCeiling(nullptr, {7, 8}, &version_).ok());
  EXPECT_EQ(version_, before + 1);
  ASSERT_TRUE(store_->PutProvider(nullptr, Provider("a", 0), &version_).ok());
  EXPECT_EQ(version_, before + 2);
  EXPECT_EQ(Load().version, before + 2);
}

INSTANTIATE_TEST_SUITE_P(Backends, StoreConformanceTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgres),
                         [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgres";
                         });

}  // namespace
}  // namespace tollhouse::router
