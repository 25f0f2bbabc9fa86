// SIGTERM and SIGINT as something main() waits for, so that shutdown is ordinary code in one place.
#pragma once

#include "absl/time/time.h"

namespace tollhouse::aio {

// Blocks SIGTERM and SIGINT for this thread and all it starts, and ignores SIGPIPE and SIGXFSZ: a peer
// that left and a file that may not grow are errors of the write. Call first in main().
void BlockTerminationSignals();

// Waits for SIGTERM or SIGINT; returns its number. A second one during shutdown ends the process.
int WaitForTermination();

// The same for at most `timeout`; 0 if none came.
int WaitForTermination(absl::Duration timeout);

}  // namespace tollhouse::aio
