// Dialects by the names that people type.
#pragma once

#include <string>
#include <string_view>

#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::tollctl {

// "openai", "anthropic", "gemini"; DIALECT_UNSPECIFIED for anything else.
inline common::v1::Dialect DialectFromName(std::string_view name) {
  if (name == "openai") return common::v1::DIALECT_OPENAI;
  if (name == "anthropic") return common::v1::DIALECT_ANTHROPIC;
  if (name == "gemini") return common::v1::DIALECT_GEMINI;
  return common::v1::DIALECT_UNSPECIFIED;
}

// The inverse; "" for DIALECT_UNSPECIFIED.
inline std::string DialectName(common::v1::Dialect dialect) {
  switch (dialect) {
    case common::v1::DIALECT_OPENAI: return "openai";
    case common::v1::DIALECT_ANTHROPIC: return "anthropic";
    case common::v1::DIALECT_GEMINI: return "gemini";
    default: return "";
  }
}

}  // namespace tollhouse::tollctl
