#include "services/edge/dialect/meter.h"

#include <algorithm>
#include <utility>

#include "services/edge/dialect/answer.h"
#include "services/edge/dialect/decode.h"
#include "services/edge/dialect/json_array.h"
#include "services/edge/dialect/request.h"
#include "services/edge/dialect/sse.h"

namespace tollhouse::edge {
namespace {

// The beginning of an event is held back up to this size; what is larger leaves as it came, wherever
// the pieces were cut.
constexpr size_t kHeldBack = size_t{1} << 20;

class Meter final : public ResponseMeter {
 public:
  // `array`: a body that begins with '[' is a stream of chunks.
  Meter(std::unique_ptr<AnswerReader> reader, bool sse, bool array, const MeterOptions& options)
      : options_(options), reader_(std::move(reader)), sse_(sse), array_(array) {
    if (!IsIdentity(options.content_encoding)) {
      decoder_ = NewDecoder(options.content_encoding);
      if (decoder_ == nullptr) {
        form_ = Form::kOpaque;
        unmetered_ = true;
      }
    }
  }

  void Feed(std::string_view upstream, std::string* downstream) override {
    progress_.upstream_bytes += static_cast<int64_t>(upstream.size());
    if (decoder_ == nullptr) {
      Consume(upstream, downstream);
    } else {
      if (!decodes_downstream()) downstream->append(upstream);
      std::string* decoded_out = decodes_downstream() ? downstream : nullptr;
      if (!broken_ && !decoder_->Decode(upstream, [&](std::string_view decoded) {
            Consume(decoded, decoded_out);
          })) {
        broken_ = true;
        unmetered_ = true;
      }
    }
    CopyProgress();
  }

  MeterResult Finish(std::string* downstream) override {
    // Of what cannot be decoded further the caller gets no half event.
    const bool passes = decoder_ == nullptr || (decodes_downstream() && !broken_);
    std::string* const out = passes ? downstream : nullptr;
    if (form_ == Form::kEvents) {
      splitter_.Finish([&](const SseEvent& event) { OnEvent(event, out); });
    } else if (form_ == Form::kElements) {
      if (out != nullptr) out->append(elements_.pending().substr(passed_));
    } else if (form_ == Form::kDocument && !unmetered_ && reader_ != nullptr) {
      body_.append(kJsonPadding, '\0');
      reader_->OnDocument({body_.data(), body_.size() - kJsonPadding});
    }
    CopyProgress();
    MeterResult result;
    result.unmetered = unmetered_ || unmetered_events_ || form_ == Form::kUnknown;
    if (reader_ != nullptr) reader_->Conclude(&result);
    if (unmetered_) result.complete = false;
    result.visible_output_bytes = progress_.visible_output_bytes;
    result.deltas = progress_.deltas;
    return result;
  }

  const MeterProgress& progress() const override { return progress_; }
  bool decodes_downstream() const override {
    return decoder_ != nullptr && options_.drop_usage_chunk;
  }
  bool undecodable() const override { return broken_ && decodes_downstream(); }
  bool at_event_boundary() const override {
    if (form_ == Form::kUnknown) return true;
    return (form_ == Form::kEvents || form_ == Form::kElements) && passed_ == 0 &&
           (decoder_ == nullptr || decodes_downstream());
  }
  std::string ErrorEnd(std::string_view event) const override {
    const bool elements = form_ == Form::kElements || (form_ == Form::kUnknown && array_ && !sse_);
    if (!elements) return std::string(event);
    // The event's one data line.
    const size_t data = event.find('{');
    const std::string_view object =
        data == std::string_view::npos ? "{}" : event.substr(data, event.find('\n', data) - data);
    std::string end = elements_.any() ? ",\n" : opened_ ? "" : "[";
    end.append(object);
    return end + "]\n";
  }

 private:
  enum class Form { kUnknown, kEvents, kElements, kDocument, kOpaque };

  void CopyProgress() {
    if (reader_ == nullptr) return;
    progress_.visible_output_bytes = reader_->progress.visible_output_bytes;
    progress_.deltas = reader_->progress.deltas;
    progress_.usage_present = reader_->progress.usage_present;
    progress_.reported_output_tokens = reader_->progress.reported_output_tokens;
  }

  // The first byte that is neither white space nor a byte order mark decides. Returns where it is.
  size_t Recognise(std::string_view bytes) {
    const size_t at = bytes.find_first_not_of(" \t\n\r\xef\xbb\xbf");
    if (at == std::string_view::npos) return bytes.size();
    const char c = bytes[at];
    if (c == '[' && array_) {
      form_ = Form::kElements;
    } else if (c == '{' || c == '[') {
      form_ = Form::kDocument;
    } else if (sse_ || std::string_view(":deir").find(c) != std::string_view::npos) {
      form_ = Form::kEvents;
    } else {
      form_ = Form::kOpaque;
      unmetered_ = true;
    }
    return at;
  }

