// The bodies of OpenAI's completions, embeddings and moderations.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/request_scanner.h"

namespace tollhouse::edge {
namespace {

using json::Type;
using json::Value;

enum Field : int {
  kModel,
  kStream,
  kStreamOptions,
  kMaxTokens,
  kN,
  kBestOf,
  kMetadata,
  kServiceTier,
  kPrompt,
  kInput,
  kUnbounded,
};

class TextScanner final : public RequestScanner {
 public:
  using RequestScanner::RequestScanner;

 private:
  static constexpr FieldName kCompletionFields[] = {
      {"model", kModel},
      {"stream", kStream},
      {"stream_options", kStreamOptions},
      {"max_tokens", kMaxTokens},
      {"n", kN},
      {"best_of", kBestOf},
      {"metadata", kMetadata},
      {"service_tier", kServiceTier},
      {"prompt", kPrompt},
      {"models", kUnbounded},
      {"plugins", kUnbounded},
  };
  // The tier of vectors is the provider's only one.
  static constexpr FieldName kInputFields[] = {{"model", kModel}, {"input", kInput}};

  bool completions() const { return facts_.endpoint == Endpoint::kCompletions; }

  std::span<const FieldName> Fields() const override {
    if (completions()) return kCompletionFields;
    return kInputFields;
  }

  absl::Status Known(int field, std::string_view name, Value& value) override {
    switch (field) {
      case kModel:
        return Model(value);
      case kStream: {
        TH_ASSIGN_OR_RETURN(facts_.stream, Bool(value, name));
        return absl::OkStatus();
      }
      case kStreamOptions:
        return StreamOptions(value);
      case kMaxTokens:
        return MaxTokens(value, name, &facts_.max_tokens_value, 0);
      case kN: {
        TH_ASSIGN_OR_RETURN(const auto choices, Whole(value, name, limits_.choices_max));
        facts_.choices = choices.value_or(1);
        return absl::OkStatus();
      }
      case kBestOf: {
        TH_ASSIGN_OR_RETURN(const auto best_of, Whole(value, name, limits_.choices_max));
        facts_.best_of = best_of.value_or(1);
        return absl::OkStatus();
      }
      case kMetadata:
        return Metadata(value, name, false);
      case kServiceTier:
        return ServiceTier(value, {"auto", "default", "flex", "scale", "priority", "fast"});
      case kUnbounded:
        return UnboundedUnlessEmpty(value, name);
      default:
        return Texts(value, name);
    }
  }

  // A text, several, the tokens of one ([1,2]) or of several ([[1,2],[3]]). Each takes at least as
  // many bytes of the body as it has tokens, its brackets and comma included.
  absl::Status Texts(Value& value, std::string_view name) {
    TH_ASSIGN_OR_RETURN(const Type type, TypeOf(value));
    if (type != Type::array) return Walk(value, 1);
    int64_t inputs = 0;
    bool numbers = false;
    TH_RETURN_IF_ERROR(EachElement(value, 1, [&](Value element) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const Type element_type, TypeOf(element));
      if (element_type == Type::number) {
        numbers = true;
      } else {
        ++inputs;
      }
      if (element_type == Type::object) {
        // Pictures and the like, which some vendors turn into vectors too.
        if (facts_.endpoint != Endpoint::kModerations) WindowBounded("input that is not text");
      }
      return Walk(element, 2);
    }));
    facts_.inputs = std::max<int64_t>(1, inputs + (numbers ? 1 : 0));
    if (facts_.inputs > limits_.inputs_max) {
      return BadRequest(
          "OUT_OF_RANGE",
          absl::StrCat("`", Absl(name), "` has more than ", limits_.inputs_max, " entries"), name);
    }
    return absl::OkStatus();
  }

  absl::Status CheckWhole() override {
    if (facts_.endpoint == Endpoint::kModerations) return absl::OkStatus();
    if (!seen(kModel)) return BadRequest("MISSING_FIELD", "`model` is missing", "model");
    if (!completions() && !seen(kInput)) {
      return BadRequest("MISSING_FIELD", "`input` is missing", "input");
    }
    if (IsEmbedding(facts_.endpoint)) facts_.service_tier = "default";
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<RequestScanner> NewTextScanner(Endpoint endpoint, std::string_view body,
                                               const ScanLimits& limits) {
  return std::make_unique<TextScanner>(endpoint, body, limits);
}

}  // namespace tollhouse::edge
