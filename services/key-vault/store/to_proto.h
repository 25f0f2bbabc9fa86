// What the vault keeps, as its API and the audit log show it: without secrets.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <vector>

#include "absl/time/time.h"
#include "services/key-vault/store/store.h"
#include "tollhouse/vault/v1/vault_admin.pb.h"

namespace tollhouse::vault {

google::protobuf::Timestamp ToProto(absl::Time time);
// With the path that it was made at, and with a state if it is disabled or revoked only.
v1::Key ToProto(const StoredKey& stored);
v1::Credential ToProto(const StoredCredential& stored);
v1::ListCredentialsResponse ToProto(const std::vector<StoredCredential>& stored);
v1::Token ToProto(const StoredToken& stored);

}  // namespace tollhouse::vault
