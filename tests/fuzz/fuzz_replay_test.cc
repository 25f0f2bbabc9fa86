// The kept corpora through every fuzz target: no clang needed. What a fuzzer once found stays
// found.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "libs/testing/seed.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {
namespace {

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

class FuzzReplayTest : public ::testing::TestWithParam<Target> {};

TEST_P(FuzzReplayTest, KeepsItsPromisesOnTheCorpusAndNearIt) {
  const Target& target = GetParam();
  std::vector<std::string> corpus;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string("tests/fuzz/corpus/") + target.name)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) corpus.push_back(ReadFile(path));
  ASSERT_FALSE(corpus.empty());
  target.run("");
  for (const std::string& input : corpus) target.run(input);
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 2'000; ++round) {
    std::string input = corpus[random() % corpus.size()];
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0 && !input.empty(); --edits) {
      const size_t at = random() % input.size();
      switch (random() % 3) {
        case 0:
          input[at] = static_cast<char>(random());
          break;
        case 1:
          input.erase(at, 1 + random() % 8);
          break;
        default:
          input.insert(at, input.substr(random() % input.size(), random() % 16));
          break;
      }
    }
    if (input.size() < 20'000) target.run(input);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FuzzReplayTest, ::testing::ValuesIn(kTargets),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace tollhouse::fuzz
