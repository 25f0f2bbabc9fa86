// The command line of tollhouse-simprovider.
#pragma once

#include <cstdint>
#include <string>

#include "tools/simprovider/server.h"
#include "tools/simprovider/service.h"

namespace tollhouse::simprovider {

struct Options {
  ServerOptions server;
  ServiceOptions service;
  std::string meter_file;  // "" for none
};

// Reads flags and the key file into `options`. The process's exit code if it is to end now (help,
// a usage error: 2, an unreadable file: 1; everything is said on stdout or stderr), else -1.
int ParseFlags(int argc, char** argv, Options* options);

}  // namespace tollhouse::simprovider
