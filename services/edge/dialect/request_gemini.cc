// The bodies of Gemini's generateContent, embedContent and countTokens. Google's servers take every
// field in two spellings, maxOutputTokens and max_output_tokens.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/request_scanner.h"

namespace tollhouse::edge {
namespace {

using json::Inside;
using json::Token;
using json::Type;
using json::Value;

// Parts within the response of a function; deeper is not looked into.
constexpr int kPartNestingMax = 4;

enum Field : int {
  kModel,
  kContents,
  kSystemInstruction,
  kTools,
  kGenerationConfig,
  kCachedContent,
  kServiceTier,
  kLabels,
  kContent,
  kRequests,
  kCounted,
};

// Whether a key is the field, in either spelling. Servers refuse other capitals, so that it does no
// harm to know them.
bool Is(std::string_view key, std::string_view camel_case) {
  size_t k = 0;
  for (const char c : camel_case) {
    while (k < key.size() && key[k] == '_') ++k;
    if (k == key.size() || absl::ascii_tolower(key[k]) != absl::ascii_tolower(c)) return false;
    ++k;
  }
  return k == key.size();
}

std::string_view TextOf(Value& value) {
  const std::string_view token = Token(value);
  return token.substr(0, 1) == "\"" ? Inside(token) : std::string_view();
}

class GeminiScanner final : public RequestScanner {
 public:
  GeminiScanner(Endpoint endpoint, std::string_view body, const ScanLimits& limits)
      : RequestScanner(endpoint, body, limits) {
    facts_.stream = endpoint == Endpoint::kStreamGenerateContent;
    facts_.service_tier = "standard";  // unless the request asks for another
  }

 private:
  static constexpr FieldName kGenerateFields[] = {
      {"model", kModel},
      {"contents", kContents},
      {"systemInstruction", kSystemInstruction},
      {"tools", kTools},
      {"generationConfig", kGenerationConfig},
      {"cachedContent", kCachedContent},
      {"serviceTier", kServiceTier},
      {"labels", kLabels},
  };
  static constexpr FieldName kEmbedFields[] = {{"model", kModel}, {"content", kContent}};
  static constexpr FieldName kBatchFields[] = {{"requests", kRequests}};
  static constexpr FieldName kCountFields[] = {{"model", kModel},
                                               {"generateContentRequest", kCounted}};

  bool Names(std::string_view key, std::string_view name) const override { return Is(key, name); }

  std::span<const FieldName> Fields() const override {
    switch (facts_.endpoint) {
      case Endpoint::kEmbedContent:
        return kEmbedFields;
      case Endpoint::kBatchEmbedContents:
        return kBatchFields;
      case Endpoint::kGeminiCountTokens:
        return kCountFields;
      default:
        return kGenerateFields;
    }
  }

  absl::Status Known(int field, std::string_view name, Value& value) override {
    switch (field) {
      case kModel:
        return ModelReference(value);
      case kContents:
      case kSystemInstruction:
      case kContent:
        return Contents(value);
      case kTools:
        return Tools(value);
      case kGenerationConfig:
        return GenerationConfig(value);
      case kCachedContent:
        if (!IsNull(value)) WindowBounded("cachedContent");
        return Reference(value, name);
      case kServiceTier:
        return Tier(value, name);
      case kLabels:
        return Metadata(value, name, false);
      case kCounted:
        return Counted(value);
      default:
        return Requests(value);
    }
  }

  absl::Status Counted(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, 1);
    return EachField(value, 1, [&](std::string_view key, Value child) {
      return Is(key, "model") ? ModelReference(child) : Walk(child, 2);
    });
  }

  // The model stands in the path; within the body it must say the same (the gateway compares).
  absl::Status ModelReference(Value& value) {
    if (IsNull(value)) return absl::OkStatus();
    const Span span = SpanOf(Token(value));
    TH_ASSIGN_OR_RETURN(const std::string model, String(value, "model"));
    if (!facts_.model_refs.empty() && model != facts_.model) {
      return BadRequest("OUT_OF_RANGE", "the entries of `requests` name several models", "model");
    }
    facts_.model = model;
    facts_.model_refs.push_back(span);
    return absl::OkStatus();
  }

