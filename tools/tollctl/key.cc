// key: virtual keys.
#include <memory>
#include <ostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

std::vector<Column> KeyColumns(absl::Time now) {
  return {Column::Text("PATH", "path"),
          Column::Text("ID", "id"),
          Column::Text("STATE", "state"),
          Column::Text("MODELS", "models").IfAny(),
          Column::Text("PROVIDERS", "providers").IfAny(),
          Column::Text("ENDPOINTS", "endpoints").IfAny(),
          Column::Text("NETWORKS", "networks").IfAny(),
          Column::Text("TAGS", "tags").IfAny(),
          Column::Text("OWNER", "owner").IfAny(),
          Column::Text("PURPOSE", "purpose").IfAny(),
          Column::Time("CREATED", "created_at", now),
          Column::Time("EXPIRES", "expires_at", now).IfAny(),
          Column::Time("LAST USED", "last_used_at", now).IfAny(),
          Column::Cell("SECRETS", [](const Value& row) -> std::string {
            const double secrets = row.At("secrets").number();
            return secrets > 1 ? absl::StrCat(secrets, " (rotating)") : "";
          }).IfAny()};
}

// One key as {"key": {...}}, with its secret if there is one.
void PrintKey(Invocation& in, const vault::v1::Key& key, const std::string& secret = "") {
  Value document = Value::Object({{"key", FromProto(key)}});
  if (!secret.empty()) document.Set("secret", secret);
  in.Print({document, "key", KeyColumns(in.Now()), "", "", true});
  if (secret.empty() || in.flags.output == "json" || in.flags.output == "yaml") return;
  *in.environment.out << "Secret: " << secret << "\n";
  in.Tell("Store the secret now: it is not shown again.");
}

absl::StatusOr<vault::v1::ListKeysResponse> ListBelow(Invocation& in, const std::string& path) {
  in.subject = path;
  vault::v1::ListKeysRequest request;
  request.set_path(path);
  return in.api.Call(request);
}

absl::StatusOr<vault::v1::Key> Get(Invocation& in, const std::string& path) {
  TH_ASSIGN_OR_RETURN(const auto response, ListBelow(in, path));
  for (const auto& key : response.keys()) {
    if (key.path() == path) return key;
  }
  return MakeError(absl::StatusCode::kNotFound, "KEY_NOT_FOUND",
                   absl::StrCat("key '", path, "' does not exist; see: tollctl key list"));
}

absl::Status List(Invocation& in, const std::string& path, bool active) {
  TH_ASSIGN_OR_RETURN(const auto response, ListBelow(in, path));
  Value keys = Value::List();
  for (const auto& key : response.keys()) {
    if (!active || key.state() == "active") keys.Add(FromProto(key));
  }
  in.Print({Value::Object({{"keys", keys}}), "keys", KeyColumns(in.Now()), "",
            "no keys here; create one with: tollctl key create PATH --name NAME"});
  return absl::OkStatus();
}

absl::Status Rotate(Invocation& in, const vault::v1::RotateKeyRequest& request) {
  in.subject = request.path();
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  PrintKey(in, response.key(), response.secret());
  return absl::OkStatus();
}

absl::Status Revoke(Invocation& in, const std::string& path, bool dry_run, bool yes) {
  TH_ASSIGN_OR_RETURN(const auto key, Get(in, path));
  if (dry_run) {
    in.Tell(absl::StrCat("would revoke ", key.path(), " (", key.id(), ", ", key.state(), ")"));
    PrintKey(in, key);
    return absl::OkStatus();
  }
  TH_RETURN_IF_ERROR(in.Confirm(
      yes, Invocation::Scope::kNamed,
      absl::StrCat("this ends key ", key.path(), " for ever, requests with it are refused")));
  vault::v1::RevokeKeyRequest request;
  request.set_path(path);
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  PrintKey(in, response.key());
  return absl::OkStatus();
}

