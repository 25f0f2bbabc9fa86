// The vault over a real in-process gRPC server, beside a ledger that only knows accounts.
#include "services/key-vault/app.h"
#include "services/key-vault/key_encryption.h"

#include <grpcpp/server.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/crypto/virtual_key.h"
#include "libs/rpc/status.h"
#include "libs/rpc/watch_client.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "services/key-vault/store/sql_store.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"
#include "tollhouse/vault/v1/vault_admin.grpc.pb.h"

namespace tollhouse::vault {
namespace {

// Accounts by id; "acme" is there, keys come and go.
class AccountsOnlyLedger final : public ledger::v1::LedgerService::Service {
 public:
  grpc::Status CreateKeyAccount(grpc::ServerContext*,
                                const ledger::v1::CreateKeyAccountRequest* request,
                                ledger::v1::CreateKeyAccountResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (down) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "down");
    if (failure != nullptr) return Error(absl::StatusCode::kUnavailable, failure);
    if (!absl::StartsWith(request->parent_path(), "acme")) {
      return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND");
    }
    auto [made, inserted] = by_request.try_emplace(request->client_request_id(), 0);
    if (inserted) {
      const std::string path = absl::StrCat(request->parent_path(), "/", request->name());
      for (const auto& [id, existing] : paths) {
        if (existing == path) {
          by_request.erase(made);
          return Error(absl::StatusCode::kAlreadyExists, "ACCOUNT_EXISTS");
        }
      }
      made->second = next_id++;
      paths[made->second] = path;
      tags[made->second] = {request->tags().begin(), request->tags().end()};
    }
    response->set_account_id(made->second);
    response->set_path(paths[made->second]);
    return grpc::Status::OK;
  }
  grpc::Status DeleteKeyAccount(grpc::ServerContext*,
                                const ledger::v1::DeleteKeyAccountRequest* request,
                                ledger::v1::DeleteKeyAccountResponse*) override {
    absl::MutexLock lock(&mutex);
    paths.erase(request->account_id());
    return grpc::Status::OK;
  }
  grpc::Status ResolveAccount(grpc::ServerContext*,
                              const ledger::v1::ResolveAccountRequest* request,
                              ledger::v1::ResolveAccountResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (down) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "down");
    if (failure != nullptr) return Error(absl::StatusCode::kUnavailable, failure);
    for (const auto& [id, path] : paths) {
      if (id == request->account_id() || path == request->path()) {
        response->add_chain()->set_path("acme");
        auto* view = response->add_chain();
        view->set_account_id(id);
        view->set_path(path);
        view->set_kind(id < 10 ? common::v1::ACCOUNT_KIND_TEAM : common::v1::ACCOUNT_KIND_KEY);
        view->mutable_tags()->insert(tags[id].begin(), tags[id].end());
        return grpc::Status::OK;
      }
    }
    return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND");
  }
  grpc::Status ResolveAccounts(grpc::ServerContext*,
                               const ledger::v1::ResolveAccountsRequest* request,
                               ledger::v1::ResolveAccountsResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (down) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "down");
    for (const int64_t id : request->account_ids()) {
      const auto path = paths.find(id);
      if (path == paths.end()) continue;
      auto* view = response->add_accounts()->mutable_account();
      view->set_account_id(id);
      view->set_path(path->second);
      view->set_kind(common::v1::ACCOUNT_KIND_KEY);
      view->mutable_tags()->insert(tags[id].begin(), tags[id].end());
    }
    return grpc::Status::OK;
  }

  static grpc::Status Error(absl::StatusCode code, const char* reason) {
    return rpc::ToGrpc(MakeError(code, reason, "from the ledger"));
  }

  absl::Mutex mutex;
  bool down = false;
  const char* failure = nullptr;  // the reason of every answer
  int64_t next_id = 10;
  std::map<int64_t, std::string> paths = {{1, "acme/payments"}};
  std::map<int64_t, std::map<std::string, std::string>> tags;
  std::map<std::string, int64_t> by_request;
};

class AppTest : public ::testing::Test {
 protected:
  AppTest() : token_("admin token") {
    grpc::ServerBuilder builder;
    builder.RegisterService(&ledger_);
    ledger_server_ = builder.BuildAndStart();
    EXPECT_TRUE(Open().ok());
  }
  ~AppTest() override {
    Close();
    ledger_server_->Shutdown();
    ledger_server_->Wait();
  }

