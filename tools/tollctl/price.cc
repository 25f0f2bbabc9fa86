// price: the effective-dated price book.
#include <algorithm>
#include <istream>
#include <iterator>
#include <map>
#include <memory>
#include <ostream>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/policy/price_book.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/price_view.h"
#include "tools/tollctl/proto_time.h"

namespace tollhouse::tollctl {
namespace {

using router::v1::ModelPrice;
using Settings = std::vector<std::pair<std::string, std::string>>;

absl::StatusOr<router::v1::ListPricesResponse> Prices(Invocation& in, const std::string& vendor,
                                                      const std::string& model, bool history) {
  router::v1::ListPricesRequest request;
  request.set_vendor(vendor);
  request.set_model(model);
  request.set_history(history);
  return in.api.Call(request);
}

// "": now.
absl::Status SetMoment(const std::string& at, router::v1::ListPricesRequest* request) {
  if (at.empty()) return absl::OkStatus();
  const auto moment = ParseMoment(at, absl::UTCTimeZone());
  if (!moment.ok()) return UsageError(absl::StrCat("--at: ", moment.status().message()));
  SetTime(*moment, request->mutable_at());
  return absl::OkStatus();
}

// Prices of one model in force: of the exact name, or else of what the name may stand for.
absl::Status Show(Invocation& in, const std::string& vendor, const std::string& model,
                  const std::string& at) {
  in.subject = model;
  router::v1::ListPricesRequest request;
  request.set_vendor(vendor);
  request.set_model(model);
  TH_RETURN_IF_ERROR(SetMoment(at, &request));
  TH_ASSIGN_OR_RETURN(auto response, in.api.Call(request));
  google::protobuf::RepeatedPtrField<ModelPrice> exact;
  for (const auto& price : response.prices()) {
    if (price.model() == model) *exact.Add() = price;
  }
  if (!exact.empty()) response.mutable_prices()->Swap(&exact);
  if (response.prices().empty()) {
    return MakeError(absl::StatusCode::kNotFound, "PRICE_NOT_FOUND",
                     absl::StrCat("no price of '", model, "' is in force",
                                  vendor.empty() ? "" : absl::StrCat(" for ", vendor),
                                  "; see: tollctl price list --model '", model.substr(0, 4), "*'"));
  }
  if (!in.IsTable()) {
    in.Print({FromProto(response), "prices", {}});
    return absl::OkStatus();
  }
  for (int i = 0; i < response.prices_size(); ++i) {
    if (i > 0) *in.environment.out << "\n";
    std::vector<Column> columns = {Column::Text("vendor", "vendor"), Column::Text("model", "model")};
    for (const auto& [key, value] : PriceSettings(response.prices(i))) {
      columns.push_back(Column::Cell(key, [value = value](const Value&) { return value; }));
    }
    in.Print({FromProto(response.prices(i)), "", columns, "", "", true});
  }
  return absl::OkStatus();
}

// What of `before` is different in `after`: "input 2.5 -> 3, output -> 12".
std::string Differences(const ModelPrice& before, const ModelPrice& after) {
  const Settings old_settings = PriceSettings(before);
  const Settings new_settings = PriceSettings(after);
  const std::map<std::string, std::string> old_map(old_settings.begin(), old_settings.end());
  const std::map<std::string, std::string> new_map(new_settings.begin(), new_settings.end());
  std::vector<std::string> parts;
  for (const auto& [key, value] : new_map) {
    const auto found = old_map.find(key);
    if (found == old_map.end()) parts.push_back(absl::StrCat(key, " -> ", value));
    else if (found->second != value) parts.push_back(absl::StrCat(key, " ", found->second, " -> ", value));
  }
  for (const auto& [key, value] : old_map) {
    if (!new_map.contains(key)) parts.push_back(absl::StrCat(key, " ", value, " -> gone"));
  }
  return absl::StrJoin(parts, ", ");
}

absl::StatusOr<policy::PriceBook> ReadPrices(Invocation& in, const std::string& path) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(*in.environment.in), {});
  } else {
    TH_ASSIGN_OR_RETURN(text, ReadFile(path));
  }
  auto book = ParsePriceFile(text);
  if (!book.ok()) {
    return MakeError(book.status().code(), "BAD_PRICE",
                     absl::StrCat(path, ": ", book.status().message()));
  }
  return book;
}

absl::Status Import(Invocation& in, const std::string& path, bool dry_run) {
  TH_ASSIGN_OR_RETURN(const auto book, ReadPrices(in, path));
  router::v1::ImportPricesRequest request;
  request.set_dry_run(dry_run);
  request.mutable_prices()->Assign(book.prices.begin(), book.prices.end());
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  for (const auto& alias : book.aliases) {
    if (dry_run) break;
    router::v1::SetAliasRequest set;
    *set.mutable_alias() = alias;
    TH_RETURN_IF_ERROR(in.api.Call(set).status());
  }
  in.Print({FromProto(response), "",
            {Column::Count(dry_run ? "Would be added" : "Added", "added"),
             Column::Count(dry_run ? "Would change" : "Changed", "changed"),
             Column::Count("Unchanged", "unchanged"),
             Column::Text("Price book", "price_book_version")},
            "", "", true});
  return absl::OkStatus();
}

