#include "libs/obs/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tollhouse::obs {
namespace {

struct Logger {
  std::shared_ptr<spdlog::logger> sink = [] {
    auto logger = std::make_shared<spdlog::logger>(
        "tollhouse", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_pattern("%v");
    logger->flush_on(spdlog::level::info);
    return logger;
  }();
  std::string program = "tollhouse";
  Level level = Level::kInfo;
};

Logger& TheLogger() {
  static Logger* const logger = new Logger;
  return *logger;
}

constexpr std::string_view kLevelNames[] = {"debug", "info", "warning", "error"};

void AppendString(std::string& out, std::string_view text) {
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          constexpr char kHex[] = "0123456789abcdef";
          out += "\\u00";
          out.push_back(kHex[c >> 4]);
          out.push_back(kHex[c & 15]);
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

}  // namespace

void InitLogging(std::string_view program, Level level) {
  TheLogger().program = program;
  TheLogger().level = level;
}

void Log(Level level, std::string_view event, std::initializer_list<Field> fields) {
  Logger& logger = TheLogger();
  if (level < logger.level) return;
  std::string line;
  line.reserve(256);
  line += "{\"ts\":\"";
  line += absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  line += "\",\"level\":\"";
  line += kLevelNames[static_cast<int>(level)];
  line += "\",\"program\":";
  AppendString(line, logger.program);
  line += ",\"event\":";
  AppendString(line, event);
  for (const Field& field : fields) {
    line.push_back(',');
    AppendString(line, field.key);
    line.push_back(':');
    if (const auto* text = std::get_if<std::string_view>(&field.value)) {
      AppendString(line, *text);
    } else if (const auto* number = std::get_if<int64_t>(&field.value)) {
      line += std::to_string(*number);
    } else {
      line += std::get<bool>(field.value) ? "true" : "false";
    }
  }
  line.push_back('}');
  logger.sink->log(spdlog::level::info, line);
}

Level ParseLevel(std::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kLevelNames[i]) return static_cast<Level>(i);
  }
  return Level::kInfo;
}

}  // namespace tollhouse::obs
