// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of journal frames.
#pragma once

#include <cstdint>
#include <string_view>

namespace tollhouse::edge {

// Of `data`, with the processor's instruction where it has one. Thread-safe.
uint32_t Crc32c(std::string_view data);

}  // namespace tollhouse::edge
