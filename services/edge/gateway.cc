#include "services/edge/gateway.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/strings.h"
#include "libs/base/uuid.h"
#include "libs/crypto/digest.h"
#include "libs/crypto/secret_bytes.h"
#include "libs/obs/log.h"
#include "libs/policy/base_url.h"
#include "services/edge/dialect/bound.h"
#include "services/edge/dialect/count_body.h"
#include "services/edge/dialect/endpoint.h"
#include "services/edge/dialect/models.h"
#include "services/edge/dialect/refusal.h"
#include "services/edge/dialect/request.h"
#include "services/edge/dialect/splice.h"
#include "services/edge/fetch.h"
#include "services/edge/headers.h"
#include "services/edge/relay.h"
#include "services/edge/target.h"

namespace tollhouse::edge {
namespace {

using common::v1::Dialect;
using Kind = Refusal::Kind;

constexpr absl::Duration kRetryAfter = absl::Seconds(2);
constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kCountAnswerBytesMax = 64 << 10;
constexpr int64_t kClampedOutputMin = 1024;
// A credential that a provider refused is tried again after a minute: it may be valid by then.
constexpr absl::Duration kRefusedCredentialRest = absl::Seconds(60);
constexpr absl::Duration kSpentCredentialRest = absl::Seconds(5);  // without a retry-after

// The caller's label if it is fit to be echoed and stored, else a new one.
std::string RequestIdOf(const RequestHead& head, absl::Time now) {
  const std::string_view given = head.headers.Get("x-tollhouse-request-id");
  if (!given.empty() && given.size() <= kRequestIdBytesMax &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > 0x20 && c < 0x7f; })) {
    return std::string(given);
  }
  return NewUuid(now).ToString();
}

Origin OriginOf(const policy::BaseUrl& url, const router::v1::Provider& provider) {
  Origin origin;
  origin.tls = url.scheme == "https";
  origin.host = url.host;
  if (origin.host.starts_with('[')) origin.host = origin.host.substr(1, origin.host.size() - 2);
  origin.port = static_cast<uint16_t>(url.port);
  origin.allow_private = provider.allow_private();
  origin.ca_file = provider.ca_file();
  return origin;
}

Refusal Unavailable(std::string_view message) {
  Refusal refusal;
  refusal.kind = Kind::kUnavailable;
  refusal.message = std::string(message);
  refusal.retry_after = kRetryAfter;
  return refusal;
}

Refusal Make(Kind kind, std::string_view message, std::string_view param = "",
             std::string_view code = "") {
  Refusal refusal;
  refusal.kind = kind;
  refusal.message = std::string(message);
  refusal.param = std::string(param);
  refusal.code = std::string(code);
  return refusal;
}

// What the caller hears where the provider's answer did not come or cannot be passed on.
Refusal UnfitRefusal(const Relay& relay) {
  const int status = relay.unfit() ? relay.status() : 0;
  Kind kind = Kind::kUpstream;
  std::string message = relay.error();
  if (relay.end() == RelayEnd::kTimeout || status == 504) {
    kind = Kind::kUpstreamTimeout;
  } else if (status == 401 || status == 407) {
    message = "the provider refused the credential that Tollhouse has for it";
  } else if (status / 100 == 3) {
    message = "the provider answered with a redirect, which is not followed";
  } else if (status == 429) {
    kind = Kind::kRequestRate;
  } else if (status == 503 || status == 529) {
    kind = Kind::kUnavailable;
  }
  if (message.empty()) message = "the provider's answer cannot be passed on";
  Refusal refusal = Make(kind, message);
  if (kind == Kind::kRequestRate || kind == Kind::kUnavailable) {
    int64_t seconds = 0;
    const bool given = absl::SimpleAtoi(Absl(relay.retry_after()), &seconds) && seconds > 0;
    refusal.retry_after = given ? absl::Seconds(std::min<int64_t>(seconds, 86'400)) : kRetryAfter;
  }
  return refusal;
}

// The account that objects of a key belong to: the one that the key hangs under.
int64_t OwnerOf(const Principal& principal) {
  const std::vector<int64_t>& above = principal.standing().account_ids;
  return above.empty() ? principal.account_id() : above.back();
}

// The org of "acme/payments/laptop".
std::string OrgOf(const Principal& principal) {
  const std::string path = principal.account_path();
  return path.substr(0, path.find('/'));
}

// What every token of a request was billed as, by direction.
struct Totals {
  int64_t input = 0;
  int64_t output = 0;
};
Totals TotalsOf(const policy::UsageLines& lines) {
  Totals totals;
  for (const common::v1::UsageLine& line : lines) {
    totals.input += policy::TotalInputTokens(line.usage());
    totals.output += line.usage().output_tokens() + line.usage().audio_output_tokens() +
                     line.usage().image_output_tokens();
  }
  return totals;
}

std::string_view ReasonName(enforcer::v1::Reason reason) {
  switch (reason) {
    case enforcer::v1::REASON_BUDGET_EXHAUSTED: return "budget_exhausted";
    case enforcer::v1::REASON_BUDGET_HELD: return "budget_held";
    case enforcer::v1::REASON_BUDGET_BLOCKED: return "budget_blocked";
    case enforcer::v1::REASON_REQUEST_RATE: return "requests_per_minute";
    case enforcer::v1::REASON_TOKEN_RATE: return "tokens_per_minute";
    case enforcer::v1::REASON_CONCURRENCY: return "concurrency";
    case enforcer::v1::REASON_NO_BUDGET: return "no_budget";
    case enforcer::v1::REASON_LEDGER_UNAVAILABLE: return "ledger_unavailable";
    default: return "refused";
  }
}

void SetTime(absl::Time at, google::protobuf::Timestamp* out) {
  const int64_t seconds = absl::ToUnixSeconds(at);
  out->set_seconds(seconds);
  out->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(at - absl::FromUnixSeconds(seconds))));
}

// Spreads requests over credentials.
uint64_t RandomOf(std::string_view request_id, int64_t nanos) {
  return absl::Hash<std::pair<std::string_view, int64_t>>()({request_id, nanos});
}

// Counts a request of a key while it lasts.
class InFlight {
 public:
  explicit InFlight(const Principal& principal) : counter_(principal.in_flight()) { ++counter_; }
  ~InFlight() { --counter_; }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

 private:
  std::atomic<int32_t>& counter_;
};

}  // namespace

// One request, while it lasts.
struct Gateway::Call {
  Call(Exchange& e, Lane& l) : exchange(e), lane(l) {}

  Exchange& exchange;
  Lane& lane;
  absl::Time started;
  int64_t started_nanos = 0;
  std::string request_id;
  Dialect dialect = common::v1::DIALECT_OPENAI;
  Target target;

  PrincipalPtr principal;
  std::shared_ptr<const policy::Policy> policy;
  policy::Route route;
  policy::BaseUrl base_url;
  std::shared_ptr<const CredentialSet> credentials;
  const CredentialSet::Credential* credential = nullptr;  // one of them; null: the provider has none
  std::string body;
  RequestFacts facts;
  SpliceOptions splice;
  Tags tags;
  ModelLimits limits;
  TokenBound bound;
  bool clamped = false;    // the maximum of output tokens was lowered
  NanoUsd strict;
  NanoUsd tight;
  TokenBound likely;             // of a usual request: what limits and estimates go by
  int64_t inference_input_max = 0;

  // For the log and the metrics.
  int status = 0;
  Metrics::Outcome outcome = Metrics::kOk;
  std::string reason;  // of a refusal
  std::string end;     // of an attempt
  std::optional<int64_t> cost_nanos;
};

std::string_view Gateway::SecretOf(const Call& call) {
  return call.credential == nullptr ? std::string_view() : call.credential->secret();
}

