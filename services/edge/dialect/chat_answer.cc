// OpenAI chat/completions and the many servers that speak it.
//
// The rule that holds for all of them: the last usage object wins, never the sum.
#include <algorithm>
#include <bitset>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/error_object.h"
#include "services/edge/dialect/json.h"
#include "services/edge/dialect/openai_usage.h"

namespace tollhouse::edge {
namespace {

using json::EachMember;
using json::IsObject;
using json::Token;
using json::Value;

constexpr size_t kChoicesMax = 1024;

class ChatAnswerReader final : public AnswerReader {
 public:
  explicit ChatAnswerReader(const MeterOptions& options)
      : drop_usage_chunk_(options.drop_usage_chunk),
        choices_(options.choices),
        requested_model_(options.requested_model) {}

  Effect OnEvent(std::string_view payload) override {
    if (payload.substr(0, 6) == "[DONE]") {
      done_ = true;
      return {};
    }
    return Read(payload);
  }

  void OnDocument(std::string_view body) override {
    Read(body);
    done_ = well_formed_ && saw_choices_ && !error_.seen;
  }

  void Conclude(MeterResult* result) override {
    if (!usage_.stated() && vendor_usage_.stated()) {
      usage_ = vendor_usage_;
      usage_is_final_ = true;
    }
    error_.Tell(result);
    result->response_model = model_;
    const bool finished = finished_.count() >= static_cast<size_t>(std::max<int64_t>(choices_, 1));
    result->complete = !error_.seen && (done_ || finished);
    result->usage_present = usage_.stated();
    if (!usage_.stated()) return;
    result->source = done_ || finished || usage_is_final_ ? common::v1::USAGE_SOURCE_FINAL
                                                          : common::v1::USAGE_SOURCE_PARTIAL;
    common::v1::UsageLine* line = result->usage.Add();
    line->set_model(model_.empty() ? requested_model_ : model_);
    line->set_service_tier(service_tier_);
    FillOpenAiUsage(usage_, line->mutable_usage());
  }

 private:
  Effect Read(std::string_view payload) {
    well_formed_ = false;
    json::Document document;
    Value root;
    if (!json::Open(&json::ThreadParser(), payload, &document, &root)) return {};

    Effect effect;
    int choices = 0;
    const bool error_before = std::exchange(error_.seen, false);
    bool usage_object = false;
    int usage_members = 0;
    well_formed_ = EachMember(root, [&](std::string_view key, Value value) {
      if (key == "choices") {
        saw_choices_ = true;
        choices += ReadChoices(value);
      } else if (key == "usage") {
        ++usage_members;
        if (IsObject(value)) {
          usage_object = ReadOpenAiUsage(value, &usage_) || usage_object;
        } else if (Token(value) == "null") {
          effect = CutOf(payload, key, Token(value));
        }
      } else if (key == "model") {
        json::Remember(value, &model_);
      } else if (key == "service_tier") {
        json::Remember(value, &service_tier_);
      } else if (key == "error") {
        error_.Read(value);
      } else if (key == "x_groq" && IsObject(value)) {
        EachMember(value, [&](std::string_view name, Value member) {
          if (name == "usage" && IsObject(member)) ReadOpenAiUsage(member, &vendor_usage_);
          if (name == "error") error_.Read(member);
        });
      }
    });
    well_formed_ = well_formed_ && json::IsAtEnd(document);
    const bool error = error_.seen;
    error_.seen = error || error_before;
    if (usage_object) {
      progress.usage_present = true;
      progress.reported_output_tokens = usage_.output();
      usage_is_final_ = choices == 0;
    }
    if (!drop_usage_chunk_ || !well_formed_ || usage_members != 1) return {};
    effect.drop = usage_object && choices == 0 && !error;
    return effect;
  }

  // The member "usage":null with the comma that it leaves over.
  static Effect CutOf(std::string_view payload, std::string_view key, std::string_view null) {
    const auto offset_of = [&](const char* p) { return static_cast<size_t>(p - payload.data()); };
    // An escaped key is not in the payload.
    if (key.data() < payload.data() || key.data() >= payload.data() + payload.size()) return {};
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
    size_t begin = offset_of(key.data()) - 1;
    size_t end = offset_of(null.data()) + null.size();
    size_t before = begin;
    while (before > 0 && blank(payload[before - 1])) --before;
    if (before > 0 && payload[before - 1] == ',') return {false, before - 1, end - before + 1};
    size_t after = end;
    while (after < payload.size() && blank(payload[after])) ++after;
    if (after < payload.size() && payload[after] == ',') end = after + 1;
    return {false, begin, end - begin};
  }

