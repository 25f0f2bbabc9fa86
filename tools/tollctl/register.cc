// register: a key, its budget and its owner in one step.
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

struct RegisterArgs {
  std::string owner, team, use_case, name, window = "month";
  std::optional<std::string> expires;
  int64_t limit_nanousd = 0;
  vault::v1::CreateKeyRequest key;  // models and providers
  bool dry_run = false;
};

// A key that is registered already: nothing if there is none.
absl::StatusOr<std::optional<vault::v1::Key>> Find(Invocation& in, const std::string& path) {
  vault::v1::ListKeysRequest request;
  request.set_path(path);
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  for (const auto& key : response.keys()) {
    if (key.path() == path && key.state() != "revoked") return std::optional(key);
  }
  return std::optional<vault::v1::Key>();
}

// Of the same owner and use case, or an error that says what it is.
absl::Status CheckSame(const vault::v1::Key& key, const RegisterArgs& args) {
  const auto use_case = key.tags().find("use_case");
  const std::string known = use_case == key.tags().end() ? "" : use_case->second;
  if (key.owner() == args.owner && known == args.use_case) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kAlreadyExists, "KEY_EXISTS",
      absl::StrCat("there is a key ", key.path(), " of ", key.owner().empty() ? "nobody" : key.owner(),
                   " for ", known.empty() ? "no use case" : absl::StrCat("the use case ", known),
                   "; give this one another --name"));
}

absl::Status Register(Invocation& in, RegisterArgs& args) {
  const std::string name = args.name.empty() ? args.use_case : args.name;
  const std::string path = absl::StrCat(args.team, "/", name);
  in.subject = args.team;
  ledger::v1::GetAccountRequest team;
  team.set_path(args.team);
  TH_RETURN_IF_ERROR(in.api.Call(team).status());
  TH_ASSIGN_OR_RETURN(std::optional<vault::v1::Key> key, Find(in, path));
  if (key.has_value()) TH_RETURN_IF_ERROR(CheckSame(*key, args));

  ledger::v1::SetBudgetRequest budget;
  budget.set_path(path);
  budget.set_limit_nanousd(args.limit_nanousd);
  budget.set_window(args.window);
  vault::v1::CreateKeyRequest create = args.key;
  create.set_parent_path(args.team);
  create.set_name(name);
  create.set_owner(args.owner);
  create.set_purpose(args.use_case);
  (*create.mutable_tags())["use_case"] = args.use_case;
  if (args.expires) {
    TH_RETURN_IF_ERROR(SetFuture("--expires", *args.expires, in.Now(), create.mutable_expires_at()));
  }

  Value document = Value::Object({{"dry_run", args.dry_run}, {"created", !key.has_value()}});
  std::string secret;
  if (args.dry_run) {
    in.Tell(absl::StrCat(key.has_value() ? "would keep the key " : "would create the key ", path, ", owned by ",
                         args.owner, ", and set its budget to ", FormatUsd(NanoUsd(args.limit_nanousd)),
                         " USD a ", args.window));
    vault::v1::Key planned;
    if (key.has_value()) planned = *key;
    planned.set_path(path);
    planned.set_owner(args.owner);
    planned.set_purpose(args.use_case);
    *planned.mutable_tags() = create.tags();
    document.Set("key", FromProto(planned));
  } else {
    if (!key.has_value()) {
      // Until its budget is set the key is held by those above it; it is not shown before.
      TH_ASSIGN_OR_RETURN(auto created, in.api.Call(create));
      key = created.key();
      secret = std::move(*created.mutable_secret());
    }
    in.subject = path;
    const auto set = in.api.Call(budget);
    document.Set("key", FromProto(*key));
    if (set.ok()) {
      in.TellStragglers(set->stragglers());
      document.Set("budget", FromProto(set->budget()));
    } else {
      in.Tell(absl::StrCat("the key exists, but its budget could not be set; run the same again. ",
                           "Its secret is shown now only."));
      in.exit_code = 1;
      document.Set("error", std::string(set.status().message().data(), set.status().message().size()));
    }
  }
  if (!secret.empty()) document.Set("secret", secret);
  in.Print({document, "",
            {Column::Text("Key", "key.path"), Column::Text("Owner", "key.owner"),
             Column::Text("Use case", "key.tags.use_case"), Column::Text("Budget", "budget.id").IfAny(),
             Column::Money("Limit", "budget.limit_nanousd").IfAny(), Column::Text("Error", "error").IfAny()},
            "", "", true});
  if (in.flags.output == "json" || in.flags.output == "yaml" || args.dry_run) return absl::OkStatus();
  if (secret.empty()) {
    in.Tell(absl::StrCat("the key was registered before; a new secret: tollctl key rotate ", path));
    return absl::OkStatus();
  }
  *in.environment.out << "Secret: " << secret << "\n";
  in.Tell("Store the secret now: it is not shown again.");
  return absl::OkStatus();
}

}  // namespace

void RegisterRegister(CommandLine& commands) {
  auto args = std::make_shared<RegisterArgs>();
  commands.AddNoun("register", "Gives somebody a key with a budget, in one step")
      .AddVerb("", "Makes a key for a use case of a team, with an owner and a budget of its own")
      .Describe("The key is TEAM/NAME; its requests carry the pinned tag use_case, which they cannot change.\n"
                "Repeating it changes the limit only; the secret is shown once, when the key is made.")
      .Required("--owner", "EMAIL", Into(&args->owner), "who answers for it")
      .Required("--team", "PATH", Into(&args->team), "account that pays: acme/payments")
      .Required("--use-case", "NAME", Into(&args->use_case), "what it is for; a tag of all its requests")
      .Required("--limit", "USD", IntoAmount([=](int64_t n) { args->limit_nanousd = n; }),
                "what it may spend in a window")
      .Option("--window", "WINDOW", Into(&args->window),
              "day, week, month, quarter, year, Nd or total; default month")
      .Option("--name", "NAME", Into(&args->name), "last part of the key's path; default the use case")
      .Option("--expires", "WHEN", Into(&args->expires), "90d, a date or an RFC 3339 time")
      .Option("--models", "A,B", Into(args->key.mutable_models()), "models it may use; default all")
      .Option("--providers", "A,B", Into(args->key.mutable_providers()), "providers it may use; default all")
      .Flag("--dry-run", &args->dry_run, "only say what would be done")
      .Example("tollctl register --owner sarah@acme.example --team acme/payments --use-case code-review "
               "--limit 200")
      .Run([=](Invocation& in) { return Register(in, *args); });
}

}  // namespace tollhouse::tollctl
