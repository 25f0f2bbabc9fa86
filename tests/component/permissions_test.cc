// Every admin RPC of every service x every role x own part, its top, what is above and beside it: called over
// gRPC, and refused exactly where its proto says so.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/rpc/authenticator.h"
#include "libs/rpc/permission.h"
#include "libs/rpc/status.h"
#include "libs/testing/temp_dir.h"
#include "services/budget-enforcer/app.h"
#include "services/key-vault/app.h"
#include "services/ledger/app.h"
#include "services/router-policy/app.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"
#include "tollhouse/router/v1/router_admin.pb.h"
#include "tollhouse/vault/v1/vault_admin.grpc.pb.h"

namespace tollhouse {
namespace {

using common::v1::Permission;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr char kFirst[] = "first-token-0123456789";
constexpr char kOwn[] = "acme/payments";  // the subtree of half of the tokens

std::vector<const MethodDescriptor*> AdminMethods() {
  std::vector<const MethodDescriptor*> methods;
  for (const auto* file : {ledger::v1::Account::descriptor()->file(),
                           router::v1::ListProvidersRequest::descriptor()->file(),
                           vault::v1::Key::descriptor()->file(), enforcer::v1::HoldView::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      if (!std::string_view(file->service(i)->name()).ends_with("AdminService")) continue;
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        methods.push_back(file->service(i)->method(j));
      }
    }
  }
  return methods;
}

const Permission& PermissionOf(const MethodDescriptor& method) {
  return method.options().GetExtension(common::v1::permission);
}

class PermissionsTest : public ::testing::Test {
 protected:
  PermissionsTest() : authenticator_(std::make_shared<rpc::Authenticator>(kFirst)) {
    ledger_ = ledger::App::Create({.database = "sqlite:" + dir_.File("ledger.db"),
                                   .authenticator = authenticator_.get(),
                                   .acknowledge_timeout = absl::ZeroDuration()})
                  .value();
    grpc::ServerBuilder internal;
    ledger_->RegisterInternal(internal);
    ledger_server_ = internal.BuildAndStart();
    router_ = router::App::Create({.database = "sqlite:" + dir_.File("router.db"),
                                   .authenticator = authenticator_.get(),
                                   .acknowledge_timeout = absl::ZeroDuration()})
                  .value();
    vault_ = vault::App::Create({.database = "sqlite:" + dir_.File("vault.db"),
                                 .key_encryption_key_file = dir_.File("kek"),
                                 .create_key_encryption_key = true,
                                 .authenticator = authenticator_.get(),
                                 .acknowledge_timeout = absl::ZeroDuration()},
                                ledger_server_->InProcessChannel({}))
                 .value();
    enforcer_ = enforcer::App::Create({.authenticator = authenticator_}, ledger_server_->InProcessChannel({}))
                    .value();
    grpc::ServerBuilder admin;
    int port = 0;
    admin.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    ledger_->RegisterAdmin(admin);
    router_->RegisterAdmin(admin);
    vault_->RegisterAdmin(admin);
    enforcer_->RegisterAdmin(admin);
    admin_server_ = admin.BuildAndStart();
    EXPECT_TRUE(ledger_->Start().ok());
    EXPECT_TRUE(vault_->Start().ok());
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    generic_ = std::make_unique<grpc::GenericStub>(channel_);
    MakeAccounts();
    for (int role = common::v1::ROLE_VIEWER; role <= common::v1::ROLE_OWNER; ++role) {
      for (const std::string subtree : {"", kOwn}) {
        vault::v1::CreateTokenRequest request;
        request.set_name(absl::StrCat(rpc::NameOf(static_cast<common::v1::Role>(role)), subtree.empty() ? "" : "-own"));
        request.set_role(rpc::NameOf(static_cast<common::v1::Role>(role)));
        request.set_subtree(subtree);
        grpc::ClientContext context;
        context.AddMetadata("authorization", absl::StrCat("Bearer ", kFirst));
        vault::v1::CreateTokenResponse response;
        const grpc::Status status =
            vault::v1::VaultAdminService::NewStub(channel_)->CreateToken(&context, request, &response);
        EXPECT_TRUE(status.ok()) << status.error_message();
        tokens_[{role, subtree}] = response.secret();
      }
    }
  }

  ~PermissionsTest() override {
    admin_server_->Shutdown();
    enforcer_->Stop();
    vault_->Stop();
    router_->Stop();
    ledger_->Stop();
    ledger_server_->Shutdown();
  }

  // What calls before have deleted or moved is there again.
  void MakeAccounts() {
    const std::pair<const char*, common::v1::AccountKind> accounts[] = {
        {"acme", common::v1::ACCOUNT_KIND_ORG},
        {"acme/payments", common::v1::ACCOUNT_KIND_TEAM},
        {"acme/payments/sarah", common::v1::ACCOUNT_KIND_USER},
        {"acme/search", common::v1::ACCOUNT_KIND_TEAM}};
    const auto stub = ledger::v1::LedgerAdminService::NewStub(channel_);
    for (const auto& [path, kind] : accounts) {
      grpc::ClientContext context;
      context.AddMetadata("authorization", absl::StrCat("Bearer ", kFirst));
      ledger::v1::CreateAccountRequest request;
      request.set_kind(kind);
      request.set_path(path);
      request.set_if_absent(true);
      ledger::v1::CreateAccountResponse response;
      const grpc::Status status = stub->CreateAccount(&context, request, &response);
      EXPECT_TRUE(status.ok()) << path << ": " << status.error_message();
      ids_[path] = response.account().id();
    }
  }