  Config MakeConfig() {
    Config config;
    config.database = "sqlite:" + dir_.File("vault.db");
    config.key_encryption_key_file = dir_.File("kek");
    config.create_key_encryption_key = true;
    config.clock = &clock_;
    config.authenticator = &token_;
    config.acknowledge_timeout = absl::Seconds(20);
    return config;
  }
  absl::Status Open() {
    auto app = App::Create(MakeConfig(), ledger_server_->InProcessChannel({}));
    if (!app.ok()) return app.status();
    app_ = *std::move(app);
    grpc::ServerBuilder builder;
    app_->RegisterInternal(builder);
    app_->RegisterAdmin(builder);
    server_ = builder.BuildAndStart();
    auto channel = server_->InProcessChannel({});
    vault_ = v1::VaultService::NewStub(channel);
    admin_ = v1::VaultAdminService::NewStub(channel);
    return app_->Start();
  }
  void Close() {
    if (app_ == nullptr) return;
    app_->Stop();
    server_->Shutdown();
    server_->Wait();
    server_.reset();
    app_.reset();
  }

  // Calls an admin RPC with the token.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::VaultAdminService::Stub::*method)(grpc::ClientContext*,
                                                                        const Request&, Response*),
                    const Request& request, Response* response,
                    const std::string& token = "admin token") {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    absl::Status status = rpc::FromGrpc((admin_.get()->*method)(&context, request, response));
    if (!status.ok()) errors_ += status.ToString() + "\n";
    return status;
  }
  static v1::CreateKeyRequest NewKey(const std::string& name) {
    v1::CreateKeyRequest request;
    request.set_parent_path("acme/payments");
    request.set_name(name);
    return request;
  }
  v1::CreateKeyResponse Create(const std::string& name) {
    v1::CreateKeyResponse response;
    const absl::Status status = Call(&v1::VaultAdminService::Stub::CreateKey, NewKey(name), &response);
    EXPECT_TRUE(status.ok()) << status;
    return response;
  }
  v1::HashKeys HashKeys() {
    grpc::ClientContext context;
    auto watch = vault_->Watch(&context);
    v1::WatchRequest request;
    request.set_subscriber("edge/test");
    watch->Write(request);
    v1::WatchResponse response;
    EXPECT_TRUE(watch->Read(&response));
    EXPECT_TRUE(response.snapshot());
    const v1::HashKeys keys = response.hash_keys();
    EXPECT_EQ(keys.checksum_key().size(), 32u);
    context.TryCancel();
    while (watch->Read(&response)) {
    }
    watch->Finish();
    return keys;
  }
  // What an edge decides about a key text.
  std::string Check(const std::string& text) {
    const auto parts = crypto::ParseVirtualKey(text);
    if (!parts) return "malformed";
    const v1::HashKeys keys = HashKeys();
    if (!crypto::CheckId(crypto::HmacKey(keys.checksum_key()), parts->id)) return "invented";
    grpc::ClientContext context;
    v1::LookupKeysRequest request;
    request.add_key_ids(std::string(parts->id));
    v1::LookupKeysResponse response;
    EXPECT_TRUE(vault_->LookupKeys(&context, request, &response).ok());
    if (response.keys().empty()) return "unknown";
    const v1::KeyRecord& record = response.keys(0);
    if (record.disabled()) return "disabled";
    const auto mac = crypto::MacOfSecret(keys.secret_key(), parts->secret);
    for (const v1::SecretMac& stored : record.macs()) {
      if (crypto::ConstantTimeEqual(stored.mac(), crypto::AsBytes(mac))) {
        return absl::StrCat("ok ", record.account_id());
      }
    }
    return "wrong secret";
  }
  absl::Status SetCredential(const std::string& provider, const std::string& origin,
                             const std::string& secret) {
    v1::SetCredentialRequest request;
    request.set_provider(provider);
    request.set_origin(origin);
    request.set_secret(secret);
    v1::SetCredentialResponse response;
    return Call(&v1::VaultAdminService::Stub::SetCredential, request, &response);
  }
  // The secrets, or the reason of the refusal.
  std::string GetCredential(const std::string& provider, const std::string& origin) {
    grpc::ClientContext context;
    v1::GetCredentialRequest request;
    request.set_provider(provider);
    request.set_origin(origin);
    request.set_edge_id("e1");
    v1::GetCredentialResponse response;
    const absl::Status status = rpc::FromGrpc(vault_->GetCredential(&context, request, &response));
    if (!status.ok()) errors_ += status.ToString() + "\n";
    if (!status.ok()) return ReasonOf(status);
    std::vector<std::string> secrets;
    for (const v1::LiveCredential& live : response.credentials()) secrets.push_back(live.secret());
    return absl::StrJoin(secrets, " ");
  }
  absl::Status ReportUse(const std::string& key_id, int64_t unix_minutes) {
    grpc::ClientContext context;
    v1::ReportKeyUseRequest request;
    v1::KeyUse* use = request.add_uses();
    use->set_key_id(key_id);
    use->set_unix_minutes(unix_minutes);
    v1::ReportKeyUseResponse response;
    return rpc::FromGrpc(vault_->ReportKeyUse(&context, request, &response));
  }
  std::vector<v1::KeyEncryptionKey> Keks() {
    v1::ListKeyEncryptionKeysResponse response;
    EXPECT_TRUE(Call(&v1::VaultAdminService::Stub::ListKeyEncryptionKeys,
                     v1::ListKeyEncryptionKeysRequest(), &response)
                    .ok());
    return {response.keys().begin(), response.keys().end()};
  }
  std::vector<std::string> Paths(const std::string& below) {
    v1::ListKeysRequest request;
    request.set_path(below);
    v1::ListKeysResponse response;
    EXPECT_TRUE(Call(&v1::VaultAdminService::Stub::ListKeys, request, &response).ok());
    std::vector<std::string> paths;
    for (const v1::Key& key : response.keys()) paths.push_back(key.path() + " " + key.state());
    return paths;
  }
  common::v1::AuditPage Audit() {
    v1::ListAuditEventsResponse response;
    EXPECT_TRUE(Call(&v1::VaultAdminService::Stub::ListAuditEvents, v1::ListAuditEventsRequest(),
                     &response)
                    .ok());
    return response.page();
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  rpc::Authenticator token_;
  AccountsOnlyLedger ledger_;
  std::unique_ptr<grpc::Server> ledger_server_;
  std::unique_ptr<App> app_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::VaultService::Stub> vault_;
  std::unique_ptr<v1::VaultAdminService::Stub> admin_;
  std::string errors_;  // every error that a client got
};

