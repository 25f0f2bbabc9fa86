#include "services/edge/relay.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/edge/headers.h"

namespace tollhouse::edge {
namespace {

constexpr size_t kHeadBytesMax = 128 << 10;
constexpr size_t kPendingBytesKept = 4 << 10;  // a larger buffer is given back
constexpr absl::Duration kEarlyAnswerTime = absl::Seconds(2);
// No token of a known vocabulary is longer; more visible bytes than this per token of the bound
// cannot have been produced within it.
constexpr int64_t kBytesPerTokenMax = 256;

absl::string_view MediaOf(std::string_view type) {
  return absl::StripAsciiWhitespace(Absl(type.substr(0, type.find(';'))));
}

bool IsJson(std::string_view type) {
  return absl::EqualsIgnoreCase(MediaOf(type), "application/json") ||
         absl::EndsWithIgnoreCase(MediaOf(type), "+json");
}

// Whether an SDK can read an answer of this type.
bool IsReadable(std::string_view type) {
  const absl::string_view media = MediaOf(type);
  return media.empty() || IsJson(type) || absl::EqualsIgnoreCase(media, "text/event-stream");
}

bool Overran(const MeterProgress& progress, int64_t output_tokens_max) {
  if (output_tokens_max <= 0) return false;
  if (progress.usage_present && progress.reported_output_tokens > output_tokens_max) return true;
  return progress.visible_output_bytes / kBytesPerTokenMax > output_tokens_max;
}

}  // namespace

absl::Duration Relay::IdleTime() {
  if (!exchange_.caller_gone()) return options_.idle_time;
  const int64_t now = exchange_.loop().deadlines().NowNanos();
  if (drain_end_ == 0) drain_end_ = now + absl::ToInt64Nanoseconds(options_.drain_time);
  return std::min(options_.idle_time, absl::Nanoseconds(std::max<int64_t>(0, drain_end_ - now)));
}

Task<bool> Relay::Send(UpstreamConnection& connection, const Request& request) {
  end_ = RelayEnd::kNoAnswer;  // whatever happens from here on, unless the write says better
  const UpstreamConnection::Io io =
      co_await connection.Write(request.head, request.body, options_.write_time);
  if (!io.error) co_return true;
  error_ = absl::StrCat("sending to the provider failed: ",
                        io.timed_out ? "timed out" : io.error.message());
  if (io.bytes == 0) end_ = RelayEnd::kNotSent;
  co_return false;
}

// A head into parser_; interim answers (1xx) are skipped.
Task<bool> Relay::ReadHead(UpstreamConnection& connection, absl::Duration wait) {
  IoBuffer& buffer = buffer_.emplace();
  size_t looked = 0;
  const int64_t end = exchange_.loop().deadlines().NowNanos() +
                      absl::ToInt64Nanoseconds(wait);
  for (;;) {
    const size_t head = FindHeadEnd(buffer.view(filled_), looked);
    if (head == kBadLineEnding || (head != std::string_view::npos && head > kHeadBytesMax)) {
      error_ = "the provider's answer is not HTTP";
      co_return false;
    }
    if (head != std::string_view::npos) {
      head_.assign(buffer.view(head));
      buffer.Drop(head, filled_);
      filled_ -= head;
      ResponseParser interim;
      if (interim.ParseHead(head_) == ParseError::kNone && interim.head().status / 100 == 1 &&
          interim.head().status != 101) {
        looked = 0;
        continue;
      }
      if (parser_.ParseHead(head_) == ParseError::kNone) co_return true;
      error_ = "the provider's answer is not HTTP";
      co_return false;
    }
    looked = filled_;
    if (filled_ == buffer.size()) {
      if (filled_ >= kHeadBytesMax) {
        error_ = "the head of the provider's answer is too long";
        co_return false;
      }
      buffer.Grow(filled_ * 2, filled_);
    }
    const int64_t now = exchange_.loop().deadlines().NowNanos();
    const UpstreamConnection::Io io =
        co_await connection.ReadSome(buffer.data() + filled_, buffer.size() - filled_,
                                     absl::Nanoseconds(std::max<int64_t>(0, end - now)));
    if (io.timed_out) {
      end_ = RelayEnd::kTimeout;
      error_ = "the provider did not answer in time";
      co_return false;
    }
    if (io.error || io.bytes == 0) {
      error_ = absl::StrCat("the provider ended the connection without an answer",
                            io.error ? ": " + io.error.message() : "");
      co_return false;
    }
    filled_ += io.bytes;
  }
}

Task<bool> Relay::Begin(const HeaderList& extra, const Request& request) {
  if (request.on_stream) request.on_stream();
  HeaderList headers =
      AnswerHeaders(parser_.head(), metering_ != nullptr && metering_->decodes_downstream());
  headers.insert(headers.end(), extra.begin(), extra.end());
  streaming_ = true;
  co_return co_await exchange_.BeginStream(status_, headers);
}

Task<> Relay::Run(std::unique_ptr<UpstreamConnection> connection, const Request& request,
                  std::function<HeaderList(int status)> answer_headers) {
  bool sent = co_await Send(*connection, request);
  if (!sent && end_ == RelayEnd::kNotSent && connection->reused()) {
    // Provably nothing was sent: a fresh connection may do.
    const Origin origin = connection->origin();
    connection.reset();
    auto fresh = co_await pool_.Acquire(origin);
    if (!fresh.ok()) {
      error_ = std::string(fresh.status().message());
      co_return;
    }
    connection = *std::move(fresh);
    sent = co_await Send(*connection, request);
  }
  if (!sent && end_ == RelayEnd::kNotSent) co_return;
  // Also after a write that failed midway: a provider that refuses a body early says so first.
  const absl::Duration wait = sent ? options_.first_byte_time : kEarlyAnswerTime;
  if (!co_await ReadHead(*connection, wait)) co_return;
  end_ = RelayEnd::kBroken;
  status_ = parser_.head().status;
  co_await ReadBody(*connection, request, answer_headers);
  const bool whole = end_ == RelayEnd::kAnswered || end_ == RelayEnd::kRefused;
  if (whole && parser_.keep_alive() && rest_.empty()) pool_.Release(std::move(connection));
}

Task<> Relay::ReadBody(UpstreamConnection& connection, const Request& request,
                       const std::function<HeaderList(int status)>& answer_headers) {
  const bool refused = status_ / 100 != 2;
  const std::string_view type = parser_.head().headers.Get("content-type");
  unfit_ = status_ == 401 || status_ == 407 || status_ / 100 == 3;
  const bool sse = absl::StartsWithIgnoreCase(Absl(type), "text/event-stream");
  if (request.metered) {
    MeterOptions options = request.meter;
    options.content_encoding = std::string(parser_.head().headers.Get("content-encoding"));
    metering_ = NewResponseMeter(request.endpoint, sse, options);
  }
  if (!refused && (sse || (request.streams_json && IsJson(type)))) {
    co_await Begin(answer_headers(status_), request);
  }

  Take(buffer_->view(filled_), request);
  buffer_.reset();
  const auto take = [&](std::string_view bytes) { return Take(bytes, request); };
  const auto idle = [&] { return IdleTime(); };
  while (!stopped_ && !parser_.done()) {
    if (!streaming_ && pending_.size() > options_.json_buffer_bytes) {
      if (refused) break;  // an error of that size is no answer
      co_await Begin(answer_headers(status_), request);
    }
    if (std::exchange(unflushed_, false)) {
      co_await exchange_.Flush();
    } else if (streaming_ && !pending_.empty()) {
      co_await exchange_.Write(pending_);
      pending_.clear();
    }
    UpstreamConnection::Io io;
    if (streaming_) {
      io = co_await connection.ReadStream(exchange_.loop(), take, idle);
    } else {
      IoBuffer buffer;
      const absl::Duration wait = IdleTime();
      io = co_await connection.ReadSome(buffer.data(), buffer.size(), wait);
      if (!io.error && !io.timed_out && io.bytes > 0) Take(buffer.view(io.bytes), request);
    }
    if (io.timed_out) {
      if (exchange_.caller_gone()) end_ = RelayEnd::kAbandoned;
      error_ = "the provider's answer stopped";
      break;
    }
    if (io.error) {
      error_ = absl::StrCat("the provider's answer was cut: ", io.error.message());
      break;
    }
    if (io.bytes == 0) {
      if (!parser_.PutEof() || !rest_.empty()) error_ = "the provider's answer was cut";
      break;
    }
  }
  if (parser_.done()) end_ = RelayEnd::kAnswered;
  if (refused) {
    // A refusal is one as soon as its head is there.
    unfit_ |= !parser_.done();
    end_ = RelayEnd::kRefused;
  }
  Conclude(request);
}

bool Relay::Take(std::string_view bytes, const Request& request) {
  if (!rest_.empty()) {
    rest_.append(bytes);
    bytes = rest_;
  }
  ParseError parse_error = ParseError::kNone;
  const size_t used = parser_.PutBody(bytes, &pieces_, &parse_error);
  for (const std::string_view piece : pieces_) {
    if (metering_ != nullptr) {
      metering_->Feed(piece, &pending_);
    } else {
      pending_ += piece;
    }
  }
  if (!rest_.empty()) {
    rest_.erase(0, used);
  } else if (used < bytes.size()) {
    rest_.assign(bytes.substr(used));
  }
  if (parse_error != ParseError::kNone || rest_.size() > kHeadBytesMax) {
    stopped_ = true;
    error_ = "the provider's answer is malformed";
    return false;
  }
  if (parser_.done()) return false;
  if (metering_ != nullptr && metering_->undecodable()) {
    stopped_ = true;
    error_ = "the provider's answer cannot be decoded";
    return false;
  }
  if (metering_ != nullptr && Overran(metering_->progress(), request.output_tokens_max)) {
    stopped_ = true;
    end_ = RelayEnd::kCut;
    error_ = "the answer exceeded what was held for it";
    return false;
  }
  if (!streaming_) return pending_.size() <= options_.json_buffer_bytes;
  if (pending_.empty()) return true;
  unflushed_ = !exchange_.WriteNow(pending_);
  pending_.clear();
  if (pending_.capacity() > kPendingBytesKept) std::string().swap(pending_);
  return !unflushed_;
}

// The end of the body, whatever it was: the meter's result, and what the caller still gets.
void Relay::Conclude(const Request& request) {
  const std::string_view type = parser_.head().headers.Get("content-type");
  const bool refused = status_ / 100 != 2;
  const bool clean = metering_ == nullptr || metering_->at_event_boundary();
  const size_t whole = pending_.size();
  if (metering_ != nullptr) {
    meter_result_ = metering_->Finish(&pending_);
    progress_ = metering_->progress();
  }
  const MeterResult& m = meter_result_;
  const bool senseless = metering_ != nullptr && !refused && !IsFree(request.endpoint) &&
                         !m.usage_present && !m.complete && !m.provider_error &&
                         m.visible_output_bytes == 0 && m.response_model.empty() &&
                         m.object_id.empty();
  if (!streaming_ && !unfit_ && ((!IsReadable(type) && !pending_.empty()) || senseless)) {
    unfit_ = true;
    error_ = absl::StrCat("the provider answered with status ", status_,
                          " and nothing that can be understood");
  }
  if (!streaming_ || end_ == RelayEnd::kAnswered) return;
  const std::string& event = end_ == RelayEnd::kCut ? request.cut_event : request.broken_event;
  const bool sse = absl::StartsWithIgnoreCase(Absl(type), "text/event-stream");
  if (!sse && !(request.streams_json && clean && metering_ != nullptr)) return;
  // The beginning of an event that the meter held back is dropped.
  pending_.resize(whole);
  if (sse) {
    absl::StrAppend(&pending_, clean ? "" : "\n\n", event);
  } else {
    pending_ += metering_->ErrorEnd(event);
  }
  ended_by_event_ = true;
}

void Relay::Fail(std::string_view what) {
  if (end_ == RelayEnd::kAnswered || end_ == RelayEnd::kRefused) end_ = RelayEnd::kBroken;
  error_ = std::string(what);
  unfit_ = true;
  meter_result_ = {};
}

Task<bool> Relay::Finish(const HeaderList& extra) {
  if (streaming_) {
    if (end_ != RelayEnd::kAnswered && !ended_by_event_) {
      exchange_.Abort();  // the caller must see that this is not the end
      co_return true;
    }
    co_await exchange_.Write(pending_);
    co_await exchange_.EndStream();
    co_return true;
  }
  if (unfit_ || (end_ != RelayEnd::kAnswered && end_ != RelayEnd::kRefused)) co_return false;
  HeaderList headers =
      AnswerHeaders(parser_.head(), metering_ != nullptr && metering_->decodes_downstream());
  headers.insert(headers.end(), extra.begin(), extra.end());
  co_await exchange_.Answer(status_, headers, pending_);
  co_return true;
}

}  // namespace tollhouse::edge
