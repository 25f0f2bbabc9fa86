#include "services/edge/dialect/answers_testing.h"

#include <brotli/encode.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

#include "absl/strings/match.h"
#include "simdjson.h"

namespace tollhouse::edge {
namespace {

using common::v1::USAGE_SOURCE_FINAL;
using common::v1::USAGE_SOURCE_PARTIAL;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

using Json = simdjson::dom::element;

std::optional<int64_t> Number(Json object, std::string_view key) {
  int64_t value = 0;
  if (object[key].get(value) != simdjson::SUCCESS) return std::nullopt;
  return value;
}

struct Sum {
  int64_t input = 0, cached = 0, written = 0, w5 = 0, w1h = 0, output = 0, reasoning = 0,
          searches = 0, audio = 0, tool_use = 0, image_output = 0, file_searches = 0,
          code_sessions = 0;
  void Add(const common::v1::Usage& u) {
    cached += u.cache_read_tokens() + u.audio_cache_read_tokens();
    w5 += u.cache_write_5m_tokens();
    w1h += u.cache_write_1h_tokens();
    written = w5 + w1h;
    input += u.input_tokens_uncached() + u.cache_read_tokens() + u.audio_cache_read_tokens() +
             u.cache_write_5m_tokens() + u.cache_write_1h_tokens() + u.audio_input_tokens() +
             u.image_input_tokens() + u.tool_use_input_tokens();
    output += u.output_tokens() + u.audio_output_tokens() + u.image_output_tokens();
    reasoning += u.reasoning_tokens();
    searches += u.web_search_calls();
    file_searches += u.file_search_calls();
    code_sessions += u.code_sessions();
    tool_use += u.tool_use_input_tokens();
    image_output += u.image_output_tokens();
    audio += u.audio_input_tokens() + u.audio_cache_read_tokens();
  }
};

const std::map<std::string_view, Endpoint> kEndpoints = {
    {"openai.chat", Endpoint::kChatCompletions},
    {"openai.completions", Endpoint::kCompletions},
    {"openai.responses", Endpoint::kResponses},
    {"openai.embeddings", Endpoint::kEmbeddings},
    {"anthropic.messages", Endpoint::kMessages},
    {"anthropic.count_tokens", Endpoint::kCountTokens},
    {"gemini.generateContent", Endpoint::kStreamGenerateContent},
    {"gemini.embedContent", Endpoint::kBatchEmbedContents},
};

bool Flag(Json object, std::string_view key) {
  bool value = false;
  return object[key].get(value) == simdjson::SUCCESS && value;
}

// Reads a sidecar; `parser` keeps what it says.
Json Sidecar(const RecordedAnswer& answer, simdjson::dom::parser* parser) {
  Json sidecar;
  if (parser->parse(answer.sidecar).get(sidecar) != simdjson::SUCCESS) std::abort();
  return sidecar;
}

}  // namespace

std::vector<std::string> AnswerFolders() {
  std::vector<std::string> folders{"services/edge/dialect/testdata/answers"};
  if (const char* more = std::getenv("TOLLHOUSE_FIXTURES")) folders.emplace_back(more);
  return folders;
}

std::vector<RecordedAnswer> ReadAnswers(const std::string& folder) {
  std::vector<RecordedAnswer> answers;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!absl::EndsWith(name, ".expect.json")) continue;
    RecordedAnswer answer;
    answer.id = name.substr(0, name.size() - 12);
    answer.sidecar = ReadFile(entry.path());
    simdjson::dom::parser parser;
    const Json sidecar = Sidecar(answer, &parser);
    const std::string_view api = sidecar["api"].get_string().value_unsafe();
    const auto known = kEndpoints.find(api);
    if (known == kEndpoints.end()) continue;
    answer.endpoint = known->second;
    answer.sse = sidecar["stream"].get_bool().value_unsafe();
    if (answer.endpoint == Endpoint::kStreamGenerateContent && !answer.sse) {
      answer.endpoint = Endpoint::kGenerateContent;
    }
    for (const char* ending : {".json", ".sse", ".sse.gz", ".sse.br"}) {
      const std::filesystem::path path = std::filesystem::path(folder) / (answer.id + ending);
      if (std::filesystem::exists(path)) answer.body = ReadFile(path);
    }
    answer.array = answer.sse && absl::StartsWith(answer.body, "[");
    answer.http_status = static_cast<int>(Number(sidecar["http"], "status").value_or(200));
    const Json headers = sidecar["http"]["headers"];
    std::string_view text;
    if (headers["content-encoding"].get(text) == simdjson::SUCCESS) answer.content_encoding = text;
    answer.content_type =
        answer.sse && !answer.array ? "text/event-stream" : "application/json";
    if (headers["content-type"].get(text) == simdjson::SUCCESS) answer.content_type = text;
    answers.push_back(std::move(answer));
  }
  std::sort(answers.begin(), answers.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  std::printf("%zu answers of %s\n", answers.size(), folder.c_str());
  EXPECT_FALSE(answers.empty()) << folder;
  return answers;
}

bool IsFinal(const RecordedAnswer& answer) {
  simdjson::dom::parser parser;
  const Json expect = Sidecar(answer, &parser)["expect"].value_unsafe();
  return Flag(expect, "usage_present") && !Flag(expect, "partial");
}

