// What to ask a provider's free token counter about a request.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "services/edge/dialect/endpoint.h"
#include "services/edge/dialect/request.h"

namespace tollhouse::edge {

struct CountQuestion {
  Endpoint endpoint;  // of the counter
  std::string body;
};

// The counter of the request's API, with the members of `body` (to which `facts` belong) that it
// takes, byte for byte. Nothing where an API has no counter.
std::optional<CountQuestion> CountQuestionFor(const RequestFacts& facts, std::string_view body,
                                              std::string_view upstream_model);

}  // namespace tollhouse::edge
