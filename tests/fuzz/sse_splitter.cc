#include <string>
#include <vector>

#include "services/edge/dialect/sse.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {
namespace {

struct Seen {
  std::string bytes;
  // The data of each event; continuations are the line feeds of events before.
  std::vector<std::string> data;
};

Seen Split(std::string_view body, size_t piece) {
  Seen seen;
  edge::SseSplitter splitter;
  const auto on_event = [&](const edge::SseEvent& event) {
    seen.bytes += event.raw;
    Promise(event.readable >= event.raw.size(), "an event can be read whole");
    if (event.continuation) return;
    std::string data;
    for (const auto& slice : *event.data) {
      Promise(slice.offset + slice.length <= event.raw.size(), "data lies within its event");
      data.append(event.raw.substr(slice.offset, slice.length));
      data.push_back('\n');
    }
    if (!data.empty()) seen.data.push_back(std::move(data));
  };
  while (!body.empty()) {
    const std::string part(body.substr(0, piece));  // its own memory, for sanitizers
    splitter.Feed(part, on_event);
    body.remove_prefix(part.size());
  }
  splitter.Finish(on_event);
  return seen;
}

}  // namespace

void SseSplitter(std::string_view input) {
  const size_t piece = 1 + Choices(&input).Next() % 16;
  const Seen whole = Split(input, input.size() + 1);
  const Seen pieces = Split(input, piece);
  Promise(whole.bytes == input, "every byte is in one event");
  Promise(pieces.bytes == input, "every byte is in one event, at any split");
  Promise(pieces.data == whole.data, "events do not depend on the split");
}

}  // namespace tollhouse::fuzz