absl::Status Diff(Invocation& in, const std::string& path) {
  TH_ASSIGN_OR_RETURN(const auto read, ReadPrices(in, path));
  TH_ASSIGN_OR_RETURN(const auto book, Prices(in, "", "", true));
  using Id = std::tuple<std::string, std::string, int64_t>;
  const auto id = [](const ModelPrice& price) {
    return Id(price.vendor(), price.model(),
              price.has_effective_from() ? price.effective_from().seconds() : INT64_MIN);
  };
  std::map<Id, const ModelPrice*> known;
  for (const auto& price : book.prices()) known[id(price)] = &price;
  Value rows = Value::List();
  for (const ModelPrice& price : read.prices) {
    const auto found = known.find(id(price));
    const std::string changes =
        found == known.end() ? "" : Differences(*found->second, price);
    if (found != known.end() && changes.empty()) continue;
    rows.Add(Value::Object({{"vendor", price.vendor()},
                            {"model", price.model()},
                            {"difference", found == known.end() ? "new" : "changed"},
                            {"changes", found == known.end()
                                            ? absl::StrCat(price.rates_size(), " rates")
                                            : changes}}));
  }
  in.Print({Value::Object({{"differences", rows}, {"price_book_version", book.price_book_version()}}),
            "differences",
            {Column::Text("VENDOR", "vendor"), Column::Text("MODEL", "model"),
             Column::Text("DIFFERENCE", "difference"), Column::Text("CHANGES", "changes")},
            "", "the price book has all of it already"});
  return absl::OkStatus();
}

void AddSet(Noun& noun) {
  struct Args {
    std::string model;
    std::string vendor;
    std::string from = "now";
    Settings settings;
    bool only = false;
    bool dry_run = false;
  };
  auto args = std::make_shared<Args>();
  const auto setting = [&](const char* key) {
    return [args, key](std::string_view text) -> absl::Status {
      args->settings.emplace_back(key, std::string(text));
      return absl::OkStatus();
    };
  };
  noun.AddVerb("set", "Sets prices of a model from a moment on; what is not named stays")
      .Describe("Amounts are USD per million tokens. --set takes any key of the price book's format,\n"
                "like --set batch.input=1.25 or --set 'input>200k=5'.")
      .Positional("MODEL", Into(&args->model), "catalogue name; '*' for an org's factor on all")
      .Required("--vendor", "V", Into(&args->vendor),
                "vendor of the price book, like openai; acme:openai for what org acme pays")
      .Option("--input-price", "USD", setting("input"), "per million input tokens")
      .Option("--output-price", "USD", setting("output"), "per million output tokens")
      .Option("--cache-read-price", "USD", setting("cache_read"), "per million cached input tokens")
      .Option("--cache-write-5m-price", "USD", setting("cache_write_5m"), "per million tokens written")
      .Option("--cache-write-1h-price", "USD", setting("cache_write_1h"), "per million tokens written")
      .Option("--max-input", "N", setting("max_input"), "tokens of the context window")
      .Option("--max-output", "N", setting("max_output"), "tokens of an answer")
      .Option("--mode", "M", setting("mode"), "chat, responses, embedding or completion")
      .Option("--set", "KEY=VALUE", [args](std::string_view text) -> absl::Status {
                TH_ASSIGN_OR_RETURN(auto pair, ParseTag(text));
                args->settings.push_back(std::move(pair));
                return absl::OkStatus();
              },
              "any other setting, repeatable")
      .Option("--from", "WHEN", Into(&args->from),
              "in force from: now (default), always, a UTC date or an RFC 3339 time")
      .Flag("--only", &args->only, "forget what the price in force says besides")
      .Flag("--dry-run", &args->dry_run, "only say what would change")
      .Example("tollctl price set my-model --vendor openai --input-price 2.50 --output-price 10 "
               "--max-input 128000 --max-output 16384")
      .Example("tollctl price set gpt-4o --vendor openai --input-price 2 --from 2026-12-01")
      .Example("tollctl price set gpt-4o --vendor acme:openai --input-price 2 --output-price 8")
      .Example("tollctl price set '*' --vendor acme:openai --set x.contract=0.85")
      .Run([=](Invocation& in) -> absl::Status {
        if (args->settings.empty()) return UsageError("nothing to set: give --input-price, --output-price, ...");
        TH_ASSIGN_OR_RETURN(const auto current, Prices(in, args->vendor, args->model, false));
        std::map<std::string, std::string> merged;
        if (!args->only && current.prices_size() == 1) {
          for (auto& [key, value] : PriceSettings(current.prices(0))) merged[key] = value;
        }
        merged["source"] = "tollctl";
        for (const auto& [key, value] : args->settings) merged[key] = value;
        merged.erase("from");
        if (args->from == "now") {
          merged["from"] = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", in.Now(), absl::UTCTimeZone());
        } else if (args->from != "always") {
          merged["from"] = args->from;
        }
        const auto price = PriceFromSettings(args->vendor, args->model,
                                             {merged.begin(), merged.end()});
        if (!price.ok()) return UsageError(Std(price.status().message()));
        router::v1::ImportPricesRequest request;
        request.set_dry_run(args->dry_run);
        *request.add_prices() = *price;
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
        in.TellStragglers(response.stragglers());
        if (args->dry_run) in.Tell("nothing was changed (--dry-run); this would be the price:");
        in.Print({Value::Object({{"price", FromProto(*price)},
                                 {"price_book_version", response.price_book_version()}}),
                  "price", PriceColumns("", in.Now())});
        return absl::OkStatus();
      });
}

}  // namespace

