// Where the services are and which token opens them: flags, environment, contexts, data directory.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/tollctl/command_line.h"

namespace tollhouse::tollctl {

// "" for variables that are not set.
using GetEnv = std::function<std::string(const std::string& name)>;

enum class Service { kLedger, kRouter, kVault, kEnforcer };
const char* ServiceName(Service service);

struct Target {
  std::map<Service, std::string> addresses;  // those that are known
  std::string token;                         // "": none was named
  std::string server_ca;                     // PEM text; "": the system's
  std::string origin;                        // "flag --server", "context 'prod'", for errors
};

// Named servers in the user's configuration file.
struct Context {
  std::string server;
  std::string token_file;
  std::string server_ca;
};
struct ContextFile {
  std::string path;
  std::string current;  // "": none
  std::map<std::string, Context> contexts;
};

// $TOLLHOUSE_CONFIG, or tollhouse/config.yaml below $XDG_CONFIG_HOME or ~/.config. A file that does
// not exist is empty; an unknown key or malformed YAML is an error that names file and line.
absl::StatusOr<ContextFile> LoadContexts(const GetEnv& env);
// Replaces the file (mode 0600, directory made if needed), atomically.
absl::Status SaveContexts(const ContextFile& file);

// `text` is ADDR or ledger=ADDR,... . A service named more than once has several replicas, of which any
// will do; its addresses are joined by commas.
absl::StatusOr<std::map<Service, std::string>> ParseServer(std::string_view text);

// Flags win over --data-dir, that over --context, environment, current context. Each of address and
// token is taken from the first that names it. FailedPrecondition (NO_SERVER) that says what to
// write if nothing names a server.
absl::StatusOr<Target> ResolveTarget(const GlobalFlags& flags, const GetEnv& env);

// The whole file. NotFound or PermissionDenied with the path.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace tollhouse::tollctl
