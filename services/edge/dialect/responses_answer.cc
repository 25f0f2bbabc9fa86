// OpenAI responses.
//
// Usage stands in the response object alone, which a stream carries whole in its first and its last
// event. What built-in tools cost is not in it: their calls are counted from `tool_usage`, or else
// from the output, where in a stream that breaks off the finished items are all there is.
#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/error_object.h"
#include "services/edge/dialect/json.h"
#include "services/edge/dialect/openai_usage.h"

namespace tollhouse::edge {
namespace {

using json::EachMember;
using json::IsObject;
using json::TextOf;
using json::Token;
using json::Value;

// Calls of built-in tools in an output.
struct ToolCalls {
  int64_t web_searches = 0;
  int64_t file_searches = 0;
  int64_t code_calls = 0;            // without a container's name
  std::set<std::string> containers;  // of a code interpreter: one session each

  int64_t code_sessions() const {
    return std::max<int64_t>(static_cast<int64_t>(containers.size()), code_calls > 0 ? 1 : 0);
  }
};

class ResponsesAnswerReader final : public AnswerReader {
 public:
  explicit ResponsesAnswerReader(const MeterOptions& options)
      : requested_model_(options.requested_model) {}

  Effect OnEvent(std::string_view payload) override {
    if (payload.substr(0, 6) == "[DONE]") return {};
    json::Document document;
    Value root;
    if (!json::Open(&json::ThreadParser(), payload, &document, &root)) return {};
    std::string_view type;
    EachMember(root, [&](std::string_view key, Value value) {
      if (key == "type") {
        type = TextOf(value);
      } else if (key == "response") {
        if (IsObject(value)) ReadResponse(value, false);
      } else if (key == "delta") {
        AddVisible(type, value);
      } else if (key == "item") {
        if (IsObject(value) && absl::EndsWith(Absl(type), ".done")) ReadItem(value, &so_far_);
      } else if (key == "error") {
        error_.Read(value);
      } else if (key == "code" && type == "error") {
        error_.ReadCode(value);
      }
    });
    if (type == "error") error_.seen = true;
    if (type == "response.completed" || type == "response.incomplete" ||
        type == "response.failed") {
      ended_ = json::IsAtEnd(document);
    }
    return {};
  }

  void OnDocument(std::string_view body) override {
    json::Document document;
    Value root;
    if (!json::Open(&json::ThreadParser(), body, &document, &root)) return;
    ReadResponse(root, true);
    ended_ = json::IsAtEnd(document) && (status_.empty() || IsEnd(status_));
  }

  void Conclude(MeterResult* result) override {
    error_.Tell(result);
    result->response_model = model_;
    result->object_id = id_;
    result->complete = ended_ && !error_.seen && status_ != "failed" && usage_.stated();
    result->usage_present = usage_.stated();
    if (!usage_.stated()) return;
    result->source = ended_ ? common::v1::USAGE_SOURCE_FINAL : common::v1::USAGE_SOURCE_PARTIAL;
    common::v1::UsageLine* line = result->usage.Add();
    line->set_model(model_.empty() ? requested_model_ : model_);
    line->set_service_tier(service_tier_);
    common::v1::Usage* usage = line->mutable_usage();
    FillOpenAiUsage(usage_, usage);
    const ToolCalls& calls = has_output_ ? output_ : so_far_;
    usage->set_web_search_calls(
        std::max(usage->web_search_calls(), stated_searches_.value_or(calls.web_searches)));
    usage->set_file_search_calls(calls.file_searches);
    usage->set_code_sessions(calls.code_sessions());
    if (usage->web_search_calls() > 0 && !context_size_.empty()) {
      line->add_modifiers("search:" + context_size_);
    }
  }

 private:
  static bool IsEnd(std::string_view status) {
    return status == "completed" || status == "incomplete" || status == "failed" ||
           status == "cancelled";
  }

  // `count_text`: it has not come in deltas before.
  void ReadResponse(Value& response, bool count_text) {
    int64_t bytes = 0;
    EachMember(response, [&](std::string_view key, Value value) {
      if (key == "id") {
        json::Remember(value, &id_);
      } else if (key == "model") {
        json::Remember(value, &model_);
      } else if (key == "status") {
        json::Remember(value, &status_);
      } else if (key == "service_tier") {
        json::Remember(value, &service_tier_);
      } else if (key == "usage") {
        if (IsObject(value) && ReadOpenAiUsage(value, &usage_)) {
          progress.usage_present = true;
          progress.reported_output_tokens = usage_.output();
        }
      } else if (key == "tool_usage") {
        if (IsObject(value)) ReadToolUsage(value);
      } else if (key == "tools") {
        ReadTools(value);
      } else if (key == "output") {
        bytes += ReadOutput(value, count_text);
      } else if (key == "error") {
        error_.Read(value);
      }
    });
    if (bytes > 0) {
      progress.visible_output_bytes += bytes;
      ++progress.deltas;
    }
  }

