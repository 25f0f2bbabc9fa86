#include "tools/tollctl/settings.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {
namespace {

constexpr Service kServices[] = {Service::kLedger, Service::kRouter, Service::kVault,
                                 Service::kEnforcer};

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string ConfigPath(const GetEnv& env) {
  if (const std::string path = env("TOLLHOUSE_CONFIG"); !path.empty()) return path;
  if (const std::string base = env("XDG_CONFIG_HOME"); !base.empty()) {
    return base + "/tollhouse/config.yaml";
  }
  const std::string home = env("HOME");
  return (home.empty() ? "." : home) + "/.config/tollhouse/config.yaml";
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  TH_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::string token(absl::StripAsciiWhitespace(text));
  if (token.empty() || token.find_first_of(" \r\n\t") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' does not hold one admin token"));
  }
  return token;
}

absl::StatusOr<std::string> AdminAddress(const std::string& data_dir) {
  const std::string path = data_dir + "/endpoints.json";
  auto text = ReadFile(path);
  if (!text.ok()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_SERVER",
                     absl::StrCat("no ", path, ": start it with: tollhoused --data-dir ", data_dir));
  }
  try {
    const YAML::Node root = YAML::Load(*text);  // JSON is YAML
    if (root["admin"]) return root["admin"].as<std::string>();
  } catch (const YAML::Exception&) {
  }
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' names no \"admin\" address"));
}

absl::Status FirstAddress(Target* target, const std::string& server, const std::string& origin) {
  if (server.empty() || !target->addresses.empty()) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(target->addresses, ParseServer(server));
  target->origin = origin;
  return absl::OkStatus();
}

absl::Status FirstToken(Target* target, const std::string& file) {
  if (file.empty() || !target->token.empty()) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(target->token, ReadToken(file));
  return absl::OkStatus();
}

absl::Status FirstCa(Target* target, const std::string& file) {
  if (file.empty() || !target->server_ca.empty()) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(target->server_ca, ReadFile(file));
  return absl::OkStatus();
}

absl::Status NoServer(const GetEnv& env) {
  std::string message =
      "no server is named: give --server HOST:PORT and --token-file FILE, set TOLLHOUSE_SERVER and "
      "TOLLHOUSE_TOKEN_FILE, or make a context with: tollctl context set NAME --server HOST:PORT "
      "--token-file FILE";
  if (Exists("endpoints.json") && Exists("admin.token")) {
    message = "no server is named, but this directory belongs to a tollhoused; use it with: "
              "tollctl --data-dir . ...";
  }
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_SERVER", message);
}

}  // namespace

const char* ServiceName(Service service) {
  switch (service) {
    case Service::kLedger: return "ledger";
    case Service::kRouter: return "router";
    case Service::kVault: return "vault";
    case Service::kEnforcer: return "enforcer";
  }
  return "";
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (!in || (in.peek(), in.bad()) || std::filesystem::is_directory(path)) {
    const int error = errno;
    const std::string message = absl::StrCat("cannot read '", path, "'",
                                             error != 0 ? ": " : "",
                                             error != 0 ? std::strerror(error) : "");
    return error == EACCES ? absl::PermissionDeniedError(message) : absl::NotFoundError(message);
  }
  text << in.rdbuf();
  return text.str();
}

absl::StatusOr<std::map<Service, std::string>> ParseServer(std::string_view text) {
  std::map<Service, std::string> addresses;
  if (text.find('=') == std::string_view::npos) {
    if (text.find(',') != std::string_view::npos) {
      return UsageError(absl::StrCat("'", Absl(text),
                                     "' is neither HOST:PORT nor ledger=HOST:PORT,router=..."));
    }
    for (const Service service : kServices) addresses[service] = std::string(text);
    return addresses;
  }
  for (const absl::string_view part : absl::StrSplit(Absl(text), ',')) {
    const std::vector<std::string> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    bool known = false;
    for (const Service service : kServices) {
      if (pair.size() == 2 && !pair[1].empty() &&
          absl::StripAsciiWhitespace(pair[0]) == ServiceName(service)) {
        std::string& listed = addresses[service];
        absl::StrAppend(&listed, listed.empty() ? "" : ",", pair[1]);
        known = true;
      }
    }
    if (!known) {
      return UsageError(absl::StrCat(
          "'", part, "' does not name a service; write ledger=HOST:PORT,router=HOST:PORT,",
          "vault=HOST:PORT,enforcer=HOST:PORT"));
    }
  }
  return addresses;
}

