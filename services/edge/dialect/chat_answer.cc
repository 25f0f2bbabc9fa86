// OpenAI chat/completions and the many servers that speak it.
//
// The rule that holds for all of them: the last usage object wins, never the sum, and tokens that
// only total_tokens knows (total - prompt - completion) are hidden reasoning, billed as output.
#include <algorithm>
#include <bitset>
#include <cstring>
#include <optional>
#include <string>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/json.h"

namespace tollhouse::edge {
namespace {

using json::EachMember;
using json::IsObject;
using json::Token;
using json::Value;

constexpr size_t kChoicesMax = 1024;

struct ChatUsage {
  std::optional<int64_t> prompt;
  std::optional<int64_t> completion;
  std::optional<int64_t> total;
  int64_t cached = 0;  // prompt_tokens_details.cached_tokens, or a vendor's name for it
  int64_t cache_write = 0;
  int64_t audio_input = 0;
  int64_t image_input = 0;
  int64_t reasoning = 0;
  int64_t audio_output = 0;
  int64_t image_output = 0;
  int64_t web_searches = 0;

  bool stated() const { return prompt.has_value() || completion.has_value(); }
  int64_t output() const {
    const int64_t known = prompt.value_or(0) + completion.value_or(0);
    return completion.value_or(0) + hidden(known);
  }
  int64_t hidden(int64_t known) const {
    return total.has_value() ? std::max<int64_t>(*total - known, 0) : 0;
  }
};

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
    done_ = well_formed_ && saw_choices_ && !error_;
  }

  void Conclude(MeterResult* result) override {
    if (!usage_.stated() && vendor_usage_.stated()) {
      usage_ = vendor_usage_;
      usage_is_final_ = true;
    }
    result->provider_error = error_;
    result->error_type = error_type_;
    result->error_code = error_code_;
    result->response_model = model_;
    const bool finished = finished_.count() >= static_cast<size_t>(std::max<int64_t>(choices_, 1));
    result->complete = !error_ && (done_ || finished);
    result->usage_present = usage_.stated();
    if (!usage_.stated()) return;
    result->source = done_ || finished || usage_is_final_ ? common::v1::USAGE_SOURCE_FINAL
                                                          : common::v1::USAGE_SOURCE_PARTIAL;
    FillLine(result->usage.Add());
  }

