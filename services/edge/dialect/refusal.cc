#include "services/edge/dialect/refusal.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

using common::v1::Dialect;
using common::v1::DIALECT_ANTHROPIC;
using common::v1::DIALECT_GEMINI;
using Kind = Refusal::Kind;

// One row per kind: what each dialect calls it.
struct Shape {
  Kind kind;
  int status;
  std::string_view openai_type;
  std::string_view openai_code;
  std::string_view anthropic_type;
  std::string_view gemini_status;
  bool retry;  // x-should-retry, which the official SDKs obey before anything else
  std::string_view message;
};

constexpr Shape kShapes[] = {
    {Kind::kBudgetExhausted, 402, "insufficient_quota", "insufficient_quota", "billing_error",
     "PERMISSION_DENIED", false, "A budget is exhausted."},
    {Kind::kBudgetHeld, 429, "budget_held", "budget_held", "rate_limit_error", "RESOURCE_EXHAUSTED",
     true, "Requests in flight hold the rest of a budget."},
    {Kind::kBudgetBlocked, 503, "server_error", "budget_blocked", "overloaded_error", "UNAVAILABLE",
     true, "A budget is blocked until the cost of earlier requests is known."},
    {Kind::kRequestRate, 429, "requests", "rate_limit_exceeded", "rate_limit_error",
     "RESOURCE_EXHAUSTED", true, "The request rate limit is reached."},
    {Kind::kTokenRate, 429, "tokens", "rate_limit_exceeded", "rate_limit_error",
     "RESOURCE_EXHAUSTED", true, "The token rate limit is reached."},
    {Kind::kConcurrency, 429, "requests", "concurrency_limit_exceeded", "rate_limit_error",
     "RESOURCE_EXHAUSTED", true, "The limit of concurrent requests is reached."},
    {Kind::kBadRequest, 400, "invalid_request_error", "", "invalid_request_error",
     "INVALID_ARGUMENT", false, "The request is not valid."},
    {Kind::kUnauthenticated, 401, "invalid_request_error", "invalid_api_key",
     "authentication_error", "INVALID_ARGUMENT", false, "The API key is not valid."},
    {Kind::kForbidden, 403, "permission_error", "permission_denied", "permission_error",
     "PERMISSION_DENIED", false, "This key may not do that."},
    {Kind::kModelNotFound, 404, "invalid_request_error", "model_not_found", "not_found_error",
     "NOT_FOUND", false, "The model does not exist."},
    {Kind::kNotFound, 404, "invalid_request_error", "unknown_url", "not_found_error", "NOT_FOUND",
     false, "There is nothing at this path."},
    {Kind::kMethodNotAllowed, 405, "invalid_request_error", "method_not_supported",
     "invalid_request_error", "INVALID_ARGUMENT", false, "This path does not take this method."},
    {Kind::kTooLarge, 413, "invalid_request_error", "request_too_large", "request_too_large",
     "INVALID_ARGUMENT", false, "The request is too large."},
    {Kind::kRequestTimeout, 408, "invalid_request_error", "request_timeout",
     "invalid_request_error", "DEADLINE_EXCEEDED", true, "The request did not arrive in time."},
    {Kind::kHeadersTooLarge, 431, "invalid_request_error", "headers_too_large",
     "invalid_request_error", "INVALID_ARGUMENT", false, "The request headers are too large."},
    {Kind::kUpstream, 502, "server_error", "upstream_error", "api_error", "UNAVAILABLE", true,
     "The provider's answer could not be used."},
    {Kind::kUnavailable, 503, "server_error", "service_unavailable", "overloaded_error",
     "UNAVAILABLE", true, "A part of the gateway is not available."},
    {Kind::kUpstreamTimeout, 504, "server_error", "upstream_timeout", "timeout_error",
     "DEADLINE_EXCEEDED", true, "The provider did not answer in time."},
    {Kind::kInternal, 500, "server_error", "internal_error", "api_error", "INTERNAL", false,
     "Something went wrong in the gateway."},
};

const Shape& ShapeOf(Kind kind) {
  for (const Shape& shape : kShapes) {
    if (shape.kind == kind) return shape;
  }
  return kShapes[std::size(kShapes) - 1];
}

int StatusOf(Dialect dialect, const Refusal& refusal, const Shape& shape) {
  if (refusal.kind == Kind::kBudgetExhausted) {
    if (refusal.budget_status == 429) return 429;
    return dialect == DIALECT_GEMINI ? 403 : 402;
  }
  if (dialect == DIALECT_GEMINI) {
    if (refusal.kind == Kind::kUnauthenticated) return 400;
    if (refusal.kind == Kind::kUpstream) return 503;
  }
  return shape.status;
}