void ExpectUsage(const RecordedAnswer& answer,
                 const google::protobuf::RepeatedPtrField<common::v1::UsageLine>& usage) {
  simdjson::dom::parser parser;
  const Json expect = Sidecar(answer, &parser)["expect"].value_unsafe();
  if (!Flag(expect, "usage_present")) {
    EXPECT_TRUE(usage.empty());
    return;
  }
  ASSERT_FALSE(usage.empty());
  Sum all;
  std::map<std::string, Sum> by_model;
  for (const auto& line : usage) {
    all.Add(line.usage());
    by_model[line.model()].Add(line.usage());
  }
  EXPECT_EQ(all.input, Number(expect, "input_tokens"));
  EXPECT_EQ(all.cached, Number(expect, "cached_input_tokens"));
  EXPECT_EQ(all.written, Number(expect, "cache_write_tokens"));
  EXPECT_EQ(all.input - all.cached - all.written, Number(expect, "uncached_input_tokens"));
  EXPECT_EQ(all.output, Number(expect, "output_tokens"));
  EXPECT_EQ(all.reasoning, Number(expect, "reasoning_tokens"));
  if (const auto n = Number(expect, "cache_write_5m")) {
    EXPECT_EQ(all.w5, *n);
  }
  if (const auto n = Number(expect, "cache_write_1h")) {
    EXPECT_EQ(all.w1h, *n);
  }
  if (const auto n = Number(expect, "web_search_requests")) {
    EXPECT_EQ(all.searches, *n);
  }
  if (const auto n = Number(expect, "tool_use_prompt_tokens")) {
    EXPECT_EQ(all.tool_use, *n);
  }
  if (const auto n = Number(expect, "image_output_tokens")) {
    EXPECT_EQ(all.image_output, *n);
  }
  if (const auto n = Number(expect, "file_search_calls")) {
    EXPECT_EQ(all.file_searches, *n);
  }
  if (const auto n = Number(expect, "code_sessions")) {
    EXPECT_EQ(all.code_sessions, *n);
  }
  if (const auto n = Number(expect, "audio_input_tokens")) {
    EXPECT_EQ(all.audio, *n);
  }
  std::string_view tier;
  if (expect["service_tier"].get(tier) == simdjson::SUCCESS) {
    EXPECT_EQ(usage[0].service_tier(), tier);
  }
  simdjson::dom::object per_model;
  if (expect["per_model"].get(per_model) == simdjson::SUCCESS) {
    EXPECT_EQ(per_model.size(), by_model.size());
    for (const auto field : per_model) {
      const Sum& sum = by_model[std::string(field.key)];
      EXPECT_EQ(sum.input, Number(field.value, "input_tokens")) << field.key;
      EXPECT_EQ(sum.cached, Number(field.value, "cached_input_tokens")) << field.key;
      EXPECT_EQ(sum.output, Number(field.value, "output_tokens")) << field.key;
    }
  }
}

void ExpectMetered(const RecordedAnswer& answer, const MeterResult& r) {
  simdjson::dom::parser parser;
  const Json expect = Sidecar(answer, &parser)["expect"].value_unsafe();
  if (answer.endpoint == Endpoint::kCountTokens) {
    EXPECT_EQ(r.counted_tokens, Number(expect, "counted_tokens"));
    return;
  }
  EXPECT_EQ(r.usage_present, Flag(expect, "usage_present"));
  EXPECT_EQ(r.complete, Flag(expect, "complete"));
  Json error;
  EXPECT_EQ(r.provider_error, expect["error"].get(error) == simdjson::SUCCESS);
  std::string_view text;
  if (expect["error"]["type"].get(text) == simdjson::SUCCESS) {
    EXPECT_EQ(r.error_type, text);
  }
  if (expect["error"]["code"].get(text) == simdjson::SUCCESS) {
    EXPECT_EQ(r.error_code, text);
  }
  if (r.usage_present && expect["model"].get(text) == simdjson::SUCCESS) {
    EXPECT_EQ(r.response_model, text);
  }
  ExpectUsage(answer, r.usage);
  if (!r.usage_present) return;
  EXPECT_EQ(r.source, Flag(expect, "partial") ? USAGE_SOURCE_PARTIAL : USAGE_SOURCE_FINAL);
  EXPECT_EQ(r.ambiguous, expect["ambiguous"].get(text) == simdjson::SUCCESS);
}

std::string Gzip(const std::string& text, int window_bits, bool flush_often) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() * 2 + 4096, '\0');
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = out.size();
  for (size_t at = 0; at < text.size();) {
    const size_t size = flush_often ? std::min<size_t>(50, text.size() - at) : text.size() - at;
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data() + at));
    stream.avail_in = size;
    deflate(&stream, Z_SYNC_FLUSH);
    at += size;
  }
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Brotli(const std::string& text) {
  size_t size = text.size() + 1024;
  std::string out(size, '\0');
  BrotliEncoderCompress(5, 22, BROTLI_MODE_TEXT, text.size(),
                        reinterpret_cast<const uint8_t*>(text.data()), &size,
                        reinterpret_cast<uint8_t*>(out.data()));
  out.resize(size);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

}  // namespace tollhouse::edge
