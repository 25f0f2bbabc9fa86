#include "libs/testing/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

namespace tollhouse::testing {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kPause = std::chrono::milliseconds(2);

}  // namespace

int FreePort() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::system_error(errno, std::generic_category(), "no free port");
  }
  close(listener);
  return ntohs(address.sin_port);
}

bool AwaitProcess(const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPause);  // lint: allow(sleep-in-test) polls another process
  }
  return true;
}

std::string EndOfFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  return all.size() > 2000 ? all.substr(all.size() - 2000) : all;
}

pid_t StartProcess(const std::vector<std::string>& command, const std::string& log, int death_signal,
                   const Account& account) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid > 0) return pid;
  // Only calls that are safe after a fork of a process with threads.
  if (account.change && (setgroups(0, nullptr) != 0 || setgid(account.gid) != 0 ||
                         setuid(account.uid) != 0)) {
    _exit(126);
  }
  if (death_signal != 0) {  // after setuid, which clears it
    prctl(PR_SET_PDEATHSIG, death_signal);
    if (getppid() != parent) _exit(126);
  }
  setpgid(0, 0);  // Ctrl-C is for the test, which stops its programs itself
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int in = open("/dev/null", O_RDONLY);
  if (out < 0 || in < 0) _exit(126);
  dup2(in, 0);
  dup2(out, 1);
  dup2(out, 2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

Process::Process(const std::vector<std::string>& command, const std::string& log)
    : pid_(StartProcess(command, log, SIGKILL)) {}

Process::~Process() { End(SIGKILL); }

bool Process::Ended() {
  if (pid_ != 0 && waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
  return pid_ == 0;
}

void Process::Signal(int number) {
  if (!Ended()) kill(pid_, number);
}

void Process::End(int number) {
  if (Ended()) return;
  kill(pid_, number);
  kill(pid_, SIGCONT);
  const pid_t group = pid_;
  if (!AwaitProcess([this] { return Ended(); })) {
    kill(pid_, SIGKILL);
    AwaitProcess([this] { return Ended(); });
  }
  kill(-group, SIGKILL);
}

bool Process::Succeeded() {
  AwaitProcess([this] { return Ended(); });
  return pid_ == 0 && WIFEXITED(status_) && WEXITSTATUS(status_) == 0;
}

}  // namespace tollhouse::testing
