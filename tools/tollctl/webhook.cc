// webhook: where alerts are sent.
#include <memory>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/secret_bytes.h"
#include "tools/tollctl/credential.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

std::vector<Column> WebhookColumns() {
  return {Column::Text("PATH", "path"), Column::Text("URL", "url"),
          Column::Cell("SIGNED", [](const Value& row) {
            return std::string(row.At("has_secret").number() != 0 ? "yes" : "no");
          }),
          Column::Cell("PRIVATE", [](const Value& row) -> std::string {
            return row.At("allow_private").number() != 0 ? "allowed" : "";
          }).IfAny()};
}

}  // namespace

void RegisterWebhook(CommandLine& commands) {
  Noun& noun = commands.AddNoun("webhook", "Where alerts are sent").Alias("webhooks");
  struct SetArgs {
    ledger::v1::SetWebhookRequest request;
    SecretSource secret;
    bool allow_private = false;
  };
  auto set = std::make_shared<SetArgs>();
  noun.AddVerb("set", "POSTs alerts of an account and below to a URL")
      .Describe("With a secret, bodies are signed: x-tollhouse-signature: sha256=HMAC(secret, body).")
      .Positional("PATH", Into(set->request.mutable_path()), "account")
      .Required("--url", "URL", Into(set->request.mutable_url()), "http or https")
      .Option("--secret-file", "FILE", Into(&set->secret.file), "file with the signing secret")
      .Option("--secret-env", "VARIABLE", Into(&set->secret.variable),
              "environment variable with the signing secret")
      .Flag("--allow-private", &set->allow_private, "permit loopback and private addresses")
      .Example("tollctl webhook set acme --url https://hooks.acme.example/spend --secret-file hook.key")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = set->request.path();
        if (!set->secret.file.empty() && !set->secret.variable.empty()) {
          return UsageError("give --secret-file or --secret-env, not both");
        }
        if (!set->secret.empty()) {
          TH_ASSIGN_OR_RETURN(*set->request.mutable_secret(),
                              ReadSecret(set->secret, in.environment.env));
        }
        set->request.set_allow_private(set->allow_private);
        const auto response = in.api.Call(set->request);
        crypto::Cleanse(set->request.mutable_secret());
        TH_RETURN_IF_ERROR(response.status());
        in.Print({FromProto(*response), "webhook", WebhookColumns(), "", "", true});
        return absl::OkStatus();
      });

  auto list = std::make_shared<ledger::v1::ListWebhooksRequest>();
  noun.AddVerb("list", "Lists webhooks of an account and below")
      .OptionalPositional("PATH", Into(list->mutable_path()), "only this account and below")
      .Example("tollctl webhook list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->path();
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*list));
        in.Print({FromProto(response), "webhooks", WebhookColumns(), "",
                  "no webhooks here; set one with: tollctl webhook set PATH --url URL"});
        return absl::OkStatus();
      });

  auto removed = std::make_shared<ledger::v1::DeleteWebhookRequest>();
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("delete", "Sends no more alerts to a URL")
      .Positional("PATH", Into(removed->mutable_path()), "account")
      .Required("--url", "URL", Into(removed->mutable_url()), "as it was set")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl webhook delete acme --url https://hooks.acme.example/spend --yes")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = removed->path();
        TH_RETURN_IF_ERROR(in.Confirm(*yes, Invocation::Scope::kNamed,
                                      absl::StrCat("this removes the webhook ", removed->url(), " of ",
                                                   removed->path())));
        TH_RETURN_IF_ERROR(in.api.Call(*removed).status());
        in.Print({Value::Object({{"path", removed->path()}, {"url", removed->url()}, {"deleted", true}}),
                  "", {Column::Text("PATH", "path"), Column::Text("URL", "url"),
                       Column::Cell("RESULT", [](const Value&) { return std::string("deleted"); })}});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
