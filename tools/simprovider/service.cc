#include "tools/simprovider/service.h"

#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "tools/simprovider/gzip.h"
#include "tools/simprovider/json_text.h"

namespace tollhouse::simprovider {
namespace {

using boost::asio::awaitable;

constexpr std::string_view kJsonType = "application/json";
constexpr std::string_view kLastChunk = "0\r\n\r\n";

std::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 429:
      return "Too Many Requests";
    case 500:
      return "Internal Server Error";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 529:
      return "Overloaded";
    default:
      return "Status";
  }
}

// `headers` are whole lines.
std::string Head(int status, std::string_view type, std::string_view headers) {
  return absl::StrCat("HTTP/1.1 ", status, " ", Absl(Reason(status)),
                      "\r\nserver: tollhouse-simprovider\r\ncontent-type: ", Absl(type), "\r\n",
                      Absl(headers));
}

std::string Response(int status, std::string_view type, std::string_view headers,
                     std::string_view body) {
  return absl::StrCat(Head(status, type, headers), "content-length: ", body.size(), "\r\n\r\n",
                      Absl(body));
}

void AppendChunk(std::string_view data, std::string* out) {
  if (data.empty()) return;
  absl::StrAppend(out, absl::Hex(data.size()), "\r\n", Absl(data), "\r\n");
}

std::string ShortHash(std::string_view bytes, size_t digits) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), digits / 2});
}

std::string RequestIdHeader(const Dialect& dialect, int64_t seq) {
  return absl::StrCat(Absl(dialect.request_id_header()), ": req_sim",
                      absl::Dec(seq, absl::kZeroPad12), "\r\n");
}

// The value of `name` in a query string; "" if absent.
std::string_view QueryValue(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view item = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (item.size() > name.size() && item.starts_with(name) && item[name.size()] == '=') {
      return item.substr(name.size() + 1);
    }
  }
  return {};
}

}  // namespace

Service::Service(ServiceOptions options, const Clock* clock)
    : options_(std::move(options)),
      clock_(clock),
      meter_(options_.prices, options_.keep_records, clock),
      random_(options_.seed) {
  dialects_.push_back(MakeOpenAi());
  dialects_.push_back(MakeAnthropic());
  dialects_.push_back(MakeResponses());
  dialects_.push_back(MakeCompletions());
  dialects_.push_back(MakeEmbeddings());
  dialects_.push_back(MakeGemini());
}

awaitable<bool> Service::Handle(const HttpRequest& request, Wire& wire) {
  if (request.path.starts_with("/sim/")) co_return co_await Control(request, wire);
  co_return co_await Provider(request, wire);
}

awaitable<bool> Service::Control(const HttpRequest& request, Wire& wire) {
  int status = 200;
  std::string body = "{\"ok\":true}\n";
  const std::string route = request.method + " " + request.path;
  if (route == "GET /sim/meter") {
    body = meter_.TotalsJson();
  } else if (route == "DELETE /sim/meter") {
    meter_.Reset();
  } else if (route == "GET /sim/meter/records") {
    int64_t after = 0;
    const std::string_view text = QueryValue(request.query, "after");
    if (text.empty() || absl::SimpleAtoi(Absl(text), &after)) {
      co_return co_await SendRecords(after, wire);
    }
    status = 400;
    body = "{\"error\":\"after: a sequence number\"}\n";
  } else if (route == "GET /sim/faults") {
    body = faults_.Json();
  } else if (route == "POST /sim/faults") {
    const absl::Status set = faults_.Set(request.body);
    if (!set.ok()) {
      status = 400;
      body = absl::StrCat("{\"error\":", JsonString(Std(set.message())), "}\n");
    } else {
      body = faults_.Json();
    }
  } else if (route == "DELETE /sim/faults") {
    faults_.Clear();
  } else if (route != "GET /sim/health") {
    status = 404;
    body = "{\"error\":\"no such control endpoint\"}\n";
  }
  const std::string response = Response(status, kJsonType, "", body);
  co_return co_await wire.Write(response);
}

