// Configuration of a program: flag > environment > YAML file > default.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tollhouse::config {

// Options are named like their flag ("edge-listen"): the environment variable is
// TOLLHOUSE_EDGE_LISTEN, the YAML key edge_listen. Unknown YAML keys and flags are errors.
class Options {
 public:
  // `program` and `summary` head the --help text; `examples` ends it.
  Options(std::string program, std::string summary, std::string examples);

  // Registers an option; the variable's value is the default. Secrets are redacted when printed and
  // are not accepted as flags.
  void Add(std::string name, std::string* value, std::string help, bool secret = false);
  void Add(std::string name, int64_t* value, std::string help);
  void Add(std::string name, int* value, std::string help);
  void Add(std::string name, uint64_t* value, std::string help);
  void Add(std::string name, bool* value, std::string help);
  // "250ms", "30s", "24h", "inf".
  void Add(std::string name, absl::Duration* value, std::string help);

  // What must hold of all values together; the last step of Parse, also for --check-config.
  void SetCheck(std::function<absl::Status()> check) { check_ = std::move(check); }

  // Reads flags, environment and the file of --config. What to do next:
  enum class Outcome { kRun, kExitOk };
  // kExitOk after --help, --version, --check-config and --print-config, whose text is in output().
  // InvalidArgument for anything wrong, naming the option and where it was set.
  absl::StatusOr<Outcome> Parse(int argc, const char* const* argv);

  const std::string& output() const { return output_; }

 private:
  struct Option {
    std::string name;
    std::string help;
    bool secret;
    bool is_bool;
    std::function<absl::Status(const std::string&)> set;
    std::function<std::string()> print;
  };

  template <typename Int>
  void AddNumber(std::string name, Int* value, std::string help);
  Option* Find(const std::string& name);
  absl::Status Set(Option& option, const std::string& value, const std::string& origin);
  absl::Status ReadFile(const std::string& path, std::vector<std::string>& given);
  std::string Help() const;
  std::string Print() const;

  const std::string program_, summary_, examples_;
  std::vector<Option> options_;
  std::function<absl::Status()> check_;
  std::string output_;
};

}  // namespace tollhouse::config