  // Returns how many choices there are.
  int ReadChoices(Value& value) {
    json::Array array;
    if (value.get_array().get(array) != simdjson::SUCCESS) return 0;
    int count = 0;
    for (auto result : array) {
      Value choice;
      if (std::move(result).get(choice) != simdjson::SUCCESS) break;
      ReadChoice(choice, count++);
    }
    return count;
  }

  void ReadChoice(Value& choice, int position) {
    int64_t index = position;
    bool finished = false;
    int64_t bytes = 0;
    EachMember(choice, [&](std::string_view key, Value value) {
      if (key == "index") {
        index = json::CountOf(value).value_or(position);
      } else if (key == "finish_reason") {
        finished = Token(value).substr(0, 1) == "\"";
      } else if ((key == "delta" || key == "message") && IsObject(value)) {
        bytes += ReadMessage(value);
      } else if (key == "text") {
        bytes += TextBytes(value);
      }
    });
    if (finished && index < static_cast<int64_t>(kChoicesMax))
      finished_.set(static_cast<size_t>(index));
    if (bytes > 0) {
      progress.visible_output_bytes += bytes;
      ++progress.deltas;
    }
  }

  // Bytes of what the model wrote in a delta or message. `reasoning` and `reasoning_content` are
  // two names of one thing; servers that send both send it twice.
  static int64_t ReadMessage(Value& message) {
    int64_t bytes = 0;
    int64_t reasoning = 0;
    EachMember(message, [&](std::string_view key, Value value) {
      if (key == "content" || key == "refusal") {
        bytes += TextBytes(value);
      } else if (key == "reasoning_content" || key == "reasoning") {
        reasoning = std::max(reasoning, TextBytes(value));
      } else if (key == "tool_calls" || key == "function_call" || key == "audio") {
        bytes += WrittenBytes(value, 0);
      }
    });
    return bytes + reasoning;
  }

  // A string, or Mistral's array of parts.
  static int64_t TextBytes(Value& value) {
    const std::string_view token = Token(value);
    if (token.substr(0, 1) == "\"") return json::DecodedBytes(json::Inside(token));
    if (token.substr(0, 1) == "[") return WrittenBytes(value, 0);
    return 0;
  }

  // The strings below a value that a model writes: names, arguments, texts, transcripts.
  static int64_t WrittenBytes(Value& value, int depth) {
    int64_t bytes = 0;
    if (depth > 6) return 0;
    json::Array array;
    if (Token(value).substr(0, 1) == "[") {
      if (value.get_array().get(array) != simdjson::SUCCESS) return 0;
      for (auto result : array) {
        Value element;
        if (std::move(result).get(element) != simdjson::SUCCESS) break;
        bytes += WrittenBytes(element, depth + 1);
      }
      return bytes;
    }
    if (!IsObject(value)) return 0;
    EachMember(value, [&](std::string_view key, Value member) {
      const std::string_view token = Token(member);
      if (token.substr(0, 1) != "\"") {
        bytes += WrittenBytes(member, depth + 1);
      } else if (key == "name" || key == "arguments" || key == "text" || key == "transcript" ||
                 key == "input") {
        bytes += json::DecodedBytes(json::Inside(token));
      }
    });
    return bytes;
  }

  const bool drop_usage_chunk_;
  const int64_t choices_;
  const std::string requested_model_;
  OpenAiUsage usage_;
  OpenAiUsage vendor_usage_;      // Groq's x_groq.usage, for servers that send no other
  bool usage_is_final_ = false;  // it came after the choices
  bool done_ = false;
  bool well_formed_ = false;  // the last payload
  bool saw_choices_ = false;
  ErrorObject error_;
  std::bitset<kChoicesMax> finished_;
  std::string model_;
  std::string service_tier_;
};

}  // namespace

std::unique_ptr<AnswerReader> NewChatAnswerReader(const MeterOptions& options) {
  return std::make_unique<ChatAnswerReader>(options);
}

}  // namespace tollhouse::edge
