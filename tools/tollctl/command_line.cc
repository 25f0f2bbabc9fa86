#include "tools/tollctl/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {
namespace {

struct GlobalOption {
  const char* flag;
  const char* value_name;
  const char* help;
};
constexpr GlobalOption kGlobalOptions[] = {
    {"--server", "ADDR", "host:port of all services, or ledger=..,router=..,vault=..,enforcer=.."},
    {"--token-file", "FILE", "file with the admin token"},
    {"--data-dir", "DIR", "data directory of tollhoused: reads its endpoints.json and admin.token"},
    {"--context", "NAME", "use this context instead of the current one"},
    {"--server-ca", "FILE", "PEM bundle that vouches for an https:// server"},
    {"--output", "FORMAT", "table (default), json, yaml or csv; also -o"},
    {"--timeout", "SPAN", "deadline of each call, like 30s (default) or 5m"},
};

bool IsGlobal(std::string_view flag) {
  if (flag == "-o") return true;
  return std::any_of(std::begin(kGlobalOptions), std::end(kGlobalOptions),
                     [&](const GlobalOption& option) { return flag == option.flag; });
}

bool IsHelp(std::string_view arg) { return arg == "--help" || arg == "-h"; }

std::string Indented(const std::vector<std::pair<std::string, std::string>>& rows) {
  constexpr size_t kMaxWidth = 34;
  size_t width = 0;
  for (const auto& [left, right] : rows) {
    if (left.size() <= kMaxWidth) width = std::max(width, left.size());
  }
  std::string out;
  for (const auto& [left, right] : rows) {
    if (left.size() > width) {
      absl::StrAppend(&out, "  ", left, "\n  ", std::string(width, ' '), "  ", right, "\n");
    } else {
      absl::StrAppend(&out, "  ", left, std::string(width - left.size(), ' '), "  ", right, "\n");
    }
  }
  return out;
}

std::string GlobalHelp() {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const GlobalOption& option : kGlobalOptions) {
    rows.emplace_back(absl::StrCat(option.flag, " ", option.value_name), option.help);
  }
  return absl::StrCat("Everywhere:\n", Indented(rows));
}

std::string CommandName(std::string_view noun, std::string_view verb) {
  return absl::StrCat("tollctl ", Absl(noun), verb.empty() ? "" : " ", Absl(verb));
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& known) {
  const std::string near = Closest(word, known);
  return near.empty() ? "." : absl::StrCat("; did you mean '", near, "'?");
}

}  // namespace

Verb& Verb::Positional(std::string name, Setter set, std::string help) {
  positionals_.push_back({std::move(name), "", std::move(set), std::move(help), true, nullptr});
  return *this;
}

Verb& Verb::OptionalPositional(std::string name, Setter set, std::string help) {
  positionals_.push_back({std::move(name), "", std::move(set), std::move(help), false, nullptr});
  return *this;
}

Verb& Verb::Option(std::string flag, std::string value_name, Setter set, std::string help) {
  options_.push_back({std::move(flag), std::move(value_name), std::move(set), std::move(help),
                      false, nullptr});
  return *this;
}

Verb& Verb::Required(std::string flag, std::string value_name, Setter set, std::string help) {
  Option(std::move(flag), std::move(value_name), std::move(set), std::move(help));
  options_.back().required = true;
  return *this;
}

Verb& Verb::Flag(std::string flag, bool* target, std::string help) {
  options_.push_back({std::move(flag), "", nullptr, std::move(help), false, target});
  return *this;
}

Verb& Verb::Describe(std::string text) {
  description_ = std::move(text);
  return *this;
}

Verb& Verb::Example(std::string line) {
  examples_.push_back(std::move(line));
  return *this;
}

Verb& Verb::Run(std::function<absl::Status(Invocation&)> run) {
  run_ = std::move(run);
  return *this;
}

Verb& Noun::AddVerb(std::string name, std::string summary) {
  return verbs_.emplace_back(std::move(name), std::move(summary));
}

Noun& Noun::Alias(std::string alias) {
  aliases_.push_back(std::move(alias));
  return *this;
}

Noun& CommandLine::AddNoun(std::string name, std::string summary) {
  return nouns_.emplace_back(std::move(name), std::move(summary));
}

const Noun* CommandLine::Find(std::string_view name) const {
  for (const Noun& noun : nouns_) {
    if (noun.name_ == name || std::find(noun.aliases_.begin(), noun.aliases_.end(), name) !=
                                  noun.aliases_.end()) {
      return &noun;
    }
  }
  return nullptr;
}