std::string Dollars(int64_t nanos) { return absl::StrCat("$", FormatUsd(NanoUsd(nanos))); }

std::string Rfc3339(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

int64_t RetrySeconds(absl::Duration wait) {
  const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)));
  return std::max<int64_t>(seconds, 1);
}

bool IsBudgetKind(Kind kind) {
  return kind == Kind::kBudgetExhausted || kind == Kind::kBudgetHeld ||
         kind == Kind::kBudgetBlocked;
}

// "acme/payments#month" -> the command that an administrator would type.
std::string RaiseCommand(std::string_view budget) {
  const size_t hash = budget.find('#');
  std::string command = absl::StrCat("tollctl budget raise ", Absl(budget.substr(0, hash)));
  if (hash != std::string_view::npos) {
    std::string_view window = budget.substr(hash + 1);
    window = window.substr(0, window.find_first_of("#?[ "));
    absl::StrAppend(&command, " --window ", Absl(window));
  }
  return absl::StrCat(command, " --by AMOUNT --until DATE --reason TEXT");
}

std::string DescribeBudget(Kind kind, const ViolatedLimit& v) {
  std::string text = absl::StrCat("Budget ", v.budget, ": limit ", Dollars(v.limit_nanousd),
                                  ", spent ", Dollars(v.spent_nanousd),
                                  ", held by requests in flight ", Dollars(v.held_nanousd));
  if (v.suspense_nanousd > 0) {
    absl::StrAppend(&text, ", in suspense ", Dollars(v.suspense_nanousd));
  }
  absl::StrAppend(&text, "; this request needs up to ", Dollars(v.needed_nanousd), ".");
  if (kind == Kind::kBudgetExhausted && v.resets_at.has_value()) {
    absl::StrAppend(&text, " It opens again at ", Rfc3339(*v.resets_at), ".");
  }
  return text;
}

std::string MessageOf(const Refusal& refusal, const Shape& shape) {
  if (!refusal.message.empty()) return refusal.message;
  std::string text(shape.message);
  if (IsBudgetKind(refusal.kind)) {
    for (const ViolatedLimit& v : refusal.violations)
      absl::StrAppend(&text, " ", DescribeBudget(refusal.kind, v));
    if (refusal.kind == Kind::kBudgetExhausted && !refusal.violations.empty()) {
      absl::StrAppend(&text, " To get more, ask an administrator to run: ",
                      RaiseCommand(refusal.violations.front().budget));
    }
    if (refusal.kind != Kind::kBudgetExhausted) absl::StrAppend(&text, " Try again shortly.");
    return text;
  }
  for (const ViolatedLimit& v : refusal.violations) {
    absl::StrAppend(&text, " ", v.budget, ": ", v.reason.empty() ? "limit" : v.reason, " ", v.limit,
                    ".");
  }
  if (refusal.retry_after.has_value() && shape.retry) {
    absl::StrAppend(&text, " Try again in ", RetrySeconds(*refusal.retry_after), " s.");
  }
  return text;
}

void AppendMember(std::string_view name, std::string_view value, std::string* out) {
  if (out->back() != '{') *out += ',';
  AppendJsonString(name, out);
  *out += ':';
  AppendJsonString(value, out);
}

void AppendNanos(std::string_view name, int64_t nanos, std::string* out) {
  AppendMember(name, absl::StrCat(nanos), out);  // int64 travels as a string
}

// {"reason":...,"violations":[...]}: the same facts for programs, in every dialect.
std::string Detail(const Refusal& refusal) {
  std::string out = "{";
  if (!refusal.request_id.empty()) AppendMember("request_id", refusal.request_id, &out);
  if (out.size() > 1) out += ',';
  out += "\"violations\":[";
  bool first = true;
  for (const ViolatedLimit& v : refusal.violations) {
    if (!first) out += ',';
    first = false;
    out += '{';
    AppendMember("budget", v.budget, &out);
    AppendMember("reason", v.reason, &out);
    if (IsBudgetKind(refusal.kind)) {
      AppendNanos("limit_nanousd", v.limit_nanousd, &out);
      AppendNanos("spent_nanousd", v.spent_nanousd, &out);
      AppendNanos("held_nanousd", v.held_nanousd, &out);
      AppendNanos("suspense_nanousd", v.suspense_nanousd, &out);
      AppendNanos("needed_nanousd", v.needed_nanousd, &out);
      if (v.resets_at.has_value()) AppendMember("resets_at", Rfc3339(*v.resets_at), &out);
      AppendMember("ask", RaiseCommand(v.budget), &out);
    } else {
      AppendNanos("limit", v.limit, &out);
    }
    out += '}';
  }
  return out + "]}";
}

