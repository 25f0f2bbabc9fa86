#include "services/router-policy/app.h"

#include <utility>

#include "libs/base/status_macros.h"
#include "services/router-policy/catalog.h"
#include "services/router-policy/grpc_service.h"
#include "services/router-policy/store/sqlite_store.h"

namespace tollhouse::router {

App::App() = default;
App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(Config config) {
  std::unique_ptr<App> app(new App());
  TH_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, OpenSqliteStore(config.database_path));
  TH_ASSIGN_OR_RETURN(app->catalog_, Catalog::Open(std::move(store)));
  app->services_ = MakeServices(app->catalog_.get(), config.authenticator, config.clock,
                                config.acknowledge_timeout);
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
