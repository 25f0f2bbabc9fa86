#include "tools/tollctl/documents.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/policy/base_url.h"
#include "tools/tollctl/dialect.h"
#include "tools/tollctl/parse.h"
#include "tools/tollctl/price_view.h"
#include "tools/tollctl/proto_time.h"
#include "tools/tollctl/tag_rules.h"

namespace tollhouse::tollctl {
namespace {

constexpr std::pair<DocumentKind, const char*> kKinds[] = {
    {DocumentKind::kProvider, "Provider"}, {DocumentKind::kPrice, "Price"},
    {DocumentKind::kModel, "Model"},       {DocumentKind::kOrganization, "Organization"},
    {DocumentKind::kTeam, "Team"},         {DocumentKind::kUser, "User"},
    {DocumentKind::kKey, "Key"},           {DocumentKind::kBudget, "Budget"},
    {DocumentKind::kLimit, "Limit"},       {DocumentKind::kTags, "Tags"},
};
constexpr char kPriceSource[] = "tollctl";

// --- reading YAML --------------------------------------------------------------------------------

// Reads the fields of one mapping; every key must be taken.
class Reader {
 public:
  Reader(const YAML::Node& node, std::string file) : node_(node), file_(std::move(file)) {}

  std::string Where(const YAML::Node& at) const {
    return absl::StrCat(file_, ":", at.Mark().line + 1);
  }
  absl::Status Error(const YAML::Node& at, std::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat(Where(at), ": ", Absl(why)));
  }

  // Errors of the shape: not a mapping, a key twice.
  absl::Status Check() const {
    if (node_.IsNull()) return absl::OkStatus();
    if (!node_.IsMap()) return Error(node_, "expected key: value pairs");
    std::set<std::string> seen;
    for (const auto& entry : node_) {
      if (!entry.first.IsScalar()) return Error(entry.first, "a key must be a word");
      if (!seen.insert(entry.first.Scalar()).second) {
        return Error(entry.first, absl::StrCat("'", entry.first.Scalar(), "' stands twice"));
      }
    }
    return absl::OkStatus();
  }

  bool Has(const std::string& key) {
    known_.push_back(key);
    return node_.IsMap() && node_[key].IsDefined();
  }

  // Calls `take` with the field's node if it is there; its error gets the line.
  absl::Status Take(const std::string& key,
                    const std::function<absl::Status(const YAML::Node&)>& take) {
    if (!Has(key)) return absl::OkStatus();
    const YAML::Node value = node_[key];
    const absl::Status status = take(value);
    return status.ok() ? status : Error(value, absl::StrCat(key, ": ", status.message()));
  }

