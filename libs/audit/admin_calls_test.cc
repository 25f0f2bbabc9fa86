// What the audit log has of calls over gRPC.
#include "libs/audit/admin_calls.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/rpc/status.h"
#include "libs/sql/sqlite.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse::audit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// A service whose changes are rows of one table.
class Service final : public ledger::v1::LedgerAdminService::Service {
 public:
  Service(sql::Database* database, const rpc::Authenticator* authenticator, Log* log)
      : database_(database), calls_(authenticator, log, "ledger") {}

  grpc::Status SetWebhook(grpc::ServerContext* context, const ledger::v1::SetWebhookRequest* request,
                          ledger::v1::SetWebhookResponse* response) override {
    return calls_.Answer(*context, *request, [&](Call& call) -> absl::Status {
      if (request->url().empty()) {
        return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", "no URL");
      }
      if (request->url() == "same") return absl::OkStatus();
      return database_->Write([&](sql::Connection& c) -> absl::Status {
        call.Begin();
        TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t (v) VALUES (?1)", request->url()).status());
        call.SetResource("webhook", request->path());
        call.SetAfter(*request);
        TH_RETURN_IF_ERROR(call.Append(c));
        if (request->url() == "abort") return absl::AbortedError("no");
        return absl::OkStatus();
      });
    });
  }

  grpc::Status ListWebhooks(grpc::ServerContext* context, const ledger::v1::ListWebhooksRequest* request,
                            ledger::v1::ListWebhooksResponse*) override {
    return calls_.Answer(*context, *request, [](Call&) { return absl::OkStatus(); });
  }

 private:
  sql::Database* const database_;
  const AdminCalls calls_;
};

class AdminCallsTest : public ::testing::Test {
 protected:
  AdminCallsTest() : authenticator_("first-token-0123456789") {
    const sql::Migration migrations[] = {{1, LogSchema(sql::Dialect::kSqlite)},
                                         {2, "CREATE TABLE t (v TEXT UNIQUE);"}};
    database_ = sql::OpenSqlite(dir_.File("a.db"), migrations).value();
    log_ = std::make_unique<Log>(database_.get(), "ledger", &clock_);
    authenticator_.SetTokens({.tokens = {{rpc::HashOfToken("of-a-viewer"), {"vera", common::v1::ROLE_VIEWER, ""}},
                              {rpc::HashOfToken("of-a-lead"), {"sarah", common::v1::ROLE_ADMIN, "acme/a"}}}});
    service_ = std::make_unique<Service>(database_.get(), &authenticator_, log_.get());
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = ledger::v1::LedgerAdminService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~AdminCallsTest() override { server_->Shutdown(); }

  std::string Set(const std::string& token, const std::string& path, const std::string& url) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    ledger::v1::SetWebhookRequest request;
    request.set_path(path);
    request.set_url(url);
    request.set_secret("hush-hush");
    ledger::v1::SetWebhookResponse response;
    const absl::Status status = rpc::FromGrpc(stub_->SetWebhook(&context, request, &response));
    return status.ok() ? "OK" : ReasonOf(status).empty() ? "other" : ReasonOf(status);
  }
  std::string List(const std::string& token, const std::string& path) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    ledger::v1::ListWebhooksRequest request;
    request.set_path(path);
    ledger::v1::ListWebhooksResponse response;
    return ReasonOf(rpc::FromGrpc(stub_->ListWebhooks(&context, request, &response)));
  }

  // Newest first, one a line.
  std::string Recorded() {
    const auto page = log_->List(common::v1::AuditQuery(), "");
    std::string text;
    for (const common::v1::AuditEvent& event : page->events()) {
      absl::StrAppend(&text, event.actor(), " ", event.role(), " ", event.method(), " ", event.resource(), " ",
                      event.result(), "\n");
    }
    return text;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  rpc::Authenticator authenticator_;
  std::unique_ptr<sql::Database> database_;
  std::unique_ptr<Log> log_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ledger::v1::LedgerAdminService::Stub> stub_;
};

