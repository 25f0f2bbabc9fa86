#include "libs/testing/seed.h"

#include <cstdio>
#include <cstdlib>
#include <random>

namespace tollhouse::testing {

uint64_t TestSeed() {
  const char* fixed = std::getenv("TOLLHOUSE_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
  std::printf("seed %llu (replay with TOLLHOUSE_TEST_SEED)\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace tollhouse::testing