TEST_F(AppTest, CreatedKeyIsCheckedByItsMacAndSurvivesARestart) {
  v1::CreateKeyRequest request = NewKey("laptop");
  request.add_models("gpt-4o*");
  request.set_owner("sarah@example.com");
  (*request.mutable_tags())["use"] = "ci";
  v1::CreateKeyResponse made;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::CreateKey, request, &made).ok());
  EXPECT_EQ(made.key().path(), "acme/payments/laptop");
  EXPECT_EQ(made.key().state(), "active");
  EXPECT_EQ(made.key().tags().at("use"), "ci");
  EXPECT_TRUE(absl::StartsWith(made.secret(), "sk-toll-" + made.key().id() + "-"));
  EXPECT_EQ(Check(made.secret()), "ok 10");
  std::string wrong = made.secret();
  wrong.back() = wrong.back() == 'a' ? 'b' : 'a';
  wrong[wrong.size() - 2] = wrong[wrong.size() - 2] == 'a' ? 'b' : 'a';
  EXPECT_EQ(Check(wrong), "wrong secret");
  Close();
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Check(made.secret()), "ok 10");
  EXPECT_EQ(Paths(""), std::vector<std::string>{"acme/payments/laptop active"});
}

TEST_F(AppTest, TokensGiveNoMoreThanTheirMakerHas) {
  const auto create = [this](const std::string& name, const std::string& role, const std::string& subtree,
                             const std::string& as) {
    v1::CreateTokenRequest request;
    request.set_name(name);
    request.set_role(role);
    request.set_subtree(subtree);
    v1::CreateTokenResponse made;
    const absl::Status status = Call(&v1::VaultAdminService::Stub::CreateToken, request, &made, as);
    return status.ok() ? made.secret() : ReasonOf(status);
  };
  const auto keys = [this](const std::string& path, const std::string& as) {
    v1::ListKeysRequest request;
    request.set_path(path);
    v1::ListKeysResponse response;
    return ReasonOf(Call(&v1::VaultAdminService::Stub::ListKeys, request, &response, as));
  };
  Create("laptop");
  const std::string owner = create("paul", "owner", "acme", "admin token");
  ASSERT_TRUE(absl::StartsWith(owner, "toll-admin-")) << owner;
  EXPECT_EQ(create("paul", "viewer", "acme", "admin token"), "TOKEN_EXISTS");
  EXPECT_EQ(create("root", "viewer", "", "admin token"), "BAD_NAME");
  EXPECT_EQ(create("x", "king", "", "admin token"), "BAD_ARGUMENT");
  EXPECT_EQ(create("y", "viewer", "", owner), "FORBIDDEN");
  EXPECT_EQ(create("y", "viewer", "other", owner), "FORBIDDEN");
  const std::string lead = create("sarah", "admin", "acme/payments", owner);
  EXPECT_EQ(keys("acme/payments", lead), "");
  EXPECT_EQ(keys("acme", lead), "FORBIDDEN");
  EXPECT_EQ(keys("", lead), "FORBIDDEN");
  EXPECT_EQ(create("z", "viewer", "acme/payments", lead), "FORBIDDEN");
  v1::ListTokensResponse listed;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::ListTokens, v1::ListTokensRequest(), &listed, owner).ok());
  ASSERT_EQ(listed.tokens_size(), 2);
  EXPECT_EQ(listed.tokens(1).name(), "sarah");
  EXPECT_EQ(listed.tokens(1).role(), "admin");
  EXPECT_EQ(listed.tokens(1).created_by(), "paul");
  v1::RevokeTokenRequest revoke;
  revoke.set_name("sarah");
  v1::RevokeTokenResponse revoked;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RevokeToken, revoke, &revoked, owner).ok());
  EXPECT_EQ(keys("acme/payments", lead), "BAD_TOKEN");
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::RevokeToken, revoke, &revoked, owner)),
            "TOKEN_NOT_FOUND");
  Close();
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(keys("acme", owner), "");
  const common::v1::AuditPage audit = Audit();
  EXPECT_EQ(audit.events(0).actor(), "paul");
  EXPECT_EQ(audit.events(0).method(), "RevokeToken");
  EXPECT_EQ(audit.events(0).result(), "NOT_FOUND TOKEN_NOT_FOUND");
}

