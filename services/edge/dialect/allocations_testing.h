// How often this program allocated.
#pragma once

#include <cstdint>

namespace tollhouse::edge {

// Calls of operator new since the start, of all threads.
int64_t AllocationsSoFar();

}  // namespace tollhouse::edge
