// Tokens of an identity provider at an admin API.
#include "libs/rpc/admin_issuers.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/identity/identity_testing.h"
#include "libs/rpc/permission.h"
#include "libs/rpc/status.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"

namespace tollhouse::rpc {
namespace {

// Answers with who called.
class Service final : public ledger::v1::LedgerAdminService::Service {
 public:
  explicit Service(const Authenticator* authenticator) : authenticator_(authenticator) {}

  grpc::Status GetAccount(grpc::ServerContext* context, const ledger::v1::GetAccountRequest* request,
                          ledger::v1::GetAccountResponse* response) override {
    const auto caller = Authorize(authenticator_, *context, *request);
    if (!caller.ok()) return ToGrpc(caller.status());
    response->mutable_account()->set_owner(
        absl::StrCat(caller->actor, " ", NameOf(caller->role), " of '", caller->subtree, "'"));
    return grpc::Status::OK;
  }

 private:
  const Authenticator* const authenticator_;
};

class AdminIssuersTest : public ::testing::Test {
 protected:
  AdminIssuersTest() : authenticator_("first-token-0123456789", &clock_) {
    std::ofstream(dir_.File("keys.json")) << R"({"keys":[)" << signer_.Jwk() << "]}";
    service_ = std::make_unique<Service>(&authenticator_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = ledger::v1::LedgerAdminService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~AdminIssuersTest() override { server_->Shutdown(); }

  // With `rest` as the file has it after issuer, audience and key set.
  absl::Status Open(const std::string& rest) {
    std::ofstream(dir_.File("issuers.yaml"))
        << "- issuer: https://login.acme.example\n  audience: tollhouse-admin\n  key_set_file: "
        << dir_.File("keys.json") << "\n" << rest;
    identity::IssuersOptions options;
    options.clock = &clock_;
    auto opened = AdminIssuers::Open(dir_.File("issuers.yaml"), &authenticator_, std::move(options));
    if (opened.ok()) issuers_ = *std::move(opened);
    return opened.ok() ? absl::OkStatus() : opened.status();
  }

  std::string Token(const std::string& claims) {
    return signer_.Sign(absl::StrCat(R"({"iss":"https://login.acme.example","aud":"tollhouse-admin","exp":)",
                                     absl::ToUnixSeconds(clock_.Wall()) + 300, ",", claims, "}"));
  }

  // Who the token's bearer is when he asks for an account, or why he is refused.
  std::string Who(const std::string& token, const std::string& path = "acme/payments") {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    ledger::v1::GetAccountRequest request;
    request.set_path(path);
    ledger::v1::GetAccountResponse response;
    const absl::Status status = FromGrpc(stub_->GetAccount(&context, request, &response));
    return status.ok() ? response.account().owner() : ReasonOf(status);
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  identity::TestSigner signer_{"ES256", "e1"};
  Authenticator authenticator_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ledger::v1::LedgerAdminService::Stub> stub_;
  std::unique_ptr<AdminIssuers> issuers_;
};

constexpr char kMapping[] =
    "  actor: email\n"
    "  role_claim: groups\n"
    "  roles: {platform: owner, leads: admin, finance: finance}\n";

TEST_F(AdminIssuersTest, TheHighestRoleOfTheClaimCounts) {
  ASSERT_TRUE(Open(kMapping).ok());
  EXPECT_EQ(Who(Token(R"("email":"sarah@acme.example","groups":["staff","finance","leads"])")),
            "oidc/sarah@acme.example admin of ''");
  EXPECT_EQ(Who(Token(R"("email":"paul@acme.example","groups":"platform")")),
            "oidc/paul@acme.example owner of ''");
  EXPECT_EQ(Who(Token(R"("email":"bill@acme.example","groups":["staff"])")), "NO_ROLE");
  EXPECT_EQ(Who(Token(R"("email":"bill@acme.example")")), "NO_ROLE");
  EXPECT_EQ(Who(Token(R"("groups":["platform"])")), "MISSING_CLAIM");
  EXPECT_EQ(Who(Token(R"("email":"../root","groups":["platform"])")), "MISSING_CLAIM");
}

TEST_F(AdminIssuersTest, ClaimsBoundTheSubtree) {
  ASSERT_TRUE(Open(absl::StrCat(kMapping, "  subtree: acme/{team}\n")).ok());
  const std::string token = Token(R"("email":"sarah@a","groups":["leads"],"team":"payments")");
  EXPECT_EQ(Who(token), "oidc/sarah@a admin of 'acme/payments'");
  EXPECT_EQ(Who(token, "acme/search"), "FORBIDDEN");
  EXPECT_EQ(Who(Token(R"("email":"sarah@a","groups":["leads"])")), "MISSING_CLAIM");
  EXPECT_EQ(Who(Token(R"("email":"sarah@a","groups":["leads"],"team":"a/b")")), "MISSING_CLAIM");
}

TEST_F(AdminIssuersTest, OnlyWhatTheIssuerSignedForUsNowCounts) {
  ASSERT_TRUE(Open(kMapping).ok());
  const std::string claims = R"("email":"paul@a","groups":["platform"])";
  const std::string token = Token(claims);
  EXPECT_EQ(Who(identity::TestSigner("ES256", "e1").Sign(absl::StrCat(
                R"({"iss":"https://login.acme.example","aud":"tollhouse-admin","exp":4102444800,)", claims, "}"))),
            "BAD_SIGNATURE");
  EXPECT_EQ(Who(signer_.Sign(absl::StrCat(
                R"({"iss":"https://login.acme.example","aud":"tollhouse","exp":4102444800,)", claims, "}"))),
            "WRONG_AUDIENCE");
  EXPECT_EQ(Who("first-token-0123456789"), "root owner of ''");
  EXPECT_EQ(Who("no-token"), "BAD_TOKEN");
  clock_.Advance(absl::Minutes(10));
  EXPECT_EQ(Who(token), "TOKEN_EXPIRED");
}

TEST_F(AdminIssuersTest, FilesThatSayTooLittleOrTooMuchAreRefused) {
  for (const char* const rest :
       {"", "  actor: email\n", "  actor: email\n  role_claim: groups\n",
        "  actor: email\n  role_claim: groups\n  roles: {a: king}\n",
        "  actor: email\n  role_claim: groups\n  roles: {a: owner}\n  account: acme\n",
        "  actor: email\n  role_claim: groups\n  roles: {a: owner}\n  subtree: '{org}'\n"}) {
    const absl::Status status = Open(rest);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << rest << status;
    EXPECT_TRUE(std::string(status.message()).find("issuers.yaml") != std::string::npos) << status;
  }
  const auto parsed = identity::ParseIssuers(
      "- {issuer: i, audience: a, key_set_file: f, account: acme, role_claim: groups}",
      identity::IssuerUse::kCalls);
  EXPECT_EQ(ReasonOf(parsed.status()), "BAD_ISSUERS");
}

}  // namespace
}  // namespace tollhouse::rpc