TEST_F(AppTest, TheFirstTokenEndsOnceAnotherIsOwnerOfEverything) {
  constexpr char kFirst[] = "admin token";
  const auto revoke = [&](const std::string& name, const std::string& token) {
    v1::RevokeTokenRequest request;
    request.set_name(name);
    v1::RevokeTokenResponse response;
    return ReasonOf(Call(&v1::VaultAdminService::Stub::RevokeToken, request, &response, token));
  };
  const auto create = [&](const std::string& name, const std::string& subtree, const std::string& token) {
    v1::CreateTokenRequest request;
    request.set_name(name);
    request.set_role("owner");
    request.set_subtree(subtree);
    v1::CreateTokenResponse response;
    const absl::Status status =
        Call(&v1::VaultAdminService::Stub::CreateToken, request, &response, token);
    return status.ok() ? response.secret() : ReasonOf(status);
  };
  const std::string part = create("part", "acme", kFirst);
  EXPECT_EQ(revoke("root", kFirst), "LAST_OWNER");
  EXPECT_EQ(revoke("root", part), "TOKEN_NOT_FOUND");
  const std::string paul = create("paul", "", kFirst);
  EXPECT_EQ(revoke("root", paul), "");
  EXPECT_EQ(create("mary", "", kFirst), "BAD_TOKEN");
  EXPECT_EQ(revoke("paul", paul), "LAST_OWNER");
  const std::string mary = create("mary", "", paul);
  EXPECT_EQ(revoke("paul", mary), "");
  Close();
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(create("late", "", kFirst), "BAD_TOKEN");
  EXPECT_EQ(revoke("part", mary), "");
}

TEST_F(AppTest, InventedKeysAreRefusedWithoutALookUp) {
  Create("laptop");
  EXPECT_EQ(Check(std::string(crypto::MakeVirtualKey("another vault").text.view())), "invented");
  const v1::HashKeys keys = HashKeys();
  EXPECT_EQ(Check(std::string(crypto::MakeVirtualKey(keys.checksum_key()).text.view())), "unknown");
}

TEST_F(AppTest, LedgersRefusalsPassThrough) {
  Create("laptop");
  v1::CreateKeyResponse response;
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, NewKey("laptop"), &response)),
            "ACCOUNT_EXISTS");
  v1::CreateKeyRequest request = NewKey("x");
  request.set_parent_path("nobody");
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, request, &response)),
            "ACCOUNT_NOT_FOUND");
  {
    absl::MutexLock lock(&ledger_.mutex);
    ledger_.down = true;
  }
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, NewKey("y"), &response)),
            "LEDGER_UNAVAILABLE");
  {
    absl::MutexLock lock(&ledger_.mutex);
    ledger_.down = false;
  }
  Create("y");  // what was left of the failed attempt is not in the way
}

TEST_F(AppTest, AccountOfAKeyThatWasNeverStoredIsTakenBack) {
  Close();
  {
    auto opened = sql::OpenDatabase({.database = MakeConfig().database}, StoreSchema());
    ASSERT_TRUE(opened.ok()) << opened.status();
    ASSERT_TRUE(MakeSqlStore(opened->database.get())
                    ->PutIntent({"request-1", "acme/payments", "half", "other", clock_.Wall()})
                    .ok());
  }
  {
    absl::MutexLock lock(&ledger_.mutex);
    ledger_.paths[77] = "acme/payments/half";
    ledger_.by_request["request-1"] = 77;
  }
  ASSERT_TRUE(Open().ok());
  {
    absl::MutexLock lock(&ledger_.mutex);
    EXPECT_FALSE(ledger_.paths.contains(77));
  }
  Create("half");
}