  absl::Status Text(const std::string& key, std::string* target) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*target, Scalar(value));
      return absl::OkStatus();
    });
  }
  absl::Status Through(const std::string& key, const Setter& set) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const std::string text, Scalar(value));
      return set(text);
    });
  }
  absl::Status Bool(const std::string& key, const std::function<void(bool)>& set) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const std::string text, Scalar(value));
      if (text != "true" && text != "false") return absl::InvalidArgumentError("write true or false");
      set(text == "true");
      return absl::OkStatus();
    });
  }
  // Money: quoted decimals, or an integer of whole dollars.
  absl::Status Money(const std::string& key, const std::function<void(int64_t)>& set) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const std::string text, Exact(value));
      TH_ASSIGN_OR_RETURN(const int64_t amount, ParseAmount(text));
      set(amount);
      return absl::OkStatus();
    });
  }
  // A sequence, or the comma-separated text of the command line.
  template <typename Repeated>
  absl::Status Items(const std::string& key, Repeated* items) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      items->Clear();
      if (value.IsSequence()) {
        std::vector<std::string> texts;
        for (const YAML::Node& item : value) {
          TH_ASSIGN_OR_RETURN(texts.emplace_back(), Scalar(item));
        }
        if (texts.empty()) return absl::OkStatus();
        return Into(items)(absl::StrJoin(texts, ","));
      }
      TH_ASSIGN_OR_RETURN(const std::string text, Scalar(value));
      return Into(items)(text);
    });
  }
  // A mapping, or a sequence of "k=v".
  absl::Status Map(const std::string& key, google::protobuf::Map<std::string, std::string>* map) {
    return Take(key, [&](const YAML::Node& value) -> absl::Status {
      if (value.IsSequence()) {
        for (const YAML::Node& item : value) {
          TH_ASSIGN_OR_RETURN(const std::string text, Scalar(item));
          TH_RETURN_IF_ERROR(Into(map)(text));
        }
        return absl::OkStatus();
      }
      if (!value.IsMap()) return absl::InvalidArgumentError("expected key: value pairs");
      for (const auto& entry : value) {
        TH_ASSIGN_OR_RETURN(const std::string name, Scalar(entry.first));
        TH_ASSIGN_OR_RETURN(const std::string text, Scalar(entry.second));
        TH_RETURN_IF_ERROR(Into(map)(absl::StrCat(name, "=", text)));
      }
      return absl::OkStatus();
    });
  }

  absl::Status Required(const std::string& key) const {
    if (node_.IsMap() && node_[key].IsDefined()) return absl::OkStatus();
    return Error(node_, absl::StrCat("'", key, "' is missing"));
  }
  // Unknown keys are fatal.
  absl::Status Finish() const {
    for (const auto& entry : node_) {
      const std::string& key = entry.first.Scalar();
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      const std::string near = Closest(key, known_);
      return Error(entry.first,
                   absl::StrCat("unknown key '", key, "'",
                                near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?"),
                                " Known: ", absl::StrJoin(known_, ", ")));
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<std::string> Scalar(const YAML::Node& value) {
    if (!value.IsScalar()) return absl::InvalidArgumentError("expected one value");
    return value.Scalar();
  }
  // A scalar that is not a YAML float.
  static absl::StatusOr<std::string> Exact(const YAML::Node& value) {
    TH_ASSIGN_OR_RETURN(std::string text, Scalar(value));
    const bool quoted = value.Tag() == "!";
    const bool number = !text.empty() && text.find_first_not_of("+-0123456789.eE_") == std::string::npos;
    const bool integer = text.find_first_not_of("0123456789") == std::string::npos;
    if (!quoted && number && !integer) {
      return absl::InvalidArgumentError(
          absl::StrCat(text, " would be a floating-point number; quote it: \"", text, "\""));
    }
    return text;
  }

  const YAML::Node& node() const { return node_; }
  const std::string& file() const { return file_; }

 private:
  const YAML::Node node_;
  const std::string file_;
  std::vector<std::string> known_;
};

absl::Status ReadAccount(Reader& spec, const std::string& name, DocumentKind kind, Document* out) {
  ledger::v1::CreateAccountRequest account;
  const int depth = kind == DocumentKind::kOrganization ? 1 : kind == DocumentKind::kTeam ? 2 : 3;
  static constexpr const char* kExamples[] = {"", "acme", "acme/payments", "acme/payments/sarah"};
  if (std::count(name.begin(), name.end(), '/') + 1 != depth) {
    return absl::InvalidArgumentError(absl::StrCat("the name '", name, "' must have ", depth,
                                                   depth == 1 ? " part" : " parts", ", like ",
                                                   kExamples[depth]));
  }
  account.set_path(name);
  account.set_if_absent(true);
  account.set_kind(kind == DocumentKind::kOrganization ? common::v1::ACCOUNT_KIND_ORG
                   : kind == DocumentKind::kTeam       ? common::v1::ACCOUNT_KIND_TEAM
                                                       : common::v1::ACCOUNT_KIND_USER);
  TH_RETURN_IF_ERROR(spec.Text("owner", account.mutable_owner()));
  TH_RETURN_IF_ERROR(spec.Text("cost_center", account.mutable_cost_center()));
  TH_RETURN_IF_ERROR(spec.Map("tags", account.mutable_tags()));
  TH_RETURN_IF_ERROR(spec.Map("tag", account.mutable_tags()));
  if (kind == DocumentKind::kOrganization) {
    TH_RETURN_IF_ERROR(
        spec.Bool("require_budget", [&](bool on) { account.set_require_budget(on); }));
  }
  out->body = std::move(account);
  return absl::OkStatus();
}

absl::Status ReadKey(Reader& spec, const std::string& name, Document* out) {
  KeySpec key;
  const size_t slash = name.rfind('/');
  if (slash == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name '", name, "' must be a path, like acme/payments/sarah/laptop"));
  }
  key.create.set_parent_path(name.substr(0, slash));
  key.create.set_name(name.substr(slash + 1));
  TH_RETURN_IF_ERROR(spec.Items("models", key.create.mutable_models()));
  TH_RETURN_IF_ERROR(spec.Items("providers", key.create.mutable_providers()));
  TH_RETURN_IF_ERROR(spec.Items("endpoints", key.create.mutable_endpoints()));
  TH_RETURN_IF_ERROR(spec.Items("networks", key.create.mutable_networks()));
  TH_RETURN_IF_ERROR(spec.Map("tags", key.create.mutable_tags()));
  TH_RETURN_IF_ERROR(spec.Map("tag", key.create.mutable_tags()));
  TH_RETURN_IF_ERROR(spec.Text("owner", key.create.mutable_owner()));
  TH_RETURN_IF_ERROR(spec.Text("purpose", key.create.mutable_purpose()));
  TH_RETURN_IF_ERROR(spec.Bool("disabled", [&](bool on) { key.disabled = on; }));
  TH_RETURN_IF_ERROR(spec.Through("expires", [&](std::string_view text) -> absl::Status {
    if (ParseSpan(text).ok()) {
      key.expires_in = std::string(text);
      return absl::OkStatus();
    }
    TH_ASSIGN_OR_RETURN(const absl::Time time, ParseMoment(text, absl::UTCTimeZone()));
    SetTime(time, key.create.mutable_expires_at());
    return absl::OkStatus();
  }));
  out->body = std::move(key);
  return absl::OkStatus();
}

absl::Status ReadBudget(Reader& spec, const std::string& name, Document* out) {
  ledger::v1::SetBudgetRequest budget;
  budget.set_path(name);
  TH_RETURN_IF_ERROR(spec.Required("limit"));
  TH_RETURN_IF_ERROR(spec.Money("limit", [&](int64_t n) { budget.set_limit_nanousd(n); }));
  TH_RETURN_IF_ERROR(spec.Text("window", budget.mutable_window()));
  TH_RETURN_IF_ERROR(spec.Text("timezone", budget.mutable_time_zone()));
  TH_RETURN_IF_ERROR(spec.Text("anchor", budget.mutable_anchor()));
  if (spec.Has("soft")) {
    TH_RETURN_IF_ERROR(spec.Items("soft", budget.mutable_soft_pct()));
    budget.set_no_soft(budget.soft_pct().empty());
  }
  TH_RETURN_IF_ERROR(spec.Through("hard", IntoPercent([&](int32_t n) { budget.set_hard_pct(n); })));
  TH_RETURN_IF_ERROR(
      spec.Through("mode", IntoChoice({"enforce", "observe"}, budget.mutable_mode())));
  TH_RETURN_IF_ERROR(spec.Through("bound", IntoChoice({"strict", "tight"}, budget.mutable_bound())));
  TH_RETURN_IF_ERROR(
      spec.Through("on_outage", IntoChoice({"closed", "open"}, budget.mutable_on_outage())));
  TH_RETURN_IF_ERROR(spec.Map("match", budget.mutable_match()));
  TH_RETURN_IF_ERROR(
      spec.Through("for_each", IntoChoice({"team", "user", "key"}, budget.mutable_for_each())));
  TH_RETURN_IF_ERROR(spec.Text("name", budget.mutable_name()));
  if (budget.window().empty()) budget.set_window("month");
  if (budget.time_zone().empty()) budget.set_time_zone("UTC");
  if (budget.soft_pct().empty() && !budget.no_soft()) budget.add_soft_pct(80);
  if (budget.hard_pct() == 0) budget.set_hard_pct(100);
  if (budget.mode().empty()) budget.set_mode("enforce");
  if (budget.bound().empty()) budget.set_bound("strict");
  if (budget.on_outage().empty()) budget.set_on_outage("closed");
  out->body = std::move(budget);
  return absl::OkStatus();
}

absl::Status ReadLimit(Reader& spec, const std::string& name, Document* out) {
  ledger::v1::SetLimitsRequest limit;
  limit.set_path(name);
  // A document says all: what it leaves out is not limited.
  limit.set_requests_per_minute(0);
  limit.set_tokens_per_minute(0);
  limit.set_concurrency(0);
  limit.set_max_output_tokens(0);
  limit.set_max_request_cost_nanousd(0);
  const auto count = [&](const char* key, void (ledger::v1::SetLimitsRequest::*set)(int64_t)) {
    return spec.Through(key, IntoCount([&limit, set](int64_t n) { (limit.*set)(n); }));
  };
  using Request = ledger::v1::SetLimitsRequest;
  TH_RETURN_IF_ERROR(count("rpm", &Request::set_requests_per_minute));
  TH_RETURN_IF_ERROR(count("tpm", &Request::set_tokens_per_minute));
  TH_RETURN_IF_ERROR(count("concurrency", &Request::set_concurrency));
  TH_RETURN_IF_ERROR(count("max_output_tokens", &Request::set_max_output_tokens));
  TH_RETURN_IF_ERROR(
      spec.Money("max_request_cost", [&](int64_t n) { limit.set_max_request_cost_nanousd(n); }));
  out->body = std::move(limit);
  return absl::OkStatus();
}

absl::Status ReadTags(Reader& spec, const std::string& name, Document* out) {
  ledger::v1::SetTagRulesRequest request;
  request.set_path(name);
  TagRules* const rules = request.mutable_rules();
  google::protobuf::RepeatedPtrField<std::string> required;
  TH_RETURN_IF_ERROR(spec.Items("require", &required));
  for (const std::string& tag : required) TH_RETURN_IF_ERROR(IntoRequired(rules)(tag));
  TH_RETURN_IF_ERROR(spec.Take("allow", [&](const YAML::Node& value) -> absl::Status {
    if (!value.IsMap()) return absl::InvalidArgumentError("expected tag: [values]");
    for (const auto& entry : value) {
      Reader values(value, spec.file());
      google::protobuf::RepeatedPtrField<std::string> items;
      TH_ASSIGN_OR_RETURN(const std::string tag, Reader::Scalar(entry.first));
      TH_RETURN_IF_ERROR(values.Items(tag, &items));
      for (const std::string& item : items) {
        TH_RETURN_IF_ERROR(IntoAllowed(rules)(absl::StrCat(tag, "=", item)));
      }
    }
    return absl::OkStatus();
  }));
  if (rules->empty()) return absl::InvalidArgumentError("give require or allow");
  std::sort(rules->begin(), rules->end(), [](const auto& a, const auto& b) { return a.tag() < b.tag(); });
  out->body = std::move(request);
  return absl::OkStatus();
}

absl::Status ReadCredential(const Reader& spec, const YAML::Node& node, SecretSource* out) {
  Reader credential(node, spec.file());
  TH_RETURN_IF_ERROR(credential.Check());
  TH_RETURN_IF_ERROR(credential.Text("env", &out->variable));
  TH_RETURN_IF_ERROR(credential.Text("file", &out->file));
  TH_RETURN_IF_ERROR(credential.Finish());
  if (out->file.empty() == out->variable.empty()) {
    return absl::InvalidArgumentError("give either env: VARIABLE or file: PATH");
  }
  if (!out->file.empty() && spec.file() != "-") {
    // Relative to the document, so that a folder can be applied from anywhere.
    out->file = (std::filesystem::path(spec.file()).parent_path() / out->file).string();
  }
  return absl::OkStatus();
}

absl::Status ReadProvider(Reader& spec, const std::string& name, Document* out) {
  ProviderSpec body;
  router::v1::Provider& provider = body.provider;
  provider.set_name(name);
  std::string dialect;
  TH_RETURN_IF_ERROR(spec.Required("dialect"));
  TH_RETURN_IF_ERROR(spec.Required("base_url"));
  TH_RETURN_IF_ERROR(
      spec.Through("dialect", IntoChoice({"openai", "anthropic", "gemini"}, &dialect)));
  provider.set_dialect(DialectFromName(dialect));
  TH_RETURN_IF_ERROR(spec.Through("base_url", [&](std::string_view text) {
    provider.set_base_url(std::string(text));
    return policy::ParseBaseUrl(text).status();
  }));
  TH_RETURN_IF_ERROR(spec.Text("catalog", provider.mutable_catalog()));
  TH_RETURN_IF_ERROR(spec.Bool("allow_private", [&](bool on) { provider.set_allow_private(on); }));
  TH_RETURN_IF_ERROR(spec.Through("priority", [&](std::string_view text) -> absl::Status {
    int32_t priority = 0;
    if (!absl::SimpleAtoi(Absl(text), &priority)) {
      return absl::InvalidArgumentError("expected a whole number");
    }
    provider.set_priority(priority);
    return absl::OkStatus();
  }));
  TH_RETURN_IF_ERROR(spec.Items("models", provider.mutable_models()));
  TH_RETURN_IF_ERROR(spec.Text("ca_file", provider.mutable_ca_file()));
  router::v1::ProviderQuirks* quirks = provider.mutable_quirks();
  TH_RETURN_IF_ERROR(
      spec.Bool("no_include_usage", [&](bool on) { quirks->set_no_include_usage(on); }));
  TH_RETURN_IF_ERROR(
      spec.Bool("errors_are_billed", [&](bool on) { quirks->set_errors_are_billed(on); }));
  TH_RETURN_IF_ERROR(spec.Text("auto_service_tier", quirks->mutable_auto_service_tier()));
  TH_RETURN_IF_ERROR(spec.Take("credential", [&](const YAML::Node& node) {
    return ReadCredential(spec, node, &body.credential);
  }));
  out->body = std::move(body);
  return absl::OkStatus();
}

absl::Status ReadModel(Reader& spec, const std::string& name, Document* out) {
  router::v1::ModelAlias alias;
  alias.set_alias(name);
  TH_RETURN_IF_ERROR(spec.Required("vendor"));
  TH_RETURN_IF_ERROR(spec.Required("model"));
  TH_RETURN_IF_ERROR(spec.Text("vendor", alias.mutable_vendor()));
  TH_RETURN_IF_ERROR(spec.Text("model", alias.mutable_model()));
  TH_RETURN_IF_ERROR(spec.Bool("keep_name", [&](bool on) { alias.set_keep_name(on); }));
  out->body = std::move(alias);
  return absl::OkStatus();
}

// The keys of a price are those of the price book's format, which knows them better than this file.
absl::Status ReadPrice(Reader& spec, const std::string& name, Document* out) {
  std::string vendor;
  std::vector<std::pair<std::string, std::string>> settings;
  TH_RETURN_IF_ERROR(spec.Required("vendor"));
  bool source = false;
  for (const auto& entry : spec.node()) {
    const std::string& key = entry.first.Scalar();
    const auto take = [&](const YAML::Node& value) -> absl::Status {
      TH_ASSIGN_OR_RETURN(std::string text, Reader::Exact(value));
      if (key == "vendor") {
        vendor = std::move(text);
      } else {
        source = source || key == "source";
        settings.emplace_back(key, std::move(text));
      }
      return absl::OkStatus();
    };
    TH_RETURN_IF_ERROR(spec.Take(key, take));
  }
  if (!source) settings.emplace_back("source", kPriceSource);
  TH_ASSIGN_OR_RETURN(out->body, PriceFromSettings(vendor, name, settings));
  return absl::OkStatus();
}

absl::StatusOr<Document> ReadDocument(const YAML::Node& node, const std::string& file) {
  Reader reader(node, file);
  TH_RETURN_IF_ERROR(reader.Check());
  Document document;
  document.where = reader.Where(node);
  std::string kind;
  TH_RETURN_IF_ERROR(reader.Required("kind"));
  TH_RETURN_IF_ERROR(reader.Text("kind", &kind));
  TH_RETURN_IF_ERROR(reader.Required("name"));
  TH_RETURN_IF_ERROR(reader.Text("name", &document.name));
  if (kind == "Route") {
    return reader.Error(node, "kind Route is not supported by this version: requests go by model "
                              "name and provider priority");
  }
  std::vector<std::string> kinds;
  bool found = false;
  for (const auto& [known, name] : kKinds) {
    kinds.emplace_back(name);
    if (kind == name) {
      document.kind = known;
      found = true;
    }
  }
  if (!found) {
    const std::string near = Closest(kind, kinds);
    return reader.Error(node["kind"],
                        absl::StrCat("unknown kind '", kind, "'",
                                     near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?"),
                                     " Known: ", absl::StrJoin(kinds, ", ")));
  }
  if (document.name.empty()) return reader.Error(node, "'name' is empty");
  Reader spec(reader.Has("spec") ? node["spec"] : YAML::Node(YAML::NodeType::Null), file);
  TH_RETURN_IF_ERROR(reader.Finish());
  TH_RETURN_IF_ERROR(spec.Check());
  absl::Status read;
  switch (document.kind) {
    case DocumentKind::kOrganization:
    case DocumentKind::kTeam:
    case DocumentKind::kUser: read = ReadAccount(spec, document.name, document.kind, &document); break;
    case DocumentKind::kKey: read = ReadKey(spec, document.name, &document); break;
    case DocumentKind::kBudget: read = ReadBudget(spec, document.name, &document); break;
    case DocumentKind::kLimit: read = ReadLimit(spec, document.name, &document); break;
    case DocumentKind::kTags: read = ReadTags(spec, document.name, &document); break;
    case DocumentKind::kProvider: read = ReadProvider(spec, document.name, &document); break;
    case DocumentKind::kModel: read = ReadModel(spec, document.name, &document); break;
    case DocumentKind::kPrice: read = ReadPrice(spec, document.name, &document); break;
  }
  if (!read.ok()) {
    // Errors of a field have their line already.
    if (absl::StartsWith(read.message(), file + ":")) return read;
    return reader.Error(node, absl::StrCat(kind, " ", document.name, ": ", read.message()));
  }
  TH_RETURN_IF_ERROR(spec.Finish());
  return document;
}

// --- writing specs -------------------------------------------------------------------------------

void SetText(Value* spec, const char* key, const std::string& text, std::string_view unless = "") {
  if (text != unless) spec->Set(key, text);
}
void SetCount(Value* spec, const char* key, int64_t count, int64_t unless = 0) {
  if (count != unless) spec->Set(key, Value::Number(count));
}
void SetFlag(Value* spec, const char* key, bool on) {
  if (on) spec->Set(key, true);
}
template <typename Items>
void SetItems(Value* spec, const char* key, const Items& items) {
  if (items.empty()) return;
  Value list = Value::List();
  for (const auto& item : items) list.Add(item);
  spec->Set(key, std::move(list));
}
void SetMap(Value* spec, const char* key, const google::protobuf::Map<std::string, std::string>& map) {
  if (map.empty()) return;
  Value object = Value::Object();
  for (const auto& [name, text] : std::map<std::string, std::string>(map.begin(), map.end())) {
    object.Set(name, text);
  }
  spec->Set(key, std::move(object));
}
void SetMoney(Value* spec, const char* key, int64_t nanousd) {
  spec->Set(key, FormatUsd(NanoUsd(nanousd)));
}

struct SpecWriter {
  Value spec = Value::Object();

  void operator()(const ledger::v1::CreateAccountRequest& account) {
    SetText(&spec, "owner", account.owner());
    SetText(&spec, "cost_center", account.cost_center());
    SetMap(&spec, "tags", account.tags());
    SetFlag(&spec, "require_budget", account.require_budget());
  }
  void operator()(const KeySpec& key) {
    SetItems(&spec, "models", key.create.models());
    SetItems(&spec, "providers", key.create.providers());
    SetItems(&spec, "endpoints", key.create.endpoints());
    SetItems(&spec, "networks", key.create.networks());
    SetMap(&spec, "tags", key.create.tags());
    SetText(&spec, "owner", key.create.owner());
    SetText(&spec, "purpose", key.create.purpose());
    SetText(&spec, "expires", key.expires_in);
    if (key.create.has_expires_at()) {
      spec.Set("expires", absl::FormatTime("%Y-%m-%d%ET%H:%M:%E*SZ", GetTime(key.create.expires_at()),
                                           absl::UTCTimeZone()));
    }
    SetFlag(&spec, "disabled", key.disabled);
  }
  void operator()(const ledger::v1::SetBudgetRequest& budget) {
    SetMoney(&spec, "limit", budget.limit_nanousd());
    spec.Set("window", budget.window());
    SetText(&spec, "timezone", budget.time_zone(), "UTC");
    SetText(&spec, "anchor", budget.anchor());
    Value soft = Value::List();
    for (const int32_t percent : budget.soft_pct()) soft.Add(Value::Number(percent));
    if (soft != Value::List({Value::Number(80)})) spec.Set("soft", std::move(soft));
    SetCount(&spec, "hard", budget.hard_pct(), 100);
    SetText(&spec, "mode", budget.mode(), "enforce");
    SetText(&spec, "bound", budget.bound(), "strict");
    SetText(&spec, "on_outage", budget.on_outage(), "closed");
    SetMap(&spec, "match", budget.match());
    SetText(&spec, "for_each", budget.for_each());
    SetText(&spec, "name", budget.name());
  }
  void operator()(const ledger::v1::SetLimitsRequest& limit) {
    SetCount(&spec, "rpm", limit.requests_per_minute());
    SetCount(&spec, "tpm", limit.tokens_per_minute());
    SetCount(&spec, "concurrency", limit.concurrency());
    SetCount(&spec, "max_output_tokens", limit.max_output_tokens());
    if (limit.max_request_cost_nanousd() != 0) {
      SetMoney(&spec, "max_request_cost", limit.max_request_cost_nanousd());
    }
  }
  void operator()(const ledger::v1::SetTagRulesRequest& tags) {
    Value required = Value::List();
    Value allow = Value::Object();
    for (const common::v1::TagRule& rule : tags.rules()) {
      if (rule.required()) required.Add(rule.tag());
      if (!rule.allowed().empty()) SetItems(&allow, rule.tag().c_str(), rule.allowed());
    }
    if (!required.items().empty()) spec.Set("require", std::move(required));
    if (!allow.fields().empty()) spec.Set("allow", std::move(allow));
  }
  void operator()(const ProviderSpec& body) {
    const router::v1::Provider& provider = body.provider;
    const auto url = policy::ParseBaseUrl(provider.base_url());
    const std::string dialect = DialectName(provider.dialect());
    spec.Set("dialect", dialect);
    spec.Set("base_url", url.ok() ? url->ToString() : provider.base_url());
    if (!provider.catalog().empty()) SetText(&spec, "catalog", provider.catalog(), dialect);
    SetFlag(&spec, "allow_private", provider.allow_private());
    SetCount(&spec, "priority", provider.priority());
    SetItems(&spec, "models", provider.models());
    SetText(&spec, "ca_file", provider.ca_file());
    SetFlag(&spec, "no_include_usage", provider.quirks().no_include_usage());
    SetFlag(&spec, "errors_are_billed", provider.quirks().errors_are_billed());
    SetText(&spec, "auto_service_tier", provider.quirks().auto_service_tier());
  }
  void operator()(const router::v1::ModelAlias& alias) {
    spec.Set("vendor", alias.vendor());
    spec.Set("model", alias.model());
    SetFlag(&spec, "keep_name", alias.keep_name());
  }
  void operator()(const router::v1::ModelPrice& price) {
    spec.Set("vendor", price.vendor());
    for (const auto& [key, value] : PriceSettings(price)) {
      if (key != "source" || value != kPriceSource) spec.Set(key, value);
    }
  }
};

int Rank(const Document& document, const std::set<std::string>& keys) {
  switch (document.kind) {
    case DocumentKind::kBudget:
    case DocumentKind::kLimit:
    case DocumentKind::kTags:
      // A key is never usable before the budgets above it are set; its own can only come after it.
      return keys.contains(document.name) ? 100 : 50;
    case DocumentKind::kKey: return 70;
    default: return static_cast<int>(document.kind);
  }
}

}  // namespace

