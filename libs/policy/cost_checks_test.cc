// Costs that providers and gateways reported for recorded calls, by the prices of the shipped book,
// to the last digit. The facts: testdata/cost_checks.csv, and another file of that form named by
// TOLLHOUSE_COST_CHECKS.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/money.h"
#include "libs/policy/policy.h"
#include "libs/policy/price_book.h"

namespace tollhouse::policy {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// One record of a CSV; quotes may hold commas.
std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back().push_back(c);
    }
  }
  return cells;
}

int64_t Number(const std::string& cell) {
  int64_t value = 0;
  EXPECT_TRUE(absl::SimpleAtoi(cell, &value)) << cell;
  return value;
}

void CheckFile(const Policy& policy, const std::string& path) {
  int checked = 0;
  for (const absl::string_view record : absl::StrSplit(ReadFile(path), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> cells = Cells(std::string(record));
    if (cells[0] == "source") continue;
    SCOPED_TRACE(cells[0]);
    ASSERT_GE(cells.size(), 10u);
    std::string vendor = cells[1], model = cells[2];
    // A router that passes its vendors' prices on; it spells Claude's names its own way.
    if (vendor == "openrouter") {
      const std::vector<std::string> parts = absl::StrSplit(model, '/');
      vendor = parts[0];
      model = parts[1] == "claude-4.6-sonnet" ? "claude-sonnet-4-6" : parts[1];
    }
    const router::v1::ModelPrice* price =
        policy.FindPrice(vendor, model, absl::FromUnixSeconds(1'785'000'000));
    ASSERT_NE(price, nullptr) << vendor << " " << model;
    const int64_t input = Number(cells[3]), cached = Number(cells[4]), written = Number(cells[5]);
    UsageLines lines;
    common::v1::Usage* usage = lines.Add()->mutable_usage();
    usage->set_input_tokens_uncached(input - cached - written);
    usage->set_cache_read_tokens(cached);
    usage->set_cache_write_5m_tokens(written);
    usage->set_output_tokens(Number(cells[6]));
    usage->set_reasoning_tokens(Number(cells[7]));
    router::v1::ModelPrice searching = *price;
    if (cells[8].find("web search") != std::string::npos) {
      usage->set_web_search_calls(1);
      searching.set_search_medium_nanousd(10'000'000);  // what that router takes for one
    }
    const auto cost = CostOf(searching, lines);
    ASSERT_TRUE(cost.ok()) << cost.status();
    const auto reported = ParseUsd(cells[9]);
    ASSERT_TRUE(reported.ok()) << cells[9];
    EXPECT_EQ(cost->amount.nanos(), reported->nanos());
    ++checked;
  }
  std::printf("checked %d reported costs of %s\n", checked, path.c_str());
  EXPECT_GE(checked, 10);
}

TEST(CostChecksTest, ReportedCostsAreReproducedByTheShippedBook) {
  const auto book = ParsePriceBook(ReadFile("services/router-policy/prices/pricebook.txt"));
  ASSERT_TRUE(book.ok()) << book.status();
  router::v1::PolicySnapshot snapshot;
  snapshot.mutable_prices()->Assign(book->prices.begin(), book->prices.end());
  snapshot.mutable_aliases()->Assign(book->aliases.begin(), book->aliases.end());
  const auto policy = Policy::Compile(snapshot);
  CheckFile(*policy, "libs/policy/testdata/cost_checks.csv");
  if (const char* more = std::getenv("TOLLHOUSE_COST_CHECKS")) CheckFile(*policy, more);
}

}  // namespace
}  // namespace tollhouse::policy
