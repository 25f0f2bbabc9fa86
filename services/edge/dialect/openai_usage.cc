#include "services/edge/dialect/openai_usage.h"

namespace tollhouse::edge {
namespace {

int64_t Count(json::Value& value) { return json::CountOf(value).value_or(0); }

void ReadInputDetails(json::Value& details, OpenAiUsage* usage) {
  json::EachMember(details, [&](std::string_view name, json::Value detail) {
    if (name == "cached_tokens") usage->cached = Count(detail);
    if (name == "cache_write_tokens") usage->cache_write = Count(detail);
    if (name == "audio_tokens") usage->audio_input = Count(detail);
    if (name == "image_tokens") usage->image_input = Count(detail);
  });
}

void ReadOutputDetails(json::Value& details, OpenAiUsage* usage) {
  json::EachMember(details, [&](std::string_view name, json::Value detail) {
    if (name == "reasoning_tokens") usage->reasoning = Count(detail);
    if (name == "audio_tokens") usage->audio_output = Count(detail);
    if (name == "image_tokens") usage->image_output = Count(detail);
  });
}

}  // namespace

bool ReadOpenAiUsage(json::Value& value, OpenAiUsage* out) {
  OpenAiUsage usage;
  int64_t vendor_cached = 0;
  json::EachMember(value, [&](std::string_view key, json::Value member) {
    if (key == "prompt_tokens" || key == "input_tokens") {
      usage.prompt = json::CountOf(member);
    } else if (key == "completion_tokens" || key == "output_tokens") {
      usage.completion = json::CountOf(member);
    } else if (key == "total_tokens") {
      usage.total = json::CountOf(member);
    } else if ((key == "prompt_tokens_details" || key == "input_tokens_details") &&
               json::IsObject(member)) {
      ReadInputDetails(member, &usage);
    } else if ((key == "completion_tokens_details" || key == "output_tokens_details") &&
               json::IsObject(member)) {
      ReadOutputDetails(member, &usage);
    } else if (key == "num_cached_tokens" || key == "cached_tokens" ||
               key == "prompt_cache_hit_tokens") {
      vendor_cached = std::max(vendor_cached, Count(member));  // Mistral, Moonshot, DeepSeek
    } else if ((key == "server_tool_use_details" || key == "server_tool_use") &&
               json::IsObject(member)) {
      json::EachMember(member, [&](std::string_view name, json::Value detail) {
        if (name == "web_search_requests") usage.web_searches = Count(detail);  // OpenRouter
      });
    } else if (key == "num_sources_used") {
      usage.web_searches = std::max(usage.web_searches, Count(member));  // xAI bills each source
    }
  });
  if (usage.cached == 0) usage.cached = vendor_cached;
  if (!usage.stated()) return false;
  *out = usage;
  return true;
}

void FillOpenAiUsage(const OpenAiUsage& from, common::v1::Usage* usage) {
  int64_t rest = from.prompt.value_or(0);
  const auto take = [&rest](int64_t wanted) {
    const int64_t taken = std::min(wanted, rest);
    rest -= taken;
    return taken;
  };
  const int64_t cached = take(from.cached);
  usage->set_cache_write_5m_tokens(take(from.cache_write));
  const int64_t audio = take(from.audio_input);
  usage->set_audio_input_tokens(audio);
  const int64_t cached_audio = std::min(from.audio_input - audio, cached);
  usage->set_audio_cache_read_tokens(cached_audio);
  usage->set_cache_read_tokens(cached - cached_audio);
  usage->set_image_input_tokens(take(from.image_input));
  usage->set_input_tokens_uncached(rest);

  int64_t text = from.output();
  const int64_t audio_output = std::min(from.audio_output, text);
  text -= audio_output;
  const int64_t image_output = std::min(from.image_output, text);
  text -= image_output;
  usage->set_output_tokens(text);
  usage->set_audio_output_tokens(audio_output);
  usage->set_image_output_tokens(image_output);
  usage->set_reasoning_tokens(std::max(from.reasoning, from.hidden()));
  usage->set_web_search_calls(from.web_searches);
}

}  // namespace tollhouse::edge
