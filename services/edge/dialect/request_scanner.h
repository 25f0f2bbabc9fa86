// What the scanners of all dialects share: walking a body once, checking it, and the fields that
// mean the same everywhere. Internal to ScanRequest; a dialect's scanner is a subclass in a file of
// its own.
#pragma once

#include <bitset>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/status_macros.h"
#include "services/edge/dialect/json.h"
#include "services/edge/dialect/request.h"

namespace tollhouse::edge {

// InvalidArgument with a reason and the field to blame.
absl::Status BadRequest(std::string_view reason, std::string_view message,
                        std::string_view param = {});

inline bool IsNull(json::Value& value) { return json::Token(value) == "null"; }

class RequestScanner {
 public:
  RequestScanner(Endpoint endpoint, std::string_view body, const ScanLimits& limits)
      : body_(body), limits_(limits) {
    facts_.endpoint = endpoint;
  }
  virtual ~RequestScanner() = default;
  RequestScanner(const RequestScanner&) = delete;
  RequestScanner& operator=(const RequestScanner&) = delete;

  absl::StatusOr<RequestFacts> Run(json::Parser& parser, size_t capacity);

 protected:
  // A top-level field that decides what a request costs. It may be there once, spelled exactly so.
  struct FieldName {
    std::string_view name;
    int field;  // the subclass' own numbers, below kFieldsMax
  };
  static constexpr size_t kFieldsMax = 64;

  // Called for each of Fields() that the body has.
  virtual absl::Status Known(int field, std::string_view name, json::Value& value) = 0;
  // What must be there; sums over the whole.
  virtual absl::Status CheckWhole() = 0;
  // Whether a key names a field: exactly, or in another spelling that its servers take.
  virtual bool Names(std::string_view key, std::string_view name) const { return key == name; }
  // Which fields there are.
  virtual std::span<const FieldName> Fields() const = 0;

  bool seen(int field) const { return seen_[static_cast<size_t>(field)]; }

  // --- walking -----------------------------------------------------------------------------------
  absl::Status NotJson(simdjson::error_code error) const;
  absl::Status TooDeep() const;

  Span SpanOf(std::string_view token) const {
    return {static_cast<size_t>(token.data() - body_.data()), token.size()};
  }

  // Calls visit(key, value) for each member. Not an object: NOT_JSON.
  template <typename Visit>
  absl::Status EachField(json::Value& value, int depth, Visit visit) {
    if (depth >= limits_.depth_max) return TooDeep();
    json::Object object;
    if (auto error = value.get_object().get(object); error != simdjson::SUCCESS) {
      return NotJson(error);
    }
    for (auto result : object) {
      simdjson::ondemand::field field;
      if (auto error = std::move(result).get(field); error != simdjson::SUCCESS) {
        return NotJson(error);
      }
      const auto key = json::KeyOf(field);
      if (!key.has_value()) {
        return BadRequest("NOT_JSON", "the request body has an invalid escape in a key");
      }
      TH_RETURN_IF_ERROR(visit(*key, field.value()));
    }
    return absl::OkStatus();
  }

  template <typename Visit>
  absl::Status EachElement(json::Value& value, int depth, Visit visit) {
    if (depth >= limits_.depth_max) return TooDeep();
    json::Array array;
    if (auto error = value.get_array().get(array); error != simdjson::SUCCESS) {
      return NotJson(error);
    }
    for (auto result : array) {
      json::Value element;
      if (auto error = std::move(result).get(element); error != simdjson::SUCCESS) {
        return NotJson(error);
      }
      TH_RETURN_IF_ERROR(visit(element));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<json::Type> TypeOf(json::Value& value);
  // Visits everything below a value: it is valid JSON, and where it says cache_control we know.
  absl::Status Walk(json::Value value, int depth);
  absl::Status CacheControl(json::Value value, int depth);

  // --- notes -------------------------------------------------------------------------------------
  void Unbounded(std::string feature) { Note(facts_.unbounded_features, std::move(feature)); }
  void WindowBounded(std::string feature) {
    Note(facts_.window_bounded_features, std::move(feature));
  }
  // The id of an object that lives at the provider.
  absl::Status Reference(json::Value& value, std::string_view param);
  absl::Status AddReference(std::string id, std::string_view param);
  void InlineImage(std::string_view base64, bool plain, MediaItem* item);
  // "data:image/png;base64,...", a URL, or nothing that is known.
  void ImageUrl(std::string_view url, bool plain, MediaItem item);
  void InlineAudio(std::string_view base64, bool plain);

  // --- scalars -----------------------------------------------------------------------------------
  absl::StatusOr<std::string> String(json::Value& value, std::string_view param);
  // A boolean; null counts as absent (false).
  absl::StatusOr<bool> Bool(json::Value& value, std::string_view param);
  // A whole number from min to max; null counts as absent.
  absl::StatusOr<std::optional<int64_t>> Whole(json::Value& value, std::string_view param,
                                               int64_t max, int64_t min = 1);

  // --- fields that several dialects have ---------------------------------------------------------
  absl::Status Model(json::Value& value);
  absl::Status MaxTokens(json::Value& value, std::string_view name, Span* span, int64_t min = 1);
  absl::Status StreamOptions(json::Value& value);
  // The entries become tags. `own_user_id`: user_id is the provider's (Anthropic).
  absl::Status Metadata(json::Value& value, std::string_view name, bool own_user_id);
  absl::Status ServiceTier(json::Value& value, std::initializer_list<std::string_view> known);
  absl::Status UnboundedUnlessEmpty(json::Value& value, std::string_view name);

  static std::string Shown(std::string_view token) { return std::string(token.substr(0, 40)); }

  const std::string_view body_;
  const ScanLimits& limits_;
  RequestFacts facts_;
  int64_t media_bytes_ = 0;  // of the body, that are data of recognised media

 private:
  static void Note(std::vector<std::string>& features, std::string feature);
  size_t ParserDepth() const { return static_cast<size_t>(limits_.depth_max) + 8; }
  absl::Status TopLevel(std::string_view key, json::Value value);
  absl::Status MetadataEntry(std::string_view key, json::Value& value, std::string_view token,
                             bool own_user_id);

  std::bitset<kFieldsMax> named_;  // by place in Fields()
  std::bitset<kFieldsMax> seen_;   // by the subclass' number
};

std::unique_ptr<RequestScanner> NewChatScanner(Endpoint endpoint, std::string_view body,
                                               const ScanLimits& limits);
std::unique_ptr<RequestScanner> NewTextScanner(Endpoint endpoint, std::string_view body,
                                               const ScanLimits& limits);
std::unique_ptr<RequestScanner> NewResponsesScanner(Endpoint endpoint, std::string_view body,
                                                    const ScanLimits& limits);
std::unique_ptr<RequestScanner> NewGeminiScanner(Endpoint endpoint, std::string_view body,
                                                 const ScanLimits& limits);

}  // namespace tollhouse::edge
