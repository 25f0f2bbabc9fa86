// What the services have now, as documents: the other side of `apply`, and all of `export`.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/tollctl/api.h"
#include "tools/tollctl/documents.h"

namespace tollhouse::tollctl {

struct CurrentState {
  std::map<std::string, Document> documents;  // by Identity
  std::set<std::string> account_paths;        // of every kind, keys too
  std::map<std::string, std::string> credential_origins;  // by provider
};

// Asks for what documents of these kinds are compared with. Revoked keys, budgets made by templates
// and accounts without limits have no documents. With `book_prices` also prices that came with the
// price book and aliases that vendors know, otherwise only those set through tollctl.
absl::StatusOr<CurrentState> LoadCurrentState(Api& api, const std::set<DocumentKind>& kinds,
                                              bool book_prices);

}  // namespace tollhouse::tollctl