const char* KindName(DocumentKind kind) {
  for (const auto& [known, name] : kKinds) {
    if (known == kind) return name;
  }
  return "";
}

std::string Identity(const Document& document) {
  std::string identity = absl::StrCat(KindName(document.kind), " ", document.name);
  if (const auto* budget = std::get_if<ledger::v1::SetBudgetRequest>(&document.body)) {
    if (!budget->name().empty()) {
      absl::StrAppend(&identity, " name=", budget->name());
    } else {
      absl::StrAppend(&identity, " window=", budget->window());
      for (const auto& [key, value] :
           std::map<std::string, std::string>(budget->match().begin(), budget->match().end())) {
        absl::StrAppend(&identity, " ", key, "=", value);
      }
    }
    if (!budget->for_each().empty()) absl::StrAppend(&identity, " each ", budget->for_each());
  } else if (const auto* price = std::get_if<router::v1::ModelPrice>(&document.body)) {
    absl::StrAppend(&identity, " vendor=", price->vendor());
    if (price->has_effective_from()) {
      absl::StrAppend(&identity, " from=", price->effective_from().seconds());
    }
  } else if (const auto* alias = std::get_if<router::v1::ModelAlias>(&document.body)) {
    absl::StrAppend(&identity, " vendor=", alias->vendor());
  }
  return identity;
}

