// Anthropic messages.
//
// Counts are cumulative: every later one overwrites its field, nothing is ever added, nulls say
// nothing. `iterations` lists each pass of the request with its own model; the totals beside it
// leave compaction and advisor passes out, so the passes are what is billed.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/json.h"

namespace tollhouse::edge {
namespace {

using json::EachMember;
using json::IsObject;
using json::Remember;
using json::TextOf;
using json::Token;
using json::Value;

// Counts of a message or of one pass; nothing where the provider said nothing.
struct Counts {
  std::optional<int64_t> input;
  std::optional<int64_t> cache_read;
  std::optional<int64_t> cache_write;
  std::optional<int64_t> cache_write_5m;  // the split of cache_write, which only some events carry
  std::optional<int64_t> cache_write_1h;
  std::optional<int64_t> output;
  std::optional<int64_t> thinking;

  bool stated() const { return input.has_value() || output.has_value(); }
};

// Lines that one message's usage is split into at most; recorded loops ran 11 inferences.
constexpr int kSplitMax = 256;

struct Pass {
  std::string type;
  std::string model;
  Counts counts;
};

void Overwrite(Value& value, std::optional<int64_t>* field) {
  if (const auto count = json::CountOf(value)) *field = count;
}

// The members that a message's usage and a pass have in common. True if `key` was one of them.
bool ReadCount(std::string_view key, Value& value, Counts* counts) {
  if (key == "input_tokens") {
    Overwrite(value, &counts->input);
  } else if (key == "cache_read_input_tokens") {
    Overwrite(value, &counts->cache_read);
  } else if (key == "cache_creation_input_tokens") {
    Overwrite(value, &counts->cache_write);
  } else if (key == "cache_creation") {
    if (IsObject(value)) {
      EachMember(value, [&](std::string_view name, Value part) {
        if (name == "ephemeral_5m_input_tokens") Overwrite(part, &counts->cache_write_5m);
        if (name == "ephemeral_1h_input_tokens") Overwrite(part, &counts->cache_write_1h);
      });
    }
  } else if (key == "output_tokens") {
    Overwrite(value, &counts->output);
  } else if (key == "output_tokens_details") {
    if (IsObject(value)) {
      EachMember(value, [&](std::string_view name, Value part) {
        if (name == "thinking_tokens") Overwrite(part, &counts->thinking);
      });
    }
  } else {
    return false;
  }
  return true;
}

bool ReadError(Value& value, std::string* type) {
  if (!IsObject(value)) return false;
  EachMember(value, [&](std::string_view key, Value member) {
    if (key == "type") Remember(member, type);
  });
  return true;
}

class MessagesAnswerReader final : public AnswerReader {
 public:
  explicit MessagesAnswerReader(const MeterOptions& options)
      : requested_model_(options.requested_model),
        unsplit_is_1h_(options.cache_write_1h),
        inference_input_max_(options.inference_input_max) {}

  Effect OnEvent(std::string_view payload) override {
    Read(payload);
    return {};
  }

  void OnDocument(std::string_view body) override {
    if (Read(body) && saw_message_ && !error_) stopped_ = final_ = true;
  }

  void Conclude(MeterResult* result) override {
    result->provider_error = error_;
    result->error_type = error_type_;
    result->response_model = model_;
    result->complete = stopped_ && !error_;
    result->usage_present = total_.stated();
    if (!total_.stated()) return;
    result->source = final_ ? common::v1::USAGE_SOURCE_FINAL : common::v1::USAGE_SOURCE_PARTIAL;
    FillLines(result);
  }

 private:
  bool Read(std::string_view payload) {
    json::Document document;
    Value root;
    if (!json::Open(&json::ThreadParser(), payload, &document, &root)) return false;

    std::string_view type;  // within the payload
    int64_t bytes = 0;
    bool stop_reason = false;
    const bool whole = EachMember(root, [&](std::string_view key, Value value) {
      if (key == "type") {
        type = TextOf(value);
      } else if (key == "message") {
        if (IsObject(value)) ReadMessage(value);
      } else if (key == "usage") {
        if (IsObject(value)) ReadUsage(value);
      } else if (key == "model") {
        Remember(value, &model_);
      } else if (key == "delta") {
        if (IsObject(value)) bytes += ReadDelta(value, &stop_reason);
      } else if (key == "content_block") {
        if (IsObject(value)) bytes += ReadBlock(value);
      } else if (key == "content") {
        bytes += ReadContent(value);
      } else if (key == "error") {
        error_ = ReadError(value, &error_type_) || error_;
      }
    });
    if (type == "message_stop") stopped_ = true;
    if (type == "message") saw_message_ = true;
    if (type == "error") error_ = true;
    // The delta that names the stop reason carries the last counts.
    if ((type == "message_delta" && stop_reason) || type == "message_stop")
      final_ = total_.stated();
    if (bytes > 0) {
      progress.visible_output_bytes += bytes;
      ++progress.deltas;
    }
    progress.usage_present = total_.stated();
    progress.reported_output_tokens = total_.output.value_or(0);
    return whole && json::IsAtEnd(document);
  }

