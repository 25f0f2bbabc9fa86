// token: who may administer what.
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

std::vector<Column> TokenColumns(absl::Time now) {
  return {Column::Text("NAME", "name"),
          Column::Text("ROLE", "role"),
          Column::Text("SUBTREE", "subtree"),
          Column::Text("CREATED BY", "created_by"),
          Column::Time("CREATED", "created_at", now),
          Column::Time("EXPIRES", "expires_at", now).IfAny()};
}

absl::Status Create(Invocation& in, vault::v1::CreateTokenRequest request,
                    const std::optional<std::string>& expires) {
  in.subject = request.name();
  if (expires) {
    TH_RETURN_IF_ERROR(SetFuture("--expires", *expires, in.Now(), request.mutable_expires_at()));
  }
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.Print({Value::Object({{"token", FromProto(response.token())}, {"secret", response.secret()}}), "token",
            TokenColumns(in.Now()), "", "", true});
  if (!in.IsTable()) return absl::OkStatus();
  *in.environment.out << "Secret: " << response.secret() << "\n";
  in.Tell("Store the secret in a file for --token-file now: it is not shown again.");
  return absl::OkStatus();
}

absl::Status Revoke(Invocation& in, const std::string& name, bool yes) {
  in.subject = name;
  TH_RETURN_IF_ERROR(in.Confirm(yes, Invocation::Scope::kNamed,
                                absl::StrCat("this ends token ", name, " for ever")));
  vault::v1::RevokeTokenRequest request;
  request.set_name(name);
  TH_RETURN_IF_ERROR(in.api.Call(request).status());
  in.Tell(absl::StrCat("token ", name, " is revoked"));
  return absl::OkStatus();
}

}  // namespace

void RegisterToken(CommandLine& commands) {
  Noun& noun = commands.AddNoun("token", "Tokens of people and programs that administer");

  auto create = std::make_shared<vault::v1::CreateTokenRequest>();
  auto expires = std::make_shared<std::optional<std::string>>();
  noun.AddVerb("create", "Creates a token and prints its secret, once")
      .Positional("NAME", Into(create->mutable_name()), "who it is for; the audit log shows it")
      .Required("--role", "ROLE", Into(create->mutable_role()),
                "viewer (reads), finance (also corrections), admin (also accounts, keys, budgets) or owner")
      .Option("--subtree", "PATH", Into(create->mutable_subtree()),
              "account it is confined to; default: everything")
      .Option("--expires", "WHEN", Into(expires.get()), "90d, a date or an RFC 3339 time")
      .Example("tollctl token create sarah --role admin --subtree acme/payments --expires 90d")
      .Example("tollctl token create billing --role finance --output json")
      .Run([=](Invocation& in) { return Create(in, *create, *expires); });

  noun.AddVerb("list", "Lists tokens, without secrets")
      .Example("tollctl token list")
      .Run([](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(vault::v1::ListTokensRequest()));
        in.Print({FromProto(response), "tokens", TokenColumns(in.Now()), "",
                  "no tokens besides the first one; create one with: tollctl token create NAME --role ROLE"});
        return absl::OkStatus();
      });

  auto name = std::make_shared<std::string>();
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("revoke", "Ends a token at every service, within a second")
      .Positional("NAME", Into(name.get()), "the token")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl token revoke sarah")
      .Run([=](Invocation& in) { return Revoke(in, *name, *yes); });
}

}  // namespace tollhouse::tollctl
