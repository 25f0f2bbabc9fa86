// Randomness of the operating system, through OpenSSL.
#pragma once

#include <cstddef>
#include <string>

#include "libs/crypto/secret_bytes.h"

namespace tollhouse::crypto {

// `size` cryptographically secure random bytes. Aborts the process where the system has none: going
// on without would hand out guessable secrets. Thread-safe.
std::string RandomBytes(size_t size);
SecretBytes RandomSecret(size_t size);

}  // namespace tollhouse::crypto
