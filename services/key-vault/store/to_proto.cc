#include "services/key-vault/store/to_proto.h"

#include "libs/rpc/permission.h"

namespace tollhouse::vault {

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp stamp;
  const int64_t micros = absl::ToUnixMicros(time);
  const int64_t seconds = absl::ToUnixSeconds(time);
  stamp.set_seconds(seconds);
  stamp.set_nanos(static_cast<int32_t>((micros - seconds * 1'000'000) * 1000));
  return stamp;
}

v1::Key ToProto(const StoredKey& stored) {
  v1::Key key;
  key.set_path(stored.path);
  key.set_id(stored.key_id);
  if (stored.disabled) key.set_state("disabled");
  if (stored.revoked) key.set_state("revoked");
  for (const std::string& model : stored.models) key.add_models(model);
  for (const std::string& provider : stored.providers) key.add_providers(provider);
  *key.mutable_created_at() = ToProto(stored.created_at);
  if (stored.expires_at) *key.mutable_expires_at() = ToProto(*stored.expires_at);
  key.set_account_id(stored.account_id);
  key.set_owner(stored.owner);
  key.set_purpose(stored.purpose);
  for (const std::string& endpoint : stored.endpoints) key.add_endpoints(endpoint);
  for (const std::string& network : stored.networks) key.add_networks(network);
  if (stored.last_used_at) *key.mutable_last_used_at() = ToProto(*stored.last_used_at);
  key.set_secrets(static_cast<int32_t>(stored.macs.size()));
  return key;
}

v1::Credential ToProto(const StoredCredential& stored) {
  v1::Credential credential;
  credential.set_provider(stored.provider);
  credential.set_origin(stored.origin);
  credential.set_version(stored.version);
  *credential.mutable_created_at() = ToProto(stored.created_at);
  credential.set_name(stored.name);
  credential.set_weight(stored.weight);
  if (stored.expires_at) *credential.mutable_expires_at() = ToProto(*stored.expires_at);
  credential.set_key_encryption_key(stored.secret.data_key.key_id);
  return credential;
}

v1::ListCredentialsResponse ToProto(const std::vector<StoredCredential>& stored) {
  v1::ListCredentialsResponse list;
  for (const StoredCredential& credential : stored) *list.add_credentials() = ToProto(credential);
  return list;
}

v1::Token ToProto(const StoredToken& stored) {
  v1::Token token;
  token.set_name(stored.name);
  token.set_role(rpc::NameOf(stored.role));
  token.set_subtree(stored.subtree);
  token.set_created_by(stored.created_by);
  *token.mutable_created_at() = ToProto(stored.created_at);
  if (stored.expires_at) *token.mutable_expires_at() = ToProto(*stored.expires_at);
  return token;
}

}  // namespace tollhouse::vault
