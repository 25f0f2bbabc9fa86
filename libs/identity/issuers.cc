#include "libs/identity/issuers.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/http/client.h"
#include "libs/identity/token.h"
#include "libs/obs/log.h"

namespace tollhouse::identity {
namespace {

absl::Status BadIssuers(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ISSUERS", message);
}

absl::Status Refused(std::string_view reason, std::string_view message) {
  return MakeError(absl::StatusCode::kUnauthenticated, reason, message);
}

// The claim that a template's segment names; "" if it is a fixed name.
std::string_view ClaimOf(std::string_view segment) {
  if (segment.size() < 3 || segment.front() != '{' || segment.back() != '}') return "";
  return segment.substr(1, segment.size() - 2);
}

constexpr std::string_view kRoles[] = {"viewer", "finance", "admin", "owner"};  // each may more

// 0 for no role.
size_t RankOf(std::string_view role) {
  const auto* const found = std::find(std::begin(kRoles), std::end(kRoles), role);
  return found == std::end(kRoles) ? 0 : static_cast<size_t>(found - std::begin(kRoles)) + 1;
}

absl::Status CheckPath(const std::string& prefix, std::string_view key, const std::string& path) {
  const std::vector<std::string> segments = absl::StrSplit(path, '/');
  for (const std::string& segment : segments) {
    if (!IsAccountName(segment) && ClaimOf(segment).empty()) {
      return BadIssuers(absl::StrCat(prefix, "`", Absl(key), "` must be a path such as acme/{team}/{email}; \"",
                                     segment, "\" is neither a name nor a {claim}"));
    }
  }
  if (!ClaimOf(segments.front()).empty()) {
    return BadIssuers(
        absl::StrCat(prefix, "`", Absl(key), "` must begin with the name of an org, not with a claim"));
  }
  return absl::OkStatus();
}

absl::Status CheckAdministration(const std::string& prefix, const Issuer& issuer) {
  if (!issuer.account.empty()) {
    return BadIssuers(prefix + "`account` is for tokens that call models; `subtree` bounds who administers");
  }
  if (issuer.actor.empty()) return BadIssuers(prefix + "`actor` is needed, the claim that names the person");
  if (issuer.role_claim.empty() || issuer.roles.empty()) {
    return BadIssuers(prefix + "`role_claim` and `roles` are needed");
  }
  for (const auto& [value, role] : issuer.roles) {
    if (RankOf(role) == 0) {
      return BadIssuers(absl::StrCat(prefix, "the role of ", value, " must be viewer, finance, admin or owner"));
    }
  }
  return issuer.subtree.empty() ? absl::OkStatus() : CheckPath(prefix, "subtree", issuer.subtree);
}

absl::Status CheckIssuer(const Issuer& issuer, IssuerUse use) {
  if (issuer.issuer.empty()) return BadIssuers("an issuer needs `issuer`, the iss claim of its tokens");
  const std::string prefix = absl::StrCat("issuer ", issuer.issuer, ": ");
  if (issuer.audience.empty()) return BadIssuers(prefix + "`audience` is needed");
  if (issuer.key_set_file.empty() == issuer.key_set_url.empty()) {
    return BadIssuers(prefix + "needs one of `key_set_file` and `key_set_url`");
  }
  if (!issuer.key_set_url.empty() && issuer.key_set_url.rfind("https://", 0) != 0 && !issuer.allow_private) {
    return BadIssuers(prefix + "`key_set_url` must be https");
  }
  if (issuer.clock_skew < absl::ZeroDuration() || issuer.clock_skew > absl::Minutes(10)) {
    return BadIssuers(prefix + "`clock_skew` must be between 0s and 10m");
  }
  if (use == IssuerUse::kAdministration) return CheckAdministration(prefix, issuer);
  if (!issuer.actor.empty() || !issuer.role_claim.empty() || !issuer.roles.empty() || !issuer.subtree.empty()) {
    return BadIssuers(prefix + "`actor`, `role_claim`, `roles` and `subtree` are for tokens that administer");
  }
  return CheckPath(prefix, "account", issuer.account);
}

absl::StatusOr<Issuer> ParseIssuer(const YAML::Node& node, IssuerUse use) {
  if (!node.IsMap()) return BadIssuers("each issuer must be a map");
  Issuer issuer;
  for (const auto& item : node) {
    const std::string key = item.first.as<std::string>();
    if (key == "roles" && item.second.IsMap()) {
      for (const auto& role : item.second) {
        issuer.roles[role.first.as<std::string>()] = role.second.as<std::string>();
      }
      continue;
    }
    if (!item.second.IsScalar()) return BadIssuers(absl::StrCat("`", key, "` must be a text"));
    const std::string value = item.second.as<std::string>();
    if (key == "issuer") {
      issuer.issuer = value;
    } else if (key == "audience") {
      issuer.audience = value;
    } else if (key == "key_set_file") {
      issuer.key_set_file = value;
    } else if (key == "key_set_url") {
      issuer.key_set_url = value;
    } else if (key == "account") {
      issuer.account = value;
    } else if (key == "actor") {
      issuer.actor = value;
    } else if (key == "role_claim") {
      issuer.role_claim = value;
    } else if (key == "subtree") {
      issuer.subtree = value;
    } else if (key == "allow_private") {
      if (value != "true" && value != "false") return BadIssuers("`allow_private` must be true or false");
      issuer.allow_private = value == "true";
    } else if (key == "clock_skew") {
      if (!absl::ParseDuration(value, &issuer.clock_skew)) {
        return BadIssuers("`clock_skew` must be a duration such as 60s");
      }
    } else {
      return BadIssuers(absl::StrCat("unknown key `", key, "` of an issuer"));
    }
  }
  TH_RETURN_IF_ERROR(CheckIssuer(issuer, use));
  return issuer;
}

// A template with the token's claims in it; "" of none.
absl::StatusOr<std::string> PathOf(const std::string& path_template, const Token& token) {
  std::string path;
  if (path_template.empty()) return path;
  for (absl::string_view segment : absl::StrSplit(path_template, '/')) {
    std::string_view name = Std(segment);
    if (const std::string_view claim = ClaimOf(name); !claim.empty()) {
      const auto it = token.text_claims.find(std::string(claim));
      if (it == token.text_claims.end() || !IsAccountName(it->second)) {
        return Refused("MISSING_CLAIM",
                       absl::StrCat("the token's claim ", std::string(claim), " names no account"));
      }
      name = it->second;
    }
    absl::StrAppend(&path, path.empty() ? "" : "/", Absl(name));
  }
  return path;
}

// The highest role that the token's claim stands for.
absl::StatusOr<std::string> HighestRole(const Issuer& issuer, const Token& token) {
  std::vector<std::string> values;
  if (const auto text = token.text_claims.find(issuer.role_claim); text != token.text_claims.end()) {
    values.push_back(text->second);
  }
  if (const auto list = token.list_claims.find(issuer.role_claim); list != token.list_claims.end()) {
    values.insert(values.end(), list->second.begin(), list->second.end());
  }
  std::string highest;
  for (const std::string& value : values) {
    const auto role = issuer.roles.find(value);
    if (role != issuer.roles.end() && RankOf(role->second) > RankOf(highest)) highest = role->second;
  }
  if (!highest.empty()) return highest;
  return MakeError(absl::StatusCode::kPermissionDenied, "NO_ROLE",
                   absl::StrCat("nothing in the token's claim ", issuer.role_claim, " stands for a role here"));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return text.str();
}

absl::StatusOr<std::string> Fetch(const Issuer& issuer) {
  http::Limits limits;
  limits.response_bytes_max = kKeySetBytesMax;
  limits.allow_private = issuer.allow_private;
  TH_ASSIGN_OR_RETURN(const http::Response response, http::Send({.url = issuer.key_set_url}, limits));
  if (response.status != 200) {
    return MakeError(absl::StatusCode::kUnavailable, "HTTP_FAILED",
                     absl::StrCat("the key set's server answered ", response.status));
  }
  return response.body;
}

}  // namespace

absl::StatusOr<std::vector<Issuer>> ParseIssuers(std::string_view yaml, IssuerUse use) {
  std::vector<Issuer> issuers;
  std::set<std::string> names;
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsSequence()) return BadIssuers("a list of issuers is needed");
    for (const YAML::Node& node : root) {
      TH_ASSIGN_OR_RETURN(Issuer issuer, ParseIssuer(node, use));
      if (!names.insert(issuer.issuer).second) {
        return BadIssuers(absl::StrCat("issuer ", issuer.issuer, " stands there twice"));
      }
      issuers.push_back(std::move(issuer));
    }
  } catch (const YAML::Exception& error) {
    return BadIssuers(error.what());
  }
  return issuers;
}

