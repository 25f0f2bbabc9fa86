#include "services/ledger/validate.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "libs/base/error.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/base/window.h"
#include "services/ledger/core/names.h"

namespace tollhouse::ledger {
namespace {

constexpr int kPctMax = 1000;
constexpr size_t kThresholdsMax = 16;
constexpr int64_t kLimitMax = 1'000'000'000'000'000;

absl::Status Bad(std::string_view reason, std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

// One of `values` by its name; the first where the text is empty.
template <typename Enum>
absl::StatusOr<Enum> OneOf(std::string_view text, std::string_view what,
                           std::initializer_list<Enum> values) {
  if (text.empty()) return *values.begin();
  std::string names;
  for (const Enum value : values) {
    if (NameOf(value) == text) return value;
    absl::StrAppend(&names, names.empty() ? "" : " or ", Absl(NameOf(value)));
  }
  return Bad("BAD_ARGUMENT", absl::StrCat(Absl(what), " is '", Absl(text), "', use ", names));
}

}  // namespace

std::string_view NameOf(common::v1::BudgetMode mode) {
  switch (mode) {
    case common::v1::BUDGET_MODE_ENFORCE:
      return "enforce";
    case common::v1::BUDGET_MODE_OBSERVE:
      return "observe";
    default:
      return "";
  }
}

std::string_view NameOf(common::v1::BoundPolicy bound) {
  switch (bound) {
    case common::v1::BOUND_POLICY_STRICT:
      return "strict";
    case common::v1::BOUND_POLICY_TIGHT:
      return "tight";
    default:
      return "";
  }
}

std::string_view NameOf(common::v1::OutagePolicy policy) {
  switch (policy) {
    case common::v1::OUTAGE_POLICY_CLOSED:
      return "closed";
    case common::v1::OUTAGE_POLICY_OPEN:
      return "open";
    default:
      return "";
  }
}

std::string_view NameOf(common::v1::AccountKind kind) {
  switch (kind) {
    case common::v1::ACCOUNT_KIND_ORG:
      return "org";
    case common::v1::ACCOUNT_KIND_TEAM:
      return "team";
    case common::v1::ACCOUNT_KIND_USER:
      return "user";
    case common::v1::ACCOUNT_KIND_KEY:
      return "key";
    default:
      return "";
  }
}

absl::Status CheckAmount(int64_t nanos, std::string_view what) {
  if (nanos < 0) return Bad("BAD_AMOUNT", absl::StrCat(Absl(what), " is negative"));
  if (nanos > kMaxCap.nanos()) {
    return Bad("BAD_AMOUNT", absl::StrCat(Absl(what), " is more than $4,000,000,000"));
  }
  return absl::OkStatus();
}

absl::StatusOr<BudgetSpec> ParseBudget(const v1::SetBudgetRequest& request) {
  BudgetSpec spec;
  spec.path = request.path();
  TH_RETURN_IF_ERROR(SplitPath(spec.path).status());
  spec.name = request.name();
  if (!spec.name.empty()) {
    TH_RETURN_IF_ERROR(CheckName(spec.name));
    if (ParseWindow(spec.name).ok()) {
      return Bad("BAD_NAME", absl::StrCat("'", spec.name, "' is the name of a window"));
    }
  }
  TH_RETURN_IF_ERROR(CheckAmount(request.limit_nanousd(), "limit"));
  spec.limit_nanos = request.limit_nanousd();
  if (!request.window().empty()) spec.window = request.window();
  const absl::StatusOr<Window> window = ParseWindow(spec.window);
  if (!window.ok()) return Bad("BAD_WINDOW", Std(window.status().message()));
  if (!request.time_zone().empty()) spec.time_zone = request.time_zone();
  const absl::StatusOr<absl::TimeZone> zone = ParseTimeZone(spec.time_zone);
  if (!zone.ok()) return Bad("BAD_TIME_ZONE", Std(zone.status().message()));
  if (!request.anchor().empty()) {
    if (window->kind != Window::Kind::kDays) {
      return Bad("BAD_WINDOW", "an anchor belongs to a window of days, such as 7d");
    }
    absl::CivilDay day;
    if (!absl::ParseCivilTime(request.anchor(), &day) || day.year() < 1970 || day.year() > 9999 ||
        absl::FormatCivilTime(day) != request.anchor()) {
      return Bad("BAD_WINDOW", "the anchor is a day, YYYY-MM-DD");
    }
    spec.anchor = request.anchor();
  }
  const std::map<std::string, std::string> match(request.match().begin(), request.match().end());
  TH_RETURN_IF_ERROR(CheckTags(match));
  spec.match = EncodeTags(match);
  if (request.hard_pct() != 0) spec.hard_pct = request.hard_pct();
  if (spec.hard_pct < 1 || spec.hard_pct > kPctMax) {
    return Bad("BAD_ARGUMENT", "the hard stop is 1 to 1000 percent of the limit");
  }
  if (request.no_soft()) {
    spec.soft_pct.clear();
  } else if (request.soft_pct_size() > 0) {
    spec.soft_pct.assign(request.soft_pct().begin(), request.soft_pct().end());
    std::sort(spec.soft_pct.begin(), spec.soft_pct.end());
    spec.soft_pct.erase(std::unique(spec.soft_pct.begin(), spec.soft_pct.end()), spec.soft_pct.end());
    if (spec.soft_pct.size() > kThresholdsMax) {
      return Bad("BAD_ARGUMENT", "at most 16 soft thresholds");
    }
    if (spec.soft_pct.front() < 1 || spec.soft_pct.back() > kPctMax) {
      return Bad("BAD_ARGUMENT", "a soft threshold is 1 to 1000 percent of the limit");
    }
  }
  TH_ASSIGN_OR_RETURN(spec.mode,
                      OneOf(std::string_view(request.mode()), "mode",
                            {common::v1::BUDGET_MODE_ENFORCE, common::v1::BUDGET_MODE_OBSERVE}));
  TH_ASSIGN_OR_RETURN(spec.bound,
                      OneOf(std::string_view(request.bound()), "bound",
                            {common::v1::BOUND_POLICY_STRICT, common::v1::BOUND_POLICY_TIGHT}));
  TH_ASSIGN_OR_RETURN(spec.on_outage,
                      OneOf(std::string_view(request.on_outage()), "on_outage",
                            {common::v1::OUTAGE_POLICY_CLOSED, common::v1::OUTAGE_POLICY_OPEN}));
  if (!request.for_each().empty()) {
    TH_ASSIGN_OR_RETURN(spec.for_each,
                        OneOf(std::string_view(request.for_each()), "for_each",
                              {common::v1::ACCOUNT_KIND_TEAM, common::v1::ACCOUNT_KIND_USER,
                               common::v1::ACCOUNT_KIND_KEY}));
  }
  return spec;
}

absl::Status CheckLimits(const v1::SetLimitsRequest& request) {
  for (const int64_t value :
       {request.requests_per_minute(), request.tokens_per_minute(), request.concurrency(),
        request.max_output_tokens(), request.max_request_cost_nanousd()}) {
    if (value < 0) return Bad("BAD_AMOUNT", "a limit is negative; 0 removes it");
    if (value > kLimitMax) return Bad("BAD_AMOUNT", "a limit is above 10^15; 0 removes it");
  }
  return absl::OkStatus();
}

absl::Status CheckTagRules(const v1::SetTagRulesRequest& request) {
  constexpr int kRulesMax = 32;
  constexpr int kAllowedMax = 256;
  if (request.rules_size() > kRulesMax)
    return Bad("BAD_ARGUMENT", "an account has at most 32 tag rules");
  std::set<std::string_view> tags;
  for (const common::v1::TagRule& rule : request.rules()) {
    if (!tags.insert(rule.tag()).second) {
      return Bad("BAD_ARGUMENT",
                 absl::StrCat("there are two rules for the tag '", rule.tag(), "'"));
    }
    if (!rule.required() && rule.allowed().empty()) {
      return Bad("BAD_ARGUMENT", absl::StrCat("the rule for the tag '", rule.tag(),
                                              "' neither requires it nor names values"));
    }
    if (rule.allowed_size() > kAllowedMax) {
      return Bad("BAD_ARGUMENT",
                 absl::StrCat("the tag '", rule.tag(), "' has more than 256 allowed values"));
    }
    TH_RETURN_IF_ERROR(CheckTags({{rule.tag(), ""}}));
    for (const std::string& value : rule.allowed()) {
      if (value.empty()) return Bad("BAD_ARGUMENT", "an allowed value is not empty");
      TH_RETURN_IF_ERROR(CheckTags({{rule.tag(), value}}));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckWebhookUrl(std::string_view url) {
  const auto bad = [](std::string_view why) {
    return Bad("BAD_ARGUMENT", absl::StrCat("bad webhook URL: ", Absl(why)));
  };
  if (url.size() > 2048) return bad("longer than 2048 bytes");
  for (const char c : url) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f) return bad("it has a space or a control character");
  }
  std::string_view rest;
  if (url.substr(0, 8) == "https://") rest = url.substr(8);
  if (url.substr(0, 7) == "http://") rest = url.substr(7);
  const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  if (authority.empty()) return bad("use http://HOST/... or https://HOST/...");
  if (authority.find('@') != std::string_view::npos) return bad("no user or password in it; use a secret");
  return absl::OkStatus();
}

}  // namespace tollhouse::ledger