TEST_F(AdminCallsTest, ChangesAreRecordedWithWhoAndFromWhere) {
  EXPECT_EQ(Set("of-a-lead", "acme/a", "https://a"), "OK");
  EXPECT_EQ(Recorded(), "sarah admin SetWebhook webhook OK\n");
  const common::v1::AuditEvent event = log_->List(common::v1::AuditQuery(), "")->events(0);
  EXPECT_EQ(event.subtree(), "acme/a");
  EXPECT_EQ(event.account(), "acme/a");
  EXPECT_THAT(event.peer(), StartsWith("ipv4:127.0.0.1:"));
}

TEST_F(AdminCallsTest, SecretsAreNotWritten) {
  EXPECT_EQ(Set("of-a-lead", "acme/a", "https://a"), "OK");
  const common::v1::AuditEvent event = log_->List(common::v1::AuditQuery(), "")->events(0);
  EXPECT_THAT(event.ShortDebugString(), Not(HasSubstr("hush")));
  EXPECT_EQ(event.request(), R"({"path":"acme/a","url":"https://a","secret":"[secret]"})");
  EXPECT_EQ(event.after(), event.request());
}

TEST_F(AdminCallsTest, RefusedCallersAreRecordedAlsoWhereTheyOnlyRead) {
  EXPECT_EQ(Set("of-a-viewer", "acme/a", "https://a"), "FORBIDDEN");
  EXPECT_EQ(Set("of-a-lead", "acme/b", "https://a"), "FORBIDDEN");
  EXPECT_EQ(List("of-a-lead", "acme/b"), "FORBIDDEN");
  EXPECT_EQ(List("of-a-lead", "acme/a"), "");
  EXPECT_EQ(Set("invented", "acme/a", "https://a"), "BAD_TOKEN");  // nobody
  EXPECT_EQ(Recorded(),
            "sarah admin ListWebhooks acme/b PERMISSION_DENIED FORBIDDEN\n"
            "sarah admin SetWebhook acme/b PERMISSION_DENIED FORBIDDEN\n"
            "vera viewer SetWebhook acme/a PERMISSION_DENIED FORBIDDEN\n");
}

TEST_F(AdminCallsTest, WhatFailedOrChangedNothingIsRecordedAsThat) {
  EXPECT_EQ(Set("of-a-lead", "acme/a", ""), "BAD_ARGUMENT");
  EXPECT_EQ(Set("of-a-lead", "acme/a", "same"), "OK");
  EXPECT_EQ(Set("of-a-lead", "acme/a", "abort"), "other");  // rolled back after its event was appended
  EXPECT_EQ(Recorded(),
            "sarah admin SetWebhook webhook ABORTED\n"
            "sarah admin SetWebhook acme/a OK\n"
            "sarah admin SetWebhook acme/a INVALID_ARGUMENT BAD_ARGUMENT\n");
  EXPECT_EQ(log_->List(common::v1::AuditQuery(), "")->events(0).after(), "");
}

TEST_F(AdminCallsTest, AChangeThatCannotBeRecordedIsNotMade) {
  ASSERT_TRUE(database_
                  ->Write([](sql::Connection& c) { return c.Execute("DROP TABLE audit_event").status(); })
                  .ok());
  EXPECT_EQ(Set("of-a-lead", "acme/a", "https://a"), "STORE_FAILED");
  int64_t rows = -1;
  ASSERT_TRUE(database_
                  ->Read([&](sql::Connection& c) -> absl::Status {
                    TH_ASSIGN_OR_RETURN(sql::Rows count, c.Query("SELECT count(*) FROM t"));
                    if (count.Next()) rows = count.Int(0);
                    return count.status();
                  })
                  .ok());
  EXPECT_EQ(rows, 0);
}

}  // namespace
}  // namespace tollhouse::audit