absl::StatusOr<std::vector<Document>> ParseDocuments(const std::string& text,
                                                     const std::string& file) {
  std::vector<Document> documents;
  try {
    for (const YAML::Node& node : YAML::LoadAll(text)) {
      if (!node.IsDefined() || node.IsNull()) continue;
      TH_ASSIGN_OR_RETURN(Document document, ReadDocument(node, file));
      documents.push_back(std::move(document));
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
  return documents;
}

absl::Status CheckUnique(const std::vector<Document>& documents) {
  std::map<std::string, const Document*> seen;
  for (const Document& document : documents) {
    const auto [first, inserted] = seen.emplace(Identity(document), &document);
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat(document.where, ": ", Identity(document),
                                                     " stands at ", first->second->where, " too"));
    }
  }
  return absl::OkStatus();
}

void SortForApply(std::vector<Document>* documents) {
  std::set<std::string> keys;
  for (const Document& document : *documents) {
    if (document.kind == DocumentKind::kKey) keys.insert(document.name);
  }
  std::stable_sort(documents->begin(), documents->end(), [&](const Document& a, const Document& b) {
    return Rank(a, keys) < Rank(b, keys);
  });
}

Document FromAccount(const ledger::v1::Account& account) {
  ledger::v1::CreateAccountRequest body;
  body.set_path(account.path());
  body.set_kind(account.kind());
  body.set_if_absent(true);
  body.set_owner(account.owner());
  body.set_cost_center(account.cost_center());
  *body.mutable_tags() = account.tags();
  body.set_require_budget(account.require_budget());
  const DocumentKind kind = account.kind() == common::v1::ACCOUNT_KIND_ORG ? DocumentKind::kOrganization
                            : account.kind() == common::v1::ACCOUNT_KIND_TEAM ? DocumentKind::kTeam
                                                                              : DocumentKind::kUser;
  return {kind, account.path(), "", std::move(body)};
}