absl::StatusOr<ContextFile> LoadContexts(const GetEnv& env) {
  ContextFile file;
  file.path = ConfigPath(env);
  if (!Exists(file.path)) return file;
  TH_ASSIGN_OR_RETURN(const std::string text, ReadFile(file.path));
  const auto bad = [&](const YAML::Mark& mark, const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(file.path, ":", mark.line + 1, ": ", why));
  };
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return file;
    for (const auto& entry : root) {
      const std::string key = entry.first.as<std::string>();
      if (key == "current_context") {
        file.current = entry.second.as<std::string>();
      } else if (key == "contexts") {
        for (const auto& named : entry.second) {
          Context& context = file.contexts[named.first.as<std::string>()];
          for (const auto& field : named.second) {
            const std::string name = field.first.as<std::string>();
            if (name == "server") {
              context.server = field.second.as<std::string>();
            } else if (name == "token_file") {
              context.token_file = field.second.as<std::string>();
            } else if (name == "server_ca") {
              context.server_ca = field.second.as<std::string>();
            } else {
              return bad(field.first.Mark(), absl::StrCat("unknown key '", name, "'"));
            }
          }
        }
      } else {
        return bad(entry.first.Mark(), absl::StrCat("unknown key '", key, "'"));
      }
    }
  } catch (const YAML::Exception& error) {
    return bad(error.mark, error.msg);
  }
  return file;
}

absl::Status SaveContexts(const ContextFile& file) {
  Value root = Value::Object();
  if (!file.current.empty()) root.Set("current_context", file.current);
  Value contexts = Value::Object();
  for (const auto& [name, context] : file.contexts) {
    Value fields = Value::Object({{"server", context.server}});
    if (!context.token_file.empty()) fields.Set("token_file", context.token_file);
    if (!context.server_ca.empty()) fields.Set("server_ca", context.server_ca);
    contexts.Set(name, std::move(fields));
  }
  root.Set("contexts", std::move(contexts));

  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file.path).parent_path(), error);
  const std::string temporary = file.path + ".new";
  const std::string text = ToYaml(root);
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && write(fd, text.data(), text.size()) ==
                                      static_cast<ssize_t>(text.size());
  const bool closed = fd >= 0 && close(fd) == 0;
  if (!written || !closed || rename(temporary.c_str(), file.path.c_str()) != 0) {
    return absl::InternalError(absl::StrCat("cannot write '", file.path, "': ",
                                            std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Target> ResolveTarget(const GlobalFlags& flags, const GetEnv& env) {
  Target target;
  TH_RETURN_IF_ERROR(FirstAddress(&target, flags.server, "--server"));
  TH_RETURN_IF_ERROR(FirstToken(&target, flags.token_file));
  TH_RETURN_IF_ERROR(FirstCa(&target, flags.server_ca));
  if (!flags.data_dir.empty()) {
    if (target.addresses.empty()) {
      TH_ASSIGN_OR_RETURN(const std::string address, AdminAddress(flags.data_dir));
      TH_RETURN_IF_ERROR(FirstAddress(&target, address, flags.data_dir + "/endpoints.json"));
    }
    TH_RETURN_IF_ERROR(FirstToken(&target, flags.data_dir + "/admin.token"));
  }
  const auto use_context = [&](const ContextFile& file, const std::string& name) -> absl::Status {
    const auto found = file.contexts.find(name);
    if (found == file.contexts.end()) {
      return absl::NotFoundError(absl::StrCat(
          "context '", name, "' does not exist in ", file.path, "; see: tollctl context list"));
    }
    TH_RETURN_IF_ERROR(FirstAddress(&target, found->second.server, "context '" + name + "'"));
    TH_RETURN_IF_ERROR(FirstToken(&target, found->second.token_file));
    return FirstCa(&target, found->second.server_ca);
  };
  if (!flags.context.empty()) {
    TH_ASSIGN_OR_RETURN(const ContextFile file, LoadContexts(env));
    TH_RETURN_IF_ERROR(use_context(file, flags.context));
  }
  TH_RETURN_IF_ERROR(FirstAddress(&target, env("TOLLHOUSE_SERVER"), "TOLLHOUSE_SERVER"));
  TH_RETURN_IF_ERROR(FirstToken(&target, env("TOLLHOUSE_TOKEN_FILE")));
  TH_RETURN_IF_ERROR(FirstCa(&target, env("TOLLHOUSE_SERVER_CA")));
  if (target.addresses.empty()) {
    TH_ASSIGN_OR_RETURN(const ContextFile file, LoadContexts(env));
    if (!file.current.empty()) TH_RETURN_IF_ERROR(use_context(file, file.current));
  }
  if (target.addresses.empty()) return NoServer(env);
  return target;
}

}  // namespace tollhouse::tollctl
