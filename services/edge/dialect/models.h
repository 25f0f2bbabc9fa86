// GET /v1/models, in each dialect.
#pragma once

#include <span>
#include <string>

#include "absl/time/time.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

struct ModelEntry {
  std::string id;        // what a caller puts into `model`
  std::string owned_by;  // the provider
  absl::Time created;
};

// The list body. Anthropic's is one page (has_more false); Gemini's lists names as models/ID.
std::string RenderModels(common::v1::Dialect dialect, std::span<const ModelEntry> models);
// One model, for GET /v1/models/ID.
std::string RenderModel(common::v1::Dialect dialect, const ModelEntry& model);

}  // namespace tollhouse::edge
