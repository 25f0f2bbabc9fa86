#include "libs/crypto/hardening.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace tollhouse::crypto {

absl::Status HardenProcess() {
  rlimit none{0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return absl::InternalError(std::string("cannot forbid core dumps: ") + std::strerror(errno));
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::crypto