std::string OpenAiBody(const Refusal& refusal, const Shape& shape, std::string_view message) {
  std::string out = "{\"error\":{";
  AppendMember("message", message, &out);
  AppendMember("type", shape.openai_type, &out);
  out += ",\"param\":";
  refusal.param.empty() ? void(out += "null") : AppendJsonString(refusal.param, &out);
  out += ",\"code\":";
  const std::string_view code = refusal.code.empty() ? shape.openai_code : refusal.code;
  code.empty() ? void(out += "null") : AppendJsonString(code, &out);
  if (!refusal.violations.empty()) absl::StrAppend(&out, ",\"tollhouse\":", Detail(refusal));
  return out + "}}";
}

std::string AnthropicBody(const Refusal& refusal, const Shape& shape, std::string_view message) {
  std::string out = "{\"type\":\"error\",\"error\":{";
  AppendMember("type",
               refusal.kind == Kind::kBudgetExhausted && refusal.budget_status == 429
                   ? std::string_view("rate_limit_error")
                   : shape.anthropic_type,
               &out);
  AppendMember("message", message, &out);
  if (refusal.kind == Kind::kBudgetHeld) AppendMember("code", "budget_held", &out);
  if (!refusal.code.empty()) AppendMember("code", refusal.code, &out);
  if (!refusal.param.empty()) AppendMember("param", refusal.param, &out);
  if (!refusal.violations.empty()) absl::StrAppend(&out, ",\"tollhouse\":", Detail(refusal));
  out += "}";
  if (!refusal.request_id.empty()) AppendMember("request_id", refusal.request_id, &out);
  return out + "}";
}

std::string GeminiBody(const Refusal& refusal, const Shape& shape, int status,
                       std::string_view message) {
  std::string out = absl::StrCat("{\"error\":{\"code\":", status);
  AppendMember("message", message, &out);
  AppendMember("status",
               refusal.kind == Kind::kBudgetExhausted && status == 429
                   ? std::string_view("RESOURCE_EXHAUSTED")
                   : shape.gemini_status,
               &out);
  out += ",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\"";
  std::string reason = refusal.kind == Kind::kUnauthenticated ? "API_KEY_INVALID"
                       : refusal.code.empty()                 ? std::string(shape.openai_code)
                                                              : refusal.code;
  if (reason.empty()) reason = "invalid_request";
  std::transform(reason.begin(), reason.end(), reason.begin(),
                 [](unsigned char c) { return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c; });
  AppendMember("reason", reason, &out);
  AppendMember("domain", "tollhouse", &out);
  out += '}';
  if (IsBudgetKind(refusal.kind) && !refusal.violations.empty()) {
    out += ",{\"@type\":\"type.googleapis.com/google.rpc.QuotaFailure\",\"violations\":[";
    for (size_t i = 0; i < refusal.violations.size(); ++i) {
      if (i > 0) out += ',';
      out += '{';
      AppendMember("subject", refusal.violations[i].budget, &out);
      AppendMember("description", DescribeBudget(refusal.kind, refusal.violations[i]), &out);
      out += '}';
    }
    out += "]}";
  }
  if (refusal.retry_after.has_value()) {
    out += ",{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\"";
    AppendMember("retryDelay", absl::StrCat(RetrySeconds(*refusal.retry_after), "s"), &out);
    out += '}';
  }
  return out + "]}}";
}

std::string BodyOf(Dialect dialect, const Refusal& refusal, const Shape& shape, int status) {
  const std::string message = MessageOf(refusal, shape);
  if (dialect == DIALECT_ANTHROPIC) return AnthropicBody(refusal, shape, message);
  if (dialect == DIALECT_GEMINI) return GeminiBody(refusal, shape, status, message);
  return OpenAiBody(refusal, shape, message);
}

// Length of the well-formed UTF-8 sequence at the start of text (RFC 3629); 0: none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && byte(1) < 0xa0;
    const bool surrogate = lead == 0xed && byte(1) > 0x9f;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && byte(1) < 0x90;
    const bool above = lead == 0xf4 && byte(1) > 0x8f;
    return tail(1) && tail(2) && tail(3) && !overlong && !above ? 4 : 0;
  }
  return 0;
}

// A header value: visible ASCII only, at most 512 bytes.
std::string HeaderValue(std::string_view text) {
  std::string out;
  for (const unsigned char c : text.substr(0, 512))
    out += c >= ' ' && c < 0x7f ? static_cast<char>(c) : '?';
  return out;
}

}  // namespace

