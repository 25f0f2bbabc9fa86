// Tag rules as people write them: --require use_case --allow use_case=batch,chat.
#pragma once

#include <string>

#include "tollhouse/common/v1/common.pb.h"
#include "tools/tollctl/parse.h"

namespace tollhouse::tollctl {

using TagRules = google::protobuf::RepeatedPtrField<common::v1::TagRule>;

// Setters that add to `rules`, which must outlive them; a rule is found by its tag.
Setter IntoRequired(TagRules* rules);  // "a,b"
Setter IntoAllowed(TagRules* rules);   // "use_case=a,b"

// "use_case (required): batch, chat"; "ticket: any" of one without values.
std::string TagRuleText(const common::v1::TagRule& rule);

}  // namespace tollhouse::tollctl