absl::Status Update(Invocation& in, const vault::v1::UpdateKeyRequest& request) {
  in.subject = request.path();
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  PrintKey(in, response.key());
  return absl::OkStatus();
}

void AddCreate(Noun& noun) {
  auto create = std::make_shared<vault::v1::CreateKeyRequest>();
  auto expires = std::make_shared<std::optional<std::string>>();
  noun.AddVerb("create", "Creates a key and prints its secret, once")
      .Positional("PARENT", Into(create->mutable_parent_path()), "account that the key hangs under")
      .Required("--name", "NAME", Into(create->mutable_name()), "last part of the key's path")
      .Option("--expires", "WHEN", Into(expires.get()), "90d, a date or an RFC 3339 time")
      .Option("--models", "A,B", Into(create->mutable_models()),
              "models it may use, 'prefix*' permitted; default all")
      .Option("--providers", "A,B", Into(create->mutable_providers()),
              "providers it may use; default all")
      .Option("--endpoints", "A,B", Into(create->mutable_endpoints()),
              "endpoints it may use, like chat_completions,embeddings; default all")
      .Option("--networks", "A,B", Into(create->mutable_networks()),
              "addresses it may be used from, like 10.0.0.0/8,2001:db8::/32; default all")
      .Option("--tag", "K=V", Into(create->mutable_tags()), "pinned on its requests, repeatable")
      .Option("--owner", "EMAIL", Into(create->mutable_owner()), "who answers for it")
      .Option("--purpose", "TEXT", Into(create->mutable_purpose()), "what it is for")
      .Example("tollctl key create acme/payments/sarah --name laptop --expires 90d")
      .Example("tollctl key create acme/payments --name ci --models 'gpt-4o*' --output json")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = create->parent_path();
        if (expires->has_value()) {
          TH_RETURN_IF_ERROR(SetFuture("--expires", **expires, in.Now(),
                                       create->mutable_expires_at()));
        }
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*create));
        PrintKey(in, response.key(), response.secret());
        return absl::OkStatus();
      });
}

void AddSet(Noun& noun) {
  auto update = std::make_shared<vault::v1::UpdateKeyRequest>();
  auto expires = std::make_shared<std::optional<std::string>>();
  auto any_model = std::make_shared<bool>(false);
  auto any_provider = std::make_shared<bool>(false);
  auto any_endpoint = std::make_shared<bool>(false);
  auto any_network = std::make_shared<bool>(false);
  auto owner = std::make_shared<std::optional<std::string>>();
  auto purpose = std::make_shared<std::optional<std::string>>();
  noun.AddVerb("set", "Changes what a key may use, from where, whose it is, or when it expires")
      .Positional("PATH", Into(update->mutable_path()), "path of the key")
      .Option("--models", "A,B", Into(update->mutable_models()), "models it may use")
      .Flag("--any-model", any_model.get(), "it may use all models")
      .Option("--providers", "A,B", Into(update->mutable_providers()), "providers it may use")
      .Flag("--any-provider", any_provider.get(), "it may use all providers")
      .Option("--endpoints", "A,B", Into(update->mutable_endpoints()), "endpoints it may use")
      .Flag("--any-endpoint", any_endpoint.get(), "it may use all endpoints")
      .Option("--networks", "A,B", Into(update->mutable_networks()), "addresses it may be used from")
      .Flag("--any-network", any_network.get(), "it may be used from everywhere")
      .Option("--owner", "EMAIL", Into(owner.get()), "who answers for it")
      .Option("--purpose", "TEXT", Into(purpose.get()), "what it is for")
      .Option("--expires", "WHEN", Into(expires.get()), "90d, a date or an RFC 3339 time")
      .Example("tollctl key set acme/payments/sarah/laptop --models 'gpt-4o*' --expires 30d")
      .Run([=](Invocation& in) -> absl::Status {
        if ((*any_model && update->models_size() > 0) ||
            (*any_provider && update->providers_size() > 0) ||
            (*any_endpoint && update->endpoints_size() > 0) ||
            (*any_network && update->networks_size() > 0)) {
          return UsageError("--any-model excludes --models, and so do the others theirs");
        }
        update->set_set_models(*any_model || update->models_size() > 0);
        update->set_set_providers(*any_provider || update->providers_size() > 0);
        update->set_set_endpoints(*any_endpoint || update->endpoints_size() > 0);
        update->set_set_networks(*any_network || update->networks_size() > 0);
        if (owner->has_value()) update->set_owner(**owner);
        if (purpose->has_value()) update->set_purpose(**purpose);
        if (!update->set_models() && !update->set_providers() && !update->set_endpoints() &&
            !update->set_networks() && !update->has_owner() && !update->has_purpose() &&
            !expires->has_value()) {
          return UsageError("nothing to change: give --models, --providers, --endpoints, --networks, "
                            "--owner, --purpose or --expires");
        }
        if (expires->has_value()) {
          TH_RETURN_IF_ERROR(SetFuture("--expires", **expires, in.Now(),
                                       update->mutable_expires_at()));
        }
        return Update(in, *update);
      });
}

}  // namespace

