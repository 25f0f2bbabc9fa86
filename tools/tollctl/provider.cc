// provider: upstreams and their credentials.
#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/policy/base_url.h"
#include "tools/tollctl/credential.h"
#include "tools/tollctl/dialect.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

std::vector<Column> ProviderColumns() {
  return {Column::Text("PROVIDER", "name"),
          Column::Cell("DIALECT", [](const Value& row) {
            return absl::AsciiStrToLower(absl::StripPrefix(row.At("dialect").text(), "DIALECT_"));
          }),
          Column::Text("BASE URL", "base_url"),
          Column::Text("CATALOG", "catalog").IfAny(),
          Column::Count("PRIORITY", "priority"),
          Column::Text("MODELS", "models").IfAny(),
          Column::Cell("PRIVATE", [](const Value& row) -> std::string {
            return row.At("allow_private").number() != 0 ? "allowed" : "";
          }).IfAny(),
          Column::Text("CA FILE", "ca_file").IfAny(),
          Column::Cell("CREDENTIAL", [](const Value& row) {
            const Value& version = row.At("credential.version");
            return version.is_null() ? std::string("none") : absl::StrCat("v", version.number());
          })};
}

// A provider with the vault's view of its credential, if it has one.
Value WithCredential(const router::v1::Provider& provider,
                     const std::map<std::string, vault::v1::Credential>& credentials) {
  Value row = FromProto(provider);
  const auto found = credentials.find(provider.name());
  if (found != credentials.end()) row.Set("credential", FromProto(found->second));
  return row;
}

absl::StatusOr<std::map<std::string, vault::v1::Credential>> Credentials(Api& api) {
  TH_ASSIGN_OR_RETURN(const auto response, api.Call(vault::v1::ListCredentialsRequest()));
  std::map<std::string, vault::v1::Credential> credentials;
  for (const auto& credential : response.credentials()) {  // the newest of them
    auto& known = credentials[credential.provider()];
    if (credential.version() > known.version()) known = credential;
  }
  return credentials;
}

struct SetArgs {
  router::v1::Provider provider;
  std::string dialect;
  SecretSource secret;
  bool allow_private = false;
  bool no_include_usage = false;
  bool errors_are_billed = false;
};

absl::Status Set(Invocation& in, SetArgs& args) {
  in.subject = args.provider.name();
  const auto base_url = policy::ParseBaseUrl(args.provider.base_url());
  if (!base_url.ok()) return UsageError(absl::StrCat("--base-url: ", base_url.status().message()));
  const std::string origin = base_url->Origin();
  if (!args.secret.file.empty() && !args.secret.variable.empty()) {
    return UsageError("give --credential-file or --credential-env, not both");
  }
  args.provider.set_dialect(DialectFromName(args.dialect));
  args.provider.set_allow_private(args.allow_private);
  args.provider.mutable_quirks()->set_no_include_usage(args.no_include_usage);
  args.provider.mutable_quirks()->set_errors_are_billed(args.errors_are_billed);
  std::string secret;
  if (!args.secret.empty()) {
    TH_ASSIGN_OR_RETURN(secret, ReadSecret(args.secret, in.environment.env));
  }
  // The credential first: once the provider is announced, requests to it must find it.
  if (!secret.empty()) {
    vault::v1::SetCredentialRequest request;
    request.set_provider(args.provider.name());
    request.set_origin(origin);
    request.set_secret(secret);
    crypto::Cleanse(&secret);
    const auto stored = in.api.Call(request);
    crypto::Cleanse(request.mutable_secret());
    TH_RETURN_IF_ERROR(stored.status());
    in.TellStragglers(stored->stragglers());
  }
  router::v1::SetProviderRequest request;
  *request.mutable_provider() = args.provider;
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  TH_ASSIGN_OR_RETURN(const auto credentials, Credentials(in.api));
  const auto credential = credentials.find(args.provider.name());
  if (credential == credentials.end()) {
    in.Tell(absl::StrCat("note: ", args.provider.name(), " has no credential yet; give it one with "
                         "--credential-file FILE or --credential-env VARIABLE"));
  } else if (credential->second.origin() != origin) {
    in.Tell(absl::StrCat("warning: the stored credential is for ", credential->second.origin(),
                         " and is not used for ", origin,
                         "; enter it again with --credential-file or --credential-env"));
  }
  in.Print({Value::Object({{"provider", WithCredential(response.provider(), credentials)},
                           {"created", response.created()}}),
            "provider", ProviderColumns(), "", "", true});
  return absl::OkStatus();
}

absl::Status NoProvider(const std::string& name) {
  return MakeError(absl::StatusCode::kNotFound, "PROVIDER_NOT_FOUND",
                   absl::StrCat("provider '", name, "' does not exist"));
}

