#include "services/key-vault/grpc_service.h"

#include <grpcpp/server_context.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/audit/admin_calls.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/rpc/permission.h"
#include "libs/rpc/replicated_watch.h"
#include "libs/rpc/status.h"
#include "libs/sql/for_caller.h"
#include "services/key-vault/store/to_proto.h"
#include "services/key-vault/vault.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"
#include "tollhouse/vault/v1/vault_admin.grpc.pb.h"

namespace tollhouse::vault {
namespace {

using KeyWatch = rpc::ReplicatedWatch<v1::WatchRequest, v1::WatchResponse>;

absl::Time FromProto(const google::protobuf::Timestamp& stamp) {
  return absl::FromUnixSeconds(stamp.seconds()) + absl::Nanoseconds(stamp.nanos());
}

std::vector<std::string> Strings(const google::protobuf::RepeatedPtrField<std::string>& list) {
  return {list.begin(), list.end()};
}

v1::Key Shown(const KeyView& view) {
  v1::Key key = ToProto(view.key);
  key.set_path(view.path);
  key.set_state(view.state);
  key.mutable_tags()->insert(view.tags.begin(), view.tags.end());
  return key;
}

v1::WatchResponse Snapshot(const VirtualKeyKeys& keys) {
  v1::WatchResponse response;
  response.set_snapshot(true);
  response.mutable_hash_keys()->set_checksum_key(std::string(keys.checksum_key.view()));
  response.mutable_hash_keys()->set_secret_key(std::string(keys.secret_key.view()));
  return response;
}

class VaultServiceImpl final
    : public v1::VaultService::WithCallbackMethod_Watch<v1::VaultService::Service> {
 public:
  VaultServiceImpl(Vault* vault, KeyWatch* watch, audit::Log* log)
      : vault_(vault), watch_(watch), log_(log) {}

  grpc::ServerBidiReactor<v1::WatchRequest, v1::WatchResponse>* Watch(
      grpc::CallbackServerContext* context) override {
    return watch_->Serve(context);
  }

  grpc::Status LookupKeys(grpc::ServerContext* context, const v1::LookupKeysRequest* request,
                          v1::LookupKeysResponse* response) override {
    const auto keys = vault_->LookupKeys(Strings(request->key_ids()));
    if (!keys.ok()) return Reply(keys.status());
    for (const StoredKey& key : *keys) {
      v1::KeyRecord* record = response->add_keys();
      record->set_key_id(key.key_id);
      record->set_account_id(key.account_id);
      for (const StoredMac& mac : key.macs) {
        v1::SecretMac* secret = record->add_macs();
        secret->set_mac(mac.mac);
        if (mac.expires_at) *secret->mutable_expires_at() = ToProto(*mac.expires_at);
      }
      record->set_disabled(key.disabled || key.revoked);
      if (key.expires_at) *record->mutable_expires_at() = ToProto(*key.expires_at);
      for (const std::string& model : key.models) record->add_models(model);
      for (const std::string& provider : key.providers) record->add_providers(provider);
      for (const std::string& endpoint : key.endpoints) record->add_endpoints(endpoint);
      for (const std::string& network : key.networks) record->add_networks(network);
      record->set_revoked(key.revoked);
    }
    return Reply(absl::OkStatus());
  }

  grpc::Status GetCredential(grpc::ServerContext* context, const v1::GetCredentialRequest* request,
                             v1::GetCredentialResponse* response) override {
    const auto credentials = vault_->GetCredentials(request->provider(), request->origin());
    if (credentials.ok() || ReasonOf(credentials.status()) == "ORIGIN_CHANGED") {
      // On record before it is handed out.
      const absl::Status recorded = Record(*context, *request, credentials);
      if (!recorded.ok()) return Reply(recorded);
    }
    if (!credentials.ok()) return Reply(credentials.status());
    for (const Vault::OpenedCredential& credential : *credentials) {
      v1::LiveCredential* live = response->add_credentials();
      live->set_name(credential.stored.name);
      live->set_version(credential.stored.version);
      live->set_weight(credential.stored.weight);
      live->set_secret(std::string(credential.secret.view()));
      if (credential.stored.expires_at) {
        *live->mutable_expires_at() = ToProto(*credential.stored.expires_at);
      }
    }
    return Reply(absl::OkStatus());
  }

  grpc::Status ReportKeyUse(grpc::ServerContext*, const v1::ReportKeyUseRequest* request,
                            v1::ReportKeyUseResponse*) override {
    std::vector<KeyUse> uses;
    for (const v1::KeyUse& use : request->uses()) uses.push_back({use.key_id(), use.unix_minutes()});
    return Reply(vault_->RecordUse(std::move(uses)));
  }

  grpc::Status ReadTokens(grpc::ServerContext*, const v1::ReadTokensRequest*,
                          v1::ReadTokensResponse* response) override {
    const auto known = vault_->KnownTokens();
    if (!known.ok()) return Reply(known.status());
    for (const std::string& hash : known->revoked_hashes) response->add_revoked_hashes(hash);
    for (const StoredToken& token : known->tokens) {
      v1::TokenRecord* record = response->add_tokens();
      record->set_name(token.name);
      record->set_hash(token.hash);
      record->set_role(token.role);
      record->set_subtree(token.subtree);
      if (token.expires_at) *record->mutable_expires_at() = ToProto(*token.expires_at);
    }
    return Reply(absl::OkStatus());
  }

  grpc::Status PutObject(grpc::ServerContext*, const v1::PutObjectRequest* request,
                         v1::PutObjectResponse*) override {
    const v1::StoredObject& object = request->object();
    return Reply(request->remove()
                     ? vault_->DeleteObject(object.id(), object.account_id())
                     : vault_->PutObject(object.id(), object.provider(), object.account_id()));
  }

  grpc::Status FindObject(grpc::ServerContext*, const v1::FindObjectRequest* request,
                          v1::FindObjectResponse* response) override {
    const auto object = vault_->FindObject(request->id());
    if (!object.ok()) return Reply(object.status());
    response->mutable_object()->set_id(object->id);
    response->mutable_object()->set_provider(object->provider);
    response->mutable_object()->set_account_id(object->account_id);
    return Reply(absl::OkStatus());
  }

 private:
  static grpc::Status Reply(const absl::Status& status) {
    return rpc::ToGrpc(sql::ForCaller(status, "vault"));
  }

  absl::Status Record(const grpc::ServerContext& context, const v1::GetCredentialRequest& request,
                      const absl::StatusOr<std::vector<Vault::OpenedCredential>>& credentials) {
    common::v1::AuditEvent event;
    event.set_actor(absl::StrCat("edge/", request.edge_id()));
    event.set_peer(context.peer());
    event.set_method("GetCredential");
    event.set_resource(absl::StrCat("provider/", request.provider()));
    event.set_request(audit::ToText(request));
    audit::Call call(log_, rpc::Caller(), std::move(event));
    if (credentials.ok()) {
      v1::ListCredentialsResponse read;
      for (const Vault::OpenedCredential& credential : *credentials) {
        *read.add_credentials() = ToProto(credential.stored);
      }
      call.SetAfter(read);
    }
    return call.Finish(credentials.status());
  }

  Vault* const vault_;
  KeyWatch* const watch_;
  audit::Log* const log_;
};

class VaultAdminServiceImpl final : public v1::VaultAdminService::Service {
 public:
  VaultAdminServiceImpl(Vault* vault, KeyWatch* watch, const rpc::Authenticator* authenticator,
                        audit::Log* log, std::function<void()> tokens_changed,
                        absl::Duration acknowledge_timeout)
      : vault_(vault),
        watch_(watch),
        authenticator_(authenticator),
        log_(log),
        calls_(authenticator, log, "vault"),
        tokens_changed_(std::move(tokens_changed)),
        acknowledge_timeout_(acknowledge_timeout) {}

