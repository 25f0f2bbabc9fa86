// What an answer of one dialect says about its cost. Internal to the meter; a new endpoint adds a
// reader in a file of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "services/edge/dialect/meter.h"

namespace tollhouse::edge {

class AnswerReader {
 public:
  // What the meter does with an event besides passing it on.
  struct Effect {
    bool drop = false;      // the caller does not get it
    size_t cut_offset = 0;  // bytes of the payload the caller does not get
    size_t cut_length = 0;
  };

  virtual ~AnswerReader() = default;

  // The data of one SSE event. At least kJsonPadding bytes behind it may be read; payloads that are
  // not JSON are nobody's error but the provider's.
  virtual Effect OnEvent(std::string_view payload) = 0;
  // A whole body that is no event stream, with the same padding.
  virtual void OnDocument(std::string_view body) = 0;
  // Fills what the reader knows: usage, source, usage_present, complete, errors, model.
  virtual void Conclude(MeterResult* result) = 0;

  // deltas, visible_output_bytes, usage_present, reported_output_tokens are the reader's.
  MeterProgress progress;
};

std::unique_ptr<AnswerReader> NewChatAnswerReader(const MeterOptions& options);
std::unique_ptr<AnswerReader> NewMessagesAnswerReader(const MeterOptions& options);
std::unique_ptr<AnswerReader> NewResponsesAnswerReader(const MeterOptions& options);
std::unique_ptr<AnswerReader> NewEmbeddingsAnswerReader(const MeterOptions& options);
std::unique_ptr<AnswerReader> NewGeminiAnswerReader(const MeterOptions& options);
std::unique_ptr<AnswerReader> NewCountTokensAnswerReader();

}  // namespace tollhouse::edge