Gateway::Malformed Gateway::RenderMalformed(const RequestHead& head, RequestError error) {
  Refusal refusal;
  switch (error) {
    case RequestError::kMalformed:
      refusal = Make(Kind::kBadRequest, "the request is not valid HTTP/1.1");
      break;
    case RequestError::kTimeout:
      refusal = Make(Kind::kRequestTimeout, "the request did not arrive in time");
      break;
    case RequestError::kBodyTooLarge:
      refusal = Make(Kind::kTooLarge, absl::StrCat("the body exceeds the limit of ",
                                                   parts_.config->http.body_bytes, " bytes"));
      break;
    case RequestError::kUnsupportedExpect:
      refusal = Make(Kind::kBadRequest, "the only Expect that is understood is 100-continue");
      break;
    case RequestError::kHeadersTooLarge:
      refusal = Make(Kind::kHeadersTooLarge, absl::StrCat("the headers exceed the limit of ",
                                                          parts_.config->http.header_bytes,
                                                          " bytes"));
      break;
    case RequestError::kUnsupportedEncoding:
      refusal = Make(Kind::kBadRequest, "the only Transfer-Encoding that is understood is chunked");
      break;
    case RequestError::kUnsupportedVersion:
      refusal = Make(Kind::kBadRequest, "only HTTP/1.0 and HTTP/1.1 are understood");
      break;
  }
  refusal.request_id = RequestIdOf(head, parts_.config->clock->Wall());
  RenderedAnswer answer = Render(DialectOfHead(head), refusal);
  answer.headers.emplace_back("x-tollhouse-request-id", refusal.request_id);
  parts_.metrics->Count("other", Metrics::kRejected);
  return {answer.status, std::move(answer.headers), std::move(answer.body)};
}

Task<> Gateway::Handle(Exchange& exchange) {
  Call call(exchange, *(*parts_.lanes)[exchange.loop_index()]);
  call.started = parts_.config->clock->Wall();
  call.started_nanos = exchange.loop().deadlines().NowNanos();
  call.request_id = RequestIdOf(exchange.head(), call.started);
  call.dialect = DialectOfHead(exchange.head());
  call.target = TargetOf(exchange.head());
  co_await Serve(call);
  LogCall(call);
}

void Gateway::LogCall(const Call& call) {
  const int64_t nanos = call.exchange.loop().deadlines().NowNanos() - call.started_nanos;
  parts_.metrics->request_seconds.Observe(static_cast<double>(nanos) / 1e9);
  parts_.metrics->Count(call.target.name, call.outcome);
  if (call.exchange.caller_gone()) parts_.metrics->callers_gone.Increment();
  if (!parts_.config->log_requests) return;
  obs::Info("request",
            {{"request_id", call.request_id},
             {"endpoint", call.target.name},
             {"account", call.principal == nullptr ? "" : call.principal->account_path()},
             {"provider", call.route.provider == nullptr ? "" : call.route.provider->name()},
             {"model", call.route.provider == nullptr ? "" : call.route.catalog_model},
             {"status", call.status},
             {"reason", call.reason},
             {"end", call.end},
             {"stream", call.facts.stream},
             {"hold_nanousd", call.strict.nanos()},
             {"cost_nanousd", call.cost_nanos.value_or(0)},
             {"caller_gone", call.exchange.caller_gone()},
             {"duration_us", nanos / 1000}});
}

Task<> Gateway::Refuse(Call& call, Refusal refusal, Metrics::Outcome outcome) {
  refusal.request_id = call.request_id;
  refusal.budget_status = parts_.config->budget_status;
  RenderedAnswer answer = Render(call.dialect, refusal);
  answer.headers.emplace_back("x-tollhouse-request-id", call.request_id);
  call.status = answer.status;
  call.outcome = outcome;
  if (call.reason.empty()) call.reason = refusal.code;
  co_await call.exchange.Answer(answer.status, answer.headers, answer.body);
}

Task<> Gateway::RefuseStatus(Call& call, const absl::Status& status) {
  call.reason = ReasonOf(status);
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      co_await Refuse(call, Make(Kind::kUnauthenticated, Std(status.message())),
                      Metrics::kRejected);
      co_return;
    case absl::StatusCode::kNotFound: {
      Refusal refusal = Make(Kind::kModelNotFound, Std(status.message()), "model");
      co_await Refuse(call, std::move(refusal), Metrics::kRejected);
      co_return;
    }
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kOutOfRange:
      co_await Refuse(call, RefusalOf(status), Metrics::kRejected);
      co_return;
    default:
      co_await Refuse(call, Unavailable(Std(status.message())), Metrics::kUnavailable);
      co_return;
  }
}

Task<> Gateway::Serve(Call& call) {
  if (call.target.known == Target::Known::kNotOffered) {
    co_await Refuse(call,
                    Make(Kind::kForbidden,
                         "Tollhouse does not offer this endpoint: it could not say what a call "
                         "costs. It offers chat/completions, completions, responses, embeddings, "
                         "moderations and models of OpenAI, messages and count_tokens of "
                         "Anthropic, generateContent, streamGenerateContent, countTokens, "
                         "embedContent and batchEmbedContents of Gemini, over plain HTTP",
                         "", "endpoint_not_offered"),
                    Metrics::kRejected);
    co_return;
  }
  if (call.target.known == Target::Known::kUnknown) {
    co_await Refuse(call, Make(Kind::kNotFound, "there is nothing at this path"),
                    Metrics::kRejected);
    co_return;
  }
  if (!call.target.allowed) {
    co_await Refuse(call, Make(Kind::kMethodNotAllowed, "this path takes another method"),
                    Metrics::kRejected);
    co_return;
  }
  std::string key(KeyOf(call.exchange.head()));
  if (const std::string_view in_query = KeyInQuery(call.exchange.head().target);
      key.empty() && !in_query.empty()) {
    if (!parts_.config->key_in_query) {
      co_await Refuse(call,
                      Make(Kind::kUnauthenticated,
                           "a key in the URL is not taken here; send it as x-goog-api-key"),
                      Metrics::kRejected);
      co_return;
    }
    key = in_query;
  }
  const std::optional<http::Address> from =
      parts_.callers->Of(call.exchange.peer(), call.exchange.head().headers);
  if (const absl::Duration wait = parts_.limiter->Take(from, call.started_nanos);
      wait > absl::ZeroDuration()) {
    crypto::Cleanse(&key);
    Refusal refusal = Make(Kind::kRequestRate, "too many requests from this address");
    refusal.retry_after = wait;
    co_await Refuse(call, std::move(refusal), Metrics::kLimit);
    co_return;
  }
  auto cached = parts_.directory->AuthenticateCached(key);
  if (!cached.has_value()) {
    cached = co_await parts_.directory->Authenticate(call.exchange.loop(), std::move(key));
  }
  crypto::Cleanse(&key);
  if (!cached->ok()) {
    co_await RefuseStatus(call, cached->status());
    co_return;
  }
  call.principal = **std::move(cached);
  if (!co_await MayCall(call, from)) co_return;
  const InFlight counted(*call.principal);
  if (const int64_t most = parts_.config->requests_per_key;
      most > 0 && call.principal->in_flight() > most) {
    Refusal refusal = Make(Kind::kRequestRate, "too many requests with this key are under way");
    refusal.retry_after = kRetryAfter;
    co_await Refuse(call, std::move(refusal), Metrics::kLimit);
    co_return;
  }
  call.policy = parts_.policies->Current();
  if (call.policy == nullptr) {
    co_await Refuse(call, Unavailable("no policy has arrived yet"), Metrics::kUnavailable);
    co_return;
  }
  if (call.target.usage) {
    co_await ServeUsage(call);
    co_return;
  }
  if (call.target.endpoint == Endpoint::kModels) {
    co_await ServeModels(call);
    co_return;
  }
  if (!call.target.object_id.empty()) {
    co_await ServeStored(call);
    co_return;
  }
  if (!co_await call.exchange.ReadBody(&call.body, kJsonPadding)) {
    call.reason = "BODY_INCOMPLETE";
    call.outcome = Metrics::kRejected;
    co_return;
  }
  if (!co_await Prepare(call)) co_return;
  if (IsFree(call.target.endpoint)) {
    co_await ServeFree(call);
  } else {
    co_await ServeMetered(call);
  }
}

