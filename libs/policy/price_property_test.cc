// Random prices and usages against arithmetic of arbitrary precision. 20,000 cases, 10^6 with
// TOLLHOUSE_TEST_LONG set.
#include <openssl/bn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <tuple>

#include "gtest/gtest.h"
#include "libs/policy/price.h"
#include "libs/testing/seed.h"

namespace tollhouse::policy {
namespace {

using common::v1::Usage;
using router::v1::ModelPrice;

int Cases() { return std::getenv("TOLLHOUSE_TEST_LONG") != nullptr ? 1'000'000 : 20'000; }

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [0, limit], small numbers and the edges often.
  int64_t Upto(int64_t limit) {
    switch (engine_() % 8) {
      case 0:
        return 0;
      case 1:
        return limit;
      case 2:
        return std::min<int64_t>(limit, static_cast<int64_t>(engine_() % 100));
      default:
        return static_cast<int64_t>(engine_() % (static_cast<uint64_t>(limit) + 1));
    }
  }
  bool OneIn(int n) { return engine_() % n == 0; }
  size_t Below(size_t n) { return engine_() % n; }

 private:
  std::mt19937_64 engine_;
};

// Non-negative integers without bounds.
class Big {
 public:
  Big() : number_(BN_new()) {}
  void AddProduct(std::initializer_list<int64_t> factors) {
    std::unique_ptr<BIGNUM, decltype(&BN_free)> product(BN_new(), BN_free);
    BN_one(product.get());
    for (const int64_t factor : factors) BN_mul_word(product.get(), static_cast<BN_ULONG>(factor));
    BN_add(number_.get(), number_.get(), product.get());
  }
  // Divides, rounding up; -1 if the result has more than 63 bits.
  int64_t CeilDiv(int64_t by) {
    const BN_ULONG rest = BN_div_word(number_.get(), static_cast<BN_ULONG>(by));
    if (rest != 0) BN_add_word(number_.get(), 1);
    return BN_num_bits(number_.get()) > 63 ? -1 : static_cast<int64_t>(BN_get_word(number_.get()));
  }