  absl::Status Tier(Value& value, std::string_view name) {
    if (IsNull(value)) return absl::OkStatus();
    TH_ASSIGN_OR_RETURN(std::string tier, String(value, name));
    absl::AsciiStrToLower(&tier);
    if (absl::StartsWith(tier, "service_tier_")) tier.erase(0, 13);
    if (tier == "unspecified") tier = "standard";
    if (tier != "standard" && tier != "flex" && tier != "priority") {
      Unbounded(absl::StrCat("serviceTier=", tier.substr(0, 40)));
    }
    facts_.service_tier = std::move(tier);
    return absl::OkStatus();
  }

  absl::Status GenerationConfig(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    const std::string_view token = Token(value);
    facts_.generation_config_value = SpanOf(token);
    if (type == Type::null) return absl::OkStatus();
    if (type != Type::object) {
      return BadRequest("WRONG_TYPE", "`generationConfig` must be an object", "generationConfig");
    }
    facts_.generation_config_open = SpanOf(token.substr(0, 1));
    facts_.generation_config_empty = true;
    bool candidates = false;
    return EachField(value, 1, [&](std::string_view key, Value child) -> absl::Status {
      facts_.generation_config_empty = false;
      if (Is(key, "maxOutputTokens")) {
        if (facts_.max_tokens_value.present()) return Twice("generationConfig.maxOutputTokens");
        return MaxTokens(child, "generationConfig.maxOutputTokens", &facts_.max_tokens_value);
      }
      if (Is(key, "candidateCount")) {
        if (std::exchange(candidates, true)) return Twice("generationConfig.candidateCount");
        TH_ASSIGN_OR_RETURN(const auto count,
                            Whole(child, "generationConfig.candidateCount", limits_.choices_max));
        facts_.choices = count.value_or(1);
        return absl::OkStatus();
      }
      if (Is(key, "thinkingConfig")) return ThinkingConfig(child);
      return Walk(child, 2);
    });
  }

  static absl::Status Twice(std::string_view name) {
    return BadRequest("DUPLICATE_FIELD", absl::StrCat("`", Absl(name), "` is given twice"), name);
  }

  absl::Status ThinkingConfig(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, 2);
    return EachField(value, 2, [&](std::string_view key, Value child) -> absl::Status {
      if (!Is(key, "thinkingBudget")) return Walk(child, 3);
      TH_ASSIGN_OR_RETURN(const Type child_type, TypeOf(child));
      if (child_type != Type::number) return Walk(child, 3);
      // -1 leaves it to the model; thoughts count against maxOutputTokens either way.
      const auto budget = json::IntegerOf(Token(child));
      if (budget.value_or(0) > 0) facts_.thinking_budget = budget;
      return absl::OkStatus();
    });
  }