  void ReadToolUsage(Value& usage) {
    EachMember(usage, [&](std::string_view key, Value value) {
      if (key != "web_search" || !IsObject(value)) return;
      EachMember(value, [&](std::string_view name, Value count) {
        if (name == "num_requests") stated_searches_ = json::CountOf(count);
      });
    });
  }

  // What the request asked of searches decides their fee.
  void ReadTools(Value& value) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS) {
      return;
    }
    for (auto result : array) {
      Value tool;
      if (std::move(result).get(tool) != simdjson::SUCCESS) return;
      if (!IsObject(tool)) continue;
      EachMember(tool, [&](std::string_view key, Value member) {
        if (key == "search_context_size") json::Remember(member, &context_size_);
      });
    }
  }

  // Returns the bytes of text in it if they count.
  int64_t ReadOutput(Value& value, bool count_text) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS) {
      return 0;
    }
    ToolCalls calls;
    int64_t bytes = 0;
    for (auto result : array) {
      Value item;
      if (std::move(result).get(item) != simdjson::SUCCESS) break;
      if (IsObject(item)) bytes += ReadItem(item, &calls);
    }
    if (!calls.containers.empty() ||
        calls.web_searches + calls.file_searches + calls.code_calls > 0 ||
        status_ != "in_progress") {
      output_ = std::move(calls);
      has_output_ = true;
    }
    return count_text ? bytes : 0;
  }

  // Counts the item where it is a call; returns the bytes of text in it.
  int64_t ReadItem(Value& item, ToolCalls* calls) {
    std::string_view type;
    std::string_view container;
    bool searches = true;  // unless its action says that a page was opened or searched
    int64_t bytes = 0;
    EachMember(item, [&](std::string_view key, Value value) {
      if (key == "type") {
        type = TextOf(value);
      } else if (key == "action") {
        if (IsObject(value)) searches = IsSearch(value);
      } else if (key == "container_id") {
        container = TextOf(value);
      } else if (key == "arguments" || key == "input" || key == "code" || key == "name") {
        bytes += json::DecodedBytes(TextOf(value));
      } else if (key == "content" || key == "summary") {
        bytes += TextsOf(value);
      }
    });
    if (type == "web_search_call") {
      calls->web_searches += searches ? 1 : 0;
    } else if (type == "file_search_call") {
      ++calls->file_searches;
    } else if (type == "code_interpreter_call") {
      if (container.empty()) {
        ++calls->code_calls;
      } else {
        calls->containers.emplace(container);
      }
    }
    return bytes;
  }

  static bool IsSearch(Value& action) {
    bool search = true;
    EachMember(action, [&](std::string_view key, Value value) {
      if (key == "type") search = TextOf(value) == "search";
    });
    return search;
  }

  static int64_t TextsOf(Value& value) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS) {
      return 0;
    }
    int64_t bytes = 0;
    for (auto result : array) {
      Value part;
      if (std::move(result).get(part) != simdjson::SUCCESS) break;
      if (!IsObject(part)) continue;
      EachMember(part, [&](std::string_view key, Value member) {
        if (key == "text" || key == "refusal") bytes += json::DecodedBytes(TextOf(member));
      });
    }
    return bytes;
  }

  // Deltas are text, arguments or code, but for audio, which is not text.
  void AddVisible(std::string_view type, Value& delta) {
    if (type == "response.audio.delta") return;
    const int64_t bytes = json::DecodedBytes(TextOf(delta));
    if (bytes == 0) return;
    progress.visible_output_bytes += bytes;
    ++progress.deltas;
  }

  const std::string requested_model_;
  OpenAiUsage usage_;
  std::string id_;
  std::string model_;
  std::string status_;
  std::string service_tier_;
  std::string context_size_;
  std::optional<int64_t> stated_searches_;
  ToolCalls output_;  // of the last response object that had any
  ToolCalls so_far_;  // of finished items
  bool has_output_ = false;
  bool ended_ = false;
  ErrorObject error_;
};

}  // namespace

std::unique_ptr<AnswerReader> NewResponsesAnswerReader(const MeterOptions& options) {
  return std::make_unique<ResponsesAnswerReader>(options);
}

}  // namespace tollhouse::edge
