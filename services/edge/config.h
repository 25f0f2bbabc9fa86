// What an edge can be told. Every limit of the edge is here.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "services/edge/dialect/request.h"
#include "services/edge/directory.h"
#include "services/edge/http_server.h"
#include "services/edge/tags.h"
#include "services/edge/upstream.h"

namespace tollhouse::edge {

struct Config {
  std::string data_dir;                   // the journal lives in data_dir/journal
  std::string listen = "127.0.0.1:8080";  // port 0: any free one
  int threads = 0;                        // IO threads; 0: one per processor
  std::string tls_certificate_file;       // with its chain, PEM; "": plain HTTP
  std::string tls_key_file;
  std::string issuers_file;               // identity providers (libs/identity/issuers.h); "": none
  const Clock* clock = Clock::System();

  HttpLimits http;
  ScanLimits scan;
  TagLimits tags;
  DirectoryOptions directory;
  UpstreamOptions upstream;
  bool proxy_from_environment = true;  // HTTPS_PROXY, NO_PROXY fill `upstream`

  int64_t journal_bytes_max = int64_t{1} << 30;
  int64_t journal_segment_bytes = 16 << 20;
  absl::Duration journal_retention = absl::Hours(24);
  // Entries the ledger has not taken; above it nothing new is admitted.
  int64_t backlog_max = 100'000;

  absl::Duration start_timeout = absl::Seconds(30);   // for the other services to be there
  absl::Duration reserve_timeout = absl::Seconds(5);  // beside the waiting of hold_wait
  absl::Duration hold_wait = absl::Seconds(2);        // for money that other requests hold
  absl::Duration hold_time_to_live = absl::Seconds(120);
  absl::Duration first_byte_time = absl::Minutes(10);  // of the provider's answer
  absl::Duration answer_idle_time = absl::Minutes(5);  // between two bytes of it
  absl::Duration expired_interval = absl::Seconds(20);  // looking for expired holds that were never used
  absl::Duration drain_time = absl::Minutes(2);        // reading on after the caller left
  absl::Duration shutdown_time = absl::Seconds(30);    // for requests in flight
  size_t json_buffer_bytes = 8 << 20;  // larger answers are passed on without cost headers

  bool log_requests = true;               // one line `request` each
  int budget_status = 402;                // of an exhausted budget: 402 or 429
  bool allow_unbounded_features = false;  // features that no bound covers
  bool send_hold_id = false;  // x-tollhouse-hold-id also to providers without allow_private
  int64_t count_tokens_per_minute = 600;  // and other free questions, per key: the free endpoints
  std::string trusted_proxies;     // networks whose word on a caller's address counts, by commas
  std::string address_header = "x-forwarded-for";  // where they give it
  int64_t requests_per_address_per_minute = 0;     // a tenth of it at once; 0: no limit
  int64_t addresses_max = 100'000;                 // that are remembered for it
  int64_t requests_per_key = 0;    // of one key under way at this edge; 0: no limit
  bool key_in_query = false;       // ?key= is taken for a key; URLs end up in other people's logs
  // Before a budget refuses, the provider's free counter is asked for what bytes only bound.
  bool tighten_bounds = true;
  absl::Duration count_time = absl::Seconds(5);  // for that answer
  // Then the maximum of output tokens is lowered to what the budget affords, never below 1,024.
  bool clamp_output = false;
  size_t objects_max = 500'000;  // ids of stored objects whose owners are remembered
};

}  // namespace tollhouse::edge
