// Waiting for a unary gRPC call in a coroutine of an IO thread.
#pragma once

#include <boost/asio/post.hpp>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/rpc/unary_calls.h"
#include "services/edge/net.h"

namespace tollhouse::edge {

// `begin(context, request, response, reactor)` is stub->async()->Method(...); the answer comes back
// on `loop`.
template <typename Response, typename Request, typename Begin>
Task<absl::StatusOr<Response>> CallUnary(IoLoop& loop, rpc::UnaryCalls& calls, absl::Duration timeout,
                                         Request request, Begin begin) {
  struct State {
    explicit State(asio::io_context& context) : timer(context, Timer::time_point::max()) {}
    Timer timer;
    absl::StatusOr<Response> result;
  };
  auto state = std::make_shared<State>(loop.context());
  calls.Start<Response>(timeout, std::move(request), std::move(begin),
                        [state, &context = loop.context()](absl::StatusOr<Response> result) {
                          state->result = std::move(result);
                          asio::post(context, [state] { state->timer.cancel(); });
                        });
  co_await state->timer.async_wait(kAwait);
  co_return std::move(state->result);
}

}  // namespace tollhouse::edge