Document FromKey(const vault::v1::Key& key) {
  KeySpec body;
  const size_t slash = key.path().rfind('/');
  body.create.set_parent_path(key.path().substr(0, slash));
  body.create.set_name(key.path().substr(slash + 1));
  *body.create.mutable_models() = key.models();
  *body.create.mutable_providers() = key.providers();
  *body.create.mutable_endpoints() = key.endpoints();
  *body.create.mutable_networks() = key.networks();
  *body.create.mutable_tags() = key.tags();
  body.create.set_owner(key.owner());
  body.create.set_purpose(key.purpose());
  if (key.has_expires_at()) *body.create.mutable_expires_at() = key.expires_at();
  body.disabled = key.state() == "disabled";
  return {DocumentKind::kKey, key.path(), "", std::move(body)};
}

Document FromBudget(const ledger::v1::Budget& budget) {
  ledger::v1::SetBudgetRequest body;
  body.set_path(budget.path());
  body.set_name(budget.name());
  body.set_limit_nanousd(budget.limit_nanousd());
  body.set_window(budget.window());
  body.set_time_zone(budget.time_zone().empty() ? "UTC" : budget.time_zone());
  body.set_anchor(budget.anchor());
  *body.mutable_soft_pct() = budget.soft_pct();
  body.set_no_soft(budget.soft_pct().empty());
  body.set_hard_pct(budget.hard_pct());
  body.set_mode(budget.mode());
  body.set_bound(budget.bound());
  body.set_on_outage(budget.on_outage());
  *body.mutable_match() = budget.match();
  body.set_for_each(budget.for_each());
  return {DocumentKind::kBudget, budget.path(), "", std::move(body)};
}