void RegisterKey(CommandLine& commands) {
  Noun& noun = commands.AddNoun("key", "Virtual keys that applications call with").Alias("keys");
  AddCreate(noun);

  auto listed = std::make_shared<std::string>();
  auto active = std::make_shared<bool>(false);
  noun.AddVerb("list", "Lists keys below a path")
      .OptionalPositional("PATH", Into(listed.get()), "only below this account")
      .Flag("--active", active.get(), "only those that work now")
      .Example("tollctl key list acme/payments")
      .Run([=](Invocation& in) { return List(in, *listed, *active); });

  auto shown = std::make_shared<std::string>();
  noun.AddVerb("show", "Shows one key, without its secret")
      .Positional("PATH", Into(shown.get()), "path of the key")
      .Example("tollctl key show acme/payments/sarah/laptop")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto key, Get(in, *shown));
        PrintKey(in, key);
        return absl::OkStatus();
      });
  AddSet(noun);

  auto rotate = std::make_shared<vault::v1::RotateKeyRequest>();
  auto overlap = std::make_shared<absl::Duration>();
  noun.AddVerb("rotate", "Makes a new secret and prints it, once")
      .Positional("PATH", Into(rotate->mutable_path()), "path of the key")
      .Option("--overlap", "SPAN", IntoSpan(overlap.get()),
              "how long the old secret stays valid, like 24h; default 0")
      .Example("tollctl key rotate acme/payments/sarah/laptop --overlap 24h")
      .Run([=](Invocation& in) {
        rotate->set_overlap_seconds(absl::ToInt64Seconds(*overlap));
        return Rotate(in, *rotate);
      });

  auto revoked = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("revoke", "Ends a key for ever; in force when this returns")
      .Positional("PATH", Into(revoked.get()), "path of the key")
      .Flag("--dry-run", dry_run.get(), "only say what would be revoked")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl key revoke acme/payments/sarah/laptop --yes")
      .Run([=](Invocation& in) { return Revoke(in, *revoked, *dry_run, *yes); });

  for (const bool disabled : {true, false}) {
    auto update = std::make_shared<vault::v1::UpdateKeyRequest>();
    const std::string verb = disabled ? "disable" : "enable";
    noun.AddVerb(verb, disabled ? "Refuses requests with the key until it is enabled again"
                                : "Accepts requests with a disabled key again")
        .Positional("PATH", Into(update->mutable_path()), "path of the key")
        .Example(absl::StrCat("tollctl key ", verb, " acme/payments/sarah/laptop"))
        .Run([=](Invocation& in) {
          update->set_disabled(disabled);
          return Update(in, *update);
        });
  }
}

}  // namespace tollhouse::tollctl
