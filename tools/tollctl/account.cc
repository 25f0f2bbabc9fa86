// org, team, user: accounts by path.
#include <algorithm>
#include <memory>
#include <ostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

using common::v1::AccountKind;

struct KindInfo {
  AccountKind kind;
  const char* name;     // "team"
  const char* summary;
  const char* example;  // "acme/payments"
  int depth;            // parts of its path
};
constexpr KindInfo kKinds[] = {
    {common::v1::ACCOUNT_KIND_ORG, "org", "Organizations, the top of every path", "acme", 1},
    {common::v1::ACCOUNT_KIND_TEAM, "team", "Teams of an organization", "acme/payments", 2},
    {common::v1::ACCOUNT_KIND_USER, "user", "Users of a team", "acme/payments/sarah", 3},
};

absl::Status CheckDepth(const KindInfo& kind, const std::string& path) {
  if (std::count(path.begin(), path.end(), '/') + 1 == kind.depth) return absl::OkStatus();
  return UsageError(absl::StrCat("'", path, "' is not the path of ", kind.depth == 1 ? "an " : "a ",
                                 kind.name, ", which has ", kind.depth,
                                 kind.depth == 1 ? " part" : " parts", ", like ", kind.example));
}

std::vector<Column> AccountColumns(absl::Time now) {
  return {Column::Text("PATH", "path"), Column::Text("OWNER", "owner"),
          Column::Text("COST CENTER", "cost_center").IfAny(), Column::Text("TAGS", "tags").IfAny(),
          Column::Cell("REQUIRES BUDGET", [](const Value& row) -> std::string {
            return row.At("require_budget").number() != 0 ? "yes" : "";
          }).IfAny(),
          Column::Time("CREATED", "created_at", now)};
}

void PrintAccount(Invocation& in, const ledger::v1::Account& account) {
  in.Print({Value::Object({{"account", FromProto(account)}}), "account", AccountColumns(in.Now()), "",
            "", true});
}

absl::Status Create(Invocation& in, const KindInfo& kind, ledger::v1::CreateAccountRequest request) {
  TH_RETURN_IF_ERROR(CheckDepth(kind, request.path()));
  in.subject = request.path();
  request.set_kind(kind.kind);
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  if (in.IsTable()) {
    *in.environment.out << kind.name << " " << response.account().path()
                        << (response.created() ? " created\n" : " updated\n");
  } else {
    PrintAccount(in, response.account());
  }
  return absl::OkStatus();
}

absl::StatusOr<ledger::v1::Account> Get(Invocation& in, const KindInfo& kind,
                                        const std::string& path) {
  TH_RETURN_IF_ERROR(CheckDepth(kind, path));
  in.subject = path;
  ledger::v1::GetAccountRequest request;
  request.set_path(path);
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  if (response.account().kind() != kind.kind) {
    return MakeError(absl::StatusCode::kNotFound, "WRONG_KIND",
                     absl::StrCat("'", path, "' is not a ", kind.name, " but a key; see: tollctl key show ",
                                  path));
  }
  return response.account();
}

// What `set` changes; everything else stays.
struct Changes {
  std::string path;
  std::optional<std::string> owner;
  std::optional<std::string> cost_center;
  google::protobuf::Map<std::string, std::string> tags;
  google::protobuf::RepeatedPtrField<std::string> untag;
  std::optional<std::string> require_budget;
};

absl::Status Set(Invocation& in, const KindInfo& kind, const Changes& changes) {
  TH_ASSIGN_OR_RETURN(const auto account, Get(in, kind, changes.path));
  ledger::v1::CreateAccountRequest request;
  request.set_if_absent(true);
  request.set_kind(kind.kind);
  request.set_path(account.path());
  request.set_owner(changes.owner.value_or(account.owner()));
  request.set_cost_center(changes.cost_center.value_or(account.cost_center()));
  *request.mutable_tags() = account.tags();
  for (const auto& [key, value] : changes.tags) (*request.mutable_tags())[key] = value;
  for (const std::string& key : changes.untag) request.mutable_tags()->erase(key);
  request.set_require_budget(changes.require_budget.has_value() ? *changes.require_budget == "yes"
                                                                : account.require_budget());
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  PrintAccount(in, response.account());
  return absl::OkStatus();
}