absl::Status List(Invocation& in, const std::string& name) {
  in.subject = name;
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(router::v1::ListProvidersRequest()));
  TH_ASSIGN_OR_RETURN(const auto credentials, Credentials(in.api));
  Value rows = Value::List();
  for (const auto& provider : response.providers()) {
    if (name.empty() || provider.name() == name) rows.Add(WithCredential(provider, credentials));
  }
  if (!name.empty() && rows.items().empty()) {
    return NoProvider(name);
  }
  in.Print({Value::Object({{"providers", rows}}), "providers", ProviderColumns(), "",
            "no providers yet; add one with: tollctl provider set NAME --dialect openai --base-url URL",
            !name.empty()});
  return absl::OkStatus();
}

absl::Status Delete(Invocation& in, const std::string& name, bool dry_run, bool yes) {
  in.subject = name;
  TH_ASSIGN_OR_RETURN(const auto known, in.api.Call(router::v1::ListProvidersRequest()));
  if (std::none_of(known.providers().begin(), known.providers().end(),
                   [&](const auto& provider) { return provider.name() == name; })) {
    return NoProvider(name);
  }
  if (!dry_run) {
    TH_RETURN_IF_ERROR(in.Confirm(
        yes, Invocation::Scope::kNamed, absl::StrCat("this removes provider ", name, " and its stored credential")));
    router::v1::DeleteProviderRequest request;
    request.set_name(name);
    TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
    in.TellStragglers(response.stragglers());
    vault::v1::DeleteCredentialRequest credential;
    credential.set_provider(name);
    TH_RETURN_IF_ERROR(in.api.Call(credential).status());
  }
  in.Print({Value::Object({{"name", name}, {"deleted", !dry_run}}), "",
            {Column::Text("PROVIDER", "name"), Column::Cell("RESULT", [=](const Value&) {
               return std::string(dry_run ? "would be deleted" : "deleted");
             })}});
  return absl::OkStatus();
}

}  // namespace

void RegisterProvider(CommandLine& commands) {
  Noun& noun =
      commands.AddNoun("provider", "Upstreams that requests go to, and their credentials")
          .Alias("providers");
  auto set = std::make_shared<SetArgs>();
  router::v1::Provider& provider = set->provider;
  noun.AddVerb("set", "Adds or changes a provider, and stores its credential")
      .Describe("The credential is read here, sent to the vault, encrypted there and bound to the\n"
                "origin of the base URL; it is never printed. Without one, a stored one stays.")
      .Positional("NAME", Into(provider.mutable_name()), "like openai; models are NAME/MODEL")
      .Required("--dialect", "D", IntoChoice({"openai", "anthropic", "gemini"}, &set->dialect),
                "openai, anthropic or gemini")
      .Required("--base-url", "URL", Into(provider.mutable_base_url()),
                "as that provider's SDK takes it")
      .Option("--credential-file", "FILE", Into(&set->secret.file), "file with its API key")
      .Option("--credential-env", "VARIABLE", Into(&set->secret.variable),
              "environment variable with its API key")
      .Option("--catalog", "VENDOR", Into(provider.mutable_catalog()),
              "vendor of the price book; default by dialect")
      .Option("--models", "A,B", Into(provider.mutable_models()),
              "what it serves under bare names; default: what the catalogue lists")
      .Option("--priority", "N", [set](std::string_view text) -> absl::Status {
                int32_t priority = 0;
                if (!absl::SimpleAtoi(Absl(text), &priority)) {
                  return absl::InvalidArgumentError("not a whole number");
                }
                set->provider.set_priority(priority);
                return absl::OkStatus();
              },
              "higher first where several serve a bare name; default 0")
      .Option("--ca-file", "FILE", Into(provider.mutable_ca_file()),
              "PEM bundle, read by the edge, instead of the system's")
      .Flag("--allow-private", &set->allow_private, "permit loopback and private addresses")
      .Flag("--no-include-usage", &set->no_include_usage,
            "it rejects stream_options.include_usage")
      .Option("--auto-service-tier", "TIER",
              Into(provider.mutable_quirks()->mutable_auto_service_tier()),
              "tier that requests without one get, like default; unset: bounds take the dearest")
      .Flag("--errors-are-billed", &set->errors_are_billed, "it bills refused requests too")
      .Example("tollctl provider set openai --dialect openai --base-url https://api.openai.com/v1 "
               "--credential-env OPENAI_API_KEY")
      .Example("tollctl provider set sim --dialect openai --base-url http://127.0.0.1:9100/v1 "
               "--allow-private --credential-file sim.key")
      .Run([=](Invocation& in) { return Set(in, *set); });

  noun.AddVerb("list", "Lists providers by priority")
      .Example("tollctl provider list")
      .Run([](Invocation& in) { return List(in, ""); });

  auto shown = std::make_shared<std::string>();
  noun.AddVerb("show", "Shows one provider")
      .Positional("NAME", Into(shown.get()), "its name")
      .Example("tollctl provider show openai")
      .Run([=](Invocation& in) { return List(in, *shown); });

  auto deleted = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("delete", "Removes a provider and its credential")
      .Positional("NAME", Into(deleted.get()), "its name")
      .Flag("--dry-run", dry_run.get(), "only say what would be deleted")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl provider delete sim --yes")
      .Run([=](Invocation& in) { return Delete(in, *deleted, *dry_run, *yes); });
}

}  // namespace tollhouse::tollctl