TEST_F(AppTest, KeysAreListedWhereTheirAccountIsNow) {
  Create("laptop");
  {
    absl::MutexLock lock(&ledger_.mutex);
    ledger_.paths[10] = "acme/research/laptop";
  }
  EXPECT_EQ(Paths("acme/research"), std::vector<std::string>{"acme/research/laptop active"});
  EXPECT_EQ(Paths("acme/research/laptop"), std::vector<std::string>{"acme/research/laptop active"});
  EXPECT_TRUE(Paths("acme/payments").empty());
  EXPECT_TRUE(Paths("acme/res").empty());
  {
    absl::MutexLock lock(&ledger_.mutex);
    ledger_.paths.erase(10);
  }
  EXPECT_EQ(Paths(""), std::vector<std::string>{"acme/payments/laptop disabled"});
}

TEST_F(AppTest, RotationKeepsTheOldSecretForTheOverlapOnly) {
  const std::string first = Create("laptop").secret();
  v1::RotateKeyRequest request;
  request.set_path("acme/payments/laptop");
  request.set_overlap_seconds(3600);
  v1::RotateKeyResponse second;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RotateKey, request, &second).ok());
  EXPECT_EQ(Check(first), "ok 10");
  EXPECT_EQ(Check(second.secret()), "ok 10");
  clock_.Advance(absl::Minutes(61));
  EXPECT_EQ(Check(first), "wrong secret");
  EXPECT_EQ(Check(second.secret()), "ok 10");
  request.set_overlap_seconds(0);
  v1::RotateKeyResponse third;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RotateKey, request, &third).ok());
  EXPECT_EQ(Check(second.secret()), "wrong secret");
  EXPECT_EQ(Check(third.secret()), "ok 10");
  request.set_overlap_seconds(-1);
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::RotateKey, request, &third)),
            "BAD_ARGUMENT");
  request.set_path("acme/payments");
  request.set_overlap_seconds(0);
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::RotateKey, request, &third)),
            "KEY_NOT_FOUND");
}

TEST_F(AppTest, RevocationIsAtTheEdgesWhenTheCallReturns) {
  const v1::CreateKeyResponse made = Create("laptop");
  absl::Mutex mutex;
  std::set<std::string> dropped;
  rpc::WatchClient<v1::WatchRequest, v1::WatchResponse> watch(
      "edge/1",
      [&](grpc::ClientContext* context, auto* reactor) {
        vault_->async()->Watch(context, reactor);
      },
      [&](const v1::WatchResponse& response) {
        absl::MutexLock lock(&mutex);
        dropped.insert(response.changed_key_ids().begin(), response.changed_key_ids().end());
      },
      Clock::System());
  watch.Start();
  ASSERT_TRUE(watch.WaitSynced(absl::Seconds(20)));
  v1::RevokeKeyRequest request;
  request.set_path("acme/payments/laptop");
  v1::RevokeKeyResponse response;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RevokeKey, request, &response).ok());
  EXPECT_TRUE(response.stragglers().empty());
  EXPECT_EQ(response.key().state(), "revoked");
  {
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(dropped.contains(made.key().id()));
  }
  EXPECT_EQ(Check(made.secret()), "disabled");
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RevokeKey, request, &response).ok());  // idempotent
  v1::UpdateKeyRequest enable;
  enable.set_path(request.path());
  enable.set_disabled(false);
  v1::UpdateKeyResponse enabled;
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::UpdateKey, enable, &enabled)),
            "KEY_REVOKED");
  v1::RotateKeyRequest rotate;
  rotate.set_path(request.path());
  v1::RotateKeyResponse rotated;
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::RotateKey, rotate, &rotated)),
            "KEY_REVOKED");
}

TEST_F(AppTest, UpdateChangesOnlyWhatIsNamed) {
  v1::CreateKeyRequest create = NewKey("laptop");
  create.add_models("a");
  create.add_providers("p");
  v1::CreateKeyResponse made;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::CreateKey, create, &made).ok());
  v1::UpdateKeyRequest request;
  request.set_path("acme/payments/laptop");
  request.set_disabled(true);
  v1::UpdateKeyResponse response;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::UpdateKey, request, &response).ok());
  EXPECT_EQ(response.key().state(), "disabled");
  EXPECT_EQ(response.key().models(0), "a");
  EXPECT_EQ(Check(made.secret()), "disabled");
  request.set_disabled(false);
  request.set_set_models(true);
  request.mutable_expires_at()->set_seconds(absl::ToUnixSeconds(clock_.Wall()) + 60);
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::UpdateKey, request, &response).ok());
  EXPECT_EQ(response.key().state(), "active");
  EXPECT_TRUE(response.key().models().empty());
  EXPECT_EQ(response.key().providers(0), "p");
  clock_.Advance(absl::Seconds(60));
  EXPECT_EQ(Paths(""), std::vector<std::string>{"acme/payments/laptop expired"});
  request.mutable_expires_at()->set_seconds(0);  // never
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::UpdateKey, request, &response).ok());
  EXPECT_EQ(response.key().state(), "active");
}