 private:
  Effect Read(std::string_view payload) {
    if (parser_.capacity() < payload.size()) {
      size_t capacity = 4096;
      while (capacity < payload.size()) capacity *= 2;
      if (parser_.allocate(capacity) != simdjson::SUCCESS) return {};
    }
    well_formed_ = false;
    json::Document document;
    if (parser_.iterate(payload.data(), payload.size(), payload.size() + simdjson::SIMDJSON_PADDING)
            .get(document) != simdjson::SUCCESS) {
      return {};
    }
    Value root;
    if (document.get_value().get(root) != simdjson::SUCCESS) return {};

    Effect effect;
    int choices = 0;
    bool error = false;
    bool usage_object = false;
    int usage_members = 0;
    well_formed_ = EachMember(root, [&](std::string_view key, Value value) {
      if (key == "choices") {
        saw_choices_ = true;
        choices += ReadChoices(value);
      } else if (key == "usage") {
        ++usage_members;
        if (IsObject(value)) {
          usage_object = ReadUsage(value, &usage_) || usage_object;
        } else if (Token(value) == "null") {
          effect = CutOf(payload, key, Token(value));
        }
      } else if (key == "model") {
        Remember(Token(value), &model_);
      } else if (key == "service_tier") {
        Remember(Token(value), &service_tier_);
      } else if (key == "error") {
        error = ReadError(value) || error;
      } else if (key == "x_groq" && IsObject(value)) {
        EachMember(value, [&](std::string_view name, Value member) {
          if (name == "usage" && IsObject(member)) ReadUsage(member, &vendor_usage_);
          if (name == "error") error = ReadError(member) || error;
        });
      }
    });
    well_formed_ = well_formed_ && json::IsAtEnd(document);
    error_ = error_ || error;
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

  // Keeps the inside of a string token; most events repeat it and cost a comparison.
  static void Remember(std::string_view token, std::string* kept) {
    if (token.substr(0, 1) != "\"") return;
    const std::string_view text = json::Inside(token);
    if (!text.empty() && *kept != text && text.size() <= 512) kept->assign(text);
  }

  // True if it is an error: an object, or some servers' plain string.
  bool ReadError(Value& value) {
    const std::string_view token = Token(value);
    if (token.substr(0, 1) == "\"") return token.size() > 2;
    if (!IsObject(value)) return false;
    EachMember(value, [&](std::string_view key, Value member) {
      if (key != "type" && key != "code") return;
      const std::string_view written = Token(member);
      std::string& kept = key == "type" ? error_type_ : error_code_;
      if (written.substr(0, 1) == "\"") {
        Remember(written, &kept);
      } else if (json::IsNumber(written)) {
        kept.assign(written);
      }
    });
    return true;
  }

  // True if the object states counts; then, and only then, it replaces what was known.
  static bool ReadUsage(Value& value, ChatUsage* out) {
    ChatUsage usage;
    int64_t vendor_cached = 0;
    const auto count = [](Value& member) { return json::CountOf(member).value_or(0); };
    EachMember(value, [&](std::string_view key, Value member) {
      if (key == "prompt_tokens") {
        usage.prompt = json::CountOf(member);
      } else if (key == "completion_tokens") {
        usage.completion = json::CountOf(member);
      } else if (key == "total_tokens") {
        usage.total = json::CountOf(member);
      } else if (key == "prompt_tokens_details" && IsObject(member)) {
        EachMember(member, [&](std::string_view name, Value detail) {
          if (name == "cached_tokens") usage.cached = count(detail);
          if (name == "cache_write_tokens") usage.cache_write = count(detail);
          if (name == "audio_tokens") usage.audio_input = count(detail);
          if (name == "image_tokens") usage.image_input = count(detail);
        });
      } else if (key == "completion_tokens_details" && IsObject(member)) {
        EachMember(member, [&](std::string_view name, Value detail) {
          if (name == "reasoning_tokens") usage.reasoning = count(detail);
          if (name == "audio_tokens") usage.audio_output = count(detail);
          if (name == "image_tokens") usage.image_output = count(detail);
        });
      } else if (key == "num_cached_tokens" || key == "cached_tokens" ||
                 key == "prompt_cache_hit_tokens") {
        vendor_cached = std::max(vendor_cached, count(member));  // Mistral, Moonshot, DeepSeek
      } else if ((key == "server_tool_use_details" || key == "server_tool_use") &&
                 IsObject(member)) {
        EachMember(member, [&](std::string_view name, Value detail) {
          if (name == "web_search_requests") usage.web_searches = count(detail);  // OpenRouter
        });
      } else if (key == "num_sources_used") {
        usage.web_searches = std::max(usage.web_searches, count(member));  // xAI bills each source
      }
    });
    if (usage.cached == 0) usage.cached = vendor_cached;
    if (!usage.stated()) return false;
    *out = usage;
    return true;
  }

  // From OpenAI's counts, where details are parts of the whole, to disjoint classes. Where parts
  // overlap in a way the provider does not tell, the dearer class wins.
  void FillLine(common::v1::UsageLine* line) const {
    line->set_model(model_.empty() ? requested_model_ : model_);
    line->set_service_tier(service_tier_);
    common::v1::Usage& usage = *line->mutable_usage();
    int64_t rest = usage_.prompt.value_or(0);
    const auto take = [&rest](int64_t wanted) {
      const int64_t taken = std::min(wanted, rest);
      rest -= taken;
      return taken;
    };
    int64_t cached = take(usage_.cached);
    usage.set_cache_write_5m_tokens(take(usage_.cache_write));
    const int64_t audio = take(usage_.audio_input);
    usage.set_audio_input_tokens(audio);
    const int64_t cached_audio = std::min(usage_.audio_input - audio, cached);
    usage.set_audio_cache_read_tokens(cached_audio);
    usage.set_cache_read_tokens(cached - cached_audio);
    usage.set_image_input_tokens(take(usage_.image_input));
    usage.set_input_tokens_uncached(rest);

    const int64_t output = usage_.output();
    const int64_t hidden = output - usage_.completion.value_or(0);
    int64_t text = output;
    const int64_t audio_output = std::min(usage_.audio_output, text);
    text -= audio_output;
    const int64_t image_output = std::min(usage_.image_output, text);
    text -= image_output;
    usage.set_output_tokens(text);
    usage.set_audio_output_tokens(audio_output);
    usage.set_image_output_tokens(image_output);
    usage.set_reasoning_tokens(std::max(usage_.reasoning, hidden));
    usage.set_web_search_calls(usage_.web_searches);
  }

  const bool drop_usage_chunk_;
  const int64_t choices_;
  const std::string requested_model_;
  json::Parser parser_;
  ChatUsage usage_;
  ChatUsage vendor_usage_;       // Groq's x_groq.usage, for servers that send no other
  bool usage_is_final_ = false;  // it came after the choices
  bool done_ = false;
  bool well_formed_ = false;  // the last payload
  bool saw_choices_ = false;
  bool error_ = false;
  std::bitset<kChoicesMax> finished_;
  std::string model_;
  std::string service_tier_;
  std::string error_type_;
  std::string error_code_;
};

}  // namespace

std::unique_ptr<AnswerReader> NewChatAnswerReader(const MeterOptions& options) {
  return std::make_unique<ChatAnswerReader>(options);
}

}  // namespace tollhouse::edge
