#include "libs/rpc/security.h"

#include <google/protobuf/descriptor.h>
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/rpc/access.h"
#include "libs/rpc/channel.h"
#include "libs/rpc/server.h"
#include "libs/rpc/status.h"
#include "libs/testing/temp_dir.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::rpc {
namespace {

using ::testing::HasSubstr;
using ledger::v1::LedgerService;

// --- who may call what ---------------------------------------------------------------------------

TEST(AccessTest, EveryInternalMethodHasItsCallers) {
  for (const google::protobuf::FileDescriptor* file :
       {ledger::v1::WatchRequest::descriptor()->file(), enforcer::v1::Edge::descriptor()->file(),
        router::v1::WatchRequest::descriptor()->file(), vault::v1::WatchRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const google::protobuf::ServiceDescriptor* const service = file->service(i);
      if (service->name().find("Admin") != std::string::npos) continue;
      for (int m = 0; m < service->method_count(); ++m) {
        const std::string method =
            absl::StrCat("/", service->full_name(), "/", service->method(m)->name());
        int callers = 0;
        for (const char* caller : {"ledger", "enforcer", "router", "vault", "edge"}) {
          if (CheckAccess(method, {IdentityOf(caller)}).ok()) ++callers;
        }
        EXPECT_GT(callers, 0) << method << " has no row in access.cc: nobody can call it";
        EXPECT_LT(callers, 5) << method << " is open to everybody";
      }
    }
  }
}

TEST(AccessTest, ACallerIsKnownByTheNameOfItsService) {
  constexpr char kPost[] = "/tollhouse.ledger.v1.LedgerService/Post";
  EXPECT_TRUE(CheckAccess(kPost, {"spiffe://tollhouse/edge"}).ok());
  EXPECT_TRUE(CheckAccess(kPost, {"https://example.com/", "spiffe://tollhouse/edge"}).ok());
  const absl::Status refused = CheckAccess(kPost, {"spiffe://tollhouse/enforcer"});
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(refused), "NOT_ALLOWED");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("spiffe://tollhouse/enforcer may not call " + std::string(kPost)));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("edge"));
  for (const char* stranger : {"spiffe://elsewhere/edge", "edge", "spiffe://tollhouse/", ""}) {
    EXPECT_EQ(ReasonOf(CheckAccess(kPost, {stranger})), "NO_IDENTITY") << stranger;
  }
  EXPECT_EQ(ReasonOf(CheckAccess(kPost, {})), "NO_IDENTITY");
  for (const char* unknown : {"", "/", "Post", "/tollhouse.ledger.v1.LedgerService/Drop", "/a.B/Post",
                              "/tollhouse.ledger.v1.LedgerServic/Post"}) {
    EXPECT_EQ(ReasonOf(CheckAccess(unknown, {"spiffe://tollhouse/edge"})), "NOT_ALLOWED") << unknown;
  }
}

