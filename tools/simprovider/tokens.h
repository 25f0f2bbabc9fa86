// How the simulated provider counts input tokens: a rule that a test can compute for itself.
#pragma once

#include <simdjson.h>

#include <cstdint>

namespace tollhouse::simprovider {

// What a prompt consists of, summed over the parts of a request.
struct PromptSize {
  int64_t text_bytes = 0;  // UTF-8 bytes of every string value, keys not counted
  int64_t messages = 0;
  // image_url, input_image, image, input_audio, document, file and input_file parts, Gemini's
  // inlineData and fileData, whatever their size.
  int64_t media = 0;
};

inline constexpr int64_t kTokensPerMedia = 85;
inline constexpr int64_t kTokensPerMessage = 4;
inline constexpr int64_t kTokensPerRequest = 3;

// Adds the string values and media parts anywhere inside `value`. The strings inside a media part
// are not text. Recursion is bounded by the depth limit of the parser that made `value`.
void AddPrompt(const simdjson::dom::element& value, PromptSize* size);

// ceil(text_bytes / 4) + 4 per message + 85 per media part + 3, never above body_bytes + 1024
// (the bound that an edge may hold against, DESIGN section 5).
int64_t InputTokens(const PromptSize& size, int64_t body_bytes);

}  // namespace tollhouse::simprovider