// Whether the key may be used from there and for that. False: refused.
Task<bool> Gateway::MayCall(Call& call, const std::optional<http::Address>& from) {
  const Standing& standing = call.principal->standing();
  if (!standing.AllowsAddress(from)) {
    call.reason = "NETWORK_NOT_ALLOWED";
    co_await Refuse(call,
                    Make(Kind::kForbidden, "this key may not be used from this network address", "",
                         "network_not_allowed"),
                    Metrics::kRejected);
    co_return false;
  }
  // What a holder asks about his own key is nobody's endpoint.
  if (!call.target.usage && !standing.AllowsEndpoint(call.target.name)) {
    call.reason = "ENDPOINT_NOT_ALLOWED";
    co_await Refuse(call,
                    Make(Kind::kForbidden,
                         absl::StrCat("this key may not use the endpoint ", Absl(call.target.name)),
                         "", "endpoint_not_allowed"),
                    Metrics::kRejected);
    co_return false;
  }
  co_return true;
}

Task<> Gateway::ServeModels(Call& call) {
  std::vector<ModelEntry> models;
  for (const policy::ListedModel& model : call.policy->Models(call.dialect, call.started)) {
    if (!call.principal->standing().AllowsProvider(model.provider->name()) ||
        !call.principal->standing().AllowsModel(model.name)) {
      continue;
    }
    ModelEntry& entry = models.emplace_back();
    entry.id = model.name;
    entry.owned_by = model.provider->name();
    entry.created = model.price != nullptr && model.price->has_effective_from()
                        ? absl::FromUnixSeconds(model.price->effective_from().seconds())
                        : absl::UnixEpoch();
  }
  const std::string& id = call.target.model;
  std::string body;
  if (id.empty()) {
    body = RenderModels(call.dialect, models);
  } else {
    const auto it =
        std::find_if(models.begin(), models.end(), [&](const ModelEntry& m) { return m.id == id; });
    if (it == models.end()) {
      co_await Refuse(call, Make(Kind::kModelNotFound, "there is no such model", "model"),
                      Metrics::kRejected);
      co_return;
    }
    body = RenderModel(call.dialect, *it);
  }
  call.status = 200;
  const HeaderList headers{{"content-type", "application/json"},
                           {"x-tollhouse-request-id", call.request_id}};
  co_await call.exchange.Answer(200, headers, body);
}

Task<> Gateway::ServeUsage(Call& call) {
  if (!co_await PaceFree(call)) co_return;
  const auto usage = co_await parts_.usage->Read(call.exchange.loop(), call.principal);
  if (!usage.ok()) {
    co_await RefuseStatus(call, usage.status());
    co_return;
  }
  call.status = 200;
  const HeaderList headers{{"content-type", "application/json"},
                           {"cache-control", "no-store"},
                           {"x-tollhouse-request-id", call.request_id}};
  co_await call.exchange.Answer(200, headers, *usage);
}

// Everything that can be refused without asking anybody.
Task<bool> Gateway::Prepare(Call& call) {
  const RequestHead& head = call.exchange.head();
  auto facts = ScanRequest(call.target.endpoint, call.body, parts_.config->scan,
                           call.body.capacity());
  if (!facts.ok()) {
    co_await RefuseStatus(call, facts.status());
    co_return false;
  }
  call.facts = *std::move(facts);
  if (call.dialect == common::v1::DIALECT_GEMINI) {
    std::string_view in_body = call.facts.model;
    if (in_body.starts_with("models/")) in_body.remove_prefix(std::strlen("models/"));
    if (!in_body.empty() && in_body != call.target.model) {
      co_await Refuse(call,
                      Make(Kind::kBadRequest,
                           "the body names another model than the path", "model"),
                      Metrics::kRejected);
      co_return false;
    }
    call.facts.model = call.target.model;
  }
  const Standing& principal = call.principal->standing();
  auto route = RouteOf(call);
  if (!route.ok()) {
    co_await RefuseStatus(call, route.status());
    co_return false;
  }
  call.route = *std::move(route);
  if (!principal.AllowsProvider(call.route.provider->name())) {
    call.reason = "PROVIDER_NOT_ALLOWED";
    co_await Refuse(call,
                    Make(Kind::kForbidden,
                         absl::StrCat("this key may not use provider ", call.route.provider->name()),
                         "model", "provider_not_allowed"),
                    Metrics::kRejected);
    co_return false;
  }
  if (!principal.AllowsModel(call.route.catalog_model) &&
      !principal.AllowsModel(call.route.upstream_model) &&
      !principal.AllowsModel(call.facts.model) && !call.facts.model.empty()) {
    call.reason = "MODEL_NOT_ALLOWED";
    co_await Refuse(
        call,
        Make(Kind::kForbidden, absl::StrCat("this key may not use model ", call.facts.model), "model",
             "model_not_allowed"),
        Metrics::kRejected);
    co_return false;
  }

  for (const ObjectRef& ref : call.facts.object_refs) {
    const auto owns = co_await Owns(call, ref.id, call.route.provider->name());
    if (!owns.ok()) {
      co_await RefuseStatus(call, owns.status());
      co_return false;
    }
    if (*owns) continue;
    call.reason = "OBJECT_NOT_FOUND";
    co_await Refuse(call,
                    Make(Kind::kNotFound,
                         absl::StrCat("there is no '", ref.id.substr(0, 80),
                                      "' here that this key's account has created; ids of objects "
                                      "belong to the account that made them through Tollhouse"),
                         ref.param, "not_found"),
                    Metrics::kRejected);
    co_return false;
  }

  Tags header_tags;
  absl::Status tagged;
  if (const auto text = head.headers.Find("x-tollhouse-tags")) {
    tagged = ParseTagHeader(*text, &header_tags);
  }
  if (tagged.ok()) {
    tagged = MergeTags({&principal.pinned_tags, &header_tags,
                        head.headers.Get("x-claude-code-session-id"), &call.facts.metadata},
                       parts_.config->tags, &call.tags);
  }
  if (tagged.ok()) tagged = CheckTagRules(principal.tag_rules, call.tags);
  if (!tagged.ok()) {
    co_await RefuseStatus(call, tagged);
    co_return false;
  }

  if (!co_await FindCredential(call)) co_return false;
  call.splice.upstream_model = call.facts.model.empty() ? "" : call.route.upstream_model;
  call.splice.strip_metadata = call.dialect == common::v1::DIALECT_ANTHROPIC;
  co_return true;
}

// A request without a model (moderations, conversations) goes to the provider of its dialect that
// comes first.
absl::StatusOr<policy::Route> Gateway::RouteOf(const Call& call) const {
  auto route = call.policy->Resolve(call.facts.model, call.dialect, call.started,
                                    OrgOf(*call.principal));
  if (route.ok() || (call.target.endpoint != Endpoint::kModerations &&
                     call.target.endpoint != Endpoint::kConversations)) {
    return route;
  }
  for (const router::v1::Provider* provider : call.policy->providers()) {
    if (provider->dialect() != call.dialect ||
        !call.principal->standing().AllowsProvider(provider->name())) {
      continue;
    }
    policy::Route first;
    first.provider = provider;
    first.upstream_model = first.catalog_model = call.facts.model;
    return first;
  }
  return route;
}

// Where the provider is, and with what it is asked. False: refused.
Task<bool> Gateway::FindCredential(Call& call) {
  auto base_url = policy::ParseBaseUrl(call.route.provider->base_url());
  if (!base_url.ok()) {
    co_await Refuse(call, Unavailable("the provider's base URL is not valid"),
                    Metrics::kUnavailable);
    co_return false;
  }
  call.base_url = *std::move(base_url);
  auto credentials = co_await parts_.directory->CredentialsOf(
      call.exchange.loop(), call.route.provider->name(), call.base_url.Origin());
  if (credentials.ok()) {
    call.credentials = *std::move(credentials);
    call.credential = PickCredential(call, nullptr);
  }
  if (call.credential == nullptr && !(credentials.ok() && call.credentials->empty() &&
                                      call.route.provider->allow_private())) {
    call.reason = credentials.ok() ? "NO_CREDENTIAL" : ReasonOf(credentials.status());
    co_await Refuse(call,
                    Unavailable(credentials.ok()
                                    ? absl::StrCat("provider ", call.route.provider->name(),
                                                   " has no credential")
                                    : std::string(credentials.status().message())),
                    Metrics::kUnavailable);
    co_return false;
  }
  co_return true;
}

const CredentialSet::Credential* Gateway::PickCredential(
    const Call& call, const CredentialSet::Credential* not_this) const {
  return call.credentials->Pick(parts_.config->clock->Wall(),
                                call.exchange.loop().deadlines().NowNanos(),
                                RandomOf(call.request_id, call.started_nanos), not_this);
}

