#include "services/router-policy/store/sql_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/audit/call.h"
#include "libs/base/status_macros.h"
#include "libs/policy/price_book.h"
#include "libs/sql/change_log.h"
#include "tollhouse/router/v1/router_admin.pb.h"

namespace tollhouse::router {

extern const std::string_view kSqliteSchema1;
extern const std::string_view kPostgresSchema1;

namespace {

constexpr int64_t kAlways = std::numeric_limits<int64_t>::min();

int64_t EffectiveFrom(const v1::ModelPrice& price) {
  return price.has_effective_from() ? price.effective_from().seconds() : kAlways;
}

absl::Status PutPrice(sql::Connection& connection, const v1::ModelPrice& price) {
  return connection
      .Execute(
          "INSERT INTO price (vendor, model, effective_from, line) VALUES (?1, ?2, ?3, ?4) "
          "ON CONFLICT (vendor, model, effective_from) DO UPDATE SET line = excluded.line",
          price.vendor(), price.model(), EffectiveFrom(price), policy::FormatPrice(price))
      .status();
}

absl::Status PutOneAlias(sql::Connection& connection, const v1::ModelAlias& alias) {
  return connection
      .Execute(
          "INSERT INTO alias (alias, vendor, model, keep_name) VALUES (?1, ?2, ?3, ?4) "
          "ON CONFLICT (alias, vendor) DO UPDATE SET model = excluded.model, "
          "keep_name = excluded.keep_name",
          alias.alias(), alias.vendor(), alias.model(), alias.keep_name())
      .status();
}

absl::Status PutSetting(sql::Connection& connection, std::string_view name, int64_t value) {
  return connection
      .Execute(
          "INSERT INTO setting (name, value) VALUES (?1, ?2) "
          "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
          name, value)
      .status();
}

absl::StatusOr<int64_t> GetSetting(sql::Connection& connection, std::string_view name) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      connection.Query("SELECT value FROM setting WHERE name = ?1", name));
  const int64_t value = rows.Next() ? rows.Int(0) : 0;
  TH_RETURN_IF_ERROR(rows.status());
  return value;
}

class SqlStore final : public Store {
 public:
  explicit SqlStore(sql::Database* database) : database_(database) {}

  absl::StatusOr<StoredPolicy> Load() override {
    StoredPolicy stored;
    const absl::Status status = database_->Read([&](sql::Connection& connection) -> absl::Status {
      stored = StoredPolicy();
      TH_ASSIGN_OR_RETURN(const sql::ChangeLogHead head, sql::ReadChangeLogHead(connection));
      stored.version = head.version;
      TH_RETURN_IF_ERROR(LoadProviders(connection, &stored));
      TH_RETURN_IF_ERROR(LoadPrices(connection, &stored));
      TH_RETURN_IF_ERROR(LoadAliases(connection, &stored));
      TH_ASSIGN_OR_RETURN(stored.ceiling.input_nanousd_per_mtok,
                          GetSetting(connection, "ceiling_input"));
      TH_ASSIGN_OR_RETURN(stored.ceiling.output_nanousd_per_mtok,
                          GetSetting(connection, "ceiling_output"));
      return absl::OkStatus();
    });
    TH_RETURN_IF_ERROR(status);
    return stored;
  }

  absl::StatusOr<bool> LoadFirstPrices(const std::vector<v1::ModelPrice>& prices,
                                       const std::vector<v1::ModelAlias>& aliases) override {
    bool loaded = false;
    const absl::Status status = database_->Write([&](sql::Connection& connection) -> absl::Status {
      loaded = false;
      TH_ASSIGN_OR_RETURN(const int64_t before, GetSetting(connection, "prices_loaded"));
      if (before != 0) return absl::OkStatus();
      for (const v1::ModelPrice& price : prices) TH_RETURN_IF_ERROR(PutPrice(connection, price));
      for (const v1::ModelAlias& alias : aliases) {
        TH_RETURN_IF_ERROR(PutOneAlias(connection, alias));
      }
      loaded = true;
      TH_RETURN_IF_ERROR(PutSetting(connection, "prices_loaded", 1));
      return sql::AppendChange(connection, "").status();
    });
    TH_RETURN_IF_ERROR(status);
    return loaded;
  }