  void Consume(std::string_view bytes, std::string* out) {
    if (form_ == Form::kUnknown && reader_ == nullptr) form_ = Form::kOpaque;
    if (form_ == Form::kUnknown) {
      const size_t skipped = Recognise(bytes);
      if (out != nullptr) out->append(bytes.substr(0, skipped));
      bytes.remove_prefix(skipped);
    }
    if (form_ == Form::kEvents) {
      splitter_.Feed(bytes, [&](const SseEvent& event) { OnEvent(event, out); });
      PassLongEvent(out);
      return;
    }
    if (form_ == Form::kElements) {
      elements_.Feed(bytes, [&](const JsonArraySplitter::Element& element) {
        const size_t passed = std::exchange(passed_, 0);
        Read(element.raw.substr(element.offset), element.raw.size() - element.offset);
        if (out != nullptr) out->append(element.raw.substr(passed));
        opened_ = true;
      });
      PassLongElement(out);
      return;
    }
    if (out != nullptr) out->append(bytes);
    if (form_ == Form::kDocument && !unmetered_) {
      if (body_.size() + bytes.size() > options_.json_bytes_max) {
        unmetered_ = true;
        body_ = std::string();
      } else {
        body_.append(bytes);
      }
    }
  }

  void PassLongEvent(std::string* out) {
    const std::string_view pending = splitter_.pending();
    if (pending.size() > kHeldBack || splitter_.abandoned()) {
      if (out != nullptr) out->append(pending.substr(passed_));
      passed_ = pending.size();
    }
    if (pending.size() > options_.event_bytes_max || (splitter_.abandoned() && !pending.empty())) {
      splitter_.AbandonPending();
      passed_ = 0;
      mid_event_ = true;
      unmetered_events_ = true;
    }
  }

  void PassLongElement(std::string* out) {
    const std::string_view pending = elements_.pending();
    if (pending.size() <= kHeldBack) return;
    if (out != nullptr) out->append(pending.substr(passed_));
    opened_ = true;
    passed_ = pending.size();
    if (pending.size() > options_.event_bytes_max) {
      elements_.AbandonPending();
      passed_ = 0;
      unmetered_events_ = true;
    }
  }

  void OnEvent(const SseEvent& event, std::string* out) {
    const size_t passed = std::exchange(passed_, 0);
    if (event.continuation) {
      if (!dropped_ && out != nullptr) out->append(event.raw);
      return;
    }
    AnswerReader::Effect effect;
    const bool single = event.data->size() == 1;
    if (single) {
      const SseEvent::Slice slice = event.data->front();
      effect = Read(event.raw.substr(slice.offset, slice.length), event.readable - slice.offset);
    } else if (!event.data->empty()) {
      joined_.clear();
      for (const SseEvent::Slice& slice : *event.data) {
        if (!joined_.empty()) joined_ += '\n';
        joined_.append(event.raw.substr(slice.offset, slice.length));
      }
      effect = Read(joined_, joined_.size());
      effect.cut_length = 0;
    }
    if (event.raw.size() > kHeldBack) effect = {};
    dropped_ = effect.drop && !mid_event_;
    mid_event_ = false;
    if (out == nullptr || dropped_) return;
    const size_t cut = single ? event.data->front().offset + effect.cut_offset : 0;
    if (effect.cut_length > 0 && cut >= passed) {
      out->append(event.raw.substr(passed, cut - passed));
      out->append(event.raw.substr(cut + effect.cut_length));
    } else {
      out->append(event.raw.substr(passed));
    }
  }

  AnswerReader::Effect Read(std::string_view payload, size_t readable) {
    if (reader_ == nullptr || payload.empty()) return {};
    if (readable >= payload.size() + kJsonPadding) return reader_->OnEvent(payload);
    padded_.reserve(payload.size() + kJsonPadding);
    padded_.assign(payload);
    return reader_->OnEvent(padded_);
  }

  const MeterOptions options_;
  std::unique_ptr<AnswerReader> reader_;
  const bool sse_;
  const bool array_;
  std::unique_ptr<Decoder> decoder_;
  Form form_ = Form::kUnknown;
  MeterProgress progress_;
  SseSplitter splitter_;
  JsonArraySplitter elements_;
  std::string body_;      // kDocument
  std::string joined_;    // data of an event with several data lines
  std::string padded_;    // a payload at the very end of what may be read
  size_t passed_ = 0;     // bytes of the pending event that the caller has already
  bool dropped_ = false;  // the last event
  bool mid_event_ = false;
  bool opened_ = false;  // the caller has the '[' of an array
  bool broken_ = false;
  bool unmetered_ = false;
  bool unmetered_events_ = false;
};

std::unique_ptr<AnswerReader> ReaderFor(Endpoint endpoint, const MeterOptions& options) {
  switch (endpoint) {
    case Endpoint::kChatCompletions:
    case Endpoint::kCompletions:
      return NewChatAnswerReader(options);
    case Endpoint::kResponses:
    case Endpoint::kConversations:
      return NewResponsesAnswerReader(options);
    case Endpoint::kEmbeddings:
    case Endpoint::kEmbedContent:
    case Endpoint::kBatchEmbedContents:
      return NewEmbeddingsAnswerReader(options);
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent:
      return NewGeminiAnswerReader(options);
    case Endpoint::kMessages:
      return NewMessagesAnswerReader(options);
    case Endpoint::kCountTokens:
    case Endpoint::kInputTokens:
    case Endpoint::kGeminiCountTokens:
      return NewCountTokensAnswerReader();
    default:
      return nullptr;
  }
}

}  // namespace

std::unique_ptr<ResponseMeter> NewResponseMeter(Endpoint endpoint, bool sse,
                                                const MeterOptions& options) {
  return std::make_unique<Meter>(ReaderFor(endpoint, options), sse,
                                 endpoint == Endpoint::kStreamGenerateContent, options);
}

int64_t EstimateOutputTokens(const MeterProgress& progress) {
  return std::max({int64_t{1}, progress.reported_output_tokens, progress.deltas,
                   (progress.visible_output_bytes + 3) / 4});
}

}  // namespace tollhouse::edge
