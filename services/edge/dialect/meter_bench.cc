// What metering costs: bytes of JSON answers per second of one core, and nanoseconds per SSE event.
//
//   meter_bench [SECONDS]
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "services/edge/dialect/meter.h"
#include "services/edge/dialect/request.h"

namespace tollhouse::edge {
namespace {

constexpr size_t kPiece = 64 << 10;  // how the relay reads

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// Prose with an escape now and then.
std::string Text(size_t bytes) {
  std::string text;
  while (text.size() < bytes)
    text += "The quick brown fox jumps over the lazy dog.\\n\\\"So\\\" it is. ";
  return text;
}

void Measure(const char* what, Endpoint endpoint, bool sse, const std::string& body, int events,
             double seconds) {
  std::string downstream;
  size_t bytes = 0;
  int64_t rounds = 0;
  int64_t tokens = 0;
  const double began = CpuSeconds();
  double now = began;
  while (now - began < seconds) {
    const auto meter = NewResponseMeter(endpoint, sse);
    for (size_t at = 0; at < body.size(); at += kPiece) {
      downstream.clear();
      meter->Feed(std::string_view(body).substr(at, kPiece), &downstream);
    }
    const MeterResult result = meter->Finish(&downstream);
    if (!result.usage_present) std::abort();
    tokens += result.usage[0].usage().output_tokens();
    bytes += body.size();
    ++rounds;
    now = CpuSeconds();
  }
  const double used = now - began;
  std::printf("%-28s %8.0f MB/s per core", what, static_cast<double>(bytes) / used / 1e6);
  if (events > 0) {
    std::printf("  %6.0f ns per event", used * 1e9 / (static_cast<double>(rounds) * events));
  }
  std::printf("  (%lld rounds, %lld tokens)\n", static_cast<long long>(rounds),
              static_cast<long long>(tokens));
}

void Run(double seconds) {
  std::printf("JSON kernel: %s\n", JsonKernel().c_str());
  const std::string text = Text(1 << 20);
  const char* usage = R"("usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15})";
  Measure("chat JSON, 1 MB", Endpoint::kChatCompletions, false,
          R"({"model":"m","choices":[{"index":0,"message":{"content":")" + text +
              R"("},"finish_reason":"stop"}],)" + usage + "}",
          0, seconds);
  Measure("messages JSON, 1 MB", Endpoint::kMessages, false,
          R"({"type":"message","model":"m","content":[{"type":"text","text":")" + text +
              R"("}],"usage":{"input_tokens":1,"output_tokens":2}})",
          0, seconds);
  Measure(
      "responses JSON, 1 MB", Endpoint::kResponses, false,
      R"({"id":"r","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":")" +
          text + R"("}]}],"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}})",
      0, seconds);
  Measure(
      "Gemini JSON, 1 MB", Endpoint::kGenerateContent, false,
      R"({"candidates":[{"content":{"parts":[{"text":")" + text +
          R"("}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2}})",
      0, seconds);
  std::string vector = "[0.0123456789";
  while (vector.size() < (1 << 20)) vector += ",-0.0123456789";
  Measure("embeddings JSON, 1 MB", Endpoint::kEmbeddings, false,
          R"({"data":[{"index":0,"embedding":)" + vector + R"(]}],"usage":{"prompt_tokens":3}})", 0,
          seconds);
  std::string events;
  for (int i = 0; i < 5000; ++i) {
    events +=
        "data: {\"id\":\"chatcmpl-1234567890\",\"object\":\"chat.completion.chunk\",\"created\":1,"
        "\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"},"
        "\"finish_reason\":null}],\"usage\":null}\n\n";
  }
  events += std::string("data: {\"choices\":[],") + usage + "}\n\ndata: [DONE]\n\n";
  Measure("chat SSE", Endpoint::kChatCompletions, true, events, 5002, seconds);
}

}  // namespace
}  // namespace tollhouse::edge

int main(int argc, char** argv) {
  double seconds = 1;
  if (argc > 1 && !absl::SimpleAtod(argv[1], &seconds)) return 2;
  tollhouse::edge::Run(seconds);
  return 0;
}