  // message_start's message.
  void ReadMessage(Value& message) {
    EachMember(message, [&](std::string_view key, Value value) {
      if (key == "model") {
        Remember(value, &model_);
      } else if (key == "usage") {
        if (IsObject(value)) ReadUsage(value);
      }
    });
  }

  void ReadUsage(Value& usage) {
    EachMember(usage, [&](std::string_view key, Value value) {
      if (ReadCount(key, value, &total_)) return;
      if (key == "service_tier") {
        Remember(value, &service_tier_);
      } else if (key == "speed") {
        Remember(value, &speed_);
      } else if (key == "inference_geo") {
        Remember(value, &geo_);
      } else if (key == "server_tool_use") {
        if (!IsObject(value)) return;
        EachMember(value, [&](std::string_view name, Value count) {
          if (name == "web_search_requests") Overwrite(count, &web_searches_);
          if (name == "web_fetch_requests") Overwrite(count, &web_fetches_);
        });
      } else if (key == "iterations") {
        ReadPasses(value);
      }
    });
  }

  void ReadPasses(Value& value) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS)
      return;
    std::vector<Pass> passes;
    for (auto result : array) {
      Value element;
      if (std::move(result).get(element) != simdjson::SUCCESS) return;
      if (!IsObject(element)) continue;
      Pass pass;
      EachMember(element, [&](std::string_view key, Value member) {
        if (ReadCount(key, member, &pass.counts)) return;
        if (key == "type") Remember(member, &pass.type);
        if (key == "model") Remember(member, &pass.model);
      });
      passes.push_back(std::move(pass));
    }
    if (!passes.empty()) passes_ = std::move(passes);
  }

  static int64_t ReadDelta(Value& delta, bool* stop_reason) {
    int64_t bytes = 0;
    EachMember(delta, [&](std::string_view key, Value value) {
      if (key == "text" || key == "thinking" || key == "partial_json" || key == "content") {
        bytes += json::DecodedBytes(TextOf(value));
      } else if (key == "stop_reason") {
        *stop_reason = !TextOf(value).empty();
      }
    });
    return bytes;
  }

  // A block of the answer: text, thinking, or a tool call with its input.
  static int64_t ReadBlock(Value& block) {
    int64_t bytes = 0;
    EachMember(block, [&](std::string_view key, Value value) {
      if (key == "text" || key == "thinking" || key == "name") {
        bytes += json::DecodedBytes(TextOf(value));
      } else if (key == "input" && IsObject(value)) {
        json::Object object;
        std::string_view raw;
        // An empty object, as streams start tools with, is no output.
        if (value.get_object().get(object) == simdjson::SUCCESS &&
            object.raw_json().get(raw) == simdjson::SUCCESS && raw.size() > 2) {
          bytes += static_cast<int64_t>(raw.size());
        }
      }
    });
    return bytes;
  }

  static int64_t ReadContent(Value& content) {
    int64_t bytes = 0;
    json::Array array;
    if (Token(content).substr(0, 1) != "[" || content.get_array().get(array) != simdjson::SUCCESS) {
      return 0;
    }
    for (auto result : array) {
      Value block;
      if (std::move(result).get(block) != simdjson::SUCCESS) break;
      if (IsObject(block)) bytes += ReadBlock(block);
    }
    return bytes;
  }

  // Cache writes by lifetime. Later events state the sum alone: what the known split does not cover
  // goes to the lifetime that the request asked for, and a sum below the split keeps the dearer
  // part.
  void SplitCacheWrites(const Counts& counts, common::v1::Usage* usage) const {
    int64_t five = counts.cache_write_5m.value_or(0);
    int64_t hour = counts.cache_write_1h.value_or(0);
    const int64_t sum = counts.cache_write.value_or(five + hour);
    if (sum > five + hour) {
      (unsplit_is_1h_ ? hour : five) += sum - five - hour;
    } else {
      hour = std::min(hour, sum);
      five = sum - hour;
    }
    usage->set_cache_write_5m_tokens(five);
    usage->set_cache_write_1h_tokens(hour);
  }

  common::v1::Usage* AddLine(const std::string& model, const Counts& counts,
                             MeterResult* result) const {
    common::v1::UsageLine* line = result->usage.Add();
    line->set_model(!model.empty() ? model : !model_.empty() ? model_ : requested_model_);
    line->set_service_tier(service_tier_);
    if (!speed_.empty() && speed_ != "standard") line->add_modifiers("speed:" + speed_);
    if (geo_ == "us") line->add_modifiers("geo:us");
    common::v1::Usage* usage = line->mutable_usage();
    usage->set_input_tokens_uncached(counts.input.value_or(0));
    usage->set_cache_read_tokens(counts.cache_read.value_or(0));
    SplitCacheWrites(counts, usage);
    usage->set_output_tokens(counts.output.value_or(0));
    usage->set_reasoning_tokens(std::min(counts.thinking.value_or(0), usage->output_tokens()));
    return usage;
  }