// After a provider refused the credential, or said that its quota is used up: another one, if there is
// one that does not rest, and the answer has not begun to reach the caller.
bool Gateway::TurnToAnotherCredential(Call& call, const Relay& relay) {
  const int status = relay.status();
  const bool refused = status == 401;
  const bool quota = status == 429;
  if (call.credential == nullptr || relay.end() != RelayEnd::kRefused || (!refused && !quota)) {
    return false;
  }
  int64_t seconds = 0;
  absl::Duration rest = refused ? kRefusedCredentialRest : kSpentCredentialRest;
  if (quota && absl::SimpleAtoi(Absl(relay.retry_after()), &seconds) && seconds > 0) {
    rest = std::min(absl::Seconds(seconds), kRefusedCredentialRest);
  }
  CredentialSet::Rest(*call.credential, call.exchange.loop().deadlines().NowNanos(), rest);
  obs::Warning("credential_rests", {{"request_id", call.request_id},
                                    {"provider", call.route.provider->name()},
                                    {"credential", call.credential->name()},
                                    {"version", call.credential->version()},
                                    {"http_status", status},
                                    {"seconds", absl::ToInt64Seconds(rest)}});
  if (relay.streaming() || call.exchange.caller_gone() ||
      call.route.provider->quirks().errors_are_billed()) {
    return false;
  }
  const CredentialSet::Credential* const other = PickCredential(call, call.credential);
  if (other == nullptr) return false;
  call.credential = other;
  return true;
}

Task<absl::StatusOr<bool>> Gateway::Owns(Call& call, std::string_view id,
                                         std::string_view provider) {
  auto owner = co_await FindOwner(call, id);
  if (!owner.ok()) co_return owner.status();
  co_return owner->has_value() && (*owner)->account_id == OwnerOf(*call.principal) &&
      (*owner)->provider == provider;
}

Task<absl::StatusOr<std::optional<ObjectOwner>>> Gateway::FindOwner(Call& call,
                                                                    std::string_view id) {
  if (auto known = parts_.objects->Find(id)) co_return known;
  auto found = co_await parts_.directory->OwnerOf(call.exchange.loop(), std::string(id));
  if (found.ok() && found->has_value()) parts_.objects->Remember(id, **found);
  co_return found;
}

// The path of an endpoint at the provider, with the caller's query.
std::string Gateway::PathOf(const Call& call, Endpoint endpoint) const {
  std::string path = call.base_url.path;
  if (call.dialect == common::v1::DIALECT_GEMINI) {
    absl::StrAppend(&path, "/", call.target.version, "/models/", call.route.upstream_model);
  }
  absl::StrAppend(&path, Absl(UpstreamPath(endpoint)));
  if (!call.target.object_id.empty()) {
    absl::StrAppend(&path, "/", call.target.object_id, call.target.rest);
  }
  if (endpoint == call.target.endpoint) {
    absl::StrAppend(&path, QueryOf(call.exchange.head().target));
  }
  return path;
}

// An object of the caller's own, by its id: it names the provider.
Task<> Gateway::ServeStored(Call& call) {
  const auto found = co_await FindOwner(call, call.target.object_id);
  if (!found.ok()) {
    co_await RefuseStatus(call, found.status());
    co_return;
  }
  const std::optional<ObjectOwner>& owner = *found;
  const router::v1::Provider* provider =
      owner.has_value() ? call.policy->FindProvider(owner->provider) : nullptr;
  if (provider == nullptr || owner->account_id != OwnerOf(*call.principal) ||
      !call.principal->standing().AllowsProvider(provider->name())) {
    call.reason = "OBJECT_NOT_FOUND";
    co_await Refuse(call,
                    Make(Kind::kNotFound,
                         absl::StrCat("there is no '", call.target.object_id,
                                      "' here that this key's account has created"),
                         "", "not_found"),
                    Metrics::kRejected);
    co_return;
  }
  call.route.provider = provider;
  if (!co_await FindCredential(call)) co_return;
  co_await ServeFree(call);
}

// The most that the request can cost.
Task<bool> Gateway::Bound(Call& call) {
  const router::v1::Provider& provider = *call.route.provider;
  if (call.route.price == nullptr) {
    call.reason = "MODEL_UNPRICED";
    co_await Refuse(call,
                    Make(Kind::kForbidden,
                         absl::StrCat("model ", call.route.catalog_model,
                                      " has no price, so it cannot be charged to a budget; an "
                                      "operator sets one with: tollctl price set"),
                         "model", "model_unpriced"),
                    Metrics::kRejected);
    co_return false;
  }
  call.splice.inject_include_usage = (call.target.endpoint == Endpoint::kChatCompletions ||
                                      call.target.endpoint == Endpoint::kCompletions) &&
                                     call.facts.stream && !call.facts.include_usage &&
                                     !provider.quirks().no_include_usage();

  const Standing::Limit& output_limit = call.principal->standing().max_output_tokens;
  if (output_limit.value > 0) {
    if (call.facts.max_output_tokens.value_or(0) > output_limit.value) {
      call.reason = "MAX_OUTPUT_TOKENS";
      co_await Refuse(
          call,
          Make(Kind::kBadRequest,
               absl::StrCat(*call.facts.max_output_tokens,
                            " output tokens are more than the limit of ", output_limit.value,
                            " that ", output_limit.account_path, " has per request"),
               call.facts.max_completion_tokens_value.present() ? "max_completion_tokens"
                                                                : "max_tokens",
               "max_output_tokens_exceeded"),
          Metrics::kRejected);
      co_return false;
    }
    if (!call.facts.max_output_tokens && !IsEmbedding(call.target.endpoint)) {
      const int64_t of_model = call.route.price->max_output_tokens();
      const int64_t maximum =
          of_model > 0 ? std::min(of_model, output_limit.value) : output_limit.value;
      call.splice.max_output_tokens = maximum;
      if (policy::CatalogOf(provider) != "openai") call.splice.max_output_field = "max_tokens";
      call.facts.max_output_tokens = maximum;
    }
  }

  call.limits = {call.route.upstream_model, call.route.price->max_input_tokens(),
                 call.route.price->max_output_tokens()};
  for (const HeaderField& field : call.exchange.head().headers.fields) {
    if (absl::EqualsIgnoreCase(Absl(field.name), "anthropic-beta")) {
      ApplyBetas(field.value, &call.limits);
    }
  }
  call.inference_input_max = call.limits.max_input_tokens;
  auto bound = BoundTokens(call.facts, call.limits, parts_.config->allow_unbounded_features);
  if (!bound.ok()) {
    co_await RefuseStatus(call, bound.status());
    co_return false;
  }
  call.bound = *std::move(bound);
  const TokenBound tight = TightTokens(
      call.facts, call.limits,
      parts_.tight_ratios->RatiosOf(call.principal->key_id(), call.route.catalog_model));
  call.likely = tight;
  const auto strict_cost = call.policy->BoundOf(call.route, call.bound);
  const auto tight_cost = call.policy->BoundOf(call.route, tight);
  if (!strict_cost.ok() || !tight_cost.ok()) {
    co_await RefuseStatus(call, strict_cost.ok() ? tight_cost.status() : strict_cost.status());
    co_return false;
  }
  call.strict = *strict_cost;
  call.tight = std::min(*tight_cost, *strict_cost);
  if (call.strict > kMaxHold) {
    call.reason = "HOLD_TOO_LARGE";
    co_await Refuse(call,
                    Make(Kind::kBadRequest,
                         absl::StrCat("the request could cost up to ", FormatUsd(call.strict),
                                      " USD, more than one request may")),
                    Metrics::kRejected);
    co_return false;
  }
  const Standing::Limit& cost_limit = call.principal->standing().max_request_cost_nanousd;
  if (cost_limit.value > 0 && call.strict.nanos() > cost_limit.value) {
    call.reason = "MAX_REQUEST_COST";
    co_await Refuse(
        call,
        Make(Kind::kForbidden,
             absl::StrCat("the request could cost up to ", FormatUsd(call.strict),
                          " USD; the limit of ", cost_limit.account_path, " per request is ",
                          FormatUsd(NanoUsd(cost_limit.value)),
                          " USD. A lower maximum of output tokens lowers the bound"),
             "", "max_request_cost_exceeded"),
        Metrics::kRejected);
    co_return false;
  }
  co_return true;
}

