// apply and export: the declared state.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <istream>
#include <iterator>
#include <memory>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/policy/base_url.h"
#include "tools/tollctl/current_state.h"
#include "tools/tollctl/documents.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

struct ApplyArgs {
  std::vector<std::string> sources;
  bool dry_run = false;
  bool prune = false;
  bool yes = false;
  bool renew_credentials = false;
  std::string secrets_dir;
};

// What will be done about one document, and then what was done.
struct Step {
  Document document;
  std::string result;  // "created", "changed", "unchanged", "deleted"
  std::vector<std::string> changes;
  bool set_credential = false;
  std::string secret;  // of a created key
};

absl::StatusOr<std::vector<Document>> ReadSource(Invocation& in, const std::string& source) {
  if (source == "-") {
    return ParseDocuments({std::istreambuf_iterator<char>(*in.environment.in), {}}, "-");
  }
  std::vector<std::string> files;
  std::error_code error;
  if (std::filesystem::is_directory(source, error)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(source, error)) {
      const std::string extension = entry.path().extension().string();
      if (entry.is_regular_file() && (extension == ".yaml" || extension == ".yml")) {
        files.push_back(entry.path().string());
      }
    }
    std::sort(files.begin(), files.end());
    if (files.empty()) {
      return absl::NotFoundError(absl::StrCat("'", source, "' has no .yaml files"));
    }
  } else {
    files.push_back(source);
  }
  std::vector<Document> documents;
  for (const std::string& file : files) {
    TH_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
    TH_ASSIGN_OR_RETURN(auto more, ParseDocuments(text, file));
    std::move(more.begin(), more.end(), std::back_inserter(documents));
  }
  return documents;
}

bool IsBelow(const std::string& path, const std::string& ancestor) {
  return absl::StartsWith(path, ancestor + "/");
}

std::string Org(const std::string& path) { return path.substr(0, path.find('/')); }

bool HasPath(DocumentKind kind) {
  return kind != DocumentKind::kProvider && kind != DocumentKind::kPrice &&
         kind != DocumentKind::kModel;
}

// The account that must exist before the document can be applied; "" if none.
std::string Needs(const Document& document) {
  if (!HasPath(document.kind)) return "";
  if (document.kind == DocumentKind::kBudget || document.kind == DocumentKind::kLimit ||
      document.kind == DocumentKind::kTags) {
    return document.name;
  }
  const size_t slash = document.name.rfind('/');
  return slash == std::string::npos ? "" : document.name.substr(0, slash);
}

absl::StatusOr<std::vector<Step>> Plan(const std::vector<Document>& documents,
                                       const CurrentState& state, const ApplyArgs& args) {
  std::set<std::string> accounts = state.account_paths;
  std::vector<Step> steps;
  for (const Document& document : documents) {
    const auto fail = [&](std::string_view why) {
      return absl::FailedPreconditionError(absl::StrCat(
          document.where, ": ", KindName(document.kind), " ", document.name, ": ", Absl(why)));
    };
    if (const std::string needed = Needs(document); !needed.empty() && !accounts.contains(needed)) {
      return fail(absl::StrCat("'", needed, "' does not exist and no document makes it"));
    }
    Step step{document, "created", {}, false, ""};
    const auto current = state.documents.find(Identity(document));
    if (current != state.documents.end()) {
      step.changes = Differences(current->second, document);
      step.result = step.changes.empty() ? "unchanged" : "changed";
    }
    if (const auto* provider = std::get_if<ProviderSpec>(&document.body);
        provider != nullptr && !provider->credential.empty()) {
      const auto url = policy::ParseBaseUrl(provider->provider.base_url());
      const auto stored = state.credential_origins.find(document.name);
      step.set_credential = args.renew_credentials || stored == state.credential_origins.end() ||
                            (url.ok() && stored->second != url->Origin());
      if (step.set_credential && step.result != "created") {
        step.changes.emplace_back("credential entered");
        step.result = "changed";
      }
    }
    if (document.kind == DocumentKind::kKey && step.result == "created" &&
        state.account_paths.contains(document.name)) {
      return fail("the name is taken, by a revoked key or another account; choose another one");
    }
    if (document.kind == DocumentKind::kKey && step.result == "changed") {
      for (const std::string& change : step.changes) {
        const std::string field = change.substr(0, change.find(' '));
        if (field == "tags") {
          return fail(absl::StrCat("the ", field, " of a key cannot be changed (", change,
                                   "); make another key"));
        }
      }
    }
    if (HasPath(document.kind)) accounts.insert(document.name);
    steps.push_back(std::move(step));
  }
  return steps;
}

