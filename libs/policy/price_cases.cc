// Prices cases for price_reference_test.py: lines "price ..." (the book's format) and "usage TIER
// MODIFIERS CONTRACT_PPM COUNT...", where MODIFIERS is "-" or a list with commas and the counts are
// the fields of Usage in the order below; answers each usage with its cost in nano-USD.
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/policy/price.h"
#include "libs/policy/price_book.h"

namespace tollhouse::policy {
namespace {

using Setter = void (common::v1::Usage::*)(int64_t);
constexpr Setter kSetters[] = {&common::v1::Usage::set_input_tokens_uncached,
                               &common::v1::Usage::set_cache_read_tokens,
                               &common::v1::Usage::set_cache_write_5m_tokens,
                               &common::v1::Usage::set_cache_write_1h_tokens,
                               &common::v1::Usage::set_tool_use_input_tokens,
                               &common::v1::Usage::set_audio_input_tokens,
                               &common::v1::Usage::set_audio_cache_read_tokens,
                               &common::v1::Usage::set_image_input_tokens,
                               &common::v1::Usage::set_output_tokens,
                               &common::v1::Usage::set_reasoning_tokens,
                               &common::v1::Usage::set_audio_output_tokens,
                               &common::v1::Usage::set_image_output_tokens,
                               &common::v1::Usage::set_web_search_calls,
                               &common::v1::Usage::set_file_search_calls,
                               &common::v1::Usage::set_code_sessions};

int Run() {
  std::ios::sync_with_stdio(false);
  PriceBook book;
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.starts_with("price ")) {
      auto parsed = ParsePriceBook(line);
      if (!parsed.ok()) {
        std::cerr << parsed.status().message() << "\n" << line << "\n";
        return 1;
      }
      book = *std::move(parsed);
      continue;
    }
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    UsageLines lines;
    common::v1::UsageLine* usage = lines.Add();
    if (words[1] != "-") usage->set_service_tier(words[1]);
    if (words[2] != "-") {
      for (const absl::string_view word : absl::StrSplit(words[2], ',')) {
        usage->add_modifiers(std::string(word));
      }
    }
    int64_t contract_ppm = 0, count = 0;
    if (!absl::SimpleAtoi(words[3], &contract_ppm)) return 1;
    for (size_t i = 0; i < std::size(kSetters); ++i) {
      if (!absl::SimpleAtoi(words[4 + i], &count)) return 1;
      (usage->mutable_usage()->*kSetters[i])(count);
    }
    const auto cost =
        CostOf([&](std::string_view) { return &book.prices.front(); }, lines, contract_ppm);
    const std::string answer =
        cost.ok() ? absl::StrCat(cost->amount.nanos()) : std::string(cost.status().message());
    std::puts(answer.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace tollhouse::policy

int main() { return tollhouse::policy::Run(); }