Task<std::unique_ptr<UpstreamConnection>> Gateway::Connect(Call& call, const Origin& origin,
                                                           std::string* error) {
  auto connection = co_await call.lane.pool->Acquire(origin);
  if (connection.ok()) co_return *std::move(connection);
  call.reason = ReasonOf(connection.status());
  // What it says of addresses and certificates is for operators, not for callers.
  obs::Warning("provider_unreachable", {{"request_id", call.request_id},
                                        {"provider", call.route.provider->name()},
                                        {"reason", call.reason},
                                        {"message", Std(connection.status().message())}});
  *error = absl::StrCat("provider ", call.route.provider->name(), " cannot be reached",
                        call.reason == "PRIVATE_ADDRESS"
                            ? ": its address is private, which its allow_private would permit"
                            : "");
  co_return nullptr;
}

// What costs nothing has a limit of its own, per key.
Task<bool> Gateway::PaceFree(Call& call) {
  const Config& config = *parts_.config;
  if (config.count_tokens_per_minute > 0) {
    // One step of 60 s / limit per request, up to ten steps ahead (GCRA).
    const int64_t step = int64_t{60'000'000'000} / config.count_tokens_per_minute;
    const int64_t now = call.started_nanos;
    const int64_t due = std::max(call.principal->free_due().load(), now);
    if (due - now > 10 * step) {
      Refusal refusal = Make(Kind::kRequestRate, "what is free is asked too often");
      refusal.retry_after = absl::Nanoseconds(due - now - 10 * step);
      co_await Refuse(call, std::move(refusal), Metrics::kLimit);
      co_return false;
    }
    call.principal->free_due().store(due + step);
  }
  co_return true;
}

// The provider's free token counter and the like: no hold.
Task<> Gateway::ServeFree(Call& call) {
  const Config& config = *parts_.config;
  if (!co_await PaceFree(call)) co_return;
  const std::string spliced = NeedsSplice(call.facts, call.splice)
                                  ? SpliceForUpstream(call.facts, call.body, call.splice)
                                  : std::string();
  const std::string_view body = spliced.empty() ? std::string_view(call.body) : spliced;
  const Origin origin = OriginOf(call.base_url, *call.route.provider);
  const RequestHead& head = call.exchange.head();
  const std::string path = PathOf(call, call.target.endpoint);
  Relay::Request request{.endpoint = call.target.endpoint, .head = "", .body = body};
  // The answer to a creation names what was created.
  const bool creates = call.target.endpoint == Endpoint::kConversations && head.method == "POST";
  request.metered = creates;
  const HeaderList extra{{"x-tollhouse-request-id", call.request_id}};
  std::optional<Relay> relay;
  do {
    relay.emplace(call.exchange, *call.lane.pool,
                  RelayOptions{config.upstream.write_time, config.first_byte_time,
                               config.answer_idle_time, config.drain_time, config.json_buffer_bytes});
    std::string error;
    auto connection = co_await Connect(call, origin, &error);
    if (connection == nullptr) {
      co_await Refuse(call, Unavailable(error), Metrics::kProvider);
      co_return;
    }
    std::string upstream_head = RenderUpstreamHead(
        head, {head.method, path, origin.HostHeader(), body.size(), "identity", call.dialect,
               SecretOf(call), {}});
    request.head = upstream_head;
    co_await relay->Run(std::move(connection), request, [&](int) { return extra; });
    crypto::Cleanse(&upstream_head);
  } while (TurnToAnotherCredential(call, *relay));
  call.status = relay->status();
  if (relay->end() == RelayEnd::kRefused) call.outcome = Metrics::kProvider;
  if (creates && relay->end() == RelayEnd::kAnswered) {
    co_await PublishObject(call, relay->meter().object_id);
  }
  if (head.method == "DELETE" && relay->end() == RelayEnd::kAnswered && call.target.rest.empty()) {
    parts_.objects->Forget(call.target.object_id);
    ObjectOwner owner{call.route.provider->name(), OwnerOf(*call.principal)};
    co_await parts_.directory->PutObject(call.exchange.loop(), call.target.object_id,
                                         std::move(owner), true);
  }
  if (!co_await relay->Finish(extra)) {
    co_await Refuse(call, UnfitRefusal(*relay), Metrics::kProvider);
  }
}

// Later requests, at any edge, may name what this one has made.
Task<> Gateway::PublishObject(Call& call, std::string_view id) {
  if (id.empty() || !call.facts.store) co_return;
  ObjectOwner owner{call.route.provider->name(), OwnerOf(*call.principal)};
  if (parts_.objects->Find(id).has_value()) co_return;
  parts_.objects->Remember(id, owner);
  co_await parts_.directory->PutObject(call.exchange.loop(), std::string(id), std::move(owner),
                                       false);
}

// Whether any count of the input could make the request fit: its output alone must, once others have
// given back what they hold.
bool Gateway::CountCanHelp(const Call& call, const enforcer::v1::Refused& refused) const {
  TokenBound least = call.bound;
  least.input_tokens = 0;
  const auto cost = call.policy->BoundOf(call.route, least);
  if (!cost.ok()) return false;
  for (const enforcer::v1::Violation& v : refused.violations()) {
    if (cost->nanos() > v.limit_nanousd() - v.spent_nanousd() - v.suspense_nanousd()) return false;
  }
  return true;
}

// Asks the provider's free counter how long the input is, instead of bounding it by bytes. True if
// the request can cost noticeably less than was thought.
Task<bool> Gateway::Tighten(Call& call, std::string_view body) {
  const Config& config = *parts_.config;
  const auto question = CountQuestionFor(call.facts, body, call.route.upstream_model);
  if (!question.has_value()) co_return false;
  const Origin origin = OriginOf(call.base_url, *call.route.provider);
  const std::string path = PathOf(call, question->endpoint);
  std::string head = RenderUpstreamHead(
      call.exchange.head(), {"POST", path, origin.HostHeader(), question->body.size(), "identity",
                             call.dialect, SecretOf(call), {}});
  auto answer = co_await Fetch(*call.lane.pool, call.exchange.loop(), origin, head,
                               question->body, config.count_time, kCountAnswerBytesMax);
  crypto::Cleanse(&head);
  if (!answer.ok() || answer->status != 200) {
    parts_.metrics->counts_failed.Increment();
    co_return false;
  }
  parts_.metrics->counted.Increment();
  const auto meter = NewResponseMeter(question->endpoint, false);
  std::string passed;
  meter->Feed(answer->body, &passed);
  const int64_t counted = meter->Finish(&passed).counted_tokens;
  if (counted < 0) co_return false;
  const TokenBound bound = CountedBound(call.facts, call.bound, counted);
  const auto cost = call.policy->BoundOf(call.route, bound);
  if (!cost.ok() || cost->nanos() > call.strict.nanos() / 20 * 19) co_return false;
  call.bound = bound;
  call.strict = *cost;
  call.tight = std::min(call.tight, call.strict);
  co_return true;
}

// Lowers the maximum of output tokens to what the violated budgets afford. False if that is less
// than an answer needs.
bool Gateway::Clamp(Call& call, const enforcer::v1::Refused& refused) {
  if (IsEmbedding(call.target.endpoint) || call.facts.choices * call.facts.inputs > 1) return false;
  int64_t affordable = std::numeric_limits<int64_t>::max();
  for (const enforcer::v1::Violation& v : refused.violations()) {
    if (v.limit_nanousd() == 0) return false;
    affordable = std::min(affordable, v.limit_nanousd() - v.spent_nanousd() - v.held_nanousd() -
                                          v.suspense_nanousd());
  }
  const auto cost_of = [&](int64_t output) {
    TokenBound bound = call.bound;
    bound.output_tokens = output + call.facts.predicted_bytes;
    return call.policy->BoundOf(call.route, bound);
  };
  const auto fits = [&](int64_t output) {
    const auto cost = cost_of(output);
    return cost.ok() && cost->nanos() <= affordable;
  };
  int64_t low = std::max(kClampedOutputMin, call.facts.thinking_budget.value_or(0) + 1);
  int64_t high = call.bound.output_tokens - call.facts.predicted_bytes - 1;
  if (low > high || !fits(low)) return false;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    fits(middle) ? void(low = middle) : void(high = middle - 1);
  }
  call.splice.max_output_tokens = low;
  if (policy::CatalogOf(*call.route.provider) != "openai") {
    call.splice.max_output_field = "max_tokens";
  }
  call.facts.max_output_tokens = low;
  call.bound.output_tokens = low + call.facts.predicted_bytes;
  call.strict = *cost_of(low);
  call.tight = std::min(call.tight, call.strict);
  call.clamped = true;
  return true;
}