  grpc::Status CreateKey(grpc::ServerContext* context, const v1::CreateKeyRequest* request,
                         v1::CreateKeyResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      NewKey key;
      key.parent_path = request->parent_path();
      key.name = request->name();
      if (request->has_expires_at()) key.expires_at = FromProto(request->expires_at());
      key.models = Strings(request->models());
      key.providers = Strings(request->providers());
      key.endpoints = Strings(request->endpoints());
      key.networks = Strings(request->networks());
      key.tags.insert(request->tags().begin(), request->tags().end());
      key.owner = request->owner();
      key.purpose = request->purpose();
      TH_ASSIGN_OR_RETURN(const KeyWithSecret made, vault_->CreateKey(&call, std::move(key)));
      *response->mutable_key() = Shown(made.view);
      response->set_secret(std::string(made.text.view()));
      return absl::OkStatus();
    });
  }

  grpc::Status ListKeys(grpc::ServerContext* context, const v1::ListKeysRequest* request,
                        v1::ListKeysResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const auto keys, vault_->ListKeys(request->path()));
      for (const KeyView& key : keys) *response->add_keys() = Shown(key);
      return absl::OkStatus();
    });
  }

  grpc::Status RotateKey(grpc::ServerContext* context, const v1::RotateKeyRequest* request,
                         v1::RotateKeyResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(const KeyWithSecret made,
                          vault_->RotateKey(&call, request->path(),
                                            absl::Seconds(request->overlap_seconds()), &version));
      *response->mutable_key() = Shown(made.view);
      response->set_secret(std::string(made.text.view()));
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status RevokeKey(grpc::ServerContext* context, const v1::RevokeKeyRequest* request,
                         v1::RevokeKeyResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(const KeyView key,
                          vault_->RevokeKey(&call, request->path(), &version));
      *response->mutable_key() = Shown(key);
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status UpdateKey(grpc::ServerContext* context, const v1::UpdateKeyRequest* request,
                         v1::UpdateKeyResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      KeyChange change;
      if (request->has_disabled()) change.disabled = request->disabled();
      if (request->set_models()) change.models = Strings(request->models());
      if (request->set_providers()) change.providers = Strings(request->providers());
      if (request->set_endpoints()) change.endpoints = Strings(request->endpoints());
      if (request->set_networks()) change.networks = Strings(request->networks());
      if (request->has_owner()) change.owner = request->owner();
      if (request->has_purpose()) change.purpose = request->purpose();
      change.set_expires_at = request->has_expires_at();
      if (request->expires_at().seconds() != 0) change.expires_at = FromProto(request->expires_at());
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(
          const KeyView key,
          vault_->UpdateKey(&call, request->path(), std::move(change), &version));
      *response->mutable_key() = Shown(key);
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status SetCredential(grpc::ServerContext* context, const v1::SetCredentialRequest* request,
                             v1::SetCredentialResponse* response) override {
    const grpc::Status status = Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_ASSIGN_OR_RETURN(const StoredCredential credential,
                          vault_->SetCredential(
                              &call,
                              {request->provider(), request->name(), request->origin(),
                               request->weight(), absl::Seconds(request->overlap_seconds())},
                              request->secret(), &version));
      *response->mutable_credential() = ToProto(credential);
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
    // gRPC's message is ours alone until the handler returns: the secret does not stay in its memory.
    crypto::Cleanse(const_cast<v1::SetCredentialRequest*>(request)->mutable_secret());
    return status;
  }

  grpc::Status ListCredentials(grpc::ServerContext* context,
                               const v1::ListCredentialsRequest* request,
                               v1::ListCredentialsResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const auto credentials, vault_->ListCredentials());
      for (const StoredCredential& credential : credentials) {
        *response->add_credentials() = ToProto(credential);
      }
      return absl::OkStatus();
    });
  }

  grpc::Status DeleteCredential(grpc::ServerContext* context,
                                const v1::DeleteCredentialRequest* request,
                                v1::DeleteCredentialResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      int64_t version = 0;
      TH_RETURN_IF_ERROR(vault_->DeleteCredential(&call, request->provider(),
                                                  request->name(), &version));
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status ListKeyEncryptionKeys(grpc::ServerContext* context,
                                     const v1::ListKeyEncryptionKeysRequest* request,
                                     v1::ListKeyEncryptionKeysResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const auto uses, vault_->ListKeyEncryptionKeys());
      for (const Vault::KekUse& use : uses) {
        v1::KeyEncryptionKey* key = response->add_keys();
        key->set_id(use.id);
        key->set_newest(use.newest);
        key->set_available(use.available);
        key->set_secrets(use.secrets);
      }
      return absl::OkStatus();
    });
  }

  grpc::Status RewrapSecrets(grpc::ServerContext* context, const v1::RewrapSecretsRequest* request,
                             v1::RewrapSecretsResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Vault::Rewrapped done,
                          vault_->RewrapSecrets(request->limit()));
      response->set_key_encryption_key(done.kek_id);
      response->set_rewrapped(done.rewrapped);
      response->set_remaining(done.remaining);
      call.SetAfter(*response);
      return absl::OkStatus();
    });
  }

  grpc::Status CreateToken(grpc::ServerContext* context, const v1::CreateTokenRequest* request,
                           v1::CreateTokenResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      Vault::NewToken token{request->name(), request->role(), request->subtree(), std::nullopt};
      if (request->has_expires_at()) token.expires_at = FromProto(request->expires_at());
      TH_ASSIGN_OR_RETURN(const Vault::TokenWithText made, vault_->CreateToken(&call, token));
      tokens_changed_();
      *response->mutable_token() = ToProto(made.token);
      response->set_secret(std::string(made.text.view()));
      return absl::OkStatus();
    });
  }

  grpc::Status ListTokens(grpc::ServerContext* context, const v1::ListTokensRequest* request,
                          v1::ListTokensResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const auto tokens, vault_->ListTokens(call.caller().subtree));
      for (const StoredToken& token : tokens) *response->add_tokens() = ToProto(token);
      return absl::OkStatus();
    });
  }

  grpc::Status RevokeToken(grpc::ServerContext* context, const v1::RevokeTokenRequest* request,
                           v1::RevokeTokenResponse*) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_RETURN_IF_ERROR(vault_->RevokeToken(
          &call, request->name(), authenticator_ == nullptr ? "" : authenticator_->first_hash()));
      tokens_changed_();
      return absl::OkStatus();
    });
  }

  grpc::Status ListAuditEvents(grpc::ServerContext* context,
                               const v1::ListAuditEventsRequest* request,
                               v1::ListAuditEventsResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_page(), log_->List(request->query(), call.caller().subtree));
      return absl::OkStatus();
    });
  }

  grpc::Status VerifyAudit(grpc::ServerContext* context, const v1::VerifyAuditRequest* request,
                           v1::VerifyAuditResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_report(), log_->Verify(request->expected()));
      return absl::OkStatus();
    });
  }

 private:
  grpc::Status Answer(const grpc::ServerContext* context, const google::protobuf::Message& request,
                      audit::AdminCalls::Body body) {
    return calls_.Answer(*context, request, body);
  }

  template <typename Response>
  void AwaitEdges(int64_t version, Response* response) {
    for (std::string& name : watch_->WaitAcknowledged(version, acknowledge_timeout_)) {
      response->add_stragglers(std::move(name));
    }
  }

  Vault* const vault_;
  KeyWatch* const watch_;
  const rpc::Authenticator* const authenticator_;
  audit::Log* const log_;
  const audit::AdminCalls calls_;
  const std::function<void()> tokens_changed_;
  const absl::Duration acknowledge_timeout_;
};

