#include "services/edge/principal.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/crypto/digest.h"

namespace tollhouse::edge {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

int64_t Micros(const google::protobuf::Timestamp& at) {
  return at.seconds() * 1'000'000 + at.nanos() / 1000;
}

bool Allows(const std::vector<std::string>& list, std::string_view name) {
  return list.empty() || std::any_of(list.begin(), list.end(), [&](const std::string& item) {
           return item.ends_with('*')
                      ? name.starts_with(std::string_view(item).substr(0, item.size() - 1))
                      : name == item;
         });
}

void Tighten(int64_t value, const std::string& path, Standing::Limit* limit) {
  if (value > 0 && (limit->value == 0 || value < limit->value)) *limit = {value, path};
}

std::string_view NameOf(std::string_view path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

absl::StatusOr<std::unique_ptr<Standing>> Standing::From(
    const vault::v1::KeyRecord& key, const std::vector<const ledger::v1::AccountView*>& chain,
    bool require_budget) {
  auto standing = std::make_unique<Standing>();
  standing->require_budget = require_budget;
  for (size_t i = 0; i < chain.size(); ++i) {
    const ledger::v1::AccountView& view = *chain[i];
    if (i + 1 < chain.size()) {
      standing->account_ids.push_back(view.account_id());
      standing->parent_path = view.path();
    }
    for (const auto& [name, value] : view.tags()) standing->pinned_tags[name] = value;
    for (const common::v1::TagRule& rule : view.tag_rules()) {
      standing->tag_rules.push_back(
          {view.path(), rule.tag(), rule.required(), {rule.allowed().begin(), rule.allowed().end()}});
    }
    Tighten(view.limits().max_output_tokens(), view.path(), &standing->max_output_tokens);
    Tighten(view.limits().max_request_cost_nanousd(), view.path(),
            &standing->max_request_cost_nanousd);
  }
  standing->models.assign(key.models().begin(), key.models().end());
  standing->providers.assign(key.providers().begin(), key.providers().end());
  standing->endpoints.assign(key.endpoints().begin(), key.endpoints().end());
  for (const std::string& text : key.networks()) {
    TH_ASSIGN_OR_RETURN(const http::Network network, http::Network::Parse(text));
    standing->networks.push_back(network);
  }
  return standing;
}

bool Standing::AllowsProvider(std::string_view provider) const { return Allows(providers, provider); }
bool Standing::AllowsModel(std::string_view model) const { return Allows(models, model); }
bool Standing::AllowsEndpoint(std::string_view endpoint) const { return Allows(endpoints, endpoint); }

bool Standing::AllowsAddress(const std::optional<http::Address>& from) const {
  return networks.empty() ||
         (from && std::any_of(networks.begin(), networks.end(),
                              [&](const http::Network& network) { return network.Contains(*from); }));
}

Principal::Principal(const vault::v1::KeyRecord& key, const ledger::v1::AccountView& own,
                     std::shared_ptr<const Standing> standing)
    : account_id_(own.account_id()),
      name_(NameOf(own.path())),
      standing_(std::move(standing)),
      expires_at_micros_(key.has_expires_at() ? Micros(key.expires_at()) : kNever),
      disabled_(key.disabled()),
      revoked_(key.revoked()) {
  if (key.key_id().size() == kKeyIdSize) key.key_id().copy(key_id_.data(), kKeyIdSize);
  for (const vault::v1::SecretMac& secret : key.macs()) {
    if (secret.mac().size() != 32) continue;
    Mac mac{};
    std::copy(secret.mac().begin(), secret.mac().end(), mac.mac.begin());
    mac.expires_at_micros = secret.has_expires_at() ? Micros(secret.expires_at()) : kNever;
    if (mac_.expires_at_micros == 0) {
      mac_ = mac;
    } else {
      if (others_ == nullptr) others_ = std::make_unique<std::vector<Mac>>();
      others_->push_back(mac);
    }
  }
}

std::vector<int64_t> Principal::account_ids() const {
  std::vector<int64_t> ids;
  ids.reserve(standing_->account_ids.size() + 1);
  ids = standing_->account_ids;
  ids.push_back(account_id_);
  return ids;
}

std::string Principal::account_path() const {
  return standing_->parent_path.empty() ? name_ : absl::StrCat(standing_->parent_path, "/", name_);
}

bool Principal::HasMac(const std::array<uint8_t, 32>& mac, absl::Time now) const {
  const int64_t micros = absl::ToUnixMicros(now);
  const auto matches = [&](const Mac& own) {
    return crypto::ConstantTimeEqual(crypto::AsBytes(own.mac), crypto::AsBytes(mac)) &&
           micros < own.expires_at_micros;
  };
  bool known = matches(mac_);
  if (others_ != nullptr) {
    for (const Mac& own : *others_) known |= matches(own);
  }
  return known;
}

bool Principal::NoteUse(int64_t unix_minutes, int64_t every) const {
  const auto now = static_cast<uint32_t>(unix_minutes);
  uint32_t told = told_minutes_.load(std::memory_order_relaxed);
  if (told != 0 && now < told + every) return false;
  return told_minutes_.compare_exchange_strong(told, now, std::memory_order_relaxed);
}

}  // namespace tollhouse::edge