Document FromLimits(const ledger::v1::AccountLimits& limits) {
  ledger::v1::SetLimitsRequest body;
  body.set_path(limits.path());
  body.set_requests_per_minute(limits.limits().requests_per_minute());
  body.set_tokens_per_minute(limits.limits().tokens_per_minute());
  body.set_concurrency(limits.limits().concurrency());
  body.set_max_output_tokens(limits.limits().max_output_tokens());
  body.set_max_request_cost_nanousd(limits.limits().max_request_cost_nanousd());
  return {DocumentKind::kLimit, limits.path(), "", std::move(body)};
}

Document FromTagRules(const ledger::v1::AccountTagRules& rules) {
  ledger::v1::SetTagRulesRequest body;
  body.set_path(rules.path());
  *body.mutable_rules() = rules.rules();
  return {DocumentKind::kTags, rules.path(), "", std::move(body)};
}

Document FromProvider(const router::v1::Provider& provider) {
  return {DocumentKind::kProvider, provider.name(), "", ProviderSpec{provider, {}}};
}

Document FromAlias(const router::v1::ModelAlias& alias) {
  return {DocumentKind::kModel, alias.alias(), "", alias};
}

Document FromPrice(const router::v1::ModelPrice& price) {
  return {DocumentKind::kPrice, price.model(), "", price};
}

