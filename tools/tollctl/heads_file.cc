#include "tools/tollctl/heads_file.h"

#include <google/protobuf/util/json_util.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "tools/tollctl/settings.h"

namespace tollhouse::tollctl {

absl::Status LoadHeads(const std::string& path, google::protobuf::Message* heads) {
  TH_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  if (google::protobuf::util::JsonStringToMessage(text, heads).ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' has no heads as --save writes them"));
}

absl::Status SaveHeads(const std::string& path, const google::protobuf::Message& heads) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(heads, &text, options).ok()) {
    return absl::InternalError("the heads cannot be written as JSON");
  }
  const std::string fresh = path + ".new";
  std::ofstream file(fresh, std::ios::trunc);
  file << text;
  file.close();
  if (file.good() && std::rename(fresh.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("cannot write '", path, "': ", std::strerror(errno)));
}

}  // namespace tollhouse::tollctl
