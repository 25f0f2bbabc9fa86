#include "services/edge/target.h"

#include <algorithm>

namespace tollhouse::edge {
namespace {

struct Fixed {
  std::string_view path;
  Endpoint endpoint;
  std::string_view name;
};

constexpr Fixed kFixed[] = {
    {"/v1/chat/completions", Endpoint::kChatCompletions, "chat_completions"},
    {"/v1/completions", Endpoint::kCompletions, "completions"},
    {"/v1/responses", Endpoint::kResponses, "responses"},
    {"/v1/responses/input_tokens", Endpoint::kInputTokens, "input_tokens"},
    {"/v1/conversations", Endpoint::kConversations, "conversations"},
    {"/v1/embeddings", Endpoint::kEmbeddings, "embeddings"},
    {"/v1/moderations", Endpoint::kModerations, "moderations"},
    {"/v1/messages", Endpoint::kMessages, "messages"},
    {"/v1/messages/count_tokens", Endpoint::kCountTokens, "count_tokens"},
};

struct Method {
  std::string_view name;
  Endpoint endpoint;
  std::string_view metric;
};

constexpr Method kGeminiMethods[] = {
    {"generateContent", Endpoint::kGenerateContent, "generate_content"},
    {"streamGenerateContent", Endpoint::kStreamGenerateContent, "stream_generate_content"},
    {"countTokens", Endpoint::kGeminiCountTokens, "count_tokens"},
    {"embedContent", Endpoint::kEmbedContent, "embed_content"},
    {"batchEmbedContents", Endpoint::kBatchEmbedContents, "batch_embed_contents"},
};

// What providers offer besides: whole subtrees.
constexpr std::string_view kNotOffered[] = {"/v1/assistants",     "/v1/audio",
                                            "/v1/batches",        "/v1/chat/completions",
                                            "/v1/chatkit",        "/v1/complete",
                                            "/v1/containers",     "/v1/evals",
                                            "/v1/files",          "/v1/fine_tuning",
                                            "/v1/fine-tunes",     "/v1/images",
                                            "/v1/messages",       "/v1/organization",
                                            "/v1/organizations",  "/v1/ocr",
                                            "/v1/realtime",       "/v1/rerank",
                                            "/v1/responses",      "/v1/conversations",
                                            "/v1/skills",         "/v1/threads",
                                            "/v1/uploads",        "/v1/vector_stores",
                                            "/v1/videos",         "/v1beta",
                                            "/v1alpha",           "/upload",
                                            "/download",          "/ws",
                                            "/v1/projects",       "/v1beta1",
                                            "/v1/cachedContents", "/v1/tunedModels",
                                            "/v1/operations"};

bool Below(std::string_view path, std::string_view root) {
  return path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// %XX undone; escapes that are none stay.
std::string Decoded(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) >= 0 &&
        HexDigit(text[i + 2]) >= 0) {
      out.push_back(static_cast<char>(HexDigit(text[i + 1]) * 16 + HexDigit(text[i + 2])));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

// Names that may stand in a path that is sent on: printable, no way up or out.
bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 256 && name.find("..") == std::string_view::npos &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return c > ' ' && c < 0x7f && c != '?' && c != '#' && c != '%' && c != '\\';
         });
}

bool IsObjectId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '-';
  });
}

// /v1beta/models/MODEL:method
bool ReadGemini(std::string_view path, Target* target) {
  for (const std::string_view version : {"v1beta", "v1alpha", "v1"}) {
    const std::string prefix = "/" + std::string(version) + "/models";
    if (!Below(path, prefix)) continue;
    target->version = version;
    const std::string_view rest = path.substr(std::min(path.size(), prefix.size() + 1));
    const size_t colon = rest.rfind(':');
    if (colon != std::string_view::npos) {
      for (const Method& method : kGeminiMethods) {
        if (rest.substr(colon + 1) != method.name) continue;
        target->model = Decoded(rest.substr(0, colon));
        target->endpoint = method.endpoint;
        target->name = method.metric;
        if (IsPlainName(target->model)) target->known = Target::Known::kServed;
        return true;
      }
    }
    if (version == "v1") return false;  // OpenAI's and Anthropic's list
    // Another method is another endpoint; a model's name has no colon there.
    if (colon != std::string_view::npos) return false;
    target->model = Decoded(rest);
    target->endpoint = Endpoint::kModels;
    target->name = "models";
    target->known = Target::Known::kServed;
    return true;
  }
  return false;
}

// /v1/responses/ID, /v1/responses/ID/input_items, /v1/conversations/ID
bool ReadObject(std::string_view path, std::string_view root, Target* target) {
  if (!path.starts_with(root) || path.size() <= root.size() + 1) return false;
  std::string_view id = path.substr(root.size() + 1);
  std::string_view rest;
  if (const size_t slash = id.find('/'); slash != std::string_view::npos) {
    rest = id.substr(slash);
    id = id.substr(0, slash);
  }
  if (!IsObjectId(id)) return false;
  target->object_id = id;
  target->rest = rest;
  return true;
}

}  // namespace

Target TargetOf(const RequestHead& head) {
  Target target;
  const std::string_view path = head.path();
  const std::string_view method = head.method;
  if (head.headers.Find("upgrade") || head.headers.Find("sec-websocket-key")) {
    target.known = Target::Known::kNotOffered;
    return target;
  }
  for (const Fixed& fixed : kFixed) {
    if (path != fixed.path) continue;
    target.known = Target::Known::kServed;
    target.endpoint = fixed.endpoint;
    target.name = fixed.name;
    target.allowed = method == "POST";
    return target;
  }
  if (path == "/tollhouse/v1/usage") {
    target.known = Target::Known::kServed;
    target.endpoint = Endpoint::kModels;
    target.usage = true;
    target.name = "usage";
    target.allowed = method == "GET";
    return target;
  }
  if (ReadGemini(path, &target)) {
    target.allowed = method == (target.endpoint == Endpoint::kModels ? "GET" : "POST");
    return target;
  }
  target.version.clear();
  if (Below(path, "/v1/models")) {
    target.known = Target::Known::kServed;
    target.endpoint = Endpoint::kModels;
    target.name = "models";
    target.model =
        Decoded(path.substr(std::min(path.size(), std::string_view("/v1/models/").size())));
    target.allowed = method == "GET";
    return target;
  }
  if (ReadObject(path, "/v1/responses", &target) &&
      (target.rest.empty() || target.rest == "/input_items")) {
    target.known = Target::Known::kServed;
    target.endpoint = Endpoint::kStoredResponse;
    target.name = "stored_response";
    target.allowed = method == "GET" || (method == "DELETE" && target.rest.empty());
    // It has no other use than to be asked for: compaction is billed.
    if (target.object_id == "compact") target.known = Target::Known::kNotOffered;
    return target;
  }
  if (ReadObject(path, "/v1/conversations", &target) &&
      (target.rest.empty() || target.rest == "/items")) {
    target.known = Target::Known::kServed;
    target.endpoint = Endpoint::kConversations;
    target.name = "conversations";
    target.allowed = method == "GET" || (method == "DELETE" && target.rest.empty());
    return target;
  }
  if (std::any_of(std::begin(kNotOffered), std::end(kNotOffered),
                  [&](std::string_view root) { return Below(path, root); })) {
    target.known = Target::Known::kNotOffered;
  }
  return target;
}

}  // namespace tollhouse::edge