Value SpecOf(const Document& document) {
  SpecWriter writer;
  std::visit(writer, document.body);
  return std::move(writer.spec);
}

Value ToValue(const Document& document) {
  return Value::Object({{"kind", KindName(document.kind)},
                        {"name", document.name},
                        {"spec", SpecOf(document)}});
}

std::string ToYamlDocuments(const std::vector<Document>& documents) {
  std::string out;
  for (const Document& document : documents) {
    absl::StrAppend(&out, out.empty() ? "" : "---\n", ToYaml(ToValue(document)));
  }
  return out;
}

std::vector<std::string> Differences(const Document& current, const Document& wanted) {
  Value before = SpecOf(current);
  Value after = SpecOf(wanted);
  const auto leave = [&](const char* field) {
    if (after.At(field).is_null() && !before.At(field).is_null()) after.Set(field, before.At(field));
  };
  if (wanted.kind == DocumentKind::kBudget) leave("anchor");
  if (wanted.kind == DocumentKind::kKey) {
    if (!std::get<KeySpec>(wanted.body).expires_in.empty()) after.Remove("expires");
    leave("expires");
  }
  std::vector<std::string> names;
  for (const Value* spec : {&before, &after}) {
    for (const auto& [name, value] : spec->fields()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  const auto shown = [](const Value& value) {
    const std::string text = PlainText(value);
    return text.empty() ? std::string("none") : text;
  };
  std::vector<std::string> differences;
  for (const std::string& name : names) {
    if (before.At(name) == after.At(name)) continue;
    differences.push_back(
        absl::StrCat(name, " ", shown(before.At(name)), " -> ", shown(after.At(name))));
  }
  return differences;
}

}  // namespace tollhouse::tollctl
