#include "services/ledger/webhooks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/digest.h"
#include "libs/http/client.h"
#include "libs/obs/log.h"

namespace tollhouse::ledger {
namespace {

constexpr int kPerRound = 64;
constexpr absl::Duration kFirstWait = absl::Seconds(2);
constexpr absl::Duration kLongestWait = absl::Minutes(15);
// The longest sleep: a clock that jumps is noticed within it.
constexpr absl::Duration kTick = absl::Seconds(1);

// "" if the receiver has taken it, else why not.
std::string Attempt(const Delivery& delivery, const std::function<bool()>& cancelled) {
  if (delivery.url.empty()) return "the webhook was removed";
  http::Request request{.method = "POST", .url = delivery.url, .body = delivery.body};
  request.headers = {{"content-type", "application/json"},
                     {"user-agent", "tollhouse-webhook/1"},
                     {"x-tollhouse-delivery", absl::StrCat(delivery.id)}};
  if (!delivery.secret.empty()) {
    const crypto::Sha256Digest mac = crypto::HmacSha256(delivery.secret, delivery.body);
    request.headers.emplace_back("x-tollhouse-signature",
                                 "sha256=" + crypto::Hex(crypto::AsBytes(mac)));
  }
  const absl::StatusOr<http::Response> response =
      http::Send(request, {.response_bytes_max = 64 << 10,
                           .allow_private = delivery.allow_private,
                           .cancelled = cancelled});
  if (!response.ok()) return std::string(response.status().message());
  if (response->status >= 200 && response->status < 300) return "";
  return absl::StrCat("HTTP status ", response->status);
}

}  // namespace

absl::Duration WebhookSender::Backoff(int attempts) {
  absl::Duration wait = kFirstWait;
  for (int i = 1; i < attempts && wait < kLongestWait; ++i) wait *= 2;
  return std::min(wait, kLongestWait);
}

absl::StatusOr<int> WebhookSender::DeliverDue() {
  TH_ASSIGN_OR_RETURN(const std::vector<Delivery> due, store_->DueDeliveries(kPerRound));
  for (const Delivery& delivery : due) {
    const auto stopping = [this] {
      absl::MutexLock lock(&mutex_);
      return stopping_;
    };
    const std::string error = Attempt(delivery, stopping);
    if (!error.empty() && stopping()) break;  // it was cut short: not its fault
    const int attempts = delivery.attempts + 1;
    std::optional<absl::Time> retry_at;
    if (!error.empty()) {
      obs::Warning("webhook_failed",
                   {{"delivery", delivery.id}, {"attempt", attempts}, {"error", error}});
      if (attempts < kAttemptsMax && !delivery.url.empty()) {
        retry_at = clock_->Wall() + Backoff(attempts);
      }
    }
    TH_RETURN_IF_ERROR(store_->RecordDelivery(delivery.id, error, retry_at));
  }
  return static_cast<int>(due.size());
}

void WebhookSender::Start() {
  thread_ = std::thread([this] { Run(); });
}

void WebhookSender::Wake() {
  absl::MutexLock lock(&mutex_);
  awake_ = true;
}

void WebhookSender::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = awake_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WebhookSender::Run() {
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&awake_), kTick);
      if (stopping_) return;
      awake_ = false;
    }
    const absl::StatusOr<int> attempts = DeliverDue();
    if (!attempts.ok()) {
      obs::Error("webhooks_not_delivered", {{"reason", attempts.status().ToString()}});
    } else if (*attempts == kPerRound) {
      Wake();
    }
  }
}

}  // namespace tollhouse::ledger
