#include "tools/simprovider/options.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/ascii.h"

namespace tollhouse::simprovider {
namespace {

constexpr char kFooter[] = R"(
Directives stand in the last user message, [[sim key=value ...]]; several may be given:
  output=N output_exact=N    output tokens per choice, capped by the declared maximum / not capped
  input=N input_exact=N      input tokens, capped by body bytes + 1024 / not capped
  cached=N cache_write=N cache_write_1h=N   parts of the input        reasoning=N   part of the output
  chunks=N chunk_delay_ms=N latency_ms=N jitter_ms=N
  tool=NAME|any              answer with a call of that tool of the request
  fault=F                    400..599 cut cut_before_head no_usage hang malformed html gigantic gzip
                             error_midstream
  cut_after=N                chunks before cut, hang, error_midstream, malformed   (default: half)
  retry_after=N status=N size_mb=N hang_ms=N     details of 4xx/5xx, html, gigantic, hang
  on_disconnect=stop|continue    what a client that goes away pays: what was generated / everything
  bill=yes|no                overrides whether the request is billed

Control: GET|DELETE /sim/meter   GET /sim/meter/records?after=SEQ   GET|POST|DELETE /sim/faults
         GET /sim/health

Examples:
  tollhouse-simprovider --listen 127.0.0.1:8090 --latency-ms 50 --chunk-delay-ms 5
  tollhouse-simprovider --endpoint-file sim.json --meter-file meter.jsonl --api-key-file key
  curl -s 127.0.0.1:8090/v1/chat/completions -d '{"model":"gpt-4o-mini","stream":true,
    "messages":[{"role":"user","content":"hello [[sim output=200 chunks=20 fault=cut cut_after=3]]"}]}'
  curl -s 127.0.0.1:8090/sim/faults -d '{"rate":0.1,"faults":["cut","500"],"seed":7}'
  curl -s 127.0.0.1:8090/sim/meter

README.md in tools/simprovider says how everything is counted and billed.)";

}  // namespace

int ParseFlags(int argc, char** argv, Options* options) {
  ServiceOptions& service = options->service;
  Script& defaults = service.defaults;
  service.prices = PriceTable::Default();

  CLI::App app("A scripted LLM provider (OpenAI and Anthropic dialects) with a meter of its own.");
  app.footer(kFooter);
  app.add_option("--listen", options->server.listen, "ADDRESS:PORT, port 0 picks a free one")
      ->capture_default_str();
  app.add_option("--endpoint-file", options->server.endpoint_file,
                 "write the line of JSON that says where it listens here too");
  auto* cert = app.add_option("--tls-cert", options->server.tls_cert_file, "PEM chain: serve TLS");
  auto* key = app.add_option("--tls-key", options->server.tls_key_file, "PEM private key");
  cert->needs(key);
  key->needs(cert);
  std::string api_key_file;
  app.add_option("--api-key-file", api_key_file, "accept only the key in this file");
  app.add_option("--models", service.models,
                 "serve only these names, others are 404 (default: any name)")
      ->delimiter(',');
  const auto range = CLI::Range(int64_t{0}, int64_t{100'000'000});
  app.add_option("--latency-ms", defaults.latency_ms, "time before the answer begins")
      ->check(range)
      ->capture_default_str();
  app.add_option("--chunk-delay-ms", defaults.chunk_delay_ms, "time before each chunk of a stream")
      ->check(range)
      ->capture_default_str();
  app.add_option("--jitter-ms", defaults.jitter_ms, "0..N added at random to every delay")
      ->check(range)
      ->capture_default_str();
  app.add_option("--seed", service.seed, "of the jitter")->capture_default_str();
  app.add_option("--output-tokens", defaults.output,
                 "output tokens, capped by the request's maximum")
      ->check(range)
      ->capture_default_str();
  app.add_option("--chunks", defaults.chunks, "chunks of a stream, 0 for one per token")
      ->check(range)
      ->capture_default_str();
  std::string on_disconnect = "stop";
  app.add_option("--on-disconnect", on_disconnect,
                 "stop: bill what was generated until then; continue: bill the full answer")
      ->check(CLI::IsMember({"stop", "continue"}))
      ->capture_default_str();
  std::vector<std::string> prices;
  app.add_option("--price", prices,
                 "model=input,output[,cache_read[,cache_write_5m[,cache_write_1h]]] in USD per "
                 "million tokens; model@N=... above N input tokens; may be repeated")
      ->expected(1)
      ->take_all();
  app.add_option("--meter-file", options->meter_file,
                 "append every record as a line of JSON (the last line of a seq counts)");
  app.add_option("--keep-records", service.keep_records, "records kept in memory")
      ->check(CLI::Range(size_t{1}, size_t{100'000'000}))
      ->capture_default_str();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  defaults.continue_on_disconnect = on_disconnect == "continue";
  for (const std::string& price : prices) {
    const absl::Status added = service.prices.Add(price);
    if (!added.ok()) {
      std::cerr << "--price: " << added.message() << "\n";
      return 2;
    }
  }
  if (!api_key_file.empty()) {
    std::ifstream file(api_key_file);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    absl::StripAsciiWhitespace(&text);
    if (!file || text.empty()) {
      std::cerr << "--api-key-file: " << api_key_file << " cannot be read or is empty\n";
      return 1;
    }
    service.api_key = std::move(text);
  }
  return -1;
}

}  // namespace tollhouse::simprovider
