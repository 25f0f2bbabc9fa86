#include "services/edge/dialect/meter.h"

#include <string>

#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {
namespace {

using edge::Endpoint;

constexpr Endpoint kEndpoints[] = {Endpoint::kChatCompletions,    Endpoint::kCompletions,
                                   Endpoint::kResponses,          Endpoint::kMessages,
                                   Endpoint::kCountTokens,        Endpoint::kEmbeddings,
                                   Endpoint::kGenerateContent,    Endpoint::kStreamGenerateContent,
                                   Endpoint::kBatchEmbedContents, Endpoint::kModerations};
constexpr const char* kEncodings[] = {"", "", "", "", "gzip", "deflate", "br", "zstd", "unknown"};

struct Outcome {
  std::string downstream;
  std::string usage;
  bool complete = false;
  bool unmetered = false;
};

Outcome Run(Endpoint endpoint, bool sse, const edge::MeterOptions& options, std::string_view body,
            size_t piece) {
  const auto meter = edge::NewResponseMeter(endpoint, sse, options);
  Outcome outcome;
  while (!body.empty()) {
    const std::string part(body.substr(0, piece));
    meter->Feed(part, &outcome.downstream);
    body.remove_prefix(part.size());
    if (meter->at_event_boundary()) meter->ErrorEnd("data: {}\n\n");
  }
  const edge::MeterResult result = meter->Finish(&outcome.downstream);
  for (const auto& line : result.usage) {
    outcome.usage += line.SerializeAsString() + ";";
    const auto& u = line.usage();
    for (const int64_t count :
         {u.input_tokens_uncached(), u.cache_read_tokens(), u.cache_write_5m_tokens(),
          u.cache_write_1h_tokens(), u.tool_use_input_tokens(), u.audio_input_tokens(),
          u.audio_cache_read_tokens(), u.image_input_tokens(), u.output_tokens(),
          u.reasoning_tokens(), u.audio_output_tokens(), u.image_output_tokens(),
          u.web_search_calls(), u.file_search_calls(), u.code_sessions()}) {
      Promise(count >= 0, "no count is negative");
    }
  }
  Promise(result.usage_present || result.usage.empty(), "no usage without usage");
  outcome.complete = result.complete;
  outcome.unmetered = result.unmetered;
  return outcome;
}

}  // namespace

void Meter(std::string_view input) {
  Choices choices(&input);
  const Endpoint endpoint = kEndpoints[choices.Next() % std::size(kEndpoints)];
  const uint8_t flags = choices.Next();
  const size_t piece = 1 + choices.Next() % 64;
  edge::MeterOptions options;
  options.content_encoding = kEncodings[choices.Next() % std::size(kEncodings)];
  options.drop_usage_chunk = (flags & 1) != 0;
  options.inference_input_max = (flags & 2) != 0 ? 1000 : 0;
  const bool sse = (flags & 4) != 0;
  const Outcome whole = Run(endpoint, sse, options, input, input.size() + 1);
  const Outcome pieces = Run(endpoint, sse, options, input, piece);
  Promise(whole.complete == pieces.complete, "completeness does not depend on the split");
  if (!options.drop_usage_chunk) {
    Promise(whole.downstream == input && pieces.downstream == input, "bytes pass as they are");
  }
  if (!options.content_encoding.empty() && whole.unmetered && pieces.unmetered) {
    // How much of a corrupt encoding comes out before its decoder notices is the decoder's affair; but
    // of the same answer, in whole events.
    const std::string& shorter =
        whole.downstream.size() < pieces.downstream.size() ? whole.downstream : pieces.downstream;
    Promise(whole.downstream.compare(0, shorter.size(), shorter) == 0 &&
                pieces.downstream.compare(0, shorter.size(), shorter) == 0,
            "what came out of a corrupt encoding differs in its end alone");
    return;
  }
  Promise(whole.unmetered == pieces.unmetered, "what cannot be metered does not depend on the split");
  Promise(whole.usage == pieces.usage, "usage does not depend on the split");
  Promise(whole.downstream == pieces.downstream, "bytes do not depend on the split");
}

}  // namespace tollhouse::fuzz
