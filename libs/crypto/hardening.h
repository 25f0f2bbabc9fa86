// What a process that holds secrets tells the kernel.
#pragma once

#include "absl/status/status.h"

namespace tollhouse::crypto {

// No core dumps and no reading of this process's memory by others of the same user (PR_SET_DUMPABLE
// and RLIMIT_CORE to 0). Call once at start, before secrets are loaded. Internal with the errno text
// on failure.
absl::Status HardenProcess();

}  // namespace tollhouse::crypto
