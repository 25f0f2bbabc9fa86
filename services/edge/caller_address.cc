#include "services/edge/caller_address.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {

absl::StatusOr<CallerAddresses> CallerAddresses::Parse(std::string_view trusted,
                                                       std::string header) {
  CallerAddresses addresses;
  addresses.header_ = std::move(header);
  for (const absl::string_view item : absl::StrSplit(Absl(trusted), ',', absl::SkipWhitespace())) {
    TH_ASSIGN_OR_RETURN(const http::Network network,
                        http::Network::Parse(Std(absl::StripAsciiWhitespace(item))));
    addresses.trusted_.push_back(network);
  }
  return addresses;
}

bool CallerAddresses::Trusted(const http::Address& address) const {
  return std::any_of(trusted_.begin(), trusted_.end(),
                     [&](const http::Network& network) { return network.Contains(address); });
}

std::optional<http::Address> CallerAddresses::Of(std::string_view peer,
                                                 const Headers& headers) const {
  std::optional<http::Address> address = http::Address::Parse(peer);
  if (trusted_.empty() || !address || !Trusted(*address)) return address;
  // Each proxy appends whom it was asked by: only what stands behind the last untrusted one counts.
  std::vector<std::string_view> said;
  for (const HeaderField& field : headers.fields) {
    if (!absl::EqualsIgnoreCase(Absl(field.name), header_)) continue;
    for (const absl::string_view item : absl::StrSplit(Absl(field.value), ',')) {
      said.push_back(Std(absl::StripAsciiWhitespace(item)));
    }
  }
  for (auto it = said.rbegin(); it != said.rend(); ++it) {
    address = http::Address::Parse(*it);
    if (!address) return std::nullopt;
    if (!Trusted(*address)) return address;
  }
  return said.empty() ? std::nullopt : address;  // proxies all the way
}

AddressLimiter::AddressLimiter(int64_t per_minute, size_t addresses_max)
    : step_nanos_(per_minute > 0 ? int64_t{60'000'000'000} / per_minute : 0),
      burst_(std::max<int64_t>(1, per_minute / 10)),
      addresses_max_(addresses_max) {}

absl::Duration AddressLimiter::Take(const std::optional<http::Address>& from,
                                    int64_t monotonic_nanos) {
  if (step_nanos_ == 0) return absl::ZeroDuration();
  std::string key;
  if (from) {
    // One holder has at least a /64 of IPv6.
    static constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    const bool v4 = std::equal(kMapped.begin(), kMapped.end(), from->bytes.begin());
    key.assign(reinterpret_cast<const char*>(from->bytes.data()), v4 ? 16 : 8);
  }
  absl::MutexLock lock(&mutex_);
  if (due_.size() >= addresses_max_ && !due_.contains(key)) {
    absl::erase_if(due_, [&](const auto& item) { return item.second <= monotonic_nanos; });
    if (due_.size() >= addresses_max_) due_.clear();
  }
  int64_t& due = due_[key];
  due = std::max(due, monotonic_nanos);
  const int64_t ahead = due - monotonic_nanos - (burst_ - 1) * step_nanos_;
  if (ahead > 0) return absl::Nanoseconds(ahead);
  due += step_nanos_;
  return absl::ZeroDuration();
}

}  // namespace tollhouse::edge
