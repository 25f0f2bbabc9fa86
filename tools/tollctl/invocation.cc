#include "tools/tollctl/invocation.h"

#include <condition_variable>
#include <istream>
#include <mutex>
#include <ostream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "tools/tollctl/advice.h"
#include "tools/tollctl/nouns.h"

namespace tollhouse::tollctl {

void Invocation::Print(const Report& report) {
  std::ostream& out = *environment.out;
  if (flags.output == "json") {
    out << ToJson(report.document);
    return;
  }
  if (flags.output == "yaml") {
    out << ToYaml(report.document);
    return;
  }
  const Value& named = report.rows.empty() ? report.document : report.document.At(report.rows);
  const std::vector<Value> rows = named.kind() == Value::Kind::kObject ? std::vector<Value>{named}
                                                                       : named.items();
  if (flags.output == "csv") {
    if (rows.empty()) {
      // Still a table: its header, as far as the columns name fields.
      Value header = Value::Object();
      for (const Column& column : report.columns) {
        if (!column.path.empty()) header.Set(column.path, "");
      }
      const std::string text = ToCsv({header});
      out << text.substr(0, text.find('\n') + 1);
      return;
    }
    out << ToCsv(rows);
    return;
  }
  if (rows.empty() && !report.empty.empty()) Tell(report.empty);
  if (rows.empty() && report.total.empty()) return;
  if (report.details && rows.size() == 1) {
    out << RenderDetails(report.columns, rows[0]);
  } else {
    out << RenderTable(report.columns, rows,
                       report.total.empty() ? Value() : report.document.At(report.total));
  }
}

void Invocation::Tell(std::string_view line) { *environment.err << line << "\n"; }

void Invocation::TellStragglers(const std::vector<std::string>& names) {
  if (names.empty()) return;
  Tell(absl::StrCat("warning: not confirmed yet by ", absl::StrJoin(names, ", "),
                    "; it takes effect there when they are back in touch"));
}

absl::Status Invocation::Confirm(bool yes, Scope scope, std::string_view what) {
  if (yes) return absl::OkStatus();
  if (!environment.in_is_terminal) {
    if (scope == Scope::kNamed) return absl::OkStatus();
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_CONFIRMED",
                     absl::StrCat(Absl(what), ", which needs --yes when nobody can be asked "
                                  "(--dry-run shows what would happen)"));
  }
  *environment.err << what << ". Type yes to go on: " << std::flush;
  std::string answer;
  std::getline(*environment.in, answer);
  if (absl::StripAsciiWhitespace(answer) == "yes") return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_CONFIRMED",
                   "nothing was changed: it was not confirmed");
}

struct Progress::State {
  std::ostream* const err;
  const bool terminal;
  std::mutex mutex;
  std::condition_variable changed;
  // Under mutex:
  std::string what;
  std::string note;
  bool running = false;
  std::thread printer;

  void Loop() {
    std::unique_lock lock(mutex);
    const auto start = std::chrono::steady_clock::now();
    bool shown = false;
    auto wait = std::chrono::milliseconds(1000);
    while (!changed.wait_for(lock, wait, [&] { return !running; })) {
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
                               std::chrono::steady_clock::now() - start).count();
      const std::string line = absl::StrCat(what, ": ", note, note.empty() ? "" : ", ", seconds, " s");
      if (terminal) {
        *err << "\r\x1b[K" << line << std::flush;
        wait = std::chrono::milliseconds(250);
      } else {
        *err << line << "\n" << std::flush;
        wait = std::chrono::milliseconds(10000);
      }
      shown = true;
    }
    if (shown && terminal) *err << "\r\x1b[K" << std::flush;
  }
};

Progress::Progress(std::ostream* err, bool terminal) : state_(new State{err, terminal}) {}

Progress::~Progress() { End(); }

void Progress::Begin(const std::string& what) {
  End();
  state_->what = what;
  state_->note.clear();
  state_->running = true;
  state_->printer = std::thread([this] { state_->Loop(); });
}

void Progress::Note(const std::string& text) {
  const std::lock_guard lock(state_->mutex);
  state_->note = text;
}

void Progress::End() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->running = false;
  }
  state_->changed.notify_all();
  if (state_->printer.joinable()) state_->printer.join();
}

int RunTollctl(const std::vector<std::string>& args, Environment& environment) {
  CommandLine commands;
  RegisterNouns(commands);
  auto selection = commands.Parse(args);
  if (!selection.ok()) {
    *environment.err << "tollctl: " << selection.status().message() << "\n";
    return 2;
  }
  if (!selection->run) {
    *environment.out << selection->text;
    return 0;
  }
  Progress progress(environment.err, environment.err_is_terminal);
  Api api([&] { return ResolveTarget(selection->flags, environment.env); },
          selection->flags.timeout, &progress);
  Invocation invocation{environment, api, selection->flags};
  absl::Status status = selection->run(invocation);
  environment.out->flush();
  if (!status.ok()) {
    status = WithAdvice(std::move(status), invocation.subject, api);
    *environment.err << "tollctl: " << status.message() << "\n";
    return IsUsageError(status) ? 2 : 1;
  }
  if (!*environment.out) {
    *environment.err << "tollctl: cannot write the answer to stdout\n";
    return 1;
  }
  return invocation.exit_code;
}

}  // namespace tollhouse::tollctl
