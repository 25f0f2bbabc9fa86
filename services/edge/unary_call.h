// Waiting for a unary gRPC call in a coroutine of an IO thread.
#pragma once

#include <grpcpp/client_context.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/rpc/status.h"
#include "services/edge/net.h"

namespace tollhouse::edge {

// `start(context, request, response, done)` begins the call; the answer comes back on `loop`.
template <typename Response, typename Request, typename Start>
Task<absl::StatusOr<Response>> CallUnary(IoLoop& loop, absl::Duration timeout, Request request,
                                         Start start) {
  struct State {
    explicit State(asio::io_context& context) : timer(context, Timer::time_point::max()) {}
    Timer timer;
    grpc::ClientContext context;
    Request request;
    Response response;
    grpc::Status status;
  };
  auto state = std::make_shared<State>(loop.context());
  state->request = std::move(request);
  state->context.set_deadline(std::chrono::system_clock::now() +
                              absl::ToChronoMilliseconds(timeout));
  start(&state->context, &state->request, &state->response,
        [state, &context = loop.context()](grpc::Status status) {
          state->status = std::move(status);
          asio::post(context, [state] { state->timer.cancel(); });
        });
  co_await state->timer.async_wait(kAwait);
  if (!state->status.ok()) co_return rpc::FromGrpc(state->status);
  co_return std::move(state->response);
}

}  // namespace tollhouse::edge
