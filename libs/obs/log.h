// Structured logs: one JSON object per line on standard error. Never prompts, completions or secrets.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <variant>

#include "absl/status/status.h"

namespace tollhouse::obs {

enum class Level { kDebug, kInfo, kWarning, kError };

// One key with its value. The views must live until the call returns.
struct Field {
  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(std::string_view(v)) {}
  template <typename Int>
    requires std::is_integral_v<Int>
  Field(std::string_view k, Int v) : key(k), value(Convert(v)) {}

  std::string_view key;
  std::variant<std::string_view, int64_t, bool> value;

 private:
  template <typename Int>
  static std::variant<std::string_view, int64_t, bool> Convert(Int v) {
    if constexpr (std::is_same_v<Int, bool>) return v;
    return static_cast<int64_t>(v);
  }
};

// Names the program in every line and drops lines below `level`. Call once, first thing in main().
void InitLogging(std::string_view program, Level level);

// {"ts":"2026-11-21T12:00:00.000Z","level":"info","program":"tollhoused","event":"listening",...}
// `event` is a stable, lower_snake_case name. Thread-safe.
void Log(Level level, std::string_view event, std::initializer_list<Field> fields = {});

inline void Info(std::string_view event, std::initializer_list<Field> fields = {}) {
  Log(Level::kInfo, event, fields);
}
inline void Warning(std::string_view event, std::initializer_list<Field> fields = {}) {
  Log(Level::kWarning, event, fields);
}
inline void Error(std::string_view event, std::initializer_list<Field> fields = {}) {
  Log(Level::kError, event, fields);
}

// "debug", "info", "warning", "error"; kInfo for anything else.
Level ParseLevel(std::string_view name);

}  // namespace tollhouse::obs