// What is there and not declared, of the kinds that the documents have, below the orgs that they
// name; prices and orgs are never pruned, nor is what an account in the documents hangs under.
std::vector<Step> PlanPrune(const std::vector<Document>& documents, const CurrentState& state) {
  std::set<std::string> identities, names, orgs;
  std::set<DocumentKind> kinds;
  for (const Document& document : documents) {
    identities.insert(Identity(document));
    kinds.insert(document.kind);
    if (!HasPath(document.kind)) continue;
    names.insert(document.name);
    orgs.insert(Org(document.name));
  }
  std::vector<Document> gone;
  for (const auto& [identity, document] : state.documents) {
    if (identities.contains(identity) || !kinds.contains(document.kind) ||
        document.kind == DocumentKind::kPrice || document.kind == DocumentKind::kOrganization) {
      continue;
    }
    const bool account = document.kind == DocumentKind::kTeam || document.kind == DocumentKind::kUser;
    if (HasPath(document.kind) && !orgs.contains(Org(document.name))) continue;
    if (account && std::any_of(names.begin(), names.end(), [&](const std::string& name) {
          return IsBelow(name, document.name) || name == document.name;
        })) {
      continue;
    }
    gone.push_back(document);
  }
  SortForApply(&gone);
  std::reverse(gone.begin(), gone.end());  // children before parents
  std::vector<Step> steps;
  for (Document& document : gone) steps.push_back({std::move(document), "deleted", {}, false, ""});
  return steps;
}

// --- doing it ------------------------------------------------------------------------------------

template <typename Response>
absl::Status Done(Invocation& in, const absl::StatusOr<Response>& response) {
  if (!response.ok()) return response.status();
  in.TellStragglers(response->stragglers());
  return absl::OkStatus();
}

// Into DIR/acme_payments_ci.key, readable by its owner only; never over an existing file.
absl::Status WriteSecret(const std::string& dir, const std::string& path, const std::string& secret) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  const std::string file = absl::StrCat(dir, "/", absl::StrReplaceAll(path, {{"/", "_"}}), ".key");
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const std::string text = secret + "\n";
  const bool written =
      fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int reason = errno;
  if (fd >= 0 && close(fd) == 0 && written) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write '", file, "': ", std::strerror(reason),
                                          "; the key exists, get a new secret with: tollctl key "
                                          "rotate ", path));
}

struct Applier {
  Invocation& in;
  const ApplyArgs& args;
  Step& step;