void AppendJsonString(std::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  *out += '"';
  while (!text.empty()) {
    const unsigned char c = text.front();
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (c < 0x20 || c == 0x7f) {
      *out += "\\u00";
      *out += kHex[c >> 4];
      *out += kHex[c & 15];
    } else {
      const size_t length = Utf8Length(text);
      if (length == 0) {
        *out += "\xef\xbf\xbd";
        text.remove_prefix(1);
        continue;
      }
      out->append(text.substr(0, length));
      text.remove_prefix(length);
      continue;
    }
    text.remove_prefix(1);
  }
  *out += '"';
}

RenderedAnswer Render(Dialect dialect, const Refusal& refusal) {
  const Shape& shape = ShapeOf(refusal.kind);
  RenderedAnswer answer;
  answer.status = StatusOf(dialect, refusal, shape);
  answer.headers.emplace_back("content-type", "application/json");
  answer.headers.emplace_back("x-should-retry", shape.retry ? "true" : "false");
  std::optional<absl::Duration> wait = refusal.retry_after;
  // Clients that overlook x-should-retry give up on long waits only.
  if (answer.status == 429 && !shape.retry)
    wait = std::max(wait.value_or(absl::ZeroDuration()), absl::Seconds(121));
  if (!wait.has_value() && (answer.status == 503 || answer.status == 429)) wait = absl::Seconds(1);
  if (wait.has_value() && (shape.retry || answer.status == 429)) {
    answer.headers.emplace_back("retry-after", absl::StrCat(RetrySeconds(*wait)));
  }
  if (!refusal.violations.empty()) {
    std::string denied;
    for (const ViolatedLimit& v : refusal.violations) {
      if (!denied.empty()) denied += ", ";
      denied += v.budget;
    }
    answer.headers.emplace_back("x-tollhouse-denied-by", HeaderValue(denied));
  }
  if (dialect == DIALECT_ANTHROPIC && !refusal.request_id.empty()) {
    answer.headers.emplace_back("request-id", HeaderValue(refusal.request_id));
  }
  answer.body = BodyOf(dialect, refusal, shape, answer.status);
  return answer;
}

std::string MidStreamError(Dialect dialect, const Refusal& refusal) {
  const Shape& shape = ShapeOf(refusal.kind);
  const std::string body = BodyOf(dialect, refusal, shape, StatusOf(dialect, refusal, shape));
  if (dialect == DIALECT_ANTHROPIC) return absl::StrCat("event: error\ndata: ", body, "\n\n");
  return absl::StrCat("data: ", body, "\n\n");
}

Refusal RefusalOf(const absl::Status& status) {
  Refusal refusal;
  const std::string reason = ReasonOf(status);
  const ErrorMetadata metadata = MetadataOf(status);
  refusal.message = std::string(Std(status.message()));
  if (const auto param = metadata.find("param"); param != metadata.end())
    refusal.param = param->second;
  if (reason == "BODY_TOO_LARGE") {
    refusal.kind = Refusal::Kind::kTooLarge;
  } else if (reason == "MODEL_NOT_FOUND") {
    refusal.kind = Refusal::Kind::kModelNotFound;
    refusal.param = "model";
  } else if (reason == "UNBOUNDED_REQUEST") {
    refusal.kind = Refusal::Kind::kForbidden;
    refusal.code = "unbounded_request";
  } else {
    switch (status.code()) {
      case absl::StatusCode::kInvalidArgument:
        refusal.kind = Refusal::Kind::kBadRequest;
        refusal.code = reason;
        std::transform(refusal.code.begin(), refusal.code.end(), refusal.code.begin(),
                       [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; });
        break;
      case absl::StatusCode::kUnauthenticated:
        refusal.kind = Refusal::Kind::kUnauthenticated;
        break;
      case absl::StatusCode::kPermissionDenied:
        refusal.kind = Refusal::Kind::kForbidden;
        break;
      case absl::StatusCode::kNotFound:
        refusal.kind = Refusal::Kind::kModelNotFound;
        break;
      case absl::StatusCode::kUnavailable:
        refusal.kind = Refusal::Kind::kUnavailable;
        break;
      case absl::StatusCode::kDeadlineExceeded:
        refusal.kind = Refusal::Kind::kUpstreamTimeout;
        break;
      default:
        // Internal messages are for the log, not for callers.
        refusal.kind = Refusal::Kind::kInternal;
        refusal.message.clear();
        break;
    }
  }
  return refusal;
}

}  // namespace tollhouse::edge