absl::Status List(Invocation& in, const KindInfo& kind, const std::string& below) {
  in.subject = below;
  ledger::v1::ListAccountsRequest request;
  request.set_kind(kind.kind);
  request.set_below(below);
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  Report report{Value::Object({{"accounts", ListFromProto(response.accounts())}}), "accounts",
                AccountColumns(in.Now())};
  report.empty = absl::StrCat("no ", kind.name, below.empty() ? "" : " below ", below,
                              " yet; create one with: tollctl ", kind.name, " create ", kind.example);
  in.Print(report);
  return absl::OkStatus();
}

absl::Status Move(Invocation& in, const KindInfo& kind, const ledger::v1::MoveAccountRequest& request) {
  TH_RETURN_IF_ERROR(CheckDepth(kind, request.path()));
  TH_RETURN_IF_ERROR(CheckDepth(kind, request.new_path()));
  in.subject = request.path();
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  if (in.IsTable()) {
    *in.environment.out << kind.name << " " << request.path() << " is now "
                        << response.account().path() << "\n";
  } else {
    PrintAccount(in, response.account());
  }
  return absl::OkStatus();
}

absl::Status Delete(Invocation& in, const KindInfo& kind, const std::string& path, bool dry_run,
                    bool yes) {
  TH_RETURN_IF_ERROR(CheckDepth(kind, path));
  in.subject = path;
  ledger::v1::DeleteAccountRequest request;
  request.set_path(path);
  request.set_dry_run(true);
  TH_ASSIGN_OR_RETURN(auto response, in.api.Call(request));
  if (!dry_run) {
    std::vector<std::string> below(response.deleted_paths().begin(), response.deleted_paths().end());
    std::erase(below, path);
    const size_t count = below.size() + 1;
    TH_RETURN_IF_ERROR(in.Confirm(
        yes, count > 1 ? Invocation::Scope::kMore : Invocation::Scope::kNamed,
        absl::StrCat("this deletes ", path,
                          count > 1 ? absl::StrCat(" and ", count - 1, " below it (",
                                                   absl::StrJoin(below, ", "), ")")
                                    : "",
                          "; its keys stop, its history stays")));
    request.set_dry_run(false);
    TH_ASSIGN_OR_RETURN(response, in.api.Call(request));
    in.TellStragglers(response.stragglers());
  }
  Value rows = Value::List();
  for (const std::string& deleted : response.deleted_paths()) {
    rows.Add(Value::Object({{"path", deleted}, {"result", dry_run ? "would be deleted" : "deleted"}}));
  }
  in.Print({Value::Object({{"deleted", rows}, {"dry_run", dry_run}}), "deleted",
            {Column::Text("PATH", "path"), Column::Text("RESULT", "result")},
            "", absl::StrCat(path, " was deleted before")});
  return absl::OkStatus();
}