  absl::Status operator()(const ledger::v1::CreateAccountRequest& account) {
    return in.api.Call(account).status();
  }
  absl::Status operator()(const KeySpec& key) {
    if (step.result == "created") {
      vault::v1::CreateKeyRequest create = key.create;
      if (!key.expires_in.empty()) {
        TH_RETURN_IF_ERROR(
            SetFuture("expires", key.expires_in, in.Now(), create.mutable_expires_at()));
      }
      TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(create));
      step.secret = response.secret();
      if (!args.secrets_dir.empty()) {
        TH_RETURN_IF_ERROR(WriteSecret(args.secrets_dir, response.key().path(), step.secret));
        crypto::Cleanse(&step.secret);
      }
      if (!key.disabled) return absl::OkStatus();
    }
    vault::v1::UpdateKeyRequest update;
    update.set_path(step.document.name);
    update.set_disabled(key.disabled);
    update.set_set_models(true);
    *update.mutable_models() = key.create.models();
    update.set_set_providers(true);
    *update.mutable_providers() = key.create.providers();
    update.set_set_endpoints(true);
    *update.mutable_endpoints() = key.create.endpoints();
    update.set_set_networks(true);
    *update.mutable_networks() = key.create.networks();
    update.set_owner(key.create.owner());
    update.set_purpose(key.create.purpose());
    if (key.create.has_expires_at()) *update.mutable_expires_at() = key.create.expires_at();
    return Done(in, in.api.Call(update));
  }
  absl::Status operator()(const ledger::v1::SetBudgetRequest& budget) {
    return Done(in, in.api.Call(budget));
  }
  absl::Status operator()(const ledger::v1::SetLimitsRequest& limit) {
    return Done(in, in.api.Call(limit));
  }
  absl::Status operator()(const ledger::v1::SetTagRulesRequest& tags) {
    return Done(in, in.api.Call(tags));
  }
  absl::Status operator()(const ProviderSpec& provider) {
    if (step.set_credential) {
      TH_ASSIGN_OR_RETURN(std::string secret, ReadSecret(provider.credential, in.environment.env));
      TH_ASSIGN_OR_RETURN(const auto url, policy::ParseBaseUrl(provider.provider.base_url()));
      vault::v1::SetCredentialRequest credential;
      credential.set_provider(step.document.name);
      credential.set_origin(url.Origin());
      credential.set_secret(secret);
      crypto::Cleanse(&secret);
      const auto stored = in.api.Call(credential);
      crypto::Cleanse(credential.mutable_secret());
      TH_RETURN_IF_ERROR(Done(in, stored));
    }
    router::v1::SetProviderRequest request;
    *request.mutable_provider() = provider.provider;
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const router::v1::ModelAlias& alias) {
    router::v1::SetAliasRequest request;
    *request.mutable_alias() = alias;
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const router::v1::ModelPrice& price) {
    router::v1::ImportPricesRequest request;
    *request.add_prices() = price;
    return Done(in, in.api.Call(request));
  }
};

struct Pruner {
  Invocation& in;
  const Step& step;

  absl::Status operator()(const ledger::v1::CreateAccountRequest& account) {
    ledger::v1::DeleteAccountRequest request;
    request.set_path(account.path());
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const KeySpec&) {
    vault::v1::RevokeKeyRequest request;
    request.set_path(step.document.name);
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const ledger::v1::SetBudgetRequest& budget) {
    ledger::v1::DeleteBudgetRequest request;
    request.set_path(budget.path());
    request.set_window(budget.window());
    *request.mutable_match() = budget.match();
    request.set_name(budget.name());
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const ledger::v1::SetLimitsRequest& limit) {
    ledger::v1::SetLimitsRequest request;
    request.set_path(limit.path());
    request.set_requests_per_minute(0);
    request.set_tokens_per_minute(0);
    request.set_concurrency(0);
    request.set_max_output_tokens(0);
    request.set_max_request_cost_nanousd(0);
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const ledger::v1::SetTagRulesRequest& tags) {
    ledger::v1::SetTagRulesRequest request;
    request.set_path(tags.path());
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const ProviderSpec&) {
    router::v1::DeleteProviderRequest request;
    request.set_name(step.document.name);
    TH_RETURN_IF_ERROR(Done(in, in.api.Call(request)));
    vault::v1::DeleteCredentialRequest credential;
    credential.set_provider(step.document.name);
    return in.api.Call(credential).status();
  }
  absl::Status operator()(const router::v1::ModelAlias& alias) {
    router::v1::SetAliasRequest request;
    *request.mutable_alias() = alias;
    request.set_remove(true);
    return Done(in, in.api.Call(request));
  }
  absl::Status operator()(const router::v1::ModelPrice&) {
    return absl::InternalError("prices are never pruned");
  }
};

// As the ledger writes the id of a budget: "acme#day*key", "acme#month[use_case=ci]".
std::string BudgetId(const Document& document) {
  const auto& budget = std::get<ledger::v1::SetBudgetRequest>(document.body);
  std::string match = absl::StrJoin(std::map<std::string, std::string>(budget.match().begin(),
                                                                       budget.match().end()),
                                    "&", absl::PairFormatter("="));
  if (!match.empty() && budget.name().empty()) match = absl::StrCat("[", match, "]");
  return absl::StrCat(budget.path(), "#", budget.name().empty() ? budget.window() + match : budget.name(),
                      budget.for_each().empty() ? "" : "*", budget.for_each());
}