enforcer::v1::Reserve Gateway::MakeReserve(const Call& call, const std::string& hold_id,
                                           absl::Duration wait) const {
  const Config& config = *parts_.config;
  enforcer::v1::Reserve reserve;
  reserve.set_hold_id(hold_id);
  for (const int64_t id : call.principal->account_ids()) reserve.add_account_ids(id);
  for (const auto& [name, value] : call.tags) (*reserve.mutable_tags())[name] = value;
  reserve.set_provider(call.route.provider->name());
  reserve.set_model(call.route.catalog_model);
  reserve.set_strict_nanousd(call.strict.nanos());
  reserve.set_tight_nanousd(call.tight.nanos());
  reserve.set_estimated_tokens(call.likely.input_tokens + call.likely.output_tokens);
  reserve.set_first_attempt(true);
  reserve.set_wait_ms(absl::ToInt64Milliseconds(wait));
  reserve.set_time_to_live_ms(absl::ToInt64Milliseconds(config.hold_time_to_live));
  reserve.set_require_budget(call.principal->standing().require_budget);
  const crypto::Sha256Digest digest = crypto::Sha256(reserve.SerializeAsString());
  reserve.set_fingerprint(std::string(crypto::AsBytes(digest)));
  return reserve;
}

ledger::v1::Entry Gateway::MakeIntent(const Call& call, const std::string& hold_id,
                                      const enforcer::v1::Admitted& admitted) const {
  ledger::v1::Entry entry;
  entry.set_hold_id(hold_id);
  entry.set_kind(ledger::v1::ENTRY_KIND_SUSPEND);
  entry.set_request_id(call.request_id);
  entry.set_attempt(1);
  for (const int64_t id : call.principal->account_ids()) entry.add_account_ids(id);
  entry.set_account_path(call.principal->account_path());
  entry.set_epoch(admitted.epoch());
  entry.set_edge_id(parts_.journal->edge_id());
  entry.set_boot_id(parts_.boot_id);
  *entry.mutable_budgets() = admitted.budgets();
  entry.set_provider(call.route.provider->name());
  entry.set_model(call.route.catalog_model);
  entry.set_upstream_model(call.route.upstream_model);
  entry.set_hold_nanousd(call.strict.nanos());
  entry.set_price_version(call.policy->price_book_version());
  for (const auto& [name, value] : call.tags) (*entry.mutable_tags())[name] = value;
  SetTime(call.started, entry.mutable_started_at());
  entry.set_endpoint(std::string(call.exchange.head().path()));
  entry.set_streamed(call.facts.stream);
  return entry;
}

void Gateway::SubmitVoid(ledger::v1::Entry intent, std::string_view status) {
  intent.set_kind(ledger::v1::ENTRY_KIND_VOID);
  intent.set_status(std::string(status));
  SetTime(parts_.config->clock->Wall(), intent.mutable_ended_at());
  parts_.metrics->voided.Increment();
  parts_.settler->Submit(std::make_shared<const ledger::v1::Entry>(std::move(intent)));
}

void Gateway::VoidOrphan(const enforcer::v1::Reserve& asked,
                         const enforcer::v1::OperationResult& result) {
  ledger::v1::Entry entry;
  entry.set_hold_id(asked.hold_id());
  *entry.mutable_account_ids() = asked.account_ids();
  entry.set_epoch(result.has_admitted() ? result.admitted().epoch() : result.failed().maybe_held_epoch());
  entry.set_edge_id(parts_.journal->edge_id());
  entry.set_boot_id(parts_.boot_id);
  *entry.mutable_budgets() = result.admitted().budgets();
  entry.set_provider(asked.provider());
  entry.set_model(asked.model());
  entry.set_hold_nanousd(asked.strict_nanousd());
  entry.set_attempt(1);
  SetTime(parts_.config->clock->Wall(), entry.mutable_started_at());
  SubmitVoid(std::move(entry), "not_sent");
}

void Gateway::RefreshHolds(Lane& lane) {
  const int64_t now = lane.loop->deadlines().NowNanos();
  const int64_t interval = absl::ToInt64Nanoseconds(parts_.config->hold_time_to_live) / 4;
  for (Lane::ActiveHold& hold : lane.active) {
    if (hold.refresh_at > now) continue;
    hold.refresh_at = now + interval;
    enforcer::v1::Operation operation;
    auto* refresh = operation.mutable_refresh();
    refresh->set_hold_id(hold.hold_id);
    refresh->set_org_id(hold.org_id);
    refresh->set_epoch(hold.epoch);
    lane.session->Send(std::move(operation));
  }
}

Task<> Gateway::RefuseReserve(Call& call, const enforcer::v1::Refused& refused) {
  Refusal refusal;
  Metrics::Outcome outcome = Metrics::kBudget;
  switch (refused.reason()) {
    case enforcer::v1::REASON_BUDGET_EXHAUSTED: refusal.kind = Kind::kBudgetExhausted; break;
    case enforcer::v1::REASON_BUDGET_HELD: refusal.kind = Kind::kBudgetHeld; break;
    case enforcer::v1::REASON_BUDGET_BLOCKED: refusal.kind = Kind::kBudgetBlocked; break;
    case enforcer::v1::REASON_REQUEST_RATE: refusal.kind = Kind::kRequestRate; break;
    case enforcer::v1::REASON_TOKEN_RATE: refusal.kind = Kind::kTokenRate; break;
    case enforcer::v1::REASON_CONCURRENCY: refusal.kind = Kind::kConcurrency; break;
    case enforcer::v1::REASON_NO_BUDGET:
      refusal = Make(Kind::kForbidden,
                     "the organization requires a budget and none applies to this request; an "
                     "administrator sets one with: tollctl budget set",
                     "", "no_budget");
      break;
    default:
      refusal = Unavailable("the budget service cannot decide at the moment");
      outcome = Metrics::kUnavailable;
      break;
  }
  if (refusal.kind == Kind::kRequestRate || refusal.kind == Kind::kTokenRate ||
      refusal.kind == Kind::kConcurrency) {
    outcome = Metrics::kLimit;
  }
  call.reason = std::string(ReasonName(refused.reason()));
  if (refused.retry_after_ms() > 0) {
    refusal.retry_after = absl::Milliseconds(refused.retry_after_ms());
  }
  for (const enforcer::v1::Violation& violation : refused.violations()) {
    ViolatedLimit& limit = refusal.violations.emplace_back();
    limit.budget = violation.budget();
    limit.reason = std::string(ReasonName(violation.reason()));
    limit.limit_nanousd = violation.limit_nanousd();
    limit.spent_nanousd = violation.spent_nanousd();
    limit.held_nanousd = violation.held_nanousd();
    limit.suspense_nanousd = violation.suspense_nanousd();
    limit.needed_nanousd = violation.needed_nanousd();
    if (violation.has_resets_at()) {
      limit.resets_at = absl::FromUnixSeconds(violation.resets_at().seconds());
    }
    limit.limit = violation.limit();
  }
  co_await Refuse(call, std::move(refusal), outcome);
}