  absl::StatusOr<bool> PutProvider(audit::Call* audit, const v1::Provider& provider,
                                   int64_t* version) override {
    bool created = false;
    const absl::Status status =
        Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
          if (audit != nullptr) {
            TH_RETURN_IF_ERROR(RecordProvider(connection, provider.name(), audit));
            audit->SetAfter(provider);
          }
          TH_ASSIGN_OR_RETURN(
              const int64_t deleted,
              connection.Execute("DELETE FROM provider WHERE name = ?1", provider.name()));
          created = deleted == 0;
          return connection
              .Execute(
                  "INSERT INTO provider (name, dialect, base_url, catalog, allow_private, "
                  "priority, "
                  "models, ca_file, no_include_usage, errors_are_billed, auto_service_tier) "
                  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                  provider.name(), static_cast<int64_t>(provider.dialect()), provider.base_url(),
                  provider.catalog(), provider.allow_private(), provider.priority(),
                  absl::StrJoin(provider.models(), "\n"), provider.ca_file(),
                  provider.quirks().no_include_usage(), provider.quirks().errors_are_billed(),
                  provider.quirks().auto_service_tier())
              .status();
        });
    TH_RETURN_IF_ERROR(status);
    return created;
  }

  absl::StatusOr<bool> DeleteProvider(audit::Call* audit, std::string_view name,
                                      int64_t* version) override {
    bool deleted = false;
    const absl::Status status =
        Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
          if (audit != nullptr) TH_RETURN_IF_ERROR(RecordProvider(connection, name, audit));
          TH_ASSIGN_OR_RETURN(const int64_t rows,
                              connection.Execute("DELETE FROM provider WHERE name = ?1", name));
          deleted = rows > 0;
          return absl::OkStatus();
        });
    TH_RETURN_IF_ERROR(status);
    return deleted;
  }

  absl::Status PutPrices(audit::Call* audit, const std::vector<v1::ModelPrice>& prices,
                         int64_t* version) override {
    return Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
      if (audit != nullptr) TH_RETURN_IF_ERROR(RecordPrices(connection, prices, audit));
      for (const v1::ModelPrice& price : prices) TH_RETURN_IF_ERROR(PutPrice(connection, price));
      return PutSetting(connection, "prices_loaded", 1);
    });
  }

  absl::Status PutAlias(audit::Call* audit, const v1::ModelAlias& alias,
                        int64_t* version) override {
    return Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
      if (audit != nullptr) {
        TH_RETURN_IF_ERROR(RecordAliases(connection, alias.alias(), alias.vendor(), audit));
        audit->SetAfter(alias);
      }
      return PutOneAlias(connection, alias);
    });
  }

  absl::Status DeleteAlias(audit::Call* audit, std::string_view alias, std::string_view vendor,
                           int64_t* version) override {
    return Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
      if (audit != nullptr) TH_RETURN_IF_ERROR(RecordAliases(connection, alias, vendor, audit));
      return connection
          .Execute("DELETE FROM alias WHERE alias = ?1 AND (?2 = '' OR vendor = ?2)", alias, vendor)
          .status();
    });
  }

  absl::Status PutCeiling(audit::Call* audit, const Ceiling& ceiling, int64_t* version) override {
    return Change(version, audit, [&](sql::Connection& connection) -> absl::Status {
      if (audit != nullptr) {
        v1::SetCeilingRequest text;
        TH_ASSIGN_OR_RETURN(const int64_t input, GetSetting(connection, "ceiling_input"));
        TH_ASSIGN_OR_RETURN(const int64_t output, GetSetting(connection, "ceiling_output"));
        text.set_input_nanousd_per_mtok(input);
        text.set_output_nanousd_per_mtok(output);
        audit->SetBefore(text);
        text.set_input_nanousd_per_mtok(ceiling.input_nanousd_per_mtok);
        text.set_output_nanousd_per_mtok(ceiling.output_nanousd_per_mtok);
        audit->SetAfter(text);
      }
      TH_RETURN_IF_ERROR(
          PutSetting(connection, "ceiling_input", ceiling.input_nanousd_per_mtok));
      return PutSetting(connection, "ceiling_output", ceiling.output_nanousd_per_mtok);
    });
  }

 private:
  // One transaction that ends with its entries in the audit log and in the change log.
  template <typename Body>
  absl::Status Change(int64_t* version, audit::Call* audit, const Body& body) {
    return database_->Write([&](sql::Connection& connection) -> absl::Status {
      if (audit != nullptr) audit->Begin();
      TH_RETURN_IF_ERROR(body(connection));
      if (audit != nullptr) TH_RETURN_IF_ERROR(audit->Append(connection));
      TH_ASSIGN_OR_RETURN(*version, sql::AppendChange(connection, ""));
      return absl::OkStatus();
    });
  }

  static absl::Status RecordProvider(sql::Connection& connection, std::string_view name,
                                     audit::Call* audit) {
    StoredPolicy stored;
    TH_RETURN_IF_ERROR(LoadProviders(connection, &stored));
    for (const v1::Provider& provider : stored.providers) {
      if (provider.name() == name) audit->SetBefore(provider);
    }
    return absl::OkStatus();
  }

  static absl::Status RecordAliases(sql::Connection& connection, std::string_view alias,
                                    std::string_view vendor, audit::Call* audit) {
    StoredPolicy stored;
    TH_RETURN_IF_ERROR(LoadAliases(connection, &stored));
    v1::ListAliasesResponse before;
    for (const v1::ModelAlias& known : stored.aliases) {
      if (known.alias() == alias && (vendor.empty() || known.vendor() == vendor)) {
        *before.add_aliases() = known;
      }
    }
    if (before.aliases_size() > 0) audit->SetBefore(before);
    return absl::OkStatus();
  }

  // The first of them: the log takes only so much text.
  static absl::Status RecordPrices(sql::Connection& connection,
                                   const std::vector<v1::ModelPrice>& prices, audit::Call* audit) {
    constexpr size_t kRecorded = 100;
    v1::ListPricesResponse before;
    v1::ListPricesResponse after;
    for (size_t i = 0; i < std::min(prices.size(), kRecorded); ++i) {
      const v1::ModelPrice& price = prices[i];
      TH_ASSIGN_OR_RETURN(
          sql::Rows rows,
          connection.Query(
              "SELECT line FROM price WHERE vendor = ?1 AND model = ?2 AND effective_from = ?3",
              price.vendor(), price.model(), EffectiveFrom(price)));
      if (rows.Next()) {
        TH_ASSIGN_OR_RETURN(const policy::PriceBook book, policy::ParsePriceBook(rows.Text(0)));
        for (const v1::ModelPrice& known : book.prices) *before.add_prices() = known;
      }
      TH_RETURN_IF_ERROR(rows.status());
      *after.add_prices() = price;
    }
    if (before.prices_size() > 0) audit->SetBefore(before);
    audit->SetAfter(after);
    return absl::OkStatus();
  }

  static absl::Status LoadProviders(sql::Connection& connection, StoredPolicy* stored) {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        connection.Query("SELECT name, dialect, base_url, catalog, allow_private, priority, models, "
                         "ca_file, no_include_usage, errors_are_billed, auto_service_tier "
                         "FROM provider ORDER BY priority DESC, name"));
    while (rows.Next()) {
      v1::Provider& provider = stored->providers.emplace_back();
      provider.set_name(rows.Text(0));
      provider.set_dialect(static_cast<common::v1::Dialect>(rows.Int(1)));
      provider.set_base_url(rows.Text(2));
      provider.set_catalog(rows.Text(3));
      provider.set_allow_private(rows.Bool(4));
      provider.set_priority(static_cast<int32_t>(rows.Int(5)));
      const std::string models = rows.Text(6);
      for (absl::string_view model : absl::StrSplit(models, '\n', absl::SkipEmpty())) {
        provider.add_models(std::string(model));
      }
      provider.set_ca_file(rows.Text(7));
      if (rows.Bool(8)) provider.mutable_quirks()->set_no_include_usage(true);
      if (rows.Bool(9)) provider.mutable_quirks()->set_errors_are_billed(true);
      if (const std::string tier = rows.Text(10); !tier.empty()) {
        provider.mutable_quirks()->set_auto_service_tier(tier);
      }
    }
    return rows.status();
  }

  static absl::Status LoadPrices(sql::Connection& connection, StoredPolicy* stored) {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        connection.Query("SELECT line FROM price ORDER BY vendor, model, effective_from"));
    std::string text;
    while (rows.Next()) {
      text += rows.View(0);
      text += '\n';
    }
    TH_RETURN_IF_ERROR(rows.status());
    TH_ASSIGN_OR_RETURN(policy::PriceBook book, policy::ParsePriceBook(text));
    stored->prices = std::move(book.prices);
    return absl::OkStatus();
  }

  static absl::Status LoadAliases(sql::Connection& connection, StoredPolicy* stored) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        connection.Query("SELECT alias, vendor, model, keep_name FROM alias "
                                         "ORDER BY alias, vendor"));
    while (rows.Next()) {
      v1::ModelAlias& alias = stored->aliases.emplace_back();
      alias.set_alias(rows.Text(0));
      alias.set_vendor(rows.Text(1));
      alias.set_model(rows.Text(2));
      alias.set_keep_name(rows.Bool(3));
    }
    return rows.status();
  }

  sql::Database* const database_;
};

}  // namespace

sql::Schema StoreSchema() {
  return {.sqlite = {{1, kSqliteSchema1},
                     {2, sql::ChangeLogSchema(sql::Dialect::kSqlite)},
                     {3, audit::LogSchema(sql::Dialect::kSqlite)}},
          .postgres = {{1, kPostgresSchema1},
                       {2, sql::ChangeLogSchema(sql::Dialect::kPostgres)},
                       {3, audit::LogSchema(sql::Dialect::kPostgres)}}};
}

std::unique_ptr<Store> MakeSqlStore(sql::Database* database) {
  return std::make_unique<SqlStore>(database);
}

}  // namespace tollhouse::router
