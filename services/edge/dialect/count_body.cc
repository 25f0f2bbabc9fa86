#include "services/edge/dialect/count_body.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/json.h"
#include "services/edge/dialect/refusal.h"

namespace tollhouse::edge {
namespace {

constexpr std::string_view kAnthropicMembers[] = {"messages", "system", "tools", "tool_choice",
                                                  "thinking"};
constexpr std::string_view kResponsesMembers[] = {
    "input",     "instructions",        "tools",     "tool_choice", "text",
    "reasoning", "parallel_tool_calls", "truncation"};

// {"model":MODEL,...} with the members of `body` that are named.
std::string Selected(std::string_view body, std::span<const std::string_view> names,
                     std::string_view model) {
  simdjson::padded_string padded(body.data(), body.size());
  json::Parser parser;
  json::Document document;
  json::Value root;
  std::string out = "{\"model\":";
  AppendJsonString(model, &out);
  if (!json::Open(&parser, padded, &document, &root)) return "";
  json::EachMember(root, [&](std::string_view key, json::Value value) {
    if (std::find(names.begin(), names.end(), key) == names.end()) return;
    std::string_view raw = json::Token(value);
    if (raw.substr(0, 1) == "{") {
      json::Object object;
      if (value.get_object().get(object) != simdjson::SUCCESS ||
          object.raw_json().get(raw) != simdjson::SUCCESS) {
        return;
      }
    } else if (raw.substr(0, 1) == "[") {
      json::Array array;
      if (value.get_array().get(array) != simdjson::SUCCESS ||
          array.raw_json().get(raw) != simdjson::SUCCESS) {
        return;
      }
    }
    absl::StrAppend(&out, ",\"", Absl(key), "\":", Absl(raw));
  });
  out += '}';
  return out;
}

}  // namespace

std::optional<CountQuestion> CountQuestionFor(const RequestFacts& facts, std::string_view body,
                                              std::string_view upstream_model) {
  switch (facts.endpoint) {
    case Endpoint::kMessages:
      return CountQuestion{Endpoint::kCountTokens,
                           Selected(body, kAnthropicMembers, upstream_model)};
    case Endpoint::kResponses:
      return CountQuestion{Endpoint::kInputTokens,
                           Selected(body, kResponsesMembers, upstream_model)};
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent: {
      // The request as it is, its model named first where it is not named at all.
      std::string question = "{\"generateContentRequest\":{";
      if (facts.model_refs.empty()) {
        question += "\"model\":";
        AppendJsonString(absl::StrCat("models/", Absl(upstream_model)), &question);
        if (!facts.body_empty) question += ',';
      }
      absl::StrAppend(&question, Absl(body.substr(facts.body_open.offset + 1)), "}");
      return CountQuestion{Endpoint::kGeminiCountTokens, std::move(question)};
    }
    default:
      return std::nullopt;
  }
}

}  // namespace tollhouse::edge
