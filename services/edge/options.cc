#include "services/edge/options.h"

#include "absl/strings/str_cat.h"
#include "services/edge/caller_address.h"

namespace tollhouse::edge {

void RegisterOptions(Config* c, config::Options* o) {
  o->Add("data-dir", &c->data_dir, "where the journal is kept, on a disk that outlives the process (required)");
  o->Add("listen", &c->listen, "HTTP for applications; port 0: any free one");
  o->Add("tls-certificate-file", &c->tls_certificate_file, "PEM with its chain: applications speak TLS; reloaded when it changes");
  o->Add("tls-key-file", &c->tls_key_file, "its private key");
  o->Add("threads", &c->threads, "that relay requests; 0: one per processor");
  o->Add("proxy-from-environment", &c->proxy_from_environment, "HTTPS_PROXY and NO_PROXY apply to providers");

  o->Add("connections-max", &c->http.connections, "of callers; more are closed at once");
  o->Add("connections-per-address-max", &c->http.connections_per_address, "likewise, of one address");
  o->Add("trusted-proxies", &c->trusted_proxies, "networks whose word on a caller's address is taken: 10.0.0.0/8,2001:db8::/32");
  o->Add("address-header", &c->address_header, "where trusted proxies give that address");
  o->Add("requests-per-address-per-minute", &c->requests_per_address_per_minute, "a tenth of it at once; 0: no limit");
  o->Add("addresses-max", &c->addresses_max, "that are remembered for it");
  o->Add("requests-per-key-max", &c->requests_per_key, "under way at this edge with one key; 0: no limit");
  o->Add("header-bytes-max", &c->http.header_bytes, "of a request");
  o->Add("body-bytes-max", &c->http.body_bytes, "of a request");
  o->Add("header-time", &c->http.header_time, "from a request's first byte to the end of its head");
  o->Add("body-time", &c->http.body_time, "from there to the end of its body");
  o->Add("body-idle-time", &c->http.body_idle_time, "between two bytes of the body");
  o->Add("idle-time", &c->http.idle_time, "between two requests of a connection");
  o->Add("write-time", &c->http.write_time, "for a caller to take one write");

  o->Add("json-depth-max", &c->scan.depth_max, "of a body");
  o->Add("output-tokens-max", &c->scan.output_tokens_max, "a larger declared maximum is refused as a mistake");
  o->Add("inputs-max", &c->scan.inputs_max, "prompts of completions, texts of embeddings, of one request");
  o->Add("stored-objects-per-request-max", &c->scan.object_refs_max, "ids of stored objects that a request names");
  o->Add("choices-max", &c->scan.choices_max, "answers asked for at once (n)");
  o->Add("metadata-entries-max", &c->scan.metadata_entries_max, "of a body");
  o->Add("metadata-key-bytes-max", &c->scan.metadata_key_bytes_max, "of one entry");
  o->Add("metadata-value-bytes-max", &c->scan.metadata_value_bytes_max, "of one entry");
  o->Add("tags-max", &c->tags.count, "of a request");
  o->Add("tag-key-bytes-max", &c->tags.key_bytes, "of one tag");
  o->Add("tag-value-bytes-max", &c->tags.value_bytes, "of one tag");

  o->Add("max-staleness", &c->directory.max_staleness, "cached keys are served this long after a watch was cut");
  o->Add("lookup-timeout", &c->directory.lookup_timeout, "of a key or account that is not cached");
  o->Add("cached-keys-max", &c->directory.principals_max, "keys with their accounts");
  o->Add("key-use-resolution", &c->directory.use_resolution, "how coarsely the last use of a key is told to the vault");
  o->Add("key-use-report-interval", &c->directory.use_report_interval, "how often");
  o->Add("unknown-key-time", &c->directory.unknown_ttl, "how long an unknown key is remembered");
  o->Add("issuers-file", &c->issuers_file, "YAML list of identity providers whose tokens count beside virtual keys");
  o->Add("cached-tokens-max", &c->directory.tokens_max, "verified tokens of identity providers that are remembered");
  o->Add("unknown-keys-max", &c->directory.unknown_max, "how many are");

  o->Add("provider-connect-time", &c->upstream.connect_time, "name, TCP, proxy and TLS together");
  o->Add("provider-write-time", &c->upstream.write_time, "for a provider to take a body");
  o->Add("provider-idle-time", &c->upstream.idle_connection_time, "of a pooled connection");
  o->Add("provider-connections-idle-max", &c->upstream.idle_connections_per_origin, "per provider and thread");
  o->Add("first-byte-time", &c->first_byte_time, "of a provider's answer");
  o->Add("answer-idle-time", &c->answer_idle_time, "between two bytes of it");
  o->Add("drain-time-caller-gone", &c->drain_time, "reading an answer on after its caller left");
  o->Add("json-buffer-bytes", &c->json_buffer_bytes, "larger answers are passed on without cost headers");

  o->Add("journal-bytes-max", &c->journal_bytes_max, "when it is full nothing is admitted");
  o->Add("journal-segment-bytes", &c->journal_segment_bytes, "of one file");
  o->Add("journal-retention", &c->journal_retention, "how long entries that the ledger has are kept");
  o->Add("backlog-max", &c->backlog_max, "entries that the ledger has not taken; above it nothing is admitted");

  o->Add("start-timeout", &c->start_timeout, "for the other services to be there");
  o->Add("reserve-timeout", &c->reserve_timeout, "of the enforcer's decision, beside hold-wait");
  o->Add("hold-wait", &c->hold_wait, "for money that other requests hold");
  o->Add("hold-time-to-live", &c->hold_time_to_live, "of a hold that is not refreshed");
  o->Add("shutdown-time", &c->shutdown_time, "for requests in flight after SIGTERM");

  o->Add("log-requests", &c->log_requests, "one line each, never their content");
  o->Add("budget-status", &c->budget_status, "of an exhausted budget: 402 or 429");
  o->Add("allow-unbounded-features", &c->allow_unbounded_features, "features that no bound covers");
  o->Add("send-hold-id", &c->send_hold_id, "x-tollhouse-hold-id also to providers on the internet");
  o->Add("count-tokens-per-minute", &c->count_tokens_per_minute, "of the free endpoints, per key");
  o->Add("key-in-query", &c->key_in_query, "?key= is taken for a key; URLs end up in other people's logs");
  o->Add("tighten-bounds", &c->tighten_bounds, "ask the provider's free token counter before a budget refuses");
  o->Add("count-time", &c->count_time, "for that counter's answer");
  o->Add("clamp-output", &c->clamp_output, "lower the maximum of output tokens to what a budget affords, to no less than 1024");
  o->Add("stored-objects-max", &c->objects_max, "ids of stored responses and conversations remembered");
}

absl::Status CheckConfig(const Config& c) {
  if (c.data_dir.empty()) return absl::InvalidArgumentError("--data-dir is required");
  if (c.budget_status != 402 && c.budget_status != 429) {
    return absl::InvalidArgumentError(absl::StrCat("--budget-status is 402 or 429, not ", c.budget_status));
  }
  if (c.tls_certificate_file.empty() != c.tls_key_file.empty()) {
    return absl::InvalidArgumentError("--tls-certificate-file and --tls-key-file belong together");
  }
  if (const auto proxies = CallerAddresses::Parse(c.trusted_proxies, c.address_header); !proxies.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--trusted-proxies: ", proxies.status().message()));
  }
  if (c.threads < 0 || c.threads > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("--threads is 0 to 1024, not ", c.threads));
  }
  if (c.journal_segment_bytes < (64 << 10) || c.journal_bytes_max < 4 * c.journal_segment_bytes) {
    return absl::InvalidArgumentError(
        "--journal-segment-bytes is at least 65536 and --journal-bytes-max four times as much");
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::edge
