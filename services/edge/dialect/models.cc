#include "services/edge/dialect/models.h"

#include "absl/strings/str_cat.h"
#include "services/edge/dialect/refusal.h"

namespace tollhouse::edge {
namespace {

using common::v1::DIALECT_ANTHROPIC;
using common::v1::DIALECT_GEMINI;

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(text, &out);
  return out;
}

}  // namespace

std::string RenderModel(common::v1::Dialect dialect, const ModelEntry& model) {
  if (dialect == DIALECT_ANTHROPIC) {
    const std::string created =
        absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", model.created, absl::UTCTimeZone());
    return absl::StrCat("{\"type\":\"model\",\"id\":", Quoted(model.id),
                        ",\"display_name\":", Quoted(model.id), ",\"created_at\":", Quoted(created),
                        "}");
  }
  if (dialect == DIALECT_GEMINI) {
    return absl::StrCat("{\"name\":", Quoted(absl::StrCat("models/", model.id)),
                        ",\"displayName\":", Quoted(model.id), "}");
  }
  return absl::StrCat("{\"id\":", Quoted(model.id),
                      ",\"object\":\"model\",\"created\":", absl::ToUnixSeconds(model.created),
                      ",\"owned_by\":", Quoted(model.owned_by), "}");
}

std::string RenderModels(common::v1::Dialect dialect, std::span<const ModelEntry> models) {
  std::string list;
  for (const ModelEntry& model : models) {
    if (!list.empty()) list += ',';
    list += RenderModel(dialect, model);
  }
  if (dialect == DIALECT_ANTHROPIC) {
    const std::string first = models.empty() ? "null" : Quoted(models.front().id);
    const std::string last = models.empty() ? "null" : Quoted(models.back().id);
    return absl::StrCat("{\"data\":[", list, "],\"has_more\":false,\"first_id\":", first,
                        ",\"last_id\":", last, "}");
  }
  if (dialect == DIALECT_GEMINI) return absl::StrCat("{\"models\":[", list, "]}");
  return absl::StrCat("{\"object\":\"list\",\"data\":[", list, "]}");
}

}  // namespace tollhouse::edge
