// Declarative documents: what `apply` reads and `export` writes (kind, name, spec).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "tollhouse/ledger/v1/ledger_admin.pb.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tollhouse/vault/v1/vault_admin.pb.h"
#include "tools/tollctl/credential.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

enum class DocumentKind {
  kProvider,
  kPrice,
  kModel,  // an alias
  kOrganization,
  kTeam,
  kUser,
  kKey,
  kBudget,
  kLimit,
  kTags,  // rules
};
const char* KindName(DocumentKind kind);

struct KeySpec {
  vault::v1::CreateKeyRequest create;  // parent and name from the document's name
  std::string expires_in;              // "90d": reckoned when the key is made; "" if absolute or none
  bool disabled = false;
};

struct ProviderSpec {
  router::v1::Provider provider;
  SecretSource credential;  // not part of the state that is compared
};

struct Document {
  DocumentKind kind = DocumentKind::kOrganization;
  std::string name;
  std::string where;  // "acme.yaml:12"; "" if it did not come from a file
  std::variant<ledger::v1::CreateAccountRequest, KeySpec, ledger::v1::SetBudgetRequest,
               ledger::v1::SetLimitsRequest, ledger::v1::SetTagRulesRequest, ProviderSpec, router::v1::ModelAlias,
               router::v1::ModelPrice>
      body;
};

// What makes a document the same thing as another: kind and name, for budgets also name or window,
// match and for_each, for prices vendor and date, for models the vendor.
std::string Identity(const Document& document);

// The documents of one YAML text, in its order. InvalidArgument with `file`:line for an unknown kind
// or key, a missing or malformed value, a key that stands twice, and money that YAML would read as a
// floating-point number. `file` also anchors relative credential files.
absl::StatusOr<std::vector<Document>> ParseDocuments(const std::string& text,
                                                     const std::string& file);

// InvalidArgument if two documents are about the same thing.
absl::Status CheckUnique(const std::vector<Document>& documents);

// Sorts so that each can be applied after those before it: parents first, budgets and limits before
// the keys that they hold.
void SortForApply(std::vector<Document>* documents);

// The documents that describe what a service answered.
Document FromAccount(const ledger::v1::Account& account);
Document FromKey(const vault::v1::Key& key);
Document FromBudget(const ledger::v1::Budget& budget);
Document FromLimits(const ledger::v1::AccountLimits& limits);
Document FromTagRules(const ledger::v1::AccountTagRules& rules);
Document FromProvider(const router::v1::Provider& provider);
Document FromAlias(const router::v1::ModelAlias& alias);
Document FromPrice(const router::v1::ModelPrice& price);

// The spec in its canonical form, fields at their defaults left out. ParseDocuments reads it back.
Value SpecOf(const Document& document);
// {"kind", "name", "spec"}
Value ToValue(const Document& document);
// All of them as YAML documents.
std::string ToYamlDocuments(const std::vector<Document>& documents);

// "limit 800.00 -> 900.00" for each field of the specs that differs. What `wanted` leaves to the
// system (the anchor of an Nd window, when a key expires) is no difference.
std::vector<std::string> Differences(const Document& current, const Document& wanted);

}  // namespace tollhouse::tollctl