struct Issuers::State {
  Issuer issuer;
  absl::Mutex mutex;
  std::shared_ptr<const KeySet> keys ABSL_GUARDED_BY(mutex);
  absl::Duration loaded ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();  // monotonic
  absl::Duration tried ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  bool wanted ABSL_GUARDED_BY(mutex) = true;  // a token's signer was unknown
};

Issuers::Issuers(std::vector<Issuer> issuers, IssuersOptions options) : options_(std::move(options)) {
  for (Issuer& issuer : issuers) {
    issuers_.push_back(std::make_unique<State>());
    issuers_.back()->issuer = std::move(issuer);
  }
}

Issuers::~Issuers() { Stop(); }

absl::Status Issuers::Start() {
  bool remote = false;
  for (const auto& state : issuers_) {
    if (state->issuer.key_set_file.empty()) {
      remote = true;
      continue;
    }
    TH_ASSIGN_OR_RETURN(const std::string json, ReadFile(state->issuer.key_set_file));
    TH_RETURN_IF_ERROR(Load(state.get(), json));
  }
  if (remote) thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Issuers::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Issuers::Run() {
  const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || asked_; };
  for (;;) {
    RefreshDue();
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&woken), absl::Seconds(5));
    if (stopping_) return;
    asked_ = false;
  }
}

