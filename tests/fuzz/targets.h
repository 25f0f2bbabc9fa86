// What is fuzzed: functions that take any bytes and abort where a promise is broken. tests/fuzz/run
// builds each with libFuzzer; fuzz_replay_test runs all of them over the corpora that are kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace tollhouse::fuzz {

// Events at any split of the bytes: the same ones, and every byte in exactly one.
void SseSplitter(std::string_view input);
// The meter of every endpoint: the same usage and the same bytes at any split; untouched bytes
// where nothing is to be dropped; counts that are never negative.
void Meter(std::string_view input);
// Requests of every endpoint: what was read, bounded and spliced reads as what was spliced in.
void Request(std::string_view input);
// Price books: what was read is what its canonical text reads as.
void PriceBook(std::string_view input);

// Heads of requests and answers: their end at any split, what an accepted request cannot have.
void HttpHead(std::string_view input);
// What stands where a key is expected: virtual keys, tokens of identity providers; and networks.
void Bearer(std::string_view input);

struct Target {
  const char* name;
  void (*run)(std::string_view input);
};
inline constexpr Target kTargets[] = {{"sse_splitter", SseSplitter},
                                      {"meter", Meter},
                                      {"request", Request},
                                      {"price_book", PriceBook},
                                      {"http_head", HttpHead},
                                      {"bearer", Bearer}};

// Ends the program where `holds` is false.
inline void Promise(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// Cuts the input's first bytes off as choices.
class Choices {
 public:
  explicit Choices(std::string_view* input) : input_(input) {}
  uint8_t Next() {
    if (input_->empty()) return 0;
    const auto value = static_cast<uint8_t>(input_->front());
    input_->remove_prefix(1);
    return value;
  }

 private:
  std::string_view* const input_;
};

}  // namespace tollhouse::fuzz