Task<> Gateway::ServeMetered(Call& call) {
  const Config& config = *parts_.config;
  if (!co_await Bound(call)) co_return;
  if (parts_.journal->Full()) {
    call.reason = "JOURNAL_FULL";
    co_await Refuse(call, Unavailable("the edge's journal is full; nothing is admitted until the "
                                      "ledger has taken what is in it"),
                    Metrics::kUnavailable);
    co_return;
  }
  if (parts_.settler->backlog() > config.backlog_max) {
    call.reason = "BACKLOG";
    co_await Refuse(call, Unavailable("too many settlements wait for the ledger"),
                    Metrics::kUnavailable);
    co_return;
  }

  const Origin origin = OriginOf(call.base_url, *call.route.provider);
  std::string spliced;
  const auto splice = [&] {
    if (NeedsSplice(call.facts, call.splice)) {
      spliced = SpliceForUpstream(call.facts, call.body, call.splice);
    }
    return spliced.empty() ? std::string_view(call.body) : std::string_view(spliced);
  };
  std::string_view body = splice();
  // What waits for others' holds must not wait for a bound that can be lowered at once.
  bool may_tighten = config.tighten_bounds && CanCount(call.facts);
  bool waited = !may_tighten && !config.clamp_output;

  std::unique_ptr<UpstreamConnection> connection;
  ledger::v1::Entry intent;
  int64_t tightest_remaining = -1;
  for (int round = 0;; ++round) {
    if (round == 6) {
      call.reason = "EPOCH_CLOSED";
      co_await Refuse(call, Unavailable("the budget service is being replaced"),
                      Metrics::kUnavailable);
      co_return;
    }
    const Uuid hold = NewUuid(config.clock->Wall());
    const std::string hold_id(hold.raw());
    const int64_t asked_at = call.exchange.loop().deadlines().NowNanos();
    const absl::Duration wait = waited ? config.hold_wait : absl::ZeroDuration();
    auto result = co_await call.lane.session->Reserve(MakeReserve(call, hold_id, wait),
                                                      config.reserve_timeout + wait);
    if (!result.ok()) {
      co_await RefuseStatus(call, result.status());
      co_return;
    }
    if (result->has_refused()) {
      const enforcer::v1::Reason reason = result->refused().reason();
      if (reason == enforcer::v1::REASON_BUDGET_EXHAUSTED ||
          reason == enforcer::v1::REASON_BUDGET_HELD) {
        if (std::exchange(may_tighten, false) && CountCanHelp(call, result->refused())) {
          if (co_await Tighten(call, body)) continue;
        }
        if (config.clamp_output && !call.clamped && Clamp(call, result->refused())) {
          body = splice();
          continue;
        }
        if (reason == enforcer::v1::REASON_BUDGET_HELD && !std::exchange(waited, true)) continue;
      }
      co_await RefuseReserve(call, result->refused());
      co_return;
    }
    if (!result->has_admitted()) {
      const enforcer::v1::Failed& failed = result->failed();
      if (failed.reason() == "EPOCH_CLOSED" || failed.reason() == "HOLD_CONFLICT") continue;
      call.reason = failed.reason();
      obs::Warning("reserve_failed", {{"request_id", call.request_id},
                                      {"reason", failed.reason()},
                                      {"message", failed.message()}});
      co_await Refuse(call, Unavailable("the budget service cannot decide at the moment"),
                      Metrics::kUnavailable);
      co_return;
    }
    intent = MakeIntent(call, hold_id, result->admitted());
    tightest_remaining = result->admitted().tightest_remaining_nanousd();

    if (connection == nullptr) {
      std::string error;
      connection = co_await Connect(call, origin, &error);
      if (connection == nullptr) {
        SubmitVoid(std::move(intent), "not_sent");
        call.end = "not_sent";
        co_await Refuse(call, Unavailable(error), Metrics::kProvider);
        co_return;
      }
    }
    // The hold must outlive the start by far; time is counted from before it was asked for.
    const int64_t elapsed = call.exchange.loop().deadlines().NowNanos() - asked_at;
    if (elapsed > absl::ToInt64Nanoseconds(config.hold_time_to_live) / 2) {
      SubmitVoid(std::move(intent), "not_sent");
      co_await Refuse(call, Unavailable("the budget service was too slow"), Metrics::kUnavailable);
      co_return;
    }
    // R13. Nothing may be awaited between this and the first byte.
    const absl::Status journalled = parts_.journal->AppendIntent(intent);
    if (journalled.ok()) break;
    const std::string refused = ReasonOf(journalled);
    if (refused == "EPOCH_CLOSED" || refused == "HOLD_DISOWNED") continue;  // R7: the token is dropped
    SubmitVoid(std::move(intent), "not_sent");
    call.reason = refused;
    obs::Error("journal_refused", {{"reason", call.reason},
                                   {"message", std::string(journalled.message())}});
    co_await Refuse(call, Unavailable("the edge's journal takes no entry: admission has stopped"),
                    Metrics::kUnavailable);
    co_return;
  }
  parts_.metrics->overhead_seconds.Observe(
      static_cast<double>(call.exchange.loop().deadlines().NowNanos() - call.started_nanos) / 1e9);

  Lane::ActiveHold active;
  active.hold_id = intent.hold_id();
  active.org_id = intent.account_ids_size() > 0 ? intent.account_ids(0) : 0;
  active.epoch = intent.epoch();
  active.refresh_at = call.exchange.loop().deadlines().NowNanos() +
                      absl::ToInt64Nanoseconds(config.hold_time_to_live) / 4;
  call.lane.active.push_back(active);

  const RequestHead& head = call.exchange.head();
  const std::string path = PathOf(call, call.target.endpoint);
  const std::string accept =
      AcceptEncoding(call.facts.stream, head.headers.Get("accept-encoding"));
  const std::string hold_text = config.send_hold_id || call.route.provider->allow_private()
                                    ? UuidFromRaw(intent.hold_id())->ToString()
                                    : std::string();
  Relay::Request request{.endpoint = call.target.endpoint, .head = "", .body = body};
  request.meter.drop_usage_chunk = call.splice.inject_include_usage;
  request.meter.requested_model = call.route.upstream_model;
  request.streams_json = call.target.endpoint == Endpoint::kStreamGenerateContent;
  request.meter.choices = call.facts.choices * call.facts.inputs;
  request.meter.cache_write_1h = call.facts.cache_write_1h;
  request.meter.inference_input_max = call.inference_input_max;
  request.output_tokens_max = call.bound.output_tokens;
  // A stream may last long: what was sent must not stay in memory for it.
  request.on_stream = [&] {
    std::string().swap(spliced);
    std::string().swap(call.body);
  };
  request.cut_event = MidStreamError(
      call.dialect, Make(Kind::kBudgetExhausted, "the answer exceeded what was held for it"));
  request.broken_event = MidStreamError(
      call.dialect, Make(Kind::kUpstream, "the provider broke the answer off"));

  HeaderList extra{{"x-tollhouse-request-id", call.request_id},
                   {"x-tollhouse-model", call.route.catalog_model}};
  if (call.clamped) {
    extra.emplace_back("x-tollhouse-max-output-tokens",
                       absl::StrCat(*call.facts.max_output_tokens));
  }
  const auto streamed_fields = [&](int) {
    HeaderList fields = extra;
    if (tightest_remaining >= 0) {
      fields.emplace_back("x-tollhouse-budget-remaining-nanousd", absl::StrCat(tightest_remaining));
    }
    return fields;
  };
  // What one credential was refused for is asked with another: nothing was billed, the hold stands.
  std::optional<Relay> relay;
  do {
    relay.emplace(call.exchange, *call.lane.pool,
                  RelayOptions{config.upstream.write_time, config.first_byte_time,
                               config.answer_idle_time, config.drain_time, config.json_buffer_bytes});
    if (connection == nullptr) {
      std::string error;
      connection = co_await Connect(call, origin, &error);
      if (connection == nullptr) break;
    }
    std::string upstream_head =
        RenderUpstreamHead(head, {"POST", path, origin.HostHeader(), body.size(), accept, call.dialect,
                                  SecretOf(call), hold_text});
    request.head = upstream_head;
    try {
      co_await relay->Run(std::move(connection), request, streamed_fields);
    } catch (const std::exception& e) {
      // Out of memory, most likely. The hold must have its end all the same.
      relay->Fail("the edge could not take the provider's answer");
      obs::Error("relay_failed", {{"request_id", call.request_id}, {"what", e.what()}});
    }
    crypto::Cleanse(&upstream_head);
  } while (TurnToAnotherCredential(call, *relay));
  active.unlink();

  HeaderList told = Conclude(call, intent, *relay, tightest_remaining);
  extra.insert(extra.end(), told.begin(), told.end());
  call.status = relay->status();
  // Before the answer is told whole, so that its id is known wherever it is used next.
  co_await PublishObject(call, relay->meter().object_id);
  if (co_await relay->Finish(extra)) co_return;
  if (relay->end() == RelayEnd::kNotSent) {
    co_await Refuse(call,
                    Unavailable(absl::StrCat("provider ", call.route.provider->name(),
                                             " cannot be reached")),
                    Metrics::kProvider);
    co_return;
  }
  co_await Refuse(call, UnfitRefusal(*relay),
                  relay->end() == RelayEnd::kRefused ? Metrics::kProvider : Metrics::kBroken);
}