  // Server tools run several inferences whose sum can exceed the window, and with it the threshold
  // of a price step that none of them reached: lines of at most a window each, the output on the
  // first.
  void SplitByInference(MeterResult* result) const {
    if (inference_input_max_ <= 0) return;
    for (int lines = 1; lines < kSplitMax; ++lines) {
      common::v1::UsageLine& last = *result->usage.Mutable(result->usage.size() - 1);
      common::v1::UsageLine next;
      common::v1::Usage& from = *last.mutable_usage();
      int64_t room = inference_input_max_;
      const auto keep = [&room](int64_t tokens) {
        const int64_t kept = std::min(tokens, room);
        room -= kept;
        return kept;
      };
      common::v1::Usage rest;
      const auto divide = [&](int64_t tokens, auto set) {
        const int64_t kept = keep(tokens);
        set(from, kept);
        set(rest, tokens - kept);
        return tokens - kept;
      };
      using common::v1::Usage;
      int64_t left = 0;
      left += divide(from.cache_write_1h_tokens(),
                     [](Usage& u, int64_t n) { u.set_cache_write_1h_tokens(n); });
      left += divide(from.cache_write_5m_tokens(),
                     [](Usage& u, int64_t n) { u.set_cache_write_5m_tokens(n); });
      left +=
          divide(from.cache_read_tokens(), [](Usage& u, int64_t n) { u.set_cache_read_tokens(n); });
      left += divide(from.input_tokens_uncached(),
                     [](Usage& u, int64_t n) { u.set_input_tokens_uncached(n); });
      if (left == 0) return;
      next.set_model(last.model());
      next.set_service_tier(last.service_tier());
      *next.mutable_modifiers() = last.modifiers();
      *next.mutable_usage() = rest;
      *result->usage.Add() = std::move(next);
    }
  }

  void FillLines(MeterResult* result) const {
    const Pass* fallback = nullptr;
    for (const Pass& pass : passes_) {
      if (pass.type == "fallback_message") fallback = &pass;
    }
    if (passes_.empty() || fallback != nullptr) {
      // With a fallback the totals are those of the model that served; whether the model that
      // declined is billed as well is documented nowhere.
      result->ambiguous = fallback != nullptr;
      common::v1::Usage* usage =
          AddLine(fallback != nullptr ? fallback->model : "", total_, result);
      usage->set_web_search_calls(web_searches_.value_or(0));
      if (fallback == nullptr && web_searches_.value_or(0) + web_fetches_.value_or(0) > 0) {
        SplitByInference(result);
      }
      return;
    }
    Counts rest = total_;  // what the totals know and the message passes do not
    const auto less = [](std::optional<int64_t>& total, const std::optional<int64_t>& part) {
      total = std::max<int64_t>(total.value_or(0) - part.value_or(0), 0);
    };
    int64_t thinking = total_.thinking.value_or(0);
    for (const Pass& pass : passes_) {
      common::v1::Usage* usage = AddLine(pass.model, pass.counts, result);
      if (pass.type != "message") continue;
      if (!pass.counts.thinking.has_value()) {
        usage->set_reasoning_tokens(std::min(thinking, usage->output_tokens()));
      }
      thinking = std::max<int64_t>(thinking - usage->reasoning_tokens(), 0);
      less(rest.input, pass.counts.input);
      less(rest.cache_read, pass.counts.cache_read);
      less(rest.cache_write, pass.counts.cache_write);
      less(rest.cache_write_5m, pass.counts.cache_write_5m);
      less(rest.cache_write_1h, pass.counts.cache_write_1h);
      less(rest.output, pass.counts.output);
    }
    if (rest.input.value_or(0) > 0 || rest.cache_read.value_or(0) > 0 ||
        rest.cache_write.value_or(0) > 0 || rest.output.value_or(0) > 0) {
      rest.thinking = thinking;
      AddLine("", rest, result);
    }
    result->usage.Mutable(0)->mutable_usage()->set_web_search_calls(web_searches_.value_or(0));
  }

  const std::string requested_model_;
  const bool unsplit_is_1h_;
  const int64_t inference_input_max_;
  Counts total_;
  std::vector<Pass> passes_;
  std::optional<int64_t> web_searches_;
  std::optional<int64_t> web_fetches_;
  std::string model_;
  std::string service_tier_;
  std::string speed_;
  std::string geo_;
  std::string error_type_;
  bool error_ = false;
  bool saw_message_ = false;
  bool stopped_ = false;
  bool final_ = false;
};

// {"input_tokens": N}, free.

}  // namespace

std::unique_ptr<AnswerReader> NewMessagesAnswerReader(const MeterOptions& options) {
  return std::make_unique<MessagesAnswerReader>(options);
}

}  // namespace tollhouse::edge
