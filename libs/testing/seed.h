// Seeds of randomized tests: printed always, fixed by TOLLHOUSE_TEST_SEED to replay a failure.
#pragma once

#include <cstdint>

namespace tollhouse::testing {

// A fresh seed per process, or the number in TOLLHOUSE_TEST_SEED. Prints "seed N" once per call.
uint64_t TestSeed();

}  // namespace tollhouse::testing