awaitable<bool> Service::SendRecords(int64_t after, Wire& wire) {
  constexpr size_t kLinesPerWrite = 1000;
  std::string out = Head(200, "application/x-ndjson", "transfer-encoding: chunked\r\n\r\n");
  while (true) {
    const std::string lines = meter_.RecordLines(&after, kLinesPerWrite);
    AppendChunk(lines, &out);
    if (lines.empty()) out.append(kLastChunk);
    if (!co_await wire.Write(out)) co_return false;
    if (lines.empty()) co_return true;
    out.clear();
  }
}

std::string Service::Refusal(const Dialect& dialect, const std::shared_ptr<Record>& record,
                             int status, std::string_view message, std::string_view code,
                             std::string_view headers) {
  meter_.End(record, status, false, "error");
  return Response(status, kJsonType,
                  absl::StrCat(RequestIdHeader(dialect, record->seq), Absl(headers)),
                  dialect.Error(status, message, code, record->seq));
}

awaitable<bool> Service::Provider(const HttpRequest& request, Wire& wire) {
  const Dialect* dialect = nullptr;
  Endpoint endpoint = Endpoint::kNone;
  for (const auto& candidate : dialects_) {
    endpoint = candidate->Match(request);
    dialect = candidate.get();
    if (endpoint != Endpoint::kNone) break;
  }
  if (endpoint == Endpoint::kNone && !request.path.starts_with("/v1beta/")) {
    dialect = dialects_[request.anthropic_version.empty() ? 0 : 1].get();
  }
  const std::string_view key = dialect->PresentedKey(request);
  const std::shared_ptr<Record> record =
      meter_.Begin({.dialect = std::string(dialect->name()),
                    .method = request.method,
                    .path = Printable(request.path, 256),
                    .hold_id = Printable(request.hold_id, 64),
                    .key_hash = key.empty() ? "" : ShortHash(key, 12),
                    .body_hash = request.body.empty() ? "" : ShortHash(request.body, 16),
                    .body_bytes = static_cast<int64_t>(request.body.size())});
  Call call{.dialect = *dialect, .wire = wire, .script = options_.defaults, .record = record};
  const std::optional<std::string> response = Prepare(request, endpoint, &call);
  if (!response.has_value()) co_return co_await Chat(call);
  co_return co_await wire.Write(*response);
}

std::optional<std::string> Service::Prepare(const HttpRequest& request, Endpoint endpoint,
                                            Call* call) {
  const Dialect& dialect = call->dialect;
  const std::shared_ptr<Record>& record = call->record;
  const auto refuse = [&](int status, std::string_view message, std::string_view code = {}) {
    return Refusal(dialect, record, status, message, code, "");
  };
  const auto succeed = [&](std::string_view body) {
    meter_.End(record, 200, true, "ok");
    return Response(200, kJsonType, RequestIdHeader(dialect, record->seq), body);
  };
  if (endpoint == Endpoint::kNone) {
    return refuse(404, absl::StrCat("Invalid URL (", record->method, " ", record->path, ")"));
  }
  if (!options_.api_key.empty() && dialect.PresentedKey(request) != options_.api_key) {
    return refuse(401, "Incorrect API key provided.");
  }
  if (endpoint == Endpoint::kModels) {
    return succeed(
        dialect.Models(options_.models.empty() ? meter_.prices().Models() : options_.models));
  }
  if (endpoint == Endpoint::kStored || endpoint == Endpoint::kFree) {
    const std::string stored = dialect.Stored(request);
    if (stored.empty()) return refuse(404, "No such object.", "not_found");
    return succeed(stored);
  }
  const absl::StatusOr<ChatRequest> chat = dialect.ParseChat(request, endpoint, &parser_);
  if (!chat.ok()) return refuse(400, Std(chat.status().message()));
  record->model = Printable(chat->model, 128);
  record->stream = chat->stream;
  if (!options_.models.empty() &&
      std::ranges::find(options_.models, chat->model) == options_.models.end()) {
    return refuse(404,
                  absl::StrCat("The model `", record->model,
                               "` does not exist or you do not have access to it."),
                  "model_not_found");
  }
  const absl::Status directives = ApplyDirectives(chat->directives, &call->script);
  if (!directives.ok()) return refuse(400, Std(directives.message()));
  if (endpoint == Endpoint::kCountTokens) {
    return succeed(dialect.CountTokens(
        std::min(call->script.input.value_or(chat->input_tokens), record->body_bytes + 1024)));
  }
  faults_.Draw(chat->model, &call->script);
  record->fault = call->script.fault_name;
  call->answer = PlanAnswer(*chat, call->script, record->body_bytes, record->seq,
                            absl::ToUnixSeconds(record->time));
  return std::nullopt;
}

