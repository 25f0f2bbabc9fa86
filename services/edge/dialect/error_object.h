// The error object that OpenAI's and Gemini's answers carry. Internal to the meter.
#pragma once

#include <string>
#include <string_view>

#include "services/edge/dialect/json.h"
#include "services/edge/dialect/meter.h"

namespace tollhouse::edge {

struct ErrorObject {
  bool seen = false;
  std::string type;  // Gemini's status
  std::string code;

  // An object with type, status or code, or some servers' plain string; null and the like are none.
  void Read(json::Value& value) {
    const std::string_view token = json::Token(value);
    if (token.substr(0, 1) == "\"") {
      seen = seen || token.size() > 2;
      return;
    }
    if (!json::IsObject(value)) return;
    seen = true;
    json::EachMember(value, [&](std::string_view key, json::Value member) {
      if (key == "type" || key == "status") json::Remember(member, &type);
      if (key == "code") ReadCode(member);
    });
  }

  void ReadCode(json::Value& value) {
    const std::string_view written = json::Token(value);
    if (json::IsNumber(written)) {
      code.assign(written);
    } else {
      json::Remember(value, &code);
    }
  }

  void Tell(MeterResult* result) const {
    result->provider_error = seen;
    result->error_type = type;
    result->error_code = code;
  }
};

}  // namespace tollhouse::edge
