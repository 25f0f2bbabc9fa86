// credential and kek: what the vault keeps of providers, and what that is sealed under.
#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/policy/base_url.h"
#include "tools/tollctl/credential.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

std::vector<Column> CredentialColumns(absl::Time now) {
  return {Column::Text("PROVIDER", "provider"),
          Column::Text("NAME", "name"),
          Column::Count("VERSION", "version"),
          Column::Count("WEIGHT", "weight"),
          Column::Text("ORIGIN", "origin"),
          Column::Time("CREATED", "created_at", now),
          Column::Time("ENDS", "expires_at", now).IfAny(),
          Column::Text("KEK", "key_encryption_key")};
}

std::vector<Column> KekColumns() {
  const auto flag = [](std::string_view field, std::string_view yes, std::string_view no) {
    return [=](const Value& row) {
      return std::string(row.At(std::string(field)).number() != 0 ? yes : no);
    };
  };
  return {Column::Text("ID", "id"),
          Column::Cell("HERE", flag("available", "yes", "no")),
          Column::Cell("WRAPS", flag("newest", "yes", "")),
          Column::Count("SECRETS", "secrets")};
}

struct SetArgs {
  vault::v1::SetCredentialRequest request;
  SecretSource secret;
  absl::Duration overlap;
};

absl::Status Set(Invocation& in, SetArgs& args) {
  in.subject = args.request.provider();
  if (args.secret.empty() || (!args.secret.file.empty() && !args.secret.variable.empty())) {
    return UsageError("give --credential-file or --credential-env");
  }
  TH_ASSIGN_OR_RETURN(const auto providers, in.api.Call(router::v1::ListProvidersRequest()));
  const auto provider = std::find_if(
      providers.providers().begin(), providers.providers().end(),
      [&](const router::v1::Provider& p) { return p.name() == args.request.provider(); });
  if (provider == providers.providers().end()) {
    return MakeError(absl::StatusCode::kNotFound, "PROVIDER_NOT_FOUND",
                     absl::StrCat("provider '", args.request.provider(),
                                  "' does not exist; make it first with: tollctl provider set"));
  }
  TH_ASSIGN_OR_RETURN(const auto url, policy::ParseBaseUrl(provider->base_url()));
  args.request.set_origin(url.Origin());
  args.request.set_overlap_seconds(absl::ToInt64Seconds(args.overlap));
  TH_ASSIGN_OR_RETURN(std::string secret, ReadSecret(args.secret, in.environment.env));
  args.request.set_secret(secret);
  crypto::Cleanse(&secret);
  const auto response = in.api.Call(args.request);
  crypto::Cleanse(args.request.mutable_secret());
  TH_RETURN_IF_ERROR(response.status());
  in.TellStragglers(response->stragglers());
  in.Print({Value::Object({{"credential", FromProto(response->credential())}}), "credential",
            CredentialColumns(in.Now()), "", "", true});
  return absl::OkStatus();
}

absl::Status List(Invocation& in, const std::string& provider) {
  in.subject = provider;
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(vault::v1::ListCredentialsRequest()));
  Value rows = Value::List();
  for (const auto& credential : response.credentials()) {
    if (provider.empty() || credential.provider() == provider) rows.Add(FromProto(credential));
  }
  in.Print({Value::Object({{"credentials", rows}}), "credentials", CredentialColumns(in.Now()), "",
            "no credentials; enter one with: tollctl credential set PROVIDER --credential-file FILE"});
  return absl::OkStatus();
}

absl::Status Delete(Invocation& in, const vault::v1::DeleteCredentialRequest& request, bool yes) {
  in.subject = request.provider();
  TH_RETURN_IF_ERROR(in.Confirm(yes, Invocation::Scope::kNamed,
                                absl::StrCat("this removes credential ", request.name(),
                                             " of provider ", request.provider())));
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  in.Tell(absl::StrCat("credential ", request.name(), " of ", request.provider(), " is removed"));
  return absl::OkStatus();
}

