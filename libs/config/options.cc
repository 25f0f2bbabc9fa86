#include "libs/config/options.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/base/status_macros.h"

namespace tollhouse::config {
namespace {

std::string YamlKey(const std::string& name) { return absl::StrReplaceAll(name, {{"-", "_"}}); }
std::string Environment(const std::string& name) {
  return absl::StrCat("TOLLHOUSE_", absl::AsciiStrToUpper(YamlKey(name)));
}

}  // namespace

Options::Options(std::string program, std::string summary, std::string examples)
    : program_(std::move(program)), summary_(std::move(summary)), examples_(std::move(examples)) {}

void Options::Add(std::string name, std::string* value, std::string help, bool secret) {
  options_.push_back({std::move(name), std::move(help), secret, false,
                      [value](const std::string& text) {
                        *value = text;
                        return absl::OkStatus();
                      },
                      [value] { return *value; }});
}

template <typename Int>
void Options::AddNumber(std::string name, Int* value, std::string help) {
  options_.push_back({std::move(name), std::move(help), false, false,
                      [value](const std::string& text) {
                        return absl::SimpleAtoi(text, value)
                                   ? absl::OkStatus()
                                   : absl::InvalidArgumentError("not a whole number");
                      },
                      [value] { return absl::StrCat(*value); }});
}

void Options::Add(std::string name, int64_t* value, std::string help) {
  AddNumber(std::move(name), value, std::move(help));
}
void Options::Add(std::string name, int* value, std::string help) {
  AddNumber(std::move(name), value, std::move(help));
}
void Options::Add(std::string name, uint64_t* value, std::string help) {
  AddNumber(std::move(name), value, std::move(help));
}

void Options::Add(std::string name, bool* value, std::string help) {
  options_.push_back({std::move(name), std::move(help), false, true,
                      [value](const std::string& text) {
                        return absl::SimpleAtob(text, value)
                                   ? absl::OkStatus()
                                   : absl::InvalidArgumentError("not true or false");
                      },
                      [value] { return *value ? "true" : "false"; }});
}

void Options::Add(std::string name, absl::Duration* value, std::string help) {
  options_.push_back({std::move(name), std::move(help), false, false,
                      [value](const std::string& text) {
                        return absl::ParseDuration(text, value)
                                   ? absl::OkStatus()
                                   : absl::InvalidArgumentError("not a duration like 250ms, 30s or 24h");
                      },
                      [value] { return absl::FormatDuration(*value); }});
}

Options::Option* Options::Find(const std::string& name) {
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [&](const Option& option) { return option.name == name; });
  return found == options_.end() ? nullptr : &*found;
}

absl::Status Options::Set(Option& option, const std::string& value, const std::string& origin) {
  const absl::Status status = option.set(value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(
      origin, ": ", status.message(), option.secret ? "" : absl::StrCat(": '", value, "'")));
}

absl::Status Options::ReadFile(const std::string& path, std::vector<std::string>& given) {
  YAML::Node root;
  try {
    root = YAML::LoadFile(path);
  } catch (const YAML::BadFile&) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.what()));
  }
  if (!root.IsMap() && !root.IsNull()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected `key: value` lines"));
  }
  for (const auto& entry : root) {
    const std::string key = entry.first.as<std::string>();
    const std::string origin = absl::StrCat(path, ":", entry.first.Mark().line + 1, ": ", key);
    Option* const option = Find(absl::StrReplaceAll(key, {{"_", "-"}}));
    if (option == nullptr || YamlKey(option->name) != key) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": unknown key"));
    }
    if (!entry.second.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": expected one value"));
    }
    if (std::find(given.begin(), given.end(), option->name) != given.end()) continue;
    TH_RETURN_IF_ERROR(Set(*option, entry.second.Scalar(), origin));
  }
  return absl::OkStatus();
}

absl::StatusOr<Options::Outcome> Options::Parse(int argc, const char* const* argv) {
  std::string file;
  bool check = false, print = false;
  std::vector<std::string> given;
  if (const char* value = std::getenv("TOLLHOUSE_CONFIG")) file = value;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      output_ = Help();
      return Outcome::kExitOk;
    }
    if (argument == "--version") {
      output_ = absl::StrCat(program_, " 0.1.0\n");
      return Outcome::kExitOk;
    }
    if (argument == "--check-config" || argument == "--print-config") {
      (argument == "--check-config" ? check : print) = true;
      continue;
    }
    std::string value;
    const size_t equals = argument.find('=');
    const bool has_value = equals != std::string::npos;
    if (has_value) {
      value = argument.substr(equals + 1);
      argument.resize(equals);
    }
    Option* const option = argument.rfind("--", 0) == 0 ? Find(argument.substr(2)) : nullptr;
    if (option == nullptr && argument != "--config") {
      return absl::InvalidArgumentError(absl::StrCat("unknown argument ", argument, "; see ", program_, " --help"));
    }
    if (option != nullptr && option->secret) {
      return absl::InvalidArgumentError(absl::StrCat(argument, " is a secret: set it in the file or as ",
                                                     Environment(option->name)));
    }
    if (!has_value) {
      if (option != nullptr && option->is_bool) {
        value = "true";
      } else if (++i < argc) {
        value = argv[i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat(argument, " needs a value"));
      }
    }
    if (option == nullptr) {
      file = value;
      continue;
    }
    TH_RETURN_IF_ERROR(Set(*option, value, argument));
    given.push_back(option->name);
  }
  for (Option& option : options_) {
    if (std::find(given.begin(), given.end(), option.name) != given.end()) continue;
    const std::string variable = Environment(option.name);
    if (const char* value = std::getenv(variable.c_str())) {
      TH_RETURN_IF_ERROR(Set(option, value, variable));
      given.push_back(option.name);
    }
  }
  if (!file.empty()) TH_RETURN_IF_ERROR(ReadFile(file, given));
  if (check_ != nullptr) TH_RETURN_IF_ERROR(check_());
  if (print) output_ = Print();
  if (check) output_ += "configuration is valid\n";
  return check || print ? Outcome::kExitOk : Outcome::kRun;
}

std::string Options::Help() const {
  std::string help = absl::StrCat(program_, " - ", summary_, "\n\nUsage: ", program_, " [--flag value ...]\n\n");
  for (const Option& option : options_) {
    const std::string name = option.secret ? Environment(option.name) : "--" + option.name;
    const std::string value = option.secret ? "" : option.print();
    absl::StrAppend(&help, "  ", name, std::string(name.size() < 26 ? 26 - name.size() : 1, ' '), option.help,
                    value.empty() ? "" : absl::StrCat(" [", value, "]"), "\n");
  }
  absl::StrAppend(&help,
                  "  --config FILE             YAML with the same options (edge_listen: ...)\n"
                  "  --check-config            check the configuration and exit\n"
                  "  --print-config            print it, secrets redacted, and exit\n"
                  "  --help, --version\n\n"
                  "Flags win over the environment (TOLLHOUSE_EDGE_LISTEN), that over the file.\n\n",
                  examples_);
  return help;
}

std::string Options::Print() const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const Option& option : options_) {
    const std::string value = option.print();
    out << YAML::Key << YamlKey(option.name) << YAML::Value
        << (option.secret && !value.empty() ? "(redacted)" : value);
  }
  out << YAML::EndMap;
  return absl::StrCat(out.c_str(), "\n");
}

}  // namespace tollhouse::config
