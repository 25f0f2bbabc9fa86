// Recorded and shaped answers of providers with what each of them costs, for tests.
#pragma once

#include <string>
#include <vector>

#include "services/edge/dialect/endpoint.h"
#include "services/edge/dialect/meter.h"

namespace tollhouse::edge {

// ID.json, ID.sse, ID.sse.gz or ID.sse.br with its sidecar ID.expect.json.
struct RecordedAnswer {
  std::string id;
  Endpoint endpoint = Endpoint::kChatCompletions;
  bool sse = false;    // the client asked for a stream (Gemini's may be a JSON array)
  bool array = false;  // and got that
  int http_status = 200;
  std::string content_type;      // as recorded, else what belongs to the form
  std::string content_encoding;  // of `body`; "" for none
  std::string body;
  std::string sidecar;  // JSON
};

// All answers of a folder that are of endpoints which are metered.
std::vector<RecordedAnswer> ReadAnswers(const std::string& folder);

// The folders: the project's own, and one more if TOLLHOUSE_FIXTURES names one. Tests run in the
// project's folder.
std::vector<std::string> AnswerFolders();

// What the sidecar says of usage, or that there is none.
void ExpectUsage(const RecordedAnswer& answer,
                 const google::protobuf::RepeatedPtrField<common::v1::UsageLine>& usage);
// The same, and what else a meter says.
void ExpectMetered(const RecordedAnswer& answer, const MeterResult& result);
// Whether the sidecar says that the provider had its last word.
bool IsFinal(const RecordedAnswer& answer);

// Encoders. window_bits as in zlib: 15 + 16 for gzip, 15 for zlib's own format, -15 for bare deflate.
std::string Gzip(const std::string& text, int window_bits = 15 + 16, bool flush_often = false);
std::string Brotli(const std::string& text);
std::string Zstd(const std::string& text);

}  // namespace tollhouse::edge
