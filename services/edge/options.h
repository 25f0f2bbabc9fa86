// The edge's configuration as options of its program.
#pragma once

#include "libs/config/options.h"
#include "services/edge/config.h"

namespace tollhouse::edge {

// Binds every limit to its field.
void RegisterOptions(Config* config, config::Options* options);
// INVALID_ARGUMENT naming the option that is missing or makes no sense.
absl::Status CheckConfig(const Config& config);

}  // namespace tollhouse::edge