TEST_F(AppTest, MalformedRequestsAreRefused) {
  v1::CreateKeyResponse response;
  v1::CreateKeyRequest request = NewKey("laptop");
  request.mutable_expires_at()->set_seconds(absl::ToUnixSeconds(clock_.Wall()));
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, request, &response)),
            "BAD_ARGUMENT");
  request = NewKey("laptop");
  request.add_models("a\nb");
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, request, &response)),
            "BAD_ARGUMENT");
  request = NewKey("laptop");
  request.set_owner("a\nb");
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::CreateKey, request, &response)),
            "BAD_ARGUMENT");
  EXPECT_EQ(ReasonOf(SetCredential("No Name", "https://h", "s")), "BAD_ARGUMENT");
  EXPECT_EQ(ReasonOf(SetCredential("openai", "h", "s")), "BAD_ARGUMENT");
  for (const std::string& secret :
       {std::string(), std::string("a\r\nX-Evil: 1"), std::string("a b"), std::string(20000, 'a')}) {
    EXPECT_EQ(ReasonOf(SetCredential("openai", "https://h", secret)), "BAD_ARGUMENT");
  }
  EXPECT_TRUE(Paths("").empty());
}

TEST_F(AppTest, CredentialIsGivenForItsOriginOnly) {
  ASSERT_TRUE(SetCredential("openai", "https://API.openai.com", "real-secret-1").ok());
  EXPECT_EQ(GetCredential("openai", "https://api.openai.com:443"), "real-secret-1");
  EXPECT_EQ(GetCredential("openai", "https://evil.example.com:443"), "ORIGIN_CHANGED");
  EXPECT_EQ(GetCredential("openai", "http://api.openai.com:443"), "ORIGIN_CHANGED");
  EXPECT_EQ(GetCredential("openai", "https://api.openai.com:8443"), "ORIGIN_CHANGED");
  EXPECT_EQ(GetCredential("anthropic", "https://api.openai.com:443"), "CREDENTIAL_NOT_FOUND");
  ASSERT_TRUE(SetCredential("openai", "https://api.openai.com", "real-secret-2").ok());
  EXPECT_EQ(GetCredential("openai", "https://api.openai.com:443"), "real-secret-2");
  v1::ListCredentialsResponse list;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::ListCredentials, v1::ListCredentialsRequest(),
                   &list)
                  .ok());
  ASSERT_EQ(list.credentials_size(), 1);
  EXPECT_EQ(list.credentials(0).origin(), "https://api.openai.com:443");
  EXPECT_EQ(list.credentials(0).version(), 2);
  v1::DeleteCredentialRequest request;
  request.set_provider("openai");
  v1::DeleteCredentialResponse response;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::DeleteCredential, request, &response).ok());
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::DeleteCredential, request, &response).ok());
  EXPECT_EQ(GetCredential("openai", "https://api.openai.com:443"), "CREDENTIAL_NOT_FOUND");
}

TEST_F(AppTest, TwoVersionsOfACredentialLiveForTheOverlap) {
  v1::SetCredentialRequest request;
  request.set_provider("openai");
  request.set_origin("https://h");
  request.set_secret("old");
  v1::SetCredentialResponse response;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::SetCredential, request, &response).ok());
  EXPECT_EQ(response.credential().name(), "default");
  EXPECT_EQ(response.credential().weight(), 1);
  request.set_secret("new");
  request.set_overlap_seconds(60);
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::SetCredential, request, &response).ok());
  EXPECT_EQ(GetCredential("openai", "https://h"), "new old");
  request.set_name("second");
  request.set_weight(9);
  request.set_secret("other");
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::SetCredential, request, &response).ok());
  EXPECT_EQ(GetCredential("openai", "https://h"), "new old other");
  clock_.Advance(absl::Seconds(60));
  EXPECT_EQ(GetCredential("openai", "https://h"), "new other");
  v1::ListCredentialsResponse list;
  ASSERT_TRUE(
      Call(&v1::VaultAdminService::Stub::ListCredentials, v1::ListCredentialsRequest(), &list)
          .ok());
  ASSERT_EQ(list.credentials_size(), 2);
  EXPECT_EQ(list.credentials(1).weight(), 9);
  v1::DeleteCredentialRequest remove;
  remove.set_provider("openai");
  remove.set_name("default");
  v1::DeleteCredentialResponse removed;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::DeleteCredential, remove, &removed).ok());
  EXPECT_EQ(GetCredential("openai", "https://h"), "other");
  request.set_weight(1001);
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::SetCredential, request, &response)),
            "BAD_ARGUMENT");
}

