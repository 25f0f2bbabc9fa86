// Errors of the services, completed by what to do next.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "tools/tollctl/api.h"

namespace tollhouse::tollctl {

// `subject` is what the command was about (a path, a model, a provider; "": nothing). NotFound errors
// get the nearest existing name and the command that makes the missing thing; asks the services for
// names, and leaves the error as it was if they do not answer.
absl::Status WithAdvice(absl::Status status, std::string_view subject, Api& api);

// "org", "team" or "user" by the depth of the path.
const char* KindOfPath(std::string_view path);

}  // namespace tollhouse::tollctl
