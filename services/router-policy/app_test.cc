// The router's services over a real in-process gRPC server.
#include "services/router-policy/app.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>

#include <memory>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "libs/rpc/status.h"
#include "libs/base/error.h"
#include "libs/rpc/watch_client.h"
#include "libs/testing/fake_clock.h"
#include "libs/sql/open.h"
#include "libs/testing/temp_dir.h"
#include "services/router-policy/store/sql_store.h"
#include "tollhouse/router/v1/router.grpc.pb.h"
#include "tollhouse/router/v1/router_admin.grpc.pb.h"

namespace tollhouse::router {
namespace {

class AppTest : public ::testing::Test {
 protected:
  AppTest() : token_("admin token") {
    Config config;
    config.database = "sqlite:" + dir_.File("router.db");
    config.clock = &clock_;
    config.authenticator = &token_;
    auto app = App::Create(config);
    EXPECT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    grpc::ServerBuilder builder;
    app_->RegisterInternal(builder);
    app_->RegisterAdmin(builder);
    server_ = builder.BuildAndStart();
    EXPECT_TRUE(app_->Start().ok());
    auto channel = server_->InProcessChannel({});
    router_ = v1::RouterService::NewStub(channel);
    admin_ = v1::RouterAdminService::NewStub(channel);
  }
  ~AppTest() override {
    app_->Stop();
    server_->Shutdown();
    server_->Wait();
  }

  static void Authorize(grpc::ClientContext* context) {
    context->AddMetadata("authorization", "Bearer admin token");
  }
  static v1::SetProviderRequest SetOpenai() {
    v1::SetProviderRequest request;
    request.mutable_provider()->set_name("openai");
    request.mutable_provider()->set_dialect(common::v1::DIALECT_OPENAI);
    request.mutable_provider()->set_base_url("https://api.openai.com/v1");
    return request;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  rpc::Authenticator token_;
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::RouterService::Stub> router_;
  std::unique_ptr<v1::RouterAdminService::Stub> admin_;
};

TEST_F(AppTest, ChangeIsAtTheWatcherWhenTheCallReturns) {
  absl::Mutex mutex;
  v1::PolicySnapshot seen;
  rpc::WatchClient<v1::WatchRequest, v1::WatchResponse> watch(
      "edge/1",
      [&](grpc::ClientContext* context, auto* reactor) {
        router_->async()->Watch(context, reactor);
      },
      [&](const v1::WatchResponse& response) {
        absl::MutexLock lock(&mutex);
        seen = response.policy();
      },
      Clock::System());
  watch.Start();
  ASSERT_TRUE(watch.WaitSynced(absl::Seconds(20)));
  {
    absl::MutexLock lock(&mutex);
    EXPECT_EQ(seen.prices_size(), 1365);
    EXPECT_EQ(seen.providers_size(), 0);
  }
  grpc::ClientContext context;
  Authorize(&context);
  v1::SetProviderResponse response;
  const grpc::Status status = admin_->SetProvider(&context, SetOpenai(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response.created());
  EXPECT_TRUE(response.stragglers().empty());
  absl::MutexLock lock(&mutex);
  ASSERT_EQ(seen.providers_size(), 1);
  EXPECT_EQ(seen.providers(0).catalog(), "openai");
}

TEST_F(AppTest, AdminCallsNeedTheToken) {
  grpc::ClientContext context;
  v1::SetProviderResponse response;
  EXPECT_EQ(admin_->SetProvider(&context, SetOpenai(), &response).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext list;
  Authorize(&list);
  v1::ListProvidersResponse providers;
  ASSERT_TRUE(admin_->ListProviders(&list, {}, &providers).ok());
  EXPECT_EQ(providers.providers_size(), 0);
}

TEST_F(AppTest, ErrorsCarryTheirReason) {
  grpc::ClientContext context;
  Authorize(&context);
  v1::SetProviderRequest request = SetOpenai();
  request.mutable_provider()->set_base_url("http://api.openai.com");
  v1::SetProviderResponse response;
  const absl::Status status = rpc::FromGrpc(admin_->SetProvider(&context, request, &response));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "BAD_PROVIDER");
}

TEST_F(AppTest, TheStoresErrorsComeWithoutTheDriversText) {
  const auto store = sql::OpenDatabase({.database = "sqlite:" + dir_.File("router.db")}, StoreSchema());
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE(store->database
                  ->Write([](sql::Connection& c) { return c.ExecuteScript("DROP TABLE provider"); })
                  .ok());
  grpc::ClientContext context;
  Authorize(&context);
  v1::SetProviderResponse response;
  const absl::Status status = rpc::FromGrpc(admin_->SetProvider(&context, SetOpenai(), &response));
  EXPECT_EQ(ReasonOf(status), "STORE_FAILED");
  EXPECT_EQ(status.message(), "the router's store failed; its log says how");
}

}  // namespace
}  // namespace tollhouse::router