TEST(SecurityTest, LoopbackIsOnlyThisMachine) {
  for (const char* address : {"127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "localhost:1", "unix:/x",
                              "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1,[::1]:2"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "ledger:1", "127.0.0.1:1,10.0.0.1:1",
                              "localhost.example.com:1", "ipv4:127.0.0.1:1,10.0.0.1:2", ""}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
  EXPECT_EQ(ReasonOf(ConnectTo("ledger", "10.0.0.1:1", *Security::Insecure()).status()), "BAD_ADDRESS");
  EXPECT_EQ(ReasonOf(ConnectTo("ledger", "", *Security::Insecure()).status()), "BAD_ADDRESS");
  EXPECT_EQ(ReasonOf(ConnectTo("ledger", "127.0.0.1", *Security::Insecure()).status()), "BAD_ADDRESS");
}

// --- connections ---------------------------------------------------------------------------------

// Certificates as tools/certs makes them; `prefix` is put before the command.
void MakeCertificates(const std::string& dir, const std::string& arguments = "", const std::string& prefix = "") {
  ASSERT_EQ(std::system(absl::StrCat(prefix, " tools/certs ", dir, " ", arguments).c_str()), 0);
}

TlsFiles FilesOf(const std::string& dir, const std::string& service) {
  return {dir + "/" + service + ".pem", dir + "/" + service + ".key", dir + "/ca.pem"};
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Answers ResolveAccount with its own name, so that a test sees who answered.
class Ledger final : public LedgerService::Service {
 public:
  explicit Ledger(std::string name) : name_(std::move(name)) {}
  grpc::Status ResolveAccount(grpc::ServerContext*, const ledger::v1::ResolveAccountRequest*,
                              ledger::v1::ResolveAccountResponse* response) override {
    response->add_chain()->set_path(name_);
    return grpc::Status::OK;
  }

 private:
  const std::string name_;
};

struct Running {
  Running(const std::string& name, const std::string& listen, std::shared_ptr<grpc::ServerCredentials> credentials)
      : service(name) {
    ServerOptions options;
    options.listen = listen;
    options.credentials = std::move(credentials);
    auto started = Server::Start(options, [&](grpc::ServerBuilder& builder) { builder.RegisterService(&service); });
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  const std::string& address() const { return server->address(); }

  Ledger service;
  std::unique_ptr<Server> server;
};

// The name of the server that answered, or the error.
absl::StatusOr<std::string> Ask(LedgerService::Stub& stub, bool wait_for_ready = false) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  context.set_wait_for_ready(wait_for_ready);
  ledger::v1::ResolveAccountResponse response;
  const absl::Status status = FromGrpc(stub.ResolveAccount(&context, {}, &response));
  if (!status.ok()) return status;
  return response.chain(0).path();
}

std::unique_ptr<LedgerService::Stub> StubTo(const std::string& addresses, const Security& security) {
  auto channel = ConnectTo("ledger", addresses, security);
  EXPECT_TRUE(channel.ok()) << channel.status();
  return LedgerService::NewStub(*channel);
}

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() {
    MakeCertificates(Dir());
    ledger_ = Make(Dir(), "ledger");
    server_ = std::make_unique<Running>("ledger-0", "127.0.0.1:0", ledger_->ForServices());
  }

  std::string Dir() const { return dir_.File("certs"); }
  static std::unique_ptr<Security> Make(const std::string& dir, const std::string& service) {
    auto security = Security::FromFiles(service, FilesOf(dir, service));
    EXPECT_TRUE(security.ok()) << security.status();
    return *std::move(security);
  }
  absl::StatusOr<std::string> AskAs(const Security& security) {
    return Ask(*StubTo(server_->address(), security));
  }

  testing::TempDir dir_;
  std::unique_ptr<Security> ledger_;
  std::unique_ptr<Running> server_;
};

TEST_F(TlsTest, AServiceCallsWhatItMayAndNothingElse) {
  EXPECT_EQ(*AskAs(*Make(Dir(), "edge")), "ledger-0");
  EXPECT_EQ(*AskAs(*Make(Dir(), "vault")), "ledger-0");
  const auto refused = AskAs(*Make(Dir(), "router"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kPermissionDenied) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("spiffe://tollhouse/router may not call"));
}

TEST_F(TlsTest, CertificatesOfAnotherAuthorityAreRefused) {
  const std::string other = dir_.File("other");
  MakeCertificates(other);
  EXPECT_TRUE(absl::IsUnavailable(AskAs(*Make(other, "edge")).status()));
  // The server's authority alone does not help the client: its own certificate must be of it too.
  TlsFiles mixed = FilesOf(other, "edge");
  mixed.ca = Dir() + "/ca.pem";
  EXPECT_TRUE(absl::IsUnavailable(AskAs(**Security::FromFiles("edge", mixed)).status()));
}

TEST_F(TlsTest, WithoutACertificateNobodyGetsIn) {
  EXPECT_TRUE(absl::IsUnavailable(AskAs(*Security::Insecure()).status()));
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = ReadFile(Dir() + "/ca.pem");
  auto channel = grpc::CreateChannel(server_->address(), grpc::SslCredentials(options));
  EXPECT_TRUE(absl::IsUnavailable(Ask(*LedgerService::NewStub(channel)).status()));
}

TEST_F(TlsTest, AServerOfAnotherServiceIsRefused) {
  const auto router = Make(Dir(), "router");
  const Running impostor("impostor", "127.0.0.1:0", router->ForServices());
  const auto answer = Ask(*StubTo(impostor.address(), *Make(Dir(), "edge")));
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
}

TEST_F(TlsTest, AnExpiredCertificateIsRefused) {
  MakeCertificates(Dir(), "--days 1 edge", "faketime '3 days ago'");
  const TlsFiles files = FilesOf(Dir(), "edge");
  const auto security = Security::FromFiles("edge", files);
  EXPECT_EQ(ReasonOf(security.status()), "BAD_CERTIFICATE");
  EXPECT_THAT(std::string(security.status().message()), HasSubstr("has expired"));
  // One that expired while its service ran: the server looks too.
  namespace tls = grpc::experimental;
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<tls::StaticDataCertificateProvider>(
      ReadFile(files.ca), std::vector<tls::IdentityKeyCertPair>{{ReadFile(files.key), ReadFile(files.certificate)}}));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  auto channel = grpc::CreateChannel(server_->address(), tls::TlsCredentials(options));
  EXPECT_TRUE(absl::IsUnavailable(Ask(*LedgerService::NewStub(channel)).status()));
}