awaitable<bool> Service::Chat(Call& call) {
  Script& script = call.script;
  if (script.fault == Fault::kErrorMidstream && !call.record->stream) {
    script.fault = Fault::kStatus;
    script.fault_status = 500;
  }
  const int html_status = static_cast<int>(script.status.value_or(502));
  const bool refuses =
      script.fault == Fault::kStatus || (script.fault == Fault::kHtml && html_status >= 400);
  call.bills = script.bill.value_or(!refuses);
  const absl::Duration latency = Jittered(script.latency_ms, script.jitter_ms);
  const bool hangs =
      script.fault == Fault::kHang && !(call.record->stream && script.cut_after.has_value());

  if (refuses || hangs || script.fault == Fault::kCutBeforeHead) {
    // The whole work is done (or refused) whether or not its result ever leaves.
    Bill(call, call.answer.usage);
  } else {
    Usage prompt = call.answer.usage;
    prompt.output = 0;
    prompt.reasoning = 0;
    Bill(call, prompt);
  }
  if (call.record->billed && (latency > absl::ZeroDuration() || hangs || call.record->stream)) {
    meter_.Snapshot(*call.record);
  }
  const absl::Duration begun = clock_->Monotonic();
  if (latency > absl::ZeroDuration() && !co_await call.wire.Pause(latency)) {
    Usage usage = call.answer.usage;
    if (!script.continue_on_disconnect) {
      // Generated so far: in proportion to the time.
      const auto part = [&](int64_t tokens) {
        const int64_t total_us = absl::ToInt64Microseconds(latency);
        const int64_t us = std::clamp<int64_t>(
            absl::ToInt64Microseconds(clock_->Monotonic() - begun), 0, total_us);
        return call.record->stream ? 0 : tokens * us / total_us;
      };
      usage.output = std::max(call.record->usage.output, part(usage.output));
      usage.reasoning =
          std::min(usage.output, std::max(call.record->usage.reasoning, part(usage.reasoning)));
    }
    Bill(call, usage);
    meter_.End(call.record, 0, false, "client_gone");
    co_return false;
  }

  if (hangs) {
    co_await call.wire.Pause(absl::Milliseconds(script.hang_ms));
    meter_.End(call.record, 0, false, "hang");
    co_return false;
  }
  if (script.fault == Fault::kCutBeforeHead) {
    meter_.End(call.record, 0, false, "cut");
    co_return false;
  }
  if (script.fault == Fault::kStatus) {
    std::optional<int64_t> retry_after = script.retry_after;
    if (!retry_after.has_value() && script.fault_status == 429) retry_after = 1;
    const std::string header =
        retry_after.has_value() ? absl::StrCat("retry-after: ", *retry_after, "\r\n") : "";
    const std::string message =
        absl::StrCat("The simulated provider answers ", script.fault_status, " as told.");
    const std::string response =
        Refusal(call.dialect, call.record, script.fault_status, message, "", header);
    co_return co_await call.wire.Write(response);
  }
  if (script.fault == Fault::kHtml) {
    if (!refuses) Bill(call, call.answer.usage);
    const std::string response =
        Response(html_status, "text/html", "",
                 "<html><head><title>Bad Gateway</title></head>\n<body><center><h1>Bad Gateway"
                 "</h1></center><hr><center>sim</center></body></html>\n");
    meter_.End(call.record, html_status, false, "error");
    co_return co_await call.wire.Write(response);
  }
  if (call.record->stream) co_return co_await AnswerStream(call);
  co_return co_await AnswerJson(call);
}