std::string CommandLine::Overview() const {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Noun& noun : nouns_) rows.emplace_back(noun.name_, noun.summary_);
  return absl::StrCat(
      "tollctl administers Tollhouse: accounts, keys, budgets, providers, prices, spend.\n\n"
      "Usage: tollctl NOUN VERB [ARGUMENTS] [OPTIONS]\n\nNouns:\n",
      Indented(rows), "\n", GlobalHelp(),
      "\nWithout --server: TOLLHOUSE_SERVER and TOLLHOUSE_TOKEN_FILE, or a context.\n"
      "Examples:\n"
      "  tollctl --data-dir ./data org create acme\n"
      "  tollctl budget set acme/payments --limit 800 --window month\n"
      "  tollctl spend acme --by team,model --since 30d\n"
      "\n`tollctl NOUN --help` lists the verbs of a noun, `tollctl NOUN VERB --help` explains one.\n");
}

std::string CommandLine::Words() const {
  std::string out;
  for (const Noun& noun : nouns_) {
    for (const Verb& verb : noun.verbs_) {
      absl::StrAppend(&out, noun.name_, verb.name_.empty() ? "" : " ", verb.name_, "\n");
    }
  }
  return out;
}

std::string CommandLine::NounHelp(const Noun& noun) const {
  std::vector<std::pair<std::string, std::string>> rows;
  std::string examples;
  for (const Verb& verb : noun.verbs_) {
    rows.emplace_back(verb.name_, verb.summary_);
    if (!verb.examples_.empty()) absl::StrAppend(&examples, "  ", verb.examples_[0], "\n");
  }
  return absl::StrCat(noun.summary_, ".\n\nUsage: ", CommandName(noun.name_, "VERB"), "\n\nVerbs:\n",
                      Indented(rows), examples.empty() ? "" : "\nExamples:\n", examples, "\n",
                      GlobalHelp());
}

std::string CommandLine::VerbHelp(const Noun& noun, const Verb& verb) {
  std::string usage = CommandName(noun.name_, verb.name_);
  std::vector<std::pair<std::string, std::string>> arguments;
  std::vector<std::pair<std::string, std::string>> options;
  for (const Verb::Argument& argument : verb.positionals_) {
    const std::string shown = argument.required ? argument.name
                                                : absl::StrCat("[", argument.name, "]");
    absl::StrAppend(&usage, " ", shown);
    arguments.emplace_back(argument.name, argument.help);
  }
  for (const Verb::Argument& option : verb.options_) {
    if (option.required) absl::StrAppend(&usage, " ", option.name, " ", option.value_name);
    options.emplace_back(absl::StrCat(option.name, option.value_name.empty() ? "" : " ",
                                      option.value_name),
                         absl::StrCat(option.help, option.required ? " (required)" : ""));
  }
  return absl::StrCat(
      verb.summary_, ".\n", verb.description_.empty() ? "" : "\n", verb.description_,
      verb.description_.empty() ? "" : "\n", "\nUsage: ", usage, options.empty() ? "" : " [OPTIONS]",
      "\n", arguments.empty() ? "" : "\nArguments:\n", Indented(arguments),
      options.empty() ? "" : "\nOptions:\n", Indented(options),
      verb.examples_.empty() ? "" : "\nExamples:\n",
      absl::StrJoin(verb.examples_, "",
                    [](std::string* out, const std::string& line) {
                      absl::StrAppend(out, "  ", line, "\n");
                    }),
      "\n", GlobalHelp());
}

