// Which addresses a program may connect to on somebody's word (server-side request forgery).
#pragma once

#include <sys/socket.h>

#include <string_view>

namespace tollhouse::http {

// Whether an IPv4 or IPv6 address is globally reachable: not loopback, private, shared, link-local,
// documentation, benchmarking, multicast or reserved (RFC 6890), also not when such an IPv4 address is
// embedded (mapped, 6to4, NAT64). Other families are not.
bool IsPublicAddress(const sockaddr* address);

// As above for a numeric text such as "192.0.2.1" or "::1"; false for anything else.
bool IsPublicAddress(std::string_view numeric);

}  // namespace tollhouse::http
