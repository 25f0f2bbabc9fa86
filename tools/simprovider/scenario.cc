#include "tools/simprovider/scenario.h"

#include <simdjson.h>

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/simprovider/json_text.h"

namespace tollhouse::simprovider {
namespace {

constexpr int64_t kMaxNumber = 100'000'000;

constexpr std::array<std::pair<std::string_view, Fault>, 9> kFaults = {{
    {"cut", Fault::kCut},
    {"cut_before_head", Fault::kCutBeforeHead},
    {"no_usage", Fault::kNoUsage},
    {"hang", Fault::kHang},
    {"malformed", Fault::kMalformed},
    {"html", Fault::kHtml},
    {"gigantic", Fault::kGigantic},
    {"gzip", Fault::kGzip},
    {"error_midstream", Fault::kErrorMidstream},
}};

absl::Status BadDirective(std::string_view key, std::string_view value, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("directive ", Absl(key), "=", Absl(value), ": ", Absl(why)));
}

absl::Status ApplyOne(std::string_view key, std::string_view value, Script* script) {
  if (key == "fault") return SetFault(value, script);
  if (key == "tool") {
    script->tool = value;
    return absl::OkStatus();
  }
  if (key == "on_disconnect") {
    if (value != "stop" && value != "continue") return BadDirective(key, value, "stop or continue");
    script->continue_on_disconnect = value == "continue";
    return absl::OkStatus();
  }
  if (key == "bill") {
    if (value != "yes" && value != "no") return BadDirective(key, value, "yes or no");
    script->bill = value == "yes";
    return absl::OkStatus();
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(Absl(value), &number) || number < 0 || number > kMaxNumber) {
    return BadDirective(key, value, "unknown key, or not a number from 0 to 100000000");
  }
  if (key == "output" || key == "output_exact") {
    script->output = number;
    script->output_exact = key == "output_exact";
  } else if (key == "input" || key == "input_exact") {
    script->input = number;
    script->input_exact = key == "input_exact";
  } else if (key == "chunks") {
    script->chunks = number;
  } else if (key == "chunk_delay_ms") {
    script->chunk_delay_ms = number;
  } else if (key == "latency_ms") {
    script->latency_ms = number;
  } else if (key == "jitter_ms") {
    script->jitter_ms = number;
  } else if (key == "cut_after") {
    script->cut_after = number;
  } else if (key == "cached") {
    script->cached = number;
  } else if (key == "cache_write") {
    script->cache_write_5m = number;
  } else if (key == "searches") {
    script->searches = number;
  } else if (key == "cache_write_1h") {
    script->cache_write_1h = number;
  } else if (key == "reasoning") {
    script->reasoning = number;
  } else if (key == "retry_after") {
    script->retry_after = number;
  } else if (key == "status") {
    if (number < 200 || number > 599) return BadDirective(key, value, "200 to 599");
    script->status = number;
  } else if (key == "size_mb") {
    if (number > 1024) return BadDirective(key, value, "at most 1024");
    script->size_mb = number;
  } else if (key == "hang_ms") {
    script->hang_ms = number;
  } else {
    return BadDirective(key, value, "unknown key");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SetFault(std::string_view name, Script* script) {
  int status = 0;
  Fault fault = Fault::kNone;
  if (absl::SimpleAtoi(Absl(name), &status) && status >= 400 && status <= 599) {
    fault = Fault::kStatus;
  } else {
    status = 0;
    for (const auto& [known, value] : kFaults) {
      if (name == known) fault = value;
    }
  }
  if (fault == Fault::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown fault '", Absl(name),
                     "'; use 400..599, cut, cut_before_head, no_usage, hang, malformed, html, "
                     "gigantic, gzip or error_midstream"));
  }
  script->fault = fault;
  script->fault_status = status;
  script->fault_name = name;
  return absl::OkStatus();
}

absl::Status ApplyDirectives(std::string_view directives, Script* script) {
  for (const absl::string_view item :
       absl::StrSplit(Absl(directives), absl::ByAnyChar(" \t\n"), absl::SkipEmpty())) {
    const size_t equals = item.find('=');
    if (equals == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("directive '", item, "' is not key=value"));
    }
    TH_RETURN_IF_ERROR(ApplyOne(Std(item.substr(0, equals)), Std(item.substr(equals + 1)), script));
  }
  return absl::OkStatus();
}

