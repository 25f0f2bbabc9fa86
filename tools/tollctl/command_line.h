// The grammar of the command line: nouns, verbs, their options, and the help made from them.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/tollctl/parse.h"

namespace tollhouse::tollctl {

struct Invocation;

// What stands before or after the noun of every command.
struct GlobalFlags {
  std::string server;      // ADDR, or ledger=ADDR,router=ADDR,vault=ADDR,enforcer=ADDR
  std::string token_file;
  std::string data_dir;    // of tollhoused: endpoints.json and admin.token
  std::string context;
  std::string server_ca;   // PEM bundle for https:// servers
  std::string output = "table";
  absl::Duration timeout;  // zero: the default of the command
};

// One verb of a noun. The pointers behind its setters must live as long as the verb, so handlers
// own them by shared_ptr.
class Verb {
 public:
  Verb(std::string name, std::string summary)
      : name_(std::move(name)), summary_(std::move(summary)) {}

  // An argument by position.
  Verb& Positional(std::string name, Setter set, std::string help);
  Verb& OptionalPositional(std::string name, Setter set, std::string help);
  // "--limit" with a value; `value_name` is for the help. Required() must be given.
  Verb& Option(std::string flag, std::string value_name, Setter set, std::string help);
  Verb& Required(std::string flag, std::string value_name, Setter set, std::string help);
  // "--dry-run", without a value.
  Verb& Flag(std::string flag, bool* target, std::string help);
  // More about the verb, below its summary.
  Verb& Describe(std::string text);
  // A whole command line that shows how it is used.
  Verb& Example(std::string line);
  Verb& Run(std::function<absl::Status(Invocation&)> run);

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }

 private:
  friend class CommandLine;
  struct Argument {
    std::string name;  // "PATH" or "--limit"
    std::string value_name;
    Setter set;
    std::string help;
    bool required = false;
    bool* flag = nullptr;
  };

  std::string name_;
  std::string summary_;
  std::string description_;
  std::vector<Argument> positionals_;
  std::vector<Argument> options_;
  std::vector<std::string> examples_;
  std::function<absl::Status(Invocation&)> run_;
};

// A noun with verbs, or a command without ("apply"), which is its only verb, named "".
class Noun {
 public:
  Noun(std::string name, std::string summary)
      : name_(std::move(name)), summary_(std::move(summary)) {}

  Verb& AddVerb(std::string name, std::string summary);
  // Other words for the noun ("orgs" for "org").
  Noun& Alias(std::string alias);

 private:
  friend class CommandLine;
  std::string name_;
  std::string summary_;
  std::vector<std::string> aliases_;
  std::deque<Verb> verbs_;
};

class CommandLine {
 public:
  // A command that was recognized: run it, or print the text.
  struct Selection {
    GlobalFlags flags;
    std::string noun;
    std::string verb;
    std::function<absl::Status(Invocation&)> run;  // null: `text` is the answer (help, version)
    std::string text;
  };

  Noun& AddNoun(std::string name, std::string summary);

  // Parses the arguments after the program's name and calls the setters of the chosen verb. Usage
  // errors say what to write instead.
  absl::StatusOr<Selection> Parse(const std::vector<std::string>& args) const;

  std::string Overview() const;
  // Names of nouns and their verbs, one "noun verb" per line, for shell completion.
  std::string Words() const;

 private:
  const Noun* Find(std::string_view name) const;
  std::string NounHelp(const Noun& noun) const;
  static std::string VerbHelp(const Noun& noun, const Verb& verb);

  std::deque<Noun> nouns_;
};

}  // namespace tollhouse::tollctl
