#include "tools/tollctl/advice.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "tools/tollctl/parse.h"

namespace tollhouse::tollctl {
namespace {

std::string Missing(std::string_view kind, std::string_view name,
                    const std::vector<std::string>& known, std::string_view create) {
  const std::string near = Closest(name, known);
  return absl::StrCat(Absl(kind), " '", Absl(name), "' does not exist; ",
                      near.empty() ? "" : absl::StrCat("did you mean '", near, "'? "), Absl(create));
}

// The first account on the way to `path` that does not exist: what has to be made first.
std::string FirstMissing(std::string_view path, const std::vector<std::string>& known) {
  for (size_t slash = path.find('/');; slash = path.find('/', slash + 1)) {
    const std::string ancestor(path.substr(0, slash));
    if (slash == std::string_view::npos ||
        std::find(known.begin(), known.end(), ancestor) == known.end()) {
      return ancestor;
    }
  }
}

std::string AccountAdvice(const std::string& path, Api& api) {
  const auto accounts = api.Call(ledger::v1::ListAccountsRequest());
  if (!accounts.ok()) return "";
  std::vector<std::string> known;
  for (const auto& account : accounts->accounts()) known.push_back(account.path());
  const std::string missing = FirstMissing(path, known);
  const std::string kind = KindOfPath(missing);
  return absl::StrCat(missing == path ? "" : absl::StrCat("'", path, "': "),
                      Missing(kind, missing, known,
                              absl::StrCat("create it with: tollctl ", kind, " create ", missing)));
}

std::string KeyAdvice(const std::string& path, Api& api) {
  const auto keys = api.Call(vault::v1::ListKeysRequest());
  if (!keys.ok()) return "";
  std::vector<std::string> known;
  for (const auto& key : keys->keys()) known.push_back(key.path());
  return Missing("key", path, known, "see: tollctl key list");
}

std::string ProviderAdvice(const std::string& name, Api& api) {
  const auto providers = api.Call(router::v1::ListProvidersRequest());
  if (!providers.ok()) return "";
  std::vector<std::string> known;
  for (const auto& provider : providers->providers()) known.push_back(provider.name());
  return Missing("provider", name, known,
                 absl::StrCat("add it with: tollctl provider set ", name,
                              " --dialect openai --base-url URL --credential-env VARIABLE"));
}

std::string ModelAdvice(const std::string& name, Api& api) {
  const auto models = api.Call(router::v1::ListModelsRequest());
  if (!models.ok()) return "";
  std::vector<std::string> known;
  for (const auto& model : models->models()) {
    known.push_back(model.price().model());
    known.push_back(absl::StrCat(model.provider(), "/", model.price().model()));
  }
  return Missing("model", name, known, "see: tollctl model list");
}

std::string BudgetAdvice(const std::string& path, Api& api) {
  ledger::v1::ListBudgetsRequest request;
  request.set_path(path.substr(0, path.find('#')));
  request.set_below(true);
  const auto budgets = api.Call(request);
  if (!budgets.ok()) return "";
  std::vector<std::string> known;
  for (const auto& budget : budgets->budgets()) known.push_back(budget.id());
  if (path.find('#') != std::string::npos) return Missing("budget", path, known, "see: tollctl budget list");
  return absl::StrCat("no such budget at '", path, "'; set one with: tollctl budget set ", path,
                      " --limit USD",
                      known.empty() ? "" : absl::StrCat(" (there is ", known.front(), ")"));
}

}  // namespace

const char* KindOfPath(std::string_view path) {
  switch (std::count(path.begin(), path.end(), '/')) {
    case 0: return "org";
    case 1: return "team";
    default: return "user";
  }
}

absl::Status WithAdvice(absl::Status status, std::string_view subject, Api& api) {
  const std::string reason = ReasonOf(status);
  const std::string name(subject);
  if (name.empty()) return status;
  std::string advice;
  if (reason == "ACCOUNT_NOT_FOUND") {
    advice = AccountAdvice(name, api);
  } else if (reason == "KEY_NOT_FOUND") {
    advice = KeyAdvice(name, api);
  } else if (reason == "PROVIDER_NOT_FOUND") {
    advice = ProviderAdvice(name, api);
  } else if (reason == "MODEL_NOT_FOUND") {
    advice = ModelAdvice(name, api);
  } else if (reason == "BUDGET_NOT_FOUND") {
    advice = BudgetAdvice(name, api);
  } else if (reason == "ACCOUNT_EXISTS") {
    advice = absl::StrCat(status.message(),
                          "; names are unique among siblings of every kind");
  }
  return advice.empty() ? status : MakeError(status.code(), reason, advice);
}

}  // namespace tollhouse::tollctl
