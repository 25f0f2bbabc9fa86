#include "services/edge/dialect/refusal.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "services/edge/dialect/models.h"
#include "simdjson.h"

namespace tollhouse::edge {
namespace {

using common::v1::DIALECT_ANTHROPIC;
using common::v1::DIALECT_GEMINI;
using common::v1::DIALECT_OPENAI;
using Kind = Refusal::Kind;

// Regenerate with TOLLHOUSE_UPDATE_GOLDEN=1 after an intended change, and read the difference.
constexpr char kGoldenFile[] = "services/edge/dialect/testdata/refusals.golden";

ViolatedLimit Month() {
  ViolatedLimit v;
  v.budget = "acme/payments#month";
  v.reason = "budget_exhausted";
  v.limit_nanousd = 800'000'000'000;
  v.spent_nanousd = 799'990'000'001;
  v.held_nanousd = 5'000'000;
  v.needed_nanousd = 20'000'000;
  v.resets_at = absl::FromUnixSeconds(1796079600);
  return v;
}

ViolatedLimit Total() {
  ViolatedLimit v = Month();
  v.budget = "acme#total";
  v.suspense_nanousd = 1'500'000'000;
  v.resets_at.reset();
  return v;
}

ViolatedLimit Rate(const std::string& reason, int64_t limit) {
  ViolatedLimit v;
  v.budget = "acme/payments/sarah";
  v.reason = reason;
  v.limit = limit;
  return v;
}

std::vector<std::pair<std::string, Refusal>> Cases() {
  std::vector<std::pair<std::string, Refusal>> cases;
  const auto add = [&](const std::string& name, Refusal refusal) {
    refusal.request_id = "req-1";
    cases.emplace_back(name, std::move(refusal));
  };
  add("budget exhausted", {.kind = Kind::kBudgetExhausted, .violations = {Month(), Total()}});
  add("budget exhausted as 429", {.kind = Kind::kBudgetExhausted,
                                  .retry_after = absl::Hours(1),
                                  .violations = {Month()},
                                  .budget_status = 429});
  add("budget held", {.kind = Kind::kBudgetHeld,
                      .retry_after = absl::Milliseconds(1200),
                      .violations = {Month()}});
  add("budget blocked", {.kind = Kind::kBudgetBlocked, .violations = {Total()}});
  add("request rate", {.kind = Kind::kRequestRate,
                       .retry_after = absl::Seconds(7),
                       .violations = {Rate("requests_per_minute", 60)}});
  add("token rate", {.kind = Kind::kTokenRate,
                     .retry_after = absl::Seconds(7),
                     .violations = {Rate("tokens_per_minute", 10'000)}});
  add("concurrency", {.kind = Kind::kConcurrency, .violations = {Rate("concurrency", 5)}});
  add("bad request", {.kind = Kind::kBadRequest,
                      .message = "`n` must be from 1 to 128, not 0",
                      .code = "out_of_range",
                      .param = "n"});
  add("unauthenticated", {.kind = Kind::kUnauthenticated});
  add("forbidden", {.kind = Kind::kForbidden, .message = "This key may not use the model \"x\"."});
  add("model not found",
      {.kind = Kind::kModelNotFound, .message = "The model `x` does not exist.", .param = "model"});
  add("not found", {.kind = Kind::kNotFound});
  add("method not allowed", {.kind = Kind::kMethodNotAllowed});
  add("too large", {.kind = Kind::kTooLarge});
  add("request timeout", {.kind = Kind::kRequestTimeout});
  add("headers too large", {.kind = Kind::kHeadersTooLarge});
  add("upstream", {.kind = Kind::kUpstream});
  add("unavailable", {.kind = Kind::kUnavailable, .retry_after = absl::Seconds(2)});
  add("upstream timeout", {.kind = Kind::kUpstreamTimeout});
  add("internal", {.kind = Kind::kInternal});
  return cases;
}

TEST(RefusalTest, EveryCaseOfEveryDialectIsAsTheGoldenFileSays) {
  std::string rendered;
  simdjson::dom::parser parser;
  for (const auto& [name, refusal] : Cases()) {
    for (const auto dialect : {DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_GEMINI}) {
      const RenderedAnswer answer = Render(dialect, refusal);
      absl::StrAppend(&rendered, "## ", name, ", ", common::v1::Dialect_Name(dialect), "\n",
                      answer.status, "\n");
      for (const auto& [key, value] : answer.headers)
        absl::StrAppend(&rendered, key, ": ", value, "\n");
      absl::StrAppend(&rendered, answer.body, "\n\n");
      EXPECT_EQ(parser.parse(answer.body).error(), simdjson::SUCCESS) << answer.body;
      EXPECT_EQ(answer.headers.front().first, "content-type");
    }
  }
  if (std::getenv("TOLLHOUSE_UPDATE_GOLDEN") != nullptr) std::ofstream(kGoldenFile) << rendered;
  std::stringstream golden;
  golden << std::ifstream(kGoldenFile).rdbuf();
  EXPECT_EQ(rendered, golden.str());
}

std::string HeaderOf(const RenderedAnswer& answer, const std::string& name) {
  for (const auto& [key, value] : answer.headers) {
    if (key == name) return value;
  }
  return "";
}

// The contract's table of refusals.
TEST(RefusalTest, StatusAndRetryAreTheContracts) {
  const auto expect = [](Refusal refusal, common::v1::Dialect dialect, int status,
                         const std::string& retry) {
    const RenderedAnswer answer = Render(dialect, refusal);
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_EQ(HeaderOf(answer, "x-should-retry"), retry) << answer.body;
  };
  for (const auto dialect : {DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_GEMINI}) {
    const bool gemini = dialect == DIALECT_GEMINI;
    expect({.kind = Kind::kBudgetExhausted}, dialect, gemini ? 403 : 402, "false");
    expect({.kind = Kind::kBudgetExhausted, .budget_status = 429}, dialect, 429, "false");
    expect({.kind = Kind::kBudgetHeld}, dialect, 429, "true");
    expect({.kind = Kind::kBudgetBlocked}, dialect, 503, "true");
    expect({.kind = Kind::kRequestRate}, dialect, 429, "true");
    expect({.kind = Kind::kTokenRate}, dialect, 429, "true");
    expect({.kind = Kind::kConcurrency}, dialect, 429, "true");
    expect({.kind = Kind::kBadRequest}, dialect, 400, "false");
    expect({.kind = Kind::kUnauthenticated}, dialect, gemini ? 400 : 401, "false");
    expect({.kind = Kind::kForbidden}, dialect, 403, "false");
    expect({.kind = Kind::kModelNotFound}, dialect, 404, "false");
    expect({.kind = Kind::kUnavailable}, dialect, 503, "true");
    for (const Kind kind :
         {Kind::kBudgetHeld, Kind::kRequestRate, Kind::kUnavailable, Kind::kBudgetBlocked}) {
      EXPECT_NE(HeaderOf(Render(dialect, {.kind = kind}), "retry-after"), "");
    }
  }
  const RenderedAnswer denied =
      Render(DIALECT_OPENAI, {.kind = Kind::kBudgetExhausted, .violations = {Month(), Total()}});
  EXPECT_EQ(HeaderOf(denied, "x-tollhouse-denied-by"), "acme/payments#month, acme#total");
  EXPECT_EQ(HeaderOf(denied, "retry-after"), "");
}

TEST(RefusalTest, ClientsThatOverlookShouldRetryGiveUpOnTheWait) {
  EXPECT_EQ(HeaderOf(Render(DIALECT_OPENAI, {.kind = Kind::kBudgetExhausted,
                                             .retry_after = absl::Seconds(5),
                                             .budget_status = 429}),
                     "retry-after"),
            "121");
}

TEST(RefusalTest, HostileTextStaysInsideItsString) {
  Refusal refusal{.kind = Kind::kBadRequest,
                  .message = "a\"}\r\n\x01\xff\xc0\xaf\xed\xa0\x80 \xe2\x82\xac",
                  .param = "\"\\"};
  ViolatedLimit v = Month();
  v.budget = "acme\r\nx-evil: 1";
  refusal.violations = {v};
  for (const auto dialect : {DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_GEMINI}) {
    const RenderedAnswer answer = Render(dialect, refusal);
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    ASSERT_EQ(parser.parse(answer.body).get(root), simdjson::SUCCESS) << answer.body;
    std::string_view message;
    ASSERT_EQ(root["error"]["message"].get(message), simdjson::SUCCESS);
    EXPECT_EQ(
        message,
        "a\"}\r\n\x01\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
        "\xe2\x82\xac");
    for (const auto& [key, value] : answer.headers)
      EXPECT_EQ(value.find_first_of("\r\n"), std::string::npos);
  }
}

TEST(RefusalTest, MidStreamErrorsAreOneEventOfTheDialect) {
  const Refusal refusal{.kind = Kind::kBudgetExhausted, .message = "cut"};
  EXPECT_EQ(MidStreamError(DIALECT_OPENAI, refusal),
            "data: "
            "{\"error\":{\"message\":\"cut\",\"type\":\"insufficient_quota\",\"param\":null,"
            "\"code\":\"insufficient_quota\"}}\n\n");
  EXPECT_EQ(MidStreamError(DIALECT_ANTHROPIC, refusal),
            "event: error\ndata: "
            "{\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"cut\"}}\n\n");
  EXPECT_EQ(MidStreamError(DIALECT_GEMINI, refusal).substr(0, 37),
            "data: {\"error\":{\"code\":403,\"message\":");
}

TEST(RefusalTest, FailedScansBecomeRefusals) {
  const Refusal bad = RefusalOf(
      MakeError(absl::StatusCode::kInvalidArgument, "WRONG_TYPE", "no", {{"param", "n"}}));
  EXPECT_EQ(bad.kind, Kind::kBadRequest);
  EXPECT_EQ(bad.code, "wrong_type");
  EXPECT_EQ(bad.param, "n");
  EXPECT_EQ(RefusalOf(MakeError(absl::StatusCode::kResourceExhausted, "BODY_TOO_LARGE", "x")).kind,
            Kind::kTooLarge);
  EXPECT_EQ(
      RefusalOf(MakeError(absl::StatusCode::kFailedPrecondition, "UNBOUNDED_REQUEST", "x")).kind,
      Kind::kForbidden);
  EXPECT_EQ(RefusalOf(MakeError(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND", "x")).kind,
            Kind::kModelNotFound);
  EXPECT_EQ(RefusalOf(absl::UnavailableError("x")).kind, Kind::kUnavailable);
  EXPECT_EQ(RefusalOf(absl::UnknownError("secret detail")).message, "");
}

TEST(ModelsTest, ListsAreInTheDialectsShape) {
  const std::vector<ModelEntry> models = {
      {"openai/gpt-4o", "openai", absl::FromUnixSeconds(1700000000)}};
  EXPECT_EQ(
      RenderModels(DIALECT_OPENAI, models),
      R"({"object":"list","data":[{"id":"openai/gpt-4o","object":"model","created":1700000000,"owned_by":"openai"}]})");
  EXPECT_EQ(
      RenderModels(DIALECT_ANTHROPIC, models),
      R"({"data":[{"type":"model","id":"openai/gpt-4o","display_name":"openai/gpt-4o","created_at":"2023-11-14T22:13:20Z"}],"has_more":false,"first_id":"openai/gpt-4o","last_id":"openai/gpt-4o"})");
  EXPECT_EQ(RenderModels(DIALECT_ANTHROPIC, {}),
            R"({"data":[],"has_more":false,"first_id":null,"last_id":null})");
  EXPECT_EQ(RenderModels(DIALECT_GEMINI, models),
            R"({"models":[{"name":"models/openai/gpt-4o","displayName":"openai/gpt-4o"}]})");
}

}  // namespace
}  // namespace tollhouse::edge
