#include "services/router-policy/app.h"

#include <utility>

#include "libs/base/status_macros.h"
#include "services/router-policy/catalog.h"
#include "services/router-policy/grpc_service.h"
#include "services/router-policy/store/sql_store.h"

namespace tollhouse::router {

namespace {

sql::DatabaseSettings SettingsOf(const Config& config) {
  return {.database = config.database,
          .password_file = config.database_password_file,
          .application_name = "tollhouse-router"};
}

}  // namespace

absl::Status Migrate(const Config& config) {
  return sql::MigrateDatabase(SettingsOf(config), StoreSchema());
}

App::App() = default;
App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(Config config) {
  std::unique_ptr<App> app(new App());
  TH_ASSIGN_OR_RETURN(app->database_, sql::OpenDatabase(SettingsOf(config), StoreSchema()));
  sql::Database* const database = app->database_.database.get();
  app->log_ = std::make_unique<audit::Log>(database, "router", config.clock);
  TH_ASSIGN_OR_RETURN(app->catalog_, Catalog::Open(MakeSqlStore(database)));
  TH_ASSIGN_OR_RETURN(app->services_,
                      MakeServices(app->catalog_.get(), config.authenticator, app->log_.get(),
                                   config.clock, config.acknowledge_timeout,
                                   {.database = database, .postgres = app->database_.postgres}));
  return app;
}

void App::RegisterInternal(grpc::ServerBuilder& builder) {
  builder.RegisterService(services_->router());
}

void App::RegisterAdmin(grpc::ServerBuilder& builder) {
  builder.RegisterService(services_->admin());
}

absl::Status App::Start() { return absl::OkStatus(); }

void App::Stop() {
  if (services_ != nullptr) services_->Shutdown();
}

}  // namespace tollhouse::router
