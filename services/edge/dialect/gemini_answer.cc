// Gemini generateContent and streamGenerateContent.
//
// Every chunk of a stream carries usageMetadata, and the last object wins as a whole: counters
// reset between the steps of internal tools, and only the final chunk has the totals. Thoughts and
// the prompts of internal tools are counted beside candidates and prompt, cached content within the
// prompt; what only totalTokenCount knows is hidden output.
#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/error_object.h"
#include "services/edge/dialect/json.h"

namespace tollhouse::edge {
namespace {

using json::EachMember;
using json::IsObject;
using json::TextOf;
using json::Token;
using json::Value;

struct Modalities {
  int64_t audio = 0;
  int64_t image = 0;
};

struct GeminiUsage {
  bool stated = false;
  int64_t prompt = 0;
  int64_t cached = 0;
  int64_t candidates = 0;
  int64_t thoughts = 0;
  int64_t tool_use = 0;
  std::optional<int64_t> total;
  Modalities of_prompt, of_cache, of_candidates;

  int64_t output() const {
    const int64_t known = prompt + candidates + thoughts + tool_use;
    const int64_t hidden = total.has_value() ? std::max<int64_t>(*total - known, 0) : 0;
    return candidates + thoughts + hidden;
  }
};

class GeminiAnswerReader final : public AnswerReader {
 public:
  explicit GeminiAnswerReader(const MeterOptions& options)
      : requested_model_(options.requested_model) {}

  Effect OnEvent(std::string_view payload) override {
    ReadChunk(payload);
    return {};
  }

  void OnDocument(std::string_view body) override {
    // An answer that is not streamed is one chunk, whatever it says of its end.
    if (ReadChunk(body)) finished_ = !error_.seen;
  }

  void Conclude(MeterResult* result) override {
    error_.Tell(result);
    result->response_model = model_;
    result->complete = finished_ && !error_.seen;
    result->usage_present = usage_.stated;
    result->ambiguous = shrank_;
    if (!usage_.stated) return;
    result->source = finished_ ? common::v1::USAGE_SOURCE_FINAL : common::v1::USAGE_SOURCE_PARTIAL;
    common::v1::UsageLine* line = result->usage.Add();
    line->set_model(model_.empty() ? requested_model_ : model_);
    line->set_service_tier(tier_);
    Fill(line->model(), line->mutable_usage());
  }

 private:
  // True if it is one whole JSON object.
  bool ReadChunk(std::string_view payload) {
    json::Document document;
    Value root;
    if (!json::Open(&json::ThreadParser(), payload, &document, &root)) return false;
    int64_t bytes = 0;
    bool finish = false;
    GeminiUsage usage;
    const bool whole = EachMember(root, [&](std::string_view key, Value value) {
      if (key == "candidates") {
        bytes += ReadCandidates(value, &finish);
      } else if (key == "usageMetadata") {
        if (IsObject(value)) ReadUsage(value, &usage);
      } else if (key == "modelVersion") {
        json::Remember(value, &model_);
      } else if (key == "promptFeedback") {
        if (IsObject(value)) {
          EachMember(value, [&](std::string_view name, Value reason) {
            if (name == "blockReason") finish = finish || !TextOf(reason).empty();
          });
        }
      } else if (key == "error") {
        error_.Read(value);
      }
    });
    if (usage.stated) {
      largest_candidates_ = std::max(largest_candidates_, usage.candidates);
      // The last word does not know what earlier ones did: the provider does not say which counts.
      shrank_ = usage.candidates < largest_candidates_ && usage.candidates == 0;
      usage_ = usage;
      progress.usage_present = true;
      progress.reported_output_tokens = usage_.output();
    }
    finished_ = finished_ || finish;
    if (bytes > 0) {
      progress.visible_output_bytes += bytes;
      ++progress.deltas;
    }
    return whole && json::IsAtEnd(document);
  }

  void ReadUsage(Value& value, GeminiUsage* usage) {
    const auto count = [&](Value& member, int64_t* field) {
      *field = json::CountOf(member).value_or(0);
      usage->stated = true;
    };
    EachMember(value, [&](std::string_view key, Value member) {
      if (key == "promptTokenCount") {
        count(member, &usage->prompt);
      } else if (key == "cachedContentTokenCount") {
        count(member, &usage->cached);
      } else if (key == "candidatesTokenCount" || key == "responseTokenCount") {
        count(member, &usage->candidates);
      } else if (key == "thoughtsTokenCount") {
        count(member, &usage->thoughts);
      } else if (key == "toolUsePromptTokenCount") {
        count(member, &usage->tool_use);
      } else if (key == "totalTokenCount") {
        usage->total = json::CountOf(member);
      } else if (key == "promptTokensDetails") {
        ReadModalities(member, &usage->of_prompt);
      } else if (key == "cacheTokensDetails") {
        ReadModalities(member, &usage->of_cache);
      } else if (key == "candidatesTokensDetails" || key == "responseTokensDetails") {
        ReadModalities(member, &usage->of_candidates);
      } else if (key == "trafficType" || key == "serviceTier") {
        json::Remember(member, &tier_);
      }
    });
  }

