// The free token counters: {"input_tokens":N} of Anthropic and OpenAI, {"totalTokens":N} of Gemini.
#include <optional>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/error_object.h"
#include "services/edge/dialect/json.h"

namespace tollhouse::edge {
namespace {

class CountTokensAnswerReader final : public AnswerReader {
 public:
  Effect OnEvent(std::string_view) override { return {}; }

  void OnDocument(std::string_view body) override {
    json::Parser parser;
    json::Document document;
    json::Value root;
    if (!json::Open(&parser, body, &document, &root)) return;
    json::EachMember(root, [&](std::string_view key, json::Value value) {
      if (key == "input_tokens" || key == "totalTokens") counted_ = json::CountOf(value);
      if (key == "error") error_.Read(value);
    });
  }

  void Conclude(MeterResult* result) override {
    error_.Tell(result);
    result->complete = counted_.has_value();
    result->counted_tokens = counted_.value_or(-1);
  }

 private:
  std::optional<int64_t> counted_;
  ErrorObject error_;
};

}  // namespace

std::unique_ptr<AnswerReader> NewCountTokensAnswerReader() {
  return std::make_unique<CountTokensAnswerReader>();
}

}  // namespace tollhouse::edge
