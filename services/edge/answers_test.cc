// Recorded answers through the whole edge: a provider that replays them over a socket in every split
// and every encoding, a caller that wants the same bytes, a ledger that wants the sidecar's usage.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/obs/log.h"
#include "libs/testing/seed.h"
#include "services/edge/app.h"
#include "services/edge/dialect/answers_testing.h"
#include "services/edge/edge_testing.h"

namespace tollhouse::edge {
namespace {

using ledger::v1::Entry;

constexpr int kRandomSplits = 100;
constexpr int kCallers = 3;

// One call: an answer, its bytes in an encoding, and how they are cut.
struct Replay {
  const RecordedAnswer* answer = nullptr;
  const std::string* bytes = nullptr;
  std::string encoding;
  int split = 0;  // 0: whole, 1: one byte at a time, above: seeds a random one
  bool asks_for_usage = true;

  std::string Id(size_t index) const {
    return absl::StrCat("r", index, "/", answer->id, "/", encoding.empty() ? "identity" : encoding,
                        "/", split, asks_for_usage ? "" : "/injected");
  }
};

std::string Request(const RecordedAnswer& answer, const std::string& key, const std::string& id,
                    size_t index, bool asks_for_usage) {
  std::string path, body;
  const char* const stream = answer.sse ? "true" : "false";
  switch (answer.endpoint) {
    case Endpoint::kChatCompletions:
    case Endpoint::kCompletions:
      path = answer.endpoint == Endpoint::kCompletions ? "/v1/completions" : "/v1/chat/completions";
      body = absl::StrCat(R"({"model":"model-x","max_tokens":9000000,"stream":)", stream,
                          answer.sse && asks_for_usage
                              ? R"(,"stream_options":{"include_usage":true})" : "",
                          answer.endpoint == Endpoint::kCompletions
                              ? R"(,"prompt":"hi"})"
                              : R"(,"messages":[{"role":"user","content":"hi"}]})");
      break;
    case Endpoint::kResponses:
      path = "/v1/responses";
      body = absl::StrCat(R"({"model":"model-x","max_output_tokens":9000000,"store":false,"input":"hi",)"
                          R"("stream":)", stream, "}");
      break;
    case Endpoint::kEmbeddings:
      path = "/v1/embeddings";
      body = R"({"model":"model-x","input":["hi"]})";
      break;
    case Endpoint::kMessages:
      path = "/v1/messages";
      body = absl::StrCat(R"({"model":"model-y","max_tokens":9000000,"stream":)", stream,
                          R"(,"messages":[{"role":"user","content":[{"type":"text","text":"hi",)"
                          R"("cache_control":{"type":"ephemeral","ttl":"1h"}}]}]})");
      break;
    case Endpoint::kCountTokens:
      path = "/v1/messages/count_tokens";
      body = R"({"model":"model-y","messages":[{"role":"user","content":"hi"}]})";
      break;
    case Endpoint::kBatchEmbedContents:
      path = "/v1beta/models/model-z:batchEmbedContents";
      body = R"({"requests":[{"model":"models/model-z","content":{"parts":[{"text":"hi"}]}}]})";
      break;
    default:
      path = answer.sse ? absl::StrCat("/v1beta/models/model-z:streamGenerateContent",
                                       answer.array ? "" : "?alt=sse")
                        : "/v1beta/models/model-z:generateContent";
      body = R"({"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":9000000}})";
      break;
  }
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer ", key,
                      "\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nx-tollhouse-request-id: ", id,
                      "\r\nx-replay: ", index, "\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

// The provider's side of a replay. Its chunks are the pieces that the edge meters.
std::string ProviderAnswer(const Replay& replay, uint64_t seed) {
  std::string out = absl::StrCat("HTTP/1.1 ", replay.answer->http_status, " X\r\ncontent-type: ",
                                 replay.answer->content_type, "\r\ntransfer-encoding: chunked\r\n");
  if (!replay.encoding.empty()) absl::StrAppend(&out, "content-encoding: ", replay.encoding, "\r\n");
  out += "\r\n";
  std::string_view rest = *replay.bytes;
  std::mt19937_64 random(seed + replay.split);
  const size_t longest = std::max<size_t>(2, 1 + random() % std::max<size_t>(20, rest.size() / 2));
  while (!rest.empty()) {
    size_t size = rest.size();
    if (replay.split == 1) size = 1;
    if (replay.split > 1) size = std::min<size_t>(size, 1 + random() % longest);
    absl::StrAppend(&out, absl::Hex(size), "\r\n");
    out.append(rest.substr(0, size)).append("\r\n");
    rest.remove_prefix(size);
  }
  return out + "0\r\n\r\n";
}

// Whether `part` is what remains of `whole` when bytes are taken out.
bool IsSubsequence(std::string_view part, std::string_view whole) {
  size_t at = 0;
  for (const char c : part) {
    at = whole.find(c, at);
    if (at == std::string_view::npos) return false;
    ++at;
  }
  return true;
}

class AnswersTest : public ::testing::Test {
 protected:
  AnswersTest() : provider_([this](const Wire::Message& request, Wire& wire) {
    size_t index = 0;
    if (!absl::SimpleAtoi(request.Header("x-replay"), &index)) return false;
    wire.Send(ProviderAnswer(replays_[index], seed_));
    return true;
  }) {
    // Models of no known price are charged at a ceiling: every usage has one.
    services_.policy.set_ceiling_input_nanousd_per_mtok(1'000'000);
    services_.policy.set_ceiling_output_nanousd_per_mtok(1'000'000);
    for (const auto& [name, dialect, path] :
         {std::tuple{"openai", common::v1::DIALECT_OPENAI, "/v1"},
          std::tuple{"anthropic", common::v1::DIALECT_ANTHROPIC, ""},
          std::tuple{"gemini", common::v1::DIALECT_GEMINI, ""}}) {
      router::v1::Provider* provider = services_.policy.add_providers();
      provider->set_name(name);
      provider->set_dialect(dialect);
      provider->set_base_url(absl::StrCat("http://127.0.0.1:", provider_.port(), path));
      provider->set_allow_private(true);
    }
    obs::InitLogging("edge_answers_test", obs::Level::kError);
    Config config;
    config.data_dir = dir_.File("edge");
    config.listen = "127.0.0.1:0";
    config.threads = 2;
    config.proxy_from_environment = false;
    config.log_requests = false;
    config.count_tokens_per_minute = 0;
    config.shutdown_time = absl::Seconds(5);
    auto app = App::Create(config, services_.channels());
    EXPECT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    const absl::Status started = app_->Start();
    EXPECT_TRUE(started.ok()) << started;
    key_ = services_.AddKey();
  }

  void Add(const RecordedAnswer& answer) {
    std::vector<std::pair<std::string, std::string>> encoded{
        {answer.content_encoding, answer.body}};
    if (answer.content_encoding.empty()) {
      encoded.insert(encoded.end(), {{"gzip", Gzip(answer.body)},
                                     {"deflate", Gzip(answer.body, 15)},
                                     {"br", Brotli(answer.body)},
                                     {"zstd", Zstd(answer.body)}});
    }
    const bool injects = answer.sse && (answer.endpoint == Endpoint::kChatCompletions ||
                                        answer.endpoint == Endpoint::kCompletions);
    for (auto& [encoding, bytes] : encoded) {
      bodies_.push_back(std::make_unique<std::string>(std::move(bytes)));
      for (const bool asks : injects ? std::vector{true, false} : std::vector{true}) {
        // What is dropped of injected usage is another matter than how an encoding is cut.
        const int splits = asks || encoding.empty() ? 2 + kRandomSplits : 2;
        for (int split = 0; split < splits; ++split) {
          replays_.push_back({&answer, bodies_.back().get(), encoding, split, asks});
        }
      }
    }
  }

  void Check(size_t index, const Wire::Message& answer, const Entry* entry) {
    const Replay& replay = replays_[index];
    const RecordedAnswer& recorded = *replay.answer;
    SCOPED_TRACE(replay.Id(index));
    EXPECT_TRUE(answer.whole);
    const bool refused = recorded.http_status / 100 != 2;
    if (recorded.http_status == 401) {
      // The provider's own credential: none of the caller's business.
      EXPECT_EQ(answer.status, 502);
    } else {
      EXPECT_EQ(answer.status, recorded.http_status);
      if (replay.asks_for_usage) {
        EXPECT_EQ(answer.Header("content-encoding"), replay.encoding);
        EXPECT_TRUE(answer.body == *replay.bytes)
            << answer.body.size() << " of " << replay.bytes->size() << " bytes\n"
            << answer.body.substr(0, 300);
      } else {
        // Decoded, without the usage chunk and the null members; the same for every split.
        EXPECT_TRUE(replay.encoding.empty() ? IsSubsequence(answer.body, recorded.body)
                                            : answer.Header("content-encoding").empty());
        if (replay.split == 0) {
          without_usage_[replay.answer->id + replay.encoding] = answer.body;
        } else {
          const std::string& whole = without_usage_[replay.answer->id + replay.encoding];
          EXPECT_TRUE(answer.body == whole) << answer.body.size() << " and " << whole.size();
        }
      }
    }
    if (recorded.endpoint == Endpoint::kCountTokens) return;
    ASSERT_NE(entry, nullptr) << "never settled";
    EXPECT_EQ(entry->http_status(), recorded.http_status);
    if (refused) {
      EXPECT_EQ(entry->kind(), ledger::v1::ENTRY_KIND_VOID);
      EXPECT_TRUE(entry->usage().empty());
    } else if (IsFinal(recorded)) {
      EXPECT_EQ(entry->kind(), ledger::v1::ENTRY_KIND_SETTLE);
      EXPECT_EQ(entry->usage_source(), common::v1::USAGE_SOURCE_FINAL);
      ExpectUsage(recorded, entry->usage());
    } else if (recorded.endpoint == Endpoint::kBatchEmbedContents) {
      EXPECT_EQ(entry->kind(), ledger::v1::ENTRY_KIND_SETTLE);  // at its bound
      EXPECT_EQ(entry->usage_source(), common::v1::USAGE_SOURCE_ESTIMATED);
    } else {
      EXPECT_EQ(entry->kind(), ledger::v1::ENTRY_KIND_SUSPEND);
      EXPECT_EQ(entry->usage_source(), common::v1::USAGE_SOURCE_ESTIMATED);
      EXPECT_GT(entry->cost_nanousd(), 0);
    }
  }

  void RunAll() {
    // The first of each (answer, encoding) before the rest: those compare with it.
    std::vector<Wire::Message> answers(replays_.size());
    std::atomic<size_t> next = 0;
    const int port = std::stoi(app_->url().substr(app_->url().rfind(':') + 1));
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&] {
        auto wire = Wire::Dial(port);
        for (size_t at = next++; at < replays_.size(); at = next++) {
          const Replay& replay = replays_[at];
          wire->Send(Request(*replay.answer, key_, replay.Id(at), at, replay.asks_for_usage));
          answers[at] = wire->Read();
          if (answers[at].whole && answers[at].Header("connection") != "close") continue;
          wire = Wire::Dial(port);
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    std::set<std::string> failed;
    for (size_t at = 0; at < replays_.size(); ++at) {
      if (failed.contains(replays_[at].answer->id)) continue;
      const bool free = replays_[at].answer->endpoint == Endpoint::kCountTokens;
      const auto entry = free ? std::nullopt : services_.WaitEntry(replays_[at].Id(at));
      Check(at, answers[at], entry ? &*entry : nullptr);
      if (HasFailure() && failed.empty()) failed.insert(replays_[at].answer->id);
    }
    std::printf("%zu calls\n", replays_.size());
  }

  const uint64_t seed_ = testing::TestSeed();
  testing::TempDir dir_;
  FakeServices services_;
  std::vector<std::unique_ptr<std::string>> bodies_;
  std::vector<Replay> replays_;
  std::map<std::string, std::string> without_usage_;
  TestProvider provider_;
  std::unique_ptr<App> app_;
  std::string key_;
};

TEST_F(AnswersTest, EveryAnswerPassesUntouchedAndCostsWhatItsSidecarSays) {
  std::vector<RecordedAnswer> answers;
  for (const std::string& folder : AnswerFolders()) {
    for (RecordedAnswer& answer : ReadAnswers(folder)) answers.push_back(std::move(answer));
  }
  for (const RecordedAnswer& answer : answers) Add(answer);
  RunAll();
}

}  // namespace
}  // namespace tollhouse::edge
