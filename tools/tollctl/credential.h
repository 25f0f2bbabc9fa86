// Secrets that the client reads, so that they never stand in a command line.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/tollctl/settings.h"

namespace tollhouse::tollctl {

// Where a secret is; at most one is set.
struct SecretSource {
  std::string file;
  std::string variable;

  bool empty() const { return file.empty() && variable.empty(); }
};

// The secret without surrounding white space. NotFound or InvalidArgument with the file's or
// variable's name, never with its content.
absl::StatusOr<std::string> ReadSecret(const SecretSource& source, const GetEnv& env);

}  // namespace tollhouse::tollctl