awaitable<bool> Service::AnswerJson(Call& call) {
  std::string body = call.dialect.Json(call.answer);
  std::string headers = RequestIdHeader(call.dialect, call.record->seq);
  if (call.script.fault == Fault::kMalformed) body.resize(body.size() / 2);
  if (call.script.fault == Fault::kGzip) {
    body = GzipStream().Add(body, true);
    headers.append("content-encoding: gzip\r\n");
  }
  std::string response = Response(200, kJsonType, headers, body);
  const bool cut = call.script.fault == Fault::kCut;
  if (cut) response.resize(response.size() - body.size() / 2 - 1);
  Bill(call, call.answer.usage);
  const bool written = co_await call.wire.Write(response);
  meter_.End(call.record, 200, written && !cut, cut ? "cut" : written ? "ok" : "client_gone");
  co_return written && !cut;
}

awaitable<bool> Service::AnswerStream(Call& call) {
  const Answer& answer = call.answer;
  const Script& script = call.script;
  const Fault fault = script.fault;
  const int64_t fault_at = std::min(script.cut_after.value_or(answer.chunks / 2), answer.chunks);
  std::unique_ptr<GzipStream> gzip;
  std::string headers = absl::StrCat(RequestIdHeader(call.dialect, call.record->seq),
                                     "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n");
  if (fault == Fault::kGzip) {
    gzip = std::make_unique<GzipStream>();
    headers.append("content-encoding: gzip\r\n");
  }
  headers.append("\r\n");
  const auto frame = [&](std::string_view event, bool last, std::string* out) {
    if (gzip != nullptr) {
      AppendChunk(gzip->Add(event, last), out);
    } else {
      AppendChunk(event, out);
    }
    if (last) out->append(kLastChunk);
  };
  const auto client_gone = [&] {
    if (script.continue_on_disconnect) Bill(call, answer.usage);
    meter_.End(call.record, 200, false, "client_gone");
    return false;
  };

  std::string out = Head(200, call.dialect.stream_type(answer), headers);
  frame(call.dialect.StreamHead(answer), false, &out);
  Bill(call, answer.UsageAfter(0));
  call.record->status = 200;
  for (int64_t chunk = 0;; ++chunk) {
    if (!co_await call.wire.Write(out)) co_return client_gone();
    out.clear();
    const bool here = chunk == fault_at;
    if (here && fault == Fault::kCut) {
      meter_.End(call.record, 200, false, "cut");
      co_return false;
    }
    if (here && fault == Fault::kHang) {
      co_await call.wire.Pause(absl::Milliseconds(script.hang_ms));
      meter_.End(call.record, 200, false, "hang");
      co_return false;
    }
    if (here && fault == Fault::kErrorMidstream) {
      frame(call.dialect.StreamError(call.record->seq), true, &out);
      const bool written = co_await call.wire.Write(out);
      meter_.End(call.record, 200, false, "midstream_error");
      co_return written;
    }
    if (chunk == answer.chunks) break;
    const absl::Duration delay = Jittered(script.chunk_delay_ms, script.jitter_ms);
    if (delay > absl::ZeroDuration() && !co_await call.wire.Pause(delay)) co_return client_gone();
    if (call.wire.Gone()) co_return client_gone();
    std::string event = call.dialect.StreamChunk(answer, chunk);
    if (here && fault == Fault::kMalformed) {
      event.resize(event.size() / 2);
      event.append("\n\n");
    }
    // Billed before it is written: what was generated costs, whether or not it arrives.
    Bill(call, answer.UsageAfter(chunk + 1));
    frame(event, false, &out);
  }
  Bill(call, answer.usage);
  frame(call.dialect.StreamTail(answer), true, &out);
  const bool written = co_await call.wire.Write(out);
  meter_.End(call.record, 200, written, written ? "ok" : "client_gone");
  co_return written;
}

void Service::Bill(Call& call, const Usage& usage) {
  if (call.bills) meter_.Bill(call.record, usage);
}

absl::Duration Service::Jittered(int64_t ms, int64_t jitter_ms) {
  if (jitter_ms > 0) {
    ms += static_cast<int64_t>(random_() % (static_cast<uint64_t>(jitter_ms) + 1));
  }
  return absl::Milliseconds(ms);
}

}  // namespace tollhouse::simprovider