absl::Status ListKeks(Invocation& in) {
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(vault::v1::ListKeyEncryptionKeysRequest()));
  in.Print({FromProto(response), "keys", KekColumns(), "", ""});
  return absl::OkStatus();
}

// Until nothing remains; says how far it is. May be ended and begun again at any time.
absl::Status Rewrap(Invocation& in) {
  int64_t total = 0;
  for (;;) {
    TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(vault::v1::RewrapSecretsRequest()));
    total += response.rewrapped();
    if (response.remaining() == 0) {
      in.Print({Value::Object({{"key_encryption_key", response.key_encryption_key()},
                               {"rewrapped", Value::Number(total)},
                               {"remaining", Value::Number(0)}}),
                "",
                {Column::Text("KEK", "key_encryption_key"), Column::Count("REWRAPPED", "rewrapped"),
                 Column::Count("REMAINING", "remaining")},
                "", "", true});
      return absl::OkStatus();
    }
    if (response.rewrapped() == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(response.remaining(), " data keys remain and none could be wrapped anew; "
                                             "another call may be doing it, or see the vault's log"));
    }
    in.Tell(absl::StrCat(total, " wrapped anew, ", response.remaining(), " remain"));
  }
}

}  // namespace

void RegisterCredential(CommandLine& commands) {
  Noun& noun = commands.AddNoun("credential", "Credentials of providers, several to each").Alias("credentials");
  auto set = std::make_shared<SetArgs>();
  noun.AddVerb("set", "Stores a credential of a provider, or its next version")
      .Describe("Edges spread requests over a provider's credentials by weight and turn to another one\n"
                "when the provider refuses one or its quota is used up. With --overlap the version\n"
                "before stays as a way out until then.")
      .Positional("PROVIDER", Into(set->request.mutable_provider()), "an existing provider")
      .Option("--name", "NAME", Into(set->request.mutable_name()), "default: \"default\"")
      .Option("--weight", "N",
              [set](std::string_view text) -> absl::Status {
                int32_t weight = 0;
                if (!absl::SimpleAtoi(Absl(text), &weight) || weight < 1 || weight > 1000) {
                  return absl::InvalidArgumentError("a weight is 1 to 1000");
                }
                set->request.set_weight(weight);
                return absl::OkStatus();
              },
              "its share of the requests; default: as it is, 1 for a new one")
      .Option("--overlap", "SPAN", IntoSpan(&set->overlap),
              "how long the version before stays, like 1h; default 0")
      .Option("--credential-file", "FILE", Into(&set->secret.file), "file with the API key")
      .Option("--credential-env", "VARIABLE", Into(&set->secret.variable),
              "environment variable with the API key")
      .Example("tollctl credential set openai --credential-file new.key --overlap 1h")
      .Example("tollctl credential set openai --name second --weight 3 --credential-env OPENAI_KEY_2")
      .Run([=](Invocation& in) { return Set(in, *set); });

  auto listed = std::make_shared<std::string>();
  noun.AddVerb("list", "Lists credentials, without secrets")
      .OptionalPositional("PROVIDER", Into(listed.get()), "only of this provider")
      .Example("tollctl credential list openai")
      .Run([=](Invocation& in) { return List(in, *listed); });

  auto gone = std::make_shared<vault::v1::DeleteCredentialRequest>();
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("delete", "Removes a credential with all its versions")
      .Positional("PROVIDER", Into(gone->mutable_provider()), "whose")
      .Required("--name", "NAME", Into(gone->mutable_name()), "which")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl credential delete openai --name second")
      .Run([=](Invocation& in) { return Delete(in, *gone, *yes); });
}

void RegisterKek(CommandLine& commands) {
  Noun& noun = commands.AddNoun("kek", "Key-encryption keys of the vault");
  noun.AddVerb("list", "Lists them, oldest first, and how much each of them seals")
      .Example("tollctl kek list")
      .Run(ListKeks);
  noun.AddVerb("rewrap", "Wraps every data key anew under the newest one, while everything goes on")
      .Example("tollctl kek rewrap")
      .Run(Rewrap);
}

}  // namespace tollhouse::tollctl
