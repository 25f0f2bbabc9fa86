// Other programs that tests run: started, signalled and awaited by pid.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace tollhouse::testing {

// A port of 127.0.0.1 that nobody listens on at this moment.
int FreePort();

// Polls `done` until it holds; false after a minute (a machine may be busy with compilers).
bool AwaitProcess(const std::function<bool()>& done);

// The last 2000 bytes of a file, "" if there is none: what a program said before it ended.
std::string EndOfFile(const std::string& path);

// Whose rights a program gets: those of the caller, unless `change`.
struct Account {
  bool change = false;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Starts a program (found in PATH) in a process group of its own, its output appended to `log`. It
// gets `death_signal` when the calling thread ends, unless 0. Throws std::system_error.
pid_t StartProcess(const std::vector<std::string>& command, const std::string& log, int death_signal,
                   const Account& account = {});

// One program. It is killed when the thread that started it ends, and with this object.
class Process {
 public:
  // Its standard output and error are appended to `log`. Throws std::system_error.
  Process(const std::vector<std::string>& command, const std::string& log);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  // Reaps it where it has ended.
  bool Ended();
  // Nothing where it has ended.
  void Signal(int number);
  // Sends `number` and waits for the end; SIGKILL where that takes a minute. What it has started
  // itself and left behind is killed.
  void End(int number);
  // Waits for the end by itself: whether it exited with 0.
  bool Succeeded();

 private:
  pid_t pid_ = 0;
  int status_ = 0;
};

}  // namespace tollhouse::testing