absl::Status Issuers::Load(State* state, const std::string& json) {
  TH_ASSIGN_OR_RETURN(KeySet keys, KeySet::Parse(json));
  absl::MutexLock lock(&state->mutex);
  state->keys = std::make_shared<const KeySet>(std::move(keys));
  state->loaded = options_.clock->Monotonic();
  state->wanted = false;
  return absl::OkStatus();
}

void Issuers::RefreshDue() {
  for (const auto& state : issuers_) {
    if (state->issuer.key_set_url.empty()) continue;
    const absl::Duration now = options_.clock->Monotonic();
    {
      absl::MutexLock lock(&state->mutex);
      const bool old = now - state->loaded >= options_.refresh;
      if (!(old || state->wanted) || now - state->tried < options_.refresh_on_unknown) continue;
      state->tried = now;
    }
    const auto json = options_.fetch ? options_.fetch(state->issuer) : Fetch(state->issuer);
    const absl::Status loaded = json.ok() ? Load(state.get(), *json) : json.status();
    if (!loaded.ok()) {
      obs::Warning("key_set_unreadable", {{"issuer", state->issuer.issuer}, {"reason", Std(loaded.message())}});
    }
  }
}

absl::StatusOr<Identity> Issuers::Verify(std::string_view text) {
  TH_ASSIGN_OR_RETURN(const Token token, ParseToken(text));
  if (token.algorithm != "RS256" && token.algorithm != "ES256") {
    return Refused("BAD_TOKEN", "the token's algorithm is neither RS256 nor ES256");
  }
  const auto found = std::find_if(issuers_.begin(), issuers_.end(), [&](const auto& state) {
    return state->issuer.issuer == token.issuer;
  });
  if (found == issuers_.end()) return Refused("UNKNOWN_ISSUER", "nobody here trusts the token's issuer");
  State& state = **found;
  std::shared_ptr<const KeySet> keys;
  {
    absl::MutexLock lock(&state.mutex);
    const bool stale = !state.issuer.key_set_url.empty() &&
                       options_.clock->Monotonic() - state.loaded > options_.max_age;
    if (!stale) keys = state.keys;
  }
  if (keys == nullptr) {
    return MakeError(absl::StatusCode::kUnavailable, "NO_KEY_SET", "the issuer's keys could not be read yet");
  }
  const absl::Status signature =
      keys->Verify(token.key_id, token.algorithm, token.signed_part, token.signature);
  if (!signature.ok()) {
    if (ReasonOf(signature) == "UNKNOWN_SIGNER" && !state.issuer.key_set_url.empty()) {
      {
        absl::MutexLock lock(&state.mutex);
        state.wanted = true;
      }
      absl::MutexLock lock(&mutex_);
      asked_ = true;
    }
    return signature;
  }
  const absl::Time now = options_.clock->Wall();
  if (!token.expires_at) return Refused("BAD_TOKEN", "the token never expires");
  if (now >= *token.expires_at + state.issuer.clock_skew) {
    return Refused("TOKEN_EXPIRED", "the token has expired");
  }
  if (token.not_before && now + state.issuer.clock_skew < *token.not_before) {
    return Refused("TOKEN_NOT_YET_VALID", "the token is not valid yet");
  }
  if (std::find(token.audiences.begin(), token.audiences.end(), state.issuer.audience) ==
      token.audiences.end()) {
    return Refused("WRONG_AUDIENCE", "the token was made for another service");
  }
  Identity identity;
  TH_ASSIGN_OR_RETURN(identity.account, PathOf(state.issuer.account, token));
  if (!state.issuer.role_claim.empty()) {
    const auto actor = token.text_claims.find(state.issuer.actor);
    if (actor == token.text_claims.end() || !IsAccountName(actor->second)) {
      return Refused("MISSING_CLAIM", absl::StrCat("the token's claim ", state.issuer.actor, " names nobody"));
    }
    identity.actor = actor->second;
    TH_ASSIGN_OR_RETURN(identity.role, HighestRole(state.issuer, token));
    TH_ASSIGN_OR_RETURN(identity.subtree, PathOf(state.issuer.subtree, token));
  }
  identity.expires_at = *token.expires_at + state.issuer.clock_skew;
  return identity;
}

}  // namespace tollhouse::identity
