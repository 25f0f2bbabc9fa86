// Which service may call which internal RPC: the rules behind mTLS.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace tollhouse::rpc {

// Identities are URI names of certificates: "spiffe://tollhouse/ledger".
std::string IdentityOf(std::string_view service);
// "ledger" of "spiffe://tollhouse/ledger"; "" for any other text.
std::string_view ServiceOfIdentity(std::string_view uri);

// `method` is a full path like "/tollhouse.ledger.v1.LedgerService/Post", `identities` are the URI
// names of the caller's certificate. PERMISSION_DENIED (NOT_ALLOWED) naming the caller and who may;
// UNAUTHENTICATED (NO_IDENTITY) for a certificate of no service. A method without a row is refused.
absl::Status CheckAccess(std::string_view method, const std::vector<std::string>& identities);

}  // namespace tollhouse::rpc