  static void ReadModalities(Value& value, Modalities* out) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS) {
      return;
    }
    for (auto result : array) {
      Value element;
      if (std::move(result).get(element) != simdjson::SUCCESS) return;
      if (!IsObject(element)) continue;
      std::string_view modality;
      int64_t tokens = 0;
      EachMember(element, [&](std::string_view key, Value member) {
        if (key == "modality") modality = TextOf(member);
        if (key == "tokenCount") tokens = json::CountOf(member).value_or(0);
      });
      if (modality == "AUDIO") out->audio += tokens;
      if (modality == "IMAGE") out->image += tokens;
    }
  }

  // Returns the bytes of text in them.
  int64_t ReadCandidates(Value& value, bool* finish) {
    json::Array array;
    if (Token(value).substr(0, 1) != "[" || value.get_array().get(array) != simdjson::SUCCESS) {
      return 0;
    }
    int64_t bytes = 0;
    for (auto result : array) {
      Value candidate;
      if (std::move(result).get(candidate) != simdjson::SUCCESS) break;
      if (!IsObject(candidate)) continue;
      EachMember(candidate, [&](std::string_view key, Value member) {
        if (key == "finishReason") {
          *finish = *finish || !TextOf(member).empty();
        } else if (key == "content") {
          if (IsObject(member)) bytes += ReadContent(member);
        } else if (key == "groundingMetadata") {
          if (IsObject(member)) ReadGrounding(member);
        }
      });
    }
    return bytes;
  }

  static int64_t ReadContent(Value& content) {
    int64_t bytes = 0;
    EachMember(content, [&](std::string_view key, Value parts) {
      json::Array array;
      if (key != "parts" || Token(parts).substr(0, 1) != "[" ||
          parts.get_array().get(array) != simdjson::SUCCESS) {
        return;
      }
      for (auto result : array) {
        Value part;
        if (std::move(result).get(part) != simdjson::SUCCESS) break;
        if (IsObject(part)) bytes += ReadPart(part);
      }
    });
    return bytes;
  }

  static int64_t ReadPart(Value& part) {
    int64_t bytes = 0;
    EachMember(part, [&](std::string_view key, Value member) {
      if (key == "text") {
        bytes += json::DecodedBytes(TextOf(member));
      } else if ((key == "functionCall" || key == "executableCode") && IsObject(member)) {
        json::Object object;
        std::string_view raw;
        if (member.get_object().get(object) == simdjson::SUCCESS &&
            object.raw_json().get(raw) == simdjson::SUCCESS) {
          bytes += static_cast<int64_t>(raw.size());
        }
      }
    });
    return bytes;
  }

  void ReadGrounding(Value& grounding) {
    int64_t queries = 0;
    bool maps = false;
    EachMember(grounding, [&](std::string_view key, Value value) {
      if (key == "googleMapsWidgetContextToken") maps = true;
      json::Array array;
      if (key != "webSearchQueries" || Token(value).substr(0, 1) != "[" ||
          value.get_array().get(array) != simdjson::SUCCESS) {
        return;
      }
      for (auto result : array) {
        Value query;
        if (std::move(result).get(query) != simdjson::SUCCESS) break;
        ++queries;
      }
    });
    queries_ = std::max(queries_, std::max<int64_t>(queries, maps ? 1 : 0));
  }

  // Generations before the third pay for a grounded prompt, later ones for each of its queries.
  int64_t BilledSearches(std::string_view model) const {
    const bool per_prompt =
        absl::StrContains(Absl(model), "gemini-1") || absl::StrContains(Absl(model), "gemini-2");
    return per_prompt ? std::min<int64_t>(queries_, 1) : queries_;
  }

  void Fill(std::string_view model, common::v1::Usage* usage) const {
    int64_t cached = std::min(usage_.cached, usage_.prompt);
    int64_t rest = usage_.prompt - cached;
    const int64_t cached_audio = std::min(usage_.of_cache.audio, cached);
    const auto take = [&rest](int64_t wanted) {
      const int64_t taken = std::clamp<int64_t>(wanted, 0, rest);
      rest -= taken;
      return taken;
    };
    usage->set_audio_cache_read_tokens(cached_audio);
    usage->set_cache_read_tokens(cached - cached_audio);
    usage->set_audio_input_tokens(take(usage_.of_prompt.audio - cached_audio));
    usage->set_image_input_tokens(take(usage_.of_prompt.image - usage_.of_cache.image));
    usage->set_input_tokens_uncached(rest);
    usage->set_tool_use_input_tokens(usage_.tool_use);

    const int64_t audio = std::min(usage_.of_candidates.audio, usage_.candidates);
    const int64_t image = std::min(usage_.of_candidates.image, usage_.candidates - audio);
    usage->set_audio_output_tokens(audio);
    usage->set_image_output_tokens(image);
    usage->set_output_tokens(usage_.output() - audio - image);
    usage->set_reasoning_tokens(usage_.output() - usage_.candidates);
    usage->set_web_search_calls(BilledSearches(model));
  }

  const std::string requested_model_;
  GeminiUsage usage_;
  std::string model_;
  std::string tier_;
  ErrorObject error_;
  int64_t largest_candidates_ = 0;
  int64_t queries_ = 0;
  bool shrank_ = false;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<AnswerReader> NewGeminiAnswerReader(const MeterOptions& options) {
  return std::make_unique<GeminiAnswerReader>(options);
}

}  // namespace tollhouse::edge
