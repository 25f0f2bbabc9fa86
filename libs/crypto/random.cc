#include "libs/crypto/random.h"

#include <openssl/rand.h>

#include <cstdlib>

namespace tollhouse::crypto {
namespace {

void Fill(char* data, size_t size) {
  if (size != 0 && RAND_bytes(reinterpret_cast<unsigned char*>(data), static_cast<int>(size)) != 1) {
    std::abort();
  }
}

}  // namespace

std::string RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  Fill(bytes.data(), size);
  return bytes;
}

SecretBytes RandomSecret(size_t size) {
  SecretBytes bytes(size);
  Fill(bytes.data(), size);
  return bytes;
}

}  // namespace tollhouse::crypto
