// TLS over the edge's sockets, in either direction.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>

#include "services/edge/net.h"

namespace tollhouse::edge {

using TlsStream = asio::ssl::stream<Socket>;

}  // namespace tollhouse::edge
