// context: named servers in the user's configuration.
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/invocation.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {
namespace {

std::string Absolute(const std::string& path) {
  return path.empty() ? "" : std::filesystem::absolute(path).lexically_normal().string();
}

absl::Status Set(Invocation& in, const std::string& name, bool use) {
  if (in.flags.server.empty() && in.flags.data_dir.empty()) {
    return UsageError("a context needs --server HOST:PORT, or --data-dir DIR");
  }
  TH_ASSIGN_OR_RETURN(ContextFile file, LoadContexts(in.environment.env));
  Context context{in.flags.server, Absolute(in.flags.token_file), Absolute(in.flags.server_ca)};
  if (!in.flags.data_dir.empty()) {
    if (context.token_file.empty()) context.token_file = Absolute(in.flags.data_dir + "/admin.token");
    if (context.server.empty()) {
      GlobalFlags flags;
      flags.data_dir = in.flags.data_dir;
      TH_ASSIGN_OR_RETURN(const Target target, ResolveTarget(flags, in.environment.env));
      context.server = target.addresses.begin()->second;
    }
  }
  TH_RETURN_IF_ERROR(ParseServer(context.server).status());
  file.contexts[name] = context;
  if (use || file.current.empty()) file.current = name;
  TH_RETURN_IF_ERROR(SaveContexts(file));
  in.Tell(absl::StrCat("context ", name, " -> ", context.server, " in ", file.path,
                       file.current == name ? " (current)" : ""));
  return absl::OkStatus();
}

absl::Status Use(Invocation& in, const std::string& name) {
  TH_ASSIGN_OR_RETURN(ContextFile file, LoadContexts(in.environment.env));
  if (!file.contexts.contains(name)) {
    std::vector<std::string> names;
    for (const auto& [known, context] : file.contexts) names.push_back(known);
    const std::string near = Closest(name, names);
    return absl::NotFoundError(absl::StrCat(
        "context '", name, "' does not exist; ",
        near.empty() ? "" : absl::StrCat("did you mean '", near, "'? "),
        "make it with: tollctl context set ", name, " --server HOST:PORT --token-file FILE"));
  }
  file.current = name;
  TH_RETURN_IF_ERROR(SaveContexts(file));
  in.Tell(absl::StrCat("now using context ", name));
  return absl::OkStatus();
}

absl::Status Delete(Invocation& in, const std::string& name) {
  TH_ASSIGN_OR_RETURN(ContextFile file, LoadContexts(in.environment.env));
  if (file.contexts.erase(name) == 0) {
    return absl::NotFoundError(
        absl::StrCat("context '", name, "' does not exist; see: tollctl context list"));
  }
  if (file.current == name) file.current.clear();
  TH_RETURN_IF_ERROR(SaveContexts(file));
  in.Tell(absl::StrCat("context ", name, " is gone; its server is as it was"));
  return absl::OkStatus();
}

absl::Status List(Invocation& in) {
  TH_ASSIGN_OR_RETURN(const ContextFile file, LoadContexts(in.environment.env));
  Value rows = Value::List();
  for (const auto& [name, context] : file.contexts) {
    rows.Add(Value::Object({{"name", name},
                            {"current", name == file.current},
                            {"server", context.server},
                            {"token_file", context.token_file},
                            {"server_ca", context.server_ca}}));
  }
  in.Print({Value::Object({{"contexts", rows}}), "contexts",
            {Column::Cell("", [](const Value& row) {
               return std::string(row.At("current").number() != 0 ? "*" : "");
             }),
             Column::Text("NAME", "name"), Column::Text("SERVER", "server"),
             Column::Text("TOKEN FILE", "token_file"), Column::Text("CA", "server_ca").IfAny()},
            "", "no contexts yet; make one with: tollctl context set NAME --server HOST:PORT "
                "--token-file FILE"});
  return absl::OkStatus();
}

}  // namespace

void RegisterContext(CommandLine& commands) {
  Noun& noun = commands.AddNoun("context", "Named servers in your configuration").Alias("contexts");
  auto set = std::make_shared<std::string>();
  auto use = std::make_shared<bool>(false);
  noun.AddVerb("set", "Makes or replaces a context; the first one becomes current")
      .Positional("NAME", Into(set.get()), "like prod")
      .Flag("--use", use.get(), "make it current")
      .Example("tollctl context set prod --server tollhouse.acme.example:9900 --token-file ~/prod.token")
      .Example("tollctl context set local --data-dir ./data")
      .Run([=](Invocation& in) { return Set(in, *set, *use); });

  auto used = std::make_shared<std::string>();
  noun.AddVerb("use", "Makes a context current")
      .Positional("NAME", Into(used.get()), "its name")
      .Example("tollctl context use prod")
      .Run([=](Invocation& in) { return Use(in, *used); });

  noun.AddVerb("list", "Lists contexts; * marks the current one")
      .Example("tollctl context list")
      .Run([](Invocation& in) { return List(in); });

  auto deleted = std::make_shared<std::string>();
  noun.AddVerb("delete", "Forgets a context; the server and its token file stay")
      .Positional("NAME", Into(deleted.get()), "its name")
      .Example("tollctl context delete prod")
      .Run([=](Invocation& in) { return Delete(in, *deleted); });
}

}  // namespace tollhouse::tollctl
