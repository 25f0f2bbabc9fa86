// model: what the configured providers serve, and aliases.
#include <memory>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/from_proto.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"
#include "tools/tollctl/price_view.h"

namespace tollhouse::tollctl {
namespace {

absl::Status SetAlias(Invocation& in, const router::v1::SetAliasRequest& request) {
  in.subject = request.alias().model();
  TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(request));
  in.TellStragglers(response.stragglers());
  in.Print({Value::Object({{"alias", FromProto(request.alias())}, {"removed", request.remove()}}),
            "alias",
            {Column::Text("Alias", "alias"), Column::Text("Vendor", "vendor").IfAny(),
             Column::Text("Model", "model").IfAny(),
             Column::Cell("Result", [&](const Value&) {
               return std::string(request.remove() ? "removed" : "set");
             })},
            "", "", true});
  return absl::OkStatus();
}

}  // namespace

void RegisterModel(CommandLine& commands) {
  Noun& noun = commands.AddNoun("model", "Models that the providers serve, and aliases")
                   .Alias("models");
  auto list = std::make_shared<router::v1::ListModelsRequest>();
  noun.AddVerb("list", "Lists the models that the configured providers serve, with their prices")
      .Option("--provider", "NAME", Into(list->mutable_provider()), "only this provider")
      .Example("tollctl model list --provider openai")
      .Run([=](Invocation& in) -> absl::Status {
        in.subject = list->provider();
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(*list));
        const std::string none =
            list->provider().empty()
                ? "no models: add a provider with: tollctl provider set NAME --dialect openai "
                  "--base-url URL"
                : absl::StrCat(list->provider(), " serves no models; see: tollctl provider list");
        std::vector<Column> columns = PriceColumns("price.", in.Now());
        columns[0] = Column::Text("PROVIDER", "provider");
        in.Print({Value::Object({{"models", ListFromProto(response.models())}}), "models", columns,
                  "", none});
        return absl::OkStatus();
      });

  noun.AddVerb("aliases", "Lists other names for models, and the ceiling of unpriced ones")
      .Example("tollctl model aliases")
      .Run([](Invocation& in) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const auto response, in.api.Call(router::v1::ListAliasesRequest()));
        in.Print({FromProto(response), "aliases",
                  {Column::Text("ALIAS", "alias"), Column::Text("VENDOR", "vendor"),
                   Column::Text("MODEL", "model"),
                   Column::Cell("SENT AS", [](const Value& row) {
                     return row.At(row.At("keep_name").number() != 0 ? "alias" : "model").text();
                   })},
                  "", "no aliases; set one with: tollctl model alias NAME --vendor V --model M"});
        return absl::OkStatus();
      });

  auto set = std::make_shared<router::v1::SetAliasRequest>();
  auto keep_name = std::make_shared<bool>(false);
  noun.AddVerb("alias", "Makes or changes another name for a model")
      .Positional("NAME", Into(set->mutable_alias()->mutable_alias()), "what requests say")
      .Required("--vendor", "V", Into(set->mutable_alias()->mutable_vendor()),
                "vendor of the price book")
      .Required("--model", "M", Into(set->mutable_alias()->mutable_model()), "what is meant")
      .Flag("--keep-name", keep_name.get(), "send NAME to the provider, only price it as the model")
      .Example("tollctl model alias fast --vendor openai --model gpt-4o-mini")
      .Run([=](Invocation& in) {
        set->mutable_alias()->set_keep_name(*keep_name);
        return SetAlias(in, *set);
      });

  auto removed = std::make_shared<router::v1::SetAliasRequest>();
  auto yes = std::make_shared<bool>(false);
  noun.AddVerb("unalias", "Removes an alias")
      .Positional("NAME", Into(removed->mutable_alias()->mutable_alias()), "the alias")
      .Flag("--yes", yes.get(), "do not ask")
      .Example("tollctl model unalias fast --yes")
      .Run([=](Invocation& in) -> absl::Status {
        TH_RETURN_IF_ERROR(in.Confirm(
            *yes, Invocation::Scope::kNamed, absl::StrCat("this removes the alias ", removed->alias().alias())));
        // Several vendors may have an alias of this name; each goes.
        TH_ASSIGN_OR_RETURN(const auto aliases, in.api.Call(router::v1::ListAliasesRequest()));
        removed->set_remove(true);
        bool found = false;
        for (const auto& alias : aliases.aliases()) {
          if (alias.alias() != removed->alias().alias()) continue;
          found = true;
          *removed->mutable_alias() = alias;
          TH_RETURN_IF_ERROR(SetAlias(in, *removed));
        }
        if (!found) in.Tell(absl::StrCat(removed->alias().alias(), " is no alias; nothing to do"));
        return absl::OkStatus();
      });
}

}  // namespace tollhouse::tollctl