// The rows of what was planned or done, and how many there are of each.
void PrintSteps(Invocation& in, const std::vector<Step>& steps, bool dry_run) {
  Value rows = Value::List();
  std::map<std::string, int> counts = {{"created", 0}, {"changed", 0}, {"unchanged", 0}, {"deleted", 0}};
  for (const Step& step : steps) {
    Value row = Value::Object({{"kind", KindName(step.document.kind)},
                               {"name", step.document.name},
                               {"result", step.result}});
    if (step.document.kind == DocumentKind::kBudget) row.Set("id", BudgetId(step.document));
    Value changes = Value::List();
    for (const std::string& change : step.changes) changes.Add(change);
    row.Set("changes", std::move(changes));
    if (!step.secret.empty()) row.Set("secret", step.secret);
    rows.Add(std::move(row));
    ++counts[step.result];
  }
  Value document = Value::Object({{"documents", rows}, {"dry_run", dry_run}});
  for (const auto& [result, count] : counts) document.Set(result, Value::Number(count));
  in.Print({document, "documents",
            {Column::Text("KIND", "kind"), Column::Cell("NAME", [](const Value& row) {
               return row.At(row.At("id").is_null() ? "name" : "id").text();
             }),
             Column::Cell("RESULT", [dry_run](const Value& row) {
               const std::string& result = row.At("result").text();
               return dry_run && result != "unchanged" ? absl::StrCat("would be ", result) : result;
             }),
             Column::Cell("CHANGES", [](const Value& row) {
               return absl::StrJoin(row.At("changes").items(), ", ",
                                    [](std::string* out, const Value& change) {
                                      *out += change.text();
                                    });
             }).IfAny(),
             Column::Text("SECRET (SHOWN ONCE)", "secret").IfAny()},
            "", "nothing to apply"});
}

absl::Status Apply(Invocation& in, const ApplyArgs& args) {
  std::vector<Document> documents;
  for (const std::string& source : args.sources) {
    TH_ASSIGN_OR_RETURN(auto more, ReadSource(in, source));
    std::move(more.begin(), more.end(), std::back_inserter(documents));
  }
  TH_RETURN_IF_ERROR(CheckUnique(documents));
  SortForApply(&documents);
  std::set<DocumentKind> kinds;
  for (const Document& document : documents) kinds.insert(document.kind);
  TH_ASSIGN_OR_RETURN(const CurrentState state, LoadCurrentState(in.api, kinds, true));
  TH_ASSIGN_OR_RETURN(std::vector<Step> steps, Plan(documents, state, args));
  std::vector<Step> pruned = args.prune ? PlanPrune(documents, state) : std::vector<Step>();
  // Aliases that vendors know came with the price book; they are not the user's to prune.
  std::erase_if(pruned, [](const Step& step) {
    const auto* alias = std::get_if<router::v1::ModelAlias>(&step.document.body);
    return alias != nullptr && alias->keep_name();
  });

  if (!args.dry_run) {
    if (!pruned.empty()) {
      const std::string names = absl::StrJoin(pruned, ", ", [](std::string* out, const Step& step) {
        absl::StrAppend(out, KindName(step.document.kind), " ", step.document.name);
      });
      TH_RETURN_IF_ERROR(in.Confirm(args.yes, Invocation::Scope::kMore,
                                    absl::StrCat("this deletes ", names)));
    }
    size_t done = 0;
    const auto failed = [&](const Step& step, const absl::Status& status) {
      // What was done stands; its secrets are shown nowhere else.
      std::vector<Step> before(steps.begin(), steps.begin() + static_cast<int64_t>(std::min(done, steps.size())));
      if (step.result == "created" && !step.secret.empty()) before.push_back(step);
      if (!before.empty()) PrintSteps(in, before, false);
      return MakeError(status.code(), ReasonOf(status),
                       absl::StrCat(step.document.where, step.document.where.empty() ? "" : ": ",
                                    KindName(step.document.kind), " ", step.document.name, ": ",
                                    status.message(), "; the ", done,
                                    " before it are applied, run apply again when it is mended"));
    };
    for (Step& step : steps) {
      if (step.result != "unchanged") {
        const absl::Status status = std::visit(Applier{in, args, step}, step.document.body);
        if (!status.ok()) return failed(step, status);
      }
      ++done;
    }
    for (Step& step : pruned) {
      const absl::Status status = std::visit(Pruner{in, step}, step.document.body);
      if (!status.ok()) return failed(step, status);
      ++done;
    }
  }
  std::move(pruned.begin(), pruned.end(), std::back_inserter(steps));
  PrintSteps(in, steps, args.dry_run);
  return absl::OkStatus();
}

