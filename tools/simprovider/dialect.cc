#include "tools/simprovider/dialect.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "tools/simprovider/json_text.h"

namespace tollhouse::simprovider {
namespace {

constexpr int64_t kUndeclaredMaxTokens = 4096;

// One word per token: plain, quoted, beyond ASCII and beyond the BMP, so that whoever handles the
// answer meets escapes and multi-byte characters.
constexpr std::array<std::string_view, 16> kWords = {
    "every ", "call ",   "passes ", "one ", "gate ", "and ",  "pays ",   "its ",
    "toll ",  "\"so\" ", "größer ", "sum ", "of ",   "gold ", "stays\n", "safe🙂 "};

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

Usage Answer::UsageAfter(int64_t done) const {
  Usage so_far = usage;
  const int64_t shown = done >= chunks ? visible : visible * done / chunks;
  so_far.output = std::min(usage.output, std::max<int64_t>(1, n * (reasoning + shown)));
  so_far.reasoning = std::min({usage.reasoning, so_far.output, n * reasoning});
  return so_far;
}

std::string Answer::Piece(int64_t from, int64_t to) const {
  if (tool.has_value() || !json_text.empty()) {
    const std::string& text = tool.has_value() ? tool->arguments : json_text;
    const auto boundary = [&](int64_t chunk) {
      size_t at = text.size() * static_cast<size_t>(chunk) / static_cast<size_t>(chunks);
      while (at < text.size() && IsContinuation(text[at])) ++at;
      return at;
    };
    if (chunks == 0) return text;
    return text.substr(boundary(from), boundary(to) - boundary(from));
  }
  std::string out;
  if (chunks > 0) {
    const int64_t end = visible * to / chunks;
    for (int64_t token = visible * from / chunks; token < end; ++token) {
      out.append(kWords[static_cast<size_t>(token) % kWords.size()]);
    }
  }
  if (filler_bytes > 0 && from == 0) out.append(static_cast<size_t>(filler_bytes), 'x');
  return out;
}

Answer PlanAnswer(const ChatRequest& request, const Script& script, int64_t body_bytes, int64_t seq,
                  int64_t created) {
  Answer answer;
  answer.seq = seq;
  answer.created = created;
  answer.model = request.model;
  answer.n = request.n;
  answer.thinking = request.thinking;
  answer.show_usage = request.include_usage && script.fault != Fault::kNoUsage;

  const int64_t cap = request.max_tokens.value_or(kUndeclaredMaxTokens);
  answer.vectors = request.vectors;
  answer.json_stream = request.json_stream;
  answer.json_text = request.json_text;
  const int64_t output = request.vectors > 0 ? 0 : script.output_exact ? script.output : std::min(script.output, cap);
  answer.reasoning = std::min(script.reasoning, output);
  answer.visible = output - answer.reasoning;
  if (!script.tool.empty()) {
    for (const Tool& tool : request.tools) {
      if (script.tool == "any" || script.tool == tool.name) {
        answer.tool = tool;
        break;
      }
    }
  }
  answer.finish = answer.tool.has_value()  ? Finish::kTool
                  : script.output > output ? Finish::kLength
                                           : Finish::kStop;
  answer.chunks = script.chunks == 0 ? answer.visible : std::min(script.chunks, answer.visible);
  if (answer.tool.has_value() || !answer.json_text.empty()) {
    answer.chunks = std::max<int64_t>(1, answer.chunks);
  }
  if (script.fault == Fault::kGigantic) {
    answer.filler_bytes = script.size_mb << 20;
    answer.chunks = std::max<int64_t>(1, answer.chunks);
  }

  Usage& usage = answer.usage;
  usage.input = script.input.value_or(request.input_tokens);
  if (!script.input_exact) usage.input = std::min(usage.input, body_bytes + 1024);
  int64_t left = usage.input;
  for (const auto& [part, wanted] : {std::pair{&usage.cached, script.cached},
                                     std::pair{&usage.cache_write_5m, script.cache_write_5m},
                                     std::pair{&usage.cache_write_1h, script.cache_write_1h}}) {
    *part = std::min(wanted, left);
    left -= *part;
  }
  usage.output = answer.n * output;
  usage.reasoning = answer.n * answer.reasoning;
  usage.searches = script.searches;
  return answer;
}

absl::StatusOr<simdjson::dom::object> ParseObject(const HttpRequest& request,
                                                  simdjson::dom::parser* parser) {
  simdjson::dom::object root;
  simdjson::dom::element parsed;
  if (parser->parse(request.body).get(parsed) != simdjson::SUCCESS ||
      parsed.get(root) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("We could not parse the JSON body of your request.");
  }
  return root;
}

std::string Vector(int64_t index) {
  std::string out = "[";
  for (int64_t i = 0; i < 8; ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", "0.0", index % 10, i + 1);
  }
  return out + "]";
}

std::string_view BearerKey(std::string_view authorization) {
  constexpr std::string_view kPrefix = "bearer ";
  if (authorization.size() < kPrefix.size() ||
      !absl::EqualsIgnoreCase(Absl(authorization.substr(0, kPrefix.size())), Absl(kPrefix))) {
    return {};
  }
  return authorization.substr(kPrefix.size());
}

std::string SampleArguments(const simdjson::dom::element& schema) {
  simdjson::dom::array options;
  if (schema["enum"].get(options) == simdjson::SUCCESS && options.size() > 0) {
    return simdjson::minify(options.at(0));
  }
  std::string_view stated = "object";
  if (schema["type"].get(stated) != simdjson::SUCCESS) stated = "object";
  const std::string type = absl::AsciiStrToLower(Absl(stated));  // Gemini's are in capitals
  if (type == "string") return "\"sample\"";
  if (type == "integer" || type == "number") return "1";
  if (type == "boolean") return "true";
  if (type == "array") return "[]";
  if (type == "null") return "null";
  simdjson::dom::object properties;
  if (schema["properties"].get(properties) != simdjson::SUCCESS) return "{}";
  std::vector<std::string_view> required;
  simdjson::dom::array names;
  if (schema["required"].get(names) == simdjson::SUCCESS) {
    for (const simdjson::dom::element item : names) {
      std::string_view text;
      if (item.get(text) == simdjson::SUCCESS) required.push_back(text);
    }
  }
  std::string out = "{";
  for (const auto field : properties) {
    if (!required.empty() && std::ranges::find(required, field.key) == required.end()) continue;
    if (out.size() > 1) out.push_back(',');
    AppendJsonString(field.key, &out);
    out.push_back(':');
    out.append(SampleArguments(field.value));
  }
  out.push_back('}');
  return out;
}

bool ReadDirectives(const simdjson::dom::element& content, std::string* directives) {
  std::string_view text;
  if (content.get(text) == simdjson::SUCCESS) {
    directives->clear();
    CollectDirectives(text, directives);
    return true;
  }
  simdjson::dom::array parts;
  if (content.get(parts) != simdjson::SUCCESS) return false;
  bool found = false;
  std::string all;
  for (const simdjson::dom::element part : parts) {
    if (part["text"].get(text) != simdjson::SUCCESS) continue;
    found = true;
    CollectDirectives(text, &all);
  }
  if (found) *directives = std::move(all);
  return found;
}

}  // namespace tollhouse::simprovider