policy::UsageLines Gateway::EstimateUsage(const Call& call, const Relay& relay) const {
  const MeterResult& meter = relay.meter();
  MeterProgress seen = relay.progress();
  // What could not be read was output all the same.
  if (meter.unmetered) {
    seen.visible_output_bytes = std::max(seen.visible_output_bytes, seen.upstream_bytes);
  }
  policy::UsageLines usage = meter.usage;
  if (usage.empty()) {
    common::v1::UsageLine* line = usage.Add();
    line->set_model(call.route.upstream_model);
    line->mutable_usage()->set_input_tokens_uncached(
        std::clamp<int64_t>(call.likely.input_tokens, 1, std::max<int64_t>(1, call.bound.input_tokens)));
  }
  const int64_t output = std::min(EstimateOutputTokens(seen), call.bound.output_tokens);
  const int64_t known = TotalsOf(usage).output;
  if (known < output && !IsEmbedding(call.target.endpoint)) {
    common::v1::Usage* first = usage[0].mutable_usage();
    first->set_output_tokens(first->output_tokens() + output - known);
  }
  return usage;
}

HeaderList Gateway::Conclude(Call& call, const ledger::v1::Entry& intent, const Relay& relay,
                             int64_t tightest_remaining) {
  const MeterResult& meter = relay.meter();
  ledger::v1::Entry result;
  result.set_hold_id(intent.hold_id());
  result.set_http_status(relay.status());
  SetTime(parts_.config->clock->Wall(), result.mutable_ended_at());
  *result.mutable_usage() = meter.usage;
  result.set_usage_source(meter.source);

  const bool answered = relay.end() == RelayEnd::kAnswered && relay.status() / 100 == 2;
  // Vectors without a count: what they can cost at most is little, and nobody will ever say more.
  const bool at_bound = answered && meter.complete && !meter.usage_present &&
                        IsEmbedding(call.target.endpoint);
  if (at_bound) {
    common::v1::UsageLine* line = result.add_usage();
    line->set_model(call.route.upstream_model);
    line->mutable_usage()->set_input_tokens_uncached(call.bound.input_tokens);
    result.set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
  }

  std::optional<policy::Cost> cost;
  if (meter.usage_present || at_bound) {
    auto priced = call.policy->CostOf(call.route, result.usage(), call.started);
    if (priced.ok()) {
      cost = *std::move(priced);
    } else {
      obs::Error("usage_not_priced", {{"request_id", call.request_id},
                                      {"model", call.route.catalog_model},
                                      {"message", std::string(priced.status().message())}});
    }
  }
  const bool final_usage =
      cost && (at_bound || meter.source == common::v1::USAGE_SOURCE_FINAL);
  if (final_usage && !at_bound && call.facts.media.empty()) {
    const Totals totals = TotalsOf(meter.usage);
    parts_.tight_ratios->Observe(
        call.principal->key_id(), call.route.catalog_model, call.facts.text_bytes, totals.input,
        totals.output / std::max<int64_t>(1, call.facts.choices * call.facts.inputs));
  }
  const bool errors_billed = call.route.provider->quirks().errors_are_billed();

  ledger::v1::EntryKind kind = ledger::v1::ENTRY_KIND_SUSPEND;
  std::string status = "unknown";
  switch (relay.end()) {
    case RelayEnd::kNotSent:
      kind = ledger::v1::ENTRY_KIND_VOID;
      status = "not_sent";
      break;
    case RelayEnd::kRefused:
      status = "provider_error";
      // Refused before content: not billed, unless this provider bills errors.
      if (!errors_billed) {
        kind = ledger::v1::ENTRY_KIND_VOID;
      } else if (final_usage) {
        kind = ledger::v1::ENTRY_KIND_SETTLE;
      }
      break;
    case RelayEnd::kAnswered:
      if (final_usage) {
        kind = ledger::v1::ENTRY_KIND_SETTLE;
        status = call.exchange.caller_gone() ? "client_gone" : "ok";
      }
      break;
    case RelayEnd::kCut:
      status = "cut";
      break;
    case RelayEnd::kAbandoned:
      status = "client_gone";
      break;
    case RelayEnd::kBroken:
    case RelayEnd::kNoAnswer:
    case RelayEnd::kTimeout:
      break;
  }
  if (kind == ledger::v1::ENTRY_KIND_SUSPEND && final_usage) {
    // The provider's last word came before the break.
    kind = ledger::v1::ENTRY_KIND_SETTLE;
  }
  if (kind == ledger::v1::ENTRY_KIND_SUSPEND && cost && cost->amount >= call.strict) {
    // A floor that reaches the hold says more than the hold does.
    kind = ledger::v1::ENTRY_KIND_SETTLE;
  }
  if (kind == ledger::v1::ENTRY_KIND_SUSPEND && relay.status() / 100 == 2) {
    *result.mutable_usage() = EstimateUsage(call, relay);
    const auto estimate = call.policy->CostOf(call.route, result.usage(), call.started);
    if (estimate.ok()) {
      result.set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
      result.set_cost_nanousd(estimate->amount.nanos());
      result.set_price_detail(estimate->detail_json);
      call.cost_nanos = estimate->amount.nanos();
    }
  }
  result.set_kind(kind);
  result.set_status(status);
  call.end = status;

  HeaderList told;
  switch (kind) {
    case ledger::v1::ENTRY_KIND_SETTLE:
      parts_.metrics->settled.Increment();
      result.set_cost_nanousd(cost->amount.nanos());
      result.set_price_detail(cost->detail_json);
      call.cost_nanos = cost->amount.nanos();
      told.emplace_back("x-tollhouse-cost-nanousd", absl::StrCat(cost->amount.nanos()));
      if (cost->amount > call.strict) {
        parts_.metrics->overruns.Increment();
        obs::Error("cost_above_hold", {{"request_id", call.request_id},
                                       {"model", call.route.catalog_model},
                                       {"hold_nanousd", call.strict.nanos()},
                                       {"cost_nanousd", cost->amount.nanos()}});
      }
      break;
    case ledger::v1::ENTRY_KIND_VOID:
      parts_.metrics->voided.Increment();
      result.clear_usage();
      result.clear_usage_source();
      told.emplace_back("x-tollhouse-cost-nanousd", "0");
      break;
    default:
      parts_.metrics->suspended.Increment();
      obs::Warning("hold_suspended", {{"request_id", call.request_id},
                                      {"provider", call.route.provider->name()},
                                      {"http_status", relay.status()},
                                      {"hold_nanousd", call.strict.nanos()},
                                      {"estimated_nanousd", result.cost_nanousd()},
                                      {"why", relay.error().empty() ? "no usage in the answer"
                                                                    : relay.error()}});
      break;
  }
  if (meter.ambiguous) parts_.metrics->ambiguous.Increment();
  if (tightest_remaining >= 0) {
    int64_t remaining = tightest_remaining;
    if (kind != ledger::v1::ENTRY_KIND_SUSPEND) {
      remaining += std::max<int64_t>(0, call.strict.nanos() - call.cost_nanos.value_or(0));
    }
    told.emplace_back("x-tollhouse-budget-remaining-nanousd", absl::StrCat(remaining));
  }
  if (relay.end() == RelayEnd::kRefused) {
    call.outcome = Metrics::kProvider;
  } else if (relay.end() != RelayEnd::kAnswered) {
    call.outcome = Metrics::kBroken;
  }

  auto written = parts_.journal->AppendResult(result);
  if (!written.ok()) {
    obs::Error("journal_result_lost", {{"request_id", call.request_id},
                                       {"message", std::string(written.status().message())}});
    return told;
  }
  if (!written->written) parts_.metrics->journal_failures.Increment();
  parts_.settler->Submit(std::move(written->entry));
  return told;
}

}  // namespace tollhouse::edge
