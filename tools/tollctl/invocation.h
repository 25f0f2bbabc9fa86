// What a verb works with: the services, the user's terminal, and the ways to answer.
#pragma once

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libs/base/clock.h"
#include "tools/tollctl/api.h"
#include "tools/tollctl/settings.h"
#include "tools/tollctl/table.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// The outside of the program, so that tests own it.
struct Environment {
  GetEnv env;
  std::istream* in = nullptr;
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  bool in_is_terminal = false;
  bool err_is_terminal = false;
  const Clock* clock = nullptr;
};

// What a command answers. All formats are made from `document`.
struct Report {
  Value document;
  std::string rows;              // field of `document` that is the rows or the one row; "": all of it
  std::vector<Column> columns;   // of the table
  std::string total;             // field of `document` with the total row; "": none
  std::string empty;             // said on stderr instead of a table without rows
  bool details = false;          // the table of a single row is shown as "Name: value" lines
};

struct Invocation {
  Environment& environment;
  Api& api;
  GlobalFlags flags;
  std::string subject;  // path or name that the command is about, for errors
  int exit_code = 0;  // of a command that answered, but with bad news

  absl::Time Now() const { return environment.clock->Wall(); }
  bool IsTable() const { return flags.output == "table"; }

  // In the chosen format, to stdout.
  void Print(const Report& report);
  // A line to stderr.
  void Tell(std::string_view line);
  // Names the subscribers that have not confirmed a change, on stderr; nothing if all have.
  template <typename Names>
  void TellStragglers(const Names& names) {
    TellStragglers(std::vector<std::string>(names.begin(), names.end()));
  }
  void TellStragglers(const std::vector<std::string>& names);
  // Before something is destroyed. Ok if `yes`, or if the user types yes at a terminal. Without a
  // terminal nobody can be asked: what was named itself (`scope` kNamed) goes on, what takes more
  // with it than was named needs --yes. FAILED_PRECONDITION (NOT_CONFIRMED) otherwise. `what` is a
  // whole sentence without the question: "this deletes acme/payments".
  enum class Scope { kNamed, kMore };
  absl::Status Confirm(bool yes, Scope scope, std::string_view what);
};

// Shows on stderr that a call takes long: a line after one second, kept up to date on a terminal.
// The thread that prints ends with End().
class Progress final : public CallObserver {
 public:
  Progress(std::ostream* err, bool terminal);
  ~Progress() override;
  void Begin(const std::string& what) override;
  void Note(const std::string& text) override;
  void End() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The whole program, after the arguments' program name; returns the exit code.
int RunTollctl(const std::vector<std::string>& args, Environment& environment);

}  // namespace tollhouse::tollctl
