#include "libs/sql/for_caller.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::sql {
namespace {

std::string_view Advice(std::string_view reason) {
  if (reason == "SQL_COMMIT_UNKNOWN") {
    return "database was lost during the commit; try again, it counts once";
  }
  if (reason == "SQL_BUSY" || reason == "SQL_RETRY" || reason == "SQL_TIMEOUT") {
    return "database is busy; try again";
  }
  if (reason == "SQL_READ_ONLY") return "database takes no writes now; try again later";
  if (reason == "SQL_FULL") return "disk is full or failing; nothing was changed";
  return "database cannot be reached; try again later";
}

}  // namespace

absl::Status ForCaller(const absl::Status& status, std::string_view service) {
  const std::string reason = ReasonOf(status);
  if (reason.substr(0, 4) != "SQL_") return status;
  obs::Error("store_failed", {{"reason", reason}, {"message", Std(status.message())}});
  if (reason != "SQL_FULL" && status.code() != absl::StatusCode::kUnavailable) {
    return MakeError(absl::StatusCode::kInternal, "STORE_FAILED",
                     absl::StrCat("the ", Absl(service), "'s store failed; its log says how"));
  }
  return MakeError(absl::StatusCode::kUnavailable, reason,
                   absl::StrCat("the ", Absl(service), "'s ", Absl(Advice(reason))));
}

}  // namespace tollhouse::sql
