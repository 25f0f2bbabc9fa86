#include "tools/tollctl/tag_rules.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/status_macros.h"

namespace tollhouse::tollctl {
namespace {

common::v1::TagRule* RuleOf(TagRules* rules, const std::string& tag) {
  for (common::v1::TagRule& rule : *rules) {
    if (rule.tag() == tag) return &rule;
  }
  common::v1::TagRule* const rule = rules->Add();
  rule->set_tag(tag);
  return rule;
}

}  // namespace

Setter IntoRequired(TagRules* rules) {
  return [rules](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const std::vector<std::string> tags, ParseList(text));
    for (const std::string& tag : tags) RuleOf(rules, tag)->set_required(true);
    return absl::OkStatus();
  };
}

Setter IntoAllowed(TagRules* rules) {
  return [rules](std::string_view text) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const auto tag, ParseTag(text));
    TH_ASSIGN_OR_RETURN(const std::vector<std::string> values, ParseList(tag.second));
    common::v1::TagRule* const rule = RuleOf(rules, tag.first);
    for (const std::string& value : values) rule->add_allowed(value);
    return absl::OkStatus();
  };
}

std::string TagRuleText(const common::v1::TagRule& rule) {
  return absl::StrCat(rule.tag(), rule.required() ? " (required): " : ": ",
                      rule.allowed().empty() ? "any" : absl::StrJoin(rule.allowed(), ", "));
}

}  // namespace tollhouse::tollctl