struct ExportArgs {
  std::string path;
  bool book_prices = false;
};

absl::Status Export(Invocation& in, const ExportArgs& args) {
  in.subject = args.path;
  std::set<DocumentKind> kinds = {DocumentKind::kOrganization, DocumentKind::kTeam,
                                  DocumentKind::kUser,         DocumentKind::kKey,
                                  DocumentKind::kBudget,       DocumentKind::kLimit,
                                  DocumentKind::kTags};
  if (args.path.empty()) {
    kinds.insert({DocumentKind::kProvider, DocumentKind::kModel, DocumentKind::kPrice});
  } else {
    ledger::v1::GetAccountRequest request;
    request.set_path(args.path);
    TH_RETURN_IF_ERROR(in.api.Call(request).status());
  }
  TH_ASSIGN_OR_RETURN(const CurrentState state, LoadCurrentState(in.api, kinds, args.book_prices));
  std::vector<Document> documents;
  for (const auto& [identity, document] : state.documents) {
    if (args.path.empty() || document.name == args.path || IsBelow(document.name, args.path)) {
      documents.push_back(document);
    }
  }
  SortForApply(&documents);
  if (in.IsTable() || in.flags.output == "yaml") {
    *in.environment.out << ToYamlDocuments(documents);
    return absl::OkStatus();
  }
  Value rows = Value::List();
  for (const Document& document : documents) rows.Add(ToValue(document));
  in.Print({Value::Object({{"documents", rows}}), "documents", {}});
  return absl::OkStatus();
}

}  // namespace

void RegisterApply(CommandLine& commands) {
  auto args = std::make_shared<ApplyArgs>();
  commands.AddNoun("apply", "Makes things as YAML documents say")
      .AddVerb("", "Makes things as YAML documents say; what is so already stays")
      .Describe("Documents have kind, name and spec; spec fields are the options of the commands in\n"
                "snake_case, money is quoted. All are checked before anything is changed; parents come\n"
                "before children whatever the order. The secret of a created key is shown once.")
      .Required("-f,--file", "PATH", [args](std::string_view text) {
                args->sources.emplace_back(text);
                return absl::OkStatus();
              },
              "file, folder or - for stdin, repeatable")
      .Flag("--dry-run", &args->dry_run, "only say what would be done")
      .Flag("--prune", &args->prune,
            "delete what is not declared, of the declared kinds, in the declared orgs")
      .Flag("--yes", &args->yes, "do not ask before deleting")
      .Flag("--renew-credentials", &args->renew_credentials,
            "enter the credentials of providers again, also where one is stored")
      .Option("--secrets-dir", "DIR", Into(&args->secrets_dir),
              "write secrets of created keys to files there instead of showing them")
      .Example("tollctl apply -f deploy/examples/acme.yaml --dry-run")
      .Example("tollctl export | tollctl apply -f -")
      .Run([=](Invocation& in) { return Apply(in, *args); });

  auto exported = std::make_shared<ExportArgs>();
  commands.AddNoun("export", "Prints what is there as YAML documents")
      .AddVerb("", "Prints what is there as YAML documents that apply takes")
      .Describe("Without secrets. Applying the output changes nothing.")
      .OptionalPositional("PATH", Into(&exported->path), "only this account and below")
      .Flag("--book-prices", &exported->book_prices,
            "also prices and aliases that came with the price book")
      .Example("tollctl export acme > acme.yaml")
      .Run([=](Invocation& in) { return Export(in, *exported); });
}

}  // namespace tollhouse::tollctl
