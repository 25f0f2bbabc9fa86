// Commands as bytes, and where a Cluster keeps a key.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tollhouse::redis {

// Appends "*COUNT\r\n", which `count` bulk strings have to follow.
void AppendArrayHead(size_t count, std::string* out);
// Appends "$SIZE\r\nTEXT\r\n".
void AppendBulk(std::string_view text, std::string* out);
// Appends a whole command: the bytes of hiredis' redisFormatCommandArgv, without its allocations.
void AppendCommand(std::span<const std::string_view> args, std::string* out);

// CRC16 (XMODEM) of the key's hash tag, or of all of it, modulo 16384: the Redis Cluster
// specification, "Key distribution model".
inline constexpr int kSlots = 16384;
int KeySlot(std::string_view key);

}  // namespace tollhouse::redis