 private:
  struct Free {
    void operator()(BIGNUM* number) const { BN_free(number); }
  };
  std::unique_ptr<BIGNUM, Free> number_;
};

constexpr const char* kTierWords[] = {"", "", "batch", "flex", "priority"};  // by enum value
constexpr int64_t kSteps[] = {0, 128'000, 200'000, 272'000};

void AddRate(int token_class, int tier, int64_t step, int64_t nanos, ModelPrice* price) {
  router::v1::Rate* rate = price->add_rates();
  rate->set_token_class(static_cast<router::v1::TokenClass>(token_class));
  rate->set_tier(static_cast<router::v1::ServiceTier>(tier));
  rate->set_above_input_tokens(step);
  rate->set_nanousd_per_mtok(nanos);
}

Usage RandomUsage(Random* random, int64_t limit) {
  Usage usage;
  usage.set_input_tokens_uncached(random->Upto(limit));
  usage.set_cache_read_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_cache_write_5m_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_cache_write_1h_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_tool_use_input_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_audio_input_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_image_input_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_output_tokens(random->Upto(limit));
  usage.set_reasoning_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_audio_output_tokens(random->OneIn(2) ? 0 : random->Upto(limit));
  usage.set_web_search_calls(random->OneIn(2) ? 0 : random->Upto(1000));
  return usage;
}

TEST(PricePropertyTest, CostIsExactForFullyStatedPrices) {
  Random random(testing::TestSeed());
  for (int i = 0; i < Cases(); ++i) {
    ModelPrice price;
    price.set_vendor(random.OneIn(4) ? "xai" : "openai");
    price.set_model("m");
    const int64_t max_rate = random.OneIn(3) ? 1'000'000'000'000'000 : 100'000'000'000;
    std::map<std::tuple<int, int, int64_t>, int64_t> rates;
    const size_t steps = 1 + random.Below(4);
    const int tiers = random.OneIn(2) ? 1 : 4;
    for (int token_class = 1; token_class <= 9; ++token_class) {
      for (int tier = 1; tier <= tiers; ++tier) {
        for (size_t s = 0; s < steps; ++s) {
          const int64_t nanos = random.Upto(max_rate);
          rates[{token_class, tier, kSteps[s]}] = nanos;
          AddRate(token_class, tier, kSteps[s], nanos, &price);
        }
      }
    }
    price.set_search_medium_nanousd(1 + random.Upto(50'000'000));
    const int64_t factor = 1 + random.Upto(5'000'000);
    (*price.mutable_multipliers_ppm())["speed:fast"] = factor;

    UsageLines usage;
    Big expected;
    const size_t lines = random.OneIn(3) ? 1 + random.Below(4) : 1;
    for (size_t l = 0; l < lines; ++l) {
      common::v1::UsageLine* line = usage.Add();
      *line->mutable_usage() = RandomUsage(&random, random.OneIn(4) ? 10'000'000'000 : 400'000);
      const int tier = 1 + static_cast<int>(random.Below(tiers));
      line->set_service_tier(kTierWords[tier]);
      const bool fast = random.OneIn(2);
      if (fast) line->add_modifiers("speed:fast");
      const Usage& u = line->usage();
      const int64_t total = u.input_tokens_uncached() + u.cache_read_tokens() +
                            u.cache_write_5m_tokens() + u.cache_write_1h_tokens() +
                            u.tool_use_input_tokens() + u.audio_input_tokens() +
                            u.image_input_tokens();
      int64_t step = 0;
      for (size_t s = 1; s < steps; ++s) {
        if (total > kSteps[s] || (price.vendor() == "xai" && total == kSteps[s])) step = kSteps[s];
      }
      const int64_t reasoning = std::min(u.reasoning_tokens(), u.output_tokens());
      const std::pair<int, int64_t> parts[] = {
          {1, u.input_tokens_uncached() + u.tool_use_input_tokens()},
          {2, u.output_tokens() - reasoning},
          {3, u.cache_read_tokens()},
          {4, u.cache_write_5m_tokens()},
          {5, u.cache_write_1h_tokens()},
          {6, reasoning},
          {7, u.audio_input_tokens()},
          {8, u.audio_output_tokens()},
          {9, u.image_input_tokens()}};
      for (const auto& [token_class, tokens] : parts) {
        expected.AddProduct({tokens, rates[{token_class, tier, step}], fast ? factor : 1'000'000});
      }
      expected.AddProduct(
          {u.web_search_calls(), price.search_medium_nanousd(), 1'000'000, 1'000'000});
    }
    const int64_t nanos = expected.CeilDiv(1'000'000'000'000);
    const auto cost = CostOf(price, usage);
    if (nanos < 0) {
      ASSERT_EQ(cost.status().code(), absl::StatusCode::kOutOfRange) << "case " << i;
      continue;
    }
    ASSERT_TRUE(cost.ok()) << "case " << i << ": " << cost.status();
    ASSERT_EQ(cost->amount.nanos(), nanos) << "case " << i << ": " << cost->detail_json;
    const auto again = RecomputeFromDetail(cost->detail_json, usage);
    ASSERT_TRUE(again.ok()) << "case " << i << ": " << again.status();
    ASSERT_EQ(again->nanos(), nanos) << "case " << i;
  }
}

// Splits `total` over `parts` counts at random.
std::vector<int64_t> Split(Random* random, int64_t total, size_t parts) {
  std::vector<int64_t> counts(parts);
  for (size_t i = 0; i + 1 < parts; ++i) {
    counts[i] = random->OneIn(3) ? 0 : random->Upto(total);
    total -= counts[i];
  }
  counts[parts - 1] = random->OneIn(2) ? total : random->Upto(total);
  return counts;
}

TEST(PricePropertyTest, NoUsageWithinTheBoundCostsMoreThanTheBound) {
  Random random(testing::TestSeed());
  for (int i = 0; i < Cases(); ++i) {
    ModelPrice price;
    const char* const vendors[] = {"xai", "openai", "anthropic", "gemini"};
    price.set_vendor(vendors[random.Below(4)]);
    price.set_model(random.OneIn(3) ? "claude-x" : "m");
    const int64_t max_rate = 1 + random.Upto(100'000'000'000);
    AddRate(router::v1::TOKEN_CLASS_INPUT, router::v1::SERVICE_TIER_STANDARD, 0,
            random.Upto(max_rate), &price);
    const int sparse = 1 + static_cast<int>(random.Below(8));
    for (int token_class = 1; token_class <= 9; ++token_class) {
      for (int tier = 1; tier <= 4; ++tier) {
        for (const int64_t step : kSteps) {
          if ((token_class > 1 || tier > 1 || step > 0) && random.OneIn(sparse)) {
            AddRate(token_class, tier, step, random.Upto(max_rate), &price);
          }
        }
      }
    }
    if (random.OneIn(2)) price.set_search_low_nanousd(random.Upto(50'000'000));
    if (random.OneIn(2)) price.set_search_medium_nanousd(random.Upto(50'000'000));
    if (random.OneIn(2)) price.set_search_high_nanousd(random.Upto(50'000'000));
    for (const char* name : {"geo:us", "geo:eu", "speed:fast"}) {
      if (random.OneIn(2)) {
        (*price.mutable_multipliers_ppm())[name] = 1000 + random.Upto(6'000'000);
      }
    }
    if (random.OneIn(2)) price.set_regional_uplift_eu_ppm(1'000'000 + random.Upto(100'001));

    TokenBound bound;
    bound.input_tokens = random.Upto(random.OneIn(2) ? 400'000 : 1'000);
    bound.output_tokens = random.Upto(100'000);
    bound.cache_write_5m = random.OneIn(2);
    bound.cache_write_1h = random.OneIn(2);
    bound.audio_input = random.OneIn(2);
    bound.web_search_calls = random.OneIn(2) ? 0 : random.Upto(20);
    const char* const tiers[] = {"", "auto", "default", "flex", "priority", "batch"};
    bound.service_tier = tiers[random.Below(6)];
    if (random.OneIn(2)) bound.modifiers.push_back("speed:fast");
    if (random.OneIn(2)) bound.modifiers.push_back("region:eu");
    const auto limit = BoundCost(price, bound);
    ASSERT_TRUE(limit.ok()) << "case " << i << ": " << limit.status();

    const bool writes =
        bound.cache_write_5m || (price.vendor() != "anthropic" && price.model() == "m");
    const size_t lines = random.OneIn(3) ? 1 + random.Below(3) : 1;
    UsageLines usage;
    const auto inputs = Split(&random, bound.input_tokens, lines);
    const auto outputs = Split(&random, bound.output_tokens, lines);
    const auto searches = Split(&random, bound.web_search_calls, lines);
    for (size_t l = 0; l < lines; ++l) {
      common::v1::UsageLine* line = usage.Add();
      Usage* u = line->mutable_usage();
      const auto in = Split(&random, inputs[l], 8);
      u->set_input_tokens_uncached(in[0]);
      u->set_cache_read_tokens(in[1]);
      u->set_tool_use_input_tokens(in[2]);
      u->set_image_input_tokens(in[3]);
      if (writes) u->set_cache_write_5m_tokens(in[4]);
      if (bound.cache_write_1h) u->set_cache_write_1h_tokens(in[5]);
      if (bound.audio_input) u->set_audio_input_tokens(in[6]);
      if (bound.audio_input) u->set_audio_cache_read_tokens(in[7]);
      const auto out = Split(&random, outputs[l], 3);
      u->set_output_tokens(out[0]);
      u->set_reasoning_tokens(random.Upto(out[0]));
      u->set_audio_output_tokens(out[1]);
      u->set_image_output_tokens(out[2]);
      u->set_web_search_calls(searches[l]);
      const bool any = bound.service_tier.empty() || bound.service_tier == "auto";
      const char* const chosen[] = {"", "flex", "priority"};
      line->set_service_tier(any ? chosen[random.Below(3)]
                                 : random.OneIn(2) ? "default" : bound.service_tier);
      if (random.OneIn(2)) line->add_modifiers(random.OneIn(2) ? "geo:us" : "geo:eu");
      for (const std::string& modifier : bound.modifiers) {
        if (random.OneIn(2)) line->add_modifiers(modifier);
      }
      if (random.OneIn(3)) line->add_modifiers(random.OneIn(2) ? "search:low" : "search:high");
    }
    const auto cost = CostOf(price, usage);
    ASSERT_TRUE(cost.ok()) << "case " << i << ": " << cost.status();
    ASSERT_LE(cost->amount.nanos(), limit->nanos())
        << "case " << i << ": " << cost->detail_json << "\n"
        << price.ShortDebugString();
  }
}

}  // namespace
}  // namespace tollhouse::policy