absl::StatusOr<CommandLine::Selection> CommandLine::Parse(
    const std::vector<std::string>& args) const {
  Selection selection;
  // The noun and the verb are the first words that are neither global options nor their values;
  // whatever else there is belongs to the verb.
  std::vector<std::string> rest;
  const Noun* noun = nullptr;
  const Verb* verb = nullptr;
  bool help = false;
  size_t at = 0;
  for (; at < args.size() && verb == nullptr; ++at) {
    const std::string& arg = args[at];
    if (IsHelp(arg)) {
      help = true;
    } else if (arg == "--version" && noun == nullptr) {
      selection.text = "tollctl " TOLLHOUSE_VERSION "\n";
      return selection;
    } else if (absl::StartsWith(arg, "-") && arg.size() > 1) {
      const bool joined = absl::StrContains(arg, "=");
      const std::string flag = arg.substr(0, arg.find('='));
      if (!IsGlobal(flag)) {
        return UsageError(absl::StrCat(
            "option '", flag, "' stands before the verb; only options that hold everywhere may, "
            "write: tollctl NOUN VERB ", flag));
      }
      rest.push_back(arg);
      if (!joined) {
        if (at + 1 == args.size()) return UsageError(absl::StrCat(flag, " needs a value"));
        rest.push_back(args[++at]);
      }
    } else if (noun == nullptr) {
      if (arg == "help") {
        help = true;
        continue;
      }
      noun = Find(arg);
      if (noun == nullptr) {
        std::vector<std::string> names;
        for (const Noun& known : nouns_) names.push_back(known.name_);
        return UsageError(absl::StrCat("unknown command '", arg, "'", DidYouMean(arg, names),
                                       " `tollctl` alone lists all"));
      }
      if (noun->verbs_.size() == 1 && noun->verbs_[0].name_.empty()) verb = &noun->verbs_[0];
    } else {
      std::vector<std::string> names;
      for (const Verb& known : noun->verbs_) {
        if (known.name_ == arg) verb = &known;
        names.push_back(known.name_);
      }
      if (verb == nullptr) {
        return UsageError(absl::StrCat("'", noun->name_, "' has no verb '", arg, "'",
                                       DidYouMean(arg, names), " It has: ",
                                       absl::StrJoin(names, ", ")));
      }
    }
  }
  for (; at < args.size(); ++at) {
    if (args[at] == "--") {
      rest.insert(rest.end(), args.begin() + static_cast<int64_t>(at), args.end());
      break;
    }
    if (IsHelp(args[at])) help = true;
    rest.push_back(args[at]);
  }
  if (noun == nullptr) {
    selection.text = Overview();
    return selection;
  }
  if (help) {
    selection.text = verb != nullptr ? VerbHelp(*noun, *verb) : NounHelp(*noun);
    return selection;
  }
  if (verb == nullptr) {
    return UsageError(absl::StrCat("what about '", noun->name_, "'? Its verbs:\n\n",
                                   NounHelp(*noun)));
  }

  const std::string command = CommandName(noun->name_, verb->name_);
  CLI::App app;
  app.set_help_flag();
  GlobalFlags& flags = selection.flags;
  std::vector<std::pair<CLI::Option*, Setter>> bindings;
  std::vector<std::string> known_flags;
  std::vector<std::unique_ptr<std::vector<std::string>>> values;  // where CLI11 puts its texts
  const auto bind = [&](const std::string& name, Setter set, bool required, bool repeatable) {
    values.push_back(std::make_unique<std::vector<std::string>>());
    CLI::Option* option = app.add_option(name, *values.back());
    option->type_size(1)->expected(1)->allow_extra_args(false);
    option->multi_option_policy(repeatable ? CLI::MultiOptionPolicy::TakeAll
                                           : CLI::MultiOptionPolicy::Throw);
    option->required(required);
    bindings.emplace_back(option, std::move(set));
  };
  bind("--server", Into(&flags.server), false, false);
  bind("--token-file", Into(&flags.token_file), false, false);
  bind("--data-dir", Into(&flags.data_dir), false, false);
  bind("--context", Into(&flags.context), false, false);
  bind("--server-ca", Into(&flags.server_ca), false, false);
  bind("-o,--output", IntoChoice({"table", "json", "yaml", "csv"}, &flags.output), false, false);
  bind("--timeout", IntoSpan(&flags.timeout), false, false);
  for (const GlobalOption& option : kGlobalOptions) known_flags.emplace_back(option.flag);
  for (const Verb::Argument& argument : verb->positionals_) {
    bind(argument.name, argument.set, argument.required, false);
  }
  for (const Verb::Argument& option : verb->options_) {
    known_flags.push_back(option.name);
    if (option.flag != nullptr) {
      app.add_flag(option.name, *option.flag);
    } else {
      bind(option.name, option.set, option.required, true);
    }
  }
  try {
    std::reverse(rest.begin(), rest.end());  // as CLI::App::parse takes them
    app.parse(rest);
  } catch (const CLI::ParseError& error) {
    // An unknown option first: it is often the misspelt required one.
    for (const std::string& extra : app.remaining()) {
      const std::string flag = extra.substr(0, extra.find('='));
      if (absl::StartsWith(flag, "-")) {
        return UsageError(absl::StrCat(command, " has no option '", flag, "'",
                                       DidYouMean(flag, known_flags), " See: ", command,
                                       " --help"));
      }
    }
    if (!app.remaining().empty()) {
      return UsageError(absl::StrCat("unexpected argument '", app.remaining().front(),
                                     "'. See: ", command, " --help"));
    }
    return UsageError(absl::StrCat(error.what(), ". See: ", command, " --help"));
  }
  for (size_t i = 0; i < bindings.size(); ++i) {
    for (const std::string& text : *values[i]) {
      const absl::Status set = bindings[i].second(text);
      if (!set.ok()) {
        return UsageError(absl::StrCat(bindings[i].first->get_name(), ": ",
                                       set.message(), ". See: ", command, " --help"));
      }
    }
  }
  selection.noun = noun->name_;
  selection.verb = verb->name_;
  selection.run = verb->run_;
  return selection;
}

}  // namespace tollhouse::tollctl
