// The ledger as the vault uses it: accounts of keys.
#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/key-vault/store/store.h"

namespace tollhouse::vault {

struct KeyAccount {
  int64_t account_id = 0;
  std::string path;
  bool is_key = false;
  std::map<std::string, std::string> tags;  // pinned
};

// Errors: what the ledger answers with its reason (ACCOUNT_NOT_FOUND, ACCOUNT_EXISTS, BAD_NAME), or
// UNAVAILABLE (LEDGER_UNAVAILABLE) where it does not answer within ten seconds. Thread-safe; blocks.
class LedgerAccounts {
 public:
  explicit LedgerAccounts(std::shared_ptr<grpc::ChannelInterface> channel);
  ~LedgerAccounts();

  // Idempotent by the intent's client_request_id.
  absl::StatusOr<KeyAccount> Create(const KeyIntent& intent,
                                    const std::map<std::string, std::string>& tags);
  // Idempotent.
  absl::Status Delete(int64_t account_id);
  // Adds those that exist of at most 1024 by their ids.
  absl::Status ByIds(const std::vector<int64_t>& account_ids, std::map<int64_t, KeyAccount>* accounts);
  absl::StatusOr<KeyAccount> ByPath(const std::string& path);

 private:
  struct Stub;
  std::unique_ptr<Stub> stub_;
};

}  // namespace tollhouse::vault
