#include "tools/tollctl/price_view.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/policy/price_book.h"
#include "tollhouse/router/v1/router_admin.pb.h"

namespace tollhouse::tollctl {
namespace {

// The standard rate of a class without steps, in dollars per million tokens; "" if not stated.
std::string RateText(const Value& price, std::string_view token_class) {
  for (const Value& rate : price.At("rates").items()) {
    if (rate.At("token_class").text() == token_class &&
        rate.At("tier").text() == "SERVICE_TIER_STANDARD" &&
        rate.At("above_input_tokens").number() == 0) {
      return absl::StrCat("$", FormatUsd(NanoUsd(rate.At("nanousd_per_mtok").number())));
    }
  }
  return "";
}

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string Unquoted(std::string_view text) {
  if (text.size() < 2 || text.front() != '"') return std::string(text);
  std::string out;
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    if (text[i] == '\\') ++i;
    out += text[i];
  }
  return out;
}

}  // namespace

std::vector<Column> PriceColumns(const std::string& prefix, absl::Time now) {
  const auto price_of = [prefix](const Value& row) -> const Value& {
    return prefix.empty() ? row : row.At(prefix.substr(0, prefix.size() - 1));
  };
  const auto rate = [&](std::string title, std::string token_class) {
    Column column = Column::Cell(std::move(title), [=](const Value& row) {
      return RateText(price_of(row), token_class);
    });
    column.right = true;
    return column;
  };
  const auto tokens = [&](std::string title, std::string field) {
    Column column = Column::Cell(std::move(title), [=](const Value& row) {
      const int64_t count = price_of(row).At(field).number();
      return count == 0 ? std::string() : CountText(count);
    });
    column.right = true;
    return column;
  };
  return {Column::Text("VENDOR", prefix + "vendor"),
          Column::Text("MODEL", prefix + "model"),
          rate("INPUT $/M", "TOKEN_CLASS_INPUT"),
          rate("OUTPUT $/M", "TOKEN_CLASS_OUTPUT"),
          rate("CACHE READ", "TOKEN_CLASS_CACHE_READ").IfAny(),
          tokens("CONTEXT", "max_input_tokens"),
          tokens("MAX OUTPUT", "max_output_tokens"),
          Column::Text("MODE", prefix + "mode"),
          Column::Cell("MORE", [=](const Value& row) -> std::string {
            const size_t rates = price_of(row).At("rates").items().size();
            return rates > 3 ? absl::StrCat(rates, " rates") : "";
          }).IfAny(),
          Column::Time("IN FORCE", prefix + "effective_from", now).IfAny()};
}

std::vector<std::pair<std::string, std::string>> PriceSettings(
    const router::v1::ModelPrice& price) {
  const std::string line = policy::FormatPrice(price);
  std::vector<std::pair<std::string, std::string>> settings;
  std::string_view rest = line;
  for (int words = 0; !rest.empty(); ++words) {
    size_t end = 0;
    bool quoted = false;
    for (; end < rest.size() && (quoted || rest[end] != ' '); ++end) {
      // As in the format: quotes open a string right after '=' only.
      if (quoted && rest[end] == '\\') {
        ++end;
      } else if (rest[end] == '"' && (quoted || (end > 0 && rest[end - 1] == '=' &&
                                                 rest.substr(0, end).find('{') ==
                                                     std::string_view::npos))) {
        quoted = !quoted;
      }
    }
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (words < 3) continue;  // price VENDOR MODEL
    const size_t equals = word.find('=');
    settings.emplace_back(word.substr(0, equals), Unquoted(word.substr(equals + 1)));
  }
  return settings;
}

absl::StatusOr<router::v1::ModelPrice> PriceFromSettings(
    std::string_view vendor, std::string_view model,
    const std::vector<std::pair<std::string, std::string>>& settings) {
  for (const std::string_view name : {vendor, model}) {
    if (name.empty() || name.find_first_of(" \"\t\r\n") != std::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", Absl(name), "' is not the name of a vendor or model"));
    }
  }
  std::string line = absl::StrCat("price ", Absl(vendor), " ", Absl(model));
  for (const auto& [key, value] : settings) {
    if (std::any_of(value.begin(), value.end(),
                    [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); }) ||
        key.find_first_of(" =\"\t\r\n") != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("bad setting '", key, "'"));
    }
    absl::StrAppend(&line, " ", key, "=",
                    absl::StartsWith(value, "{") && !absl::StrContains(value, " ") ? value
                                                                                   : Quoted(value));
  }
  auto book = policy::ParsePriceBook(line);
  if (!book.ok()) {
    absl::string_view why = book.status().message();
    absl::ConsumePrefix(&why, "line 1: ");
    return absl::InvalidArgumentError(why);
  }
  return book->prices[0];
}

absl::StatusOr<policy::PriceBook> ParsePriceFile(const std::string& text) {
  if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{")) {
    router::v1::ListPricesResponse list;
    const auto parsed = google::protobuf::util::JsonStringToMessage(text, &list);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "not prices in JSON as `tollctl price list --output json` prints them: ",
          parsed.message().ToString()));
    }
    return policy::PriceBook{{list.prices().begin(), list.prices().end()}, {}};
  }
  return policy::ParsePriceBook(text);
}

}  // namespace tollhouse::tollctl
