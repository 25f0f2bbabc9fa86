// A directory that lives as long as a test.
#pragma once

#include <string>

namespace tollhouse::testing {

// Creates an empty directory below TMPDIR (or /tmp) and removes it with all content at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  // path() + "/" + name
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace tollhouse::testing
