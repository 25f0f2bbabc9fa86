#include "services/edge/dialect/splice.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/dialect/refusal.h"

namespace tollhouse::edge {
namespace {

struct Edit {
  Span where;  // length 0: insert before this offset
  std::string text;
};

Edit Replace(const Span& span, std::string text) { return {span, std::move(text)}; }

// A member right behind an opening brace.
Edit InsertMember(const Span& open, bool empty, std::string member) {
  if (!empty) member += ',';
  return {Span{open.offset + 1, 0}, std::move(member)};
}

// The model as bodies of this dialect spell it.
std::string ModelLiteral(const RequestFacts& facts, std::string_view model) {
  std::string literal;
  const bool gemini = DialectOf(facts.endpoint) == common::v1::DIALECT_GEMINI;
  AppendJsonString(absl::StrCat(gemini ? "models/" : "", Absl(model)), &literal);
  return literal;
}

// A maximum where the body has none.
Edit InsertMaximum(const RequestFacts& facts, const SpliceOptions& options,
                   const std::string& number) {
  const auto member = [&](std::string_view name) {
    std::string text;
    AppendJsonString(name, &text);
    return absl::StrCat(text, ":", number);
  };
  const auto into_body = [&](std::string text) {
    return InsertMember(facts.body_open, facts.body_empty, std::move(text));
  };
  switch (facts.endpoint) {
    case Endpoint::kChatCompletions:
      return into_body(member(options.max_output_field));
    case Endpoint::kResponses:
      return into_body(member("max_output_tokens"));
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent: {
      const std::string maximum = member("maxOutputTokens");
      if (facts.generation_config_open.present()) {
        return InsertMember(facts.generation_config_open, facts.generation_config_empty, maximum);
      }
      const std::string object = absl::StrCat("{", maximum, "}");
      if (facts.generation_config_value.present()) {
        return Replace(facts.generation_config_value, object);
      }
      return into_body(absl::StrCat("\"generationConfig\":", object));
    }
    default:
      return into_body(member("max_tokens"));
  }
}

std::vector<Edit> EditsFor(const RequestFacts& facts, std::string_view body,
                           const SpliceOptions& options) {
  std::vector<Edit> edits;
  if (!options.upstream_model.empty() && options.upstream_model != facts.model) {
    const std::string literal = ModelLiteral(facts, options.upstream_model);
    if (facts.model_value.present()) edits.push_back(Replace(facts.model_value, literal));
    for (const Span& span : facts.model_refs) edits.push_back(Replace(span, literal));
  }
  if (options.inject_include_usage && facts.stream && !facts.include_usage) {
    if (facts.include_usage_value.present()) {
      edits.push_back(Replace(facts.include_usage_value, "true"));
    } else if (facts.stream_options_open.present()) {
      edits.push_back(InsertMember(facts.stream_options_open, facts.stream_options_empty,
                                   "\"include_usage\":true"));
    } else if (facts.stream_options_value.present()) {
      edits.push_back(Replace(facts.stream_options_value, "{\"include_usage\":true}"));
    } else {
      edits.push_back(InsertMember(facts.body_open, facts.body_empty,
                                   "\"stream_options\":{\"include_usage\":true}"));
    }
  }
  if (options.max_output_tokens.has_value()) {
    const std::string number = absl::StrCat(*options.max_output_tokens);
    const bool plain = facts.endpoint != Endpoint::kChatCompletions ||
                       options.max_output_field == "max_tokens";
    const Span& named = plain ? facts.max_tokens_value : facts.max_completion_tokens_value;
    const Span& other = plain ? facts.max_completion_tokens_value : facts.max_tokens_value;
    const bool other_counts = other.present() && body.substr(other.offset, other.length) != "null";
    if (other_counts) edits.push_back(Replace(other, number));
    if (named.present() && (!other_counts || body.substr(named.offset, named.length) != "null")) {
      edits.push_back(Replace(named, number));
    }
    if (!other_counts && !named.present()) {
      edits.push_back(InsertMaximum(facts, options, number));
    }
  }
  if (options.strip_metadata && facts.metadata_foreign) {
    std::string kept = "{}";
    if (facts.user_id_value.present()) {
      kept = absl::StrCat(
          "{\"user_id\":",
          std::string(body.substr(facts.user_id_value.offset, facts.user_id_value.length)), "}");
    }
    edits.push_back(Replace(facts.metadata_value, std::move(kept)));
  }
  std::stable_sort(edits.begin(), edits.end(),
                   [](const Edit& a, const Edit& b) { return a.where.offset < b.where.offset; });
  return edits;
}

}  // namespace

bool NeedsSplice(const RequestFacts& facts, const SpliceOptions& options) {
  return (!options.upstream_model.empty() && options.upstream_model != facts.model) ||
         (options.inject_include_usage && facts.stream && !facts.include_usage) ||
         options.max_output_tokens.has_value() ||
         (options.strip_metadata && facts.metadata_foreign);
}

std::string SpliceForUpstream(const RequestFacts& facts, std::string_view body,
                              const SpliceOptions& options) {
  const std::vector<Edit> edits = EditsFor(facts, body, options);
  size_t size = body.size() + kJsonPadding;
  for (const Edit& edit : edits) size += edit.text.size();
  std::string out;
  out.reserve(size);
  size_t at = 0;
  for (const Edit& edit : edits) {
    out.append(body, at, edit.where.offset - at);
    out += edit.text;
    at = edit.where.offset + edit.where.length;
  }
  out.append(body, at, std::string_view::npos);
  return out;
}

}  // namespace tollhouse::edge