void RegisterPrice(CommandLine& commands) {
  Noun& noun = commands.AddNoun("price", "The price book: what tokens of each model cost")
                   .Alias("prices");
  struct ListArgs {
    router::v1::ListPricesRequest request;
    std::string at;
    bool history = false;
  };
  auto list = std::make_shared<ListArgs>();
  noun.AddVerb("list", "Lists prices in force")
      .Option("--vendor", "V", Into(list->request.mutable_vendor()), "only this vendor")
      .Option("--model", "M", Into(list->request.mutable_model()), "only this model, or 'prefix*'")
      .Option("--at", "WHEN", Into(&list->at), "a date or RFC 3339 time; default now")
      .Flag("--history", &list->history, "all dates, not only what is in force")
      .Example("tollctl price list --vendor openai --model 'gpt-4o*'")
      .Run([=](Invocation& in) -> absl::Status {
        TH_RETURN_IF_ERROR(SetMoment(list->at, &list->request));
        list->request.set_history(list->history);
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(list->request));
        in.Print({FromProto(response), "prices", PriceColumns("", in.Now()), "",
                  "no prices fit; the names are those of the catalogue, like --model 'gpt-4o*'"});
        return absl::OkStatus();
      });

  struct ShowArgs {
    std::string model;
    std::string vendor;
    std::string at;
  };
  auto show = std::make_shared<ShowArgs>();
  noun.AddVerb("show", "Shows every rate of one model's price in force")
      .Positional("MODEL", Into(&show->model), "catalogue name")
      .Option("--vendor", "V", Into(&show->vendor), "where several vendors have the model")
      .Option("--at", "WHEN", Into(&show->at), "a date or RFC 3339 time; default now")
      .Example("tollctl price show gpt-4o --vendor openai")
      .Example("tollctl price show gpt-5.6-luna --at 2026-07-01")
      .Example("tollctl price show gpt-4o --vendor acme:openai")
      .Run([=](Invocation& in) { return Show(in, show->vendor, show->model, show->at); });
  AddSet(noun);

  auto imported = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);
  noun.AddVerb("import", "Adds or replaces prices from a file; all of them or none")
      .Describe("The file is in the price book's format (lines `price VENDOR MODEL input=2.50 ...`)\n"
                "or JSON as `tollctl price list --output json` prints it; - reads stdin. Its alias lines are\n"
                "set too.")
      .Positional("FILE", Into(imported.get()), "the file, or -")
      .Flag("--dry-run", dry_run.get(), "only count what would change")
      .Example("tollctl price import contract-prices.txt --dry-run")
      .Run([=](Invocation& in) { return Import(in, *imported, *dry_run); });

  auto compared = std::make_shared<std::string>();
  noun.AddVerb("diff", "Compares a price file with the price book, rate by rate")
      .Positional("FILE", Into(compared.get()), "the file, or -")
      .Example("tollctl price diff contract-prices.txt")
      .Run([=](Invocation& in) { return Diff(in, *compared); });

  auto ceiling = std::make_shared<router::v1::SetCeilingRequest>();
  noun.AddVerb("ceiling", "Sets what models without a price cost; both 0: they are refused")
      .Required("--input-price", "USD",
                IntoAmount([=](int64_t n) { ceiling->set_input_nanousd_per_mtok(n); }),
                "per million input tokens")
      .Required("--output-price", "USD",
                IntoAmount([=](int64_t n) { ceiling->set_output_nanousd_per_mtok(n); }),
                "per million output tokens")
      .Example("tollctl price ceiling --input-price 30 --output-price 120")
      .Run([=](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*ceiling));
        in.TellStragglers(response.stragglers());
        in.Print({FromProto(*ceiling), "",
                  {Column::Money("Input $/M", "input_nanousd_per_mtok"),
                   Column::Money("Output $/M", "output_nanousd_per_mtok")},
                  "", "", true});
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
