#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "libs/base/clock.h"
#include "tools/tollctl/invocation.h"

int main(int argc, char** argv) {
  tollhouse::tollctl::Environment environment;
  environment.env = [](const std::string& name) -> std::string {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? "" : value;
  };
  environment.in = &std::cin;
  environment.out = &std::cout;
  environment.err = &std::cerr;
  environment.in_is_terminal = isatty(STDIN_FILENO) == 1;
  environment.err_is_terminal = isatty(STDERR_FILENO) == 1;
  environment.clock = tollhouse::Clock::System();
  return tollhouse::tollctl::RunTollctl({argv + 1, argv + argc}, environment);
}