  // --- tools -------------------------------------------------------------------------------------
  absl::Status Tools(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::null) return absl::OkStatus();
    if (type == Type::object) return Tool(value);
    if (type != Type::array) return BadRequest("WRONG_TYPE", "`tools` must be an array", "tools");
    return EachElement(value, 1, [&](Value tool) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type tool_type, TypeOf(tool));
      return tool_type == Type::object ? Tool(tool) : Walk(tool, 2);
    });
  }

  absl::Status Tool(Value& tool) {
    return EachField(tool, 2, [&](std::string_view key, Value child) {
      if (!Is(key, "functionDeclarations") && !IsNull(child)) {
        if (Is(key, "computerUse")) {
          ++facts_.client_tool_prompts;
        } else {
          // Searches, pages, code: as many steps as the model likes, each with input of its own.
          Unbounded(absl::StrCat("tools.", Absl(key.substr(0, 60))));
        }
      }
      return Walk(child, 3);
    });
  }

  // --- contents ----------------------------------------------------------------------------------
  absl::Status Contents(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::object) return OneContent(value, 1);
    if (type != Type::array) return Walk(value, 1);
    return EachElement(value, 1, [&](Value content) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type content_type, TypeOf(content));
      return content_type == Type::object ? OneContent(content, 2) : Walk(content, 2);
    });
  }

  absl::Status OneContent(Value& content, int depth) {
    return EachField(content, depth, [&](std::string_view key, Value child) {
      return Is(key, "parts") ? Parts(child, depth + 1, 0) : Walk(child, depth + 1);
    });
  }

  absl::Status Parts(Value& value, int depth, int nesting) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type == Type::object) return Part(value, depth, nesting);
    if (type != Type::array) return Walk(value, depth);
    return EachElement(value, depth, [&](Value part) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type part_type, TypeOf(part));
      return part_type == Type::object ? Part(part, depth + 1, nesting) : Walk(part, depth + 1);
    });
  }

  absl::Status Part(Value& part, int depth, int nesting) {
    int blobs = 0;
    std::string_view mime, data;
    TH_RETURN_IF_ERROR(
        EachField(part, depth, [&](std::string_view key, Value child) -> absl::Status {
          if (Is(key, "inlineData")) return Blob(child, depth + 1, &mime, &data, &blobs);
          if (Is(key, "fileData") && !IsNull(child)) WindowBounded("fileData");
          if (Is(key, "functionResponse")) return FunctionResponse(child, depth + 1, nesting + 1);
          return Walk(child, depth + 1);
        }));
    if (blobs == 0) return absl::OkStatus();
    const bool plain = blobs == 2 && data.data() != nullptr;
    if (absl::StartsWith(Absl(mime), "image/")) {
      MediaItem item;
      InlineImage(data, plain, &item);
      facts_.media.push_back(item);
    } else if (absl::StartsWith(Absl(mime), "audio/")) {
      InlineAudio(data, plain);
    } else if (!absl::StartsWith(Absl(mime), "text/")) {
      WindowBounded(absl::StrCat("inlineData of ", Absl(mime.substr(0, 60))));
    }
    return absl::OkStatus();
  }

  // Counts the two members that say what it is.
  absl::Status Blob(Value& value, int depth, std::string_view* mime, std::string_view* data,
                    int* members) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, depth);
    return EachField(value, depth, [&](std::string_view key, Value child) {
      if (Is(key, "mimeType")) {
        *mime = TextOf(child);
        ++*members;
      } else if (Is(key, "data")) {
        *data = TextOf(child);
        ++*members;
      }
      return Walk(child, depth + 1);
    });
  }

  absl::Status FunctionResponse(Value& value, int depth, int nesting) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::object) return Walk(value, depth);
    if (nesting >= kPartNestingMax) {
      WindowBounded("nested content");
      return Walk(value, depth);
    }
    return EachField(value, depth, [&](std::string_view key, Value child) {
      return Is(key, "parts") ? Parts(child, depth + 1, nesting) : Walk(child, depth + 1);
    });
  }

  // --- embeddings --------------------------------------------------------------------------------
  absl::Status Requests(Value& value) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) {
      return BadRequest("WRONG_TYPE", "`requests` must be an array", "requests");
    }
    int64_t inputs = 0;
    TH_RETURN_IF_ERROR(EachElement(value, 1, [&](Value request) -> absl::Status {
      ++inputs;
      TH_ASSIGN_OR_RETURN(const Type request_type, TypeOf(request));
      if (request_type != Type::object) return Walk(request, 2);
      return EachField(request, 2, [&](std::string_view key, Value child) -> absl::Status {
        if (Is(key, "model")) return ModelReference(child);
        if (!Is(key, "content")) return Walk(child, 3);
        TH_ASSIGN_OR_RETURN(const Type child_type, TypeOf(child));
        return child_type == Type::object ? OneContent(child, 3) : Walk(child, 3);
      });
    }));
    if (inputs > limits_.inputs_max) {
      return BadRequest("OUT_OF_RANGE",
                        absl::StrCat("`requests` has more than ", limits_.inputs_max, " entries"),
                        "requests");
    }
    facts_.inputs = std::max<int64_t>(1, inputs);
    return absl::OkStatus();
  }

  absl::Status CheckWhole() override {
    const auto missing = [](std::string_view name) {
      return BadRequest("MISSING_FIELD", absl::StrCat("`", Absl(name), "` is missing"), name);
    };
    switch (facts_.endpoint) {
      case Endpoint::kEmbedContent:
        return seen(kContent) ? absl::OkStatus() : missing("content");
      case Endpoint::kBatchEmbedContents:
        return seen(kRequests) ? absl::OkStatus() : missing("requests");
      case Endpoint::kGeminiCountTokens:
        return absl::OkStatus();
      default:
        return seen(kContents) ? absl::OkStatus() : missing("contents");
    }
  }
};

}  // namespace

std::unique_ptr<RequestScanner> NewGeminiScanner(Endpoint endpoint, std::string_view body,
                                                 const ScanLimits& limits) {
  return std::make_unique<GeminiScanner>(endpoint, body, limits);
}

}  // namespace tollhouse::edge