TEST_F(AppTest, SecretsMoveToANewKeyEncryptionKeyWhileTheyAreRead) {
  const std::string key = Create("laptop").secret();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(SetCredential(absl::StrCat("p", i), "https://h", absl::StrCat("secret", i)).ok());
  }
  ASSERT_EQ(Keks().size(), 1u);
  EXPECT_EQ(Keks().front().secrets(), 6);
  const std::string old_file = dir_.File("kek.old");
  std::filesystem::copy_file(dir_.File("kek"), old_file);
  const auto added = AddKeyToFile(dir_.File("kek"));
  ASSERT_TRUE(added.ok()) << added.status();

  v1::RewrapSecretsRequest request;
  request.set_limit(2);
  v1::RewrapSecretsResponse response;
  for (const int64_t remaining : {4, 2, 0, 0}) {
    ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RewrapSecrets, request, &response).ok());
    EXPECT_EQ(response.remaining(), remaining);
    EXPECT_EQ(response.key_encryption_key(), *added);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(GetCredential(absl::StrCat("p", i), "https://h"), absl::StrCat("secret", i));
    }
    if (remaining == 4) {  // resumed by the next process
      Close();
      ASSERT_TRUE(Open().ok());
    }
  }
  EXPECT_EQ(response.rewrapped(), 0);
  const auto keks = Keks();
  ASSERT_EQ(keks.size(), 2u);
  EXPECT_EQ(keks.front().secrets(), 0);
  EXPECT_TRUE(keks.back().newest());
  EXPECT_EQ(keks.back().secrets(), 6);

  // The old key has served: the new one alone opens everything, the old one nothing.
  Close();
  std::filesystem::rename(old_file, dir_.File("kek"));
  EXPECT_EQ(ReasonOf(Open()), "KEK_WRONG");
}

TEST_F(AppTest, LastUseIsShownAsEdgesReportIt) {
  const v1::Key key = Create("laptop").key();
  EXPECT_FALSE(key.has_last_used_at());
  ASSERT_TRUE(ReportUse(key.id(), 100).ok());
  ASSERT_TRUE(ReportUse("unknown", 100).ok());
  v1::ListKeysResponse list;
  ASSERT_TRUE(
      Call(&v1::VaultAdminService::Stub::ListKeys, v1::ListKeysRequest(), &list).ok());
  ASSERT_EQ(list.keys_size(), 1);
  EXPECT_EQ(list.keys(0).last_used_at().seconds(), 6000);
  EXPECT_EQ(list.keys(0).secrets(), 1);
}

TEST_F(AppTest, NetworksAndEndpointsAreKeptAndChecked) {
  v1::CreateKeyRequest create = NewKey("laptop");
  create.add_networks("10.0.0.0/8");
  create.add_endpoints("chat_completions");
  v1::CreateKeyResponse created;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::CreateKey, create, &created).ok());
  EXPECT_EQ(created.key().networks(0), "10.0.0.0/8");
  v1::UpdateKeyRequest update;
  update.set_path("acme/payments/laptop");
  update.set_set_networks(true);
  update.add_networks("10.0.0.1/8");
  v1::UpdateKeyResponse updated;
  EXPECT_EQ(ReasonOf(Call(&v1::VaultAdminService::Stub::UpdateKey, update, &updated)),
            "BAD_ARGUMENT");
  update.set_networks(0, "2001:db8::/32");
  update.set_owner("bill@example.com");
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::UpdateKey, update, &updated).ok());
  EXPECT_EQ(updated.key().networks(0), "2001:db8::/32");
  EXPECT_EQ(updated.key().endpoints(0), "chat_completions");
  EXPECT_EQ(updated.key().owner(), "bill@example.com");
}

TEST_F(AppTest, AuditTellsWhoDidWhat) {
  Create("laptop");
  ASSERT_TRUE(SetCredential("openai", "https://api.openai.com", "real-secret").ok());
  GetCredential("openai", "https://api.openai.com:443");
  GetCredential("openai", "https://evil.example.com:443");
  std::string log;
  const common::v1::AuditPage audit = Audit();
  for (const common::v1::AuditEvent& event : audit.events()) {
    absl::StrAppend(&log, event.actor(), " ", event.method(), " ", event.resource(), " ",
                    event.result(), "\n");
  }
  EXPECT_EQ(log,
            "edge/e1 GetCredential provider/openai FAILED_PRECONDITION ORIGIN_CHANGED\n"
            "edge/e1 GetCredential provider/openai OK\n"
            "root SetCredential provider/openai OK\n"
            "root CreateKey acme/payments/laptop OK\n");
}