void CollectDirectives(std::string_view text, std::string* directives) {
  constexpr std::string_view kOpen = "[[sim ";
  constexpr std::string_view kClose = "]]";
  size_t at = 0;
  while ((at = text.find(kOpen, at)) != std::string_view::npos) {
    at += kOpen.size();
    const size_t end = text.find(kClose, at);
    if (end == std::string_view::npos) return;
    if (!directives->empty()) directives->push_back(' ');
    directives->append(text.substr(at, end - at));
    at = end;
  }
}

absl::Status FaultInjector::Set(std::string_view json) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(json.data(), json.size()).get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("not a JSON object");
  }
  FaultInjector next;
  for (const auto field : object) {
    int64_t number = 0;
    std::string_view text;
    simdjson::dom::array list;
    if (field.key == "rate" && field.value.is_number()) {
      next.rate_ = double(field.value);
    } else if (field.key == "faults" && field.value.get(list) == simdjson::SUCCESS) {
      for (const simdjson::dom::element item : list) {
        if (item.get(text) != simdjson::SUCCESS) {
          return absl::InvalidArgumentError("faults: a list of strings");
        }
        next.faults_.emplace_back(text);
      }
    } else if (field.key == "seed" && field.value.get(number) == simdjson::SUCCESS) {
      next.seed_ = static_cast<uint64_t>(number);
    } else if (field.key == "count" && field.value.get(number) == simdjson::SUCCESS) {
      next.left_ = number;
    } else if (field.key == "with" && field.value.get(text) == simdjson::SUCCESS) {
      next.with_ = text;
    } else if (field.key == "model" && field.value.get(text) == simdjson::SUCCESS) {
      next.model_ = text;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown field or wrong type: ", Absl(field.key)));
    }
  }
  if (!(next.rate_ >= 0 && next.rate_ <= 1)) return absl::InvalidArgumentError("rate: 0 to 1");
  if (next.faults_.empty()) return absl::InvalidArgumentError("faults: name at least one");
  Script probe;
  for (const std::string& fault : next.faults_) TH_RETURN_IF_ERROR(SetFault(fault, &probe));
  TH_RETURN_IF_ERROR(ApplyDirectives(next.with_, &probe));
  next.random_.seed(next.seed_);
  *this = std::move(next);
  return absl::OkStatus();
}

void FaultInjector::Clear() { *this = FaultInjector(); }

void FaultInjector::Draw(std::string_view model, Script* script) {
  if (faults_.empty() || left_ == 0 || script->fault != Fault::kNone) return;
  if (!model_.empty() && model != model_) return;
  // Two draws per request, whatever comes out, so that a request's fate depends on its place alone.
  const double roll = static_cast<double>(random_() >> 11) * 0x1.0p-53;
  const std::string& fault = faults_[random_() % faults_.size()];
  if (roll >= rate_) return;
  // Both were checked by Set.
  if (!SetFault(fault, script).ok() || !ApplyDirectives(with_, script).ok()) return;
  ++injected_;
  if (left_ > 0) --left_;
}

std::string FaultInjector::Json() const {
  std::string out = absl::StrCat("{\"rate\":", rate_, ",\"faults\":[");
  for (size_t i = 0; i < faults_.size(); ++i) {
    if (i > 0) out.push_back(',');
    AppendJsonString(faults_[i], &out);
  }
  absl::StrAppend(&out, "],\"seed\":", seed_, ",\"injected\":", injected_, ",\"left\":", left_,
                  ",\"with\":");
  AppendJsonString(with_, &out);
  out.append(",\"model\":");
  AppendJsonString(model_, &out);
  out.append("}\n");
  return out;
}

}  // namespace tollhouse::simprovider
