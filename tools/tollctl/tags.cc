// tags: which tags requests must carry, and which values they may have.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/tag_rules.h"

namespace tollhouse::tollctl {
namespace {

Value ToValue(const ledger::v1::AccountTagRules& rules) {
  Value value = FromProto(rules);
  value.Set("text", absl::StrJoin(rules.rules(), "; ",
                                  [](std::string* out, const common::v1::TagRule& rule) {
                                    *out += TagRuleText(rule);
                                  }));
  return value;
}

std::vector<Column> RuleColumns() { return {Column::Text("PATH", "path"), Column::Text("TAGS", "text")}; }

absl::Status Set(Invocation& in, const ledger::v1::SetTagRulesRequest& request) {
  in.subject = request.path();
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  in.Print({ToValue(response.rules()), "", RuleColumns(), "", "", true});
  return absl::OkStatus();
}

}  // namespace

void RegisterTags(CommandLine& commands) {
  Noun& noun = commands.AddNoun("tags", "Tags that requests must carry, and the values they may have");
  auto set = std::make_shared<ledger::v1::SetTagRulesRequest>();
  noun.AddVerb("set", "Sets the tag rules of an account, for it and everything below")
      .Describe("Replaces the account's rules; rules of accounts above apply as well. A request without a\n"
                "required tag, or with a value that is not allowed, is refused, so that a budget that\n"
                "matches on the tag cannot be dodged. Pinned tags (--tag of an account or key) count as\n"
                "given, and no header or body overrides them.")
      .Positional("PATH", Into(set->mutable_path()), "org, team, user or key")
      .Option("--require", "A,B", IntoRequired(set->mutable_rules()), "tags that requests must carry")
      .Option("--allow", "TAG=A,B", IntoAllowed(set->mutable_rules()),
              "values that a tag may have, repeatable; default any")
      .Example("tollctl tags set acme/payments --require use_case --allow use_case=code-review,batch")
      .Run([=](Invocation& in) -> absl::Status {
        if (set->rules().empty()) {
          return UsageError("nothing to set: give --require or --allow, or remove all rules with: "
                            "tollctl tags delete PATH");
        }
        return Set(in, *set);
      });

  auto list = std::make_shared<ledger::v1::ListTagRulesRequest>();
  noun.AddVerb("list", "Lists tag rules of an account and below")
      .OptionalPositional("PATH", Into(list->mutable_path()), "only this account and below")
      .Example("tollctl tags list acme")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->path();
        list->set_below(true);
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*list));
        Value rules = Value::List();
        for (const auto& of_account : response.rules()) rules.Add(ToValue(of_account));
        in.Print({Value::Object({{"rules", rules}}), "rules", RuleColumns(), "",
                  "no tag rules here; set one with: tollctl tags set PATH --require TAG"});
        return absl::OkStatus();
      });

  auto removed = std::make_shared<std::string>();
  noun.AddVerb("delete", "Removes the tag rules of an account; those of accounts above stay")
      .Positional("PATH", Into(removed.get()), "org, team, user or key")
      .Example("tollctl tags delete acme/payments")
      .Run([=](Invocation& in) {
        ledger::v1::SetTagRulesRequest request;
        request.set_path(*removed);
        return Set(in, request);
      });
}

}  // namespace tollhouse::tollctl
