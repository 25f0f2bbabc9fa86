// Embeddings: OpenAI's {"data":[...],"model":...,"usage":{...}}, and Gemini's {"embedding(s)":...}
// with usageMetadata, which older models leave out.
#include <optional>
#include <string>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/error_object.h"
#include "services/edge/dialect/json.h"
#include "services/edge/dialect/openai_usage.h"

namespace tollhouse::edge {
namespace {

class EmbeddingsAnswerReader final : public AnswerReader {
 public:
  explicit EmbeddingsAnswerReader(const MeterOptions& options)
      : requested_model_(options.requested_model) {}

  Effect OnEvent(std::string_view payload) override {
    OnDocument(payload);
    return {};
  }

  void OnDocument(std::string_view body) override {
    json::Document document;
    json::Value root;
    if (!json::Open(&json::ThreadParser(), body, &document, &root)) return;
    bool vectors = false;
    const bool whole = json::EachMember(root, [&](std::string_view key, json::Value value) {
      if (key == "data" || key == "embedding" || key == "embeddings") {
        vectors = true;
      } else if (key == "usage" && json::IsObject(value)) {
        ReadOpenAiUsage(value, &usage_);
      } else if (key == "usageMetadata" && json::IsObject(value)) {
        json::EachMember(value, [&](std::string_view name, json::Value count) {
          if (name == "promptTokenCount") usage_.prompt = json::CountOf(count);
        });
      } else if (key == "model") {
        json::Remember(value, &model_);
      } else if (key == "error") {
        error_.Read(value);
      }
    });
    complete_ = whole && json::IsAtEnd(document) && vectors && !error_.seen;
  }

  void Conclude(MeterResult* result) override {
    error_.Tell(result);
    result->response_model = model_;
    result->complete = complete_;
    result->usage_present = usage_.prompt.has_value();
    if (!result->usage_present) return;
    result->source = complete_ ? common::v1::USAGE_SOURCE_FINAL : common::v1::USAGE_SOURCE_PARTIAL;
    common::v1::UsageLine* line = result->usage.Add();
    line->set_model(model_.empty() ? requested_model_ : model_);
    FillOpenAiUsage(usage_, line->mutable_usage());
  }

 private:
  const std::string requested_model_;
  OpenAiUsage usage_;
  std::string model_;
  ErrorObject error_;
  bool complete_ = false;
};

}  // namespace

std::unique_ptr<AnswerReader> NewEmbeddingsAnswerReader(const MeterOptions& options) {
  return std::make_unique<EmbeddingsAnswerReader>(options);
}

}  // namespace tollhouse::edge
