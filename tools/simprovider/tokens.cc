#include "tools/simprovider/tokens.h"

#include <algorithm>
#include <string_view>

namespace tollhouse::simprovider {
namespace {

bool IsMediaType(std::string_view type) {
  return type == "image_url" || type == "image" || type == "input_audio" || type == "document" ||
         type == "file" || type == "input_image" || type == "input_file";
}

}  // namespace

void AddPrompt(const simdjson::dom::element& value, PromptSize* size) {
  switch (value.type()) {
    case simdjson::dom::element_type::STRING:
      size->text_bytes += static_cast<int64_t>(std::string_view(value).size());
      break;
    case simdjson::dom::element_type::ARRAY:
      for (const simdjson::dom::element item : simdjson::dom::array(value)) AddPrompt(item, size);
      break;
    case simdjson::dom::element_type::OBJECT: {
      const simdjson::dom::object object = value;
      std::string_view type;
      if (object["type"].get(type) == simdjson::SUCCESS && IsMediaType(type)) {
        ++size->media;
        break;
      }
      if (object["inlineData"].is_object() || object["fileData"].is_object()) {  // Gemini's
        ++size->media;
        break;
      }
      for (const auto field : object) AddPrompt(field.value, size);
      break;
    }
    default:
      break;
  }
}

int64_t InputTokens(const PromptSize& size, int64_t body_bytes) {
  const int64_t tokens = (size.text_bytes + 3) / 4 + kTokensPerMessage * size.messages +
                         kTokensPerMedia * size.media + kTokensPerRequest;
  return std::min(tokens, body_bytes + 1024);
}

}  // namespace tollhouse::simprovider
