#include "libs/redis/command.h"

#include <array>
#include <charconv>

namespace tollhouse::redis {
namespace {

void AppendNumber(char mark, size_t number, std::string* out) {
  char text[24];
  text[0] = mark;
  char* end = std::to_chars(text + 1, text + sizeof(text) - 2, number).ptr;
  *end++ = '\r';
  *end++ = '\n';
  out->append(text, end);
}

constexpr std::array<uint16_t, 256> MakeTable() {
  std::array<uint16_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
    table[byte] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrc16 = MakeTable();

}  // namespace

void AppendArrayHead(size_t count, std::string* out) { AppendNumber('*', count, out); }

void AppendBulk(std::string_view text, std::string* out) {
  AppendNumber('$', text.size(), out);
  out->append(text);
  out->append("\r\n", 2);
}

void AppendCommand(std::span<const std::string_view> args, std::string* out) {
  AppendArrayHead(args.size(), out);
  for (const std::string_view arg : args) AppendBulk(arg, out);
}

int KeySlot(std::string_view key) {
  if (const size_t open = key.find('{'); open != std::string_view::npos) {
    const size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  unsigned crc = 0;
  for (const char c : key) {
    crc = (crc << 8 ^ kCrc16[(crc >> 8 ^ static_cast<unsigned char>(c)) & 0xFF]) & 0xFFFF;
  }
  return static_cast<int>(crc % kSlots);
}

}  // namespace tollhouse::redis