TEST_F(AppTest, AdminCallsNeedTheToken) {
  grpc::ClientContext context;
  v1::CreateKeyResponse response;
  EXPECT_EQ(admin_->CreateKey(&context, NewKey("laptop"), &response).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AppTest, WrongOrLostKeyEncryptionKeyIsRefusedAtStart) {
  Create("laptop");
  Close();
  std::filesystem::rename(dir_.File("kek"), dir_.File("kek.away"));
  EXPECT_EQ(ReasonOf(Open()), "KEK_MISSING");
  EXPECT_FALSE(std::filesystem::exists(dir_.File("kek")));  // none is made for an old database
  std::ofstream(dir_.File("kek")) << std::string(32, 'x');
  std::filesystem::permissions(dir_.File("kek"), std::filesystem::perms::owner_read);
  const absl::Status wrong = Open();
  EXPECT_EQ(ReasonOf(wrong), "KEK_WRONG");
  EXPECT_TRUE(absl::StrContains(wrong.message(), "right key file")) << wrong;
  std::filesystem::rename(dir_.File("kek.away"), dir_.File("kek"));
  EXPECT_TRUE(Open().ok());
}

TEST_F(AppTest, NoSecretInDatabaseLogsErrorsOrAudit) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  const std::string credential = "real-credential-of-the-provider";
  const std::string key = Create("laptop").secret();
  v1::RotateKeyRequest rotate;
  rotate.set_path("acme/payments/laptop");
  rotate.set_overlap_seconds(60);
  v1::RotateKeyResponse rotated;
  ASSERT_TRUE(Call(&v1::VaultAdminService::Stub::RotateKey, rotate, &rotated).ok());
  ASSERT_TRUE(SetCredential("openai", "https://api.openai.com", credential).ok());
  EXPECT_FALSE(SetCredential("openai", "https://api.openai.com", credential + "\n").ok());
  EXPECT_FALSE(SetCredential("Bad Name", "https://api.openai.com", credential).ok());
  EXPECT_EQ(GetCredential("openai", "https://api.openai.com:443"), credential);
  EXPECT_EQ(GetCredential("openai", "https://other.example.com"), "ORIGIN_CHANGED");
  std::string seen = errors_;
  const common::v1::AuditPage audit = Audit();
  for (const common::v1::AuditEvent& event : audit.events()) seen += event.ShortDebugString();
  const v1::HashKeys hash_keys = HashKeys();
  Close();

  std::string files;
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(dir_.path())) {
    if (file.path().filename() == "kek") continue;
    std::ifstream in(file.path(), std::ios::binary);
    files += std::string(std::istreambuf_iterator<char>(in), {});
    ++count;
  }
  EXPECT_GE(count, 1);
  EXPECT_TRUE(absl::StrContains(files, "acme/payments/laptop"));  // it is the database
  std::ifstream kek_file(dir_.File("kek"), std::ios::binary);
  const std::string kek((std::istreambuf_iterator<char>(kek_file)), {});
  ASSERT_EQ(kek.size(), 32u);
  const std::string outputs =
      ::testing::internal::GetCapturedStderr() + ::testing::internal::GetCapturedStdout();
  const auto secret_of = [](const std::string& text) {
    return std::string(crypto::ParseVirtualKey(text)->secret);
  };
  for (const std::string& secret :
       {credential, secret_of(key), secret_of(rotated.secret()), kek,
        std::string(hash_keys.checksum_key()), std::string(hash_keys.secret_key())}) {
    ASSERT_FALSE(secret.empty());
    EXPECT_FALSE(absl::StrContains(files, secret));
    EXPECT_FALSE(absl::StrContains(seen, secret));
    EXPECT_FALSE(absl::StrContains(outputs, secret));
  }
  // A plain hash of the secret is not what is stored: without the hash keys it says nothing.
  EXPECT_FALSE(absl::StrContains(
      files, std::string(crypto::AsBytes(crypto::Sha256(secret_of(key))))));
}

TEST_F(AppTest, TheStoresErrorsComeWithoutTheDriversText) {
  const auto store = sql::OpenDatabase({.database = "sqlite:" + dir_.File("vault.db")}, StoreSchema());
  ASSERT_TRUE(store.ok()) << store.status();
  const auto drop = [&](const std::string& table) {
    return store->database->Write(
        [&](sql::Connection& c) { return c.ExecuteScript("DROP TABLE " + table); });
  };
  for (const char* const table : {"key_secret", "admin_token"}) ASSERT_TRUE(drop(table).ok());
  v1::CreateKeyResponse created;
  grpc::ClientContext context;
  v1::ReadTokensResponse tokens;
  for (const absl::Status& status :
       {Call(&v1::VaultAdminService::Stub::CreateKey, NewKey("laptop"), &created),
        rpc::FromGrpc(vault_->ReadTokens(&context, {}, &tokens))}) {
    EXPECT_EQ(ReasonOf(status), "STORE_FAILED");
    EXPECT_EQ(status.message(), "the vault's store failed; its log says how");
  }
}

TEST_F(AppTest, TheLedgersStoreIsNotTakenForTheVaults) {
  ledger_.failure = "SQL_BUSY";
  v1::CreateKeyResponse created;
  const absl::Status status =
      Call(&v1::VaultAdminService::Stub::CreateKey, NewKey("laptop"), &created);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "LEDGER_UNAVAILABLE");
  EXPECT_EQ(status.message(), "from the ledger");
}

}  // namespace
}  // namespace tollhouse::vault
