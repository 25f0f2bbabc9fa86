// One attempt at one provider: sends the request, passes the answer on as it comes, metering it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/edge/dialect/endpoint.h"
#include "services/edge/dialect/meter.h"
#include "services/edge/http_server.h"
#include "services/edge/io_buffer.h"
#include "services/edge/upstream.h"

namespace tollhouse::edge {

struct RelayOptions {
  absl::Duration write_time = absl::Seconds(60);
  absl::Duration first_byte_time = absl::Minutes(10);
  absl::Duration idle_time = absl::Minutes(5);
  absl::Duration drain_time = absl::Minutes(2);
  size_t json_buffer_bytes = 8 << 20;
};

// How the attempt ended, as far as the provider is concerned.
enum class RelayEnd {
  kNotSent,    // not a byte left
  kNoAnswer,   // sent, in part at least, and no usable head came back
  kTimeout,    // likewise, because time was over
  kRefused,    // a status that is no answer (not 2xx), before content
  kAnswered,   // the answer came to its end
  kBroken,     // the answer was cut, or is not HTTP any more
  kAbandoned,  // the caller left and the provider did not finish within the drain time
  kCut,        // ended by the edge: more was used than can have been held
};

class Relay {
 public:
  struct Request {
    Endpoint endpoint;
    std::string_view head;
    std::string_view body;
    MeterOptions meter;           // content_encoding is filled in here
    bool metered = true;          // false: free, passed as it is
    bool streams_json = false;    // a JSON answer is a stream as well: begun at once
    int64_t output_tokens_max = 0;  // of the bound; above it the stream is cut. 0: never
    std::string cut_event;        // the dialect's error event
    std::string broken_event;     // likewise, when the provider broke the stream off
    std::function<void()> on_stream;  // the caller has the head of a stream: `body` may go
  };

  Relay(Exchange& exchange, UpstreamPool& pool, const RelayOptions& options)
      : exchange_(exchange), pool_(pool), options_(options) {}

  // Sends and receives. `answer_headers` gives fields to add to a streamed answer's head. What has
  // been received whole waits for Finish; everything else has reached the caller on return.
  Task<> Run(std::unique_ptr<UpstreamConnection> connection, const Request& request,
             std::function<HeaderList(int status)> answer_headers);

  // After an exception out of Run: what was sent counts as unanswered.
  void Fail(std::string_view what);

  // Tells the caller the end of an answer (kRefused, kAnswered; streamed ones of any end). False if
  // nothing was or could be told and the answer is still the gateway's to give.
  Task<bool> Finish(const HeaderList& extra);

  RelayEnd end() const { return end_; }
  int status() const { return status_; }
  bool streaming() const { return streaming_; }
  const MeterResult& meter() const { return meter_result_; }
  const MeterProgress& progress() const { return progress_; }
  // For people: what went wrong.
  const std::string& error() const { return error_; }
  // A provider's answer that must not reach a caller: its own credential was refused, a redirect,
  // HTML, something that no SDK could read.
  bool unfit() const { return unfit_; }
  // Of the provider's answer, "" if it has none.
  std::string_view retry_after() const { return parser_.head().headers.Get("retry-after"); }

 private:
  Task<bool> Send(UpstreamConnection& connection, const Request& request);
  Task<bool> ReadHead(UpstreamConnection& connection, absl::Duration wait);
  Task<> ReadBody(UpstreamConnection& connection, const Request& request,
                  const std::function<HeaderList(int status)>& answer_headers);
  Task<bool> Begin(const HeaderList& extra, const Request& request);
  // What came of the body: meters it and passes it on. False: no more is to be read before the caller
  // has what is there, or at all (parser_.done(), stopped_).
  bool Take(std::string_view bytes, const Request& request);
  void Conclude(const Request& request);
  absl::Duration IdleTime();

  Exchange& exchange_;
  UpstreamPool& pool_;
  const RelayOptions options_;

  RelayEnd end_ = RelayEnd::kNotSent;
  int status_ = 0;
  std::string error_;
  bool unfit_ = false;
  bool streaming_ = false;  // the caller has the head
  bool ended_by_event_ = false;

  std::optional<IoBuffer> buffer_;  // the head and what came with it, until that is used
  size_t filled_ = 0;
  std::string head_;  // what the parser's views are of
  ResponseParser parser_;
  std::vector<std::string_view> pieces_;
  std::string rest_;     // received and not used: the beginning of a chunk's size
  bool stopped_ = false;    // nothing more is read
  bool unflushed_ = false;  // the caller has not taken all that was written
  std::unique_ptr<ResponseMeter> metering_;
  MeterResult meter_result_;
  MeterProgress progress_;
  std::string pending_;  // for the caller: the whole answer, or what came since the last write
  int64_t drain_end_ = 0;
};

}  // namespace tollhouse::edge
