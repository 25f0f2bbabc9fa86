#include "libs/identity/token.h"

#include <gtest/gtest.h>

#include <random>

#include "libs/base/error.h"
#include "libs/testing/seed.h"

namespace tollhouse::identity {
namespace {

TEST(TokenTest, LooksLikeTokenTellsThemFromKeys) {
  EXPECT_TRUE(LooksLikeToken("eyJhbGciOiJSUzI1NiJ9.e30.c2ln"));
  EXPECT_FALSE(LooksLikeToken("sk-toll-abc-def"));
  EXPECT_FALSE(LooksLikeToken("eyJhbGciOiJSUzI1NiJ9.e30"));
  EXPECT_FALSE(LooksLikeToken(""));
}

TEST(TokenTest, RandomTextsNeverDoHarm) {
  std::mt19937_64 random(testing::TestSeed());
  const std::string seed = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.eyJpc3MiOiJhIiwiZXhwIjoxLCJhdWQiOlsieCJdfQ.c2ln";
  for (int i = 0; i < 20'000; ++i) {
    std::string text = seed;
    for (int changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.erase(at, 1 + random() % 8); break;
        default: text.insert(at, 1, static_cast<char>(random()));
      }
      if (text.empty()) text = ".";
    }
    const auto token = ParseToken(text);
    if (!token.ok()) {
      ASSERT_EQ(ReasonOf(token.status()), "BAD_TOKEN") << text;
    }
  }
}

}  // namespace
}  // namespace tollhouse::identity
