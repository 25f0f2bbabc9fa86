// Every admin RPC x every role x own, other and whole: allowed exactly where its proto says so.
#include "libs/rpc/permission.h"

#include <google/protobuf/dynamic_message.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "libs/base/error.h"
#include "tollhouse/common/v1/audit.pb.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.pb.h"
#include "tollhouse/router/v1/router_admin.pb.h"
#include "tollhouse/vault/v1/vault_admin.pb.h"

namespace tollhouse::rpc {
namespace {

using google::protobuf::MethodDescriptor;

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

// A request of the method that names `path` wherever its permission looks.
std::unique_ptr<google::protobuf::Message> RequestFor(const MethodDescriptor& method,
                                                      const std::string& path) {
  std::unique_ptr<google::protobuf::Message> request(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.input_type())->New());
  for (const std::string& name : method.options().GetExtension(common::v1::permission).account()) {
    request->GetReflection()->SetString(request.get(), method.input_type()->FindFieldByName(name), path);
  }
  return request;
}

Caller Of(common::v1::Role role, const std::string& subtree) {
  Caller caller;
  caller.actor = "sarah";
  caller.role = role;
  caller.subtree = subtree;
  return caller;
}

TEST(PermissionTest, EveryAdminMethodDeclaresOne) {
  const auto methods = AdminMethods();
  ASSERT_GT(methods.size(), 40u);
  for (const MethodDescriptor* method : methods) {
    SCOPED_TRACE(method->full_name());
    ASSERT_TRUE(method->options().HasExtension(common::v1::permission));
    const auto& permission = method->options().GetExtension(common::v1::permission);
    EXPECT_NE(permission.role(), common::v1::ROLE_UNSPECIFIED);
    EXPECT_NE(permission.reach(), common::v1::REACH_UNSPECIFIED);
    const bool by_account = permission.reach() == common::v1::REACH_ACCOUNT ||
                            permission.reach() == common::v1::REACH_BELOW;
    EXPECT_EQ(permission.account_size() > 0, by_account);
    for (const std::string& name : permission.account()) {
      ASSERT_NE(method->input_type()->FindFieldByName(name), nullptr) << name;
    }
    // The audit log has what changes something, and calls it by a name.
    const std::string_view name = method->name();
    const bool reads = name.starts_with("Get") || name.starts_with("List") ||
                       name.starts_with("Explain") || name.starts_with("Verify");
    EXPECT_EQ(permission.read_only(), reads);
    EXPECT_TRUE(by_account || !permission.resource().empty());
  }
}

TEST(PermissionTest, FieldsWithSecretsAreMarked) {
  int marked = 0;
  for (const auto* file :
       {ledger::v1::Account::descriptor()->file(),
        router::v1::ListProvidersRequest::descriptor()->file(),
        vault::v1::Key::descriptor()->file(), enforcer::v1::HoldView::descriptor()->file()}) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      const auto* const message = file->message_type(i);
      for (int j = 0; j < message->field_count(); ++j) {
        const auto* const field = message->field(j);
        const bool text = field->type() == google::protobuf::FieldDescriptor::TYPE_STRING ||
                          field->type() == google::protobuf::FieldDescriptor::TYPE_BYTES;
        const bool secret =
            text && (field->name() == "secret" || field->name() == "password" ||
                     field->name() == "token_text" || field->name() == "private_key");
        EXPECT_EQ(field->options().GetExtension(common::v1::secret), secret) << field->full_name();
        marked += secret;
      }
    }
  }
  EXPECT_GE(marked, 5);
}

TEST(PermissionTest, MatrixOfMethodsRolesAndSubtrees) {
  int cells = 0;
  for (const MethodDescriptor* method : AdminMethods()) {
    const auto& permission = method->options().GetExtension(common::v1::permission);
    for (int r = 0; r <= common::v1::ROLE_OWNER; ++r) {
      for (const std::string subtree : {"", "acme/payments"}) {
        for (const std::string path :
             {"", "acme", "acme/payments", "acme/payments/sarah", "acme/payments2", "other"}) {
          const auto role = static_cast<common::v1::Role>(r);
          const bool whole = subtree.empty();
          const bool below = path == "acme/payments/sarah";
          bool reaches = false;
          switch (permission.reach()) {
            case common::v1::REACH_INSTALLATION: reaches = whole; break;
            case common::v1::REACH_ACCOUNT: reaches = whole || below || path == "acme/payments"; break;
            case common::v1::REACH_BELOW: reaches = whole || below; break;
            default: reaches = true;
          }
          const absl::Status status =
              CheckPermission(Of(role, subtree), *RequestFor(*method, path));
          EXPECT_EQ(status.ok(), reaches && role >= permission.role())
              << method->full_name() << " as " << common::v1::Role_Name(role) << " of '" << subtree
              << "' on '" << path << "': " << status;
          if (!status.ok()) {
            EXPECT_EQ(ReasonOf(status), "FORBIDDEN");
          }
          ++cells;
        }
      }
    }
  }
  RecordProperty("cells", cells);
}

TEST(PermissionTest, EveryNamedAccountCounts) {
  ledger::v1::MoveAccountRequest move;
  move.set_path("acme/payments/sarah");
  move.set_new_path("acme/search/sarah");
  EXPECT_FALSE(CheckPermission(Of(common::v1::ROLE_ADMIN, "acme/payments"), move).ok());
  move.set_new_path("acme/payments/sara");
  EXPECT_TRUE(CheckPermission(Of(common::v1::ROLE_ADMIN, "acme/payments"), move).ok());
}

TEST(PermissionTest, RequestsOfNoDeclaredMethodAreRefused) {
  EXPECT_EQ(ReasonOf(CheckPermission(Of(common::v1::ROLE_OWNER, ""), ledger::v1::Account())),
            "NO_PERMISSION_DECLARED");
}

TEST(PermissionTest, ErrorsSayWhatIsMissing) {
  ledger::v1::SetBudgetRequest request;
  request.set_path("acme/payments");
  EXPECT_EQ(CheckPermission(Of(common::v1::ROLE_VIEWER, ""), request).message(),
            "SetBudget needs the role admin; this is token \"sarah\" (viewer)");
  EXPECT_EQ(CheckPermission(Of(common::v1::ROLE_ADMIN, "acme/payments"), request).message(),
            "token \"sarah\" (admin of acme/payments) may change what is below acme/payments, not the "
            "account itself: that takes a token from above");
}

}  // namespace
}  // namespace tollhouse::rpc