TEST_F(TlsTest, FilesThatDoNotFitAreRefusedAtTheStart) {
  const TlsFiles good = FilesOf(Dir(), "edge");
  const auto message = [](std::string_view service, TlsFiles files) {
    const auto security = Security::FromFiles(service, files);
    EXPECT_EQ(ReasonOf(security.status()), "BAD_CERTIFICATE");
    return std::string(security.status().message());
  };
  EXPECT_THAT(message("ledger", good), HasSubstr("is for spiffe://tollhouse/edge, this program needs spiffe://tollhouse/ledger"));
  EXPECT_THAT(message("edge", {good.certificate, Dir() + "/vault.key", good.ca}), HasSubstr("is not the key of"));
  EXPECT_THAT(message("edge", {dir_.File("none"), good.key, good.ca}), HasSubstr("no certificate can be read"));
  EXPECT_THAT(message("edge", {good.certificate, good.certificate, good.ca}), HasSubstr("no private key"));
  EXPECT_THAT(message("edge", {good.certificate, good.key, good.key}), HasSubstr("no certificate can be read"));
}

TEST_F(TlsTest, NewCertificatesAreTakenWithoutARestart) {
  const std::string next = dir_.File("next");
  MakeCertificates(next);  // of another authority: nothing of the old works with it
  const auto edge = Make(next, "edge");
  EXPECT_TRUE(absl::IsUnavailable(AskAs(*edge).status()));
  ASSERT_EQ(std::system(absl::StrCat("cp ", next, "/ledger.* ", next, "/ca.pem ", Dir()).c_str()), 0);
  EXPECT_EQ(*Ask(*StubTo(server_->address(), *edge), true), "ledger-0");
}

TEST_F(TlsTest, TheAdminPortNeedsNoCertificateOfTheCaller) {
  const Running admin("admin", "127.0.0.1:0", ledger_->ForAdmin());
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = ReadFile(Dir() + "/ca.pem");
  auto channel = grpc::CreateChannel(admin.address(), grpc::SslCredentials(options));
  EXPECT_EQ(*Ask(*LedgerService::NewStub(channel)), "admin");
}

// --- several replicas ----------------------------------------------------------------------------

std::set<std::string> WhoAnswers(LedgerService::Stub& stub, int calls = 8) {
  std::set<std::string> names;
  for (int i = 0; i < calls; ++i) {
    const auto answer = Ask(stub, true);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (answer.ok()) names.insert(*answer);
  }
  return names;
}

TEST(ChannelTest, CallsGoToEveryReplicaAndLeaveOneThatEnds) {
  const auto security = Security::Insecure();
  auto first = std::make_unique<Running>("first", "127.0.0.1:0", security->ForServices());
  auto second = std::make_unique<Running>("second", "127.0.0.1:0", security->ForServices());
  const std::string address = first->address();
  const auto stub = StubTo(absl::StrCat(address, ",", second->address()), *security);
  while (WhoAnswers(*stub).size() < 2) {
  }
  first.reset();
  EXPECT_EQ(WhoAnswers(*stub), std::set<std::string>{"second"});
  first = std::make_unique<Running>("first again", address, security->ForServices());
  while (!WhoAnswers(*stub).contains("first again")) {
  }
}

// A peer whose process hangs: its kernel takes connections and bytes, nothing answers.
TEST(ChannelTest, APeerThatHangsIsLeft) {
  const auto security = Security::Insecure();
  const Running good("good", "127.0.0.1:0", security->ForServices());
  const int hung = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(hung, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(hung, 16), 0);
  ASSERT_EQ(getsockname(hung, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto stub = StubTo(absl::StrCat("127.0.0.1:", ntohs(address.sin_port), ",", good.address()), *security);
  EXPECT_EQ(WhoAnswers(*stub, 20), std::set<std::string>{"good"});
  close(hung);
}

}  // namespace
}  // namespace tollhouse::rpc
