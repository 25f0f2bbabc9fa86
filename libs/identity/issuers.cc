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

absl::Status CheckIssuer(const Issuer& issuer) {
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
  const std::vector<std::string> segments = absl::StrSplit(issuer.account, '/');
  for (const std::string& segment : segments) {
    if (!IsAccountName(segment) && ClaimOf(segment).empty()) {
      return BadIssuers(absl::StrCat(prefix, "`account` must be a path such as acme/{team}/{email}; \"",
                                     segment, "\" is neither a name nor a {claim}"));
    }
  }
  if (!ClaimOf(segments.front()).empty()) {
    return BadIssuers(prefix + "`account` must begin with the name of an org, not with a claim");
  }
  return absl::OkStatus();
}

absl::StatusOr<Issuer> ParseIssuer(const YAML::Node& node) {
  if (!node.IsMap()) return BadIssuers("each issuer must be a map");
  Issuer issuer;
  for (const auto& item : node) {
    const std::string key = item.first.as<std::string>();
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
  TH_RETURN_IF_ERROR(CheckIssuer(issuer));
  return issuer;
}

absl::StatusOr<std::string> AccountOf(const Issuer& issuer, const Token& token) {
  std::string path;
  for (absl::string_view segment : absl::StrSplit(issuer.account, '/')) {
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

absl::StatusOr<std::vector<Issuer>> ParseIssuers(std::string_view yaml) {
  std::vector<Issuer> issuers;
  std::set<std::string> names;
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsSequence()) return BadIssuers("a list of issuers is needed");
    for (const YAML::Node& node : root) {
      TH_ASSIGN_OR_RETURN(Issuer issuer, ParseIssuer(node));
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
  TH_ASSIGN_OR_RETURN(identity.account, AccountOf(state.issuer, token));
  identity.expires_at = *token.expires_at + state.issuer.clock_skew;
  return identity;
}

}  // namespace tollhouse::identity