void Register(CommandLine& commands, const KindInfo& kind) {
  Noun& noun = commands.AddNoun(kind.name, kind.summary).Alias(absl::StrCat(kind.name, "s"));
  const std::string command = absl::StrCat("tollctl ", kind.name, " ");

  auto create = std::make_shared<ledger::v1::CreateAccountRequest>();
  auto if_absent = std::make_shared<bool>(false);
  auto require_budget = std::make_shared<bool>(false);
  Verb& create_verb = noun.AddVerb("create", absl::StrCat("Creates ", kind.depth == 1 ? "an " : "a ",
                                                          kind.name));
  create_verb.Positional("PATH", Into(create->mutable_path()), absl::StrCat("like ", kind.example))
      .Option("--owner", "EMAIL", Into(create->mutable_owner()), "who answers for it")
      .Option("--cost-center", "CODE", Into(create->mutable_cost_center()), "for chargeback")
      .Option("--tag", "K=V", Into(create->mutable_tags()),
              "pinned on every request below, repeatable")
      .Flag("--if-absent", if_absent.get(), "if it exists, update it instead of failing")
      .Example(absl::StrCat(command, "create ", kind.example,
                            " --owner lead@acme.example --cost-center 4711 --tag env=prod"))
      .Run([=, &kind](Invocation& in) {
        create->set_if_absent(*if_absent);
        create->set_require_budget(*require_budget);
        return Create(in, kind, *create);
      });
  if (kind.depth == 1) {
    create_verb.Flag("--require-budget", require_budget.get(),
                     "refuse requests that no enforced budget covers");
  }

  auto below = std::make_shared<std::string>();
  Verb& list = noun.AddVerb("list", absl::StrCat("Lists ", kind.name, "s"));
  list.OptionalPositional("BELOW", Into(below.get()), "only below this path")
      .Example(absl::StrCat(command, "list", kind.depth > 1 ? " acme" : ""))
      .Run([=, &kind](Invocation& in) { return List(in, kind, *below); });

  auto shown = std::make_shared<std::string>();
  noun.AddVerb("show", absl::StrCat("Shows one ", kind.name))
      .Positional("PATH", Into(shown.get()), absl::StrCat("like ", kind.example))
      .Example(absl::StrCat(command, "show ", kind.example, " --output json"))
      .Run([=, &kind](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto account, Get(in, kind, *shown));
        PrintAccount(in, account);
        return absl::OkStatus();
      });

  auto changes = std::make_shared<Changes>();
  Verb& set = noun.AddVerb("set", "Changes owner, cost center or tags; what is not named stays");
  set.Positional("PATH", Into(&changes->path), absl::StrCat("like ", kind.example))
      .Option("--owner", "EMAIL", Into(&changes->owner), "who answers for it")
      .Option("--cost-center", "CODE", Into(&changes->cost_center), "for chargeback")
      .Option("--tag", "K=V", Into(&changes->tags), "add or replace a tag, repeatable")
      .Option("--untag", "K", Into(&changes->untag), "remove a tag, repeatable")
      .Example(absl::StrCat(command, "set ", kind.example, " --owner new@acme.example"))
      .Run([=, &kind](Invocation& in) { return Set(in, kind, *changes); });
  if (kind.depth == 1) {
    set.Option("--require-budget", "yes|no",
               [changes](std::string_view text) -> absl::Status {
                 changes->require_budget.emplace();
                 return IntoChoice({"yes", "no"}, &*changes->require_budget)(text);
               },
               "refuse requests that no enforced budget covers");
  }

  auto move = std::make_shared<ledger::v1::MoveAccountRequest>();
  noun.AddVerb("move", "Renames or moves it with all below; what was spent stays where it was")
      .Positional("PATH", Into(move->mutable_path()), absl::StrCat("like ", kind.example))
      .Positional("NEW_PATH", Into(move->mutable_new_path()),
                  kind.depth > 1 ? "in the same organization" : "its new name")
      .Example(absl::StrCat(command, "move ", kind.example, " ", kind.example, "-eu"))
      .Run([=, &kind](Invocation& in) { return Move(in, kind, *move); });

  auto deleted = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("delete", "Deletes it with all below; history stays")
      .Positional("PATH", Into(deleted.get()), absl::StrCat("like ", kind.example))
      .Flag("--dry-run", dry_run.get(), "only say what would be deleted")
      .Flag("--yes", yes.get(), "do not ask")
      .Example(absl::StrCat(command, "delete ", kind.example, " --dry-run"))
      .Run([=, &kind](Invocation& in) { return Delete(in, kind, *deleted, *dry_run, *yes); });
}

}  // namespace

void RegisterAccounts(CommandLine& commands) {
  for (const KindInfo& kind : kKinds) Register(commands, kind);
}

}  // namespace tollhouse::tollctl