  // Calls a method, unary or not, and answers with its status.
  absl::Status Call(const MethodDescriptor& method, const Message& request, const std::string& token) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    const std::string bytes = request.SerializeAsString();
    const grpc::Slice slice(bytes);
    grpc::ByteBuffer sent(&slice, 1);
    grpc::CompletionQueue queue;
    const auto wait = [&] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    const auto stream = generic_->PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    stream->StartCall(nullptr);
    bool ok = wait();
    if (ok) {
      stream->WriteLast(sent, {}, nullptr);
      ok = wait();
    }
    grpc::ByteBuffer received;
    while (ok) {
      stream->Read(&received, nullptr);
      ok = wait();
    }
    grpc::Status status;
    stream->Finish(&status, nullptr);
    wait();
    return rpc::FromGrpc(status);
  }

  std::unique_ptr<Message> RequestFor(const MethodDescriptor& method, const std::string& path) {
    std::unique_ptr<Message> request(
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.input_type())->New());
    for (const std::string& name : PermissionOf(method).account()) {
      request->GetReflection()->SetString(request.get(), method.input_type()->FindFieldByName(name), path);
    }
    return request;
  }

  testing::TempDir dir_;
  std::shared_ptr<rpc::Authenticator> authenticator_;
  std::unique_ptr<ledger::App> ledger_;
  std::unique_ptr<grpc::Server> ledger_server_;
  std::unique_ptr<router::App> router_;
  std::unique_ptr<vault::App> vault_;
  std::unique_ptr<enforcer::App> enforcer_;
  std::unique_ptr<grpc::Server> admin_server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> generic_;
  std::map<std::pair<int, std::string>, std::string> tokens_;  // by role and subtree
  std::map<std::string, int64_t> ids_;                         // of accounts
};

TEST_F(PermissionsTest, EveryCallIsAllowedOrRefusedAsDeclared) {
  int cells = 0;
  for (const MethodDescriptor* const method : AdminMethods()) {
    const Permission& permission = PermissionOf(*method);
    MakeAccounts();
    const bool by_account = permission.account_size() > 0;
    for (const std::string path : {"", "acme", "acme/payments", "acme/payments/sarah", "acme/search"}) {
      if (!by_account && !path.empty()) continue;
      for (const auto& [who, token] : tokens_) {
        const auto& [role, subtree] = who;
        const bool whole = subtree.empty();
        bool reaches = true;
        switch (permission.reach()) {
          case common::v1::REACH_INSTALLATION: reaches = whole; break;
          case common::v1::REACH_ACCOUNT:
            reaches = whole || (!path.empty() && IsAtOrBelow(path, subtree));
            break;
          case common::v1::REACH_BELOW:
            reaches = whole || (!path.empty() && IsAtOrBelow(path, subtree) && path != subtree);
            break;
          default: break;
        }
        const bool allowed = role >= permission.role() && reaches;
        const absl::Status status = Call(*method, *RequestFor(*method, path), token);
        const std::string cell =
            absl::StrCat(method->full_name(), " as ", rpc::NameOf(static_cast<common::v1::Role>(role)), " of '",
                         subtree, "' on '", path, "': ", status.ToString());
        EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << cell;
        EXPECT_NE(status.code(), absl::StatusCode::kUnimplemented) << cell;
        EXPECT_EQ(ReasonOf(status) == "FORBIDDEN", !allowed) << cell;
        ++cells;
      }
    }
    EXPECT_EQ(ReasonOf(Call(*method, *RequestFor(*method, "acme"), "nobody's")), "BAD_TOKEN")
        << method->full_name();
  }
  EXPECT_GT(cells, 1000);
  RecordProperty("cells", cells);
}

TEST_F(PermissionsTest, HoldsOfOthersAreNotShown) {
  const MethodDescriptor* const method = enforcer::v1::HoldView::descriptor()
                                             ->file()
                                             ->FindServiceByName("EnforcerAdminService")
                                             ->FindMethodByName("ListHolds");
  const std::string& own = tokens_[{common::v1::ROLE_VIEWER, kOwn}];
  const std::string& whole = tokens_[{common::v1::ROLE_VIEWER, ""}];
  const auto list = [&](const std::string& token, int64_t account) {
    enforcer::v1::ListHoldsRequest request;
    request.set_account_id(account);
    return ReasonOf(Call(*method, request, token));
  };
  EXPECT_EQ(list(own, 0), "");
  EXPECT_EQ(list(own, ids_["acme/payments"]), "");
  EXPECT_EQ(list(own, ids_["acme/payments/sarah"]), "");
  EXPECT_EQ(list(own, ids_["acme/search"]), "FORBIDDEN");
  EXPECT_EQ(list(own, ids_["acme"]), "FORBIDDEN");
  EXPECT_EQ(list(own, 4711), "FORBIDDEN");
  EXPECT_EQ(list(whole, ids_["acme/search"]), "");
}

}  // namespace
}  // namespace tollhouse