class ServicesImpl final : public Services {
 public:
  ServicesImpl(std::unique_ptr<KeyWatch> watch, Vault* vault,
               const rpc::Authenticator* authenticator, audit::Log* log,
               std::function<void()> tokens_changed, absl::Duration acknowledge_timeout)
      : watch_(std::move(watch)),
        vault_(vault, watch_.get(), log),
        admin_(vault, watch_.get(), authenticator, log, std::move(tokens_changed), acknowledge_timeout) {}

  grpc::Service* vault() override { return &vault_; }
  grpc::Service* admin() override { return &admin_; }
  void Shutdown() override { watch_->Shutdown(); }

 private:
  const std::unique_ptr<KeyWatch> watch_;
  VaultServiceImpl vault_;
  VaultAdminServiceImpl admin_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Services>> MakeServices(Vault* vault,
                                                       const rpc::Authenticator* authenticator,
                                                       audit::Log* log,
                                                       std::function<void()> tokens_changed,
                                                       absl::Duration acknowledge_timeout,
                                                       sql::ChangeFeedOptions changes) {
  TH_ASSIGN_OR_RETURN(std::unique_ptr<KeyWatch> watch,
                      KeyWatch::Start(
                          std::move(changes),
                          [vault] { return Snapshot(vault->virtual_key_keys()); }, KeyWatch::Parse));
  return std::make_unique<ServicesImpl>(std::move(watch), vault, authenticator, log,
                                        std::move(tokens_changed), acknowledge_timeout);
}

}  // namespace tollhouse::vault
