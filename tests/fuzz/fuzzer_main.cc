// libFuzzer's entry of one target, which the build names.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tollhouse::fuzz::TOLLHOUSE_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
